#!/bin/sh
# The Debian machine that `make test-vm` emulates, in build/vm. Needs no rights; changes nothing outside build/vm.
#
#   base/   kernel, initrd, disk and root, the directory that the disk was made of; kept until this directory's files change
#   venv/   the project as it is now, installed by the machine's Python; made anew every time
#
# `rm -r build/vm` makes all of it anew, of the packages that Debian has then.
set -eu
cd "$(dirname "$0")/../.."
PATH="$PATH:/usr/sbin:/sbin"

# What is to be there: Essential is what every Debian has; the rest is for tests.
packages="usr-is-merged apt passwd mount e2fsprogs systemd systemd-sysv udev dbus kmod procps
    python3 python3-venv iproute2 iputils-ping nftables conntrack tcpdump ifupdown ifenslave wireguard-tools
    isc-dhcp-client dnsmasq-base network-manager prometheus keepalived conntrackd"
# Only for building: fakeroot gives files their owners, busybox is the initrd.
builders="fakeroot busybox-static"
# The kernel for virtual machines: it has all that is tested, in a quarter of the size of the other one.
kernel=linux-image-cloud-amd64

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Private namespaces, with no network: packages' scripts must not meet this machine.
sandbox() { .venv/bin/python -m mlbd.lab.sandbox "$@"; }

[ "$(uname -m)" = x86_64 ] || die "The machine is an amd64 one, and this is $(uname -m): its programs must run here, too."
for command in apt-get dpkg-deb; do
    command -v $command >/dev/null || die "$command is missing: the machine is made of Debian's packages. Use Debian or Ubuntu."
done

# --- The base ---------------------------------------------------------------------------------------------------

# Debian 12 where this machine gets it from, else from Debian itself.
sources() {
    signed=/usr/share/keyrings/debian-archive-keyring.gpg
    found=$(apt-get indextargets --format "deb [signed-by=$signed] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
        'Created-By: Packages' 'Component: main' | grep -E ' bookworm(-updates|-security)? main$') || found=
    case "$found" in
        *" bookworm main"*) echo "$found" ;;
        *)
            echo "deb [signed-by=$signed] http://deb.debian.org/debian bookworm main"
            echo "deb [signed-by=$signed] http://deb.debian.org/debian bookworm-updates main"
            echo "deb [signed-by=$signed] http://deb.debian.org/debian-security bookworm-security main"
            ;;
    esac
}

# This machine's apt, its proxies included, but nothing installed: so a simulation names all that a machine needs.
apt() {
    command=$1
    shift
    "apt-$command" -qq -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o APT::Install-Recommends=false \
        -o "Dir::Etc::SourceList=$new/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o "Dir::State=$new/apt" -o "Dir::State::status=$new/apt/status" -o "Dir::Cache=$new/apt" "$@"
}

download() {
    mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/debs" "$new/kernel-deb"
    : >"$new/apt/status"
    sources >"$new/apt/sources.list"
    apt get update || return
    # shellcheck disable=SC2086 # package names are split into words on purpose
    wanted=$(apt get -s install '?essential' $packages $builders | awk '/^Inst/ { print $2 }')
    image=$(apt cache depends $kernel | awk '/Depends: linux-image-/ { print $2 }')
    [ -n "$wanted" ] && [ -n "$image" ] || return
    # shellcheck disable=SC2086
    (cd "$new/debs" && apt get download $wanted) || return
    (cd "$new/kernel-deb" && apt get download "$image")
}

base() {
    new=$PWD/build/vm/base.new
    rm -rf --one-file-system "$new"
    echo "Downloading Debian 12 for build/vm/base"
    download || die "apt-get could not download Debian 12; see above."
    echo "Installing it there ($(find "$new/debs" -name '*.deb' | wc -l) packages)"
    sandbox packaging/vm/install.sh "$new" >"$new/log" 2>&1 || die "$(tail -n 30 "$new/log")" \
        "Debian 12 could not be installed in $new; the end of its log is above."
    rm -r "$new/apt" "$new/debs" "$new/kernel-deb"
    echo "$key" >"$new/.key"
    rm -rf --one-file-system build/vm/base
    mv "$new" build/vm/base
}

key=$(cat packaging/vm/* | cksum)
[ "$(cat build/vm/base/.key 2>/dev/null)" = "$key" ] || base

# --- The project in it ------------------------------------------------------------------------------------------

echo "Installing the project in the machine"
sandbox packaging/vm/venv.sh build/vm
