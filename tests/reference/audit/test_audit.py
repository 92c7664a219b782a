"""The audit on labels of a real potential (EMT copper), clean and with one thing wrong at a time."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from pydantic import ValidationError

from phonosmith.core.errors import InputError
from phonosmith.reference.audit.audit import audit, kept_frames
from phonosmith.reference.audit.consistency import work
from phonosmith.reference.audit.settings import settings_findings
from phonosmith.reference.datasets.documents import AuditOptions
from phonosmith.reference.datasets.geometry import displacement_and_strain, near_duplicates, same_geometry
from phonosmith.reference.datasets.offsets import fit_offsets
from phonosmith.reference.importers.collect import import_source
from phonosmith.structures.labels import Labels, label_frame, labels_of

INFO = {
    "functional": "PBE",
    "settings": "aaaaaaaaaaaa",
    "potcar": "Cu:PAW_PBE Cu 22Jun2005",
    "kmesh": "4x4x4",
    "kspacing": 0.43,
    "ediff": 1e-8,
}


def labelled(atoms, **info):
    copy = atoms.copy()
    copy.calc = EMT()
    return label_frame(
        atoms,
        energy=copy.get_potential_energy(),
        forces=copy.get_forces(),
        stress=copy.get_stress(),
        **{**INFO, **info},
    )


@pytest.fixture(scope="module")
def originals():
    """Forty rattled and strained cells of eight atoms around the minimum."""
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(40):
        atoms = bulk("Cu", cubic=True, a=3.59) * (2, 1, 1)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.012, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


@pytest.fixture
def frames(originals):
    return [relabelled(a) for a in originals]


def relabelled(atoms, energy=0.0, forces=1.0, stress=1.0, **info):
    """A copy with labels shifted or scaled."""
    found = labels_of(atoms)
    return label_frame(
        atoms, energy=found.energy + energy, forces=found.forces * forces, stress=found.stress * stress, **info
    )


def checks(document, severity=None):
    return [finding.check for finding in document.findings if severity in (None, finding.severity)]


def test_clean_labels_pass(frames):
    document = audit(frames)
    assert document.verdict == "pass"
    assert document.findings == []
    assert (document.n_kept, document.excluded, document.reasons) == (40, [], [])
    assert document.functionals == {"PBE": 40}
    assert document.manifest.inputs["dataset"]
    assert kept_frames(frames, document) == frames


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"forces": 1.5}, "energy_forces"),
        ({"forces": -1.0}, "energy_forces"),
        ({"stress": -1.0}, "energy_stress"),
        ({"stress": 160.2}, "energy_stress"),
        ({"stress": 1 / 160.2}, "energy_stress"),
    ],
)
def test_labels_that_do_not_belong_together_are_refused(frames, change, check):
    document = audit([relabelled(atoms, **change) for atoms in frames])
    assert document.verdict == "refuse"
    assert check in checks(document, "refuse")
    with pytest.raises(InputError, match="The audit refused these frames"):
        kept_frames(frames, document)


def test_measured_slope_is_the_factor(frames):
    document = audit([relabelled(atoms, forces=1.5) for atoms in frames])
    (finding,) = [f for f in document.findings if f.check == "energy_forces"]
    assert finding.values["slope"] == pytest.approx(1 / 1.5, abs=0.03)


@pytest.mark.parametrize("shift", [0.05, -0.15])
def test_a_shifted_energy_is_found(frames, shift):
    """Another POTCAR shifts energies by 0.1-0.2 eV/atom; far less than the spread a strained set may have."""
    frames[7] = relabelled(frames[7], energy=shift * 8)
    document = audit(frames)
    assert document.verdict == "pass_with_exclusions"
    assert document.excluded == [7]
    assert "energy_shift" in checks(document, "exclude")
    assert len(kept_frames(frames, document)) == 39


def test_an_absurd_energy_is_an_outlier(frames):
    frames[3] = relabelled(frames[3], energy=40.0)
    document = audit(frames)
    assert document.excluded == [3]
    assert "energy_outlier" in checks(document)


@pytest.mark.parametrize(
    ("info", "check", "word"),
    [
        ({"functional": "PBEsol", "settings": "bbbbbbbbbbbb"}, "functional", "PBEsol (2)"),
        ({"settings": "bbbbbbbbbbbb"}, "settings", "bbbbbbbbbbbb (2)"),
        ({"potcar": "Cu:PAW_PBE Cu_pv 06Sep2000"}, "potcar", "Cu_pv 06Sep2000 (2)"),
        ({"kmesh": "2x2x2", "kspacing": 0.87}, "kpoints", "2x2x2 (2)"),
    ],
)
def test_mixed_settings(frames, info, check, word):
    """A minority is excluded; without a clear majority nobody can say which is right."""
    few = [relabelled(atoms, **info) if index in (4, 9) else atoms for index, atoms in enumerate(frames)]
    document = audit(few)
    assert document.verdict == "pass_with_exclusions"
    assert document.excluded == [4, 9]
    assert checks(document, "exclude") == [check]
    assert word in document.reasons[0]
    half = [relabelled(atoms, **info) if index % 2 else atoms for index, atoms in enumerate(frames)]
    document = audit(half)
    assert document.verdict == "refuse"
    assert check in checks(document, "refuse")
    assert audit(few, AuditOptions(majority=1.0)).verdict == "refuse"


def test_one_kspacing_explains_different_meshes():
    """KSPACING 0.1 gives 17 or 18 divisions under strain: one setting, not a mixture."""
    made = []
    for factor in np.linspace(0.97, 1.03, 12):
        atoms = bulk("Cu", a=3.6 * factor, cubic=True)
        count = int(np.ceil(2 * np.pi / (3.6 * factor) / 0.1))
        made.append(
            label_frame(atoms, energy=-1.0, forces=np.zeros((4, 3)), **{**INFO, "kmesh": f"{count}x{count}x{count}"})
        )
    assert len({atoms.info["kmesh"] for atoms in made}) > 1
    assert settings_findings(made, AuditOptions()) == []
    made[5].info["kmesh"] = "9x9x9"
    assert {finding.check for finding in settings_findings(made, AuditOptions())} == {"kpoints"}


def test_gamma_only_supercells_beside_dense_cells_are_pointed_out():
    dense, gamma = {**INFO, "kmesh": "17x17x17", "kspacing": 0.1}, {**INFO, "kmesh": "1x1x1", "kspacing": 0.58}
    small = label_frame(bulk("Cu", cubic=True), energy=-1.0, forces=np.zeros((4, 3)), **dense)
    large = label_frame(bulk("Cu", cubic=True) * 3, energy=-27.0, forces=np.zeros((108, 3)), **gamma)
    findings = settings_findings([small, large], AuditOptions())
    assert [(f.check, f.severity, f.frames) for f in findings] == [("kpoints", "warn", [1])]


def test_loose_scf_and_unknown_provenance_are_pointed_out(frames):
    document = audit([relabelled(a, ediff=1e-4) for a in frames])
    assert (document.verdict, checks(document)) == ("pass", ["ediff"])
    for atoms in frames:
        atoms.info.clear()
    document = audit(frames)
    assert (document.verdict, checks(document)) == ("pass", ["functional", "settings"])


def test_rehearsals_never_train(frames):
    for atoms in frames:
        atoms.info["rehearsal"] = True
    assert checks(audit(frames), "refuse") == ["rehearsal"]
    assert audit(frames, AuditOptions(allow_rehearsal=True)).verdict == "pass"
    for atoms in frames[1:]:
        del atoms.info["rehearsal"]
    assert audit(frames).excluded == [0]


def test_duplicates_and_contradictions(frames):
    wrapped = relabelled(frames[2])
    wrapped.positions[3] += wrapped.cell.array[0] - wrapped.cell.array[1]
    frames.append(wrapped)
    document = audit(frames)
    assert (document.verdict, document.excluded, checks(document)) == ("pass_with_exclusions", [40], ["duplicate"])
    frames[40] = relabelled(frames[2], energy=0.02 * 8)
    document = audit(frames)
    assert document.excluded == [2, 40]
    assert "contradiction" in checks(document)


def test_the_fuller_label_of_a_duplicate_stays(frames):
    bare = label_frame(frames[0], energy=None, forces=labels_of(frames[0]).forces)
    document = audit([bare, *frames])
    assert document.excluded == [0]


def test_near_duplicates_follow_the_tolerance(frames):
    moved = frames[1].copy()
    moved.positions[0, 0] += 5e-5
    assert near_duplicates([*frames, moved]) == [[1, 40]]
    moved.positions[0, 0] += 2e-4
    assert near_duplicates([*frames, moved]) == []
    assert same_geometry(frames[1], moved, tolerance=1e-3)
    other = frames[1].copy()
    other.numbers[0] = 47
    assert not same_geometry(frames[1], other, tolerance=1e-3)


def test_impossible_frames(frames):
    frames[5].calc.results["forces"][2, 1] = np.nan
    frames[6].positions[1] = frames[6].positions[0] + [0.4, 0, 0]
    frames[8] = relabelled(frames[8])
    frames[8].calc.results["forces"][:2] += [[90.0, 0, 0], [-90.0, 0, 0]]
    frames[9].calc.results["forces"] += 0.1
    frames[11] = label_frame(frames[11], energy=None, forces=None)
    document = audit(frames)
    assert document.excluded == [5, 6, 8, 9, 11]
    found = {finding.check: finding for finding in document.findings}
    assert found["overlap"].frames == [6]
    assert found["force_outlier"].frames == [8]
    messages = [f.message for f in document.findings if f.check == "labels"]
    assert any("frame 5: forces of atom 2 are not finite" in message for message in messages)
    assert any("frame 9: the forces do not sum to zero" in message for message in messages)
    assert any("frame 11: forces is missing" in message for message in messages)


def test_foreign_compositions(frames):
    silver = labelled(bulk("Ag", cubic=True), potcar=None)
    document = audit([*frames, silver])
    assert document.excluded == [40]
    assert checks(document, "exclude") == ["composition"]
    half = [labelled(bulk("Ag", cubic=True, a=4.0 + 0.01 * k), potcar=None) for k in range(30)]
    assert "composition" in checks(audit([*frames, *half]), "warn")


def test_too_few_frames_left_is_a_refusal(frames):
    broken = [label_frame(atoms, energy=None, forces=None) for atoms in frames[:30]]
    document = audit([*broken, *frames[30:]])
    assert document.verdict == "refuse"
    assert "only 10 of 40 frames would remain" in document.reasons[0]
    nothing = audit(broken)
    assert nothing.verdict == "refuse"


def test_a_baseline_shows_what_neighbours_do_not(frames):
    """A foundation 20 % too soft, on another zero of energy, is no reason for alarm; one frame's turned axes are."""
    soft = [Labels(0.8 * one.energy + 1.7, 0.8 * one.forces, 0.8 * one.stress) for one in map(labels_of, frames)]
    assert audit(frames, baseline=soft).verdict == "pass"
    found = labels_of(frames[7])
    frames[7] = label_frame(frames[7], energy=found.energy, forces=found.forces[:, [1, 0, 2]], stress=found.stress)
    document = audit(frames, baseline=soft)
    assert (document.excluded, checks(document, "exclude")) == ([7], ["foreign_forces"])
    with pytest.raises(InputError, match="3 predictions were given for 40 frames"):
        audit(frames, baseline=soft[:3])


