"""e3nn's TorchScript off, its sign convention, and files written with other settings."""

import subprocess
import sys

import pytest

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_bytes
from phonosmith.potentials import e3nn_eager
from phonosmith.potentials.embedded import foundation_bytes
from phonosmith.potentials.mace.files import pack_model, plain_bytes, unpack_model
from phonosmith.potentials.registry import resolve


def test_unnatural_parity_is_told():
    for natural in ("16x0e+16x1o", "128x0e + 64x1o + 32x2e + 32x3o", "", "8x0o+4x0e"):
        assert not e3nn_eager.unnatural([natural])
    for other in ("128x0e+64x1e+32x2e", "4x2o", "4x3e"):
        assert e3nn_eager.unnatural(["16x0e", other])


def test_a_model_of_the_other_signs_is_refused(monkeypatch):
    monkeypatch.setattr(e3nn_eager, "e3nn_version", lambda: "0.4.4")
    e3nn_eager.require_signs(["4x0e+4x1e"], "0.4.4", "x")
    e3nn_eager.require_signs(["4x0e+4x1o"], "0.6.0", "x")
    with pytest.raises(PotentialError, match=r"made with e3nn 0\.6\.0") as error:
        e3nn_eager.require_signs(["4x0e+4x1e"], "0.6.0", "x")
    assert "install_architectures" in error.value.advice
    monkeypatch.setattr(e3nn_eager, "e3nn_version", lambda: "0.5.8")
    with pytest.raises(PotentialError, match=r"made with e3nn 0\.4\.4"):
        e3nn_eager.require_signs(["4x0e+4x1e"], "0.4.4", "x")


def test_nothing_is_compiled():
    import copy

    import torch

    model = unpack_model(foundation_bytes())
    for one in (model, copy.deepcopy(model)):
        assert not [name for name, part in one.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    harmonics = sys.modules["e3nn.o3._spherical_harmonics"]._spherical_harmonics
    assert not isinstance(harmonics, torch.jit.ScriptFunction)


def test_the_embedded_foundation_packs_to_the_same_bytes():
    assert pack_model(unpack_model(foundation_bytes())) == foundation_bytes()


def test_compiled_constants_are_no_weights(tmp_path):
    """Some e3nn versions list them among the tensors of a plain file."""
    import torch

    model = unpack_model(foundation_bytes())
    product = model.interactions[1].conv_tp
    product._compiled_main_left_right.register_buffer("_tensor_constant0", torch.zeros(3))
    path = tmp_path / "plain.model"
    path.write_bytes(plain_bytes(model))
    assert resolve(str(path), trust=True).sha256 == digest_bytes(foundation_bytes())


@pytest.mark.slow
@pytest.mark.skipif(not e3nn_eager.e3nn_version().startswith("0.4"), reason="newer e3nn cannot pickle what it compiled")
def test_plain_file_written_with_torchscript_loads(tmp_path):
    """As users bring them; a file of e3nn 0.6 differs from one written here in its compiled constants only."""
    path = tmp_path / "scripted.model"
    script = (
        "import sys; from phonosmith.potentials.e3nn_eager import import_e3nn; import_e3nn(); import e3nn\n"
        "e3nn.set_optimization_defaults(jit_script_fx=True)\n"
        "from phonosmith.potentials.embedded import foundation_bytes\n"
        "from phonosmith.potentials.mace.files import plain_bytes, unpack_model\n"
        "open(sys.argv[1], 'wb').write(plain_bytes(unpack_model(foundation_bytes())))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, path], check=True)
    assert b"RecursiveScriptModule" in path.read_bytes() or b"code/__torch__" in path.read_bytes()
    assert resolve(str(path), trust=True).sha256 == digest_bytes(foundation_bytes())
