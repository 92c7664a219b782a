"""A MACE model's architecture as JSON, and back through mace's own constructor.

The description holds what the constructor needs and nothing learned; every tensor comes from the weights. Constants
that mace keeps as Python numbers rather than tensors (the normalisation of activations, neighbour counts) are listed
one by one, so that a model rebuilt on another machine predicts the same numbers.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.e3nn_eager import default_dtype
from phonosmith.potentials.mace.imports import import_mace

if TYPE_CHECKING:
    import torch

Description = dict[str, Any]

# Python floats inside modules that may be set after construction without changing what the module is
CONSTANTS = ("avg_num_neighbors", "cst", "coeff", "r_max")
PLAIN = (bool, int, float, str)
RADIAL_TYPES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}


def describe(model: torch.nn.Module) -> Description:
    """Return the JSON description from which ``build`` makes an equal, untrained module.

    A model that is no MACE energy model or uses a part the description cannot carry is a PotentialError.
    """
    kind = type(model).__name__
    if kind not in ("ScaleShiftMACE", "MACE") or type(model).__module__ != "mace.modules.models":
        raise PotentialError(
            f"A {type(model).__module__}.{kind} is not a MACE energy model.", "Give a MACE or ScaleShiftMACE model."
        )
    _refuse_unsupported(model)
    try:
        description = {"class": kind, **_arguments(model)}
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise PotentialError(
            f"This {kind} has parts this version cannot describe ({error}).",
            "It may come from another mace version; open and save it again with the installed one.",
        ) from error
    return description | {"constants": _constants(model)}


def _refuse_unsupported(model: Any) -> None:
    kind = type(model).__name__
    if hasattr(model, "joint_embedding"):
        raise PotentialError(
            f"This {kind} needs extra inputs ({', '.join(model.embedding_specs)}), which phonosmith does not supply.",
            "Use a model that takes only the structure.",
        )
    for name in ("cueq_config", "oeq_config"):
        configs = [getattr(model, name, None), *(getattr(block, name, None) for block in model.interactions)]
        if any(config is not None and getattr(config, "enabled", True) for config in configs):
            raise PotentialError(
                f"This {kind} was converted to an accelerated backend ({name}).",
                "Convert it back to the e3nn form first: only that form has the second derivatives phonosmith needs.",
            )


def _arguments(model: Any) -> Description:
    import_mace()
    from mace.tools.scripts_utils import extract_radial_MLP

    radial, last = model.radial_embedding, model.readouts[-1]
    basis = radial.bessel_fn
    heads = list(getattr(model, "heads", None) or ["Default"])
    transform = getattr(radial, "distance_transform", None)
    several = int(model.num_interactions) > 1
    arguments = {
        "r_max": float(model.r_max),
        "num_bessel": int(radial.out_dim),
        "radial_type": RADIAL_TYPES[type(basis).__name__],
        "num_polynomial_cutoff": int(radial.cutoff_fn.p),
        "apply_cutoff": bool(getattr(radial, "apply_cutoff", True)),
        "distance_transform": "None" if transform is None else TRANSFORMS[type(transform).__name__],
        "pair_repulsion": hasattr(model, "pair_repulsion_fn"),
        "max_ell": int(model.spherical_harmonics._lmax),  # noqa: SLF001  # mace itself reads the order here
        "interaction_cls": type(model.interactions[-1]).__name__,
        "interaction_cls_first": type(model.interactions[0]).__name__,
        "num_interactions": int(model.num_interactions),
        "num_elements": len(model.atomic_numbers),
        "atomic_numbers": [int(number) for number in model.atomic_numbers],
        "hidden_irreps": str(model.products[0].linear.irreps_out),
        "keep_last_layer_irreps": several and any(part.ir.l > 0 for part in model.products[-1].linear.irreps_out),
        "MLP_irreps": _readout_irreps(last, len(heads)),
        "gate": _gate_name(last),
        "readout_cls": type(last).__name__ if several else "NonLinearReadoutBlock",
        "correlation": [len(product.symmetric_contractions.contractions[0].weights) + 1 for product in model.products],
        "radial_MLP": [int(width) for width in extract_radial_MLP(model)],
        "avg_num_neighbors": float(model.interactions[0].avg_num_neighbors),
        "heads": heads,
        "edge_irreps": None if getattr(model, "edge_irreps", None) is None else str(model.edge_irreps),
        "atomic_energies_shape": list(model.atomic_energies_fn.atomic_energies.shape),
    }
    flags = ("use_reduced_cg", "use_so3", "use_agnostic_product", "use_last_readout_only", "use_edge_irreps_first")
    arguments |= {flag: bool(getattr(model, flag, False)) for flag in flags}
    if hasattr(model, "scale_shift"):
        arguments |= {f"{name}_shape": list(getattr(model.scale_shift, name).shape) for name in ("scale", "shift")}
    return arguments


def _readout_irreps(readout: Any, n_heads: int) -> str:
    from e3nn import o3

    hidden = getattr(readout, "hidden_irreps", None)
    parts = o3.Irreps("1x0e" if hidden is None else str(hidden))
    return str(parts if hidden is None else o3.Irreps([(part.mul // n_heads, part.ir) for part in parts]))


def _gate_name(readout: Any) -> str:
    from mace.modules import gate_dict

    activations = getattr(getattr(readout, "non_linearity", None), "acts", None)
    if activations is None or len(activations) == 0:
        return "silu"
    function = getattr(activations[0], "f", None)
    name = next((str(name) for name, known in gate_dict.items() if function is known), None)
    if name is None:
        raise PotentialError(
            f"The readout's activation {getattr(function, '__name__', function)} is not one mace offers by name.",
            "Use abs, tanh or silu.",
        )
    return name


def build(description: Description, dtype: torch.dtype) -> torch.nn.Module:
    """Return an untrained module of this architecture, built by mace's constructor in the given precision."""
    import_mace()
    import numpy as np
    from e3nn import o3
    from mace import modules

    arguments = dict(description)
    model_class = getattr(modules, arguments.pop("class"))
    constants = arguments.pop("constants")
    arguments["atomic_energies"] = np.zeros(arguments.pop("atomic_energies_shape"))
    if "scale_shape" in arguments:
        arguments["atomic_inter_scale"] = np.zeros(arguments.pop("scale_shape"))
        arguments["atomic_inter_shift"] = np.zeros(arguments.pop("shift_shape"))
    for name in ("interaction_cls", "interaction_cls_first"):
        arguments[name] = modules.interaction_classes[arguments[name]]
    arguments["readout_cls"] = modules.readout_classes[arguments["readout_cls"]]
    arguments["gate"] = modules.gate_dict[arguments["gate"]]
    for name in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        arguments[name] = None if arguments[name] is None else o3.Irreps(arguments[name])
    with default_dtype(dtype), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript comments on e3nn's annotations
        model = model_class(**arguments)
    for path, value in constants.items():
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, value)
    return model


