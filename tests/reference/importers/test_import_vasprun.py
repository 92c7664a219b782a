"""vasprun.xml: equal to pymatgen's Vasprun on real files, and every defect refused."""

import importlib.util
import lzma
import re
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phonosmith.core.errors import InputError
from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.checks.vasp_run import check_cycle
from phonosmith.reference.importers.frames import frames_of
from phonosmith.reference.outcome import Outcome
from phonosmith.reference.vasp.settings import (
    VaspSettings,
    functional_of,
    mesh_spacing,
    settings_digest,
)
from phonosmith.reference.vasp.vasprun import parse_vasprun
from phonosmith.structures.labels import labels_of

SCF = (-1.0, -5.0, -5.4, -5.42, -5.42000001, -5.42000001)


MOVING = {"NSW": "9", "IBRION": "2"}


def scsteps(energies, zero=-0.001):
    return "".join(
        f'<scstep><time name="total"> 1 1</time><energy><i name="e_fr_energy"> {e:.8f} </i>'
        f'<i name="e_0_energy"> {e + zero:.8f} </i></energy></scstep>'
        for e in energies
    )


def calculation(energies=SCF, forces="0.1 0.0 0.0|-0.1 0.0 0.0", stress=True, energy=True, shift=0.0):
    force_rows = "".join(f"<v> {row} </v>" for row in forces.split("|")) if forces else ""
    parts = [
        "<calculation>",
        scsteps(energies),
        '<structure><crystal><varray name="basis"><v> 5 0 0 </v><v> 0 5 0 </v><v> 0 0 5 </v></varray></crystal>',
        f'<varray name="positions"><v> {0.0 + shift} 0.013 0.031 </v><v> 0.25 0.25 0.25 </v></varray></structure>',
        f'<varray name="forces">{force_rows}</varray>' if forces else "",
        '<varray name="stress"><v> 10 1 2 </v><v> 1 20 3 </v><v> 2 3 30 </v></varray>' if stress else "",
        # the summary's e_0_energy is VASP's known wrong one
        f'<energy><i name="e_fr_energy"> {energies[-1]:.8f} </i><i name="e_0_energy"> 99.0 </i></energy>'
        if energy
        else "",
        "<eigenvalues><array><set><r> 1.0 1.0 </r></set></array></eigenvalues>",
        '<dos><i name="efermi"> 5.0 </i></dos>',
        "</calculation>",
    ]
    return "".join(parts)


def kpoint_list(mesh):
    divisions = [int(number) for number in mesh.split()]
    points = [[index / n for index, n in zip(point, divisions, strict=True)] for point in np.ndindex(*divisions)]
    rows = "".join(f"<v> {' '.join(f'{value:.8f}' for value in point)} </v>" for point in points)
    weights = f"<v> {1 / len(points):.8f} </v>" * len(points)
    return f'<varray name="kpointlist">{rows}</varray><varray name="weights">{weights}</varray>'


def vasprun(*calculations, incar=(), parameters=(), titles=("PAW_PBE Si 05Jan2001",), elements=("Si",), mesh="2 2 2"):
    moving = MOVING if len(calculations) > 1 else {}
    tags = {"EDIFF": "1e-08", "ENCUT": "300.0", "ISMEAR": "0", "SIGMA": "0.05", **moving, **dict(incar)}
    values = {
        "ENMAX": "300.0",
        "EDIFF": "1e-08",
        "NELM": "60",
        "ISMEAR": "0",
        "SIGMA": "0.05",
        **moving,
        **dict(parameters),
    }
    per = 2 // len(elements)
    atoms = "".join(f"<rc><c>{e}</c><c> {k + 1} </c></rc>" * per for k, e in enumerate(elements))
    types = "".join(
        f"<rc><c>{per}</c><c>{e}</c><c>28.0</c><c>4.0</c><c> {t} </c></rc>"
        for e, t in zip(elements, titles, strict=True)
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?><modeling>'
        '<generator><i name="version" type="string">6.4.2  </i></generator><incar>'
        + "".join(f'<i name="{k}">{v}</i>' for k, v in tags.items())
        + '</incar><kpoints><generation param="Gamma"><v type="int" name="divisions"> '
        + mesh
        + ' </v><v name="shift"> 0.0 0.0 0.0 </v></generation>'
        + kpoint_list(mesh)
        + '</kpoints><parameters><separator name="electronic">'
        + "".join(f'<i name="{k}">{v}</i>' for k, v in values.items())
        + '</separator><separator name="response"><i name="NELM"> 1</i></separator></parameters>'
        + f'<atominfo><array name="atoms"><set>{atoms}</set></array>'
        + f'<array name="atomtypes"><set>{types}</set></array></atominfo>'
        + "".join(calculations or (calculation(),))
        + "</modeling>"
    ).encode()


