"""Spoken English numbers as digits: the inverse of ``asr.text.written_out``, where the words have one reading only.

``write_numbers("it cost twenty five dollars in nineteen eighty four".split())`` gives ``$25`` for words 2 to 5 and
``1984`` for words 6 to 9. What is written with digits:

- whole numbers from 10 on (``two hundred and five`` 205, ``five million`` 5 million), decimals (``three point five``);
- ordinals from 10th on, but none that ends in ``second``, which is a time as well, and no fractions;
- days beside the name of a month, with any ordinal (``june fifth``, ``the fifth of june``);
- years said as two numbers behind ``in``, ``since``, ``until``, ``year``, a month or a date;
- times before ``a m``, ``p m`` and ``o'clock``; amounts before ``dollars``, ``euros`` and ``percent``;
- four or more digits one by one, unless they count up or down; three behind ``number``, ``code``, ``room`` and such.

Everything else stays in words, since a guess would be a wrong number in silence: ``nineteen eighty four`` without a
context, ``three thirty``, ``twenty twenty``, ``one or two hundred``, ``nine to eleven``, ``a hundred and ten``, numbers
below ten, and numbers with a mark inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

DIGITS = {word: n for n, word in enumerate("zero one two three four five six seven eight nine".split())}
TEENS = {
    word: n
    for n, word in enumerate(
        "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(), start=10
    )
}
TENS = {word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)}
SCALES = {"trillion": 10**12, "billion": 10**9, "million": 10**6, "thousand": 1000}
CARDINALS = DIGITS.keys() | TEENS.keys() | TENS.keys() | SCALES.keys() | {"hundred"}
ORDINALS = {
    "first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine",
    "twelfth": "twelve",
} | {f"{word}th": word for word in "four six seven ten eleven hundred thousand million billion".split()} | {
    f"{word}th": word for word in TEENS if word not in ("ten", "eleven", "twelve")
} | {f"{word[:-1]}ieth": word for word in TENS}  # fmt: skip
"""The cardinal that ends with the same part: ``twenty fifth`` is that of ``twenty five``."""
PLURALS = {f"{word}s" for word in ORDINALS if word != "second"} | {
    *(f"{word[:-1]}ies" for word in TENS), *(f"{word}s" for word in (*SCALES, *TEENS, "hundred", "one", "two")),
    "half", "halves", "quarters",
}  # fmt: skip
"""Beside a number: parts of fractions, decades, magnitudes. What holds one stays in words."""
REPEATS = {"double": 2, "triple": 3}
NUMERIC = CARDINALS | ORDINALS.keys() | PLURALS | {"oh"} | REPEATS.keys()
LINKS = frozenset(
    [("point",), ("out", "of")]
    + [(word,) for word in "to or and through by times over plus minus dollars euros".split()]
)
"""Between two numbers: if one of them stays in words, both do."""
SURE_MONTHS = frozenset("january february april june july august september october november december".split())
MONTH_NAMES = SURE_MONTHS | {"march", "may"}
BEFORE_YEARS = frozenset("in since until till circa year spring summer autumn winter early late mid".split())
BEFORE_CODES = frozenset("number code extension pin room flight channel route zip".split())
CURRENCY_SIGNS = {"dollars": "$", "euros": "€"}
CONTEXT = 4
"""Words behind a number that its reading depends on: as many without a number end a group."""


@dataclass(frozen=True)
class WrittenNumber:
    """Words ``start`` to ``stop - 1`` are written as ``text``."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True)
class _Run:
    """Number words ``start`` to ``stop - 1`` with what stands beside them up to the next mark."""

    start: int
    stop: int
    words: tuple[str, ...]
    marked: bool
    """A mark stands between two of them."""
    before: tuple[str, ...]
    """The two words before, "" where there is none or a mark between."""
    after: tuple[str, ...]
    """The words behind, as far as ``CONTEXT`` and the next mark."""


def is_number_word(word: str) -> bool:
    """Whether a word, in small letters, may be part of a number."""
    return word in NUMERIC


