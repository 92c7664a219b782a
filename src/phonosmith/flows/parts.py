"""Jobs of one material that several potentials share: each is made once and its output handed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, JobConfig

from phonosmith.evaluation.forgetting.jobs import ForgettingMaker
from phonosmith.evaluation.mechanics.jobs import ElasticFlowMaker, EosFlowMaker, FastElasticMaker, FastEosMaker
from phonosmith.evaluation.modes.jobs import ModeFollowingMaker, TransitionMaker
from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell
from phonosmith.evaluation.phonons.jobs import FastPhononMaker
from phonosmith.flows.checks import check_cells
from phonosmith.flows.jobs import (
    audit_material,
    force_constants_file,
    replay_material,
    start_needed_labels,
    training_subset,
)
from phonosmith.flows.program_costs import program_cost_job
from phonosmith.flows.reference_phonons import engine_potential, reference_phonons
from phonosmith.reference.jobs import LabelMaker
from phonosmith.sampling.jobs import SamplingMaker

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.flows.material import FineTuneMaterialMaker
    from phonosmith.potentials.documents import PotentialRef


_STAGES = {"phonons": "phonon", "elastic": "elastic", "eos": "eos"}


@dataclass
class MaterialParts:
    """Everything that is calculated once per material, whatever the foundations, strategies, sizes and seeds.

    Attributes
    ----------
    maker
        Settings; what tells apart variants (cell, seeds, foundation) is given to the methods.
    structure
        The crystal.
    key
        Lower-case name of the material in job names.
    jobs
        Jobs made so far, in order.
    """

    maker: FineTuneMaterialMaker
    structure: Structure
    key: str
    jobs: list[Job | Flow] = field(default_factory=list)
    _made: dict[tuple[str, ...], Any] = field(default_factory=dict)
    _flows: dict[tuple[str, ...], Job | Flow] = field(default_factory=dict)

    def _once(self, what: tuple[str, ...], make: Callable[[], Job | Flow]) -> Any:
        """Return the output of a job, made the first time it is asked for."""
        if what not in self._made:
            member = make()
            self.jobs.append(member)
            self._flows[what] = member
            self._made[what] = member.output
        return self._made[what]

    @property
    def matrix(self) -> list[list[int]]:
        """Supercell of phonons."""
        if ("matrix",) not in self._made:
            self._made["matrix",] = choose_phonon_supercell(self.structure, self.maker.min_length)
        found: list[list[int]] = self._made["matrix",]
        return found

    def reference(self) -> dict[str, Any]:
        """Return the reference's results by kind: its phonons where they are paid for, and what else was asked."""
        maker, key = self.maker, self.key
        engine = maker.require_engine()
        known = engine_potential(engine)
        found: dict[str, Any] = {}
        if maker.mode == "comparison":
            found["phonons"] = self._once(
                ("reference", "phonons"),
                lambda: reference_phonons(self.structure, engine, self.matrix, f"phonon {key} reference", maker.mesh),
            )
        if known is not None:
            found |= self._properties(known, "reference", f"{key} reference")
            if "phonons" in found:
                found |= self._followed(found["phonons"], known, "reference", f"{key} reference")
            return found
        if maker.mode == "comparison" and "elastic" in maker.evaluate:
            found["elastic"] = self._once(
                ("reference", "elastic"),
                lambda: ElasticFlowMaker(name=f"elastic {key} reference", engine=engine).make(self.structure),
            )
        if maker.mode == "comparison" and "eos" in maker.evaluate:
            found["eos"] = self._once(
                ("reference", "eos"),
                lambda: EosFlowMaker(name=f"eos {key} reference", engine=engine).make(self.structure),
            )
        if "phonons" in found and "transitions" in maker.evaluate:
            follow = partial(TransitionMaker(engine=engine).make, found["phonons"], f"{key} reference")
            found["transitions"] = self._once(("reference", "transitions"), follow)
        if engine.name == "vasp":
            found["costs"] = [
                self._once(
                    ("cost", kind), partial(program_cost_job, _STAGES[kind], key, self._flows["reference", kind])
                )
                for kind in _STAGES
                if kind in found
            ]
        return found

    def _properties(self, potential: Any, owner: str, name: str) -> dict[str, Any]:
        """Return what is asked of a potential besides phonons."""
        found: dict[str, Any] = {}
        if owner == "reference" and self.maker.mode != "comparison":
            return found
        if "elastic" in self.maker.evaluate:
            found["elastic"] = self._once(
                (owner, "elastic"), lambda: FastElasticMaker(name=f"elastic {name}").make(self.structure, potential)
            )
        if "eos" in self.maker.evaluate:
            found["eos"] = self._once(
                (owner, "eos"), lambda: FastEosMaker(name=f"eos {name}").make(self.structure, potential)
            )
        return found

    def potential(self, potential: Any, owner: str, name: str) -> dict[str, Any]:
        """Return the results of a potential by kind; the same owner is calculated once.

        Parameters
        ----------
        potential
            PotentialRef or the output that will be one.
        owner
            Whose results: tells one potential of the material from another.
        name
            What follows the stage in job names, e.g. ``si foundation``.
        """
        phonons = self._once(
            (owner, "phonons"),
            lambda: FastPhononMaker(name=f"phonon {name}", mesh=self.maker.mesh).make(
                self.structure, potential, self.matrix
            ),
        )
        found = {"phonons": phonons} | self._properties(potential, owner, name)
        return found | self._followed(phonons, potential, owner, name)

    def _followed(self, phonons: Any, potential: Any, owner: str, name: str) -> dict[str, Any]:
        """Return what following the imaginary modes of a potential finds, where asked."""
        if "transitions" not in self.maker.evaluate:
            return {}
        make = partial(ModeFollowingMaker(name=f"follow {name}").make, phonons, potential)
        return {"transitions": self._once((owner, "transitions"), make)}

    def forgetting(self, tuned: Any, foundation: PotentialRef, name: str, replay: Any = None) -> dict[str, Any]:
        """Return a trained potential's errors where it was not tuned, where asked.

        They are against the reference where it is a potential itself, else against the foundation.
        """
        if "forgetting" not in self.maker.evaluate:
            return {}
        known = engine_potential(self.maker.require_engine())
        made = ForgettingMaker(name=f"forgetting {name}", seed=self.maker.draw_seed).make(
            self.structure, tuned, foundation, reference=known, replay=replay
        )
        self.jobs.append(made)
        return {"forgetting": made.output}

    def labels(self, sampler: PotentialRef, key: str) -> tuple[Any, Any]:
        """Return sampling and audited labels for the sampling settings of the maker.

        Parameters
        ----------
        sampler
            Potential that relaxes the configurations.
        key
            What the jobs call the material: the settings must be the same wherever the key is.
        """
        maker = self.maker
        cell = str(maker.sampling.get("cell", "large"))

        def make_sample() -> Job:
            made = SamplingMaker(settings=dict(maker.sampling), seed=maker.draw_seed).make(self.structure, sampler)
            made.name = f"sample {key} {cell}"
            return made

        def make_labels() -> Job:
            needed = max(maker.sizes) if maker.sizes else None
            made = start_needed_labels(sample, LabelMaker(engine=maker.require_engine()), key, needed)
            made.name = f"label {key} start"
            # the label jobs belong to the worker of the reference program, not to the one that starts them
            made.config = JobConfig(pass_manager_config=False)
            return made

        def make_audit() -> Job:
            made = audit_material(labels)
            made.name = f"audit {key}"
            return made

        sample = self._once(("sample", key), make_sample)
        labels = self._once(("label", key), make_labels)
        return sample, self._once(("audit", key), make_audit)

    def training_set(self, audited: Any, size: int | None, key: str) -> Any:
        """Return the training labels, or the first so many of them."""
        if size is None:
            return audited.train

        def make() -> Job:
            made = training_subset(audited.train, size)
            made.name = f"subset {key} {size}"
            return made

        return self._once(("subset", key, str(size)), make)

    def checks(self) -> Any:
        """Return the labels of a few displaced cells, or None where none are asked."""
        maker = self.maker
        if maker.mode != "production" or maker.n_checks == 0:
            return None

        def make() -> Flow:
            matrix = choose_phonon_supercell(self.structure, maker.check_min_length)
            cells = check_cells(self.structure, matrix, maker.n_checks)
            return LabelMaker(engine=maker.require_engine(), fraction=0.01).make(cells, f"{self.key} check")

        return self._once(("check",), make)

    def curvature(self) -> Any:
        """Return the force constants that supervise curvature."""
        maker, key = self.maker, self.key
        small = choose_phonon_supercell(self.structure, maker.curvature_min_length)
        if maker.mode == "comparison" and small == self.matrix:
            phonons = self.reference()["phonons"]
        else:
            phonons = self._once(
                ("curvature", "phonons"),
                lambda: reference_phonons(
                    self.structure, maker.require_engine(), small, f"phonon {key} curvature", maker.mesh
                ),
            )

        def make() -> Job:
            made = force_constants_file(phonons)
            made.name = f"curvature {key}"
            return made

        return self._once(("curvature", "file"), make)

    def replay(self, foundation: PotentialRef, key: str, size: int) -> Any:
        """Return replay structures: those given, or simple crystals labelled by the foundation."""
        if self.maker.replay is not None:
            return self.maker.replay

        def make() -> Job:
            elements = list(dict.fromkeys(site.specie.symbol for site in self.structure))
            made = replay_material(foundation, elements, size, self.maker.draw_seed)
            made.name = f"replay {key}"
            return made

        return self._once(("replay", foundation.sha256, str(size)), make)
