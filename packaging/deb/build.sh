#!/bin/sh
# The Debian package, for Debian 12 on amd64, in build/: `make deb` calls it. Needs no rights; changes nothing outside build/.
#
# The libraries are inside, in a virtual environment made by hand: Debian's are too old (docs/decisions/package.md).
set -eu
cd "$(dirname "$0")/../.."
command -v dpkg-deb >/dev/null || {
    echo "dpkg-deb is missing: the package is built on Debian or Ubuntu." >&2
    exit 1
}
packaging/wheels.sh

root=build/deb/root
version=$(.venv/bin/python -c 'from mlbd import __version__; print(__version__)')
rm -rf build/deb
mkdir -p $root/DEBIAN
chmod 755 $root $root/DEBIAN

# --- The program ------------------------------------------------------------------------------------------------

lib=$root/usr/lib/mlbd
mkdir -p $lib/bin $lib/lib/python3.11/site-packages $root/usr/bin
.venv/bin/python -m pip --quiet --disable-pip-version-check install --no-compile --no-index --find-links build/wheels \
    --only-binary :all: --python-version 3.11 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
    --target $lib/lib/python3.11/site-packages build/project/*.whl
rm -rf $lib/lib/python3.11/site-packages/bin
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >$lib/pyvenv.cfg
ln -s /usr/bin/python3 $lib/bin/python
cat >$lib/bin/mlbd <<'PROGRAM'
#!/usr/lib/mlbd/bin/python -I
import sys

from mlbd.cli import main

sys.exit(main())
PROGRAM
chmod 755 $lib/bin/mlbd
ln -s ../lib/mlbd/bin/mlbd $root/usr/bin/mlbd

# --- The service, and what goes with it -------------------------------------------------------------------------

put() { install -D -m 644 "$1" "$root/$2"; }
put packaging/systemd/mlbd.service usr/lib/systemd/system/mlbd.service
put packaging/systemd/sysusers.conf usr/lib/sysusers.d/mlbd.conf
put packaging/systemd/tmpfiles.conf usr/lib/tmpfiles.d/mlbd.conf
put packaging/systemd/mlbd.catalog usr/lib/systemd/catalog/mlbd.catalog
put packaging/systemd/networkd.conf.d/mlbd.conf usr/lib/systemd/networkd.conf.d/mlbd.conf
put packaging/systemd/modules-load.conf etc/modules-load.d/mlbd.conf
mkdir -p $root/etc/mlbd/hooks.d/if-up.d $root/etc/mlbd/hooks.d/if-down.d $root/etc/iproute2/rt_protos.d $root/etc/iproute2/rt_tables.d
.venv/bin/python packaging/deb/names.py $root/etc/iproute2

# --- Documentation ----------------------------------------------------------------------------------------------

doc=$root/usr/share/doc/mlbd
mkdir -p $doc
cp -r README.md docs etc/mlbd.toml etc/examples $doc/
put packaging/deb/copyright usr/share/doc/mlbd/copyright
gzip -9n <docs/changelog.md >$doc/changelog.gz
for directory in prometheus grafana; do
    mkdir -p $root/usr/share/mlbd
    cp -r packaging/$directory $root/usr/share/mlbd/
done
# The pages' date is the last commit's: the same source makes the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
.venv/bin/python packaging/manual build/deb/manual
for section in 8 5; do
    for page in build/deb/manual/*.$section; do
        mkdir -p $root/usr/share/man/man$section
        gzip -9n <"$page" >"$root/usr/share/man/man$section/${page##*/}.gz"
    done
done
put build/deb/manual/mlbd.bash usr/share/bash-completion/completions/mlbd
put build/deb/manual/_mlbd usr/share/zsh/vendor-completions/_mlbd
put build/deb/manual/mlbd.fish usr/share/fish/vendor_completions.d/mlbd.fish

# --- The package ------------------------------------------------------------------------------------------------

for script in postinst prerm postrm; do
    install -m 755 packaging/deb/$script $root/DEBIAN/$script
done
(cd $root && find etc -type f -printf '/%p\n' | LC_ALL=C sort) >$root/DEBIAN/conffiles
size=$(du -k -s --exclude=DEBIAN $root | cut -f 1)
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$size/" packaging/deb/control >$root/DEBIAN/control
(cd $root && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >$root/DEBIAN/md5sums
find $root -type d -exec chmod 755 {} +
package=build/mlbd_${version}_amd64.deb
rm -f build/mlbd_*.deb
dpkg-deb --root-owner-group --build $root "$package" >/dev/null
echo "$package is there: apt-get install ./$package"
