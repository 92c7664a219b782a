#!/usr/bin/env bash
# A SLURM of one node for tests: partitions cpu and gpu on this machine, everything but munge's socket in one folder.
# It has four GPUs that are none (devices every machine has): jobs get CUDA_VISIBLE_DEVICES, and no program sees a card.
#   tools/slurm_node.sh start FOLDER     (root; writes FOLDER/slurm.conf, prints the line to export)
#   tools/slurm_node.sh stop FOLDER
set -euo pipefail

PATH="$PATH:/usr/sbin:/sbin"
action=${1:?start or stop} folder=$(realpath -m "${2:?a folder}")
export SLURM_CONF="$folder/slurm.conf"

# slurmd makes sockets named FOLDER/spool/localhost_JOB.4294967291
if [ "${#folder}" -gt 70 ]; then
  echo "$folder is too long for slurmd's sockets: take a folder of at most 70 characters" >&2
  exit 2
fi

write_conf() {
  local cores memory
  cores=$(getconf _NPROCESSORS_ONLN) # nproc would obey OMP_NUM_THREADS
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  mkdir -p "$folder"/{state,spool,run,log}
  cat >"$SLURM_CONF" <<CONF
ClusterName=phonosmith
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_min_interval=100000,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SlurmctldPort=${SLURM_NODE_PORT:-16817}
SlurmdPort=$((${SLURM_NODE_PORT:-16817} + 1))
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=localhost CPUs=$cores RealMemory=$memory Gres=gpu:4 State=UNKNOWN
PartitionName=cpu Nodes=localhost Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=localhost MaxTime=INFINITE State=UP
CONF
  echo "NodeName=localhost Name=gpu File=/dev/null,/dev/zero,/dev/full,/dev/random" >"$folder/gres.conf"
}

start() {
  write_conf
  if ! munge -n >/dev/null 2>&1; then
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
    runuser -u munge -- munged
    touch "$folder/run/started_munge"
  fi
  for _ in $(seq 50); do munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && break; sleep 0.1; done
  slurmctld -c
  slurmd -N localhost
  for _ in $(seq 120); do
    if [ "$(sinfo -h -p cpu -o %t 2>/dev/null)" = idle ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.25
  done
  echo "SLURM did not start; see $folder/log" >&2
  tail -5 "$folder"/log/*.log >&2
  return 1
}

stop() {
  # jobs at work would outlive the daemons
  squeue -h -o %A 2>/dev/null | xargs -r scancel --full 2>/dev/null || true
  for _ in $(seq 20); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.25; done
  for name in slurmctld slurmd; do
    [ -f "$folder/run/$name.pid" ] && kill "$(cat "$folder/run/$name.pid")" 2>/dev/null || true
  done
  if [ -f "$folder/run/started_munge" ] && [ -f /run/munge/munged.pid ]; then
    kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
  fi
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "start or stop, not $action" >&2; exit 2 ;;
esac
