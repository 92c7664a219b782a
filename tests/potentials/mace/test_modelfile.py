import json
import subprocess
import sys

import numpy as np
import pytest

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.architecture import architecture
from phonosmith.potentials.container import is_model_file, read_header
from phonosmith.potentials.mace.files import (
    pack_model,
    plain_bytes,
    probe,
    register_model,
    unpack_model,
)
from phonosmith.potentials.registry import export_plain

VARIANTS = {
    "density-agnesi-zbl": {},
    "two-heads": {
        "heads": ["pt_head", "Default"],
        "atomic_energies": np.array([[-1.0, -2.0], [-1.5, -2.5]]),
        "atomic_inter_scale": [1.0, 1.1],
        "atomic_inter_shift": [0.0, 0.1],
    },
    "flat-energies": {"atomic_energies": np.array([-1.0, -2.0])},
    "plain-blocks-gaussian": {
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "radial_type": "gaussian",
        "num_bessel": 12,
        "r_max": 5.1,
        "pair_repulsion": False,
        "distance_transform": "None",
    },
    "soft-transform-full-cg": {"distance_transform": "Soft", "use_reduced_cg": False, "radial_MLP": [32]},
    "nonlinear-block": {
        "interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock",
        "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "readout_cls": "NonLinearBiasReadoutBlock",
        "edge_irreps": "4x0e+4x1o",
        "use_agnostic_product": True,
        "use_last_readout_only": True,
        "apply_cutoff": False,
    },
    "one-layer": {"num_interactions": 1},
    "three-layers-tanh": {"num_interactions": 3, "gate": "tanh", "hidden_irreps": "4x0e"},
    "keep-last-irreps": {"keep_last_layer_irreps": True},
    "correlation-three": {"correlation": 3, "max_ell": 1},
}


def exactly_equal(left, right):
    found, expected = probe(left), probe(right)
    return all(np.array_equal(found[key], expected[key]) for key in ("energy", "forces", "stress"))


FAST = [
    ("density-agnesi-zbl", "float64"),
    ("two-heads", "float32"),
]
SLOW = [(name, "float64") for name in VARIANTS if (name, "float64") not in FAST] + [
    ("density-agnesi-zbl", "float32"),
    ("plain-blocks-gaussian", "float32"),
]


@pytest.mark.parametrize(("variant", "dtype"), FAST + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW])
def test_rebuilt_model_predicts_bit_for_bit(make_mace, variant, dtype):
    model = make_mace(dtype, **VARIANTS[variant])
    data = pack_model(model)
    assert exactly_equal(unpack_model(data), model)
    assert exactly_equal(unpack_model(data, "float64"), model.double())


@pytest.mark.slow
def test_plain_mace_without_scale_shift(make_mace):
    model = make_mace(scale_shift=False)
    rebuilt = unpack_model(pack_model(model))
    assert type(rebuilt).__name__ == "MACE"
    assert exactly_equal(rebuilt, model)


def test_probe_touches_every_element_and_is_sensitive(make_mace):
    """A probe that could not tell two models apart would prove nothing."""
    model, other = make_mace(seed=0), make_mace(seed=0)
    name, weight = next(
        (n, p) for n, p in other.named_parameters() if n.startswith("products.1") and p.numel() > 1 and p.ndim > 1
    )
    for element in range(weight.shape[0]):
        before = weight.data[element].clone()
        weight.data[element] += 1e-6
        assert not np.array_equal(probe(other)["energy"], probe(model)["energy"]), (name, element)
        weight.data[element] = before


def test_same_weights_make_the_same_file(make_mace, mace_bytes):
    assert pack_model(make_mace()) == mace_bytes
    moved = make_mace()
    moved.readouts[0].linear.weight.data[0] += 1e-9
    assert pack_model(moved) != mace_bytes


def test_trained_values_survive_although_the_constructor_sets_them(make_mace):
    """Bessel frequencies, scale, shift, E0, the neighbour count: set by the constructor, perhaps changed since."""
    import torch

    model = make_mace()
    model.radial_embedding.bessel_fn.bessel_weights = torch.nn.Parameter(
        model.radial_embedding.bessel_fn.bessel_weights * 1.01
    )
    model.scale_shift.scale = model.scale_shift.scale * 1.7
    model.atomic_energies_fn.atomic_energies = model.atomic_energies_fn.atomic_energies - 0.3
    model.interactions[1].avg_num_neighbors = 17.25
    model.readouts[1].non_linearity.acts[0].cst = 1.6
    rebuilt = unpack_model(pack_model(model))
    assert exactly_equal(rebuilt, model)
    assert rebuilt.interactions[0].avg_num_neighbors == 12.3
    assert rebuilt.interactions[1].avg_num_neighbors == 17.25


def test_packing_leaves_the_model_alone(make_mace):
    model = make_mace("float32")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack_model(model)
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_packing_restores_the_default_precision(mace_bytes):
    import torch

    before = torch.get_default_dtype()
    unpack_model(mace_bytes, "float64")
    assert torch.get_default_dtype() == before


