# `make demo` and `make test` need nothing but a checkout: set-up is part of them.

PYTHON := .venv/bin/python
# Private namespaces: nothing of this machine is touched, and nothing is left. See mlbd/lab/sandbox.py.
SANDBOX := $(PYTHON) -m mlbd.lab.sandbox
# Programs that set-up has unpacked instead of installing them as services.
export PATH := $(CURDIR)/build/debian/bin:$(PATH)

# Faults at every operation, a random walk, bad input, lines that flap, other programs; see docs/decisions/worst-days.md.
WORST := tests/faults tests/chaos tests/fuzz tests/health/test_trust.py tests/health/test_false_alarms.py \
	$(addprefix tests/daemon/,test_hitless.py test_flaps.py test_foreign.py) tests/packaging/test_prometheus.py \
	tests/pair tests/lab/test_pair_demo.py

.PHONY: help setup demo demo-pair test test-worst test-vm deb check bench fuzz chaos clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        watch mlbd keep a small network of namespaces working"
	@echo "make demo-pair   watch two routers stand in for each other, with keepalived and conntrackd"
	@echo "make test        check, then the tests"
	@echo "make test-worst  the tests of worst days: faults at every operation, a random walk, bad input, routers that die"
	@echo "make test-vm     tests in a Debian machine, which is emulated; VM=\"tests/vm/test_bonds.py\" only those"
	@echo "make deb         the package for Debian 12, in build/"
	@echo "make check       the linter, the formatter and the type checker"
	@echo "make bench       measure what the README claims; BENCH=\"--quick carrier\" only that, and less often"
	@echo "make chaos       a long random walk of the real kernel in namespaces; SEED=7 EVENTS=500 walk that one again"
	@echo "make fuzz        a million bad inputs to everything that reads; FUZZ=\"--inputs 10000 dns\" only some, to that"
	@echo "make setup       the system's packages and .venv; part of all of the above"
	@echo "make clean       remove .venv and caches"

setup:
	@packaging/setup.sh

demo: setup
	@.venv/bin/mlbd demo --once

demo-pair: setup
	@.venv/bin/mlbd demo --once --config etc/examples/pair

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Without the worst days, for which there are minutes elsewhere. Four workers, most of whose time is waiting; a file's
# tests share a network, so they go to one of them. A temporary directory of their own: pytest's /tmp/pytest-of-root
# would be the real root's when an ordinary user is root in a sandbox.
test: check
	@directory=$$(mktemp -d) && trap 'rm -rf "$$directory"' EXIT && \
	PYTEST_DEBUG_TEMPROOT=$$directory $(SANDBOX) $(PYTHON) -m pytest -n 4 --dist loadfile $(WORST:%=--ignore=%)

test-worst: setup
	@directory=$$(mktemp -d) && trap 'rm -rf "$$directory"' EXIT && \
	PYTEST_DEBUG_TEMPROOT=$$directory $(SANDBOX) $(PYTHON) -m pytest -n 4 --dist loadfile $(WORST)

# Set-up with qemu, then the machine, then the tests in it. The sandbox ends the emulator, whatever ends us.
test-vm:
	@packaging/setup.sh vm
	@packaging/deb/build.sh
	@packaging/vm/build.sh
	@$(SANDBOX) $(PYTHON) -m tests.vm.machine $(VM)

deb: setup
	@packaging/deb/build.sh

bench: setup
	@$(SANDBOX) $(PYTHON) -m bench $(BENCH)

chaos: setup
	@$(SANDBOX) $(PYTHON) -m tests.chaos $(if $(SEED),--seed $(SEED)) --events $(or $(EVENTS),2000)

fuzz: setup
	@$(PYTHON) -m pip install --quiet --group fuzz || echo "Without atheris, then."
	@nice -n 19 $(SANDBOX) $(PYTHON) -m tests.fuzz $(FUZZ)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
