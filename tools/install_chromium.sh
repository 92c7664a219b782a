#!/bin/sh
# Install Chromium and its driver for the tests of HTML pages (Debian and Ubuntu); those tests skip without them.
#
#   tools/install_chromium.sh
set -eu
if command -v chromedriver >/dev/null 2>&1; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "No apt-get here: install chromium and chromedriver by your system's means." >&2
    exit 1
fi
run() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
run apt-get update -qq
run apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null ||
    run apt-get install -y -qq --no-install-recommends chromium-browser chromium-chromedriver >/dev/null
