"""Aligns transcripts with alternatives word by word with hypotheses.

The notation is NIST's, as sclite reads it: ``{ a / b c }`` stands for ``a`` or ``b c``, ``@`` in it for nothing, and
groups may stand in groups. ``(uh)`` is an optional word, if that option is on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.errors import ManifestError

NOTHING = "@"
_GROUP = re.compile(r"(?:^|\s)\{[^{}]*/")
"""Alternatives, as opposed to braces that are words: a group that opens a word, with a slash in it."""
_OPTIONAL = re.compile(r"\(([^()\s]+)\)")
_APOSTROPHE = re.compile(r"[\u2018\u2019\u02bc]")
_DIVIDER = re.compile(r"(?<=\w)[\u2010-\u2015/-]+(?=\w)")
DEEPEST = 50
"""Groups in groups."""
MOST_CELLS = 400_000_000
"""Of one alignment: 20,000 words against 20,000, 1.6 GB."""


@dataclass(frozen=True)
class Costs:
    """The costs that an alignment minimises: their sum over substitutions, deletions and insertions."""

    substitution: int = 1
    deletion: int = 1
    insertion: int = 1
    optional: int = 0
    """Of an optional word that is missing."""


LEVENSHTEIN = Costs()
SCLITE = Costs(4001, 3001, 3001, 2000)
"""4, 3, 3 and 2 thousandths of an error more: of equally cheap alignments sclite has the one with fewer errors."""


@dataclass(frozen=True)
class Arc:
    """A word between two places of a reference; no word where ``word`` is empty. ``item``: which word or group of the
    whole it belongs to, from 0."""

    source: int
    target: int
    word: str
    item: int
    optional: bool = False


@dataclass(frozen=True)
class Aligned:
    """A reference word against a hypothesis word, ``""`` where one of them is missing. ``item``: as of the ``Arc``, for
    an insertion that of the next one. ``forgiven``: an optional word that is missing."""

    reference: str
    hypothesis: str
    item: int
    forgiven: bool = False

    @property
    def wrong(self) -> bool:
        return self.reference != self.hypothesis and not self.forgiven


class Reference:
    """A transcript as a graph of words. ``optional``: ``(word)`` may be missing.

    Raises ``ManifestError`` for a group that does not end or holds an alternative without a word.
    """

    def __init__(self, text: str, *, alternatives: bool = True, optional: bool = False) -> None:
        self.arcs: list[Arc] = []
        self.places = 1
        self._optional = optional
        grouped = alternatives and bool(_GROUP.search(text))
        tokens = _tokens(text) if grouped else text.split()
        self.items = 0
        at, end = 0, 0
        while at < len(tokens):
            if grouped and tokens[at] == "{":
                end, at = self._group(tokens, at + 1, end)
            else:
                end, at = self._word(tokens[at], end), at + 1
            self.items += 1
        self.plain = not grouped and not any(arc.optional for arc in self.arcs)

    def _place(self) -> int:
        self.places += 1
        return self.places - 1

    def _word(self, token: str, start: int) -> int:
        match = _OPTIONAL.fullmatch(token) if self._optional else None
        word = match.group(1) if match else token
        self.arcs.append(Arc(start, self._place(), word, self.items, match is not None))
        return self.arcs[-1].target

    def _group(self, tokens: Sequence[str], at: int, start: int, depth: int = 1) -> tuple[int, int]:
        """Arcs of the group whose first token is at ``at``; the place where it ends, and where the tokens go on."""
        if depth > DEEPEST:
            raise ManifestError(f"alternatives in alternatives: expected at most {DEEPEST} levels")
        ends: list[int] = []
        end, empty = start, True
        while at < len(tokens):
            token = tokens[at]
            at += 1
            if token in ("/", "}"):
                if empty:
                    raise ManifestError("an alternative without a word: expected { a / b }, and @ for nothing")
                ends.append(end)
                if token == "}":
                    break
                end, empty = start, True
                continue
            empty = False
            if token == "{":
                end, at = self._group(tokens, at, end, depth + 1)
            elif token != NOTHING:
                end = self._word(token, end)
        else:
            raise ManifestError("alternatives that do not end: expected { a / b }")
        join = self._place()
        self.arcs += [Arc(end, join, "", self.items) for end in dict.fromkeys(ends)]
        return join, at


def _tokens(text: str) -> list[str]:
    """Braces, slashes within them, and words; a brace inside a word is part of it outside of groups."""
    tokens: list[str] = []
    depth = 0
    for word in text.split():
        if not depth and not word.startswith("{"):
            tokens.append(word)
            continue
        for token in re.findall(r"[{}/]|[^{}/]+", word):
            depth += (token == "{") - (token == "}")
            tokens.append(token)
    return tokens


def align_words(reference: Reference, hypothesis: Sequence[str], costs: Costs = LEVENSHTEIN) -> list[Aligned]:
    """The cheapest alignment of the words with any reading of the reference, in order.

    Of equally cheap ones that with the last word matched or substituted rather than deleted, and deleted rather than
    inserted. Takes (words of all readings) x (words of the hypothesis) steps and as many bytes times 4.
    Raises ``ManifestError`` for more than ``MOST_CELLS``.
    """
    if reference.places * (len(hypothesis) + 1) > MOST_CELLS:
        raise ManifestError(
            f"{reference.places} words against {len(hypothesis)} are too many for one alignment; score shorter segments"
        )
    numbers = {word: i for i, word in enumerate(dict.fromkeys(hypothesis))}
    spoken = np.array([numbers[word] for word in hypothesis], dtype=np.int64)
    steps = costs.insertion * np.arange(len(hypothesis) + 1, dtype=np.int32)
    rows: list[NDArray[np.int32]] = [steps]
    into: list[list[Arc]] = [[] for _ in range(reference.places)]
    for arc in reference.arcs:
        into[arc.target].append(arc)
    for arcs in into[1:]:
        best = np.full(len(steps), np.iinfo(np.int32).max // 2, dtype=np.int32)
        for arc in arcs:
            before = rows[arc.source]
            np.minimum(best, before + _deletion(arc, costs), out=best)
            if arc.word:
                wrong = np.where(spoken == numbers.get(arc.word, -1), 0, costs.substitution).astype(np.int32)
                np.minimum(best[1:], before[:-1] + wrong, out=best[1:])
        rows.append(np.minimum.accumulate(best - steps) + steps)
    return _trace(reference, hypothesis, costs, rows, into)


def _deletion(arc: Arc, costs: Costs) -> int:
    return 0 if not arc.word else costs.optional if arc.optional else costs.deletion


def _trace(
    reference: Reference,
    hypothesis: Sequence[str],
    costs: Costs,
    rows: Sequence[NDArray[np.int32]],
    into: Sequence[Sequence[Arc]],
) -> list[Aligned]:
    """The path backwards from the end of both."""
    place, at = reference.places - 1, len(hypothesis)
    item = reference.items
    pairs: list[Aligned] = []
    while place or at:
        cost = rows[place][at]
        for arc in into[place] if at else ():
            step = 0 if arc.word == hypothesis[at - 1] else costs.substitution
            if arc.word and rows[arc.source][at - 1] + step == cost:
                pairs.append(Aligned(arc.word, hypothesis[at - 1], arc.item))
                place, at, item = arc.source, at - 1, arc.item
                break
        else:
            for arc in into[place]:
                if rows[arc.source][at] + _deletion(arc, costs) == cost:
                    if arc.word:
                        pairs.append(Aligned(arc.word, "", arc.item, arc.optional))
                    place, item = arc.source, arc.item
                    break
            else:
                at -= 1
                pairs.append(Aligned("", hypothesis[at], item))
    return pairs[::-1]


def folded(text: str, *, alternatives: bool = False, optional: bool = False) -> str:
    """``text`` without its punctuation (see ``asr.scoring.rules.Rules``); the notation of a reference stays."""
    if not (alternatives and _GROUP.search(text)):
        return " ".join(" ".join(_without_punctuation(word, optional) for word in text.split()).split())
    kept, depth = [], 0
    for token in _tokens(text):
        depth += (token == "{") - (token == "}")
        words = token if token in ("{", "/", "}", NOTHING) else _without_punctuation(token, optional)
        kept.append(words or (NOTHING if depth else ""))  # an alternative that was punctuation is one of no words
    return " ".join(" ".join(kept).split())


def _without_punctuation(word: str, optional: bool) -> str:
    match = _OPTIONAL.fullmatch(word) if optional else None
    if match:
        return " ".join(f"({part})" for part in _without_punctuation(match.group(1), False).split())
    word = _APOSTROPHE.sub("'", word)
    word = _DIVIDER.sub(" ", word)
    return "".join(
        c
        for i, c in enumerate(word)
        if not unicodedata.category(c).startswith("P")
        or (c == "'" and word[i - 1 : i].isalnum() and word[i + 1 : i + 2].isalnum())
        or (c == "." and word[i - 1 : i].isdigit() and word[i + 1 : i + 2].isdigit())
    ).strip()
