#!/usr/bin/env bash
# Install SLURM from Debian's or Ubuntu's packages, for the tests that submit to a real queue. Needs root; without SLURM
# those tests are skipped. Says what it did; ends with 0 when SLURM is there and 1 when it is not.
set -uo pipefail

have() { command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; }

PATH="$PATH:/usr/sbin:/sbin"
if have; then
  echo "SLURM is installed: $(slurmctld -V)"
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "SLURM is not installed, and this is not root on a machine with apt-get: tests that need it will be skipped."
  exit 1
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >"$log" 2>&1 && have; then
  echo "SLURM installed: $(slurmctld -V)"
else
  echo "SLURM could not be installed, tests that need it will be skipped. Last lines of apt-get:"
  tail -3 "$log"
  exit 1
fi
