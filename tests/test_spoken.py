"""Written text as it is spoken."""

from __future__ import annotations

import contextlib

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
        ("no. No. 5", "en", "no number five"),
        ("He said no.", "en", "He said no"),
        ("No, I do not.", "en", "No I do not"),
        ("in 2005 and 1066", "en", "in two thousand and five and one thousand and sixty six"),
        ("the 21st, 22nd and 104th", "en", "the twenty first twenty second and one hundred and fourth"),
        ("B2B", "en", "B two B"),
        ("1.234,5 Meter, Dr. Müllers Haus", "de",
         "eintausendzweihundertvierunddreißig Komma fünf Meter doktor Müllers Haus"),
        ("Es kostet 3 € oder 1 €.", "de", "Es kostet drei Euro oder ein Euro"),
        ("im Jahr 1999 und 2005", "de", "im Jahr neunzehnhundertneunundneunzig und zweitausendfünf"),
        ("10 000 hommes, le 1er et la 2e", "fr", "dix mille hommes le premier et la deuxième"),
        ("M. Dupont", "fr", "monsieur Dupont"),
        ("$1, $5 million and £1.5 billion", "en", "one dollar five million dollars and one point five billion pounds"),
        ("−5 degrees at 3:30", "en", "minus five degrees at three thirty"),
        ("a 21-year-old with covid-19", "en", "a twenty one year old with covid nineteen"),
        ("at St. Mary's", "en", "at saint Mary's"),
        ("St. Paul", "en", "saint Paul"),
        ("MP3, H2O", "en", "MP three H two O"),
        ("3.14", "en", "three point one four"),
        ("co\u00adoperate", "en", "cooperate"),
        ("Mr. Hill", "en-GB", "mister Hill"),
        ("3時に", "ja", "三時に"),
        ("o 5 w nocy", "pl", "o pięć w nocy"),
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


@pytest.mark.parametrize(
    ("text", "language", "what"),
    [
        ("$3.50", "en", "$3.50"),
        ("3,50 € bitte", "de", "3,50 €"),
        ("1½", "en", "½"),
        ("−5 °C", "en", "°"),
        ("Main St.", "en", "St."),
        ("Main St. Mary", "en", "Main St."),
        ("Rodeo Dr. is", "en", "Dr."),
        ("the '90s", "en", "0s"),
        ("the 1990s", "en", "0s"),
        ("[laughs] yes", "en", "["),
        ("(laughs) yes", "en", "(laughs)"),
        ("(the door opens)", "en", "(the door opens)"),
        ("*sigh*", "en", "*"),
        ("am 3. Mai", "de", "3."),
        ("am 3.5.2020", "de", "3.5.2020"),
        ("2020-05-03", "en", "2020-05-03"),
        ("1914–1918", "en", "1914–1918"),
        ("1 Mann", "de", "1 Mann"),
        ("1 femme", "fr", "1 femme"),
        ("в 1999 году", "ru", "1999"),
        ("10 500 men", "en", "0 5"),
        ("007", "en", "007"),
        ("call 5551234", "en", "5551234"),
        ("4x4", "en", "4x4"),
        ("5 km/h", "en", "5 km/h"),
        ("version 1.2.3", "en", "1.2.3"),
        (".5", "en", ".5"),
        ("3.50", "en", "3.50"),
        ("Henry VIII was king", "en", "VIII"),
        ("I ♥ you", "en", "♥"),
        ("a@b.com", "en", "@b."),
        ("see example.com", "en", "example.com"),
        ("5 %", "xx", "%"),
        ("III" + " a" * 3, "en", "III"),
    ],
)
def test_what_is_not_understood_is_named_and_no_word_invented(text: str, language: str, what: str) -> None:
    with pytest.raises(TextError, match=r"^cannot tell how .*write it out$|^cannot spell") as error:
        spoken(text, language)
    assert repr(what) in str(error.value) or language == "xx"


@pytest.mark.parametrize("char", ["1", "1,", "1.", "a", "a1", "(", "St. ", "$", "@", "x.y", "'", " 5", "\u0661", "½"])
def test_no_text_takes_long(char: str) -> None:
    """Patterns that try every place against every other would take hours here, and the test's limit stops them."""
    with contextlib.suppress(TextError):
        spoken(char * (60000 // len(char)) + "_")


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
