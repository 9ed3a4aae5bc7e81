#!/bin/busybox sh
# First process of a guest, in its initramfs: mounts the host's root with a layer of memory above it, and goes on there.
# The kernel's command line names the folder with the rest: otel_ebpf_vm=/tmp/…
/bin/busybox --install -s /bin
export PATH=/bin

give_up() {
  echo "init: $1" > /dev/console
  poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module" || give_up "insmod $module"; done
mount -t virtiofs -o ro host /host || give_up "mount of the host's root"
mount -t tmpfs -o mode=755 scratch /scratch
mkdir /scratch/upper /scratch/work
mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work root /root || give_up "mount of the layer"
for folder in proc sys dev; do mount --move /$folder /root/$folder; done
folder=$(sed -n 's/.*otel_ebpf_vm=\([^ ]*\).*/\1/p' /root/proc/cmdline)
exec switch_root /root /bin/bash "$folder/first_process.sh" "$folder"
