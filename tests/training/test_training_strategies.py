"""Every strategy changes what it should, and nothing else, and exports a plain model."""

import numpy as np
import pytest
import torch
from ase.calculators.calculator import Calculator

from phonosmith.potentials.graphs import collate, make_graph
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.potentials.registry import resolve
from phonosmith.structures.labels import labels_of
from phonosmith.training.finetune import fine_tune
from phonosmith.training.graphs import labelled_graphs
from phonosmith.training.spec import make_spec

BACKEND = MaceBackend()


def run(module, frames, strategy, *, seed=1, extra=None, **settings):
    spec = make_spec(strategy, **{"epochs": 3, **settings})
    return fine_tune(MacePotential(module), frames(6), frames(2, 9), spec, seed=seed, **(extra or {}))


def state(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


BLOCKS = ("node_embedding", "interactions.0", "products.0", "interactions.1", "products.1", "readouts")


@pytest.mark.parametrize(("frozen", "dtype"), [(2, "float32"), (5, "float64")])
def test_freeze_keeps_named_blocks_bit_identical(tiny_model, tiny_frames, frozen, dtype):
    module = tiny_model(numbers=(29,))
    before = state(module)
    result = run(module, tiny_frames, f"freeze{frozen}", dtype=dtype)
    after = state(result.model)
    for index, block in enumerate(BLOCKS):
        inside = [name for name in before if name.startswith(block) and before[name].numel()]
        same = [torch.equal(before[name], after[name]) for name in inside]
        assert all(same) if index < frozen else not any(same), block
    assert all(torch.equal(before[name], value) for name, value in state(module).items())
    document = result.document
    assert sum(document.changed_by_block[b] for b in BLOCKS[:frozen]) == 0
    assert document.n_changed == sum(document.changed_by_block.values()) > 0
    assert document.n_changed <= document.n_trainable < document.n_parameters


def test_a_wide_model_is_trained_as_with_a_low_rank_anchor(tiny_model, tiny_frames):
    """The limit decides between two trainings that can be asked for, and says so."""
    module, data = tiny_model(numbers=(29,)), (tiny_frames(6), tiny_frames(2, 9))

    def trained(spec):
        result = fine_tune(MacePotential(module), *data, spec.model_copy(update={"epochs": 2}), seed=1)
        return state(result.model), result.document

    for limit, anchor in ((100, "low_rank"), (10**9, "none")):
        weights, document = trained(make_spec("phonosmith").model_copy(update={"low_rank_above": limit}))
        same, _ = trained(make_spec("phonosmith", anchor=anchor))
        assert all(torch.equal(value, same[name]) for name, value in weights.items())
        assert any("matrices of rank 4" in note for note in document.notes) == (anchor == "low_rank")
        assert document.spec.anchor == anchor


def test_multihead_exports_a_plain_model(tiny_model, tiny_frames, tmp_path):
    """The plain file predicts what the trained head predicted in training; replay was labelled by the foundation."""
    from mace.calculators import MACECalculator

    module = tiny_model()
    pool = [atoms.copy() for atoms in tiny_frames(5, 3, "CuAl")]
    settings = {"replay_size": 4, "dtype": "float64", "lr": 0.002, "head_start": "copy"}
    result = run(module, tiny_frames, "multihead", extra={"replay": pool}, **settings)
    document = result.document
    assert document.replay.labels == "foundation"
    assert any("4 structures labelled by the foundation itself" in note for note in document.notes)
    assert document.replay.n_structures == 4
    assert document.replay.visits == 12
    # labels are the foundation's own: exact for energy, forces and stress
    assert document.replay.before.mae_forces_mev_per_angstrom < 1e-9
    assert document.replay.before.mae_stress_mev_per_angstrom3 < 1e-9
    assert document.replay.after.mae_forces_mev_per_angstrom > 1e-3
    model_path, _ = result.write(tmp_path)
    assert resolve(str(model_path)).architecture == "mace"  # made here, so no --trust is asked for
    calculator: Calculator = MACECalculator(model_paths=str(model_path), device="cpu", default_dtype="float64")
    valid = tiny_frames(2, 9)
    errors = []
    for atoms in valid:
        copy = atoms.copy()
        copy.calc = calculator
        errors.append(np.abs(copy.get_forces() - atoms.get_forces()).mean())
    # document: the two-head model's fine-tuned head; file: the extracted single head
    assert 1000 * np.mean(errors) == pytest.approx(
        document.metrics["valid"].after.mae_forces_mev_per_angstrom, rel=1e-10
    )
    assert list(result.model.heads) == ["Default"]


def test_head_of_random_weights(tiny_model, tiny_frames):
    """The published multihead: replay's head is the foundation to the bit, the material's is drawn from the seed."""
    module = tiny_model()
    batch = collate([make_graph(tiny_frames(1)[0], [13, 29], 3.5)], torch.float64, "cpu")

    def interactions(model, head):
        inputs = {**batch, "head": torch.full_like(batch["head"], head)}
        return float(BACKEND.predict(model, inputs, stress=False, create_graph=False).interaction.detach()[0])

    copied, *fresh = [BACKEND.with_heads(module, ("pt_head", "Default"), seed) for seed in (None, 1, 1, 2)]
    own = interactions(module, 0)
    assert [interactions(copied, head) for head in (0, 1)] == pytest.approx([own, own], rel=1e-12)
    assert [interactions(one, 0) for one in fresh] == [interactions(copied, 0)] * 3
    drawn = [interactions(one, 1) for one in fresh]
    assert drawn[0] == drawn[1] != drawn[2]
    assert abs(drawn[0] - own) > 1e-6
    # mace's initial weights have variance one
    weights = torch.cat([(a - b).reshape(-1) for a, b in zip(fresh[0].parameters(), copied.parameters(), strict=True)])
    changed = int((weights != 0).sum())
    # two readouts of a model with 8 channels and a hidden layer of 8: 8 of the linear one; 8x8 and 16 of the other
    # (whose 8 from the other head's channels mace masks)
    assert changed == 8 + 64 + 16
    for (name, a), b in zip(fresh[0].named_parameters(), copied.parameters(), strict=True):
        assert name.startswith("readouts") or torch.equal(a, b), name


def test_replay_keeps_given_labels(tiny_model, tiny_frames):
    """Labels of a subset of the foundation's training are kept; those the foundation made of a pool are said."""
    from phonosmith.flows.replay import label_pool

    module = tiny_model()
    given = tiny_frames(4, 3, "CuAl")
    document = run(module, tiny_frames, "multihead", extra={"replay": given}, epochs=1).document
    assert document.replay.labels == "given"
    assert document.replay.before.mae_forces_mev_per_angstrom > 1.0  # EMT's, not the foundation's
    assert not any("labelled by the foundation" in note for note in document.notes)
    pool = label_pool(MacePotential(module), given, "tiny")
    document = run(module, tiny_frames, "multihead", extra={"replay": pool}, epochs=1).document
    assert document.replay.labels == "foundation"
    assert any("no subset of its training data" in note for note in document.notes)


def test_low_rank_merges_into_a_plain_model(tiny_model, tiny_frames):
    """Merged and adapted model agree; the update of a dense layer has the rank asked for."""
    import copy

    from phonosmith.training.trainable import select_trainable

    module = tiny_model(numbers=(29,))
    adapted = copy.deepcopy(module)
    spec = make_spec("lora", rank=2)
    parameters = select_trainable(BACKEND, adapted, spec)
    assert all("lora_" in name for name, _ in parameters)
    # every dense and every equivariant linear layer; not the element-dependent skip and the symmetric contractions
    layers = [f"interactions.{i}.{part}" for i in (0, 1) for part in ("linear_up", "linear")]
    layers += [f"interactions.{i}.conv_tp_weights.layer{k}" for i in (0, 1) for k in (0, 1, 2)]
    layers += [f"products.{i}.linear" for i in (0, 1)] + ["readouts.0.linear", "readouts.1.linear_1"]
    assert sorted({name.split(".lora_")[0] for name, _ in parameters}) == sorted(
        [*layers, "node_embedding.linear", "readouts.1.linear_2"]
    )
    with torch.no_grad():
        for index, (_, parameter) in enumerate(parameters):
            parameter.add_(
                torch.sin(torch.arange(parameter.numel(), dtype=parameter.dtype) + index).view_as(parameter) / 5
            )
    atoms = tiny_frames(1)[0]
    batch = collate([make_graph(atoms, [29], 3.5)], torch.float64, "cpu")

    def forces(model):
        return BACKEND.predict(model, batch, stress=False, create_graph=True).forces.detach()

    before, original = forces(adapted), forces(module)
    plain = BACKEND.merge_low_rank(adapted)
    after = forces(plain)
    assert torch.allclose(before, after, rtol=0, atol=1e-12)
    assert float((after - original).abs().max()) > 1e-3
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in module.named_parameters()]
    for name, parameter in plain.named_parameters():
        if "skip_tp" in name or "symmetric_contractions" in name:
            assert torch.equal(parameter, dict(module.named_parameters())[name]), name
    name = "interactions.0.conv_tp_weights.layer1.weight"
    change = dict(plain.named_parameters())[name] - dict(module.named_parameters())[name]
    assert int(torch.linalg.matrix_rank(change.detach(), tol=1e-10)) == 2