def write_numbers(words: Sequence[str], marks: Sequence[str] = (), start: int = 0) -> list[WrittenNumber]:
    """The numbers in ``words``, in small letters, that have one reading.

    Args:
        words: a text, or a part of one with at least two words before the first number and ``CONTEXT`` behind the last
            where the text has them.
        marks: the mark behind each word, "" for none; by default there are none.
        start: numbers before this index are context only.

    Returns:
        Numbers in order, without overlaps.
    """
    marks = marks or [""] * len(words)
    runs = _runs(words, marks, start)
    found: list[WrittenNumber | None] = [_read(run) for run in runs]
    _join_cents(runs, found, words, marks)
    linked = [
        _linked(one.stop if number is None else max(one.stop, number.stop), other.start, words, marks)
        for one, other, number in zip(runs, runs[1:], found, strict=False)
    ]
    for at, link in enumerate(linked):
        if link and _sign(found[at]) != _sign(found[at + 1]):  # between 10 and $20
            found[at : at + 2] = [_unsigned(runs[n], found[n]) for n in (at, at + 1)]
    for at, link in enumerate(linked):  # to the right, then back to the left: a chain stays in words as a whole
        if link and found[at] is None:
            found[at + 1] = None
    for at in reversed(range(len(linked))):
        if linked[at] and found[at + 1] is None:
            found[at] = None
    return [number for number in found if number]


def _runs(words: Sequence[str], marks: Sequence[str], start: int) -> list[_Run]:
    """Maximal runs of number words; ``and`` and ``point`` belong to one where they join numbers."""
    runs, at = [], start
    while at < len(words):
        if words[at] not in NUMERIC:
            at += 1
            continue
        stop = at + 1
        while stop < len(words):
            joins = stop + 1 < len(words) and not marks[stop - 1] and not marks[stop]
            scaled = words[stop - 1] in SCALES or words[stop - 1] == "hundred"
            if words[stop] in NUMERIC:
                stop += 1
            elif joins and (
                (words[stop] == "and" and scaled and words[stop + 1] in NUMERIC)
                or (words[stop] == "point" and words[stop + 1] in DIGITS.keys() | {"oh"})
            ):
                stop += 2
            else:
                break
        behind: list[str] = []
        while len(behind) < CONTEXT and not marks[stop + len(behind) - 1] and stop + len(behind) < len(words):
            behind.append(words[stop + len(behind)])
        near = words[at - 1] if at and not marks[at - 1] else ""
        far = words[at - 2] if near and at > 1 and not marks[at - 2] else ""
        runs.append(_Run(at, stop, tuple(words[at:stop]), any(marks[at : stop - 1]), (near, far), tuple(behind)))
        at = stop
    return runs


def _read(run: _Run) -> WrittenNumber | None:
    """The one reading of a run."""
    if run.marked:
        return None
    after = run.after + ("",) * (CONTEXT - len(run.after))
    if found := _time(run, after):
        return found
    plain = _decimal(run.words) or _cardinal_text(run.words)
    if plain and after[0] in ("percent", "per") and (after[0] == "percent" or after[1] == "cent"):
        return WrittenNumber(run.start, run.stop + (1 if after[0] == "percent" else 2), f"{plain}%")
    if plain and after[0] in CURRENCY_SIGNS and after[1] not in NUMERIC:
        return WrittenNumber(run.start, run.stop + 1, CURRENCY_SIGNS[after[0]] + plain)
    if plain and after[0] in CURRENCY_SIGNS:
        return None
    if run.words[:2] == ("one", "point") and run.before[0] in ("at", "this", "that"):  # at one point five people
        return None
    text = _date(run, after) or _digit_string(run) or _decimal(run.words) or _ordinal(run) or ""
    if not text and (value := read_cardinal(run.words)) is not None and value >= 10:
        text = _cardinal_text(run.words)
    if run.before[0] == "between" and "and" in run.words:
        return None
    return WrittenNumber(run.start, run.stop, text) if text else None


def read_cardinal(words: Sequence[str]) -> int | None:
    """The whole number that ``words`` are, all of them; None where they are none, or several."""
    if list(words) == ["zero"]:
        return 0
    total, at, last = 0, 0, 10**15
    while at < len(words):
        joined = words[at] == "and"
        if joined and not total:
            return None
        value, stop = _below_1000(words, at + joined, whole=not total)
        if value is None or (joined and (value >= 100 or stop < len(words))):
            return None
        at = stop
        scale = SCALES.get(words[at], 1) if at < len(words) else 1
        if scale >= last or (scale > 1 and value >= 1000):
            return None
        total, last = total + value * scale, scale
        at += scale > 1
        if scale == 1:
            break
    return total if total and at == len(words) else None


