# shellcheck shell=bash
# What the machines of a cluster find in its directory; sourced by cluster.sh.

NETWORK=10.213.0      # seen inside the cluster alone: nodes are $NETWORK.1, .2, ...
CPUS=4                # per node, make-believe, as are
MEMORY_MB=16000       # per node
GPUS=4                # per node: CUDA_VISIBLE_DEVICES is set for who asks for them, CUDA does not work
PREEMPTION_GRACE_S=20 # from SIGTERM to the requeue of a preempted job

# configure DIR NODES
configure() {
    local dir=$1 num_nodes=$2 i
    [[ ! -e $dir || -z $(ls -A "$dir") ]] || die "$dir is in use, and not by a cluster; choose another SLURM_CLUSTER_DIR"
    ((${#dir} <= 60)) || die "$dir: the path is too long for sockets in it; choose a shorter SLURM_CLUSTER_DIR"
    mkdir -p "$dir"/{gpu,log,pid,ready,spool,state,home/{root,trainer}}
    chmod 755 "$dir"
    # The folder for jobs: what they write, all nodes and users see.
    mkdir -m 1777 "$dir/shared"
    tr : '\n' <<<"$ROOT${SLURM_CLUSTER_SHOW:+:$SLURM_CLUSTER_SHOW}" >"$dir/shown"
    (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    for ((i = 0; i < GPUS; i++)); do mknod "$dir/gpu/$i" c 1 3; done
    echo "Name=gpu File=$dir/gpu/[0-$((GPUS - 1))]" >"$dir/gres.conf"
    # The user `trainer` exists on the cluster alone; a login environment (sbatch --export=NONE) needs a shell and a home.
    { grep -v ^root: /etc/passwd && echo "root:x:0:0::$dir/home/root:/bin/bash"; } >"$dir/passwd"
    echo "trainer:*:61234:61234::$dir/home/trainer:/bin/bash" >>"$dir/passwd"
    { cat /etc/group && echo "trainer:x:61234:"; } >"$dir/group"
    chown 61234:61234 "$dir/home/trainer"
    printf '%s\n' "127.0.0.1 localhost" "$NETWORK.254 login" >"$dir/hosts"
    for ((i = 1; i <= num_nodes; i++)); do
        # The second line is for who asks by an IPv4 address written as IPv6; without it each such question waits in vain.
        printf '%s\n' "$NETWORK.$i n$i" "::ffff:$NETWORK.$i n$i" >>"$dir/hosts"
    done
    write_slurm_conf "$dir" "$num_nodes" >"$dir/slurm.conf"
}

# Notable: config_overrides believes the CPUs and the memory; cred_expire is how long a requeued job is held (it would be
# two minutes); SlurmdTimeout is after how long a silent node is down; linuxproc and no cgroups, so that it runs anywhere.
write_slurm_conf() {
    cat <<CONF
ClusterName=test
SlurmctldHost=login($NETWORK.254)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$1/munge.sock,cred_expire=10
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool/%n
SlurmctldPidFile=$1/spool/slurmctld.pid
SlurmdPidFile=$1/spool/%n.pid
SlurmctldLogFile=$1/log/slurmctld.log
SlurmdLogFile=$1/log/%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
MessageTimeout=5
KillWait=5
ReturnToService=2
NodeName=DEFAULT CPUs=$CPUS RealMemory=$MEMORY_MB Gres=gpu:$GPUS
$(for ((i = 1; i <= $2; i++)); do echo "NodeName=n$i NodeAddr=$NETWORK.$i"; done)
PartitionName=main Nodes=ALL Default=YES MaxTime=1:00:00 PriorityTier=1 OverSubscribe=EXCLUSIVE GraceTime=$PREEMPTION_GRACE_S
PartitionName=urgent Nodes=ALL MaxTime=1:00:00 PriorityTier=2 OverSubscribe=EXCLUSIVE PreemptMode=OFF
CONF
}
