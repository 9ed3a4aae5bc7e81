# First process of a guest, in what looks like the host's root: runs one command and powers off.
#   $1        the folder of this run: `command` in it, made by tests/vm/guest.py
#   ttyS1     the command's output, as it is
#   ttyS2     its exit status, once it has ended
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
ln -sf /proc/self/fd /dev/fd
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
stty -F /dev/ttyS1 raw -echo

release=$(uname -r)
mkdir -p /lib/modules
[ -e "/lib/modules/$release" ] || ln -s "$(cat "$1/modules")" "/lib/modules/$release"

set -o pipefail
setsid bash "$1/command" < /dev/null 2>&1 | cat > /dev/ttyS1
status=$?
echo $status > /dev/ttyS2
busybox poweroff -f