def _below_1000(words: Sequence[str], at: int, *, whole: bool) -> tuple[int | None, int]:
    """A number of three digits, or as ``fifteen hundred`` where it may be the ``whole``; and where it stops."""
    value, at = _below_100(words, at)
    if value is None or at == len(words) or words[at] != "hundred":
        return value, at
    if value >= 10 and (not whole or value % 10 == 0):
        return None, at
    value, at = value * 100, at + 1
    joined = at < len(words) and words[at] == "and"
    more, stop = _below_100(words, at + joined)
    if more is None:
        return value, at
    return value + more, stop


def _below_100(words: Sequence[str], at: int) -> tuple[int | None, int]:
    if at >= len(words):
        return None, at
    word = words[at]
    if word in TENS:
        unit = DIGITS.get(words[at + 1], 0) if at + 1 < len(words) else 0
        return TENS[word] + unit, at + 1 + (unit > 0)
    value = TEENS.get(word) or DIGITS.get(word)
    return value or None, at + 1


def _cardinal_text(words: Sequence[str]) -> str:
    """``2005``, ``25,000``, ``5 million``; "" for what is no whole number."""
    value = read_cardinal(words)
    if value is None:
        return ""
    if words[-1] in ("million", "billion", "trillion") and (start := read_cardinal(words[:-1])) and start < 1000:
        return f"{start} {words[-1]}"
    return str(value) if value < 10_000 else f"{value:,}"


def _decimal(words: Sequence[str]) -> str:
    """``three point oh five`` as ``3.05``, ``five point two million``; "" for anything else."""
    if "point" not in words:
        return ""
    at = words.index("point")
    scale = words[-1] if words[-1] in ("million", "billion", "trillion") else ""
    start, digits = read_cardinal(words[:at]), words[at + 1 : len(words) - bool(scale)]
    if start is None or not digits or not all(word in DIGITS or word == "oh" for word in digits):
        return ""
    return f"{start:,}.{''.join(str(DIGITS.get(word, 0)) for word in digits)}{f' {scale}' if scale else ''}"


def _time(run: _Run, after: Sequence[str]) -> WrittenNumber | None:
    """``three thirty p m`` as ``3:30 p.m.``, ``three o'clock`` as ``3 o'clock``."""
    spelt = {run.before[0], after[2]} - {"a", "i", ""}
    letters = after[0] in ("a", "p") and after[1] == "m" and not any(len(word) == 1 for word in spelt)
    half = f"{after[0]}.m." if letters else "p.m." if after[0] == "pm" else ""
    if not half and after[0] != "o'clock":
        return None
    hour = read_cardinal(run.words[:1])
    rest = run.words[1:]
    minute = read_cardinal(rest)
    if len(rest) == 2 and rest[0] == "oh":
        minute = DIGITS.get(rest[1])
    elif minute is not None and minute < 10:
        minute = None
    if not hour or hour > 12 or (rest and (minute is None or minute > 59 or not half)):
        return None
    clock = f"{hour}:{minute:02}" if rest else str(hour)
    if not half:
        return WrittenNumber(run.start, run.stop, clock)
    return WrittenNumber(run.start, run.stop + (2 if letters else 1), f"{clock} {half}")


def _date(run: _Run, after: Sequence[str]) -> str:
    """Days beside a month, and years."""
    month = run.before[0] in MONTH_NAMES
    length = 2 if _day(run.words[:2]) else 1
    day, rest = _day(run.words[:length]), run.words[length:]
    if month and day and rest and (year := _year(rest)):
        return f"{day}, {year}"
    if month and day and not rest and run.before[0] in SURE_MONTHS:
        return day
    if day and not rest and after[0] == "of" and after[1] in MONTH_NAMES and run.before[0] not in ("a", "an", "one"):
        return day
    return _year(run.words) if month or run.before[0] in BEFORE_YEARS else ""


