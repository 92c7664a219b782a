"""OUTCAR against ASE's reader on the same text, and against vasprun.xml of the same run."""

import numpy as np
import pytest
from ase.io import read as ase_read

from phonosmith.core.errors import InputError
from phonosmith.reference.importers.frames import frames_of
from phonosmith.reference.vasp.outcar import parse_outcar
from phonosmith.structures.labels import labels_of

RULE = " " + "-" * 83


def outcar(steps=((-5.0, -5.4, -5.42, -5.42),), gga="--", finished=True, count=2):
    """The lines of an OUTCAR that matter, in VASP's own layout."""
    lines = [
        " vasp.6.4.2 20Jul23 complex",
        " POTCAR:    PAW_PBE Si 05Jan2001                  ",
        "   TITEL  = PAW_PBE Si 05Jan2001",
        "   VRHFIN =Si: s2p2",
        "   generate k-points for:    2    2    2",
        "   ions per type =               2",
        "   number of dos      NEDOS =    301   number of ions     NIONS =      2",
        "   PREC   = accura    normal or accurate (medium, high low for compatibility)",
        "   ISPIN  =      1    spin polarized calculation?",
        "   ENCUT  =  300.0 eV  22.05 Ry    4.70 a.u.   4.65  4.65  4.65*2*pi/ulx,y,z",
        "   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps ",
        "   EDIFF  = 0.1E-07   stopping-criterion for ELM",
        "   LREAL  =      F    real-space projection",
        # a logical of VASP 5 that has nothing to do with the functional
        "   METAGGA=      F    non-selfconsistent MetaGGA calc.",
        "   ISMEAR =     0;   SIGMA  =   0.05  broadening in eV -4-tet -1-fermi 0-gaus",
        f"   GGA     =    {gga}    GGA type",
        f"   NSW    = {0 if len(steps) == 1 else 9}    number of steps for IOM",
    ]
    for energies in steps:
        for number, energy in enumerate(energies):
            lines += [
                f"----------------------------------------- Iteration    1({number + 1:4d})  ----------",
                f"  free energy    TOTEN  =      {energy:15.8f} eV",
                f"  energy without entropy = {energy + 0.001:19.8f}  energy(sigma->0) = {energy + 0.0005:19.8f}",
            ]
        lines += [
            "  in kB      10.00000    20.00000    30.00000     1.00000     3.00000     2.00000",
            " VOLUME and BASIS-vectors are now :",
            RULE,
            "  energy-cutoff  :      300.00",
            "  volume of cell :      125.00",
            "      direct lattice vectors                 reciprocal lattice vectors",
            "     5.000000000  0.000000000  0.000000000     0.200000000  0.000000000  0.000000000",
            "     0.000000000  5.000000000  0.000000000     0.000000000  0.200000000  0.000000000",
            "     0.000000000  0.000000000  5.000000000     0.000000000  0.000000000  0.200000000",
            " POSITION                                       TOTAL-FORCE (eV/Angst)",
            RULE,
            "      0.00000      0.06500      0.15500         0.101000     -0.203000      0.307000",
            "      1.25000      1.25000      1.25000        -0.101000      0.203000     -0.307000",
        ][: 11 + count]
        lines += [
            RULE,
            "    total drift:                                0.000000      0.000000      0.000000",
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
            "  ---------------------------------------------------",
            f"  free  energy   TOTEN  =      {energies[-1]:15.8f} eV",
            "",
            f"  energy  without entropy= {energies[-1] + 0.001:.8f}  energy(sigma->0) = {energies[-1] + 0.0005:.8f}",
        ]
    if finished:
        lines.append(" General timing and accounting informations for this job:")
    return ("\n".join(lines) + "\n").encode()


def test_equal_to_ases_reader(tmp_path):
    data = outcar(((-5.0, -5.4, -5.42, -5.42), (-5.4, -5.49, -5.5, -5.5)))
    (tmp_path / "OUTCAR").write_bytes(data)
    frames, refused = frames_of(parse_outcar(data, "OUTCAR"), "OUTCAR")
    assert refused == []
    theirs = ase_read(tmp_path / "OUTCAR", ":", format="vasp-out")
    assert len(frames) == len(theirs) == 2
    for mine, other in zip(frames, theirs, strict=True):
        labels = labels_of(mine)
        assert mine.get_chemical_symbols() == other.get_chemical_symbols()
        assert np.allclose(mine.positions, other.positions, atol=1e-12)
        assert np.array_equal(mine.cell.array, other.cell.array)
        assert labels.energy == other.calc.results["free_energy"]
        assert mine.info["energy_sigma0"] == other.get_potential_energy()
        assert np.array_equal(labels.forces, other.get_forces())
        # ASE uses CODATA 2014 constants: relative difference 1e-8
        assert np.allclose(labels.stress, other.get_stress(), rtol=1e-6)
    assert frames[0].info["functional"] == "PBE"
    assert frames[0].info["kmesh"] == "2x2x2"
    assert frames[0].info["encut"] == 300.0
    assert frames[0].info["ediff"] == 1e-8


def test_gga_tag_decides_over_the_potcar():
    (frame,), _ = frames_of(parse_outcar(outcar(gga="PS"), "OUTCAR"), "OUTCAR")
    assert frame.info["functional"] == "PBEsol"


def test_hubbard_u_is_found_where_no_tag_names_it():
    lines = (
        b" LDA+U is selected, type is set to LDAUTYPE =  2\n"
        b"   angular momentum for each species LDAUL =     2\n"
        b"   U (eV)           for each species LDAUU =   4.7\n"
    )
    data = outcar(gga="PS").replace(b"   LREAL", lines + b"   LREAL", 1)
    (frame,), _ = frames_of(parse_outcar(data, "OUTCAR"), "OUTCAR")
    assert frame.info["functional"] == "PBEsol+U"
    (other,), _ = frames_of(parse_outcar(data.replace(b"4.7", b"4.0"), "OUTCAR"), "OUTCAR")
    assert frame.info["settings"] != other.info["settings"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (outcar(finished=False), "the run did not finish"),
        (outcar(((-5.0, -5.4),)), "SCF not converged"),
        (outcar(count=1), "a number cannot be read"),
    ],
)
def test_defects(data, reason):
    frames, refused = frames_of(parse_outcar(data, "OUTCAR"), "OUTCAR")
    assert frames == []
    assert reason in refused[0].reason


def test_an_outcar_of_the_standin_says_what_it_is():
    with pytest.raises(InputError, match="rehearsal with the VASP stand-in"):
        parse_outcar(b" vasp-standin.0.1.standin (phonosmith stand-in, not VASP) complex\n", "OUTCAR")


def test_not_an_outcar():
    with pytest.raises(InputError, match="is empty"):
        parse_outcar(b"", "OUTCAR")
    with pytest.raises(InputError, match="is not an OUTCAR"):
        parse_outcar(b"hello", "OUTCAR")
    with pytest.raises(InputError, match="ends before it lists its atoms"):
        parse_outcar(outcar()[:100], "OUTCAR")
