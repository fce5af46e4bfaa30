"""Written text to spoken words, by language; recipes apply it to written transcripts.

``spoken("Mr. Hill paid £5 on 3rd May 1812.")`` is ``MISTER HILL PAID FIVE POUNDS ON THIRD MAY EIGHTEEN TWELVE`` but for
the case, which the training's ``text.case`` decides. The rules, in this order:

1. Unicode NFC; typographic apostrophes become ``'``.
2. Abbreviations of the language (``ABBREVIATIONS``), currencies and symbols (``SYMBOLS``) are written out where their
   context makes the meaning clear.
3. Numbers are spelled out by ``num2words``: years (four digits from 1100 to 1999 without a separator), ordinals
   (English), decimals, thousands with separators.
4. All but letters, marks and apostrophes inside words becomes spaces, hyphens too; runs of spaces become one.
   Languages written without spaces between words (``SPACELESS``) lose them.

Text that these rules do not cover is an error, since a wrong word teaches the model something false: dates, times,
ranges, scores, fractions, amounts with cents, telephone numbers, units, Roman numerals, ``[laughs]``, symbols without a
word, abbreviations of several meanings (``UNCLEAR``), numbers that are inflected (German ``3. Mai``, Spanish ``200
personas``). English numbers of five digits and more have separators: without, they are codes, and an error. In other
languages up to six digits without separators are one number. Languages without rules of their own get 1, 3 and 4.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
import unicodedata
from decimal import Decimal

from asr.errors import ConfigError, TextError
from asr.text.language_tables import (
    ABBREVIATIONS,
    ALWAYS_NAMES,
    BARE,
    BEFORE_NAMES,
    BEFORE_NUMBERS,
    BEFORE_SAINTS,
    COMMA_DECIMALS,
    CURRENCIES,
    CURRENCY_CODES,
    CURRENCY_WORDS,
    DOT_ORDINALS,
    INFLECTED,
    LANGUAGES,
    LONG_DECIMALS,
    MINUS,
    MONTHS,
    NOISES,
    NOT_TITLES_ONLY,
    NOUNS,
    PHRASES,
    PRICED,
    SPACELESS,
    SYMBOLS,
    UNCLEAR,
    UNITS,
    YEARS_LIKE_NUMBERS,
)

LETTERS = ("L", "M")
"""Unicode categories that stay: letters, and marks that belong to them."""
UNSPOKEN = frozenset("#%&*@\\[]{}§†‡‰※")
"""Punctuation that is said, or that says how something is said, where no rule has written it out."""
OPENING, CLOSING = "(\"'“”„«»¿¡", ".,;:!?…)\"'”“«»。，、！？；："
INVISIBLE = re.compile("[\u00ad\u200d\u2060\ufeff]")
AMOUNT = r"\d(?:[\d.,]*\d)?"
MAGNITUDES = "hundred|thousand|million|billion|trillion"
ROMAN = re.compile(r"(?<!\w)(?:(?=[IVX]{2})X{0,3}(?:IX|IV|V?I{0,3})(?:er?|ère|ème)?|I(?:er|re|ère))(?!\w)")


@functools.cache
def language_code(language: str) -> str:
    """The language of a tag such as ``de`` or ``pt-BR`` (ISO 639, and a country), in small letters.

    Raises ``ConfigError``, which names the nearest, for what is no tag (``german``), or not the one in use (``deu``).
    """
    name = language.lower()
    if re.fullmatch(r"[a-z]{2,3}(?:[-_][a-z0-9]{2,8})*", name) and name not in LANGUAGES:
        return re.split("[-_]", name)[0]
    nearest = difflib.get_close_matches(name, LANGUAGES, 1, 0.7)
    hint = f"; did you mean {LANGUAGES[nearest[0]]}?" if nearest else ""
    raise ConfigError(f"language: expected a code such as en, de or pt-BR, or none, got {language[:40]!r}{hint}")


def spoken(text: str, language: str = "en") -> str:
    """``text`` as it is said. Raises ``TextError`` for what the rules do not know how to say in ``language``, and
    ``ConfigError`` for what is no language (``language_code``)."""
    code = language_code(language)
    try:
        return _spoken(text, language, code)
    except _Unknown as error:
        raise TextError(
            f"cannot tell how {str(error)[:60]!r} is said in the language {language!r}: {text[:60]!r}; write it out"
        ) from error


class _Unknown(Exception):
    """Written text with an unknown spoken form."""


def _spoken(text: str, language: str, code: str) -> str:
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", text))
    text = re.sub(r"\s{2,}", " ", re.sub("[‘’ʼ`´]", "'", text))
    _refuse(rf"\(\s*(?:{NOISES})[^()]*\)|^\s*\([^()]*\)\s*$", text)
    _refuse(rf"\d(?:\s?(?:{UNITS})|[wvs]|ha)(?![\w'])", text)  # apart, w, v and s are words in Slavic languages
    _refuse(r"(?<![^\W\d_])[^\W\d_]{2,}\.[^\W\d_]{2,}|@[^\s@]*\.", text)  # addresses
    text = _ambiguous(text, code)
    text = _bare_titles(_abbreviations(_phrases(text, code), code), code)
    text = _money(text, code)
    for sign, word in SYMBOLS.get(code, {}).items():
        text = text.replace(sign, word)
    text = _numbers(text, language, code)
    text = re.sub("[-‐‑‒–—―/_]", " ", text)
    unknown = next((at for at, c in enumerate(text) if c in UNSPOKEN or unicodedata.category(c)[0] in "NS"), None)
    if unknown is not None:
        raise _Unknown(_grown(text, unknown, unknown + 1))
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in LETTERS else " " for c in text)
    kept = re.sub(r"(?<!\w)'+|'+(?!\w)", " ", kept)
    kept = ("" if code in SPACELESS else " ").join(kept.split())
    if kept.upper() != kept:
        _refuse(ROMAN, kept)
    return kept


def _refuse(pattern: str | re.Pattern[str], text: str) -> None:
    if found := re.search(pattern, text, re.IGNORECASE if isinstance(pattern, str) else 0):
        raise _Unknown(_grown(text, found.start(), found.end()))


def _grown(text: str, start: int, stop: int) -> str:
    """What stands there, with the rest of its words."""
    before = re.search(r"\S*$", text[max(0, start - 60) : start])
    behind = re.match(r"\S*", text[stop : stop + 60])
    grown = (before[0] if before else "") + text[start:stop] + (behind[0] if behind else "")
    return grown.strip().rstrip(",;:") or text[start:stop]


def _ambiguous(text: str, code: str) -> str:
    """Refuse numbers whose words depend on what stands beside them; join groups of digits that have blanks between."""
    if not any(c.isdecimal() for c in text):
        return text
    dash = "[-‐‑‒–—―/]"
    _refuse(rf"\d[%€$£]?\s{dash}\s?[€$£]?\d|\d[%€$£]?{dash}\s[€$£]?\d|\d\s:\s?\d", text)  # ranges, scores
    _refuse(rf"\d[.,]\d\d\s?(?:{CURRENCY_WORDS})\b", text)
    _refuse(re.compile(rf"\b(?:{CURRENCY_CODES})\s?\d|\d\s?(?:{CURRENCY_CODES})\b"), text)
    _refuse(r"\d\.\d\d\s?(?:[ap]\.?m\b|uhr\b|o'clock)", text)
    if code in ("fr", "es", "it", "pt"):
        _refuse(r"\d(?:[.\s]000){2,}\s?(?:[€$£]|[^\W\d])", text)  # un million d'euros
    if code == "en":
        _refuse(rf"\b(?:{MONTHS})\s(?:[12]?\d|3[01])(?!\w)|(?<![\w.,])(?:[12]?\d|3[01])\s(?:{MONTHS})\b", text)
        _refuse(r"\b(?:jan|mar|jun|jul)\.\s?\d", text)
    blank, group = ("[\u00a0\u2009\u202f ]", ".") if code in COMMA_DECIMALS else ("[\u00a0\u2009\u202f]", ",")
    text = re.sub(
        rf"(?<![\w.,])\d{{1,3}}(?:{blank}\d{{3}})+(?![\w]|[.,]\d)", lambda m: re.sub(r"\s", group, m[0]), text
    )
    # Digits one by one are said so; "_" keeps their places.
    single = re.sub(r"(?<!\S)\d(?:\s\d)+(?=[.,;:!?]?(?:\s|$))", lambda m: re.sub(r"\s", "_", m[0]), text)
    if found := re.search(r"\d[)\s]*\s[(\s]*\+?\d", single):
        raise _Unknown(_grown(text, found.start(), found.end()))
    if code in DOT_ORDINALS:
        _refuse(r"(?<![\w.,])(?!1[1-9]\d\d\.|20\d\d\.)\d{1,4}\.(?=\s+\w|[,;)])", text)
    if code == "de":
        _refuse(r"\b(?:de[rmns]|die|das|am|im|vom|zum|zur|beim|jede[rmns]?)\s\d{1,4}\.(?!\d)", text)
        text = re.sub(r"(?<![\w.,])1(?=\s?(?:Uhr\b|%))", "ein", text)
    if code == "es":
        _refuse(r"(?:[02-9]|(?<!\d))1\s?[€$£]", re.sub(r"(?<![\w.,])1\s?€", "€", text))  # veintiún euros
    if numbers := INFLECTED.get(code):
        year = r"(?<!\b[Ee]n\s)(?<!\b[Dd]e\s)(?<!\bdel\s)(?<!\baño\s)" if code in ("es", "pt") else ""
        known = rf"(?!(?:{NOUNS[code]})\b)" if code in NOUNS else ""
        _refuse(rf"(?<![\w.,]){year}(?:\d{{1,3}}\.)*(?:{numbers})\s{known}[^\W\d]\w*", text)
    return text


def _phrases(text: str, code: str) -> str:
    words = PHRASES.get(code, {})
    if not words:
        return text
    if code == "fr":
        text = re.sub(r"\b[Nn][°ºo]\s?(?=\d)", "numéro ", text)
    keys = sorted(words, key=len, reverse=True)
    pattern = r"(?<![\w.])(" + "|".join(re.escape(key).replace(r"\.", r"\.\s?") for key in keys) + r")\.(?!\w)"

    def write_out(match: re.Match[str]) -> str:
        said = words[re.sub(r"\s", "", match[1])]
        if not said:
            raise _Unknown(match[0])
        return f"{said} "

    return re.sub(pattern, write_out, text)


def _abbreviations(text: str, code: str) -> str:
    """Written out where what stands beside them says which of their meanings is meant."""
    words = ABBREVIATIONS.get(code, {})
    if not words:
        return text
    tail = r"|\w+str" if code == "de" else ""
    pattern = rf"(?<![\w.])({'|'.join(sorted(words, key=len, reverse=True))}|{UNCLEAR[code]}{tail})\.(?!\w)"
    cased = text not in (text.lower(), text.upper())

    def write_out(match: re.Match[str]) -> str:
        word = match[1].casefold()
        behind = text[match.end() : match.end() + 3].lstrip()
        if word in BEFORE_NUMBERS.get(code, ()):
            return f"{words[word]} " if behind[:1].isdigit() else match[0]
        if word not in words:
            raise _Unknown(match[0])
        if word in BEFORE_NAMES.get(code, ()):
            named = behind[:1].isupper() and match[1][0].isupper() if cased else behind[:1].isalpha()
            if not named or not (cased or word in ALWAYS_NAMES.get(code, ())):
                raise _Unknown(match[0])
        _no_street(text, match, code)
        if code == "en" and word in ("co", "sr") and behind[:1].isupper() and cased:  # county; señor, sister
            raise _Unknown(match[0])
        return f"{words[word]} "

    return re.sub(pattern, write_out, text, flags=re.IGNORECASE)


def _no_street(text: str, match: re.Match[str], code: str) -> None:
    """Refuse ``Main St. Then`` and ``on Rodeo Dr. Then``, where a street's name may stand before it."""
    word = match[1].casefold()
    before = text[max(0, match.start() - 60) : match.start()].split()
    if code != "en" or word not in ("st", "dr") or not before or not before[-1][:1].isupper():
        return
    name = before[-1]
    first = len(before) == 1 or before[-2][-1] in ".!?"
    if not name.isalnum() or name == "I" or name.casefold() in BEFORE_SAINTS or (word == "dr" and first):
        return
    raise _Unknown(f"{name} {match[0]}")


