import json
import platform

import pytest

from phonosmith.core.hashing import digest_json
from phonosmith.core.manifest import Manifest, recorded


def test_a_manifest_records_inputs_settings_versions_and_time():
    with recorded(inputs={"structure": "a" * 64}, settings={"fmax": 1e-4}, seed=3) as manifest:
        sum(range(1000))
    assert manifest.wall_seconds > 0
    assert manifest.settings_digest == digest_json({"fmax": 1e-4})
    assert manifest.seed == 3
    assert "numpy" in manifest.packages
    assert manifest.host["cores"] >= 1


def test_no_host_name_leaks_into_a_manifest():
    with recorded() as manifest:
        pass
    assert platform.node() not in json.dumps(manifest.host)


def test_time_is_recorded_when_the_work_fails():
    kept = []
    with pytest.raises(ValueError, match="broken"), recorded() as manifest:
        kept.append(manifest)
        raise ValueError("broken")
    assert kept[0].wall_seconds > 0


def test_a_manifest_survives_json():
    with recorded(settings={"a": [1, 2.5]}) as manifest:
        pass
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
