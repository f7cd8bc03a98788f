#!/bin/sh
# All that a checkout needs to run: the system's packages, and a virtual environment in .venv. `make setup` calls it.
# `packaging/setup.sh vm` adds what `make test-vm` needs.
# Does nothing, quickly, where nothing is missing. Changes the system only by installing the packages it names.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin:/sbin" # Debian's ordinary users lack these; ip, nft and conntrack are there
[ "${1:-}" = vm ] && with_vm=yes || with_vm=no
me=$(id -un 2>/dev/null) || me="user $(id -u)"

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# --- Where we are -----------------------------------------------------------------------------------------------

if [ ! -w . ]; then
    die "$PWD belongs to $(stat -c %U .), and you are $me: set-up writes into it." \
        "Use a clone of your own: git clone $PWD && cd ${PWD##*/} && make test"
fi
if [ -e .venv ] && { [ ! -w .venv ] || [ -n "$(find .venv -maxdepth 2 ! -type l ! -writable -print -quit 2>/dev/null)" ]; }; then
    die "$PWD/.venv belongs to $(stat -c %U .venv), and you are $me. Remove it (sudo rm -r $PWD/.venv) and try again."
fi

# --- The system's packages --------------------------------------------------------------------------------------

# The first python that is new enough and can make a virtual environment with pip in it.
find_python() {
    for python in python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
}

missing_packages() {
    while read -r package commands; do
        for command in $commands; do
            if ! command -v "$command" >/dev/null; then
                echo "$package"
                break
            fi
        done
    done <<'LIST'
nftables nft
iproute2 ip ss
conntrack conntrack
iputils-ping ping
util-linux nsenter setpriv
procps ps sysctl
curl curl
openssl openssl
mandoc mandoc
LIST
    if [ "$with_vm" = yes ]; then
        command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86
        [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    fi
    ldconfig -p | grep -qF libnftables.so.1 || echo libnftables1
    [ -n "$(find_python)" ] || echo python3 python3-venv
}

# With what we may install: nothing for root, `sudo -n` for who needs no password; fails for anybody else.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        env "$@"
    else
        sudo -n env "$@"
    fi
}

install_packages() {
    # invoke-rc.d(8) asks policy-rc.d before it starts anything; 101 is its "no".
    as_root sh -c '
        set -e
        policy=/usr/sbin/policy-rc.d
        if [ ! -e $policy ]; then
            trap "rm -f $policy" EXIT
            trap "exit 130" INT TERM HUP
            printf "#!/bin/sh\nexit 101\n" >$policy
            chmod 755 $policy
        fi
        export DEBIAN_FRONTEND=noninteractive
        install() { apt-get install -y -q --no-install-recommends "$@"; }
        install "$@" || { apt-get update -q && install "$@"; }
    ' sh "$@" </dev/null
}

# shellcheck disable=SC2046,SC2086 # package names are split into words on purpose
missing=$(echo $(missing_packages))
if [ -n "$missing" ]; then
    if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
        echo "Installing Debian packages that are missing: $missing"
        install_packages $missing || die "apt-get could not install: $missing"
    elif command -v apt-get >/dev/null; then
        die "Missing packages: $missing" "Install them: sudo apt-get update && sudo apt-get install $missing"
    else
        die "Missing here, by the names of Debian's packages: $missing" "Install what provides them, and try again."
    fi
fi
python=$(find_python)
[ -n "$python" ] || die "Python 3.11 or newer is needed, and $(python3 --version 2>&1 || echo none) is what is here."

# --- Debian's own programs, for tests ---------------------------------------------------------------------------

# Unpacked and not installed: installed, they would be services that run. Needs no rights. Where this fails, the tests
# with them are skipped.
packages="vsftpd avahi-autoipd openresolv isc-dhcp-server isc-dhcp-client libfaketime prometheus keepalived conntrackd"

unpack() {
    rm -rf build/debian.new
    mkdir -p build/debian.new/download/lists/partial build/debian.new/download/archives/partial
    # shellcheck disable=SC2086 # packages and options are split into words on purpose
    (
        if ! apt-cache show --no-all-versions $packages >/dev/null 2>&1; then
            own="-o Dir::State::Lists=$PWD/build/debian.new/download/lists -o Dir::Cache=$PWD/build/debian.new/download"
        fi
        apt() { command=$1 && shift && "apt-$command" -qq -o APT::Sandbox::User=root ${own:-} "$@"; }
        cd build/debian.new/download
        [ -z "${own:-}" ] || apt get update
        # With the libraries that are not installed here. A simulation needs no rights.
        apt get -s install --no-install-recommends $packages | awk '/^Inst/ { print $2 }' >wanted
        printf '%s\n' $packages >>wanted # some may be installed already
        apt get download $(sort -u wanted)
    ) || return
    for package in build/debian.new/download/*.deb; do
        dpkg-deb -x "$package" build/debian.new || return
    done
    rm -r build/debian.new/download
    # For those who start them by name, with build/debian/bin in their PATH: with the libraries from here.
    mkdir build/debian.new/bin
    libraries=$PWD/build/debian/usr/lib/$(uname -m)-linux-gnu:$PWD/build/debian/lib/$(uname -m)-linux-gnu
    for program in keepalived conntrackd; do
        printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' \
            "$libraries" "$PWD/build/debian/usr/sbin/$program" >build/debian.new/bin/$program
        chmod 755 build/debian.new/bin/$program
    done
    echo "$packages" >build/debian.new/.packages
    rm -rf build/debian
    mv build/debian.new build/debian
}

if [ "$(cat build/debian/.packages 2>/dev/null)" != "$packages" ] && command -v apt-get >/dev/null; then
    echo "Unpacking Debian's $packages into build/debian"
    unpack || {
        rm -rf build/debian.new
        echo "apt-get could not download them; see above. The tests with them will be skipped." >&2
    }
fi

# --- The virtual environment ------------------------------------------------------------------------------------

# The stamp is written last, so an environment that was left half made has none. It names what the environment was
# made of: the project file, the place (an editable installation points to it), and the interpreter.
stamp=$(printf '%s %s %s' "$(cksum <pyproject.toml)" "$PWD" "$(cksum <packaging/setup.sh)")
if [ "$(cat .venv/.stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c 'import msgspec' 2>/dev/null; then
    exit 0
fi
echo "Making the virtual environment .venv with $python ($("$python" --version))"
rm -rf .venv
"$python" -m venv .venv || die "$python could not make a virtual environment in $PWD/.venv; see above."
pip() {
    .venv/bin/python -m pip "$@" || die "pip failed; see above. Set-up needs a package index; your pip configuration is used as it is."
}
pip install --quiet --upgrade 'pip>=25.1' # the first that knows dependency groups
pip install --quiet --editable . --group dev
printf '%s' "$stamp" >.venv/.stamp
