"""Written text to spoken words, by language: what recipes do to transcripts that were written to be read.

``spoken("Mr. Hill paid £5 on 3rd May 1812.")`` is ``MISTER HILL PAID FIVE POUNDS ON THIRD MAY EIGHTEEN TWELVE`` but for
the case, which the training's ``text.case`` decides. The rules, in this order:

1. Unicode NFC; typographic apostrophes become ``'``.
2. Abbreviations of the language (``ABBREVIATIONS``), currencies and symbols (``SYMBOLS``) are written out, where what
   stands beside them says which of their meanings is meant.
3. Numbers are spelled out by ``num2words``: years (four digits from 1100 to 1999 without a separator), ordinals
   (English), decimals, thousands with separators.
4. All but letters, marks and apostrophes inside words becomes spaces, hyphens too; runs of spaces become one.
   Languages written without spaces between words (``SPACELESS``) lose them.

What these rules do not understand is an error, since a word that nobody said teaches the wrong thing: dates, times,
ranges, fractions, amounts with cents, telephone numbers, units, Roman numerals, ``[laughs]``, symbols without a word,
numbers that are inflected (German ``3. Mai``). Languages without rules of their own get 1, 3 and 4.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from decimal import Decimal

from asr.errors import TextError

ABBREVIATIONS = {
    "en": {
        "mr": "mister", "mrs": "missis", "messrs": "messieurs", "dr": "doctor", "drs": "doctors", "st": "saint",
        "co": "company", "jr": "junior", "sr": "senior", "maj": "major", "gen": "general", "rev": "reverend",
        "lt": "lieutenant", "hon": "honorable", "sgt": "sergeant", "capt": "captain", "esq": "esquire",
        "ltd": "limited", "col": "colonel", "ft": "fort", "no": "number", "vol": "volume", "etc": "et cetera",
    },
    "de": {"dr": "doktor", "nr": "nummer", "usw": "und so weiter", "bzw": "beziehungsweise"},
    "fr": {"m": "monsieur", "mme": "madame", "mlle": "mademoiselle", "dr": "docteur", "no": "numéro"},
    "es": {"sr": "señor", "sra": "señora", "dr": "doctor", "dra": "doctora"},
}  # fmt: skip
"""Written with a full stop behind them."""
BEFORE_NUMBERS = {"en": ("no", "vol"), "de": ("nr",), "fr": ("no",)}
"""Abbreviations before a number only; elsewhere the same letters are a word and the end of a sentence."""
BEFORE_NAMES = {
    "en": ("dr", "st", "maj", "gen", "rev", "lt", "hon", "sgt", "capt", "col", "ft"),
    "fr": ("m",),
    "es": ("sr", "sra", "dr", "dra"),
}
"""Abbreviations before a name only; elsewhere they may be another word (``Rodeo Dr.``)."""
SYMBOLS = {
    "en": {"&": " and ", "%": " percent ", "+": " plus ", "@": " at "},
    "de": {"&": " und ", "%": " Prozent ", "+": " plus "},
    "fr": {"&": " et ", "%": " pour cent ", "+": " plus "},
    "es": {"&": " y ", "%": " por ciento ", "+": " más "},
}
CURRENCIES = {
    "en": {"£": ("one pound", "pounds"), "$": ("one dollar", "dollars"), "€": ("one euro", "euros")},
    "de": {"€": ("ein Euro", "Euro")},
    "fr": {"€": ("un euro", "euros")},
    "es": {"€": ("un euro", "euros")},
}
"""One of them, and the name of several."""
MINUS = {"en": "minus", "de": "minus", "fr": "moins", "es": "menos"}
SPACELESS = {"zh", "ja", "th"}
COMMA_DECIMALS = {"de", "fr", "es", "it", "nl", "pl", "pt", "ru", "cs", "sv", "da", "no", "fi", "tr", "uk"}
DOT_ORDINALS = {"de", "da", "no", "nb", "nn", "fi", "et", "lv", "cs", "sk", "sl", "hr", "sr", "pl", "hu", "tr", "is"}
"""Languages in which a full stop behind a number makes an ordinal of it, which is inflected."""
YEARS_LIKE_NUMBERS = {"en", "de", "fr", "es", "it", "pt", "ja", "zh"}
"""Languages in which a year is said as the number is, or for which ``_number`` knows better."""
LONG_DECIMALS = {"en", "de"}
"""Languages in which the digits behind the point are said one by one."""
UNITS = "km/h|km|cm|mm|nm|m|kg|mg|g|lbs?|oz|ml|cl|dl|l|ft|yds?|mph|kmh|k?hz|mhz|ghz|kb|mb|gb|tb|kwh?|h|min|sec|ha"
NOISES = (
    "laugh|applau|music|cough|sigh|inaudible|unintelligible|indistinct|noise|silence|pause|cries|crying|cheer|"
    "lach|musik|unverständlich|stille|rire|musique|inaudible|risas|música"
)
LETTERS = ("L", "M")
"""Unicode categories that stay: letters, and marks that belong to them."""
UNSPOKEN = frozenset("#%&*@\\[]{}§†‡‰※")
"""Punctuation that is said, or that says how something is said, where no rule has written it out."""
OPENING, CLOSING = "(\"'“”„«»¿¡", ".,;:!?…)\"'”“«»。，、！？；："
INVISIBLE = re.compile("[\u00ad\u200d\u2060\ufeff]")
AMOUNT = r"\d(?:[\d.,]*\d)?"
MAGNITUDES = "hundred|thousand|million|billion|trillion"
ROMAN = re.compile(r"(?<!\w)(?=[IVX]{2})X{0,3}(?:IX|IV|V?I{0,3})(?:er?|ère|ème)?(?!\w)")


def spoken(text: str, language: str = "en") -> str:
    """``text`` as it is said. Raises ``TextError`` for what the rules do not know how to say in ``language``."""
    code = re.split("[-_]", language)[0].lower()
    try:
        return _spoken(text, language, code)
    except _Unknown as error:
        raise TextError(
            f"cannot tell how {str(error)[:60]!r} is said in the language {language!r}: {text[:60]!r}; write it out"
        ) from error


class _Unknown(Exception):
    """Something written of which it is not known how it is said."""


def _spoken(text: str, language: str, code: str) -> str:
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", text))
    text = re.sub(r"\s{2,}", " ", re.sub("[‘’ʼ`´]", "'", text))
    _refuse(rf"\(\s*(?:{NOISES})[^()]*\)|^\s*\([^()]*\)\s*$", text)
    _refuse(rf"\d(?:\s?(?:{UNITS})|[wvs])(?![\w'])", text)  # apart, w, v and s are words in Slavic languages
    _refuse(r"(?<![^\W\d_])[^\W\d_]{2,}\.[^\W\d_]{2,}|@[^\s@]*\.", text)  # addresses
    text = _abbreviations(text, code)
    text = _money(text, code)
    for sign, word in SYMBOLS.get(code, {}).items():
        text = text.replace(sign, word)
    text = _numbers(text, language, code)
    text = re.sub("[-‐‑‒–—―/_]", " ", text)
    unknown = next((c for c in text if c in UNSPOKEN or unicodedata.category(c)[0] in "NS"), None)
    if unknown:
        raise _Unknown(unknown)
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in LETTERS else " " for c in text)
    kept = re.sub(r"(?<!\w)'+|'+(?!\w)", " ", kept)
    kept = ("" if code in SPACELESS else " ").join(kept.split())
    if kept.upper() != kept:
        _refuse(ROMAN, kept)
    return kept


def _refuse(pattern: str | re.Pattern[str], text: str) -> None:
    if found := re.search(pattern, text, re.IGNORECASE if isinstance(pattern, str) else 0):
        raise _Unknown(found[0].strip())


def _abbreviations(text: str, code: str) -> str:
    """Written out where what stands beside them says which of their meanings is meant."""
    words = ABBREVIATIONS.get(code, {})
    if not words:
        return text
    pattern = r"(?<![\w.])(" + "|".join(sorted(words, key=len, reverse=True)) + r")\.(?=\s|,|$)"

    def write_out(match: re.Match[str]) -> str:
        word = match[1].lower()
        before = text[max(0, match.start() - 60) : match.start()].split()
        behind = text[match.end() : match.end() + 3].lstrip()
        named = behind[:1].isupper() or (word != "st" and text.islower())
        if word in BEFORE_NUMBERS.get(code, ()):
            return f"{words[word]} " if behind[:1].isdigit() else match[0]
        if word == "m" and match[1] != "M":
            return match[0]
        if word in BEFORE_NAMES.get(code, ()) and not named:
            raise _Unknown(match[0])
        if word == "st" and before and before[-1][:1].isupper():  # of a street, as likely as not
            raise _Unknown(f"{before[-1]} {match[0]}")
        return f"{words[word]} "

    return re.sub(pattern, write_out, text, flags=re.IGNORECASE)


def _money(text: str, code: str) -> str:
    for sign, (one, many) in CURRENCIES.get(code, {}).items():

        def write_out(match: re.Match[str], one: str = one, many: str = many) -> str:
            amount = match["before"] or match["behind"]
            magnitude = match["magnitude"] or ""
            if not magnitude and not re.fullmatch(r"\d+|\d{1,3}(?:[.,]\d{3})+", amount):
                raise _Unknown(match[0])  # three dollars and fifty cents, three fifty, …
            return f"{one} " if amount == "1" and not magnitude else f"{amount}{magnitude} {many} "

        sign = re.escape(sign)
        magnitude = rf"(?P<magnitude>\s(?:{MAGNITUDES})\b)?"
        pattern = rf"(?<!\w){sign}\s*(?P<before>{AMOUNT}){magnitude}|(?<![\w.,])(?P<behind>{AMOUNT})\s*{sign}"
        text = re.sub(pattern, write_out, text)
    return text


def _numbers(text: str, language: str, code: str) -> str:
    """Every run of characters without a space that has a digit in it, if it is one of the forms that are known."""
    if not any(c.isdecimal() for c in text):
        return text
    blank = "[\u00a0\u2009\u202f ]" if code in COMMA_DECIMALS else "[\u00a0\u2009\u202f]"
    text = re.sub(rf"(?<![\w.,])\d{{1,3}}(?:{blank}\d{{3}})+(?![\w]|[.,]\d)", lambda m: re.sub(r"\s", "", m[0]), text)
    _refuse(r"\d[)\s]*\s[(\s+]*\d", text)
    if code in DOT_ORDINALS:
        _refuse(r"(?<![\w.,])\d{1,4}\.(?=\s+\w)", text)
    if code in COMMA_DECIMALS - {"fi", "tr"}:
        _refuse(r"(?<![\w.,])1\s+[^\W\d]\w*", text)  # ein, eine, einen, …

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
        if len(digits) > (6 if plain else 15) or (digits[0] == "0" and len(digits) > 1):
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