def test_copied_numbers_are_found(frames):
    frames[3] = label_frame(
        frames[3], energy=labels_of(frames[3]).energy, forces=labels_of(frames[8]).forces, stress=None, **INFO
    )
    document = audit(frames)
    assert document.excluded == [3, 8]
    assert "repeated_labels" in checks(document, "exclude")


def test_empty_sets_and_wrong_limits():
    with pytest.raises(InputError, match="no frame to audit"):
        audit([])
    with pytest.raises(ValidationError):
        AuditOptions(majority=0.4)


def test_forces_only_frames_pass_with_a_warning(frames):
    mixed = [label_frame(a, energy=None, forces=labels_of(a).forces) if k < 5 else a for k, a in enumerate(frames)]
    document = audit(mixed)
    assert document.verdict == "pass"
    assert checks(document) == ["missing_energy", "missing_stress"]
    assert "phonosmith train needs one for every frame" in document.findings[0].message


def test_energy_work_is_exact_to_third_order():
    """Trapezoid rule with non-affine displacement and strain: halving the step divides the error by eight."""
    rng = np.random.default_rng(1)
    base = bulk("Cu", cubic=True, a=3.59)
    base.positions += rng.normal(0, 0.05, base.positions.shape)
    first = labelled(base)
    moved, strain = rng.normal(0, 0.05, base.positions.shape), rng.normal(0, 0.01, (3, 3))
    errors = []
    for scale in (1.0, 0.5, 0.25):
        atoms = base.copy()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + scale * strain), scale_atoms=True)
        atoms.positions += scale * moved
        second = labelled(atoms)
        change, by_forces, by_stress, _ = work(first, second, labels_of(first), labels_of(second))
        errors.append(abs(change - np.trace(by_forces) - np.trace(by_stress)))
    assert errors[0] < 2e-3
    assert 5 < errors[0] / errors[1] < 12
    assert 5 < errors[1] / errors[2] < 12


