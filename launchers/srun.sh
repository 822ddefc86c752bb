#!/usr/bin/env bash
# Train as one task of a SLURM step: one task is one process, with one GPU where there are GPUs.
#
# usage: srun --ntasks-per-node=N launchers/srun.sh CONFIG [SECTION.FIELD=VALUE ...] [--resume | --overwrite]
#        srun --ntasks-per-node=N launchers/srun.sh doctor [CONFIG] ...
#
# The tasks meet on the first node of the step, at a port derived from the job's id; set MASTER_ADDR or MASTER_PORT
# before srun to choose others. launchers/free_port.sh finds a port that is free. On several nodes, let them prove to
# each other that they are of one run: export UNIPOOL_DIST_KEY=$(openssl rand -hex 32) before srun.
# A task may see all GPUs of its node (--gpus-per-node) or its own alone (--gpus-per-task).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) usage 0 ;; esac
check_arguments "$@"
# Those of the step win: it may have fewer tasks than the allocation.
SLURM_NTASKS=${SLURM_STEP_NUM_TASKS:-${SLURM_NTASKS:-}}
for name in SLURM_PROCID SLURM_NTASKS SLURM_LOCALID; do
    [[ -n ${!name:-} ]] || die "$name is not set: start this with srun, or use launchers/local.sh or torchrun.sh"
done
find_program
share_cores 1
if [[ -z ${MASTER_ADDR:-} ]]; then
    # On one node nobody else has to reach them.
    case ${SLURM_STEP_NUM_NODES:-${SLURM_JOB_NUM_NODES:-}} in 1) MASTER_ADDR=127.0.0.1 ;; *) MASTER_ADDR=$(first_node) ;; esac
fi
[[ -n ${MASTER_PORT:-} ]] || MASTER_PORT=$(job_port)
export MASTER_ADDR MASTER_PORT
# What torchrun would set, so that the trainer sees the same environment whatever started it.
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
start_program "$command" ${arguments[@]+"${arguments[@]}"}
