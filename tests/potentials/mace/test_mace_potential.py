import numpy as np
import pytest

from phonosmith.core.errors import InputError, PotentialError
from phonosmith.potentials.base import Potential
from phonosmith.potentials.graphs import batches, make_graph
from phonosmith.potentials.hessian import difference_columns
from phonosmith.potentials.mace.pairs import pair_index
from phonosmith.potentials.mace.potential import MacePotential


@pytest.fixture(scope="module")
def frames(crystal):
    """Return periodic cells of different sizes and composition, a thin cell and a molecule."""
    from ase import Atoms
    from ase.build import bulk

    thin = bulk("Si") * (1, 1, 3)
    thin.rattle(0.05, seed=5)
    molecule = Atoms("SiC2", positions=[[0, 0, 0], [0, 0, 1.9], [1.8, 0.2, 0]])
    return [crystal(0), crystal(1, carbon=False), crystal(2) * (2, 1, 1), thin, molecule, bulk("Si"), crystal(3)]


def mace_results(model, frames, **options):
    """Evaluate with mace's own ASE calculator."""
    import copy

    from mace.calculators import MACECalculator

    calculator = MACECalculator(models=[copy.deepcopy(model)], device="cpu", default_dtype="float64", **options)
    found = []
    for atoms in frames:
        calculator.calculate(atoms)
        found.append({**calculator.results})
    return found


def test_is_a_potential(potential):
    assert isinstance(potential, Potential)
    assert potential.elements == ("C", "Si")
    assert potential.z_table == (6, 14)
    assert (potential.dtype, potential.device, potential.r_max) == ("float64", "cpu", 4.5)


@pytest.mark.parametrize("batch_atoms", [1, 20, 2048])
def test_equals_maces_own_calculator_in_order(potential, mace_model, frames, batch_atoms, monkeypatch):
    """Same network in the same precision, so only the order of sums differs: 1e-10 is asked, 1e-13 is met."""
    from phonosmith.settings import get_settings

    monkeypatch.setenv("PHONOSMITH_BATCH_ATOMS", str(batch_atoms))
    get_settings.cache_clear()
    ours = potential.evaluate(frames)
    for mine, theirs, atoms in zip(ours, mace_results(mace_model, frames), frames, strict=True):
        assert mine.energy == pytest.approx(theirs["energy"], abs=1e-11)
        assert np.abs(mine.forces - theirs["forces"]).max() < 1e-11
        expected = theirs["stress"] if all(atoms.pbc) else np.zeros(6)
        assert np.abs(mine.stress - expected).max() < 1e-12


def test_without_stress_the_rest_is_the_same(potential, frames):
    for full, short in zip(potential.evaluate(frames), potential.evaluate(frames, stress=False), strict=True):
        assert short.energy == pytest.approx(full.energy, abs=1e-12)
        assert np.abs(short.forces - full.forces).max() < 1e-12
        assert not short.stress.any()