def test_displacement_and_strain_separate_the_two():
    base = bulk("Cu", cubic=True)
    atoms = base.copy()
    atoms.set_cell(atoms.cell.array * 1.01, scale_atoms=True)
    moved, strain = displacement_and_strain(base, atoms)
    assert np.abs(moved).max() < 1e-12
    assert np.allclose(strain, np.eye(3) * 0.01 / 1.005)


class TestOffsets:
    """Energy offsets between sources."""

    def test_from_shared_configurations(self, frames):
        other = [relabelled(a, energy=0.15 * 8, source="b") for a in frames[:6]]
        fit = fit_offsets({"a": frames, "b": other})
        (offset,) = [o for o in fit.offsets if o.source == "b"]
        assert fit.reference == "a"
        assert offset.method == "shared"
        assert offset.per_atom == pytest.approx(0.15, abs=1e-12)
        assert offset.elements == {"Cu": pytest.approx(0.15, abs=1e-12)}

    def test_from_the_lowest_energies(self, frames):
        other = [relabelled(a, energy=0.4 * 8) for a in frames[20:]]
        fit = fit_offsets({"a": frames[:20], "b": other})
        (offset,) = [o for o in fit.offsets if o.source == "b"]
        assert offset.method == "composition"
        assert abs(offset.per_atom - 0.4) < 3 * offset.uncertainty
        assert offset.uncertainty < 0.05

    def test_nothing_to_compare(self, frames):
        silver = [labelled(bulk("Ag", cubic=True))]
        fit = fit_offsets({"a": frames, "c": silver})
        assert fit.undetermined == ["c"]
        with pytest.raises(InputError, match="No source has energies"):
            fit_offsets({"a": [frames[0].copy()]})
        with pytest.raises(InputError, match="'x' has no energies"):
            fit_offsets({"a": frames}, reference="x")

    def test_the_audit_reports_them(self, frames):
        other = [relabelled(a, energy=0.15 * 8) for a in frames[:20]]
        for group, name in ((frames, "campaign"), (other, "colleague")):
            for atoms in group:
                atoms.info.pop("settings")
                atoms.info["source"] = name
        document = audit([*frames, *other])
        assert document.verdict == "refuse"
        (finding,) = [f for f in document.findings if f.check == "energy_offset"]
        assert "'colleague' lie +150.0" in finding.message
        assert finding.frames == list(range(40, 60))


