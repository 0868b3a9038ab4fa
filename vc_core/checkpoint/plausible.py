"""SPEC -> whether a model can have these numbers, for specs that come with a file and may hold anything."""

from __future__ import annotations

import math
from dataclasses import Field, fields, is_dataclass
from typing import Any

from ..specs import ModelSpec
from ..specs.bounds import largest, may_be_zero
from .parts import PARTS
from .parts.measuring import MOST

MOST_LEVELS = 16


def check_spec(spec: ModelSpec) -> None:
    """Raises ValueError, naming the field, where no model can have the numbers of a spec."""
    check_numbers(spec, "spec")
    for part in PARTS.values():
        numbers = getattr(spec, part.name, None)
        for divisor, whole in part.divisors if numbers is not None else ():
            _check_divides(getattr(numbers, divisor), getattr(numbers, whole), f"spec.{part.name}.{divisor}")
    diffusion = spec.diffusion
    if not diffusion.beta_start <= diffusion.beta_end < 1:
        raise ValueError(
            f"spec.diffusion.beta_end is {diffusion.beta_end}; it should be from beta_start, {diffusion.beta_start}, "
            "to below 1"
        )
    if diffusion.timesteps < 2:
        raise ValueError(f"spec.diffusion.timesteps is {diffusion.timesteps}; it should be 2 or more")


def check_numbers(value: Any, where: str) -> None:
    """Raises ValueError, naming the field, for a number that no model has, in a spec or in one of its parts."""
    for field in fields(value):
        name, part = f"{where}.{field.name}", getattr(value, field.name)
        if is_dataclass(part):
            check_numbers(part, name)
        elif isinstance(part, tuple):
            _check_levels(part, name, least=0 if field.name.endswith("_levels") else 1)
        elif isinstance(part, int | float) and not isinstance(part, bool):
            _check_number(part, field, name)


def _check_levels(values: tuple[int, ...], where: str, *, least: int) -> None:
    """A row of numbers, one for each resolution: multiples, or the numbers of some levels (which may be none)."""
    if not least <= len(values) <= MOST_LEVELS or not all(least <= value <= MOST for value in values):
        raise ValueError(
            f"{where} is {list(values)[:MOST_LEVELS]}; it should be up to {MOST_LEVELS} numbers from {least}"
        )


def _check_number(value: float, field: Field[Any], where: str) -> None:
    zero, most = may_be_zero(field), largest(field, MOST)
    if not math.isfinite(value) or not 0 <= value <= most or (value == 0 and not zero):
        low = "from 0" if zero else "above 0"
        raise ValueError(f"{where} is {value}; it should be {low} and at most {most}")


def _check_divides(part: int, whole: int, where: str) -> None:
    if whole % part:
        raise ValueError(f"{where} is {part}, which does not divide {whole}")