def test_what_the_description_cannot_carry_is_refused(make_mace):
    import torch

    swapped = make_mace()
    swapped.readouts[0].linear = torch.nn.Linear(16, 1).double()
    with pytest.raises(PotentialError, match=r"readouts\.0\.linear"):
        pack_model(swapped)

    activated = make_mace()
    activated.readouts[1].non_linearity.acts[0].f = torch.nn.functional.gelu
    with pytest.raises(PotentialError, match="gelu"):
        pack_model(activated)

    hidden = make_mace()  # nothing but the predictions shows this one
    hidden.interactions[0].conv_tp_weights.layer0.act.f = torch.tanh
    with pytest.raises(PotentialError, match="predicts another energy"):
        pack_model(hidden)

    grown = make_mace()
    grown.register_buffer("charge", torch.zeros(1))
    with pytest.raises(PotentialError, match="charge"):
        pack_model(grown)


def test_models_that_are_not_mace_are_refused():
    import torch

    with pytest.raises(PotentialError, match="not a MACE energy model"):
        pack_model(torch.nn.Linear(2, 2))


def test_header_says_what_it_is(mace_bytes):
    header = read_header(mace_bytes)
    assert header["architecture"] == "mace"
    assert header["atomic_numbers"] == [6, 14]
    assert header["cutoff"] == 4.5
    json.dumps(header)
    assert is_model_file(mace_bytes)
    assert not is_model_file(b"PK\x03\x04" + b"0" * 100)
    assert not is_model_file(b"")


def test_no_code_in_the_artefact(mace_bytes):
    """No pickle opcode stream, no zip archive: only a JSON header and numbers."""
    length = int.from_bytes(mace_bytes[:8], "little")
    header = json.loads(mace_bytes[8 : 8 + length])
    ends = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    assert 8 + length + ends == len(mace_bytes)


@pytest.mark.parametrize("damage", ["truncated", "header"])
def test_damaged_artefact_is_one_clear_error(mace_bytes, damage):
    data = mace_bytes[: len(mace_bytes) // 2] if damage == "truncated" else mace_bytes[:40] + b"#" + mace_bytes[41:]
    with pytest.raises(PotentialError, match=r"damaged|not a phonosmith model file"):
        unpack_model(data)


def test_newer_format_is_refused(mace_bytes):
    with pytest.raises(PotentialError, match="format 9"):
        read_header(mace_bytes.replace(b'\\"format\\":1', b'\\"format\\":9'))


def test_verify_notices_another_prediction(mace_bytes):
    """The saved probe energies have six decimals, so an honest model is off by at most half of the last."""
    assert architecture("mace").probe_difference(mace_bytes) <= 0.51e-6
    energies = read_header(mace_bytes)["probe_energies"]
    text = json.dumps(energies[0][0])
    altered = mace_bytes.replace(text.encode(), (text[:-2] + "00").encode())
    if altered == mace_bytes:
        altered = mace_bytes.replace(text.encode(), (text[:-2] + "11").encode())
    assert architecture("mace").probe_difference(altered) > 1e-6


def test_survives_the_store_and_another_process(make_mace, crystal, tmp_path):
    """Save, artefact store, load in a fresh interpreter: energy, forces and stress equal to the last bit."""
    from phonosmith.potentials.mace.potential import MacePotential

    ref = register_model(make_mace(), "tiny")
    atoms = crystal()
    mine = MacePotential(make_mace()).evaluate([atoms])[0]
    atoms.write(tmp_path / "cell.traj")
    script = (
        "import sys; from ase.io import read; from phonosmith.potentials.registry import load\n"
        "from phonosmith.potentials.documents import PotentialRef\n"
        "found = load(PotentialRef.model_validate_json(sys.argv[1])).evaluate([read(sys.argv[2])])[0]\n"
        "print(found.energy.hex(), found.forces.tobytes().hex(), found.stress.tobytes().hex())"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, ref.model_dump_json(), tmp_path / "cell.traj"],
        capture_output=True,
        text=True,
        check=True,
    )
    energy, forces, stress = ran.stdout.split()
    assert float.fromhex(energy) == mine.energy
    assert bytes.fromhex(forces) == mine.forces.tobytes()
    assert bytes.fromhex(stress) == np.asarray(mine.stress).tobytes()


def test_export_is_read_by_mace_itself(make_mace, crystal, tmp_path):
    from mace.calculators import MACECalculator

    from phonosmith.potentials.mace.potential import MacePotential

    model = make_mace()
    ref = register_model(model, "tiny")
    path = export_plain(ref, tmp_path / "tiny.model")
    calculator = MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    atoms = crystal()
    atoms.calc = calculator
    mine = MacePotential(model).evaluate([atoms])[0]
    assert atoms.get_potential_energy() == pytest.approx(mine.energy, abs=1e-12)
    assert np.abs(atoms.get_forces() - mine.forces).max() < 1e-12


def test_exported_parameters_are_trainable(mace_bytes):
    import io

    import torch

    model = unpack_model(mace_bytes)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    again = torch.load(io.BytesIO(plain_bytes(model)), weights_only=False)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_reference_records_name_parents_and_elements(make_mace):
    ref = register_model(make_mace(), "si-delta", ["a" * 64], dtype="float32")
    assert (ref.name, ref.parents, ref.elements, ref.dtype) == ("si-delta", ["a" * 64], ["C", "Si"], "float32")
    assert ref.artefact.suffix == ".safetensors"
    assert ref.cutoff == 4.5
