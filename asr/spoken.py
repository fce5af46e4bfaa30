"""Written text to spoken words, by language: what recipes do to transcripts that were written to be read.

``spoken("Mr. Hill paid £5 on 3rd May 1812.")`` is ``MISTER HILL PAID FIVE POUNDS ON THIRD MAY EIGHTEEN TWELVE`` but for
the case, which the training's ``text.case`` decides. The rules, in this order:

1. Unicode NFC; typographic apostrophes become ``'``, dashes and hyphens become spaces.
2. Abbreviations of the language (``ABBREVIATIONS``) and symbols (``SYMBOLS``) are written out.
3. Numbers are spelled out by ``num2words``: years (four digits from 1100 to 1999 without a separator), ordinals
   (English), decimals, thousands with separators.
4. All but letters, marks and apostrophes inside words become spaces; runs of spaces become one. Languages written
   without spaces between words (``SPACELESS``) lose them.

Languages without rules of their own get 1, 3 (digits that num2words cannot spell are an error) and 4.
"""

from __future__ import annotations

import re
import unicodedata

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
"""Written with a full stop behind them; the point is what tells ``no.`` from ``no``."""
SYMBOLS = {
    "en": {"&": " and ", "%": " percent ", "+": " plus ", "@": " at "},
    "de": {"&": " und ", "%": " Prozent ", "+": " plus "},
    "fr": {"&": " et ", "%": " pour cent ", "+": " plus "},
    "es": {"&": " y ", "%": " por ciento ", "+": " más "},
}
CURRENCIES = {
    "en": {"£": "pounds", "$": "dollars", "€": "euros"},
    "de": {"€": "Euro"},
    "fr": {"€": "euros"},
    "es": {"€": "euros"},
}
SPACELESS = {"zh", "ja", "th"}
COMMA_DECIMALS = {"de", "fr", "es", "it", "nl", "pl", "pt", "ru", "cs", "sv", "da", "no", "fi", "tr", "uk"}
LETTERS = ("L", "M")
"""Unicode categories that stay: letters, and marks that belong to them."""


def spoken(text: str, language: str = "en") -> str:
    """``text`` as it is said. Raises ``TextError`` for a number that cannot be spelled in ``language``."""
    text = unicodedata.normalize("NFC", text)
    text = re.sub("[‘’ʼ`´]", "'", text)
    text = re.sub("[-‐‑‒–—―/_]", " ", text)
    words = ABBREVIATIONS.get(language, {})
    if words:
        pattern = r"\b(" + "|".join(sorted(words, key=len, reverse=True)) + r")\.(?=\s|,|$)"
        text = re.sub(pattern, lambda m: words[m[1].lower()] + " ", text, flags=re.IGNORECASE)
    for sign, word in CURRENCIES.get(language, {}).items():
        amount = r"(\d(?:[\d.,]*\d)?)"
        text = re.sub(rf"{re.escape(sign)}\s*{amount}|{amount}\s*{re.escape(sign)}", rf"\g<1>\g<2> {word} ", text)
    for sign, word in SYMBOLS.get(language, {}).items():
        text = text.replace(sign, word)
    text = _numbers(text, language)
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in LETTERS else " " for c in text)
    kept = re.sub(r"(?<!\w)'+|'+(?!\w)", " ", kept)
    return ("" if language in SPACELESS else " ").join(kept.split())


def _numbers(text: str, language: str) -> str:
    if not any(c.isdigit() for c in text):
        return text
    import num2words

    point, group = (",", ".") if language in COMMA_DECIMALS else (".", ",")
    name = language if language in num2words.CONVERTER_CLASSES else language.split("_")[0].split("-")[0]
    number = rf"\d+(?:{re.escape(group)}\d{{3}})*(?:{re.escape(point)}\d+)?"

    def spell(match: re.Match[str]) -> str:
        digits = match["number"].replace(group, "").replace(point, ".")
        kind = "cardinal"
        value: int | float = float(digits) if "." in digits else int(digits)
        if language == "en" and match["ordinal"]:
            kind, value = "ordinal", int(value)
        elif language == "en" and re.fullmatch(r"1[1-9]\d\d", match[0]):
            kind = "year"
        try:
            return f" {num2words.num2words(value, lang=name, to=kind)} "
        except (NotImplementedError, KeyError, OverflowError, ValueError) as error:
            raise TextError(
                f"cannot spell the number {match[0]!r} in the language {language!r}: {text[:60]!r}"
            ) from error

    ordinal = r"(?P<ordinal>st|nd|rd|th)?\b" if language == "en" else r"(?P<ordinal>\Z\A)?"
    text = re.sub(rf"(?P<number>{number}){ordinal}", spell, text)
    if any(c.isdigit() for c in text):  # digits of other scripts, or of a word
        text = re.sub(r"\d", lambda m: f" {num2words.num2words(int(m[0]), lang=name)} ", text)
    return text