def test_low_rank_is_a_function_of_the_seed(tiny_model, tiny_frames):
    """Adapters start from random values: drawn from the seed, whatever was drawn before."""
    module = tiny_model(numbers=(29,))
    found = []
    for seed, before in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(before)
        found.append(
            torch.cat([p.reshape(-1) for p in run(module, tiny_frames, "lora", seed=seed, epochs=1).model.parameters()])
        )
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.slow
def test_pull_keeps_the_model_nearer(tiny_model, tiny_frames):
    module = tiny_model(numbers=(29,))
    norms = [run(module, tiny_frames, "delta", pull=pull, epochs=6).document.change_norm for pull in (0.0, 10.0, 50.0)]
    assert norms[0] > norms[1] > norms[2] > 0


@pytest.mark.slow
def test_scratch_forgets_the_foundation(tiny_model, tiny_frames):
    """Two different foundations of one architecture give the same model from scratch, another seed another one."""
    one = run(tiny_model(numbers=(29,), seed=0), tiny_frames, "scratch")
    two = run(tiny_model(numbers=(29,), seed=5), tiny_frames, "scratch")
    other = run(tiny_model(numbers=(29,), seed=0), tiny_frames, "scratch", seed=2)
    for (name, a), b in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert one.document.n_changed == one.document.n_parameters


