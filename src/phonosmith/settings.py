"""Settings of one installation: environment ``PHONOSMITH_*`` first, then ``~/.phonosmith.yaml``, then defaults.

VASP commands stay in ``atomate2.yaml``, job stores in ``jobflow.yaml``, workers in jobflow-remote's project file:
nothing is configured in a fourth place.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.core.reading import load_yaml, read_bounded

ENV_PREFIX = "PHONOSMITH_"
CONFIG_FILE_VARIABLE = "PHONOSMITH_CONFIG_FILE"


def config_file() -> Path:
    """Return the YAML file settings are read from (it need not exist)."""
    return Path(os.environ.get(CONFIG_FILE_VARIABLE, "~/.phonosmith.yaml")).expanduser()


class _YamlSource(PydanticBaseSettingsSource):
    """Read the settings file; a broken file names itself."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Satisfy the interface; values are delivered together by ``__call__``."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = config_file()
        if not path.is_file():
            return {}
        try:
            content = load_yaml(read_bounded(path), str(path))
        except InputError as error:
            raise ConfigurationError(error.message, error.advice) from error
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path} must hold 'name: value' lines.", "See 'phonosmith doctor'.")
        return content


class Settings(BaseSettings):
    """Where things are and what counts as good enough on this installation."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", validate_assignment=True)

    home: Path = Field(
        Path("~/.phonosmith"),
        validate_default=True,
        description="folder of the default artefact store, cache and trust list",
    )
    artefacts: Path | None = Field(None, description="artefact store every worker reaches; default HOME/artefacts")
    artefacts_store: dict[str, Any] | None = Field(
        None, description="a maggma store as JSON (GridFSStore, S3Store, ...) used for artefacts instead of a folder"
    )
    cache: Path | None = Field(None, description="worker-side copy of artefacts; default HOME/cache")
    database: Path | None = Field(None, description="embedded job store; default HOME/store.sqlite")
    reference_cache: Path | None = Field(
        None, description="folder where GPAW's results are kept by their content and found again; none by default"
    )
    device: Literal["cpu", "cuda", "auto"] = Field(
        "auto", description="where potentials are evaluated and trained; auto: where it is measured to take less time"
    )
    stop_in_time: bool = Field(
        False,
        description="VASP and trainings stop before the SLURM job they run in ends, and go on in a job that follows",
    )
    batch_atoms: int = Field(2048, gt=0, description="atoms per batch of the batched evaluator on a CPU")
    stability_threshold_thz: float = Field(0.05, gt=0, description="modes below minus this count as imaginary, THz")

    verdict_phonon_mae_thz: float = Field(
        0.10, gt=0, description="largest phonon MAE of a potential fit for phonons, THz"
    )
    verdict_omega_max_percent: float = Field(3.0, gt=0, description="largest error of the highest frequency, percent")
    verdict_thermal_percent: float = Field(2.0, gt=0, description="largest error of C_v and S at 300 K, percent")
    production_force_mae: float = Field(
        20.0, gt=0, description="largest validation force MAE where no reference phonons exist, meV/Å"
    )
    production_change_thz: float = Field(
        0.05, gt=0, description="phonons must not move more than this between the last two training sets, THz"
    )
    production_check_percent: float = Field(
        5.0, gt=0, description="largest relative force error in displaced cells the reference calculated, percent"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, YAML file."""
        return init_settings, env_settings, _YamlSource(cls)

    @field_validator("home", "artefacts", "cache", "database", "reference_cache")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Fix relative folders once: jobs run in folders of their own."""
        return None if path is None else path.expanduser().absolute()

    @property
    def home_dir(self) -> Path:
        """Folder of everything this user keeps."""
        return self.home

    @property
    def artefacts_dir(self) -> Path:
        """Folder of the artefact store."""
        return self.artefacts or self.home_dir / "artefacts"

    @property
    def cache_dir(self) -> Path:
        """Folder of the worker-side artefact cache."""
        return self.cache or self.home_dir / "cache"

    @property
    def database_file(self) -> Path:
        """SQLite file of the embedded job store."""
        return self.database or self.home_dir / "store.sqlite"


def load_settings() -> Settings:
    """Read the settings; an invalid one is reported by the name of its variable.

    Raises
    ------
    ConfigurationError
        Naming each offending variable, what it held and what is allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else "?"
            shown = ENV_PREFIX + name.upper()
            where = shown if shown in os.environ else f"{name} in {config_file()} (or {shown})"
            lines.append(f"{where}: {item['msg']} (got {item['input']!r})")
        known = ", ".join(ENV_PREFIX + field.upper() for field in Settings.model_fields)
        raise ConfigurationError("Invalid settings: " + "; ".join(lines) + ".", f"Known variables: {known}.") from error


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once (``get_settings.cache_clear()`` re-reads)."""
    return load_settings()
