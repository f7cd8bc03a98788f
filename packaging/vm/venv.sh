#!/bin/sh
# Part of build.sh, in the sandbox: installs the project in venv/ of the given directory, as the README's "Install" does.
set -eu
vm=$1
root=$vm/base/root
# shellcheck source=packaging/vm/chroot.sh
. "$(dirname "$0")/chroot.sh"
rm -rf "$vm/venv"
mkdir -p "$vm/venv" "$root/opt/mlbd" "$root/tmp/wheels" "$root/tmp/project"
mount --bind "$vm/venv" "$root/opt/mlbd"
mount --bind build/wheels "$root/tmp/wheels"
mount --bind build/project "$root/tmp/project"
inside sh -eu <<'SCRIPT'
python3 -m venv /opt/mlbd
/opt/mlbd/bin/pip install --quiet --disable-pip-version-check --root-user-action ignore --no-index \
    --find-links /tmp/wheels /tmp/project/*.whl pytest pytest-timeout pytest-xdist
SCRIPT
