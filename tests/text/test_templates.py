"""Templates of phrases: what they mean, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from asr.errors import DecodeError
from asr.text.templates import Slot, Template, Templates, read_templates


def read(folder: Path, *lines: str) -> Templates:
    path = folder / "phrases.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_templates(path)


def expanded(templates: Templates) -> list[str]:
    """Every phrase, by brute force."""

    def texts(template: Template) -> list[str]:
        parts = [
            [item] if isinstance(item, str) else [text for t in templates.slots[item.name] for text in texts(t)]
            for item in template.items
        ]
        return [" ".join(way) for way in itertools.product(*parts)]

    return [text for line in templates.lines for text in texts(line)]


def test_plain_lines_are_phrases(tmp_path: Path) -> None:
    found = read(tmp_path, "stop", "", "  go   on ")
    assert found.plain
    assert expanded(found) == ["stop", "go on"]


@pytest.mark.parametrize(
    ("lines", "phrases"),
    [
        (["turn {on|off} the light"], ["turn on the light", "turn off the light"]),
        (["{stop|go on}"], ["stop", "go on"]),
        (["{a|{b|c} d} e"], ["a e", "b d e", "c d e"]),
        (["call {who}", "{who} = ann | bob lee"], ["call ann", "call bob lee"]),
        (["{who}", "{who} = the {kind} | me", "{kind} = cat | dog"], ["the cat", "the dog", "me"]),
        (["{ {x} |b}", "{x} = a"], ["a", "b"]),
        (["{number 8-11}"], ["8", "9", "10", "11"]),
        (["{ordinal 1-4}", "{ordinal 11-13}", "{ordinal 21-22}"],
         ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd"]),
        (["x {digits 1}"], [f"x {n}" for n in range(10)]),
        (["{digits 2}"], [f"{a} {b}" for a in range(10) for b in range(10)]),
        (["on {weekday}"], [f"on {day}day" for day in "Mon Tues Wednes Thurs Fri Satur Sun".split()]),
        (["{month}", "{month} = may"], ["may"]),
    ],
)  # fmt: skip
def test_templates_mean_these_phrases(tmp_path: Path, lines: list[str], phrases: list[str]) -> None:
    assert expanded(read(tmp_path, *lines)) == phrases


def test_a_slot_is_a_file_beside_the_phrases(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "names.txt").write_text("ann\n\nbob {lee|ray}\n")
    assert expanded(read(tmp_path, "call {name}", "{name} = @lists/names.txt")) == [
        "call ann",
        "call bob lee",
        "call bob ray",
    ]


def test_dates_are_the_days_of_a_year(tmp_path: Path) -> None:
    found = read(tmp_path, "{date}").slots["{date}"]
    assert len(found) == 4 * 366
    assert len({template.written for template in found}) == 366
    assert [t.items[0] for t in found if t.written == "February 29"] == [
        "February 29th", "February the 29th", "the 29th of February", "29th of February",
    ]  # fmt: skip


def test_a_line_of_slots_multiplies_nothing(tmp_path: Path) -> None:
    """Ten slots of a thousand phrases are ten thousand entries."""
    lines = [" ".join(f"{{s{i}}}" for i in range(10))]
    lines += [f"{{s{i}}} = " + " | ".join(f"w{n}" for n in range(1000)) for i in range(10)]
    found = read(tmp_path, *lines)
    assert sum(map(len, found.slots.values())) == 10_000
    assert found.lines[0].items == tuple(Slot(f"s{i}") for i in range(10))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["call {name}"], r"phrases\.txt:1: slot \{name\} is not defined; define it on a line \{name\} = one \| two"),
        (["call {nmae}", "{name} = a"], r"not defined \(did you mean \{name\}\?\)"),
        (["{a}", "{a} = {b}", "{b} = x | {a}"], r"do not contain themselves, got \{a\} → \{b\} → \{a\}"),
        (["{a}", "{a} = the {a}"], r":2: expected slots that do not contain themselves, got \{a\} → \{a\}"),
        (["turn {on|} it"], r"expected words on both sides of each \|"),
        (["turn {|} it"], r"expected words on both sides of each \|"),
        (["turn {} it"], r"expected words, a slot or alternatives such as on \| off, got nothing"),
        (["x {a}", "{a} = b |"], r"phrases\.txt:2: expected words on both sides"),
        (["x {a}", "{a} ="], r"phrases\.txt:2: expected words, a slot or alternatives"),
        (["turn {on it"], r"expected \} after \{"),
        (["turn on} it"], r"expected \{ before \}"),
        (["turn on|off"], r"expected \| inside braces"),
        (["{a}s", "{a} = b"], r"expected a space beside \}.* a slot stands for whole words"),
        (["{on off}"], r"expected a slot such as \{room\}"),
        (["{a}", "{a} = b", "{a} = c"], r"phrases\.txt:3: slot \{a\}: expected one definition, got a second one"),
        (["{a}", "{a} = @gone.txt"], r"slot \{a\}: expected a file beside the phrases.* got 'gone\.txt'"),
        (["{a}", "{a} = @../other.txt"], r"expected a file beside the phrases.* got '\.\./other\.txt'"),
        (["{a}", "{a} = @/etc/passwd"], r"expected a file beside the phrases"),
        (["{number 60}"], r"expected a range such as \{number 1-60\}"),
        (["{number 9-1}"], r"expected a range such as \{number 1-60\}"),
        (["{number 1-999999999}"], r"at most 100000 numbers"),
        (["{ordinal 0-3}"], r"expected a range such as \{ordinal 1-60\}"),
        (["{digits 0}"], r"expected 1 to 20 digits"),
        (["{digits 1-99}"], r"expected 1 to 20 digits"),
        (["{a|" * 40 + "b" + "}" * 40], "expected at most 20 braces inside each other"),
        (["{a} = b"], "expected a phrase on each line, got slots alone; add a line that uses them"),
        ([""], "expected a phrase on each line, got an empty file"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        read(tmp_path, *lines)
    assert "phrases.txt" in str(caught.value)


def test_an_empty_slot_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(DecodeError, match=r"slot \{name\}: expected a phrase on each line of names\.txt"):
        read(tmp_path, "{name}", "{name} = @names.txt")


def test_a_fault_in_a_slot_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ann\nbob {|lee}\n")
    with pytest.raises(DecodeError, match=r"names\.txt:2: expected words on both sides"):
        read(tmp_path, "{name}", "{name} = @names.txt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"gone\.txt: cannot read the phrases"):
        read_templates(tmp_path / "gone.txt")


def test_a_chain_of_diamonds_is_checked_at_once(tmp_path: Path) -> None:
    """Two ways at each of sixty places: 2^60 paths, none of which is a circle."""
    lines = ["{s0}"] + [f"{{s{i}}} = a {{s{i + 1}}} | b {{s{i + 1}}} {{t{i}}}" for i in range(60)]
    lines += [f"{{t{i}}} = c {{s{i + 1}}}" for i in range(60)] + ["{s60} = d"]
    assert len(read(tmp_path, *lines).slots) == 121
