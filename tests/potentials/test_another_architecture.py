"""A fourth architecture in one file: pairs of atoms, each pair a sum of Gaussians. CONTRIBUTING refers to it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from phonosmith.potentials import architecture
from phonosmith.potentials.container import pack, read_header, read_tensors, store_model
from phonosmith.potentials.edge_backend import EdgeBackend, element_rows
from phonosmith.potentials.graphs import numpy64
from phonosmith.potentials.hessian import difference_columns
from phonosmith.potentials.registry import export_plain, load, resolve

SRC = Path(architecture.__file__).parents[1]


class Pairs(torch.nn.Module):
    """Energy of a bond: Gaussians of its length, weighted by the two elements."""

    def __init__(self, numbers, cutoff, width=8):
        super().__init__()
        self.numbers, self.cutoff_radius = tuple(numbers), cutoff
        self.weights = torch.nn.Parameter(torch.randn(len(numbers), len(numbers), width, dtype=torch.float64))
        self.register_buffer("centres", torch.linspace(1.5, cutoff, width, dtype=torch.float64))
        self.register_buffer("energies", torch.zeros(len(numbers), dtype=torch.float64))


class PairBackend(EdgeBackend):
    architecture, plain_suffix = "pairs", ".pairs"

    def atom_energies(self, model, batch, vectors):
        length = vectors.norm(dim=1)
        envelope = (1 - length / model.cutoff_radius).clamp(min=0) ** 4
        features = torch.exp(-((length[:, None] - model.centres) ** 2)) * envelope[:, None]
        sender, receiver = batch["edge_index"]
        species = batch["species"]
        bonds = (features * model.weights[species[sender], species[receiver]]).sum(1)
        return bonds.new_zeros(len(species)).index_add(0, sender, bonds / 2)

    def atomic_numbers(self, model):
        return model.numbers

    def cutoff(self, model):
        return model.cutoff_radius

    def atomic_energies(self, model):
        return element_rows(numpy64(model.energies), len(model.numbers))

    def set_atomic_energies(self, model, head, energies):
        model.energies.copy_(torch.as_tensor(energies))

    def bytes_per_edge(self, model):
        return 8.0 * len(model.centres)

    def fresh(self, model, start):
        torch.manual_seed(start.seed)
        return Pairs(model.numbers, model.cutoff_radius).to(next(model.parameters()))

    def blocks(self, model):
        return ("weights",)

    def unpack(self, data, dtype=None, name="The model"):
        header = read_header(data)
        model = Pairs(header["atomic_numbers"], header["cutoff"])
        model.load_state_dict(read_tensors(data))
        return model.to(getattr(torch, dtype or "float64"))

    def register(self, model, name, parents):
        header = {"architecture": "pairs", "atomic_numbers": list(model.numbers), "cutoff": model.cutoff_radius}
        return store_model(pack({key: one.cpu() for key, one in model.state_dict().items()}, header), name, parents)

    def plain_bytes(self, model):
        content = {key: one.tolist() for key, one in model.state_dict().items()}
        return json.dumps({"pairs": content, "numbers": model.numbers}).encode()


class PairArchitecture(architecture.Architecture):
    name, plain_suffix = "pairs", ".pairs"

    def recognises(self, data):
        return data.startswith(b'{"pairs"')

    def bring(self, data, name, source, *, trust):
        content = json.loads(data)
        model = Pairs(content["numbers"], 5.0)
        model.load_state_dict({key: torch.tensor(one, dtype=torch.float64) for key, one in content["pairs"].items()})
        return self.backend().register(model, name, [])

    def backend(self):
        return PairBackend()


@pytest.fixture
def registered(monkeypatch):
    """Register it for one test."""
    known = dict(architecture._registered())
    monkeypatch.setattr(architecture, "_registered", lambda: known)
    architecture.register_architecture(PairArchitecture())


def test_it_is_registered_loaded_and_evaluated(registered, tmp_path):
    torch.manual_seed(0)
    ref = PairBackend().register(Pairs([14, 32], 5.0), "tiny", [])
    assert (ref.architecture, ref.elements, ref.cutoff) == ("pairs", ["Si", "Ge"], 5.0)
    potential = load(ref)
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    rows = potential.hessian_columns(atoms, [4, 17])
    expected = difference_columns(potential, atoms, [4, 17], step=1e-4)
    np.testing.assert_allclose(rows, expected, atol=1e-6 * np.abs(expected).max())
    again = load(resolve(str(export_plain(ref, tmp_path / "tiny.pairs"))))
    assert again.evaluate([atoms])[0].energy == potential.evaluate([atoms])[0].energy


def test_nothing_outside_their_folders_names_an_architecture():
    """Identifiers in code and imports; prose, the package's own default names, and ``optimizer=mace`` are free."""
    import io
    import keyword
    import tokenize

    folders = {path.parent.name for path in (SRC / "potentials").glob("*/identify.py")} - {"empirical"}
    assert folders >= {"mace", "nequix", "sevennet"}
    offenders = []
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).parts
        if parts[0] == "testing" or (parts[0] == "potentials" and parts[1] in folders):
            continue
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            text = token.string.strip("\"'")
            named = token.type == tokenize.NAME and not keyword.iskeyword(text)
            if "optimizer" in token.line:
                continue
            if (named or token.type == tokenize.STRING) and (text in folders or text == "sevenn"):
                offenders.append(f"{path.relative_to(SRC)}:{token.start[0]}: {text}")
    assert offenders == []
