#!/usr/bin/env bash
# A real SLURM cluster of several nodes on one Linux machine, for tests.
#
# usage: tests/slurm/cluster.sh COMMAND
#
#   install             install SLURM where it is missing, without starting the services of its packages
#   start [NODES]       bring up a cluster of 4 nodes, n1..n4, or as many as told
#   run [COMMAND ...]   run a command, or a shell, on `login`, where sbatch, squeue and scontrol know the cluster
#   on NODE COMMAND...  run a command on a node
#   power-cut NODE      a node loses its power: it falls silent, and its processes are gone
#   power-on NODE       and is up again
#   cut-off NODE        a node is off the network; its processes run on
#   reconnect NODE      and is back on it
#   kill-slurmd NODE    the node's slurmd dies; its jobs run on
#   status              show nodes and jobs
#   stop                power everything off and leave nothing behind
#
# Needs root. Everything lies in SLURM_CLUSTER_DIR, which `stop` deletes; each directory is a cluster of its own.
# SLURM_CLUSTER_SHOW: paths, with colons between, that everybody on the cluster is to reach, besides this checkout.
# SLURM_CLUSTER_OWNER: the id of a process; when it is gone, the cluster stops.
set -euo pipefail

SLURM_CLUSTER_DIR=$(realpath -m "${SLURM_CLUSTER_DIR:-${TMPDIR:-/tmp}/unipool-slurm}")
DIR=$SLURM_CLUSTER_DIR
export SLURM_CLUSTER_DIR SLURM_CONF=$DIR/slurm.conf
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
PACKAGES=(slurmctld slurmd slurm-client munge iproute2 util-linux)

die() {
    echo "cluster.sh: $*" >&2
    exit 1
}

# wait_for SECONDS WHAT CONDITION...
wait_for() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || die "waited in vain for $what; the logs are in $DIR/log"
        sleep 0.05
    done
}

install() {
    local tool missing=
    for tool in slurmctld slurmd sbatch munged ip unshare; do
        command -v $tool >/dev/null || missing+=" $tool"
    done
    [[ -n $missing ]] || return 0
    command -v apt-get >/dev/null || die "not installed:$missing; install what provides them"
    echo "cluster.sh: installing ${PACKAGES[*]}" >&2
    # In a shell of its own, for its trap.
    (without_services install_packages) || die "SLURM could not be installed; try: apt-get install ${PACKAGES[*]}"
}

install_packages() {
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${PACKAGES[@]}")
    # Without lists of packages, or with old ones, the first attempt fails.
    "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; }
}

# without_services COMMAND...: packages would start services, which know nothing of this cluster; 101 forbids it.
without_services() {
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
    "$@"
}

# The process on record for a node is outside of the node's PID namespace, so it is seen from here. A pid that was reused
# does not have $DIR in its environment.
alive() { [[ -e $DIR/pid/$1 ]] && grep -qsaF "SLURM_CLUSTER_DIR=$DIR" "/proc/$(<"$DIR/pid/$1")/environ"; }
gone() { ! alive "$1"; }
check_up() { alive "$1" || die "$1 is not up in $DIR"; }

# enter NODE COMMAND...
enter() {
    local pid
    check_up "$1"
    pid=$(<"$DIR/pid/$1")
    shift
    nsenter --target "$pid" --mount --uts --ipc --net --pid="/proc/$pid/ns/pid_for_children" "$@"
}

# lan ARGUMENTS...: `ip` in the network that connects the nodes, which is login's.
lan() { nsenter --target "$(<"$DIR/pid/login")" --net ip "$@"; }

# spawn NODE: start a machine; all of it ends with its first process.
spawn() {
    rm -f "$DIR/ready/$1"
    setsid unshare --mount --uts --ipc --net --pid --fork --kill-child --mount-proc \
        "$HERE/node.sh" "$1" </dev/null >>"$DIR/log/$1.out" 2>&1 &
    echo $! >"$DIR/pid/$1"
    wait_for 20 "$1 to boot" test -e "$DIR/ready/$1"
}

