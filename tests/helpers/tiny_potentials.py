"""One small potential of every architecture that is installed here."""

from importlib.util import find_spec
from pathlib import Path

import pytest

TINY_SEVENNET = {
    "cutoff": 4.0,
    "channel": 4,
    "lmax": 1,
    "lmax_edge": -1,
    "lmax_node": -1,
    "is_parity": True,
    "irreps_manual": False,
    "num_convolution_layer": 2,
    "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 4},
    "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
    "act_radial": "silu",
    "act_scalar": {"e": "silu", "o": "tanh"},
    "act_gate": {"e": "silu", "o": "tanh"},
    "weight_nn_hidden_neurons": [8],
    "conv_denominator": [16.0, 16.0],
    "train_denominator": False,
    "train_shift_scale": False,
    "use_bias_in_linear": False,
    "readout_as_fcn": False,
    "self_connection_type": "nequip",
    "interaction_type": "nequip",
    "_normalize_sph": True,
    "_type_map": {"14": 0, "32": 1},
    "_number_of_species": 2,
    "chemical_species": ["Si", "Ge"],
    "shift": [-1.0, -2.0],
    "scale": [0.8, 0.8],
    "use_flash_tp": False,
    "cuequivariance_config": {},
    "use_oeq": False,
    "phonosmith_channel": None,
}


def needs(name, package):
    """Skip what is not installed."""
    reason = f"{package} is not installed (tools/install_architectures.sh)"
    return pytest.param(name, marks=pytest.mark.skipif(find_spec(package) is None, reason=reason))


ARCHITECTURES = ["mace", needs("nequix", "nequix"), needs("sevennet", "sevenn")]


def tiny_reference(name):
    """Return the reference of a small model that knows silicon."""
    from phonosmith.potentials.registry import resolve

    if name == "mace":
        return resolve("embedded")
    if name == "nequix":
        return resolve(str(Path(__file__).parents[1] / "potentials" / "nequix" / "tiny.nqx"))
    import sevenn
    import torch

    from phonosmith.potentials.sevennet.backend import SevenNetBackend
    from phonosmith.potentials.sevennet.files import build_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(TINY_SEVENNET | {"version": sevenn.__version__}, None, torch.float32)
    return SevenNetBackend().register(model, "tiny", [])
