# shellcheck shell=sh disable=SC2154 # root is set by who reads this
# Read by install.sh and venv.sh, in the sandbox: `inside COMMAND...` runs it in the file system $root.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

inside() {
    env -i PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 HOME=/root chroot "$root" "$@"
}
