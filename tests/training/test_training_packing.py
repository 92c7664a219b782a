"""Trainings side by side: who begins when, who is stopped, and that a failure stays alone."""

import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from phonosmith.core.errors import TrainingError
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.training.assemble import Groundwork
from phonosmith.training.finetune import fine_tune, prepare
from phonosmith.training.packing import Planned, SideBySide
from phonosmith.training.spec import make_spec


@dataclass
class Fitter:
    """Counts epochs; ``fails``: what its n-th launch raises."""

    name: str
    said: list
    epochs: int = 3
    fails: dict = field(default_factory=dict)
    late_after: int | None = None
    launches: int = 0

    def __post_init__(self):
        self.device = torch.device("cpu")
        self.state = SimpleNamespace(seconds=0.0, finished=False, epoch=0)

    @property
    def over(self):
        return self.state.finished or self.state.epoch == self.late_after

    def begin(self, *, walltime, since):
        self.said.append(f"{self.name} begin")

    def launch_epoch(self):
        self.launches += 1
        if (error := self.fails.pop(self.launches, None)) is not None:
            raise error
        self.said.append(f"{self.name} launch")

    def finish_epoch(self):
        self.state.epoch += 1
        self.state.finished = self.state.epoch == self.epochs
        self.said.append(f"{self.name} finish")


def planned(fitters):
    """Return plans whose trainings give their names as results; one that begins again is prepared again."""
    return [
        Planned(one.name, lambda one=one: SimpleNamespace(fitter=one, result=lambda seconds: one.name), 1.0)
        for one in fitters
    ]


def test_epochs_take_turns_and_a_first_epoch_is_alone():
    """Nothing runs beside the beginning of a training: that is when its steps are recorded and its memory measured."""
    said = []
    outcomes = SideBySide().run(planned([Fitter("a", said), Fitter("b", said, epochs=2)]))
    assert [one.result for one in outcomes] == ["a", "b"]
    first = ["a begin", "a launch", "a finish", "b begin", "b launch", "b finish"]
    assert said == [*first, "a launch", "b launch", "a finish", "a launch", "b finish", "a finish"]


def test_one_at_a_time_is_one_after_another():
    said = []
    SideBySide(at_once=1).run(planned([Fitter("a", said, epochs=2), Fitter("b", said, epochs=1)]))
    assert said == ["a begin", *["a launch", "a finish"] * 2, "b begin", "b launch", "b finish"]


def test_a_failure_stays_alone_and_is_told_at_once():
    said, ended = [], []
    failing = [Fitter("a", said, fails={2: TrainingError("not finite")}), Fitter("b", said), Fitter("c", said)]
    plans = planned(failing)
    plans[2] = Planned("c", lambda: 1 / 0)
    outcomes = SideBySide(on_end=lambda one: ended.append(one.planned.name)).run(plans)
    assert [type(one.error) for one in outcomes] == [TrainingError, type(None), ZeroDivisionError]
    assert [one.result for one in outcomes] == [None, "b", None]
    assert ended == ["c", "a", "b"]


@pytest.mark.parametrize("launch", [1, 2])
def test_out_of_memory_beside_others_waits_for_them(launch):
    """It begins again when one has ended; alone it is an error."""
    said = []
    full = torch.cuda.OutOfMemoryError("full")
    fitters = [Fitter("a", said, epochs=4), Fitter("b", said, epochs=2), Fitter("c", said, fails={launch: full})]
    outcomes = SideBySide().run(planned(fitters))
    assert [one.result for one in outcomes] == ["a", "b", "c"]
    again = len(said) - 1 - said[::-1].index("c begin")
    assert said.count("c begin") == 2
    assert said.index("b finish") < again
    assert "b finish" not in said[again:]
    alone = SideBySide().run(planned([Fitter("a", said, fails={1: full})]))
    assert alone[0].error is full


