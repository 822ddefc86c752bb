#!/usr/bin/env bash
# Train on one or more machines with torchrun; run this once on every node.
#
# usage: launchers/torchrun.sh --nproc N [--nodes N --node-rank R --master HOST[:PORT]] CONFIG [SECTION.FIELD=VALUE ...]
#
#   --nproc N             processes on this node; default: SLURM_GPUS_ON_NODE
#   --nodes N             nodes of the run; default: SLURM_JOB_NUM_NODES, else 1
#   --node-rank R         number of this node, from 0; default: SLURM_NODEID
#   --master HOST[:PORT]  address of node 0, the same on every node; default: first node of the SLURM job; port 29500
#
# example, on the second of two nodes:
#   launchers/torchrun.sh --nproc 8 --nodes 2 --node-rank 1 --master node0 configs/small.yaml
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nproc=${SLURM_GPUS_ON_NODE:-} nodes=${SLURM_JOB_NUM_NODES:-1} node_rank=${SLURM_NODEID:-} master=
while [[ ${1:-} == -* ]]; do
    case $1 in
        -h | --help) usage 0 ;;
        --nproc | --nodes | --node-rank | --master) [[ -n ${2:-} ]] || die "$1 needs a value" ;;&
        --nproc) nproc=$2 ;;
        --nodes) nodes=$2 ;;
        --node-rank) node_rank=$2 ;;
        --master) master=$2 ;;
        *) die "unknown option $1; see --help" ;;
    esac
    shift 2
done
check_arguments "$@"
[[ $nproc =~ ^[1-9][0-9]*$ ]] || die "--nproc=$nproc must be the number of processes to start on this node"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || die "--nodes=$nodes must be a number from 1"
find_program
command -v torchrun >/dev/null || die "torchrun is not on PATH; activate the environment that unipool-dist is in"
if ((nodes == 1)); then
    exec torchrun --standalone --nproc-per-node "$nproc" --no-python unipool-dist train "$@"
fi
if [[ ! $node_rank =~ ^[0-9]+$ ]] || ((node_rank >= nodes)); then
    die "--node-rank=$node_rank must be from 0 to $((nodes - 1)), another one on each node"
fi
if [[ -z $master ]]; then
    [[ -n ${SLURM_JOB_NODELIST:-} ]] || die "--master: give the address of node 0, or start this in a SLURM job"
    master=$(first_node)
    master+=:$(job_port)
fi
port=29500
[[ $master != *:* ]] || port=${master##*:}
exec torchrun --nnodes "$nodes" --node-rank "$node_rank" --master-addr "${master%:*}" --master-port "$port" \
    --nproc-per-node "$nproc" --no-python unipool-dist train "$@"