def test_energy_references(tiny_model, tiny_frames):
    """A constant offset of the labels is absorbed by refit, kept by foundation, and set by given."""
    from ase.calculators.singlepoint import SinglePointCalculator

    from phonosmith.training.assemble import assemble

    module = tiny_model(numbers=(29,))
    shifted = []
    for atoms in tiny_frames(6):
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **{**atoms.calc.results, "energy": atoms.get_potential_energy() - 40.0})
        shifted.append(copy)
    plain = fine_tune(
        MacePotential(module), tiny_frames(6), tiny_frames(6), make_spec("transfer", epochs=1), seed=0
    ).document
    moved = fine_tune(MacePotential(module), shifted, shifted, make_spec("transfer", epochs=1), seed=0).document
    first = [one.e0_shift_ev["Cu"] - one.e0_final_shift_ev.get("Cu", 0.0) for one in (plain, moved)]
    assert first[1] == pytest.approx(first[0] - 10.0, abs=1e-9)
    assert moved.metrics["valid"].after.mae_energy_mev_per_atom == pytest.approx(
        plain.metrics["valid"].after.mae_energy_mev_per_atom, abs=0.1
    )
    for settings, expected in (({"e0": "foundation"}, -0.5), ({"e0": "given", "e0_values": {"Cu": -3.5}}, -3.5)):
        spec = make_spec("transfer", **settings)
        parts = assemble(MacePotential(module), shifted, shifted, spec, replay=None, seed=0)
        assert BACKEND.atomic_energies(parts.start)[0, 0] == expected
        assert parts.e0_shift["Cu"] == pytest.approx(expected + 0.5, abs=1e-12)


def test_final_energy_shift_changes_energies_alone(tiny_model, tiny_frames):
    """The mean offset that training leaves goes into the atomic energies; forces keep every bit."""
    from phonosmith.training.energies import settled_shift
    from phonosmith.training.graphs import compositions
    from phonosmith.training.judging import predicted

    module = tiny_model()
    train = tiny_frames(4) + tiny_frames(4, 1, "CuAl")
    # validation of the training distribution (here even from it): eight frames do not teach the model to generalise
    runs = {
        on: fine_tune(
            MacePotential(module), train, train[2:6], make_spec("transfer", epochs=4, e0_final_shift=on), seed=1
        )
        for on in (False, True)
    }
    plain, moved = runs[False], runs[True]
    assert plain.document.e0_final_shift_ev == {}
    shift = moved.document.e0_final_shift_ev
    assert set(shift) == {"Al", "Cu"}
    energies = [BACKEND.atomic_energies(run.model)[0] for run in (plain, moved)]
    assert np.allclose(energies[1] - energies[0], [shift["Al"], shift["Cu"]], rtol=0, atol=1e-12)
    assert moved.document.e0_shift_ev["Cu"] == pytest.approx(plain.document.e0_shift_ev["Cu"] + shift["Cu"], abs=1e-12)
    before, after = (run.document.metrics["valid"].after for run in (plain, moved))
    assert after.mae_energy_mev_per_atom < before.mae_energy_mev_per_atom
    assert after.mae_forces_mev_per_angstrom == before.mae_forces_mev_per_angstrom
    for one, two in zip(plain.model.parameters(), moved.model.parameters(), strict=True):
        assert torch.equal(one, two)
    # a validation set that says otherwise is believed: labels of the model itself leave nothing to gain

    def graphs_of(frames):
        return labelled_graphs(frames, [labels_of(a) for a in frames], "valid", [13, 29], 3.5, energies[0])

    exact = tiny_frames(3)[2]
    exact.calc.results["energy"] = plain.potential.evaluate([exact])[0].energy
    said = []
    for graphs in (graphs_of(tiny_frames(3)[:2]), graphs_of([exact])):
        found = predicted(BACKEND, plain.model, [one.graph for one in graphs])
        said += [compositions(graphs, 2), found.residuals(graphs)]
    assert np.abs(said[1]).min() > 1e-3
    assert not settled_shift(*said).any()


