"""Numbers with one reading become digits; all others stay as they were said."""

import random

import pytest

from asr.text.number_words import write_numbers
from asr.text.written_out import spoken


def written(text: str, marks: dict[int, str] | None = None) -> str:
    words = text.split()
    found = write_numbers(words, [(marks or {}).get(at, "") for at in range(len(words))])
    parts, at = [], 0
    for number in found:
        parts += [*words[at : number.start], number.text]
        at = number.stop
    return " ".join([*parts, *words[at:]])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("twenty five", "25"),
        ("two hundred and five people", "205 people"),
        ("fifteen hundred", "1500"),
        ("twenty five thousand", "25,000"),
        ("three hundred million people", "300 million people"),
        ("one hundred million two hundred thousand", "100,200,000"),
        ("three point oh five", "3.05"),
        ("five point two million", "5.2 million"),
        ("the twenty first century", "the 21st century"),
        ("the fifth of june", "the 5th of june"),
        ("june fifth nineteen eighty four", "june 5th, 1984"),
        ("the twenty second of may", "the 22nd of may"),
        ("in nineteen eighty four", "in 1984"),
        ("in nineteen oh five", "in 1905"),
        ("since twenty nineteen", "since 2019"),
        ("in twenty five minutes", "in 25 minutes"),
        ("at three thirty p m", "at 3:30 p.m."),
        ("seven oh five a m", "7:05 a.m."),
        ("three o'clock", "3 o'clock"),
        ("five dollars", "$5"),
        ("five million dollars", "$5 million"),
        ("five dollars and fifty cents", "$5.50"),
        ("zero point five percent", "0.5%"),
        ("five per cent", "5%"),
        ("between ten and twenty dollars", "between 10 and 20 dollars"),
        ("twenty to thirty people", "20 to 30 people"),
        ("call five five five one two three four now", "call 5551234 now"),
        ("room two oh five", "room 205"),
        ("double five six one seven", "55617"),
    ],
)
def test_a_number_with_one_reading_is_written_in_digits(said, expected):
    assert written(said) == expected


@pytest.mark.parametrize(
    "said",
    [
        "one",
        "nineteen eighty four",
        "nineteen ninety nine",
        "at three thirty",
        "twenty twenty",
        "one or two hundred",
        "nine to eleven",
        "nine out of ten",
        "a hundred and ten",
        "one hundred and two hundred",
        "four and twenty blackbirds",
        "a twenty second delay",
        "two thirds",
        "three sixty fourths",
        "a tenth of it",
        "three point fourteen",
        "at one point five of them left",
        "one two three four five",
        "nine eight seven six",
        "four two",
        "five dollars and fifty",
        "twenty dollars fifty",
        "the nineteen eighties",
        "one twenty people",
        "k nine p m q",
        "they march third",
    ],
)
def test_a_number_that_may_mean_something_else_stays_in_words(said):
    assert written(said) == said


def test_every_whole_number_comes_back_from_its_words():
    rng = random.Random(1)
    numbers = [*range(10, 1100), *range(2100, 3000), *(rng.randrange(3000, 10**12) for _ in range(3000))]
    for number in numbers:
        figures = f"{number:,}" if number >= 10_000 else str(number)
        found = written(spoken(figures).lower())
        for zeros, name in ((12, " trillion"), (9, " billion"), (6, " million")):
            found = found.replace(name, "0" * zeros)
        assert found.replace(",", "") == str(number)


def test_every_year_comes_back_behind_in():
    for year in range(1310, 2000):
        if year % 100 >= 10:
            assert written(f"in {spoken(str(year)).lower()}") == f"in {year}"


def test_every_ordinal_comes_back_but_seconds_and_parts():
    for number in range(10, 100):
        suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number // 10 != 1 else "th"
        words = f"the {spoken(f'{number}{suffix}').lower()} time"
        assert written(words) == (words if words.split()[-2] == "second" else f"the {number}{suffix} time")


def test_a_mark_inside_a_number_leaves_it_in_words():
    assert written("twenty five", {0: ","}) == "twenty five"


def test_a_unit_behind_a_mark_is_not_that_of_the_number():
    assert written("twenty five dollars", {1: "."}) == "25 dollars"


def test_words_before_the_start_are_context_only():
    found = write_numbers(["twenty", "in", "nineteen", "ten"], start=1)
    assert [(n.start, n.stop, n.text) for n in found] == [(2, 4, "1910")]