# kill_machine NODE: returns when all of its processes are gone.
kill_machine() {
    local pid first
    alive "$1" || return 0
    pid=$(<"$DIR/pid/$1")
    # The process on record waits for the first one in the namespace, and that for all others.
    # grep fails over processes that end meanwhile.
    first=$({ grep -lsE "^PPid:[[:space:]]+$pid\$" /proc/[0-9]*/status || true; } | head -n 1)
    first=${first//[^0-9]/}
    kill -KILL "${first:-$pid}"
    wait_for 20 "the end of $1" gone "$1"
}

power_on() {
    check_up login
    grep -qs "^NodeName=$1 " "$SLURM_CONF" || die "there is no node $1"
    ! alive "$1" || die "$1 is up"
    lan link del "$1" 2>/dev/null || true # what a node leaves whose network is not gone yet
    spawn "$1"
    # The hardware address is the same after each boot, as a machine's is: its peers remember it.
    lan link add "$1" master lan up type veth \
        peer name eth0 address "02:00:00:00:00:$(printf %02x "${1#n}")" netns "$(<"$DIR/pid/$1")"
}

power_cut() {
    check_up "$1"
    # First off the network: other nodes must not be told that its connections end.
    lan link set "$1" down
    kill_machine "$1"
}

all_idle() { [[ $(enter login sinfo --noheader --Node --partition=main --states=idle | wc -l) == "$1" ]]; }

start() {
    local num_nodes=$1 i
    [[ $num_nodes =~ ^[1-9][0-9]?$ ]] || die "start $num_nodes: the number of nodes must be from 1 to 99"
    ! alive login || die "a cluster is up in $DIR; stop it with: SLURM_CLUSTER_DIR=$DIR $0 stop"
    unshare --mount --uts --ipc --net --pid --fork true || die "this machine lets root make no namespaces (a container?)"
    install
    stop # what is left of a cluster that was not stopped
    # shellcheck source-path=SCRIPTDIR source=configure.sh
    source "$HERE/configure.sh"
    configure "$DIR" "$num_nodes"
    trap 'tail -n 20 "$DIR"/log/* >&2; stop' EXIT
    spawn login
    for ((i = 1; i <= num_nodes; i++)); do power_on "n$i"; done
    wait_for 60 "$num_nodes idle nodes" all_idle "$num_nodes"
    trap - EXIT
    if [[ -n ${SLURM_CLUSTER_OWNER:-} ]]; then
        # shellcheck disable=SC2016
        setsid bash -c 'while [[ -e /proc/$0 ]]; do sleep 1; done; exec "$1" stop' "$SLURM_CLUSTER_OWNER" \
            "$HERE/cluster.sh" </dev/null >/dev/null 2>&1 &
        echo $! >"$DIR/pid/watch"
    fi
    echo "$num_nodes nodes are up in $DIR; to use them: $0 run"
}

stop() {
    local path
    [[ -e $DIR/slurm.conf ]] || return 0
    if alive watch && [[ $(<"$DIR/pid/watch") != "$$" ]]; then
        kill -KILL -- "-$(<"$DIR/pid/watch")" # a group: it sleeps in a process of its own
        wait_for 20 "the end of the watch" gone watch
    fi
    for path in "$DIR"/pid/n* "$DIR/pid/login"; do
        [[ ! -e $path ]] || kill_machine "${path##*/}"
    done
    rm -rf "$DIR"
}

[[ $EUID == 0 ]] || die "needs root, for namespaces and network interfaces; run it with sudo"
command=${1:-}
shift || true
case $command in
    on | power-cut | power-on | cut-off | reconnect | kill-slurmd) [[ -n ${1:-} ]] || die "$command: which node?" ;;&
    install) install ;;
    start) start "${1:-4}" ;;
    run) enter login "${@:-bash}" ;;
    on) enter "$@" ;;
    power-cut) power_cut "$1" ;;
    power-on) power_on "$1" ;;
    cut-off) check_up "$1" && lan link set "$1" down ;;
    reconnect) check_up "$1" && lan link set "$1" up ;;
    kill-slurmd) enter "$1" kill -KILL "$(<"$DIR/spool/$1.pid")" ;;
    status) enter login sinfo --Node --partition=main --format='%N %T %E' && enter login squeue ;;
    stop) stop ;;
    *)
        sed -n '2,/^[^#]/{ /^#/ s/^# \{0,1\}//p }' "$0"
        [[ $command == -h || $command == --help ]]
        ;;
esac
