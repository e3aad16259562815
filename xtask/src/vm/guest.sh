#!/bin/sh
# The whole userspace of the virtual machine: PID 1. Runs the target in every attach mode, as root and as somebody with
# three capabilities, and writes what it saw to the console, one `@ WHO MODE KEY VALUE` line each. Judges nothing.
export PATH=/tools:/bin
# Busybox's shell takes its own applets of these names first, which know nothing of what is wanted here.
ip() { /tools/ip "$@"; }
tc() { /tools/tc "$@"; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /run/netns /tmp
chmod 1777 /tmp
# Symbols of BPF programs tell which of them the kernel still holds.
echo 0 > /proc/sys/kernel/kptr_restrict
echo 1 > /proc/sys/net/core/bpf_jit_kallsyms
# The first words: whoever waits knows that this machine boots.
echo "@ - - begin ."
# In the order of their dependencies.
for module in /modules/*.ko; do insmod "$module" || echo "@ - - module $module"; done

ip link set lo up
ip netns add pod
pod() { ip netns exec pod "$@"; }
pod ip link set lo up
# The two ends of the wire: veth0, which is observed, and the pod's.
join() {
    ip link add veth0 type veth peer name veth1 netns pod
    ip addr add 198.51.100.1/24 dev veth0
    ip addr add 2001:db8:f::1/64 dev veth0 nodad
    ip link set veth0 up
    ip route add 203.0.113.0/24 dev veth0
    ip route add 2001:db8:a::/64 dev veth0
    for address in 198.51.100.9/24 203.0.113.9/24; do pod ip addr add $address dev veth1; done
    for address in 2001:db8:f::9/64 2001:db8:a::9/64; do pod ip addr add $address dev veth1 nodad; done
    pod ip link set veth1 up
    pod ping -c 1 -W 2 198.51.100.1 > /dev/null
    pod ping6 -c 1 -W 2 2001:db8:f::1 > /dev/null
}
join
ulimit -l unlimited

# say KEY VALUE
say() { echo "@ $who $mode $1 $2"; }

# as CAPABILITIES COMMAND...: as user 1000 with these, such as +bpf,+net_admin. Becomes the command, so that signals reach
# it: for background jobs only.
as() {
    capabilities=$1
    shift
    exec /tools/setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps "-all,$capabilities" \
        --ambient-caps "-all,$capabilities" --bounding-set "-all,$capabilities" "$@"
}

start() {
    set -- /egw-probe external-target --ebpf=required --ebpf-attach "$mode" --interface veth0 \
        --allowed-cidr 203.0.113.0/24,2001:db8:a::/64 --tags
    case $who in
        root) "$@" > /tmp/target.log 2>&1 & ;;
        user) as +bpf,+net_admin,+perfmon "$@" > /tmp/target.log 2>&1 & ;;
    esac
    target=$!
    for _ in $(seq 200); do
        # The page is served last of all, when the program is attached.
        wget -q -O /dev/null http://127.0.0.1:2113/healthz 2> /dev/null && return 0
        kill -0 $target 2> /dev/null || break
        sleep 0.05
    done
    say failed "$(tail -n 3 /tmp/target.log | tr '\n' ' ' | cut -c 1-2000)"
    return 1
}

# Connections from one source, and what each was answered: syns COUNT SOURCE DESTINATION
syns() {
    pod ip route replace "$3" dev veth1 src "$2"
    for _ in $(seq "$1"); do pod nc -w 2 "$3" 1337 < /dev/null; done
}

page() { wget -q -O - "http://127.0.0.1:2113/$1"; }
# The mode in force; nothing while no interface is observed.
in_force() { page metrics | grep -o 'ebpf_info{.*mode="[a-z-]*"' | sed 's/.*mode="//; s/"//'; }

# until_so CONDITION: waits for it, for ten seconds at the most
until_so() {
    for _ in $(seq 100); do
        eval "$1" && return
        sleep 0.1
    done
}

held() { grep -c 'egw_' /proc/kallsyms; }
filters() { tc filter show dev veth0 ingress 2> /dev/null | grep -c direct-action; }

# The kernel frees a program some time after its last user has let go of it. Once more only: under emulation one look at
# all symbols takes a second.
held_after() {
    sleep 0.3
    [ "$(held)" = 0 ] && echo 0 && return
    sleep 1
    held
}

capabilities() {
    # Of every thread, as each has its own: their union, were they to differ.
    grep -h CapPrm "/proc/$1"/task/*/status | sort -u | awk '{ print $2 }' | tr '\n' ' '
}

