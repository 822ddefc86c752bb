#!/usr/bin/env bash
# The first process of a machine of the cluster, in namespaces that cluster.sh made. usage: node.sh login|NODE
set -euo pipefail

NODE=$1
DIR=$SLURM_CLUSTER_DIR

# closed PATH: print the topmost directory above PATH that not everybody may pass, if there is one.
closed() {
    local way='' name
    IFS=/ read -r -a names <<<"${1#/}"
    for name in "${names[@]::${#names[@]}-1}"; do
        way+=/$name
        [[ $(stat -c %A "$way") == *[xt] ]] || { echo "$way" && return; }
    done
}

# show_paths PATH...: every user reaches each path where it is, though directories above it be closed to others (as
# /root is): here such a directory is an empty one, except for these paths. /tmp is, too: each machine has its own.
show_paths() {
    local path cover i
    local -A covers=([/tmp]=1777)
    mount -t tmpfs tmpfs /mnt # where the paths are kept meanwhile
    for ((i = 1; i <= $#; i++)); do
        path=${!i}
        mkdir "/mnt/$i"
        mount --bind "$path" "/mnt/$i"
        cover=$(closed "$path")
        [[ -z $cover || $path == /tmp/* ]] || covers[$cover]=755
    done
    for cover in "${!covers[@]}"; do mount -t tmpfs -o "mode=${covers[$cover]}" tmpfs "$cover"; done
    for ((i = 1; i <= $#; i++)); do
        path=${!i}
        for cover in "${!covers[@]}"; do
            [[ $path != "$cover"/* ]] || { mkdir -p "$path" && mount --bind "/mnt/$i" "$path"; }
        done
    done
    umount --recursive /mnt
}

# address NAME
address() { awk -v name="$1" '$2 == name { print $1; exit }' "$DIR/hosts"; }

boot_login() {
    ip link add lan up type bridge
    ip address add "$(address login)/24" dev lan
    munged -F -f -S "$DIR/munge.sock" --key-file="$DIR/munge.key" --log-file="$DIR/log/munged.log" \
        --pid-file="$DIR/spool/munged.pid" --seed-file="$DIR/state/munge.seed" &
    until munge -n -S "$DIR/munge.sock" >/dev/null 2>&1; do sleep 0.05; done
    slurmctld -D &
}

boot_node() {
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
    ip address add "$(address "$NODE")/24" dev eth0
    ip link set eth0 up
    slurmd -D -N "$NODE" &
}

umask 022
readarray -t paths <"$DIR/shown"
show_paths "$DIR" "${paths[@]}"
for file in hosts passwd group; do mount --bind "$DIR/$file" "/etc/$file"; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
hostname "$NODE"
ip link set lo up
touch "$DIR/ready/$NODE"
if [[ $NODE == login ]]; then boot_login; else boot_node; fi
(exec -a idle-loop sleep infinity) # and the shell reaps what jobs leave behind