@pytest.mark.parametrize("strategy", [pytest.param("pft", marks=pytest.mark.slow), "delta+pft"])
def test_curvature_learns_force_constants(tiny_model, tiny_frames, copper_phonon, strategy):
    module = tiny_model(numbers=(29,))
    settings = (
        {"lr": 0.003, "ema": None, "epochs": 8, "replay": "none", "cotrain_steps": 2}
        if strategy == "pft"
        else {"pull": 0.1, "epochs": 8, "curvature_weight": 20.0}
    )
    document = run(module, tiny_frames, strategy, extra={"curvature": copper_phonon}, **settings).document
    curvature = document.curvature
    assert curvature.n_columns == 1
    assert curvature.mae_after_ev_per_angstrom2 < 0.9 * curvature.mae_before_ev_per_angstrom2
    # 6 structures in batches of 4: two steps of E, F, S an epoch; alternate puts one curvature step before them
    assert curvature.n_columns_judged == 0  # one kind of atom: nothing independent to hold out
    assert all(line["curvature_mae_ev_per_angstrom2"] is None for line in document.history)
    assert curvature.steps == (8 if strategy == "pft" else 16)
    assert document.steps == (24 if strategy == "pft" else 16)
    assert curvature.seconds_per_step > 0


def test_registered_model_predicts_what_was_trained(tiny_model, tiny_frames):
    from phonosmith.potentials.registry import load

    result = run(tiny_model(numbers=(29,)), tiny_frames, "transfer", epochs=1)
    document = result.register()
    assert document.model.elements == ["Cu"]
    assert set(document.model.parents) >= {document.manifest.inputs["train"], document.manifest.inputs["valid"]}
    frames = tiny_frames(2, 9)
    found = load(document.model, dtype="float64", device="cpu").evaluate(frames)
    error = 1000 * np.mean([np.abs(e.forces - a.get_forces()).mean() for e, a in zip(found, frames, strict=True)])
    assert error == pytest.approx(document.metrics["valid"].after.mae_forces_mev_per_angstrom, rel=1e-9)


@pytest.mark.parametrize(
    ("losses", "columns", "weight", "expected"),
    [
        ((1.0, 0.9), None, 0.0, True),
        ((1.0, 1.1), None, 0.0, False),
        # columns that judge: here of a training whose validation structures the foundation labelled itself
        ((0.0, 0.02), (0.10, 0.05), 2.0, True),
        ((0.0, 0.20), (0.10, 0.05), 2.0, False),
    ],
)
def test_better_than_the_foundation_is_judged_by_what_chose_the_epoch(losses, columns, weight, expected):
    from phonosmith.training.documents import CurvatureErrors, Errors, SplitErrors, is_improved
    from phonosmith.training.spec import make_spec

    def errors(loss):
        return Errors(mae_energy_mev_per_atom=0, mae_forces_mev_per_angstrom=0, loss=loss, n_structures=1)

    valid = SplitErrors(before=errors(5.0), shifted=errors(losses[0]), after=errors(losses[1]))
    curvature = columns and CurvatureErrors(
        source="x", n_atoms=2, n_columns=2, method="fd", steps=1,
        mae_before_ev_per_angstrom2=0.3, mae_after_ev_per_angstrom2=0.1,
        judged_before_ev_per_angstrom2=columns[0], judged_after_ev_per_angstrom2=columns[1],
    )  # fmt: skip
    assert is_improved(valid, curvature, make_spec("transfer", curvature_weight=weight)) is expected