def one(*args, **kwargs):
    return frames_of(parse_vasprun(vasprun(*args, **kwargs), "v.xml"), "v.xml")


def test_units_signs_and_provenance():
    (frame,), refused = one()
    assert refused == []
    labels = labels_of(frame)
    assert labels.energy == SCF[-1]
    assert frame.info["energy_sigma0"] == pytest.approx(SCF[-1] - 0.001, abs=1e-12)
    # VASP's 10 kbar of compression is -10/1602.1766 eV/Å³ in ASE's sign, Voigt order xx yy zz yz xz xy
    assert np.allclose(labels.stress, np.array([10, 20, 30, 3, 2, 1]) * EV_PER_A3_PER_VASP_KBAR, rtol=1e-12)
    assert labels.stress[0] == pytest.approx(-10 / 1602.176634, rel=1e-9)
    assert frame.positions[1] == pytest.approx([1.25, 1.25, 1.25])
    assert frame.info["functional"] == "PBE"
    assert frame.info["kmesh"] == "2x2x2"
    assert frame.info["kspacing"] == pytest.approx(2 * np.pi / 5 / 2, abs=1e-6)
    assert frame.info["potcar"] == "Si:PAW_PBE Si 05Jan2001"
    assert frame.info["code"] == "VASP 6.4.2"
    assert frame.info["ediff"] == 1e-8


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (vasprun(calculation([-1.0, -5.0, -5.4])), "SCF not converged: last change 4.0e-01 eV against EDIFF 1e-08"),
        (vasprun(calculation([-1.0] + [-5.0 - 0.1 * (k % 2) for k in range(59)])), "NELM = 60 was reached"),
        (vasprun(calculation([-5.0])), "only 1 electronic step"),
        (vasprun(calculation(forces="nan 0 0|0 0 0")), "forces of atom 0 are not finite"),
        (vasprun(calculation(forces=None)), "forces is missing"),
        (vasprun(calculation(forces="0 0 0")), "forces have shape (1, 3), not (2, 3)"),
        (vasprun(calculation(energy=False)), "energy is missing"),
        (vasprun(calculation())[:-200], "the run did not finish"),
        (vasprun(calculation(), calculation())[:-400], "the run did not finish"),
        (vasprun(calculation(forces="****** 0 0|0 0 0")), "a number cannot be read"),
        (vasprun(incar={"ALGO": "None"}), "ALGO = none is not a self-consistent"),
        (vasprun(incar={"ICHARG": "11"}), "ICHARG = 11"),
        (vasprun(incar={"LEPSILON": " T "}), "linear-response"),
        (vasprun("<!-- nothing -->"), "no ionic step"),
    ],
)
def test_every_defect_is_refused_with_its_reason(data, reason):
    frames, refused = frames_of(parse_vasprun(data, "v.xml"), "v.xml")
    assert frames == []
    assert reason in refused[0].reason


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"<html></html>", "not a vasprun"), (vasprun()[:300], "ends before it lists its atoms")],
)
def test_what_is_no_vasprun(data, message):
    with pytest.raises(InputError, match=message):
        parse_vasprun(data, "v.xml")


def test_entity_bombs_are_not_parsed():
    doctype = b'?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><modeling>'
    bomb = vasprun().replace(b"?><modeling>", doctype, 1)
    with pytest.raises(InputError, match="XML entities"):
        parse_vasprun(bomb, "v.xml")


def test_only_converged_steps_of_a_relaxation_are_taken():
    data = vasprun(
        calculation(),
        calculation([-1.0, -5.0, -5.4], shift=0.01),
        calculation(shift=0.02),
        incar=MOVING,
        parameters=MOVING,
    )
    run = parse_vasprun(data, "r.xml")
    frames, refused = frames_of(run, "r.xml")
    assert [round(float(f.positions[0, 0]), 6) for f in frames] == [0.0, 0.1]
    assert [r.where for r in refused] == ["r.xml, ionic step 1"]
    frames, refused = frames_of(run, "r.xml", steps="last")
    assert len(frames) == 1
    assert refused == []


def test_missing_stress_is_allowed_and_weighted_out():
    (frame,), _ = one(calculation(stress=False))
    assert labels_of(frame).stress is None
    assert frame.info["config_stress_weight"] == 0.0