def _bare_titles(text: str, code: str) -> str:
    """``Mr Smith`` as ``Mr. Smith``."""
    titles = BARE.get(code, ())
    if not titles:
        return text

    cased = text not in (text.lower(), text.upper())

    def write_out(match: re.Match[str]) -> str:
        title, behind = match[1], match[2] or ""
        word = title.casefold()
        if cased and title == title.upper():  # MR, magnetic resonance
            return match[0]
        if word in NOT_TITLES_ONLY and not (cased and title[0].isupper() and behind.isupper()):
            if word in ("dr", "st", "mt"):
                raise _Unknown(title)
            return title
        _no_street(text, match, code)
        return ABBREVIATIONS[code][word]

    pattern = rf"(?<![\w.])({'|'.join(titles)})(?!\w|'\w|\.)(?=(?:[\s-](\w))?)"
    return re.sub(pattern, write_out, text, flags=re.IGNORECASE)


def _money(text: str, code: str) -> str:
    for sign, (one, many) in CURRENCIES.get(code, {}).items():

        def write_out(match: re.Match[str], one: str = one, many: str = many) -> str:
            amount = match["before"] or match["behind"]
            magnitude = f" {match['magnitude']}" if match["magnitude"] else ""
            if not magnitude and not re.fullmatch(r"\d+|\d{1,3}(?:[.,]\d{3})+", amount):
                raise _Unknown(match[0])  # three dollars and fifty cents, three fifty, …
            if match["glued"] or match["noun"] or match["article"]:
                raise _Unknown(match[0].strip())  # a five dollar bill, twenty thousand dollars, five dollars an hour
            return f"{one} " if amount == "1" and not magnitude else f"{amount}{magnitude} {many} "

        sign = re.escape(sign)
        magnitude = rf"(?:\s?(?P<magnitude>{MAGNITUDES})\b)?"
        pattern = (
            rf"(?P<article>\ban?\s)?(?:(?<!\w){sign}\s*(?P<before>{AMOUNT}){magnitude}|(?<![\w.,])(?P<behind>{AMOUNT})\s*{sign})"
            rf"(?P<noun>\s(?:{PRICED}|k|bn|mn|tn|b)\b)?(?P<glued>[^\s.,;:!?…)\"'”“»«—]\S*|'\w\S*)?"
        )
        text = re.sub(pattern, write_out, text)
    return text


