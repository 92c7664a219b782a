import pytest

from phonosmith.core.errors import ConfigurationError
from phonosmith.settings import Settings, load_settings


def test_environment_comes_before_the_file(tmp_path, monkeypatch):
    config = tmp_path / "settings.yaml"
    config.write_text("batch_atoms: 10\nstability_threshold_thz: 0.2\n")
    monkeypatch.setenv("PHONOSMITH_CONFIG_FILE", str(config))
    monkeypatch.setenv("PHONOSMITH_BATCH_ATOMS", "77")
    settings = load_settings()
    assert (settings.batch_atoms, settings.stability_threshold_thz) == (77, 0.2)


def test_folders_default_to_the_home_folder(tmp_path):
    settings = Settings(home=tmp_path)
    assert settings.artefacts_dir == tmp_path / "artefacts"
    assert settings.database_file == tmp_path / "store.sqlite"
    assert Settings(home=tmp_path, cache=tmp_path / "c").cache_dir == tmp_path / "c"


def test_relative_folders_stay_where_they_were_named(tmp_path, monkeypatch):
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHONOSMITH_HOME", "mine")
    monkeypatch.setenv("PHONOSMITH_CACHE", "near/cache")
    settings = load_settings()
    monkeypatch.chdir(tmp_path / "job")
    assert settings.artefacts_dir == tmp_path / "mine" / "artefacts"
    assert settings.cache_dir == tmp_path / "near" / "cache"
    assert Settings.model_validate_json(settings.model_dump_json()).home_dir == tmp_path / "mine"


def test_an_invalid_value_names_its_variable(monkeypatch):
    monkeypatch.setenv("PHONOSMITH_BATCH_ATOMS", "many")
    with pytest.raises(ConfigurationError, match=r"PHONOSMITH_BATCH_ATOMS: .*'many'"):
        load_settings()


def test_an_unknown_field_in_the_file_names_the_file(tmp_path, monkeypatch):
    config = tmp_path / "settings.yaml"
    config.write_text("artefact: /tmp\n")
    monkeypatch.setenv("PHONOSMITH_CONFIG_FILE", str(config))
    with pytest.raises(ConfigurationError, match=r"artefact in .*settings\.yaml") as caught:
        load_settings()
    assert "PHONOSMITH_ARTEFACTS" in caught.value.advice


@pytest.mark.parametrize("content", ["a: [", "- 1\n"])
def test_a_broken_file_names_itself(tmp_path, monkeypatch, content):
    config = tmp_path / "settings.yaml"
    config.write_text(content)
    monkeypatch.setenv("PHONOSMITH_CONFIG_FILE", str(config))
    with pytest.raises(ConfigurationError, match=r"settings\.yaml"):
        load_settings()
