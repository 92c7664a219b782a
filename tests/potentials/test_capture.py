"""Recorded evaluations are those of the potential; what records here is a stand-in with the rules of a CUDA graph."""

import gc
import sys
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase.build import bulk

from helpers.recorder import fake_capture
from phonosmith.potentials import capture
from phonosmith.potentials.capture import RECORD_AFTER, CudaCapture, Recorded, rounded
from phonosmith.potentials.graphs import Shape
from phonosmith.sampling.fire import relax_batch

EXACT = {"rtol": 0, "atol": 1e-10}
"""float64: padding changes the order of sums, no more (eV, eV/Å, eV/Å³)."""


class FakeCapture:
    """Counts recordings and replays; fails as a GPU does when it is told to."""

    def __init__(self, error=None):
        self.error, self.recordings, self.replays = error, 0, 0

    def __call__(self, action):
        if self.error is not None:
            raise self.error
        self.recordings += 1
        again = fake_capture(action)

        def replay():
            self.replays += 1
            again()

        return replay


@pytest.fixture
def fake():
    return FakeCapture()


@pytest.fixture
def recorded(potential, fake):
    """Return the potential with recordings, and itself without."""
    potential.recorded = Recorded(potential._outputs, fake)
    return potential


def frames_of(crystal, count, repeat=(1, 1, 1)):
    return [crystal(seed).repeat(repeat) for seed in range(count)]


def looped(potential, frames, *, stress=True):
    """Evaluate one by one with the ASE calculator of a potential without recordings."""
    own, potential.recorded = potential.recorded, None
    try:
        found = []
        for atoms in frames:
            copy = atoms.copy()
            copy.calc = potential.calculator()
            found.append((copy.get_potential_energy(), copy.get_forces(), copy.get_stress() if stress else np.zeros(6)))
        return found
    finally:
        potential.recorded = own


def agree(evaluated, expected):
    for one, (energy, forces, stress) in zip(evaluated, expected, strict=True):
        np.testing.assert_allclose(one.energy, energy, **EXACT)
        np.testing.assert_allclose(one.forces, forces, **EXACT)
        np.testing.assert_allclose(one.stress, stress, **EXACT)


def test_replays_agree_with_a_loop_of_the_calculator(recorded, fake, crystal):
    """New positions, cells, species and neighbours in the memory of the first batch."""
    for step in range(RECORD_AFTER + 4):
        frames = frames_of(crystal, 3)
        for k, atoms in enumerate(frames):
            atoms.rattle(0.02, seed=10 * step + k)
            atoms.set_cell(atoms.cell.array * (1 + 0.003 * step), scale_atoms=True)
            atoms.numbers[step % 8] = 14
        agree(recorded.evaluate(frames), looped(recorded, frames))
    assert fake.recordings >= 1
    assert fake.replays >= 3


def test_a_single_pass_over_many_cells_records_nothing(recorded, fake, crystal):
    recorded.evaluate(frames_of(crystal, 5, (2, 1, 1)))
    assert fake.recordings == 0


def test_smaller_batches_share_a_recording_and_much_smaller_ones_do_not(recorded, fake, crystal):
    frames = frames_of(crystal, 8)
    for _ in range(RECORD_AFTER + 1):
        recorded.evaluate(frames)
    assert (fake.recordings, fake.replays) == (1, 1)
    agree(recorded.evaluate(frames[:5]), looped(recorded, frames[:5]))
    assert (fake.recordings, fake.replays) == (1, 2)
    agree(recorded.evaluate(frames[:2]), looped(recorded, frames[:2]))
    assert (fake.recordings, fake.replays) == (1, 2), "most of the work would be for dummies"


def test_stress_is_another_recording(recorded, fake, crystal):
    frames = frames_of(crystal, 2)
    for _ in range(RECORD_AFTER + 2):
        recorded.evaluate(frames)
        agree(recorded.evaluate(frames, stress=False), looped(recorded, frames, stress=False))
    assert fake.recordings == 2


def test_weights_that_change_are_seen(recorded, fake, crystal):
    """In place they are read anew; tensors put in another's place are recorded again."""
    frames = frames_of(crystal, 2)
    for _ in range(RECORD_AFTER + 2):
        recorded.evaluate(frames)
    with torch.no_grad():
        for parameter in recorded.model.parameters():
            parameter.mul_(1.1)
    agree(recorded.evaluate(frames), looped(recorded, frames))
    assert (fake.recordings, fake.replays) == (1, 3)
    recorded.backend.set_atomic_energies(recorded.model, 0, np.array([-3.0, -4.0]))
    agree(recorded.evaluate(frames), looped(recorded, frames))
    assert fake.recordings == 2