def _constants(model: torch.nn.Module) -> dict[str, float]:
    constants = {}
    for path, module in model.named_modules():
        for name in CONSTANTS:
            value = vars(module).get(name)
            if isinstance(value, int | float) or getattr(value, "shape", None) == ():
                constants[f"{path}.{name}".lstrip(".")] = float(value)
    return constants


def _attributes(model: torch.nn.Module) -> dict[str, Any]:
    """Return the class and every public attribute of plain values of a model's modules, by path."""
    attributes: dict[str, Any] = {}
    for path, module in model.named_modules():
        if any(part in path for part in ("_compiled_", "graph_opt_main", "contractions_")):
            continue
        attributes[f"{path}.<class>"] = type(module).__name__
        for name, value in vars(module).items():
            if name.startswith("_") or name == "training":
                continue
            plain = str(value) if type(value).__name__ == "Irreps" else value
            plain = list(plain) if isinstance(plain, tuple) else plain
            if all(isinstance(one, PLAIN) for one in (plain if isinstance(plain, list) else [plain])):
                attributes[f"{path}.{name}".lstrip(".")] = plain
    return attributes


def differences(original: torch.nn.Module, rebuilt: torch.nn.Module) -> list[str]:
    """List where two modules with the same tensors differ in class or plain attribute.

    Attributes that only one of them has are skipped: older mace versions did not save them; the predictions compared
    by the caller decide there.
    """
    left, right = _attributes(original), _attributes(rebuilt)
    differing = [
        f"{path}: {left[path]!r} became {right[path]!r}"
        for path in left
        if path in right and left[path] != right[path] and not path.endswith("avg_num_neighbors")
    ]
    return differing + [f"{path} is missing" for path in left if path.endswith("<class>") and path not in right]
