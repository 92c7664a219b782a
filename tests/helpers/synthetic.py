"""Reports of materials that were never calculated, with medians and interquartile ranges known in advance.

Every metric of a strategy, training size and cell takes equally spaced values over the materials, in a random order.
Equally spaced values have, with linear interpolation, exactly the median and the interquartile range asked for - for
any number of materials.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from helpers.synthetic_crystals import SyntheticMaterial, synthetic_materials
from helpers.synthetic_parts import (
    Drawn,
    comparison,
    dataset_ref,
    elastic_document,
    eos_document,
    potential_ref,
    summary,
)
from helpers.synthetic_targets import (
    DISPLACEMENT_CORE_HOURS,
    FOUNDATION,
    LABEL_CORE_HOURS,
    METRICS,
    REFERENCE_CORES,
    STRATEGIES,
    TRAINING_MINUTES,
    called_unstable,
    displaced_cells,
    is_unstable,
    target,
)
from phonosmith.analysis.documents import (
    AuditedLabels,
    Cost,
    MaterialReport,
    PotentialReport,
    ReferenceReport,
    SamplingSummary,
    TrainingCurve,
)
from phonosmith.core.hashing import digest_json
from phonosmith.core.manifest import Manifest

if TYPE_CHECKING:
    from jobflow import JobStore

    from phonosmith.core.artefacts import ArtefactRef


@dataclass
class _Recipe:
    """Everything the parts of one call share."""

    count: int
    strategies: tuple[str, ...]
    sizes: tuple[int, ...]
    foundations: tuple[str, ...]
    seed: int
    mode: Literal["comparison", "production"]
    elastic: bool
    campaign: str
    failed: dict[str, tuple[str, ...]]
    constants: dict[str, ArtefactRef] = field(default_factory=dict)

    def drawn(self, metric: str, place: tuple[str, str, int, str], index: int) -> float:
        """Return a metric of the material at a position; force errors rank like phonon errors."""
        _, strategy, n_train, cell = place
        median, spread = target(metric, strategy, n_train, cell)
        ranked = "phonon_mae_thz" if metric == "valid_force_mae" else metric
        rng = np.random.default_rng([self.seed, zlib.crc32(repr((place, ranked)).encode())])
        share = rng.permutation(self.count)[index] / max(self.count - 1, 1)
        return median + 2 * spread * (share - 0.5) if self.count > 1 else median


def synthetic_reports(
    n_materials: int = 6,
    strategies: Sequence[str] = STRATEGIES,
    sizes: Sequence[int] = (10,),
    cells: Sequence[str] = ("large",),
    seed: int = 0,
    *,
    seeds: int = 1,
    foundations: Sequence[str] = ("embedded",),
    mode: Literal["comparison", "production"] = "comparison",
    elastic: bool = True,
    failed: dict[str, Sequence[str]] | None = None,
    campaign: str = "synthetic",
    force_constants: bool = False,
) -> list[MaterialReport]:
    """Return one valid report for each material, foundation, cell and seed.

    Parameters
    ----------
    n_materials
        Different materials.
    strategies
        Strategies each of them is trained with.
    sizes
        Numbers of training structures.
    cells
        primitive, small, large.
    seed
        Of the random order of the values.
    seeds
        Seeds of each training; errors differ by a few percent between them with the same mean.
    foundations
        Names of the foundations.
    mode
        ``production`` leaves out everything that needs reference phonons.
    elastic
        Include elastic constants and equations of state.
    failed
        Material name to strategies without a result (medians are then those of the remaining materials).
    campaign
        Name of the campaign.
    force_constants
        Keep force constants of silicon in the artefact store, computed with the embedded empirical potentials, and let
        every phonon summary refer to them; without it the references lead nowhere.
    """
    recipe = _Recipe(
        n_materials,
        tuple(strategies),
        tuple(sizes),
        tuple(foundations),
        seed,
        mode,
        elastic,
        campaign,
        {name: tuple(lost) for name, lost in (failed or {}).items()},
    )
    if force_constants:
        from helpers.synthetic_parts import silicon_force_constants

        recipe.constants = silicon_force_constants()
    materials = synthetic_materials(n_materials)
    return [
        _report(recipe, material, index, foundation, cell, turn, seeds)
        for index, material in enumerate(materials)
        for foundation in recipe.foundations
        for cell in cells
        for turn in range(seeds)
    ]


def _report(
    recipe: _Recipe, material: SyntheticMaterial, index: int, foundation: str, cell: str, turn: int, turns: int
) -> MaterialReport:
    from phonosmith.settings import Settings

    settings = Settings()
    lost = recipe.failed.get(material.name, ())
    # the mean over seeds is the drawn value
    factor = 1 + 0.02 * (turn - (turns - 1) / 2)
    base = _potential(recipe, material, index, (foundation, FOUNDATION, 0, cell), 1.0, settings, None)
    made = [
        _potential(recipe, material, index, (foundation, name, size, cell), factor, settings, base)
        for name in recipe.strategies
        if name not in lost
        for size in recipe.sizes
    ]
    smaller = {(one.strategy, one.n_train): one for one in made}
    for one in made:
        previous = max((size for size in recipe.sizes if size < one.n_train), default=None)
        if previous is not None and one.phonons is not None:
            other = smaller[one.strategy, previous].phonons
            one.phonon_change_thz = None if other is None else abs(other.mae_thz - one.phonons.mae_thz)
    made.sort(key=lambda one: one.phonons.mae_thz if one.phonons else one.valid_force_mae or 0.0)
    best = made[0] if made and made[0].phonons and base.phonons else None
    structure = material.structure()
    variants = [foundation] * (len(recipe.foundations) > 1) + [cell]
    reference = ReferenceReport()
    if recipe.mode == "comparison":
        drawn = Drawn.reference(is_unstable(index))
        reference.phonons = summary(
            recipe.constants.get("reference"), material, structure, drawn.side, displaced_cells(index)
        )
        if recipe.elastic:
            reference.elastic = elastic_document(structure, "reference", 0.0, 0.0, 0.0)
            reference.eos = eos_document(structure, "reference", 0.0)
    sizes = [f"-{size}" for size in recipe.sizes] if len(recipe.sizes) > 1 else [""]
    return MaterialReport(
        material=material.name,
        formula=material.formula,
        key=" ".join([material.name.lower(), *variants, *([f"s{turn}"] if turns > 1 else [])]),
        campaign=recipe.campaign,
        mode=recipe.mode,
        structure=json.loads(structure.to_json()),
        space_group=material.space_group,
        space_group_number=material.number,
        cell=cell,
        seed=turn,
        reference="synthetic numbers",
        rehearsal=True,
        sampling=_sampling(len(structure)),
        labels=_labels(recipe, material, structure),
        reference_result=reference,
        foundation=base,
        strategies=made,
        failed=[f"{name}{size}" for name in lost for size in sizes],
        notes=["synthetic: nothing was calculated"],
        best=best.strategy if best else None,
        gain=base.phonons.mae_thz / best.phonons.mae_thz if best and best.phonons and base.phonons else None,
        costs=_costs(recipe, material, index, made, len(structure)),
        manifest=Manifest(seed=turn, started="2026-01-01T00:00:00+00:00", wall_seconds=1.0),
    )


def _potential(
    recipe: _Recipe,
    material: SyntheticMaterial,
    index: int,
    place: tuple[str, str, int, str],
    factor: float,
    settings: Any,
    base: PotentialReport | None,
) -> PotentialReport:
    from phonosmith.analysis.judgement import verdict_on
    from phonosmith.evaluation.verdict import Thresholds, unfit

    foundation, strategy, n_train, _ = place
    structure = material.structure()
    values = {metric: factor * recipe.drawn(metric, place, index) for metric in METRICS}
    drawn = Drawn(values, is_unstable(index), called_unstable(index, strategy))
    compared = comparison(material, structure, drawn) if recipe.mode == "comparison" else None
    tuned = strategy != FOUNDATION
    kind = "tuned" if tuned else "foundation"
    name = f"{material.name.lower()}-{strategy}-{n_train}" if tuned else foundation
    valid = {which: values[which] for which in ("valid_force_mae", "valid_energy_mae", "valid_stress_mae")}
    entry = PotentialReport(
        strategy=strategy,
        potential=potential_ref(name, structure, digest_json([recipe.seed, material.name, *place, factor])),
        n_train=n_train,
        verdict=unfit("no_phonons", "not judged yet"),
        phonons=compared,
        summary=summary(recipe.constants.get(kind), material, structure, drawn.side, displaced_cells(index)),
        elastic=elastic_document(
            structure, name, *(values[f"{what}_percent"] for what in ("bulk_modulus", "shear_modulus", "slack"))
        )
        if recipe.elastic
        else None,
        eos=eos_document(structure, name, values["bulk_modulus_percent"]) if recipe.elastic else None,
        training_seconds=60 * TRAINING_MINUTES.get(strategy, 2.0) if tuned else None,
        train_force_mae=0.8 * values["valid_force_mae"] if tuned else None,
        n_parameters=20000 if tuned else None,
        n_changed=20000 if tuned else None,
        improved=True if tuned else None,
        curve=_curve(values["valid_force_mae"]) if tuned else None,
        **valid,
    )
    verdict = verdict_on(entry, Thresholds.of(settings), base.phonons if base else None)
    return entry.model_copy(update={"verdict": verdict})


def _curve(final: float) -> TrainingCurve:
    epochs = list(range(0, 51, 5))
    falling = [1 + 3 * float(np.exp(-epoch / 10)) for epoch in epochs]
    return TrainingCurve(
        epoch=epochs,
        train_loss=[None, *(0.01 * value for value in falling[1:])],
        valid_loss=[0.012 * value for value in falling],
        valid_force_mae=[final * value / falling[-1] for value in falling],
        best_epoch=epochs[-1],
        stop_reason="last epoch",
    )


def _sampling(n_atoms: int) -> SamplingSummary:
    steps = list(range(0, 41, 4))
    energies = [float(np.exp(-step / 8)) for step in steps]
    chosen = [0, 2, 4, 8]
    return SamplingSummary(
        cell="large",
        supercell_matrix=[[4, 0, 0], [0, 4, 0], [0, 0, 4]],
        n_atoms=64 * n_atoms,
        volume_factors=[0.96, 0.98, 1.0, 1.02, 1.04],
        steps=[steps] * 5,
        energies=[[0.02 * (1 + k) * value for value in energies] for k in range(5)],
        selected_steps=[[steps[i] for i in chosen]] * 5,
        selected_energies=[[0.02 * (1 + k) * energies[i] for i in chosen] for k in range(5)],
    )


def _labels(recipe: _Recipe, material: SyntheticMaterial, structure: Any) -> AuditedLabels:
    most = max(recipe.sizes)
    return AuditedLabels(
        material=material.name,
        train=dataset_ref(f"{material.name} train", structure, most),
        valid=dataset_ref(f"{material.name} valid", structure, 4),
        verdict="pass",
        n_excluded=0,
        n_failed=0,
        subsets={str(size): dataset_ref(f"{material.name} train {size}", structure, size) for size in recipe.sizes},
        label_seconds=3600 * LABEL_CORE_HOURS / REFERENCE_CORES * (most + 4),
        label_cores=REFERENCE_CORES,
    )


def _costs(
    recipe: _Recipe, material: SyntheticMaterial, index: int, made: list[PotentialReport], n_atoms: int
) -> list[Cost]:
    key, count = material.name.lower(), max(recipe.sizes) + 4
    hours = 3600 / REFERENCE_CORES
    costs = [
        Cost(stage="sample", name=f"sample {key} large", wall_seconds=100.0, cores=1, n_atoms=64 * n_atoms,
             n_calculations=20),
        Cost(stage="label", name=f"label {key}", wall_seconds=hours * LABEL_CORE_HOURS * count, cores=REFERENCE_CORES,
             n_atoms=64 * n_atoms, n_calculations=count),
    ]  # fmt: skip
    displaced = displaced_cells(index)
    if recipe.mode == "comparison":
        seconds = hours * DISPLACEMENT_CORE_HOURS * displaced
        costs.append(
            Cost(stage="phonon", name=f"phonon {key} reference", wall_seconds=seconds, cores=REFERENCE_CORES,
                 n_atoms=125 * n_atoms, n_calculations=displaced)
        )  # fmt: skip
    for one in made:
        ending = f"{key} {one.strategy}" + (f" {one.n_train}" if len(recipe.sizes) > 1 else "")
        costs += [
            Cost(stage="train", name=f"train {ending}", wall_seconds=one.training_seconds or 0.0, cores=8, gpus=1),
            Cost(stage="phonon", name=f"phonon {ending}", wall_seconds=5.0, cores=8, gpus=1, n_atoms=125 * n_atoms,
                 n_calculations=displaced),
        ]  # fmt: skip
    return costs


def store_reports(store: JobStore, reports: Sequence[MaterialReport]) -> list[str]:
    """Run one jobflow job for each report, so that the store holds them exactly as flows write them.

    Parameters
    ----------
    store
        Connected job store.
    reports
        What to write, oldest first.

    Returns
    -------
    list
        The jobs' uuids.
    """
    from jobflow import Job

    jobs = []
    for report in reports:
        made = Job(
            MaterialReport.model_copy,
            function_args=(report,),
            output_schema=MaterialReport,
            name=f"report {report.key or report.material.lower()}",
            metadata={"material": report.material, "campaign": report.campaign, "stage": "report"},
        )
        made.run(store=store)
        jobs.append(made.uuid)
    return jobs


def finished_jobs(store, names, **metadata):
    """Put finished jobs of these names into a store."""
    for name in names:
        document = {
            "uuid": f"{name} {metadata}",
            "index": 1,
            "name": name,
            "output": {"value": 1},
            "metadata": metadata,
        }
        store.update(document, key=["uuid", "index"])
