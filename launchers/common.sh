# shellcheck shell=bash
# Shared by the launchers; sourced, never run.

# A signal that asks for a stop and comes while this shell still prepares is passed on by start_program.
asked=
for signal in TERM INT USR1 HUP; do # but HUP under nohup: the shell leaves alone what it was started to ignore
    # shellcheck disable=SC2064 # the name is meant to be taken now
    trap "asked=$signal" "$signal"
done

# No Python looks for modules in the current directory: whoever left a yaml.py there would have it run.
export PYTHONSAFEPATH=1

die() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# usage STATUS: print the comment at the head of the launcher.
usage() {
    sed -n '2,/^[^#]/{ /^#/ s/^# \{0,1\}//p }' "$0" >&"$((1 + ($1 > 0)))"
    exit "$1"
}

# check_arguments [train] CONFIG ... | doctor ...: what goes to the trainer, or to the doctor. Sets `command` (train or
# doctor) and the array `arguments` (what follows it).
check_arguments() {
    local argument
    [[ $# -gt 0 ]] || usage 2
    command=train arguments=("$@")
    case $1 in train | doctor) command=$1 arguments=("${@:2}") ;; esac
    for argument; do
        case $argument in
            -h | --help) usage 0 ;;
            --nproc | --nproc=*) die "$argument must come before CONFIG, and only where the usage (--help) names it" ;;
        esac
    done
    [[ $command = doctor ]] || [[ ${#arguments[@]} -gt 0 ]] || usage 2
    [[ $command = doctor ]] || [[ -f ${arguments[0]} ]] ||
        die "no configuration at ${arguments[0]}; the ones that come with the project are in configs/"
}

# find_program: make `unipool-dist` callable: the one on PATH, else the one that `make setup` installed.
find_program() {
    local bin
    bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
    if ! command -v unipool-dist >/dev/null; then
        [[ -x $bin/unipool-dist ]] || die "unipool-dist is not on PATH; run 'make setup' or activate its environment"
        PATH=$bin:$PATH
    fi
}

# number NAME: the value of this variable, 0 if it is not set. Any other content bash would run in arithmetic.
number() {
    local value=${!1:-0}
    [[ $value =~ ^[0-9]{1,15}$ ]] || die "$1=$value is not a number: unset it"
    echo "$((10#$value))"
}

# share_cores NPROC: the processes of one task share its cores.
share_cores() {
    local cores
    cores=$(number SLURM_CPUS_PER_TASK) || exit
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((((cores > 0 ? cores : 1) + $1 - 1) / $1))}
}

# start_program ...: become `unipool-dist ...`. SIGTERM, SIGINT, SIGUSR1 and SIGHUP are held back by the kernel until it
# is ready to take them as a request to stop; they would kill a Python that is still importing.
start_program() {
    local program=(unipool-dist "$@") hold=(env "--block-signal=TERM,INT,USR1,HUP")
    if ! "${hold[@]}" true 2>/dev/null; then # before coreutils 8.31
        if [[ -n $asked ]]; then
            echo "${0##*/}: SIG$asked received before the program was started: ending" >&2
            exit $((128 + $(kill -l "$asked")))
        fi
        exec "${program[@]}"
    fi
    # shellcheck disable=SC2016 # for the inner shell, which sends itself what this one was sent
    [[ -z $asked ]] || program=(bash -c 'kill -s "$0" $$; exec "$@"' "$asked" "${program[@]}")
    exec "${hold[@]}" "${program[@]}"
}

# first_node: the first node of this SLURM step, or of the allocation; rank 0 runs there.
first_node() {
    local list=${SLURM_STEP_NODELIST:-${SLURM_JOB_NODELIST:-}} names
    [[ -n $list ]] || die "SLURM_JOB_NODELIST is not set: this is not a SLURM job"
    if [[ $list != *\[* ]]; then # no ranges: a container without scontrol does not matter
        echo "${list%%,*}"
        return
    fi
    names=$(scontrol show hostnames "$list") || die "scontrol cannot expand the nodes $list; set MASTER_ADDR yourself"
    echo "${names%%$'\n'*}"
}

# job_port: a port that differs between the jobs and steps that may share a node, below the usual ephemeral ones. The
# same on every node, and not known to be free.
job_port() {
    local job step
    [[ -n ${SLURM_JOB_ID:-} ]] || die "SLURM_JOB_ID is not set: this is not a SLURM job"
    job=$(number SLURM_JOB_ID) || exit
    step=$(number SLURM_STEP_ID) || exit
    echo $((10000 + (job * 16 + step) % 20000))
}

# split_address HOST[:PORT]: set `host`, without brackets, and `port`, empty if there is none. An IPv6 address with a
# port is in brackets: [fd00::1]:29500.
split_address() {
    host=$1 port=
    case $1 in
        \[*\]:*) host=${1%]:*} port=${1##*]:} ;;
        *:*:*) ;;
        *:*) host=${1%:*} port=${1##*:} ;;
    esac
    host=${host#[} host=${host%]}
    [[ -n $host && $port =~ ^[0-9]*$ ]] || die "$1 is not HOST[:PORT]; an IPv6 address with a port is [ADDRESS]:PORT"
}