def settings_with(titles=("PAW_PBE Si",), **tags):
    return VaspSettings("6.4.2", tags, titles)


@pytest.mark.parametrize(
    ("settings", "functional"),
    [
        (settings_with(), "PBE"),
        (settings_with(GGA="--"), "PBE"),
        (settings_with(GGA="PE"), "PBE"),
        (settings_with(GGA="PS"), "PBEsol"),
        (settings_with(GGA="Ps"), "PBEsol"),
        (settings_with(GGA="RP"), "RPBE"),
        (settings_with(GGA="XX"), "GGA-XX"),
        (settings_with(("PAW Si",)), "LDA"),
        (settings_with(("PAW_GGA Si",)), "PW91"),
        (settings_with(("PAW Si", "PAW_PBE O")), None),
        (settings_with(()), None),
        (settings_with(METAGGA="R2SCAN"), "r2SCAN"),
        (settings_with(METAGGA="--"), "PBE"),
        (settings_with(LHFCALC="T", HFSCREEN="0.2"), "HSE06"),
        (settings_with(LHFCALC="T"), "PBE0"),
        (settings_with(LHFCALC="T", HFSCREEN="0.2", AEXX="0.3"), "PBE-hybrid(0.3,0.2)"),
        (settings_with(IVDW="12"), "PBE+D3(BJ)"),
        (settings_with(GGA="OR", LUSE_VDW=".TRUE."), "GGA-OR+vdW-DF"),
        (settings_with(LDAU="T"), "PBE+U"),
    ],
)
def test_functional_names(settings, functional):
    assert functional_of(settings) == functional


def test_settings_digest_follows_the_surface_only():
    base = settings_with(ENMAX="520", PREC="Accurate", EDIFF="1e-8")
    assert settings_digest(base) == settings_digest(settings_with(ENMAX="520.0", PREC="accura", EDIFF="1e-6", NPAR="4"))
    for change in ({"ENMAX": "400"}, {"GGA": "PS"}, {"ISMEAR": "0"}, {"SIGMA": "0.1"}, {"ISPIN": "2"}, {"LREAL": "A"}):
        assert settings_digest(base) != settings_digest(settings_with(**{"ENMAX": "520", "PREC": "Accurate", **change}))


def test_scf_tolerance_allows_for_printed_digits_only():
    run = parse_vasprun(vasprun(), "v.xml")
    run.settings = settings_with(EDIFF="1e-8", NELM="60")

    def problem(energies):
        return [reason.message for reason in check_cycle(replace(Outcome.of_step(run), scf=energies), None)]

    assert problem([-5.0, -346.9, -346.90709868, -346.90709867]) == []
    assert problem([-5.0, -346.9, -346.90709868, -346.90709866]) == []
    assert "not converged" in problem([-5.0, -346.9, -346.90709868, -346.90709865])[0]
    # converging exactly at the last allowed step counts; stopping there does not
    assert problem([-5.0] * 60) == []
    assert "not converged" in problem([-5.0, float("nan")])[0]


def test_mesh_spacing_in_vasps_convention():
    """VASP makes N = ceil(|b|/KSPACING): the spacing of a mesh made by KSPACING k is at most k."""
    cell = np.array([[3.8, 0, 0], [1.9, 3.3, 0], [0.2, 0.3, 7.1]])
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell).T, axis=1)
    mesh = np.ceil(lengths / 0.1).astype(int)
    assert mesh_spacing(cell, mesh) <= 0.1
    assert mesh_spacing(cell, mesh - 1) > 0.1


def real_files(shared, tmp_path):
    """A sample of four VASP versions (4.6, 5.2, 5.4, 6.4)."""
    data = shared / "data"
    yield data / "phonopy" / "Si" / "vasprun.xml"
    for archive, count in (
        ("phono3py/vasprun_xmls.tar.lzma", 3),
        ("phonopy/MgB2/vaspruns.tar.lzma", 1),
        ("phonopy/TiO2-anatase/vaspruns.tar.lzma", 1),
        ("phonopy/NaCl-rd/force-calcs.tar.xz", 2),
    ):
        with lzma.open(data / archive) as stream, tarfile.open(fileobj=stream) as tar:
            names = [m for m in tar if m.name.endswith(".xml")][:count]
            for member in names:
                path = tmp_path / re.sub(r"\W", "_", f"{archive}{member.name}.xml")
                path.write_bytes(tar.extractfile(member).read())
                yield path


