"""Fine-tune a foundation interatomic potential for one material and prove that its phonons can be trusted.

    import phonosmith as ps

    study = ps.tune("POSCAR", foundation="MACE-MP-0b3", reference="phonopy.yaml")
    print(study.verdict, study.table)

`tune` does one material in one call. The names below are what scripts use; each is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phonosmith.analysis.queries import read_results
    from phonosmith.engines.local.runner import LocalRunner
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.evaluation.mechanics.jobs import ElasticFlowMaker, EosFlowMaker
    from phonosmith.evaluation.modes.jobs import TransitionMaker
    from phonosmith.evaluation.phonons.comparison import compare_phonons
    from phonosmith.evaluation.phonons.jobs import PhononFlowMaker
    from phonosmith.evaluation.thermal.kappa import third_order_phonon
    from phonosmith.flows.adaptive import AdaptiveMaker
    from phonosmith.flows.material import FineTuneMaterialMaker
    from phonosmith.potentials.embedded import read_crystal
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.reference.engines import make_engine
    from phonosmith.reference.jobs import LabelMaker
    from phonosmith.sampling.jobs import SamplingMaker
    from phonosmith.study.study import Study
    from phonosmith.study.tune import tune
    from phonosmith.training.jobs import FineTuneMaker
    from phonosmith.training.spec import TrainSpec, make_spec

__version__ = "0.2.0"

_HOMES = {
    "AdaptiveMaker": "flows.adaptive",
    "ElasticFlowMaker": "evaluation.mechanics.jobs",
    "EosFlowMaker": "evaluation.mechanics.jobs",
    "FineTuneMaker": "training.jobs",
    "FineTuneMaterialMaker": "flows.material",
    "LabelMaker": "reference.jobs",
    "LocalRunner": "engines.local.runner",
    "PhononFlowMaker": "evaluation.phonons.jobs",
    "SamplingMaker": "sampling.jobs",
    "Study": "study.study",
    "TrainSpec": "training.spec",
    "TransitionMaker": "evaluation.modes.jobs",
    "compare_phonons": "evaluation.phonons.comparison",
    "load": "potentials.registry",
    "make_engine": "reference.engines",
    "make_spec": "training.spec",
    "open_embedded_jobstore": "engines.store.sqlite",
    "read_crystal": "potentials.embedded",
    "read_results": "analysis.queries",
    "resolve": "potentials.registry",
    "third_order_phonon": "evaluation.thermal.kappa",
    "tune": "study.tune",
}

__all__ = [
    "AdaptiveMaker",
    "ElasticFlowMaker",
    "EosFlowMaker",
    "FineTuneMaker",
    "FineTuneMaterialMaker",
    "LabelMaker",
    "LocalRunner",
    "PhononFlowMaker",
    "SamplingMaker",
    "Study",
    "TrainSpec",
    "TransitionMaker",
    "compare_phonons",
    "load",
    "make_engine",
    "make_spec",
    "open_embedded_jobstore",
    "read_crystal",
    "read_results",
    "resolve",
    "third_order_phonon",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phonosmith' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"phonosmith.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