def _day(words: Sequence[str]) -> str:
    """``5th`` for an ordinal up to 31st."""
    value = _ordinal_value(words)
    return f"{value}{_suffix(value)}" if value and value <= 31 else ""


def _year(words: Sequence[str]) -> str:
    """``nineteen eighty four`` and ``nineteen oh five``; "" for other words."""
    century = (TEENS | TENS).get(words[0], 0) if words else 0
    rest = words[1:]
    if not 13 <= century <= 20 or not rest:
        return _cardinal_text(words) if (read_cardinal(words) or 0) in range(1100, 2100) else ""
    if len(rest) == 2 and rest[0] == "oh" and DIGITS.get(rest[1]):
        return f"{century}0{DIGITS[rest[1]]}"
    part = read_cardinal(rest)
    return f"{century}{part}" if part is not None and 10 <= part <= 99 else ""


def _digit_string(run: _Run) -> str:
    """Digits said one by one."""
    digits: list[int] = []
    times = 1
    for word in run.words:
        if word in REPEATS and times == 1:
            times = REPEATS[word]
        elif word in DIGITS or word == "oh":
            digits += [DIGITS.get(word, 0)] * times
            times = 1
        else:
            return ""
    if times != 1 or run.words[-1] == "oh" or (run.words[0] == "oh" and len(digits) < 6):
        return ""
    coded = run.before[0] in BEFORE_CODES or (run.before[0] == "is" and run.before[1] in BEFORE_CODES)
    steps = {b - a for a, b in itertools.pairwise(digits)}
    if len(digits) < (3 if coded else 4) or steps in ({1}, {-1}):
        return ""
    return "".join(map(str, digits))


def _ordinal_value(words: Sequence[str]) -> int | None:
    if not words or words[-1] not in ORDINALS:
        return None
    return read_cardinal([*words[:-1], ORDINALS[words[-1]]])


def _ordinal(run: _Run) -> str:
    value = _ordinal_value(run.words)
    last = run.words[-1]
    if value is None or value < 10 or last == "second" or run.before[0] in ("a", "an", "one"):
        return ""
    if ORDINALS[last] in SCALES or last == "hundredth" or (value > 99 and "and" not in run.words):
        return ""  # five hundredth, one hundred twentieth: a part as well
    return f"{value}{_suffix(value)}"


def _suffix(value: int) -> str:
    return "th" if value % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")


def _join_cents(
    runs: Sequence[_Run], found: list[WrittenNumber | None], words: Sequence[str], marks: Sequence[str]
) -> None:
    """``five dollars and fifty cents`` as one amount; without ``cents`` it stays in words."""
    for at, (one, other) in enumerate(itertools.pairwise(runs)):
        first = found[at]
        if not first or first.text[0] not in CURRENCY_SIGNS.values() or other.start - first.stop != 1:
            continue
        if words[first.stop] != "and" or any(marks[first.stop - 1 : other.start]):
            continue
        cents = read_cardinal(other.words)
        found[at] = None
        whole = first.text[1:].replace(",", "").isdigit()
        if whole and cents and cents < 100 and other.after[:1] == ("cents",) and not other.marked:
            found[at] = WrittenNumber(one.start, other.stop + 1, f"{first.text}.{cents:02}")
        elif other.after[:1] and other.after[0] in CURRENCY_SIGNS:
            found[at] = first
            continue
        found[at + 1] = None


def _sign(number: WrittenNumber | None) -> str:
    """The sign of an amount, "" for none."""
    return "".join(c for c in number.text if c in "$€%") if number else ""


def _unsigned(run: _Run, number: WrittenNumber | None) -> WrittenNumber | None:
    """The number alone, its unit staying a word; None below ten."""
    if not _sign(number):
        return number
    value = read_cardinal(run.words)
    return WrittenNumber(run.start, run.stop, _cardinal_text(run.words)) if value and value >= 10 else None


def _linked(stop: int, start: int, words: Sequence[str], marks: Sequence[str]) -> bool:
    """Whether the words between two numbers make them one expression: ``to``, ``or``, nothing."""
    between = words[stop:start]
    if start < stop or any(marks[stop - 1 : start]):  # one has taken the other in
        return False
    return not between or tuple(between) in LINKS