def test_equal_to_pymatgen_on_real_files(shared, tmp_path):
    from pymatgen.io.vasp import Vasprun

    for path in real_files(shared, tmp_path):
        run = parse_vasprun(path.read_bytes(), path.name)
        (frame,), refused = frames_of(run, path.name)
        assert refused == []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        step = theirs.ionic_steps[-1]
        labels = labels_of(frame)
        assert labels.energy == step["e_fr_energy"]
        assert np.array_equal(labels.forces, np.array(step["forces"]))
        full = np.array(step["stress"])
        assert np.allclose(labels.stress[:3], np.diag(full) * EV_PER_A3_PER_VASP_KBAR, rtol=1e-14)
        assert np.array_equal(frame.cell.array, step["structure"].lattice.matrix)
        assert np.array_equal(run.steps[-1].positions, step["structure"].frac_coords)
        assert frame.get_chemical_symbols() == [site.specie.symbol for site in step["structure"]]
        assert run.steps[-1].scf == [e["e_fr_energy"] for e in step["electronic_steps"]]
        assert list(run.settings.potcars) == theirs.potcar_symbols
        assert run.settings.number("ENMAX", 0) == theirs.parameters["ENMAX"]
        assert frame.info["ediff"] == theirs.parameters["EDIFF"]
        assert tuple(int(k) for k in theirs.kpoints.kpts[0]) == run.settings.mesh
        assert run.settings.version == theirs.vasp_version.strip()
        assert frame.info["functional"] == "PBE"
        assert set(run.incar) == set(theirs.incar.keys()) or set(theirs.incar.keys()) <= set(run.incar)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"titles": ("PAW Si",), "incar": {"GGA": "PE"}}, "its POTCARs were made with LDA, the functional is PBE"),
        ({"titles": ("PAW_GGA Si",), "incar": {"GGA": "PE"}}, "made with PW91, the functional is PBE"),
        ({"incar": {"GGA": "CA"}}, "made with PBE, the functional is LDA"),
        ({"elements": ("Si", "C"), "titles": ("PAW_PBE Si", "PAW C")}, "its POTCARs were made with LDA and PBE"),
        ({"parameters": {"NELECT": "7.0"}}, "the cell carries a charge of +1 e"),
        ({"parameters": {"SIGMA": "0.2"}}, "SIGMA = 0.05 was given, VASP used SIGMA = 0.2"),
        ({"parameters": {"ISPIN": "2"}}, "ISPIN was not given, VASP used ISPIN = 2"),
    ],
)
def test_wrong_functionals_and_charges_are_no_labels(changes, reason):
    frames, (refused,) = one(**changes)
    assert frames == []
    assert reason in refused.reason


def test_shifted_meshes_are_another_setting():
    """A mesh off the origin gives other energies: its own digest and mesh name, so that an audit sees them."""
    data = vasprun()
    half = re.sub(rb"(?<=<v> )0\.0+ 0\.0+ 0\.0+(?= </v>)", b"0.25 0.25 0.25", data, count=1)
    (plain,), _ = one()
    moved = data.replace(b"0.50000000", b"0.75000000").replace(b"0.00000000", b"0.25000000")
    (shifted,), refused = frames_of(parse_vasprun(moved, "v"), "v")
    assert refused == []
    assert (plain.info["kmesh"], shifted.info["kmesh"]) == ("2x2x2", "2x2x2s")
    assert plain.info["settings"] != shifted.info["settings"]
    frames, (lost,) = frames_of(parse_vasprun(half, "v"), "v")
    assert frames == []
    assert "do not lie on the mesh 2x2x2" in lost.reason


def test_outcar_beside_a_vasprun_must_agree(tmp_path):
    """Two files of one folder that tell of different ends: nobody can say which is the calculation's."""
    from phonosmith.reference.importers.collect import import_source

    spec = importlib.util.spec_from_file_location("outcar_writer", Path(__file__).with_name("test_import_outcar.py"))
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    forces = "0.101 -0.203 0.307|-0.101 0.203 -0.307"
    xml = vasprun(calculation((-5.0, -5.4, -5.42, -5.42), forces=forces))
    (tmp_path / "vasprun.xml").write_bytes(xml)
    text = writer.outcar(gga="PE")
    (tmp_path / "OUTCAR").write_bytes(text)
    frames, report = import_source(tmp_path)
    assert (len(frames), report.refused) == (1, [])
    (tmp_path / "OUTCAR").write_bytes(text.replace(b"0.203000", b"0.304000"))
    frames, report = import_source(tmp_path)
    assert frames == []
    assert "OUTCAR tells of another end of the run: forces that differ by 0.1" in report.refused[0].reason
