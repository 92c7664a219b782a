#!/bin/sh
# Build GPAW (extra "gpaw") for the Python that is active, without MPI, and fetch its PAW data sets.
#
#   tools/install_gpaw.sh [PYTHON]
#
# Needs a C++ compiler, libxc and an optimised BLAS with headers. On Debian and Ubuntu:
#   apt-get install g++ libxc-dev libopenblas-dev
# Neither numpy, scipy nor ASE of the environment is changed.
set -eu

python=${1:-python}
gpaw_version=26.7.0
data_version=1.2.1

command -v g++ >/dev/null || { echo "g++ is missing: apt-get install g++" >&2; exit 2; }
printf '#include <xc.h>\nint main(){return 0;}\n' | g++ -x c++ -fsyntax-only - 2>/dev/null ||
    { echo "libxc is missing: apt-get install libxc-dev" >&2; exit 2; }

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
