"""Written text as it is spoken."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ConfigError, TextError
from asr.text.written_out import spoken


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
        ("7 3 5 1", "en", "seven three five one"),
        ("sag 7 3 5 1.", "de", "sag sieben drei fünf eins"),
        ("1 234 567 habitants", "fr", "un million deux cent trente quatre mille cinq cent soixante sept habitants"),
        ("Nel 1990 ha vinto", "it", "Nel millenovecentonovanta ha vinto"),
        ("At St. Mary's", "en", "At saint Mary's"),
        ("In St. Louis", "en", "In saint Louis"),
        ("The St. Lawrence", "en", "The saint Lawrence"),
        ("Hi, I'm Dr. Who", "en", "Hi I'm doctor Who"),
        ("Er kam 1985. Dann nicht.", "de", "Er kam neunzehnhundertfünfundachtzig Dann nicht"),
        ("um 1 Uhr 1 %", "de", "um ein Uhr ein Prozent"),
        ("$1million or $2 billion", "en", "one million dollars or two billion dollars"),
        ("z. B. ca. 5, d.h. v. Chr., S. 5 usw.", "de",
         "zum Beispiel circa fünf das heißt vor Christus Seite fünf und so weiter"),
        ("Prof. Dr Müller in St. Gallen", "de", "professor doktor Müller in sankt Gallen"),
        ("Mr Smith, Dr Jones and Prof. Hill vs. Mt. Everest", "en",
         "mister Smith doctor Jones and professor Hill versus mount Everest"),
        ("approx. 5, Fig. 3 on p. 7, Nos. 5 and 6", "en",
         "approximately five figure three on page seven numbers five and six"),
        ("'Mr Hill'", "en", "mister Hill"),
        ("A fig. A sec. No.", "en", "A fig A sec No"),
        ("2nd Ave.", "en", "second avenue"),
        ("Mme Dupont, MM. Durand, p. ex. n° 5 à St-Malo", "fr",
         "madame Dupont messieurs Durand par exemple numéro cinq à saint Malo"),
        ("Il y en a sept.", "fr", "Il y en a sept"),
        ("J'ai 21 ans", "fr", "J'ai vingt et un ans"),
        ("En 1990 la Srta. Ruiz, p. ej.", "es", "En mil novecientos noventa la señorita Ruiz por ejemplo"),
        ("mr hill and lt. dan", "en", "mister hill and lieutenant dan"),
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
        ("−5 °C", "en", "°C"),
        ("Main St.", "en", "St."),
        ("Main St. Mary", "en", "Main St."),
        ("Rodeo Dr. is", "en", "Dr."),
        ("the '90s", "en", "'90s"),
        ("the 1990s, and", "en", "1990s"),
        ("[laughs] yes", "en", "[laughs]"),
        ("(laughs) yes", "en", "(laughs)"),
        ("(the door opens)", "en", "(the door opens)"),
        ("*sigh*", "en", "*sigh*"),
        ("am 3. Mai", "de", "3."),
        ("am 3.5.2020", "de", "3.5.2020"),
        ("2020-05-03", "en", "2020-05-03"),
        ("1914–1918", "en", "1914–1918"),
        ("1 Mann", "de", "1 Mann"),
        ("1 femme", "fr", "1 femme"),
        ("в 1999 году", "ru", "1999"),
        ("10 500 men", "en", "10 500"),
        ("007", "en", "007"),
        ("call 5551234", "en", "5551234"),
        ("4x4", "en", "4x4"),
        ("5 km/h", "en", "5 km/h"),
        ("version 1.2.3", "en", "1.2.3"),
        (".5", "en", ".5"),
        ("3.50", "en", "3.50"),
        ("Henry VIII was king", "en", "VIII"),
        ("I ♥ you", "en", "♥"),
        ("a@b.com", "en", "a@b.com"),
        ("see example.com", "en", "example.com"),
        ("pages 3 – 5", "en", "3 – 5"),
        ("10 - 15 Leute", "de", "10 - 15"),
        ("5 / 8", "en", "5 / 8"),
        ("won 3 : 1", "en", "3 : 1"),
        ("count 10 9 8", "en", "10 9"),
        ("5 6 30", "en", "6 30"),
        ("$20k", "en", "$20k"),
        ("$20bn", "en", "$20bn"),
        ("$20 bn", "en", "$20 bn"),
        ("a $5-million deal", "en", "a $5-million"),
        ("$5/hour", "en", "$5/hour"),
        ("a $5 bill", "en", "a $5 bill"),
        ("five $5 bills", "en", "$5 bills"),
        ("costs 12.99 dollars", "en", "12.99 dollars"),
        ("12,99 Euro", "de", "12,99 Euro"),
        ("12 EUR", "de", "12 EUR"),
        ("at 5.45 pm", "en", "5.45 pm"),
        ("on May 3, 1945", "en", "May 3"),
        ("on Dec. 25", "en", "Dec."),
        ("on Jan. 5", "en", "Jan. 5"),
        ("Smith Inc.", "en", "Inc."),
        ("zip 90210", "en", "90210"),
        ("rodeo dr. is long", "en", "dr."),
        ("RODEO DR. IS LONG", "en", "DR."),
        ("on Rodeo Dr. It is", "en", "Rodeo Dr."),
        ("he is six ft. tall", "en", "ft."),
        ("He is six ft. Then", "en", "ft."),
        ("on Main St", "en", "St"),
        ("Co. Kerry", "en", "Co."),
        ("5 Mio. Leute", "de", "Mio."),
        ("Hauptstr. 5", "de", "Hauptstr."),
        ("geb. 1850", "de", "geb."),
        ("es war der 3.", "de", "der 3."),
        ("der 1500. Besucher", "de", "der 1500."),
        ("le 8e arr.", "fr", "arr."),
        ("m. dupont", "fr", "m."),
        ("François Ier", "fr", "Ier"),
        ("21 filles", "fr", "21 filles"),
        ("21 casas", "es", "21 casas"),
        ("1.200 personas", "es", "1.200 personas"),
        ("21 €", "es", "21 €"),
        ("1 000 000 habitants", "fr", "1 000 000 habitants"),
        ("5 %", "xx", "%"),
        ("III" + " a" * 3, "en", "III"),
    ],
)
def test_what_is_not_understood_is_named_and_no_word_invented(text: str, language: str, what: str) -> None:
    with pytest.raises(TextError, match=r"^cannot tell how .*write it out$|^cannot spell") as error:
        spoken(text, language)
    assert repr(what) in str(error.value) or language == "xx"


@pytest.mark.parametrize(
    "char",
    [
        "1",
        "1,",
        "1 ",
        "a $1 ",
        "str",
        "dr ",
        "z. ",
        "1.",
        "a",
        "a1",
        "(",
        "St. ",
        "$",
        "@",
        "x.y",
        "'",
        " 5",
        "\u0661",
        "½",
    ],
)
@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_no_text_takes_long(char: str, language: str) -> None:
    """Patterns that try every place against every other would take hours here, and the test's limit stops them."""
    with contextlib.suppress(TextError):
        spoken(char * (60000 // len(char)) + "_", language)


def test_a_number_that_cannot_be_spelled_is_named() -> None:
    with pytest.raises(TextError, match="cannot spell the number '17' in the language 'xx'"):
        spoken("x 17 y", "xx")


@pytest.mark.parametrize(
    ("language", "nearest"), [("german", "de"), ("Englisch", "en"), ("deu", "de"), ("jp", "ja"), ("e", ""), ("", "")]
)
def test_what_is_no_code_of_a_language_is_refused_and_the_nearest_named(language: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=r"^language: expected a code") as error:
        spoken("word", language)
    assert str(error.value).endswith(f"; did you mean {nearest}?" if nearest else f"got {language!r}")


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_only_letters_and_spaces_are_left(text: str) -> None:
    try:
        result = spoken(text)
    except TextError:
        return
    assert result == " ".join(result.split())
    assert not any(c.isdigit() for c in result if c.isascii())
    assert spoken(result) == result
