import pytest
from ase.build import bulk
from pydantic import ValidationError
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import ConfigurationError
from phonosmith.flows.campaign import CampaignSpec
from phonosmith.flows.parts import MaterialParts
from phonosmith.flows.settings import MaterialSettings, material_settings, strategies_named, training_of
from phonosmith.reference.engines import make_engine


def test_campaigns_say_what_materials_are_told_and_nothing_of_it_changes():
    spec = CampaignSpec(materials=["Si.cif"], foundations=["embedded"], min_length=8, sampling={"n_select": 3})
    assert isinstance(spec, MaterialSettings)
    assert set(MaterialSettings.model_fields) < set(CampaignSpec.model_fields)
    with pytest.raises(ValidationError, match="frozen"):
        spec.min_length = 9.0
    kept = material_settings(spec, mesh=4)
    assert (kept.min_length, kept.mesh, kept.sampling.n_select) == (8.0, 4, 3)


def test_every_wrong_field_is_named_with_what_is_known():
    with pytest.raises(ConfigurationError) as caught:
        material_settings(min_lenght=8, evaluate=("phonon",), sampling={"n_selct": 3})
    for words in ("Did you mean min_length?", "Did you mean phonons?", "sampling.n_selct: unknown field"):
        assert words in caught.value.message


def test_production_trains_on_half_of_the_labels_and_on_all():
    assert MaterialSettings(mode="production").sizes == (8, 16)
    assert MaterialSettings(n_train=(12, 4, 4)).sizes == (4, 12)
    # as in the published tables 1 to 4; all labels where there are not more
    assert MaterialSettings().sizes == (10,)
    assert MaterialSettings(sampling={"n_select": 2}).sizes == ()


def test_settings_of_one_strategy_replace_those_of_all():
    training = {"epochs": 3, "e0_values": {"Si": 1.0}, "delta": {"epochs": 5}}
    assert strategies_named(training) == ["delta"]
    assert training_of(training, "delta") == {"epochs": 5, "e0_values": {"Si": 1.0}}
    assert training_of(training, "transfer") == {"epochs": 3, "e0_values": {"Si": 1.0}}


def test_a_supercell_may_be_given_and_stands_for_every_length():
    doubled = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    silicon = AseAtomsAdaptor.get_structure(bulk("Si"))
    parts = MaterialParts(silicon, "si", material_settings(supercell=doubled), make_engine("gpaw"), seed=0)
    assert parts.matrix(20.0) == parts.matrix(5.0) == doubled
    assert CampaignSpec(materials=["Si.cif"], foundations=["embedded"], supercell="compact").supercell == "compact"
    for wrong in ([[1, 0, 0], [2, 0, 0], [0, 0, 1]], [[-1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0], [0, 1]], "cubik"):
        with pytest.raises(ConfigurationError, match="supercell"):
            material_settings(supercell=wrong)
