# shellcheck shell=bash
# Shared by the launchers; sourced, never run.

die() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# usage STATUS: print the comment at the head of the launcher.
usage() {
    sed -n '2,/^[^#]/{ /^#/ s/^# \{0,1\}//p }' "$0" >&"$((1 + ($1 > 0)))"
    exit "$1"
}

# check_arguments CONFIG ...: what goes to the trainer.
check_arguments() {
    local argument
    [[ $# -gt 0 ]] || usage 2
    for argument; do
        case $argument in
            -h | --help) usage 0 ;;
            --nproc | --nproc=*) die "$argument must come before CONFIG, and only where the usage (--help) names it" ;;
        esac
    done
    [[ -f $1 ]] || die "no configuration at $1; the ones that come with the project are in configs/"
}

# find_program: make `unipool-dist` callable: the one on PATH, else the one that `make setup` installed.
find_program() {
    local bin
    bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
    if ! command -v unipool-dist >/dev/null; then
        [[ -x $bin/unipool-dist ]] || die "unipool-dist is not on PATH; run 'make setup' or activate its environment"
        PATH=$bin:$PATH
    fi
    # Processes on one machine share its cores.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
}

# first_node: the first node of this SLURM step, or of the allocation; rank 0 runs there.
first_node() {
    local list=${SLURM_STEP_NODELIST:-${SLURM_JOB_NODELIST:-}} names
    [[ -n $list ]] || die "SLURM_JOB_NODELIST is not set: this is not a SLURM job"
    names=$(scontrol show hostnames "$list") || die "scontrol cannot expand the nodes $list; set MASTER_ADDR yourself"
    echo "${names%%$'\n'*}"
}

# job_port: a port that differs between the jobs and steps that may share a node, below the ephemeral ones.
job_port() {
    echo $((10000 + (${SLURM_JOB_ID:?is not set: this is not a SLURM job} * 16 + ${SLURM_STEP_ID:-0}) % 20000))
}
