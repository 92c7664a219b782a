"""What a material will take, before anything runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ConfigDict, Field

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError
from phonosmith.structures.cost import CostModel, reciprocal_lengths, workload
from phonosmith.structures.reading import duplicate_groups, structure_warnings
from phonosmith.structures.standard import spacegroup_number, standard_primitive
from phonosmith.structures.supercell import SupercellChoice, SupercellRule, phonon_supercell, sampling_supercell

if TYPE_CHECKING:
    from pymatgen.core import Structure

Sizes = Literal["primitive", "small", "large"]

UNRELAXED_FORCE = 0.05
"""Largest force in eV/Å from which the foundation calls a structure unrelaxed."""
UNRELAXED_PRESSURE = 3.0
"""Pressure in GPa from which the foundation calls a structure unrelaxed (foundations err by 1-2 GPa themselves)."""


class PlanSettings(Document):
    """What is planned and what counts as too big."""

    model_config = ConfigDict(extra="forbid")

    cells: list[Sizes] = Field(["large"], description="fine-tuning cell sizes")
    frames_per_cell: int = Field(20, gt=0, description="DFT statics per cell size")
    training_frames: int = Field(16, gt=0, description="of these, training frames")
    kspacing: float = Field(0.1, gt=0, description="k-point spacing of the statics, Å⁻¹, VASP's convention")
    encut: float = Field(520.0, gt=0, description="plane-wave cutoff, eV")
    phonon_length: float = Field(20.0, gt=0, description="shortest edge of the DFT phonon supercell, Å")
    supercell: SupercellRule = Field("cubic", description="rule of the phonon supercell: cubic as published, compact")
    gamma_min_length: float = Field(18.0, gt=0, description="phonon supercells shorter than this get the k-mesh, Å")
    displacement: float = Field(0.01, gt=0, description="finite displacement, Å")
    qha_volumes: int = Field(0, ge=0, description="further volumes with phonons (quasi-harmonic properties); 0: none")
    kappa_length: float | None = Field(
        None, gt=0, description="shortest edge of the third-order supercell, Å; null: no conductivity"
    )
    max_atoms: int = Field(500, gt=0, description="atom cap of the fine-tuning cells")
    oversized_static: int = Field(250, gt=0, description="atoms from which a training cell is called oversized")
    oversized_phonon: int = Field(800, gt=0, description="atoms from which a phonon supercell is called oversized")
    epochs: int = Field(200, gt=0, description="training epochs")
    batch_size: int = Field(4, gt=0, description="training frames per step")


class CellPlan(Document):
    """One supercell and one DFT calculation in it."""

    supercell_matrix: list[list[int]] = Field(description="integer rows over the standard primitive cell")
    n_atoms: int
    lengths: list[float] = Field(description="Å")
    angles: list[float] = Field(description="degrees")
    kpoints: list[int] = Field(description="k-point mesh")
    n_kpoints: int = Field(description="points after time reversal")
    n_calculations: int = Field(description="DFT calculations in this cell")
    core_hours_each: float
    core_hours: float
    memory_gb: float = Field(description="orbitals of one calculation, GB over all ranks")


class MaterialPlan(Document):
    """One material."""

    source: str = Field(description="file or name")
    usable: bool = True
    error: str = Field("", description="why it cannot be used")
    formula: str = ""
    spacegroup: int | None = None
    n_atoms: int = Field(0, description="atoms of the given cell")
    n_atoms_primitive: int = 0
    cells: dict[str, CellPlan] = Field(default_factory=dict, description="fine-tuning cells by size")
    phonon: CellPlan | None = Field(None, description="DFT phonon reference")
    thermal: dict[str, CellPlan] = Field(
        default_factory=dict, description="displaced cells of expansion (qha) and conductivity (kappa), where asked"
    )
    n_statics: int = Field(0, description="DFT statics for fine-tuning")
    n_phonon_displacements: int = Field(0, description="displaced supercells of the DFT phonon reference")
    core_hours_statics: float = 0.0
    core_hours_phonons: float = 0.0
    core_hours_thermal: float = 0.0
    core_hours: float = 0.0
    memory_gb: float = Field(0.0, description="largest calculation, GB over all ranks")
    training_steps: int = Field(0, description="optimiser steps of one fine-tuning per cell size")
    recommendation: str = Field("", description="which calculations to pay for, with the numbers that say so")
    warnings: list[str] = Field(default_factory=list)


class Plan(Document):
    """All materials."""

    materials: list[MaterialPlan]
    n_statics: int
    n_phonon_displacements: int
    core_hours: float
    core_hours_spread: float = Field(description="factor by which core-hours are typically off")
    calibrated_on: int = Field(description="finished calculations behind the cost model; 0: default")
    memory_gb: float
    training_steps: int
    warnings: list[str] = Field(default_factory=list, description="not about one material alone")


def missing_potcars(symbols: Sequence[str]) -> list[str]:
    """Return which POTCARs (names as ``K_sv``) pymatgen cannot find; all of them without a POTCAR folder."""
    from pymatgen.io.vasp.inputs import PotcarSingle

    missing = []
    for symbol in symbols:
        try:
            PotcarSingle.from_symbol_and_functional(symbol, "PBE_54")
        except Exception:  # noqa: BLE001 - pymatgen has its own kinds for no folder, no file, unreadable file
            missing.append(symbol)
    return missing


def phonon_displacements(structure: Structure, choice: SupercellChoice, distance: float = 0.01) -> int:
    """Return how many displaced supercells phonopy asks for (``distance`` in Å)."""
    from phonopy import Phonopy
    from pymatgen.io.phonopy import get_phonopy_structure

    with warnings.catch_warnings():
        # a near-cubic cell of a hexagonal crystal breaks its symmetry on purpose
        warnings.filterwarnings("ignore", message=".*[Pp]oint group symmetries.*")
        phonon = Phonopy(get_phonopy_structure(structure), choice.phonopy_matrix, primitive_matrix="P", symprec=1e-4)
        phonon.generate_displacements(distance=distance)
    return len(phonon.displacements)


def third_order_displacements(structure: Structure, choice: SupercellChoice) -> int:
    """Return how many displaced supercells phono3py asks for."""
    try:
        from phono3py import Phono3py
    except ImportError as error:
        raise ConfigurationError(
            "Counting third-order cells needs phono3py.", "Install it with: pip install 'phonosmith[kappa]'."
        ) from error
    from pymatgen.io.phonopy import get_phonopy_structure

    cell = get_phonopy_structure(structure)
    phonon = Phono3py(cell, choice.phonopy_matrix, primitive_matrix="auto", symprec=1e-4, log_level=0)
    phonon.generate_displacements()
    return sum(cell is not None for cell in phonon.supercells_with_displacements)


def recommendation(statics: float, phonons: float) -> str:
    """Say which calculations to pay for, from the core-hours of labels and of the DFT phonons."""
    if phonons < statics:
        return (
            f"the DFT phonons ({phonons:,.0f} core-hours) are cheaper than the labels ({statics:,.0f}): calculate the "
            "phonons and fine-tune from them ('phonosmith tune phonopy.yaml'); labels are for what lies beyond "
            "harmonic phonons (other volumes, larger displacements)"
        )
    return (
        f"the labels ({statics:,.0f} core-hours) are cheaper than the DFT phonons ({phonons:,.0f}): a campaign with "
        "'mode: production' judges without them"
    )


def plan_material(
    structure: Structure,
    source: str = "",
    settings: PlanSettings | None = None,
    *,
    cost: CostModel | None = None,
    elements: Sequence[str] | None = None,
    potcars: Mapping[str, str] | None = None,
    residual: Callable[[Structure], tuple[float, float]] | None = None,
) -> MaterialPlan:
    """Return cells, calculations, cost and warnings of one material.

    Parameters
    ----------
    source
        File or name.
    settings
        Defaults to the published protocol in the large cell.
    elements
        What the foundation covers; None when no foundation was named.
    potcars
        POTCAR name by element.
    residual
        Returns largest force in eV/Å and pressure in GPa of a structure under the foundation.
    """
    settings, cost = settings or PlanSettings(), cost or CostModel()
    primitive = standard_primitive(structure)
    notes = structure_warnings(structure)

    def planned(choice: SupercellChoice, name: str, kspacing: float | None, n_calculations: int) -> CellPlan:
        notes.extend(f"{name.replace('super', '')}: {note}" for note in choice.warnings)
        if choice.n_atoms > (settings.oversized_phonon if "phonon" in name else settings.oversized_static):
            notes.append(f"oversized: the {name} has {choice.n_atoms} atoms")
        load = workload(choice.build(primitive), kspacing=kspacing, encut=settings.encut, potcars=potcars)
        each = cost.core_hours(load.work)
        return CellPlan(
            supercell_matrix=[list(row) for row in choice.matrix],
            n_atoms=choice.n_atoms,
            lengths=list(choice.lengths),
            angles=list(choice.angles),
            kpoints=list(load.kpoints),
            n_kpoints=load.n_kpoints,
            n_calculations=n_calculations,
            core_hours_each=each,
            core_hours=each * n_calculations,
            memory_gb=load.memory_gb,
        )

    cells = {}
    for size in dict.fromkeys(settings.cells):
        choice = sampling_supercell(primitive, size, max_atoms=max(settings.max_atoms, len(primitive)))
        cells[size] = planned(choice, f"{size} cell", settings.kspacing, settings.frames_per_cell)
    choice = phonon_supercell(primitive, settings.phonon_length, rule=settings.supercell)
    displaced = phonon_displacements(primitive, choice, settings.displacement)
    thickness = 2 * np.pi / reciprocal_lengths(choice.build(primitive).lattice.matrix)
    meshed = settings.kspacing if thickness.min() < settings.gamma_min_length else None
    phonon = planned(choice, "phonon supercell", meshed, displaced)
    thermal = {}
    if settings.qha_volumes:
        thermal["qha"] = planned(choice, "phonon supercell", meshed, settings.qha_volumes * displaced)
    if settings.kappa_length is not None:
        smaller = phonon_supercell(primitive, settings.kappa_length, rule=settings.supercell)
        pairs = third_order_displacements(primitive, smaller)
        thermal["kappa"] = planned(smaller, "third-order supercell", settings.kspacing, pairs)
    symbols = sorted({site.specie.symbol for site in primitive})
    if elements is not None and (unknown := [symbol for symbol in symbols if symbol not in elements]):
        notes.append(f"the foundation does not know {', '.join(unknown)}")
    elif residual is not None:
        force, pressure = residual(primitive)
        if force > UNRELAXED_FORCE or abs(pressure) > UNRELAXED_PRESSURE:
            notes.append(
                f"perhaps not relaxed: the foundation finds forces up to {force:.2f} eV/Å and a pressure of "
                f"{pressure:.1f} GPa"
            )
    statics, heat = (sum(cell.core_hours for cell in some.values()) for some in (cells, thermal))
    return MaterialPlan(
        source=source,
        formula=structure.composition.reduced_formula,
        spacegroup=spacegroup_number(structure),
        n_atoms=len(structure),
        n_atoms_primitive=len(primitive),
        cells=cells,
        phonon=phonon,
        thermal=thermal,
        n_statics=settings.frames_per_cell * len(cells),
        n_phonon_displacements=displaced,
        core_hours_statics=statics,
        core_hours_phonons=phonon.core_hours,
        core_hours_thermal=heat,
        core_hours=statics + phonon.core_hours + heat,
        memory_gb=max(cell.memory_gb for cell in (*cells.values(), phonon, *thermal.values())),
        training_steps=settings.epochs * math.ceil(settings.training_frames / settings.batch_size),
        recommendation=recommendation(statics, phonon.core_hours),
        warnings=list(dict.fromkeys(notes)),
    )


def combine(
    materials: Sequence[MaterialPlan],
    structures: Sequence[Structure],
    *,
    cost: CostModel | None = None,
    potcars: Mapping[str, str] | None = None,
) -> Plan:
    """Add up the plans of many materials (unusable ones included) and look for what concerns several of them.

    ``structures`` are those of the usable ones, in the same order; ``potcars`` names POTCARs by element.
    """
    cost = cost or CostModel()
    notes: list[str] = []
    usable = [material for material in materials if material.usable]
    for group in duplicate_groups(structures):
        names = ", ".join(usable[index].source for index in group)
        notes.append(f"the same crystal more than once: {names}")
        for index in group[1:]:
            usable[index].warnings.append(f"duplicate of {usable[group[0]].source}")
    wanted = {site.specie.symbol for structure in structures for site in structure}
    if missing := missing_potcars(sorted((potcars or {}).get(symbol, symbol) for symbol in wanted)):
        shown = ", ".join(missing)
        notes.append(f"POTCARs not found: {shown} (set PMG_VASP_PSP_DIR; see pymatgen's 'pmg config -p')")
    return Plan(
        materials=list(materials),
        n_statics=sum(material.n_statics for material in usable),
        n_phonon_displacements=sum(material.n_phonon_displacements for material in usable),
        core_hours=sum(material.core_hours for material in usable),
        core_hours_spread=cost.spread,
        calibrated_on=cost.n_calibration,
        memory_gb=max((material.memory_gb for material in usable), default=0.0),
        training_steps=sum(material.training_steps * len(material.cells) for material in usable),
        warnings=notes,
    )
