import pytest
from jobflow import run_locally
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.analysis.learning import LearningCurveReport, learning_curves
from phonosmith.core.errors import ConfigurationError
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.verdict import Verdict
from phonosmith.flows.learning import LearningCurveMaker
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine


def entry(n_train, *, fit):
    verdict = Verdict(fit=fit, reasons=[], thresholds={})
    return PotentialReport.model_construct(strategy="delta", n_train=n_train, verdict=verdict)


def test_a_size_suffices_when_every_larger_one_is_fit_too():
    verdicts = {4: True, 8: False, 12: True, 16: True}
    report = MaterialReport.model_construct(strategies=[entry(n, fit=fit) for n, fit in reversed(verdicts.items())])
    (curve,) = learning_curves(report)
    assert [point.n_train for point in curve.points] == [4, 8, 12, 16]
    assert curve.sufficient == 12
    (never,) = learning_curves(MaterialReport.model_construct(strategies=[entry(16, fit=False)]))
    assert never.sufficient is None


def test_one_size_is_no_curve():
    with pytest.raises(ConfigurationError, match="two training-set sizes"):
        LearningCurveMaker(sizes=(4, 4)).make(None, None)


@pytest.mark.slow
def test_the_curve_is_that_of_the_report(tmp_path):
    maker = FineTuneMaterialMaker(
        engine=make_engine("forcefield", potential="embedded-reference"),
        strategies=("transfer",),
        training={"epochs": 1},
        sampling={"cell": "primitive", "max_steps": 10},
        min_length=6.0,
        mesh=4,
        evaluate=("phonons",),
    )
    flow = LearningCurveMaker(maker=maker, sizes=(2, 6)).make(
        AseAtomsAdaptor.get_structure(demo_structure("Si")), resolve("embedded")
    )
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=tmp_path, raise_immediately=True)
    curve, report = (
        kind.model_validate(store.query_one({"name": name}, load=True)["output"])
        for kind, name in ((LearningCurveReport, "curve si"), (MaterialReport, "report si"))
    )
    (transfer,) = curve.curves
    expected = {entry.n_train: entry.phonons.mae_thz for entry in report.strategies}
    assert {point.n_train: point.phonon_mae_thz for point in transfer.points} == expected
    assert set(expected) == {2, 6}
    assert curve.foundation_force_mae == report.foundation.valid_force_mae > 0
