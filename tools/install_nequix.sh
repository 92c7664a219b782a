#!/usr/bin/env bash
# Installs the JAX backend of the Nequix adapter beside phonosmith, CPU wheels only (about 0.1 GB to fetch).
#
#   . your-venv/bin/activate && bash tools/install_nequix.sh        (or PYTHON=/path/to/python bash ...)
#
# The published nequix asks for jax[cuda12] on Linux, which is 3 GB of GPU wheels, and for the logging service and the
# database back ends of its own training scripts; none of them is used here. So it and what its models import are
# installed without their dependencies, at versions that were run together. What phonosmith brings already (numpy,
# scipy, ase, tqdm, PyYAML, h5py) is left alone. On a machine with a GPU install jax[cuda12] afterwards.
set -euo pipefail

python=${PYTHON:-python}
"$python" -m pip install --no-deps \
    nequix==0.4.5 e3nn-jax==0.21.0 jraph==0.0.6.dev0 \
    jax==0.10.2 jaxlib==0.10.2 ml_dtypes==0.6.0 \
    equinox==0.13.8 jaxtyping==0.3.11 wadler_lindig==0.1.8 \
    optax==0.2.8 chex==0.1.92 absl-py==2.5.1 toolz==1.2.0
# versions do not matter for these; most environments have them
"$python" -m pip install --no-deps \
    "matscipy>=1.1.1" "cloudpickle>=3.1.1" "opt_einsum>=3.3" "attrs>=23" "sympy>=1.12" "mpmath>=1.3" \
    "typing_extensions>=4.15" "tqdm>=4.67" "PyYAML>=6" "h5py>=3.10"
"$python" -c "
import jax
import nequix.calculator
print('nequix with jax', jax.__version__, 'on', jax.default_backend())
"
