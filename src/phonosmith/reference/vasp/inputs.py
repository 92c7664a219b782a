"""The protocol that VASP inputs stand for which others made or changed: atomate2's powerups, own input sets.

Every change becomes one of the protocol, so that the identity of labels and the rule of acceptance follow it, or is
free (parallel layout), or is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.identity import KEEP_WAVEFUNCTIONS, MACHINE_TAGS
from phonosmith.reference.protocol import ReferenceProtocol

if TYPE_CHECKING:
    from atomate2.vasp.sets.base import VaspInputGenerator

_FIELDS = {
    "ENCUT": ("encut", "mode_encut"), "EDIFF": ("ediff", "mode_ediff"), "KSPACING": ("kspacing",),
    "ISMEAR": ("ismear",), "SIGMA": ("sigma",), "NELM": ("nelm",), "ALGO": ("algo",), "PREC": ("prec",),
    "LREAL": ("lreal",), "LASPH": ("lasph",), "MAGMOM": ("magmoms",), "NSW": ("relax_steps", "elastic_steps"),
}  # fmt: skip
"""Fields of a protocol by the tag that sets them in every calculation."""
_FUNCTIONALS = {"PE": "PBE", "PS": "PBEsol"}
_DECIDED = {
    "KGAMMA": True, "LMAXMIX": 6, "IBRION": None, "ISIF": None, "LEPSILON": None, "LCHARG": False,
    "LORBIT": None,
}  # fmt: skip
"""Tags that no one sets: their values, or None where the kind of calculation decides."""
_WRITES_ONLY = ("LAECHG", "LVTOT", "LVHAR", "LELF", "LOPTICS", "SYSTEM", "NELMIN", "ISYM")
"""Tags of other input sets that change no energy or force, or that custodian may change anyway; they are left out."""
_DEFAULTS = {
    "EDIFF": 1e-4, "ISMEAR": 1, "SIGMA": 0.2, "NELM": 60, "ALGO": "Normal", "PREC": "Normal", "LREAL": False,
    "LASPH": False, "ISPIN": 1,
}  # fmt: skip
"""VASP's, for tags that another input set does not write."""


def with_tags(protocol: ReferenceProtocol, tags: Mapping[str, Any]) -> tuple[ReferenceProtocol, dict[str, Any]]:
    """Return the protocol in which INCAR tags have other values in every calculation, and those that are free.

    None takes a further tag (``extra_incar``) away. A tag that the kind of calculation decides is refused.
    """
    named = {str(key).strip().upper(): value for key, value in tags.items()}
    machine = {key: value for key, value in named.items() if key in MACHINE_TAGS}
    if named.pop(KEEP_WAVEFUNCTIONS, None):
        machine[KEEP_WAVEFUNCTIONS] = True
    extra, update = dict(protocol.extra_incar), dict[str, Any]()
    for key, value in named.items():
        if key in machine:
            continue
        if key in _DECIDED:
            if value is not None and value != _DECIDED[key]:
                raise ConfigurationError(
                    f"{key} = {value} cannot be set: the kind of calculation decides it.",
                    "Leave it out; further physical tags go into extra_incar of the protocol.",
                )
        elif key == "GGA":
            update["functional"] = _FUNCTIONALS.get(str(value).upper(), value)
        elif key == "ISPIN":
            update["spin_polarized"] = value == 2
        elif key == "EDIFFG":
            if not (isinstance(value, int | float) and value < 0):
                raise ConfigurationError(f"EDIFFG = {value} is no force.", "Give a negative number, eV/Å.")
            update |= dict.fromkeys(("relax_fmax", "elastic_fmax"), -value)
        elif key in _FIELDS:
            update |= dict.fromkeys(_FIELDS[key], value)
        elif value is None:
            extra.pop(key, None)
        else:
            extra[key] = value
    return changed_protocol(protocol, update | {"extra_incar": extra}), machine


def changed_protocol(protocol: ReferenceProtocol, update: Mapping[str, Any]) -> ReferenceProtocol:
    """Return a protocol with some fields replaced, checked."""
    kept = {name: getattr(protocol, name) for name in type(protocol).model_fields}
    try:
        return ReferenceProtocol.model_validate(kept | dict(update))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(
            f"These VASP settings make no protocol: {wrong}.", "Correct them, or say them as fields of the protocol."
        ) from error


def no_mesh(what: str) -> ConfigurationError:
    """Return the error of k-points that are given by anything but a spacing."""
    return ConfigurationError(
        f"{what} gives a k-mesh that a protocol cannot follow from cell to cell.",
        "Give KSPACING (VASP's convention, Å⁻¹) with user_incar_settings, or kspacing in the protocol.",
    )


def of_input_set(
    protocol: ReferenceProtocol, generator: VaspInputGenerator
) -> tuple[ReferenceProtocol, dict[str, Any]]:
    """Return the protocol of an input set that was made without one, and its tags of the parallel layout.

    It is read by what it writes for a crystal, POTCARs and moments by its tables. How atoms move is not read from it:
    a protocol has its own thresholds, and each kind of calculation its own tags.
    """
    from atomate2.vasp.sets.base import VaspInputGenerator
    from pymatgen.core import Lattice, Structure

    if not isinstance(generator, VaspInputGenerator):
        raise ConfigurationError(
            f"{generator!r} is no input set of atomate2.", "Give an object of a class of atomate2.vasp.sets."
        )
    config, name = generator.config_dict, type(generator).__name__
    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    written = deepcopy(generator).get_input_set(structure=silicon, potcar_spec=True)
    left_out = (*_WRITES_ONLY, *_DECIDED, KEEP_WAVEFUNCTIONS, "NSW", "EDIFFG")
    tags = {key: value for key, value in dict(written.incar).items() if key not in left_out}
    if tags.pop("LDAU", False):
        raise ConfigurationError(
            f"{name} sets LDAU: a protocol knows no +U.", "Set LDAU: false in its user_incar_settings."
        )
    tags = {key: value for key, value in tags.items() if not key.startswith("LDAU")}
    if "ENCUT" not in tags:
        raise ConfigurationError(
            f"{name} says no ENCUT: each POTCAR would decide.", "Give ENCUT in its user_incar_settings."
        )
    if "KSPACING" not in tags:
        raise no_mesh(name)
    spin = tags.get("ISPIN", 1) == 2
    moments = config.get("INCAR", {}).get("MAGMOM") or {}
    tags["MAGMOM"] = {key: value for key, value in dict(moments).items() if key.isalpha()} if spin else {}
    table = {**config.get("POTCAR", {}), **generator.user_potcar_settings}
    plain = changed_protocol(protocol, {"potcar_overrides": ()}).potcar_map()
    symbols = {element: one["symbol"] if isinstance(one, Mapping) else str(one) for element, one in table.items()}
    library = generator.user_potcar_functional or config.get("POTCAR_FUNCTIONAL")
    changed, machine = with_tags(protocol, _DEFAULTS | tags)
    return changed_protocol(
        changed,
        {
            "potcar_overrides": {element: one for element, one in symbols.items() if plain.get(element) != one},
            "potcar_functional": library or protocol.potcar_functional,
        },
    ), machine
