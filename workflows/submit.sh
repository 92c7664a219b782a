#!/usr/bin/env bash
# From a campaign file to submitted jobs; stops at the first thing that is not right.
#   submit.sh CAMPAIGN.yaml jobflow-remote [PROJECT]
#   submit.sh CAMPAIGN.yaml fireworks [LAUNCHPAD.yaml]
set -euo pipefail

campaign=${1:?a campaign file} engine=${2:?jobflow-remote or fireworks} where=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
options=(--engine "$engine" --routing "${ROUTING:-$here/routing.yaml}")
if [ -n "$where" ]; then
  case $engine in
    fireworks) options+=(--launchpad "$where") ;;
    *) options+=(--project "$where") ;;
  esac
fi

phonosmith submit "$campaign" "${options[@]}"