def _numbers(text: str, language: str, code: str) -> str:
    """Every run of characters without a space that has a digit in it, if it is one of the forms that are known."""
    if not any(c.isdecimal() for c in text):
        return text

    def write_out(match: re.Match[str]) -> str:
        core = match[0].lstrip(OPENING).rstrip(CLOSING)
        if not any(c.isdecimal() for c in core):
            return match[0]
        minus = MINUS.get(code, "") if core.startswith("−") else ""
        if minus:
            core = core[1:]
        parts = re.split("-|(?<=[^\\W\\d])(?=\\d)|(?<=\\d)(?=[^\\W\\d])" if code in SPACELESS else "-", core)
        digits = [any(c.isdecimal() for c in part) for part in parts]
        if any(a and b for a, b in itertools.pairwise(digits)) or not all(parts):
            raise _Unknown(match[0])  # a range, a date, a telephone number, a score, …
        said = [_number(part, language, code) if has else part for part, has in zip(parts, digits, strict=True)]
        return f" {minus} {' '.join(said)} "

    return re.sub(r"\S+", write_out, text)


def _number(part: str, language: str, code: str) -> str:
    """One number, ordinal, time, or name with single digits in it."""
    point, group = (",", ".") if code in COMMA_DECIMALS else (".", ",")
    whole = rf"\d+|\d{{1,3}}(?:{re.escape(group)}\d{{3}})+"
    if match := re.fullmatch(rf"({whole})(?:{re.escape(point)}(\d+))?", part):
        digits, fraction = match[1].replace(group, ""), match[2] or ""
        plain = match[1].isdecimal()
        if len(digits) > ((4 if code == "en" else 6) if plain else 15) or (digits[0] == "0" and len(digits) > 1):
            raise _Unknown(part)  # digit by digit, most likely
        if fraction:
            if len(fraction) > (6 if code in LONG_DECIMALS else 1) or fraction[-1] == "0":
                raise _Unknown(part)
            return _spell(Decimal(f"{int(digits)}.{fraction}"), part, "cardinal", language)
        year = plain and 1100 <= int(digits) <= 2099
        if year and code not in YEARS_LIKE_NUMBERS:
            raise _Unknown(part)
        named = year and code in ("en", "de") and int(digits) <= 1999
        return _spell(int(digits), part, "year" if named else "cardinal", language)
    if code == "fr" and (match := re.fullmatch(r"1(er|re|ère)", part)):
        return "premier" if match[1] == "er" else "première"
    ordinal = {"en": rf"({whole})(?:st|nd|rd|th)", "fr": rf"({whole})(?:e|è|ème|ième)"}.get(code)
    if ordinal and (match := re.fullmatch(ordinal, part, re.IGNORECASE)) and len(match[1]) <= 7:
        return _spell(int(match[1].replace(group, "")), part, "ordinal", language)
    if code == "en" and (match := re.fullmatch(r"(1?\d|2[0-4]):([1-5]\d)", part)):
        return " ".join(_spell(int(field), part, "cardinal", language) for field in match.groups())
    if code == "en" and re.fullmatch(r"(?:[^\W\d_]|\d(?!\d))+", part) and not re.search(r"\dx\d", part):
        runs = re.findall(r"\d|[^\W\d_]+", part)
        return " ".join(_spell(int(run), part, "cardinal", language) if run.isdecimal() else run for run in runs)
    raise _Unknown(part)


def _spell(value: int | Decimal, written: str, kind: str, language: str) -> str:
    import num2words

    known = language in num2words.CONVERTER_CLASSES
    name = language if known else re.split("[-_]", language)[0].lower()
    try:
        return str(num2words.num2words(value, lang=name, to=kind))
    except (NotImplementedError, KeyError, OverflowError, ValueError, TypeError, IndexError) as error:
        raise TextError(f"cannot spell the number {written!r} in the language {language!r}") from error