def test_stress_is_the_strain_derivative_of_the_energy(potential, crystal):
    """Central difference with strain 1e-4: truncation of order 1e-8 of the elastic scale."""
    atoms = crystal(7)
    step, voigt = 1e-4, [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    strained = []
    for row, column in voigt:
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[row, column] += sign * step / 2
            strain[column, row] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            strained.append(moved)
    energies = [found.energy for found in potential.evaluate(strained)]
    derivative = np.array([energies[2 * i] - energies[2 * i + 1] for i in range(6)]) / (2 * step * atoms.get_volume())
    found = potential.evaluate([atoms])[0].stress
    assert np.abs(found - derivative).max() < 1e-6 * np.abs(found).max() + 1e-9


def test_nothing_to_evaluate(potential):
    assert potential.evaluate([]) == []


def test_inputs_and_training_state_are_left_alone(potential, frames):
    import torch

    before = [(atoms.positions.copy(), atoms.cell.array.copy()) for atoms in frames]
    default = torch.get_default_dtype()
    potential.evaluate(frames)
    potential.hessian_columns(frames[0], [0])
    assert all(
        (atoms.positions == p).all() and (atoms.cell.array == c).all()
        for atoms, (p, c) in zip(frames, before, strict=True)
    )
    assert all(parameter.requires_grad and parameter.grad is None for parameter in potential.model.parameters())
    assert type(potential.model.interactions[0].conv_tp_weights).__name__ == "FullyConnectedNet"
    assert torch.get_default_dtype() == default


def test_unknown_element_is_one_line(potential):
    from ase.build import bulk

    with pytest.raises(PotentialError, match=r"does not know Cu \(it covers C Si\)"):
        potential.evaluate([bulk("Si"), bulk("Cu")])
    with pytest.raises(PotentialError, match="does not know Cu"):
        potential.hessian_columns(bulk("Cu"), [0])


def test_progress_goes_to_standard_error(potential, frames, capsys):
    potential.evaluate(frames, progress=True)
    assert capsys.readouterr().out == ""


def test_batches_hold_no_more_than_asked(frames):
    graphs = [make_graph(atoms, (6, 14), 4.5, index) for index, atoms in enumerate(frames)]
    groups = list(batches(graphs, 16, 10**9))
    assert [graph.index for group in groups for graph in group] == list(range(len(frames)))
    assert all(len(group) == 1 or sum(len(graph.species) for graph in group) <= 16 for group in groups)
    edges = max(graph.n_edges for graph in graphs)
    assert all(sum(graph.n_edges for graph in group) <= edges for group in batches(graphs, 10**9, edges))


def test_every_edge_finds_its_pair(frames):
    """An edge and the one it is computed by join the same atoms over the same distance, in either direction."""
    for atoms in frames:
        graph = make_graph(atoms, (6, 14), 4.5)
        first, place = pair_index(graph.edges, graph.shifts)
        assert 2 * len(first) == graph.n_edges
        vectors = graph.positions[graph.edges[1]] - graph.positions[graph.edges[0]] + graph.shifts @ graph.cell
        twin = vectors[first][place]
        assert (np.abs(np.abs(vectors) - np.abs(twin)) < 1e-12).all()
        assert (np.sort(graph.edges, axis=0) == np.sort(graph.edges[:, first][:, place], axis=0)).all()


def test_hessian_columns_against_mace_and_differences(potential, mace_model, crystal):
    """mace differentiates the same graph (rounding only); differences carry an error of order step²."""
    import copy

    from mace.calculators import MACECalculator

    atoms = crystal(4)
    columns = [0, 5, 11, 23]
    found = potential.hessian_columns(atoms, columns)
    calculator = MACECalculator(models=[copy.deepcopy(mace_model)], device="cpu", default_dtype="float64")
    whole = calculator.get_hessian(atoms).reshape(24, 24)
    scale = np.abs(whole).max()
    assert found.shape == (4, 24)
    assert np.abs(found - whole[columns]).max() < 1e-12 * scale
    assert np.abs(found - difference_columns(potential, atoms, columns, step=1e-3)).max() < 2e-5 * scale
    # a ten times smaller step must come a hundred times closer
    assert np.abs(found - difference_columns(potential, atoms, columns, step=1e-4)).max() < 4e-7 * scale


def test_hessian_is_symmetric_and_translation_free(potential, crystal):
    atoms = crystal(6)
    hessian = potential.hessian_columns(atoms, range(24))
    scale = np.abs(hessian).max()
    assert np.abs(hessian - hessian.T).max() < 1e-12 * scale
    assert np.abs(hessian.reshape(24, 8, 3).sum(axis=1)).max() < 1e-12 * scale


def test_hessian_column_that_does_not_exist(potential, crystal):
    with pytest.raises(InputError, match="column 24"):
        potential.hessian_columns(crystal(0), [0, 24])
    with pytest.raises(InputError, match="column -1"):
        potential.hessian_columns(crystal(0), [-1])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="density", marks=pytest.mark.slow),
        pytest.param(
            {
                "interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock",
                "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
                "edge_irreps": "4x0e+4x1o",
            },
            id="nonlinear",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "heads": ["pt_head", "Default"],
                "atomic_energies": np.array([[-1.0, -2.0, -3.0], [-1.5, -2.5, -3.5]]),
                "atomic_inter_scale": [1.0, 1.1],
                "atomic_inter_shift": [0.0, 0.1],
            },
            id="two-heads",
        ),
    ],
)
def test_pruned_model_predicts_the_same(make_mace, crystal, changes):
    changes = {"atomic_energies": np.array([[-1.0, -2.0, -3.0]]), **changes}
    model = make_mace(atomic_numbers=[6, 14, 32], **changes)
    whole = MacePotential(model)
    pruned = whole.prune(["Si"])
    assert pruned.elements == ("Si",)
    count = [sum(p.numel() for p in one.model.parameters()) for one in (whole, pruned)]
    assert count[1] < count[0]
    frames = [crystal(1, carbon=False), crystal(2, carbon=False)]
    for left, right in zip(whole.evaluate(frames), pruned.evaluate(frames), strict=True):
        assert right.energy == pytest.approx(left.energy, abs=1e-12 * abs(left.energy))
        assert np.abs(left.forces - right.forces).max() < 1e-12 * np.abs(left.forces).max()
    pair = whole.prune(["C", "Ge"])
    assert pair.z_table == (6, 32)