one() {
    say kernel "$(uname -r)"
    start || return
    say mode "$(in_force)"
    say uid "$(awk '/^Uid/ { print $2 }' /proc/$target/status)"
    say capabilities "$(capabilities $target)"
    syns 7 203.0.113.9 198.51.100.1 > /dev/null
    syns 5 198.51.100.9 198.51.100.1 > /dev/null
    syns 3 2001:db8:a::9 2001:db8:f::1 > /dev/null
    syns 2 2001:db8:f::9 2001:db8:f::1 > /dev/null
    sleep 0.5
    say sources "$(page sources | tr -d '\n')"
    say held_running "$(held)"
    kill -TERM $target
    wait $target
    say exit $?
    say held_after_term "$(held_after)"

    start || return
    ip link del veth0
    until_so '[ -z "$(in_force)" ]'
    say gone "$(grep -c "interface is gone" /tmp/target.log)"
    join
    until_so '[ -n "$(in_force)" ]'
    say again "$(in_force)"
    syns 2 203.0.113.9 198.51.100.1 > /dev/null
    sleep 0.5
    say sources_again "$(page sources | tr -d '\n')"
    kill -KILL $target
    wait $target
    say held_after_kill "$(held_after)"
    say filters_after_kill "$(filters)"
    start || return
    say filters_after_restart "$(filters)"
    kill -TERM $target
    wait $target
    say held_at_end "$(held_after)"
}

for who in root user; do
    for mode in auto tc xdp-native xdp-generic; do one; done
done

# A wall clock that steps, forth and back, under a client that watches.
who=client
mode=clock
/egw-probe external-target --allowed-cidr 127.0.0.0/8 --listen-port 1400 --metrics-addr 127.0.0.1:2300 2> /dev/null &
target=$!
sleep 1
/egw-probe client --external-target-addr 127.0.0.1:1400 --watch=6s --exit --output json --metrics-addr 127.0.0.1:2301 \
    > /tmp/clock.json 2> /dev/null &
client=$!
for step in 3600 -7200 3600; do
    sleep 1.5
    date -s "@$(($(date +%s) + step))" > /dev/null && say stepped $step
done
wait $client
say exit $?
say document "$(cat /tmp/clock.json)"
kill -TERM $target
wait $target

# Without one of the rights: refused where the kernel side is required, in which words; in userspace where it is not.
short_of_rights() {
    who=$1
    shift
    mode=required
    "$@" /egw-probe external-target --ebpf=required --interface veth0 --allowed-cidr 203.0.113.0/24 \
        > /tmp/target.log 2>&1 &
    target=$!
    for _ in $(seq 60); do kill -0 $target 2> /dev/null || break; sleep 0.05; done
    kill -TERM $target 2> /dev/null
    wait $target
    say exit $?
    say words "$(tail -n 1 /tmp/target.log | tr '\n' ' ')"

    mode=auto
    "$@" /egw-probe external-target --ebpf --interface veth0 --allowed-cidr 203.0.113.0/24 > /tmp/target.log 2>&1 &
    target=$!
    for _ in $(seq 200); do
        wget -q -O /dev/null http://127.0.0.1:2113/healthz 2> /dev/null && break
        kill -0 $target 2> /dev/null || break
        sleep 0.05
    done
    say pongs "$(syns 2 203.0.113.9 198.51.100.1 | grep -c pong)"
    say in_force "$(in_force)"
    say accepted "$(page metrics | grep 'connections_total{verdict="allowed"}' | sed 's/.* //')"
    say warned "$(grep -c "WARN.*no kernel timestamps" /tmp/target.log)"
    say warning "$(grep "WARN.*no kernel timestamps" /tmp/target.log | tr '\n' ' ' | cut -c 1-1000)"
    kill -TERM $target 2> /dev/null
    wait $target
    say ended $?
}
short_of_rights without-bpf as +net_admin,+perfmon
short_of_rights without-net_admin as +bpf,+perfmon
short_of_rights without-perfmon as +bpf,+net_admin
ulimit -l 64
short_of_rights with-64-KiB-memlock as +bpf,+net_admin,+perfmon

echo "@ - - end ."
# Busybox's own needs an init to talk to.
echo o > /proc/sysrq-trigger
sleep 10
