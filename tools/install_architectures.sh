#!/usr/bin/env bash
# Installs SevenNet and Nequix beside MACE, into the environment that holds phonosmith (about 50 MB to fetch).
#
#   . your-venv/bin/activate && bash tools/install_architectures.sh      (or PYTHON=/path/to/python bash ...)
#
# Why --no-deps: mace-torch pins e3nn 0.4.4 and sevenn asks for 0.5 or newer, so pip cannot resolve both; all three run
# on 0.6.0 with the same numbers when e3nn's TorchScript is off, which phonosmith sees to (tests/potentials). "pip check"
# goes on complaining about mace-torch. The published nequix asks for JAX with GPU wheels (3 GB) and the logging service
# of its own training; only its torch module is used here, which needs neither. Without this script everything MACE
# works on e3nn 0.4.4.
set -euo pipefail

python=${PYTHON:-python}
# versions that were run together
"$python" -m pip install --no-deps e3nn==0.6.0 sevenn==0.13.0 nequix==0.4.5 braceexpand==0.1.7
# what sevenn's modules import; versions do not matter, and most environments have them
"$python" -m pip install --no-deps \
    "torch-geometric>=2.5" "scikit-learn>=1.4" "joblib>=1.3" "threadpoolctl>=3.1" "requests>=2.31" "tqdm>=4.66" \
    "packaging>=23" "opt_einsum_fx>=0.1.4" "opt_einsum>=3.3" "aiohttp>=3.9" "xxhash>=3" "fsspec>=2024" "pyparsing>=3"
"$python" -W ignore -c "
from phonosmith.potentials.architecture import architectures
print('installed:', ', '.join(one.name for one in architectures() if one.installed()))
from phonosmith.potentials.sevennet.files import import_sevenn
from phonosmith.potentials.nequix.files import import_nequix
import_sevenn()
import_nequix()
"
