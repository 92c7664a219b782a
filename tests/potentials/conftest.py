"""Tiny MACE models with random weights: enough to test everything but accuracy."""

import copy
import warnings

import numpy as np
import pytest

warnings.filterwarnings("ignore", message=".*TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.*")


def _make_mace(dtype="float64", seed=0, scale_shift=True, **changes):
    """Return a MACE model with random weights for carbon and silicon."""
    from phonosmith.potentials.mace.imports import import_mace

    import_mace()
    import torch
    from e3nn import o3
    from mace import modules
    from mace.tools.torch_tools import default_dtype

    arguments = {
        "r_max": 4.5,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "num_interactions": 2,
        "hidden_irreps": "4x0e+4x1o",
        "MLP_irreps": "4x0e",
        "atomic_numbers": [6, 14],
        "atomic_energies": np.array([[-1.0, -2.0]]),
        "avg_num_neighbors": 12.3,
        "correlation": 2,
        "gate": "silu",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "radial_MLP": [8, 8],
        "readout_cls": "NonLinearReadoutBlock",
        "atomic_inter_scale": 1.3,
        "atomic_inter_shift": 0.2,
        **changes,
    }
    arguments["num_elements"] = len(arguments["atomic_numbers"])
    for name in ("interaction_cls", "interaction_cls_first"):
        arguments[name] = modules.interaction_classes[arguments[name]]
    arguments["readout_cls"] = modules.readout_classes[arguments["readout_cls"]]
    arguments["gate"] = modules.gate_dict[arguments["gate"]]
    for name in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if name in arguments:
            arguments[name] = o3.Irreps(arguments[name])
    kind = modules.ScaleShiftMACE
    if not scale_shift:
        kind = modules.MACE
        del arguments["atomic_inter_scale"], arguments["atomic_inter_shift"]
    torch.manual_seed(seed)
    with default_dtype(getattr(torch, dtype)):
        return kind(**arguments)


def _crystal(seed=0, carbon=True):
    """Return a rattled 8-atom silicon (carbide) cell."""
    from ase.build import bulk

    atoms = bulk("Si", cubic=True)
    if carbon:
        atoms.numbers[::2] = 6
        atoms.set_cell(atoms.cell * 0.85, scale_atoms=True)
    atoms.rattle(0.08, seed=seed)
    return atoms


@pytest.fixture(scope="session")
def make_mace():
    """Return the function that makes a small MACE model; equal requests get copies, as building takes a second."""
    made = {}

    def make(*args, **changes):
        key = repr((args, sorted(changes.items())))
        if key not in made:
            made[key] = _make_mace(*args, **changes)
        return copy.deepcopy(made[key])

    return make


@pytest.fixture(scope="session")
def crystal():
    """Return the function that makes a rattled crystal."""
    return _crystal


@pytest.fixture(scope="session")
def mace_model(make_mace):
    """Return one model used where the test does not change it."""
    return make_mace()


@pytest.fixture(scope="session")
def mace_bytes(mace_model):
    """Return its artefact."""
    from phonosmith.potentials.mace.files import pack_model

    return pack_model(mace_model)


@pytest.fixture
def potential(mace_bytes):
    """Return it as a potential, fresh for every test."""
    from phonosmith.potentials.architecture import architecture

    return architecture("mace").load(mace_bytes, dtype="float64", device="cpu", name="The potential")


@pytest.fixture(scope="session")
def pickled(mace_bytes, tmp_path_factory):
    """Return it as a plain mace file."""
    from phonosmith.potentials.mace.files import plain_bytes, unpack_model

    path = tmp_path_factory.mktemp("foreign") / "foreign.model"
    path.write_bytes(plain_bytes(unpack_model(mace_bytes)))
    return path
