#!/usr/bin/env bash
# Train on this machine alone, or see whether it is fit for it.
#
# usage: launchers/local.sh [--nproc N] CONFIG [SECTION.FIELD=VALUE ...] [--resume | --overwrite]
#        launchers/local.sh [--nproc N] doctor [CONFIG] ...
#
#   --nproc N   processes to start; default: one per GPU, or one where there is no GPU
#
# example: launchers/local.sh --nproc 4 configs/small.yaml train.steps=50
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nproc=
while [[ ${1:-} == -* ]]; do
    case $1 in
        --nproc)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "--nproc=${2:-} must be the number of processes to start"
            nproc=$2
            shift 2
            ;;
        -h | --help) usage 0 ;;
        *) die "unknown option $1; see --help" ;;
    esac
done
check_arguments "$@"
find_program
if [[ -z $nproc ]]; then
    nproc=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | grep -c '^GPU' || true)
    ((nproc > 0)) || nproc=1
fi
share_cores "$nproc"
start_program "$command" ${arguments[@]+"${arguments[@]}"} --nproc "$nproc"
