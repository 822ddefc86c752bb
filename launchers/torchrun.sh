#!/usr/bin/env bash
# Train on one or more machines with torchrun; run this once on every node.
#
# usage: launchers/torchrun.sh [OPTION ...] CONFIG [SECTION.FIELD=VALUE ...] [--resume | --overwrite]
#        launchers/torchrun.sh [OPTION ...] doctor [CONFIG] ...
#
#   --nproc N             processes on this node; default: SLURM_GPUS_ON_NODE
#   --nodes N             nodes of the run; default: those of the SLURM step, else 1
#   --node-rank R         number of this node, from 0; default: SLURM_NODEID
#   --master HOST[:PORT]  address of node 0, the same on every node; default: MASTER_ADDR, else the first node of the
#                         SLURM step; port MASTER_PORT, else one derived from the SLURM job's id, else 29500
#   --timeout S           how long to wait until every node has come; default: 300
#
# An IPv6 address with a port is [ADDRESS]:PORT.
#
# example, on the second of two nodes:
#   launchers/torchrun.sh --nproc 8 --nodes 2 --node-rank 1 --master node0 configs/small.yaml
# example, in a SLURM job:
#   srun --ntasks-per-node=1 launchers/torchrun.sh --nproc 8 configs/small.yaml
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nproc=${SLURM_GPUS_ON_NODE:-} nodes=${SLURM_STEP_NUM_NODES:-${SLURM_JOB_NUM_NODES:-1}} node_rank=${SLURM_NODEID:-}
master=${MASTER_ADDR:-} timeout=300
while [[ ${1:-} == -* ]]; do
    case $1 in
        -h | --help) usage 0 ;;
        --nproc | --nodes | --node-rank | --master | --timeout) [[ -n ${2:-} ]] || die "$1 needs a value" ;;&
        --nproc) nproc=$2 ;;
        --nodes) nodes=$2 ;;
        --node-rank) node_rank=$2 ;;
        --master) master=$2 ;;
        --timeout) timeout=$2 ;;
        *) die "unknown option $1; see --help" ;;
    esac
    shift 2
done
check_arguments "$@"
[[ $nproc =~ ^[1-9][0-9]*$ ]] || die "--nproc=$nproc must be the number of processes to start on this node"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || die "--nodes=$nodes must be a number from 1"
[[ $timeout =~ ^[1-9][0-9]*$ ]] || die "--timeout=$timeout must be a number of seconds"
find_program
share_cores "$nproc"
agent=(torchrun --nproc-per-node "$nproc")
if ((nodes == 1)); then
    agent+=(--standalone)
else
    if [[ ! $node_rank =~ ^[0-9]+$ ]] || ((node_rank >= nodes)); then
        die "--node-rank=$node_rank must be from 0 to $((nodes - 1)), another one on each node"
    fi
    if [[ -z $master ]]; then
        [[ -n ${SLURM_JOB_NODELIST:-} ]] || die "--master: give the address of node 0, or start this in a SLURM job"
        master=$(first_node)
    fi
    split_address "$master"
    [[ -n $port ]] || port=${MASTER_PORT:-}
    [[ -n $port || -z ${SLURM_JOB_ID:-} ]] || port=$(job_port)
    [[ -n $port ]] || port=29500
    agent+=(--nnodes "$nodes" --node-rank "$node_rank" --master-addr "$host" --master-port "$port")
    agent+=(--rdzv-conf "timeout=$timeout")
fi
# torchrun with this program's manners: signals are passed on once, and exit status 75 is kept.
start_program "${agent[@]}" -m unipool_dist "$command" ${arguments[@]+"${arguments[@]}"}
