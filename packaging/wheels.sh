#!/bin/sh
# The project as it is now in build/project, and all that it and its tests need in build/wheels: for Debian 12's Python.
# Part of `make deb` and `make test-vm`. Downloads only when pyproject.toml has changed.
set -eu
cd "$(dirname "$0")/.."

pip() {
    .venv/bin/python -m pip --quiet --disable-pip-version-check "$@" || {
        echo "pip $1 failed; see above." >&2
        exit 1
    }
}

rm -rf build/project
pip wheel --no-deps --wheel-dir build/project .
testers="pytest pytest-timeout pytest-xdist"
key="$testers $(cksum <pyproject.toml) $(.venv/bin/python -VV)"
[ "$(cat build/wheels/.key 2>/dev/null)" != "$key" ] || exit 0
echo "Downloading what the project depends on"
rm -rf build/wheels build/any
# shellcheck disable=SC2086 # names are split into words on purpose; so below
# Built here first: what is published as source only. Then for the machine's Python, whichever is ours.
pip wheel --wheel-dir build/any build/project/*.whl $testers
pip download --dest build/wheels --find-links build/any --only-binary :all: --python-version 3.11 \
    --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 build/project/*.whl $testers
rm -r build/any build/wheels/mlbd-*.whl
echo "$key" >build/wheels/.key
