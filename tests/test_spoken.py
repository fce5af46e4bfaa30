"""Written text as it is spoken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import TextError
from asr.spoken import spoken


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Mr. Hill paid £5 on 3rd May 1812.", "en", "mister Hill paid five pounds on third May eighteen twelve"),
        ("2,350 felons & 3.5% of all", "en",
         "two thousand three hundred and fifty felons and three point five percent of all"),
        ("twenty-one — \"quoted\" 'tis o’clock dogs'", "en", "twenty one quoted tis o'clock dogs"),
        ("no. No. 5", "en", "number number five"),
        ("No, I do not.", "en", "No I do not"),
        ("in 2005 and 1066", "en", "in two thousand and five and one thousand and sixty six"),
        ("the 21st, 22nd and 104th", "en", "the twenty first twenty second and one hundred and fourth"),
        ("B2B", "en", "B two B"),
        ("1.234,5 Meter, Dr. Müllers Haus", "de",
         "eintausendzweihundertvierunddreißig Komma fünf Meter doktor Müllers Haus"),
        ("Es kostet 3,50 €.", "de", "Es kostet drei Komma fünf Euro"),
        ("L’été, 21 hommes", "fr", "L'été vingt et un hommes"),
        ("cafe\u0301", "xx", "café"),
        ("他们 在,今年。", "zh", "他们在今年"),
        ("नमस्ते दुनिया।", "hi", "नमस्ते दुनिया"),
        ("", "en", ""),
        ("...", "en", ""),
    ],
)  # fmt: skip
def test_spoken(text: str, language: str, expected: str) -> None:
    assert spoken(text, language) == expected


def test_a_number_that_cannot_be_spelled_is_named() -> None:
    with pytest.raises(TextError, match="cannot spell the number '17' in the language 'xx'"):
        spoken("x 17 y", "xx")


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_only_letters_and_spaces_are_left(text: str) -> None:
    try:
        result = spoken(text)
    except TextError:
        return
    assert result == " ".join(result.split())
    assert not any(c.isdigit() for c in result if c.isascii())
    assert spoken(result) == result