@pytest.mark.slow
def test_pruning_agrees_with_maces_own(make_mace, crystal):
    """mace's fine-tuning tool does the same for a model with one head."""
    from mace.tools import AtomicNumberTable
    from mace.tools.finetuning_utils import load_foundations_elements

    model = make_mace()
    ours = MacePotential(model).prune(["Si"])
    empty = make_mace(atomic_numbers=[14], atomic_energies=np.array([[-2.0]]), seed=9)
    theirs = load_foundations_elements(empty, model, AtomicNumberTable([14]), load_readout=True, max_L=1)
    for name, value in theirs.state_dict().items():
        assert np.allclose(value.detach(), ours.model.state_dict()[name], atol=1e-14), name


def test_pruning_to_all_or_to_the_unknown(potential):
    assert potential.prune(["Si", "C"]) is potential
    with pytest.raises(PotentialError, match="unknown are Cu"):
        potential.prune(["Cu"])


def test_idle_elements_are_pruned_for_many_atoms_and_never_stale(make_mace, crystal):
    numbers = [6, 13, 14, 32]
    model = make_mace(atomic_numbers=numbers, atomic_energies=np.full((1, 4), -1.0))
    potential = MacePotential(model)
    few, many = [crystal(1, carbon=False)], [crystal(1, carbon=False) * (4, 4, 4)]
    assert potential.lean(few) is potential
    lean = potential.lean(many)
    assert lean.elements == ("Si",)
    assert potential.lean(few) is lean
    expected = mace_results(model, few)[0]["energy"]
    assert potential.evaluate(few)[0].energy == pytest.approx(expected, abs=1e-11)
    model.readouts[0].linear.weight.data *= 1.5
    changed = mace_results(model, few)[0]["energy"]
    assert abs(changed - expected) > 1e-4
    assert potential.evaluate(few)[0].energy == pytest.approx(changed, abs=1e-11)


def test_heads(make_mace, crystal):
    energies = np.array([[-1.0, -2.0], [-1.5, -2.5]])
    model = make_mace(
        heads=["pt_head", "Default"],
        atomic_energies=energies,
        atomic_inter_scale=[1.0, 1.1],
        atomic_inter_shift=[0.0, 0.1],
    )
    atoms = crystal(0)
    assert MacePotential(model).head == "Default"
    for head in ("pt_head", "Default"):
        mine = MacePotential(model, head=head).evaluate([atoms])[0]
        theirs = mace_results(model, [atoms], head=head)[0]
        assert mine.energy == pytest.approx(theirs["energy"], abs=1e-11)
    with pytest.raises(PotentialError, match="no head 'dft'"):
        MacePotential(model, head="dft")
    model.heads = ["one", "two"]
    with pytest.raises(PotentialError, match="none is called 'default'"):
        MacePotential(model)


def test_another_precision_works_on_a_copy(make_mace, crystal):
    model = make_mace("float32")
    same = MacePotential(model)
    exact = MacePotential(same.backend.cast(model, "float64"))
    assert (exact.dtype, same.dtype) == ("float64", "float32")
    assert same.model is model
    assert next(model.parameters()).dtype.is_floating_point
    assert str(next(model.parameters()).dtype) == "torch.float32"
    # float32 keeps seven digits of forces of a few eV/Å
    difference = exact.evaluate([crystal(0)])[0].forces - same.evaluate([crystal(0)])[0].forces
    assert 0 < np.abs(difference).max() < 1e-4


def test_saved_plain_file_is_mace_format(potential, crystal, tmp_path):
    from mace.calculators import MACECalculator

    potential.save_plain(tmp_path / "plain.model")
    calculator = MACECalculator(model_paths=str(tmp_path / "plain.model"), device="cpu", default_dtype="float64")
    atoms = crystal(0)
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(potential.evaluate([atoms])[0].energy, abs=1e-11)
