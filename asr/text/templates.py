"""Templates of phrases: ``turn {on|off} the {room} light``, with slots from lists, files and rules.

A file of phrases may hold, a line each:

- a phrase or template: ``call {name}``, ``turn {on|off} the {{room} light|lights}``;
- a slot: ``{room} = kitchen | living room``, or ``{name} = @names.txt``, a file in the same folder or below it, with a
  phrase or template a line.

Slots by rule need no definition: ``{number 1-60}``, ``{ordinal 1-31}``, ``{digits 4}`` or ``{digits 3-5}``,
``{month}``, ``{weekday}``, ``{date}``. Their words are those of the language; months, weekdays and dates are English.

Nothing is expanded: a template refers to slots, and a slot to further ones, but never to itself.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from asr.errors import DecodeError
from asr.files import read_limited, split_lines

MOST_BYTES_OF_PHRASES = 256_000_000
"""Of a file of phrases, or of a slot."""
DEEPEST_BRACES = 20
MOST_NUMBERS = 100_000
"""Numbers of one slot."""
MOST_DIGITS = 20
_MONTHS = "January February March April May June July August September October November December".split()
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DEFINITION = re.compile(r"\{\s*([\w-]+)\s*\}\s*=\s*(.*)")
_DIGIT = "{digit}"
"""The slot of one digit."""
_NAME = re.compile(r"[\w-]+")
_RULE = re.compile(r"(number|ordinal|digits)\s+(\d{1,18})(?:\s*-\s*(\d{1,18}))?|(month|weekday|date)", re.ASCII)


@dataclass(frozen=True)
class Slot:
    """A place in a template that a slot fills."""

    name: str


@dataclass(frozen=True)
class Template:
    """Words and slots in order; ``where`` names file and line for messages. ``written``: how the words are written,
    where they are given as spoken."""

    items: tuple[str | Slot, ...]
    where: str
    written: str = ""


@dataclass
class Templates:
    """The templates of a file, and the slots that they use, by name. A name that begins with ``{`` is that of
    alternatives or of a rule as they stand in a template."""

    lines: list[Template] = field(default_factory=list)
    slots: dict[str, list[Template]] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether no line has a slot."""
        return all(isinstance(item, str) for line in self.lines for item in line.items)


def read_templates(path: str | Path) -> Templates:
    """Read a file of phrases and templates; blank lines are skipped.

    Raises ``DecodeError`` naming file and line for an unreadable file, braces that do not fit, empty alternatives,
    slots that are not defined, defined twice or contain themselves, and an empty file.
    """
    found = Templates()
    lines: list[tuple[str, str]] = []
    definitions: dict[str, tuple[str, str]] = {}
    for where, line in _lines(path, str(path)):
        definition = _DEFINITION.fullmatch(line)
        if definition is None:
            lines.append((where, line))
        elif definition[1] in definitions:
            raise DecodeError(f"{where}: slot {{{definition[1]}}}: expected one definition, got a second one")
        else:
            definitions[definition[1]] = where, definition[2]
    found.slots = {name: [] for name in definitions}  # a definition of {month} comes before the rule
    found.lines = [_Line(line, where, found).template() for where, line in lines]
    for name, (where, text) in definitions.items():
        found.slots[name] = _defined(name, text, where, Path(path).parent, found)
    if not found.lines:
        got = "slots alone; add a line that uses them" if definitions else "an empty file"
        raise DecodeError(f"{path}: expected a phrase on each line, got {got}")
    _check_slots(found)
    return found


def _lines(path: str | Path, name: str) -> Iterator[tuple[str, str]]:
    """Where each line stands, and the line without surrounding blanks."""
    try:
        lines = split_lines(read_limited(path, MOST_BYTES_OF_PHRASES).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DecodeError(f"{name}: cannot read the phrases: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{name}:{number}", line.strip()


def _defined(name: str, text: str, where: str, folder: Path, found: Templates) -> list[Template]:
    """The templates of a definition."""
    if not text.startswith("@"):
        return [_Line(part, where, found).template() for part in _Line(text, where, found).alternatives()]
    file = text[1:].strip()
    outside = any(path.anchor or ".." in path.parts for path in (PurePosixPath(file), PureWindowsPath(file)))
    if not file or outside or not os.path.isfile(folder / file):
        raise DecodeError(
            f"{where}: slot {{{name}}}: expected a file beside the phrases or in a folder below them, got "
            f"{file[:200]!r}"
        )
    lines = [_Line(line, place, found).template() for place, line in _lines(folder / file, str(folder / file))]
    if not lines:
        raise DecodeError(f"{where}: slot {{{name}}}: expected a phrase on each line of {file}, got an empty file")
    return lines


class _Line:
    """One line, read from left to right."""

    def __init__(self, text: str, where: str, found: Templates, depth: int = 0) -> None:
        self.text = text
        self.where = where
        self.found = found
        self.depth = depth
        if depth > DEEPEST_BRACES:
            raise DecodeError(f"{where}: expected at most {DEEPEST_BRACES} braces inside each other, got more")

    def template(self) -> Template:
        items: list[str | Slot] = []
        for inside, part in self._parts():
            if inside:
                items.append(self._slot(part))
            elif part.strip():
                items.append(" ".join(part.split()))
        if not items:
            raise DecodeError(f"{self.where}: expected a phrase, got {self.text[:60]!r}")
        return Template(tuple(items), self.where)

    def alternatives(self) -> list[str]:
        """The parts between ``|`` outside all braces; none of them empty."""
        parts, depth = [""], 0
        for character in self.text:
            depth += {"{": 1, "}": -1}.get(character, 0)
            if character == "|" and not depth:
                parts.append("")
            else:
                parts[-1] += character
        if not self.text.strip():
            raise DecodeError(f"{self.where}: expected words, a slot or alternatives such as on | off, got nothing")
        if not all(map(str.strip, parts)):
            raise DecodeError(
                f"{self.where}: expected words on both sides of each |, got nothing in {self.text[:60]!r}; write the "
                "phrase once with the words and once without them"
            )
        return parts

    def _parts(self) -> Iterator[tuple[bool, str]]:
        """Whether a part stands in braces, and its text without them."""
        depth, start = 0, 0
        for at, character in enumerate(self.text):
            if character == "{":
                if not depth:
                    self._check_space(at, at - 1)
                    yield False, self.text[start:at]
                    start = at + 1
                depth += 1
            elif character == "}":
                depth -= 1
                if depth < 0:
                    raise DecodeError(f"{self.where}: expected {{ before }}, got {self.text[:60]!r}")
                if not depth:
                    self._check_space(at, at + 1)
                    yield True, self.text[start:at]
                    start = at + 1
            elif character == "|" and not depth:
                raise DecodeError(f"{self.where}: expected | inside braces, as in {{on|off}}, got {self.text[:60]!r}")
        if depth:
            raise DecodeError(f"{self.where}: expected }} after {{, got {self.text[:60]!r}")
        yield False, self.text[start:]

    def _check_space(self, brace: int, beside: int) -> None:
        if 0 <= beside < len(self.text) and not self.text[beside].isspace():
            raise DecodeError(
                f"{self.where}: expected a space beside {self.text[brace]}, got "
                f"{self.text[max(0, brace - 10) :][:30]!r}: a slot stands for whole words"
            )

    def _slot(self, inside: str) -> Slot:
        name = " ".join(inside.split())
        if rule := _RULE.fullmatch(name):
            if rule[4] and name in self.found.slots:
                return Slot(name)
            key = f"{{{name}}}"
            if key not in self.found.slots:
                self.found.slots[key] = []  # before its templates, which may name it
                self.found.slots[key] = list(_by_rule(rule, self.where, self.found))
            return Slot(key)
        if _NAME.fullmatch(name):
            return Slot(name)
        key = f"{{{name}}}"
        if key not in self.found.slots:
            parts = _Line(inside, self.where, self.found, self.depth).alternatives()
            if len(parts) == 1 and "{" not in inside:
                raise DecodeError(
                    f"{self.where}: expected a slot such as {{room}}, alternatives such as {{on|off}}, or a rule such "
                    f"as {{number 1-60}}, got {{{inside[:60]}}}"
                )
            self.found.slots[key] = [
                _Line(part.strip(), self.where, self.found, self.depth + 1).template() for part in parts
            ]
        return Slot(key)


def _by_rule(rule: re.Match[str], where: str, found: Templates) -> Iterator[Template]:
    kind = rule[1] or rule[4]
    if kind in ("month", "weekday"):
        yield from (Template((name,), where) for name in (_MONTHS if kind == "month" else _WEEKDAYS))
    elif kind == "date":
        yield from _dates(where)
    else:
        first, last = int(rule[2]), int(rule[3] or rule[2])
        if kind == "digits":
            yield from _digits(first, last, rule[0], where, found)
            return
        if not rule[3] or not first <= last < first + MOST_NUMBERS or (kind == "ordinal" and not first):
            raise DecodeError(
                f"{where}: expected a range such as {{{kind} 1-60}} of at most {MOST_NUMBERS} numbers, got "
                f"{{{rule[0]}}}"
            )
        for number in range(first, last + 1):
            yield Template((f"{number}{_ending(number) if kind == 'ordinal' else ''}",), where)


def _digits(first: int, last: int, rule: str, where: str, found: Templates) -> Iterator[Template]:
    if not 1 <= first <= last <= MOST_DIGITS:
        raise DecodeError(f"{where}: expected 1 to {MOST_DIGITS} digits, such as {{digits 4}}, got {{{rule}}}")
    found.slots.setdefault(_DIGIT, [Template((str(digit),), where) for digit in range(10)])
    for count in range(first, last + 1):
        yield Template((Slot(_DIGIT),) * count, where)


def _dates(where: str) -> Iterator[Template]:
    """Every day of a year in four ways, written as ``March 3``."""
    for month, days in zip(_MONTHS, _DAYS, strict=True):
        for day in range(1, days + 1):
            ordinal = f"{day}{_ending(day)}"
            for spoken in (
                f"{month} {ordinal}",
                f"{month} the {ordinal}",
                f"the {ordinal} of {month}",
                f"{ordinal} of {month}",
            ):
                yield Template((spoken,), where, f"{month} {day}")


def _ending(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _check_slots(found: Templates) -> None:
    """Every slot that is used is defined, and none contains itself."""
    for template in [*found.lines, *(template for slot in found.slots.values() for template in slot)]:
        for item in template.items:
            if isinstance(item, Slot) and item.name not in found.slots:
                known = [name for name in found.slots if not name.startswith("{")]
                near = difflib.get_close_matches(item.name, known, n=1)
                hint = f" (did you mean {{{near[0]}}}?)" if near else ""
                raise DecodeError(
                    f"{template.where}: slot {{{item.name}}} is not defined{hint}; define it on a line "
                    f"{{{item.name}}} = one | two, or {{{item.name}}} = @file.txt"
                )
    uses = {name: {i.name for t in slot for i in t.items if isinstance(i, Slot)} for name, slot in found.slots.items()}
    _check_circles(uses, {name: slot[0].where for name, slot in found.slots.items()})


def _check_circles(uses: Mapping[str, set[str]], places: Mapping[str, str]) -> None:
    """Raise ``DecodeError`` naming a circle of slots."""
    done: set[str] = set()
    for start in uses:
        path, todo = [start], [iter(sorted(uses[start]))]
        while path:
            name = next(todo[-1], None)
            if name is None:
                done.add(path.pop())
                todo.pop()
            elif name in path:
                circle = " → ".join(map(_shown, [*path[path.index(name) :], name]))
                raise DecodeError(f"{places[name]}: expected slots that do not contain themselves, got {circle}")
            elif name not in done:
                path.append(name)
                todo.append(iter(sorted(uses[name])))


def _shown(name: str) -> str:
    return name if name.startswith("{") else f"{{{name}}}"
