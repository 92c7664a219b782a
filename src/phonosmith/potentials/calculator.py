"""ASE calculator of a potential in the artefact store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import InputError
from phonosmith.potentials.ase_potential import LoadedCalculator
from phonosmith.potentials.base import Potential
from phonosmith.potentials.documents import PotentialRef


class PotentialCalculator(LoadedCalculator):
    """ASE calculator of a potential in the artefact store, for Makers that name a calculator by its dotted path.

    ``ForceFieldRelaxMaker(force_field_name={"@module": "phonosmith.potentials.calculator", "@callable":
    "PotentialCalculator"}, calculator_kwargs={"potential": ref.model_dump()})`` or
    ``calculator_meta="phonosmith.potentials.calculator.PotentialCalculator"``: the reference is plain JSON, the model
    is fetched on the worker by its sha256, verified, and refused when missing or altered.

    Parameters
    ----------
    potential
        PotentialRef or its JSON.
    dtype
        float32 or float64; default the reference's.
    device
        cpu, cuda or auto; default the setting PHONOSMITH_DEVICE.
    """

    def __init__(
        self,
        potential: PotentialRef | Mapping[str, Any],
        dtype: str | None = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> None:
        ref = _as_ref(potential)
        # read and verified every time, although a model built before in this process is used again
        default_artefacts().get_bytes(ref.artefact)
        super().__init__(_loaded(ref.model_dump_json(), dtype, device), **kwargs)
        self.ref = ref
        self.parameters.update({"potential": ref.sha256, "name": ref.name, "dtype": dtype or ref.dtype})


def _as_ref(potential: PotentialRef | Mapping[str, Any]) -> PotentialRef:
    if isinstance(potential, PotentialRef):
        return potential
    try:
        return PotentialRef.model_validate(potential)
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"The calculator's 'potential' is not a potential reference: {error}.",
            "Pass a PotentialRef or its model_dump().",
        ) from error


@lru_cache(maxsize=4)
def _loaded(ref_json: str, dtype: str | None, device: str | None) -> Potential:
    from phonosmith.potentials.registry import load

    return load(PotentialRef.model_validate_json(ref_json), dtype=dtype, device=device)
