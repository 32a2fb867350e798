#!/bin/sh
# A machine of its own to prove the units on: systemd as process 1 in fresh namespaces, over this machine's own files.
# usage: unshare --mount --pid --ipc --uts --net --cgroup --fork --kill-child boot.sh SCRATCH REPOSITORY SITE_PACKAGES PYTHON_PREFIX
# Nothing that it writes reaches this machine: files go to SCRATCH, devices, network and cgroups are its own.
set -eu
scratch="$1" repository="$2" site="$3" prefix="$4"
root="$scratch/root"

mount --make-rprivate /
mkdir -p "$scratch/upper" "$scratch/work" "$root" "$scratch/empty"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for directory in run tmp dev; do mount -t tmpfs "$directory" "$root/$directory"; done
chmod 1777 "$root/tmp"
node() { mknod -m 0666 "$root/dev/$1" "$2" "$3" "$4"; }
node null c 1 3 && node zero c 1 5 && node full c 1 7 && node random c 1 8 && node urandom c 1 9 && node tty c 5 0 && node ptmx c 5 2
node loop-control c 10 237
for number in 0 1 2 3 4 5 6 7; do node "loop$number" b 7 "$number"; done
# Stand-ins for two cards: devices that open without a driver, so that only the allow-list decides.
node nvidia0 c 10 237 && node nvidia1 c 10 229
mkdir "$root/dev/shm" "$root/dev/pts" "$root/dev/mqueue"
ln -s /proc/self/fd "$root/dev/fd"

# Only what the units under test pull in, and the journal.
for directory in sysinit.target.wants basic.target.wants sockets.target.wants timers.target.wants multi-user.target.wants \
    local-fs.target.wants; do
    [ ! -d "$root/lib/systemd/system/$directory" ] || mount --bind "$scratch/empty" "$root/lib/systemd/system/$directory"
done
mount --bind "$scratch/empty" "$root/lib/systemd/system-generators"
mount -t tmpfs units "$root/etc/systemd/system"
mkdir "$root/etc/systemd/system/sysinit.target.wants"
ln -s /lib/systemd/system/systemd-journald.service "$root/etc/systemd/system/sysinit.target.wants/"
mkdir -p "$root/run/log/journal"
: >"$root/etc/fstab"

# hub-runner where a host has it, made of this checkout.
mkdir -p "$root/opt/hub-runner/source" "$root/opt/hub-runner/site"
mount --bind "$repository" "$root/opt/hub-runner/source"
mount --bind "$site" "$root/opt/hub-runner/site"
mkdir "$root/opt/hub-runner/python"
mount --bind "$prefix" "$root/opt/hub-runner/python" # not below /root or /home, where units see nothing
[ "$prefix" = /usr ] || prefix=/opt/hub-runner/python
chroot "$root" "$prefix/bin/python3" -m venv --without-pip /opt/hub-runner/venv
for packages in "$root"/opt/hub-runner/venv/lib/python3*/site-packages; do
    printf '%s\n' /opt/hub-runner/source /opt/hub-runner/source/runner-setup /opt/hub-runner/site >"$packages/here.pth"
done

ip link set lo up
ip link add lan type bridge
ip address add 10.9.8.7/24 dev lan
ip address add 169.254.169.254/32 dev lan
ip link set lan up
# Not chroot alone: units make namespaces of their own, for which / has to be a mount.
cd "$root"
mkdir -p run/old
pivot_root . run/old
umount -l run/old
mount --make-rshared / # as on any host: the disk of a slot is mounted for everyone
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=0
