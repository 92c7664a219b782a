"""The same forged calculation through job, vasprun.xml, OUTCAR, TaskDoc and dataset gets one verdict."""

import copy
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from phonosmith.reference.accept import accept
from phonosmith.reference.audit.audit import audit
from phonosmith.reference.documents import Frame
from phonosmith.reference.importers.collect import import_source
from phonosmith.reference.outcome import Asked, Outcome
from phonosmith.reference.protocol import ReferenceProtocol, incar_tags
from phonosmith.reference.vasp.makers import record_from_task
from phonosmith.reference.vasp.outcar import parse_outcar
from phonosmith.reference.vasp.taskdoc import read_calculation
from phonosmith.reference.vasp.vasprun import parse_vasprun
from phonosmith.structures.extxyz import format_frames

PROTOCOL = ReferenceProtocol(kspacing=0.7, nelm=60, encut=300)
TAGS = incar_tags(PROTOCOL, "static")
FRAME = Frame(
    symbols=["Si", "Si"], positions=[(0, 0.065, 0.155), (1.25, 1.25, 1.25)], cell=[(5, 0, 0), (0, 5, 0), (0, 0, 5)]
)
ASKED = Asked(FRAME, PROTOCOL, "static")
SOUND = (-5.0, -5.4, -5.42, -5.42)


def writers(name):
    spec = importlib.util.spec_from_file_location(f"forged_{name}", Path(__file__).parent / "importers" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VASPRUN, OUTCAR, TASK = (writers(f"test_import_{name}") for name in ("vasprun", "outcar", "taskdoc"))

CASES = {
    "sound": (SOUND, {}, set()),
    "converged in the last allowed step": ((-5.0, *(-5.42,) * 59), {}, set()),
    "all steps used, not converged": ((-5.0, -5.42) * 30, {}, {"scf"}),
    "cut short": ((-5.0, -5.4), {}, {"scf"}),
    "one electronic step": ((-5.42,), {}, {"scf_unknown"}),
    "positive energy": ((5.0, 5.4, 5.42, 5.42), {}, {"energy_positive"}),
    "fixed density": (SOUND, {"ICHARG": "11"}, {"not_self_consistent"}),
    "linear response": (SOUND, {"LEPSILON": "T"}, {"not_self_consistent"}),
    "broken off": (SOUND, {"finished": False}, {"unfinished"}),
    "forces not a number": (SOUND, {"forces": "nan 0 0|0 0 0"}, {"forces_not_finite"}),
}


def forged(energies, *, finished=True, forces="0.101 -0.203 0.307|-0.101 0.203 -0.307", **tags):
    """The files of one calculation: vasprun.xml, OUTCAR and the entry of a TaskDoc."""
    xml = VASPRUN.vasprun(VASPRUN.calculation(energies, forces=forces), incar=TAGS | tags)
    text = OUTCAR.outcar((energies,), gga="PE", finished=finished)
    for key, value in tags.items():
        text = text.replace(b"   PREC ", f"   {key} = {value}\n   PREC ".encode(), 1)
    if "nan" in forces:
        text = text.replace(b"0.101000     -0.203000      0.307000", b"nan     -0.203000      0.307000", 1)
    calculation = TASK.task(xml)["calcs_reversed"][0]
    calculation["has_vasp_completed"] = "successful" if finished else "failed"
    return xml if finished else xml[: -len("</modeling>")], text, calculation


def codes(reasons):
    return {reason.code for reason in reasons}


@pytest.mark.parametrize("name", CASES)
def test_every_entrance_gives_the_same_verdict(name, tmp_path):
    energies, changes, expected = CASES[name]
    xml, text, calculation = forged(energies, **changes)
    runs = [parse_vasprun(xml, "v"), parse_outcar(text, "o"), read_calculation(calculation)]
    assert [codes(accept(Outcome.of_step(run))) for run in runs] == [expected] * 3

    task = SimpleNamespace(
        calcs_reversed=[calculation], custodian=None, output=SimpleNamespace(energy=energies[-1]), dir_name="x:/y/z",
        structure=None,
    )  # fmt: skip
    record = record_from_task(task, ASKED)
    with_protocol = expected | ({"incar"} if "LEPSILON" in changes else set())
    assert codes(record.reasons) == with_protocol
    assert codes(accept(Outcome.of_step(runs[0]), ASKED)) == with_protocol
    assert (record.electronic_steps, record.kpoints, record.directory) == (len(energies), (2, 2, 2), "z")

    document = {"task_label": "static", "state": "successful", "calcs_reversed": [calculation]}
    for file, data in (("vasprun.xml", xml), ("OUTCAR", text), ("task.json", json.dumps(document).encode())):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).write_bytes(data)
        frames, report = import_source(folder)
        assert bool(frames) is not bool(expected), file
        assert report.n_refused == len(expected), file
        assert not frames or audit(frames).excluded == []


@pytest.mark.parametrize("field", ["forces", "stress", "energy"])
def test_a_dataset_is_judged_by_the_same_numbers(field, tmp_path):
    """A frame that lost its numbers on the way: the audit, an import and the rule itself name the same thing."""
    xml, _, _ = forged(SOUND)
    (tmp_path / "vasprun.xml").write_bytes(xml)
    (sound,), _ = import_source(tmp_path)
    broken = copy.deepcopy(sound)
    broken.calc.results[field] = np.nan * np.asarray(broken.calc.results[field])
    (reason,) = accept(Outcome.of_atoms(broken))
    assert reason.code == f"{field}_not_finite"
    (finding,) = [item for item in audit([sound, sound, broken]).findings if item.check == "labels"]
    assert finding.message == f"frame 2: {reason.message}"
    (tmp_path / "frames.xyz").write_text(format_frames([broken]))  # the writer of files would refuse it
    _, report = import_source(tmp_path / "frames.xyz")
    assert [refusal.reason for refusal in report.refused] == [reason.message]


def test_rehearsals_are_refused_by_the_same_reason(tmp_path):
    xml = VASPRUN.vasprun(titles=("PAW_PBE Si INVENTED",))
    (reason,) = accept(Outcome.of_step(parse_vasprun(xml, "v")))
    (tmp_path / "vasprun.xml").write_bytes(xml)
    assert import_source(tmp_path)[1].refused[0].reason == reason.message
    (frame,), _ = import_source(tmp_path, allow_rehearsal=True)
    assert accept(Outcome.of_atoms(frame)) == [reason]
    assert accept(Outcome.of_atoms(frame), allow_rehearsal=True) == []
