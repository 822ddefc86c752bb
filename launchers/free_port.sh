#!/usr/bin/env bash
# Print a port that nothing on this node uses, to be the MASTER_PORT of a SLURM job.
#
# usage: launchers/free_port.sh
#
# Run it on the node where rank 0 will run, as a batch script does that runs on the first node of its allocation:
#   MASTER_PORT=$(launchers/free_port.sh); export MASTER_PORT
#   srun launchers/srun.sh CONFIG
# Jobs that share a node, and restarts of a job, begin to look at different ports. The port is not an ephemeral one, so no connection takes it
# before rank 0 does.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in
    "") ;;
    -h | --help) usage 0 ;;
    *) usage 2 ;;
esac

# used_ports: the local ports, in hexadecimal, of all sockets of this node but those that only wait for stray packets (06).
used_ports() {
    local file
    for file in /proc/net/tcp /proc/net/tcp6; do
        # Not with the shell's read: it asks for single bytes, and the kernel makes up the whole table for each.
        [[ ! -r $file ]] || awk '$1 != "sl" && $4 != "06" { n = split($2, part, ":"); print part[n] }' "$file"
    done
}

first=10000 count=20000
if read -r low high </proc/sys/net/ipv4/ip_local_port_range; then
    if ((low >= 11000)); then
        ((first + count <= low)) || count=$((low - first))
    elif ((high <= 64000)); then
        first=$((high + 1)) count=$((65535 - high))
    fi # else nearly all ports are ephemeral: a free one is the best there is
fi 2>/dev/null
declare -A used=()
while read -r port; do used[$((16#$port))]=1; done < <(used_ports)
job=$(number SLURM_JOB_ID)
step=$(number SLURM_STEP_ID)
restart=$(number SLURM_RESTART_COUNT)
start=$((((job > 0 ? job : $$) * 16 + step + restart) % count))
for ((i = 0; i < count; i++)); do
    port=$((first + (start + i) % count))
    if [[ -z ${used[$port]:-} ]]; then
        echo "$port"
        exit
    fi
done
die "no port from $first to $((first + count - 1)) is free on this node"
