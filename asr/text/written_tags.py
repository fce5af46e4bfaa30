"""Running prose as spoken words with what writing adds to each: its case, and the mark behind it.

``tag_words("Well, Mr. McDonald paid 25 dollars.")`` gives the words ``well mister mcdonald paid twenty five dollars``
with their cases and marks. A tagger learns from these (``asr.train.readable_task``), and is judged by them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from asr.errors import TextError
from asr.text.written_out import spoken

TAG_CASES = ("lower", "capital", "upper", "mixed")
"""``well``, ``Well``, ``NATO``, ``McDonald``. A single capital letter is ``capital``."""
TAG_MARKS = ("", ",", ".", "?", "!")
"""What may stand behind a word. Semicolons, colons and dashes count as commas."""
END_MARKS = frozenset(".?!")
"""Marks that end a sentence."""
SPOKEN_TITLES = {"Mr": "mister", "Mrs": "missus", "Dr": "doctor"}
"""Written with a full stop that ends no sentence."""
DASHES = re.compile(r"\s*(?:—|–|--+)\s*")
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*'?")
CLOSING = ".,;:!?…\"')]”’"


@dataclass(frozen=True)
class TaggedWord:
    """A word as it is spoken, in small letters; indices into ``TAG_CASES`` and ``TAG_MARKS``; and how it is written.

    ``written`` is for the first word of a number its digits, and "" for the others.
    """

    word: str
    case: int
    mark: int
    written: str


def tag_words(text: str) -> Iterator[list[TaggedWord]]:
    """The sentences of a paragraph that can be read, each as its words; the others are left out.

    Left out are sentences without a mark at their end, those in capitals, and those with initials, abbreviations,
    symbols and numbers whose spoken form is not certain. Quotation marks, brackets and hyphens are dropped.
    """
    tokens = DASHES.sub(", ", _plain(text)).split()
    sentence: list[TaggedWord] = []
    readable = True
    for at, token in enumerate(tokens):
        following = tokens[at + 1].lstrip("\"'([") if at + 1 < len(tokens) else ""
        words = _read(token, following)
        if words is None:
            readable = False
        else:
            sentence += words
        if words and TAG_MARKS[words[-1].mark] in END_MARKS:
            if readable and sentence and not _shouted(sentence):
                yield sentence
            sentence, readable = [], True


def _plain(text: str) -> str:
    """Typographic apostrophes and quotes as typewriters have them, and letters without accents."""
    text = re.sub("[‘’ʼ`´]", "'", re.sub("[“”«»„]", '"', text)).replace("…", "...")
    text = re.sub(r"\b([Tt]o)-(day|night|morrow)\b", r"\1\2", text)  # as they are spelt today
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _read(token: str, following: str) -> list[TaggedWord] | None:
    """The words of one token; None where its spoken form is not certain."""
    core = token.lstrip("\"'([")
    rest = core.rstrip(CLOSING)
    tail = core[len(rest) :]
    if not rest:  # punctuation alone says nothing about a word
        return []
    if rest in SPOKEN_TITLES and tail == ".":
        return [TaggedWord(SPOKEN_TITLES[rest], 1, 0, SPOKEN_TITLES[rest].capitalize())]
    if tail.startswith(".") and (len(rest) == 1 and rest not in "I" and rest.isalpha()):
        return None
    mark = TAG_MARKS.index(_mark(tail, following))
    if rest[0].isdigit():
        said = _spoken(rest)
        if said is None:
            return None
        return [
            TaggedWord(word, 0, mark if at == len(said) - 1 else 0, "" if at else rest) for at, word in enumerate(said)
        ]
    parts = rest.split("-")
    if not all(WORD.fullmatch(part) for part in parts):
        return None
    if tail.startswith("'") and rest[-1] in "sS":
        parts[-1] += "'"
    last = len(parts) - 1
    return [
        TaggedWord(part.rstrip("'").lower(), _case(part), mark if at == last else 0, part.rstrip("'"))
        for at, part in enumerate(parts)
    ]


def _mark(tail: str, following: str) -> str:
    """The mark that closing punctuation is, given the word behind it."""
    found = next((c for c in "?!" if c in tail), "." if "." in tail else "," if set(tail) & set(",;:") else "")
    if found in END_MARKS and following[:1].islower():  # "What?" he said; etc. and so on
        return "" if found == "." and "..." not in tail else ","
    return found


@functools.lru_cache(65536)
def _spoken(number: str) -> list[str] | None:
    """The words of a number; None where its spoken form is not certain."""
    try:
        return spoken(number, "en").lower().split()
    except TextError:
        return None


def _case(word: str) -> int:
    if word.islower():
        return 0
    if word[0].isupper() and (len(word) == 1 or word[1:].islower()):
        return 1
    return 2 if word.isupper() else 3


def _shouted(sentence: list[TaggedWord]) -> bool:
    return sum(word.case == 2 for word in sentence) * 3 > len(sentence)
