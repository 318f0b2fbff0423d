#!/bin/busybox sh
# The first process of a guest. It mounts what a host of cgroup v2 alone has, and swaps, then does the
# job that it finds in its filesystem, and powers off. The kernel's messages go to the first serial port;
# ours and the programs' go to the second, where the kernel cannot tear a line.

/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS1 2>&1

say() {
	echo "cgfleet-vm: $*"
}

must() {
	"$@" && return
	say "failed: $*"
	poweroff -f
}

mount_on() {
	must mkdir -p "$2"
	must mount -t "$1" "$1" "$2"
}

write_to() {
	echo "$2" > "$1"
}

holds() {
	[ "$(cat "$1")" = "$2" ]
}

now() {
	read -r uptime _ < /proc/uptime
	echo "$uptime"
}

mount_on proc /proc
mount_on sysfs /sys
mount_on tmpfs /tmp
mount_on tmpfs /run
mount_on cgroup2 /sys/fs/cgroup
mount_on bpf /sys/fs/bpf
mount_on tracefs /sys/kernel/tracing
mount_on securityfs /sys/kernel/security
# Unprivileged programs must reach what is in it.
must chmod 755 /sys/fs/bpf
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
	must write_to /sys/fs/cgroup/cgroup.subtree_control "+$controller"
done
for module in /modules/*; do
	# A kernel may have all of them built in.
	[ -e "$module" ] || continue
	must insmod "$module"
done
must holds /sys/block/vda/serial data
must holds /sys/block/vdb/serial swap
must sh -c "mkswap /dev/vdb > /run/mkswap.log"
must swapon /dev/vdb
must ip link set lo up
hostname "$(cat /etc/hostname)"
cd /cgfleet || must false
say "kernel $(uname -r)"

# Busybox's shell runs its own applets whatever PATH says, so what the programs start gets another shell.
must ln -sf /usr/bin/sh /bin/sh
export PATH=/usr/bin:/bin CGFLEET_EMULATED=1

# Arguments come one a line.
set --
while IFS= read -r argument; do
	set -- "$@" "$argument"
done < arguments

case $(cat job) in
tests)
	for test in deps/*; do
		say "begin ${test#deps/} $(now)"
		"$test" --test-threads=1 "$@"
		say "end ${test#deps/} $? $(now)"
	done
	;;
agent)
	must ip link set eth0 up
	must ip addr add 10.0.2.15/24 dev eth0
	must ip route add default via 10.0.2.2
	./cgfleet-agent "$@"
	say "the agent ended with $?"
	;;
bench)
	say "begin bench $(now)"
	./bench "$@"
	say "end bench $? $(now)"
	;;
*)
	must false
	;;
esac
say done
poweroff -f
