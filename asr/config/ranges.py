"""Values that a single key of a configuration may have, declared beside it: ``share: Annotated[float, Range(0, 1)]``.

``check_ranges`` holds an object to them; ``asr.config.keys`` prints them and writes them into a JSON schema.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from asr.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; never NaN."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Leave ``low`` itself out."""
    below: bool = False
    """Leave ``high`` itself out: with an infinite ``high``, the number is finite."""

    def __contains__(self, value: Any) -> bool:
        over = value > self.low if self.above else value >= self.low
        return bool(over and (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        low, high = _number(self.low), _number(self.high)
        if math.isinf(self.high):
            return (f"> {low}" if self.above else f"{low} or more") + (", finite" if self.below else "")
        if self.above or self.below:
            return f"{'>' if self.above else '>='} {low} and {'<' if self.below else '<='} {high}"
        return f"{low} to {high}"


@dataclass(frozen=True)
class OneOf:
    """A few values, and no others."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        *others, last = map(str, self.values)
        return f"{', '.join(others)} or {last}" if others else last


@dataclass(frozen=True)
class AutoOr:
    """The word ``auto``, or a number of a range."""

    range: Range

    def __contains__(self, value: Any) -> bool:
        return value == "auto" if isinstance(value, str) else value in self.range

    def __str__(self) -> str:
        return f"auto or {self.range}"


Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
Positive = Annotated[int, Range(0, above=True)]
Count = Annotated[int, Range(0)]


def expect(condition: bool, message: str) -> None:
    """Raise ``ConfigError`` with a message where a condition between keys does not hold."""
    if not condition:
        raise ConfigError(message)


def check_ranges(section: Any, name: str) -> None:
    """Hold the fields of a config dataclass to the ranges declared beside them: for its ``__post_init__``.

    Raises ``ConfigError`` naming the dotted key (``name`` is that of the section), what was expected and what came.
    """
    for key, kind in field_types(type(section)).items():
        _check(kind, getattr(section, key), f"{name}.{key}")


def field_types(cls: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, with what is declared beside them (``Annotated``)."""
    return typing.get_type_hints(cls, include_extras=True)


def split_annotation(kind: Any) -> tuple[Any, tuple[Range | OneOf | AutoOr, ...]]:
    """A field's bare type, and the values that are declared for it."""
    if typing.get_origin(kind) is not Annotated:
        return kind, ()
    bare, *declared = typing.get_args(kind)
    return bare, tuple(d for d in declared if isinstance(d, Range | OneOf | AutoOr))


def _check(kind: Any, value: Any, key: str) -> None:
    bare, declared = split_annotation(kind)
    for allowed in declared:
        if value not in allowed:
            raise ConfigError(f"{key}: expected {allowed}, got {value!r}")
    if typing.get_origin(bare) is tuple:
        kinds = typing.get_args(bare)
        for i, part in enumerate(value):
            _check(kinds[0] if kinds[-1] is Ellipsis else kinds[min(i, len(kinds) - 1)], part, f"{key}[{i}]")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