def test_the_least_used_recording_goes(recorded, fake, crystal, monkeypatch):
    monkeypatch.setattr(capture, "MOST_RECORDINGS", 2)
    small, middle, large = (frames_of(crystal, count) for count in (1, 3, 8))
    for frames in (small, middle, large):
        for _ in range(RECORD_AFTER + 1):
            recorded.evaluate(frames)
    assert fake.recordings == 3
    recorded.evaluate(large)
    recorded.evaluate(middle)
    assert fake.recordings == 3
    recorded.evaluate(small)
    assert fake.recordings == 4


@pytest.mark.parametrize(
    ("error", "later"),
    [(torch.cuda.OutOfMemoryError("full"), 1), (RuntimeError("operation not permitted when stream is capturing"), 0)],
)
def test_what_cannot_be_recorded_is_evaluated_all_the_same(recorded, fake, crystal, monkeypatch, error, later):
    """No memory: this size goes without, others are still tried. An operation that waits: nothing is recorded."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    fake.error, small, large = error, frames_of(crystal, 1), frames_of(crystal, 8)
    for _ in range(RECORD_AFTER + 2):
        agree(recorded.evaluate(large), looped(recorded, large))
    fake.error = None
    for _ in range(RECORD_AFTER + 2):
        recorded.evaluate(large)
        recorded.evaluate(small)
    assert fake.recordings == later
    assert ("capturing" in recorded.recorded.problem) is (later == 0)


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_are_smaller(potential, crystal, monkeypatch):
    frames, own, sizes = frames_of(crystal, 8), potential._outputs, []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8e9, 8e9))
    expected = looped(potential, frames)

    def small_memory(batch, stress):
        assert sys.exc_info()[0] is None, "a handled error holds the memory of what did not fit"
        sizes.append(len(batch["ptr"]) - 1)
        if sizes[-1] > 3:
            raise torch.cuda.OutOfMemoryError("full")
        return own(batch, stress)

    monkeypatch.setattr(potential, "_outputs", small_memory)
    limits = potential.batch_limits
    monkeypatch.setattr(potential, "batch_limits", lambda: (10**6, potential._most_edges or limits()[1] * 10**6))
    agree(potential.evaluate(frames), expected)
    assert max(sizes) == 8
    sizes.clear()
    agree(potential.evaluate(frames), expected)
    assert max(sizes) <= 3, "the limit that was found is kept"


def test_relaxations_by_replay_take_the_same_path(recorded, fake):
    """Many steps, leaving the batch one by one, cells that move: the trajectory of the potential without recordings."""
    starts = [bulk("Si", cubic=True) for _ in range(4)]
    for k, atoms in enumerate(starts):
        atoms.rattle(0.02 * (k + 1), seed=k)
    options = {"fmax": 0.02, "max_steps": 25, "cell": "full"}
    replayed = relax_batch(starts, recorded, **options)
    assert fake.replays > 5
    recorded.recorded = None
    for one, other in zip(replayed, relax_batch(starts, recorded, **options), strict=True):
        assert one.n_steps == other.n_steps
        np.testing.assert_allclose(one.energies, other.energies, atol=1e-9)
        np.testing.assert_allclose(one.frames[-1].positions, other.frames[-1].positions, atol=1e-7)


def test_shapes_are_rounded_up_by_a_quarter_at_most():
    for number in (1, 2, 3, 5, 17, 33, 129, 1000, 5601, 123_457):
        found = rounded(Shape(number, number, number))
        assert found.graphs == found.atoms == found.edges
        assert number <= found.edges <= 1.25 * number
    assert rounded(Shape(1, 1, 0)).edges == 0


class FakeCuda:
    """What torch.cuda does around a recording, with its habits when one fails (torch/cuda/graphs.py, CUDAGraph.cpp).

    A recording that CUDA refuses to end stays open in the allocator and leaves its stream the current one; a pool no
    graph is left of, or one still open, cannot be used.
    """

    def __init__(self, monkeypatch):
        self.current, self.open, self.users, self.made, self.refused = FakeStream("default"), [], {}, 0, False
        places = {
            "Stream": lambda priority=0: FakeStream(f"stream {priority}"),
            "CUDAGraph": FakeGraph,
            "graph": self.recording,
            "stream": self.on_stream,
            "device": self.on_stream,
            "current_stream": lambda: self.current,
            "default_stream": lambda: FakeStream("default"),
            "current_device": lambda: 0,
            "synchronize": lambda: None,
            "graph_pool_handle": self.new_pool,
        }
        for name, value in places.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)

    def new_pool(self):
        self.made += 1
        return (0, self.made)

    @contextmanager
    def on_stream(self, stream):
        before, self.current = self.current, stream if isinstance(stream, FakeStream) else self.current
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def recording(self, graph, pool, stream):
        assert not gc.isenabled()
        assert pool not in self.open, "beginAllocateToPool: already recording to mempool_id"
        assert pool not in self.users or self.users[pool] > 0, "INTERNAL ASSERT FAILED"
        before, self.current = self.current, stream
        self.open.append(pool)
        self.users[pool] = self.users.get(pool, 0) + 1
        try:
            yield
        finally:
            if self.refused:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            self.end(0, pool)
            graph.ended = self, pool
            self.current = before

    def end(self, device, pool):
        if pool not in self.open:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.open.remove(pool)

    def release(self, device, pool):
        self.users[pool] -= 1


@dataclass(frozen=True)
class FakeStream:
    name: str

    def wait_stream(self, other):
        pass


class FakeGraph:
    ended = None

    def pool(self):
        if self.ended is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self.ended[1]

    def replay(self):
        pass

    def __del__(self):
        if self.ended is not None:
            cuda, pool = self.ended
            cuda.release(0, pool)


def test_a_recording_that_fails_leaves_the_device_usable(monkeypatch):
    """CUDA refuses to end one that waited: stream, allocator and collector are as before, the next one works."""
    cuda = FakeCuda(monkeypatch)
    record, calls = CudaCapture(torch.device("cuda")), []
    kept = record(lambda: calls.append(cuda.current))
    assert {one.name for one in calls} == {"stream -1"}, "one stream, which no training side by side has"

    def waiting():
        if len(calls) % 4 == 3:
            cuda.refused = True
            raise RuntimeError("operation not permitted when stream is capturing")
        calls.append(cuda.current)

    with pytest.raises(RuntimeError, match="previous error") as caught:
        record(waiting)
    assert "not permitted" in str(caught.value.__context__)
    assert cuda.current.name == "default"
    assert gc.isenabled()
    assert cuda.open == []
    del caught
    cuda.refused = False
    other = record(lambda: None)
    assert cuda.users == {(0, 1): 1, (0, 2): 1}
    with pytest.raises(ZeroDivisionError):
        record(lambda: 1 / 0)
    del kept, other
    gc.collect()
    assert set(cuda.users.values()) == {0}


def test_recordings_share_a_pool_as_long_as_one_is_left(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    record = CudaCapture(torch.device("cuda"))
    kept = [record(lambda: None), record(lambda: None)]
    assert cuda.users == {(0, 1): 2}
    kept.clear()
    kept.append(record(lambda: None))
    assert cuda.users == {(0, 1): 0, (0, 2): 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_records_after_a_recording_that_failed():
    """On the real thing: memory can be given back, another recording works, and the current stream is the old one."""
    x, record = torch.ones(1000, device="cuda"), CudaCapture(torch.device("cuda"))
    record(lambda: x.mul_(1.0))
    here = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        record(lambda: float(x.sum()))
    assert torch.cuda.current_stream() == here
    torch.cuda.empty_cache()
    replay = record(lambda: x.add_(1.0))
    x.zero_()
    replay()
    assert float(x.sum()) == 1000.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_agree_with_eager_evaluation(potential, crystal):
    """On the real thing, in float64: sums are not ordered there, so to 1e-9."""
    there = potential.at("cuda")
    for step in range(RECORD_AFTER + 4):
        frames = frames_of(crystal, 3)
        for k, atoms in enumerate(frames):
            atoms.rattle(0.02, seed=10 * step + k)
        for one, other in zip(there.evaluate(frames), potential.evaluate(frames), strict=True):
            np.testing.assert_allclose(one.energy, other.energy, atol=1e-9)
            np.testing.assert_allclose(one.forces, other.forces, atol=1e-9)
            np.testing.assert_allclose(one.stress, other.stress, atol=1e-9)
    assert there.recorded.problem == ""
    assert there.recorded._recordings
