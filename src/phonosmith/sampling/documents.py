"""Settings and records of the sampling stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator, model_validator

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.document import Document
from phonosmith.core.manifest import Manifest
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    from pymatgen.core import Structure

CellSize = Literal["primitive", "small", "large"]


class SamplingSettings(Document):
    """Everything that decides which configurations are drawn; the defaults are the published protocol."""

    model_config = ConfigDict(extra="forbid")

    cell: CellSize = Field("large", description="primitive; small: edges 5-10 Å; large: edges 10-15 Å, near-cubic")
    supercell_matrix: list[list[int]] | None = Field(
        None, description="three rows of integers over the standard primitive cell, instead of the rule for `cell`"
    )
    max_atoms: int = Field(500, gt=0, description="atom cap of the supercell rule")
    symprec: float = Field(1e-3, gt=0, description="symmetry tolerance of the standard primitive cell, Å")
    volume_factors: list[float] = Field(
        [0.95, 0.975, 1.0, 1.025, 1.05], description="volumes of the ladder, see volume_of; 1 is validation"
    )
    volume_of: Literal["distorted", "supercell"] = Field(
        "distorted",
        description="what the factors multiply: the volume of the distorted lattice, as published, or that of the "
        "unstrained supercell (the distortion alone changes it by up to 6 %, which blurs the ladder)",
    )
    mean_displacement: float = Field(0.1, ge=0, description="mean length of the rattle displacements, Å")
    strain: float = Field(0.02, ge=0, lt=0.5, description="largest relative change of a lattice length or angle")
    rattle_cycles: int = Field(10, gt=0, description="Monte Carlo cycles of the rattle")
    rattle_distance_fraction: float = Field(
        0.85, gt=0, lt=1, description="shortest distance while rattling over the shortest one in the perfect crystal"
    )
    fmax: float = Field(1e-4, gt=0, description="relaxations end at this largest force, eV/Å")
    max_steps: int = Field(1000, ge=0, description="steps of a relaxation before it is continued, see max_rounds")
    max_rounds: int = Field(5, ge=1, description="how often a relaxation that has not converged gets that many steps")
    unconverged: Literal["leave_out", "use"] = Field(
        "leave_out",
        description="trajectories that have not converged then: left out unless their energy has settled, or used",
    )
    relax_cell: Literal["fixed", "shape", "full"] = Field(
        "fixed", description="cell during relaxation: fixed (protocol), shape at constant volume, or free"
    )
    n_select: int = Field(4, gt=0, description="frames per trajectory")
    energy_fraction: float = Field(0.9, gt=0, le=1, description="part of the energy drop the frames span")
    energy_tolerance: float = Field(
        0.05,
        gt=0,
        description="where no step is this near to its rung, as a part of the energy drop, a configuration between two "
        "steps is taken",
    )
    min_distance_fraction: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="frames with atoms nearer than this over the shortest crystal distance are left out",
    )
    max_force: float = Field(30.0, gt=0, description="frames with a larger force are left out, eV/Å")
    duplicate_tolerance: float = Field(
        1e-3, ge=0, description="frames of one trajectory in which no atom moved further are near-duplicates, Å"
    )
    duplicates: Literal["drop", "flag"] = Field("drop", description="what happens to near-duplicates")

    @field_validator("supercell_matrix", mode="before")
    @classmethod
    def _is_a_matrix(cls, value: object) -> object:
        rows = value if isinstance(value, list) else []
        whole = len(rows) == 3 and all(isinstance(row, list) and len(row) == 3 for row in rows)
        whole = whole and all(type(number) is int and abs(number) <= 1000 for row in rows for number in row)
        if value is not None and (not whole or round(abs(float(np.linalg.det(np.array(rows, dtype=float))))) == 0):
            raise ValueError(
                "give three independent rows of integers, multiples of the vectors of the standard primitive cell, "
                "e.g. [[2, 0, 0], [0, 2, 0], [0, 0, 2]]; a word like 2x2x2 does not say of which cell"
            )
        return value

    @model_validator(mode="after")
    def _has_validation(self) -> SamplingSettings:
        if not any(abs(factor - 1.0) < 1e-9 for factor in self.volume_factors):
            raise ValueError("volume_factors must include 1.0: that trajectory is the validation set")
        if len({round(factor, 9) for factor in self.volume_factors}) < len(self.volume_factors):
            raise ValueError("volume_factors must differ from each other")
        return self


class CellRecord(Document):
    """A crystal as plain numbers."""

    lattice: list[list[float]] = Field(description="row vectors, Å")
    symbols: list[str] = Field(description="chemical symbols")
    fractional: list[list[float]] = Field(description="fractional coordinates")

    @classmethod
    def of(cls, structure: Structure) -> CellRecord:
        """Take the numbers of a pymatgen structure."""
        return cls(
            lattice=structure.lattice.matrix.tolist(),
            symbols=[site.specie.symbol for site in structure],
            fractional=structure.frac_coords.tolist(),
        )

    def structure(self) -> Structure:
        """Return the pymatgen structure with exactly these numbers."""
        from pymatgen.core import Structure

        return Structure(self.lattice, self.symbols, self.fractional)


class FrameRecord(Document):
    """One chosen configuration."""

    digest: str = Field(description="sha256 of cell, species and positions")
    layer: int = Field(description="0 = outermost (start of the relaxation)")
    step: int = Field(description="step of the relaxation")
    between: float = Field(0.0, description="part of the way from that step to the next")
    target_energy: float = Field(description="rung of the energy ladder, foundation, eV")
    energy: float = Field(description="foundation energy, eV")
    energy_fraction: float = Field(description="achieved fraction of the energy drop")
    max_force: float = Field(description="largest foundation force on an atom, eV/Å")
    min_distance: float = Field(description="shortest interatomic distance, Å")
    split: Literal["train", "valid", "dropped"] = Field(description="where it went")
    position: int | None = Field(None, description="index in the training or validation list")
    reason: str = Field("", description="why it was dropped or flagged")


class ConfigurationRecord(Document):
    """One rung of the volume ladder: draws, relaxation, chosen frames."""

    volume_factor: float = Field(description="volume over that of the distorted lattice or of the supercell")
    volume: float = Field(description="Å³")
    rattle_seed: int
    strain_seed: int
    sigma: float = Field(description="calibrated standard deviation of one Monte Carlo step, Å")
    mean_displacement: float = Field(description="achieved mean displacement in the unstrained supercell, Å")
    rattle_min_distance: float = Field(description="shortest distance allowed while rattling, Å")
    length_factors: list[float] = Field(description="random factors on a, b, c")
    angle_factors: list[float] = Field(description="random factors on alpha, beta, gamma")
    strain_volume_factor: float = Field(
        description="volume over that of the supercell after the random distortion alone"
    )
    scale: float = Field(description="isotropic factor on lengths after the distortion, which set the volume")
    lengths: list[float] = Field(description="edges of the final cell, Å")
    angles: list[float] = Field(description="angles of the final cell, degrees")
    start_digest: str = Field(description="sha256 of the starting configuration")
    converged: bool = Field(description="whether the relaxation reached fmax")
    n_steps: int = Field(description="steps of the relaxation")
    final_fmax: float = Field(description="largest force at its end, eV/Å")
    energies: list[float] = Field(description="foundation energy at every step, eV")
    frames: list[FrameRecord] = Field(default_factory=list)


class SupercellRecord(Document):
    """The supercell the configurations live in."""

    matrix: list[list[int]] = Field(description="integer rows: supercell = matrix @ primitive vectors")
    n_atoms: int
    lengths: list[float] = Field(description="Å")
    angles: list[float] = Field(description="degrees")


class SamplingDoc(Document):
    """Result of the sampling stage; `phonosmith.sampling.protocol.regenerate` rebuilds the frames from it."""

    manifest: Manifest
    formula: str
    seed: int
    settings: SamplingSettings
    potential: PotentialRef | None = Field(None, description="foundation that drove the relaxations")
    primitive: CellRecord = Field(description="standard primitive cell the supercell matrix refers to")
    supercell: SupercellRecord
    configurations: list[ConfigurationRecord]
    train: ArtefactRef | None = Field(None, description="training frames, extended XYZ, outermost first, unlabelled")
    valid: ArtefactRef | None = Field(None, description="validation frames, extended XYZ, unlabelled")
    train_digests: list[str] = Field(description="identities of the training frames in order")
    valid_digests: list[str] = Field(description="identities of the validation frames in order")
    warnings: list[str] = Field(default_factory=list)

    @property
    def n_train(self) -> int:
        """Training frames."""
        return len(self.train_digests)

    @property
    def n_valid(self) -> int:
        """Validation frames."""
        return len(self.valid_digests)

    @property
    def converged(self) -> list[bool]:
        """Whether each relaxation converged."""
        return [configuration.converged for configuration in self.configurations]