@pytest.mark.parametrize("name", ["phono3py", "phonopy/NaCl-rd", "phonopy/TiO2-anatase", "mlearn/Si_training.json.xz"])
def test_real_dft_passes(shared, name):
    """Real VASP labels, from 0.01 Å displacements to molecular dynamics and 10 % strain."""
    frames, _ = import_source(shared / "data" / name)
    document = audit(frames)
    assert document.verdict == "pass"


@pytest.mark.slow
def test_real_dft_with_scaled_forces_or_wrong_stress_is_refused(shared):
    frames, _ = import_source(shared / "data" / "mlearn" / "Si_training.json.xz")
    assert "energy_forces" in checks(audit([relabelled(a, forces=1.5) for a in frames]), "refuse")
    assert "energy_stress" in checks(audit([relabelled(a, stress=-1.0) for a in frames]), "refuse")
    frames, _ = import_source(shared / "data" / "phono3py")
    assert "energy_forces" in checks(audit([relabelled(a, forces=1.5) for a in frames]), "refuse")


def sampled(material, seed=0):
    """Return distorted cells at several volumes as the sampling makes them, labelled by the published potential."""
    from phonosmith.potentials.embedded import read_crystal
    from phonosmith.potentials.registry import load
    from phonosmith.reference.labels import as_frames, label_with_potential

    rng, crystal = np.random.default_rng(seed), read_crystal(f"embedded:{material}").to_ase_atoms(msonable=False)
    frames = []
    for factor in (0.95, 0.98, 1.0, 1.02, 1.05):
        for size in (0.1, 0.06, 0.03, 0.0):
            atoms = crystal.repeat(2)
            atoms.set_cell(atoms.cell.array @ (factor ** (1 / 3) * np.eye(3)), scale_atoms=True)
            atoms.positions += rng.normal(scale=size + 1e-3, size=atoms.positions.shape)
            frames.append(atoms)
    return label_with_potential(load("embedded-reference"), as_frames(frames), name="embedded-reference", sha256=None)


@pytest.mark.parametrize("material", ["Si", "SiC"])
def test_sound_labels_of_a_potential_pass_whole_and_in_small_sets(material):
    # the cutoff of carbon and silicon bends forces within 0.1 Å more than the rule of the work allows
    frames = sampled(material)
    assert audit(frames).verdict == "pass"
    rng = np.random.default_rng(1)
    for count in (4, 6, 8, 12):
        chosen = [frames[index] for index in sorted(rng.choice(len(frames), count, replace=False))]
        # a frame far from all others may be told and left out, but no labels contradict one another
        assert {finding.check for finding in audit(chosen).findings} <= {"energy_outlier", "force_outlier"}


def test_slopes_of_few_frames_are_not_taken_for_more_than_they_are():
    # forces and stress do work together here: neither slope is known well, whoever made the labels
    frames = sampled("Si")
    for atoms in frames:
        del atoms.info["engine"]
    rng = np.random.default_rng(2)
    for _ in range(20):
        chosen = [frames[index] for index in sorted(rng.choice(len(frames), 6, replace=False))]
        assert {finding.check for finding in audit(chosen).findings} <= {"energy_outlier", "force_outlier"}
