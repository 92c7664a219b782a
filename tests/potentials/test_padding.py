"""Batches padded to a common shape: the numbers of what is real, to rounding, for every architecture."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_potentials import ARCHITECTURES, tiny_reference
from phonosmith.potentials.graphs import Shape, bucketed, collate, collate_padded, fitting, make_graph, padded_shape
from phonosmith.potentials.hessian import reverse_columns
from phonosmith.potentials.registry import load

SHAPES = st.builds(Shape, st.integers(2, 9), st.integers(2, 900), st.integers(0, 9000))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing_that_is_real(architecture):
    """Energies, forces, stresses and Hessian columns of two cells among dummies; sums run in another order only."""
    potential = load(tiny_reference(architecture), dtype="float64", device="cpu")
    backend, model = potential.backend, potential.model
    frames = [bulk("Si"), bulk("Si", cubic=True)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    graphs = [make_graph(atoms, potential.z_table, potential.r_max) for atoms in frames]
    plain = collate(graphs, torch.float64, "cpu")
    least = padded_shape(graphs)
    expected = backend.predict(model, plain, stress=True, create_graph=True)
    column = reverse_columns(expected.forces, expected.positions, [4], create_graph=False)[0]
    assert expected.forces.detach().abs().max() > 1e-3
    # no spare edge, one atom with many edges, several dummy graphs
    for shape in (least, least._replace(edges=least.edges + 17), Shape(5, 21, least.edges + 40)):
        batch = collate_padded(graphs, shape, potential.r_max, torch.float64, "cpu")
        assert len(batch["ptr"]) == shape.graphs + 1
        assert (len(batch["positions"]), batch["edge_index"].shape[1]) == shape[1:]
        found = backend.predict(model, batch, stress=True, create_graph=True)
        for name, count in (("energy", 2), ("interaction", 2), ("forces", 10), ("stress", 2)):
            real, whole = getattr(expected, name), getattr(found, name)
            assert torch.isfinite(whole).all()
            assert (whole[:count] - real).detach().abs().max() < 1e-11 * real.detach().abs().max()
        # what a dummy would add to a gradient of everything is finite: masks can take it out
        parameters = [value for value in model.parameters() if value.requires_grad and value.numel()]
        rest = (found.forces[10:] ** 2).sum() + (found.stress[2:] ** 2).sum() + found.interaction[2:].sum()
        gradients = torch.autograd.grad(rest, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
        assert all(torch.isfinite(value).all() for value in gradients)
        own = reverse_columns(found.forces, found.positions, [4], create_graph=False)[0]
        assert (own[:30] - column).abs().max() < 1e-11 * column.abs().max()
        assert not own[30:].any()


def test_volume_of_a_padded_batch():
    atoms = bulk("Si") * (1, 2, 1)
    graph = make_graph(atoms, [14], 4.0)
    batch = collate_padded([graph], padded_shape([graph]), 4.0, torch.float64, "cpu")
    np.testing.assert_allclose(batch["volume"].numpy(), [atoms.get_volume(), 8.0**3], rtol=1e-14)


def test_a_batch_that_does_not_fit_is_refused():
    graph = make_graph(bulk("Si"), [14], 4.0)
    least = padded_shape([graph])
    for small in (least._replace(atoms=least.atoms - 1), least._replace(edges=least.edges - 1)):
        with pytest.raises(ValueError, match="does not fit"):
            collate_padded([graph], small, 4.0, torch.float64, "cpu")


@given(st.lists(SHAPES, min_size=1, max_size=40), st.integers(1, 5))
def test_every_shape_finds_a_bucket(shapes, most):
    buckets = bucketed(shapes, most=most)
    assert 1 <= len(buckets) <= most
    assert [one.edges for one in buckets] == sorted(one.edges for one in buckets)
    for shape in shapes:
        chosen = fitting(buckets, shape)
        assert chosen is not None
        if chosen.edges > 1.5 * shape.edges:
            # only the last bucket that may be opened holds shapes of any size; or atoms decided
            cheaper = [one for one in buckets if shape.edges <= one.edges < chosen.edges]
            assert all(one.atoms < shape.atoms or one.graphs < shape.graphs for one in cheaper)
            assert cheaper or chosen == buckets[0]


def test_buckets_of_equal_cells_are_one():
    assert bucketed([Shape(2, 33, 1300), Shape(2, 33, 1250), Shape(2, 33, 1400)]) == [Shape(2, 33, 1400)]
    assert bucketed([Shape(5, 129, 5600), Shape(3, 65, 2800)]) == [Shape(3, 65, 2800), Shape(5, 129, 5600)]
