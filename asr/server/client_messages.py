"""JSON messages of clients: read within bounds, their fields checked one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from asr.server.problems import RequestError, one_of

LONGEST_SHOWN = 80
MOST_VALUES = 200_000
"""Values in a client's JSON: a list of millions would stop the event loop for seconds and take a gigabyte."""
T = TypeVar("T")


class ClientError(RequestError):
    """A message of a live client that its protocol does not allow; ``code`` is a word for programs."""

    def __init__(self, message: str, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(message, param)
        self.code = code


def shown_value(value: object) -> str:
    """A client's value for a message: printable ASCII, cut to ``LONGEST_SHOWN`` characters."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    # The value itself may have millions of characters.
    text = ascii(value[:LONGEST_SHOWN] if isinstance(value, str | bytes) else value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object in any spelling, of at most ``MOST_VALUES`` values. Raises ``ClientError`` for anything else."""
    commas = text.count(",") if isinstance(text, str) else text.count(b",")  # each further value has one
    if commas >= MOST_VALUES:
        raise ClientError(f"{what}: expected at most {MOST_VALUES} values, got {commas} commas", "too_large")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of UTF-8, of digits without end, of brackets without end
        raise ClientError(f"{what}: expected a JSON object, got {shown_value(text)}", "invalid_json") from error
    if not isinstance(value, dict):
        raise ClientError(f"{what}: expected a JSON object, got {shown_value(value)}", "invalid_json")
    return value


class Fields:
    """The fields of a message; each is asked for by name and type.

    ``path`` is put before names in messages. A field that is null counts as absent. All methods raise ``ClientError``
    for a wrong type or value.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values, self.path = values, path

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def name(self, field: str) -> str:
        """A field's name with its path."""
        return f"{self.path}.{field}" if self.path else field

    def wrong(self, field: str, expected: str, code: str = "invalid_value") -> ClientError:
        """The error of a field with a wrong value."""
        got = shown_value(self.values[field]) if field in self.values else "nothing"
        return ClientError(f"{self.name(field)}: expected {expected}, got {got}", code, self.name(field))

    def object(self, field: str) -> Fields | None:
        """An object, None where it is null or absent."""
        value = self.values.get(field)
        if not isinstance(value, dict | None):
            raise self.wrong(field, "an object")
        return None if value is None else Fields(value, self.name(field))

    def text(self, field: str, default: T, longest: int = 4096) -> str | T:
        """A text of at most ``longest`` characters."""
        value = self.values.get(field)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > longest:
            raise self.wrong(field, f"a text of at most {longest} characters")
        return value

    def choice(self, field: str, choices: tuple[str, ...], default: T) -> str | T:
        """One of some texts."""
        value = self.values.get(field)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(field, one_of(choices))
        return value

    def number(self, field: str, default: float, least: float, most: float) -> float:
        """A number from ``least`` to ``most``."""
        value = self.values.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(field, f"a number from {least:g} to {most:g}")
        return float(value)

    def whole(self, field: str, default: int, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``, which may be spelt ``16000.0``."""
        value = self.values.get(field)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or value != int(value):
            raise self.wrong(field, f"a whole number from {least} to {most}")
        return int(value)

    def flag(self, field: str, default: bool) -> bool:
        """True or false, which may be spelt 1 or 0."""
        value = self.values.get(field)
        if value is None:
            return default
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise self.wrong(field, "true or false")
        return bool(value)

    def texts(self, field: str, most: int, longest: int) -> list[str]:
        """A list of at most ``most`` texts, each of at most ``longest`` characters; empty where it is absent."""
        value = self.values.get(field)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(field, f"a list of at most {most} texts")
        for at, text in enumerate(value):
            if not isinstance(text, str) or not 0 < len(text) <= longest:
                raise ClientError(
                    f"{self.name(field)}[{at}]: expected a text of 1 to {longest} characters, got {shown_value(text)}",
                    "invalid_value",
                    f"{self.name(field)}[{at}]",
                )
        return list(value)
