#!/bin/sh
# Part of build.sh, in the sandbox: makes kernel, initrd and disk in the directory of which debs/ and kernel-deb/ have the packages.
set -eu
new=$1
root=$new/root
here=$(dirname "$0")

# Everything unpacked, so that dpkg and what it needs can run there, to install it all once more as it should be. The
# links are what usr-is-merged expects; the rest is what debootstrap(8) does before the first package.
for directory in bin sbin lib lib32 lib64 libx32; do
    mkdir -p "$root/usr/$directory"
    ln -s "usr/$directory" "$root/$directory"
done
for package in "$new"/debs/*.deb "$new"/kernel-deb/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --no-same-owner --keep-directory-symlink -C "$root"
done
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
ln -s mawk "$root/usr/bin/awk"
touch "$root/var/lib/dpkg/status"

# shellcheck source=packaging/vm/chroot.sh
. "$here/chroot.sh"
mkdir "$root/tmp/new" "$root/tmp/here" "$root/tmp/root"
mount --bind "$new" "$root/tmp/new"
mount --bind "$here" "$root/tmp/here"
mount --bind "$root" "$root/tmp/root" # without what is mounted on it

# An ordinary user is root here, but the only user: fakeroot remembers the owners that files should have, and must not
# try to give them. By TCP, on the sandbox's lo: its other way leaves things behind when it is killed.
inside env FAKEROOTDONTTRYCHOWN=1 fakeroot-tcp sh -eu <<'SCRIPT'
export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d # nothing is started here; see invoke-rc.d(8)
chmod 755 /usr/sbin/policy-rc.d
dpkg --unpack --force-depends --force-unsafe-io \
    --path-exclude='/usr/share/locale/*' --path-exclude='/usr/share/doc/*' /tmp/new/debs/*.deb
dpkg --configure --force-depends base-passwd base-files passwd # users and directories that all others take for granted
useradd --system --home-dir /var/lib/prometheus prometheus # its package would by chfn(1), which needs more rights
dpkg --configure --pending
rm /usr/sbin/policy-rc.d

echo router >/etc/hostname
printf '127.0.0.1 localhost router\n::1 localhost\n' >/etc/hosts
: >/etc/fstab
release=$(ls /lib/modules)
depmod "$release"
cp /tmp/here/mlbd-tests.service /etc/systemd/system/
systemctl enable mlbd-tests.service
# Tests start them.
systemctl disable NetworkManager.service NetworkManager-dispatcher.service NetworkManager-wait-online.service \
    prometheus.service keepalived.service conntrackd.service
# The terminal is the log; what wakes up by itself makes tests slow.
systemctl mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer

mkdir -p /tmp/initrd/bin /tmp/initrd/dev /tmp/initrd/proc /tmp/initrd/root
cp /bin/busybox /tmp/initrd/bin
cp /tmp/here/init /tmp/initrd/init
chmod 755 /tmp/initrd/init
modprobe --set-version "$release" --show-depends virtio_pci >/tmp/modules
modprobe --set-version "$release" --show-depends virtio_blk >>/tmp/modules
for module in $(awk '$1 == "insmod" && !seen[$2]++ { print $2 }' /tmp/modules); do
    cp "$module" /tmp/initrd/
    echo "${module##*/}" >>/tmp/initrd/modules
done
(cd /tmp/initrd && find . | busybox cpio --quiet -o -H newc | gzip -1) >/tmp/new/initrd
mv /boot/vmlinuz-* /tmp/new/kernel
mke2fs -q -t ext4 -L root -d /tmp/root /tmp/new/disk 2G
SCRIPT
