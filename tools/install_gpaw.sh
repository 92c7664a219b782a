#!/bin/sh
# Build GPAW (extra "gpaw") for the Python that is active, without MPI, and fetch its PAW data sets.
#
#   tools/install_gpaw.sh [PYTHON]
#
# Needs a C++ compiler, libxc and an optimised BLAS with headers: on Debian and Ubuntu, as root, they are installed where
# they are missing. Neither numpy, scipy nor ASE of the environment is changed.
set -eu

python=${1:-python}
gpaw_version=26.7.0
data_version=1.2.1
packages="g++ libxc-dev libopenblas-dev"

if "$python" -c "import sys, importlib.metadata as m, gpaw; sys.exit(m.version('gpaw') != '$gpaw_version')" 2>/dev/null; then
    echo "GPAW $gpaw_version is there"
    exit 0
fi
builds() {
    command -v g++ >/dev/null &&
        printf '#include <xc.h>\nint main(){return 0;}\n' | g++ -x c++ - -o /dev/null -lxc -lopenblas 2>/dev/null
}
if ! builds && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } \
        >/dev/null 2>&1 || true
fi
builds || { echo "A C++ compiler, libxc or OpenBLAS is missing: apt-get install $packages" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# the default configuration looks for -lblas and compiles with gcc, which does not find C++ headers
cat >"$work/siteconfig.py" <<'CONFIG'
compiler = 'g++'
libraries = ['xc', 'openblas']
mpi = False
CONFIG

GPAW_CONFIG="$work/siteconfig.py" "$python" -m pip install --no-deps "gpaw==$gpaw_version" "gpaw-data==$data_version"
"$python" -c 'import gpaw; from gpaw import GPAW; print("GPAW", gpaw.__version__, "is ready")'