def test_an_error_that_is_kept_holds_no_memory():
    """Neither the error nor its cause keeps what was computed when it was raised: the next training needs the room."""
    tensors = []

    def fails():
        graph = torch.ones(3)
        tensors.append(weakref.ref(graph))
        raise torch.cuda.OutOfMemoryError("full")

    def prepare():
        try:
            fails()
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError("no memory") from error

    (outcome,) = SideBySide().run([Planned("a", prepare)])
    assert isinstance(outcome.error, TrainingError)
    assert isinstance(outcome.error.__cause__, torch.cuda.OutOfMemoryError)
    assert tensors[0]() is None


def test_memory_decides_who_begins(monkeypatch):
    """What the first one took, with a margin, must be free, whoever else uses the device."""
    said = []
    free, held = [1000], [0]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free[0], 1000))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: held[0])
    fitters = [Fitter(name, said, epochs=2) for name in "abc"]

    def takes(fitter):
        launch, finish = fitter.launch_epoch, fitter.finish_epoch

        def launched():
            if fitter.launches == 0:
                held[0], free[0] = held[0] + 400, free[0] - 400
            launch()

        def finished():
            finish()
            if fitter.over:
                held[0], free[0] = held[0] - 400, free[0] + 400

        fitter.launch_epoch, fitter.finish_epoch = launched, finished

    for one in fitters:
        takes(one)
    outcomes = SideBySide(on_end=lambda one: said.append(f"{one.planned.name} end")).run(planned(fitters))
    assert [one.result for one in outcomes] == ["a", "b", "c"]
    # 600 are free for b (520 asked), then 200: c waits until one has ended
    assert said.index("b begin") < said.index("a end") < said.index("c begin") < said.index("c end")


def test_who_is_stopped_by_the_walltime_is_the_last_to_begin():
    said = []
    fitters = [Fitter("a", said, late_after=2), Fitter("b", said)]
    outcomes = SideBySide(at_once=1).run(planned(fitters))
    assert [one.result for one in outcomes] == ["a", None]
    assert outcomes[1].error is None
    assert "b begin" not in said


@pytest.mark.slow
def test_trainings_of_one_foundation_share_what_they_can(tiny_model, tiny_frames, monkeypatch):
    """Three strategies and a second size: bit for bit the models of single trainings; the foundation is judged once on
    each set, neighbours are sought once, and a training that diverges leaves the others alone."""
    from phonosmith.potentials import graphs
    from phonosmith.training import assemble as assembling

    searches, judgements = [], []
    search, judge = graphs.neighbours, assembling.predicted
    monkeypatch.setattr(graphs, "neighbours", lambda *what: searches.append(what) or search(*what))
    monkeypatch.setattr(assembling, "predicted", lambda *what: judgements.append(what) or judge(*what))
    module, train, valid = tiny_model(), tiny_frames(6), tiny_frames(2, 9)
    cases = [
        (make_spec("transfer", epochs=3), train),
        (make_spec("delta", epochs=2, dtype="float64", compile="graph"), train),
        (make_spec("transfer", epochs=2, lr=1e30, clip_norm=None), train),
        (make_spec("lora", epochs=2), train[:4]),
    ]
    ground = Groundwork(MacePotential(module))
    plans = [
        Planned(str(k), lambda spec=spec, some=some: prepare(ground, some, valid, spec, seed=1))
        for k, (spec, some) in enumerate(cases)
    ]
    outcomes = SideBySide().run(plans)
    # six training and two validation cells; whole and pruned model on one cell, the foundation on three sets
    assert len(searches) == 8
    assert sorted(len(what[2]) for what in judgements) == [1, 1, 2, 4, 6]
    assert isinstance(outcomes[2].error, TrainingError)
    assert "not finite" in str(outcomes[2].error)
    for (spec, some), one in zip(cases, outcomes, strict=True):
        if one.result is None:
            continue
        alone = fine_tune(MacePotential(module), some, valid, spec, seed=1)
        assert one.result.document.metrics == alone.document.metrics
        for a, b in zip(one.result.model.parameters(), alone.model.parameters(), strict=True):
            assert torch.equal(a, b)
    assert MaceBackend().atomic_numbers(module) == (13, 29)
