#!/usr/bin/env bash
# Keep SLURM supplied with FireWorks' jobs: one qlaunch for each worker, started on the machine that may submit.
#   launch.sh                    all three workers, for good, in the background; log files beside this script's caller
#   launch.sh --once [WORKER...] submit what is ready within a minute and return (for cron, or by hand)
# Files are looked for beside this script; LAUNCH_DIR is where jobs run, QUEUE_LIMIT how many jobs you may have queued,
# SLEEP how many seconds pass between two looks into the database.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
once=false
[ "${1:-}" = --once ] && { once=true; shift; }
workers=("$@")
[ ${#workers[@]} -gt 0 ] || workers=(dft gpu inference)
runs=${LAUNCH_DIR:-$PWD}

for worker in "${workers[@]}"; do
  mkdir -p "$runs/$worker"
  # -r reserves each job for the batch script it was submitted in, so that its queue settings are its own
  command=(qlaunch -r -l "$here/my_launchpad.yaml" -w "$here/fworker_$worker.yaml" -q "$here/qadapter_$worker.yaml"
    --launch_dir "$runs/$worker" rapidfire -m "${QUEUE_LIMIT:-50}")
  if $once; then
    # without a timeout qlaunch would wait for every job that may still become ready
    "${command[@]}" --nlaunches 0 --sleep 5 --timeout 60
  else
    nohup "${command[@]}" --nlaunches infinite --sleep "${SLEEP:-60}" >"qlaunch_$worker.log" 2>&1 &
    echo "qlaunch for $worker: process $!, log qlaunch_$worker.log"
  fi
done
