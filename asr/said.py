"""What a recording should say by a text that was written to be read: "10% of 42," as ``TEN PERCENT OF FORTY TWO``.

A word that the model's tokens can spell stays as it is. Any other is written out as it is spoken (``asr.spoken``, by
language), and what cannot be spelt then is left out by name. Each word remembers how it was written, so that results
come in the words of whoever wrote the text.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from asr.errors import TextError
from asr.spoken import SPACELESS, spoken
from asr.text import Tokenizer, normalise
from asr.transcript import Word

PUNCTUATION = set(".,;:!?…'\"¡¿()[]{}«»‹›“”„‚‘’-‐‑‒–—―")
"""Signs without a sound: a word of nothing else is passed over without a message."""
NO_LANGUAGE = ("none", "")
"""The language of texts that are spelt as they are or not at all."""


@dataclass(frozen=True)
class Said:
    """A word as it was ``written``, and the words that the model is asked to hear, normalised."""

    written: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """The words of a text in order, and a message for each that was left out."""

    words: tuple[Said, ...]
    left_out: tuple[str, ...]

    @property
    def text(self) -> str:
        """All that the model is asked to hear."""
        return " ".join(word for said in self.words for word in said.words)

    def tokens(self, tokenizer: Tokenizer) -> tuple[list[int], list[list[int]]]:
        """The token ids of all words, with the token between words where there is one, and for each written word the
        places of its tokens."""
        ids: list[int] = []
        places: list[list[int]] = []
        for said in self.words:
            places.append([])
            for word in said.words:
                if ids and tokenizer.space_id is not None:
                    ids.append(tokenizer.space_id)
                start = len(ids)
                ids += tokenizer.encode(word)
                places[-1] += range(start, len(ids))
        return ids, places


def reading(text: str, tokenizer: Tokenizer, language: str, where: str = "") -> Reading:
    """How ``text`` is said with the words that ``tokenizer`` can spell.

    ``language``: as ``asr.spoken.spoken`` takes it; ``none`` writes nothing out. Raises ``TextError``, which begins
    with ``where``, if no word can be spelt.
    """
    if not isinstance(text, str):
        raise TextError(f"{where or 'text'}: expected words as a text, got {text!r}"[:200])
    written = text.split()
    words, left_out = [], []
    for word, ways in zip(written, _written_out(written, tokenizer, language), strict=True):
        reason = ""
        if isinstance(ways, str):
            reason = ways
        elif unspelt := tokenizer.unspelt(" ".join(ways)):
            reason = f"{', '.join(map(repr, unspelt))} cannot be spelt with the model's tokens"
        elif ways:
            words.append(Said(word, tuple(ways)))
        elif set(word) - PUNCTUATION:
            reason = f"it is not known how that is said (language {language!r})"
        if reason:
            left_out.append(f"{word!r} left out: {reason}")
    if not words:
        reason = left_out[0] if left_out else f"got {text[:60]!r}"
        raise TextError(f"{where or 'text'}: expected words that the model can spell; {reason}")
    return Reading(tuple(words), tuple(left_out))


def as_written(words: Sequence[Word], said: Sequence[Said]) -> tuple[Word, ...]:
    """Spoken words with their times, put together to the written ones they were said for: as long as all of them, as
    certain as the least certain."""
    found, at = [], 0
    for one in said:
        part = words[at : at + len(one.words)]
        at += len(part)
        found.append(Word(one.written, part[0].start_s, part[-1].end_s, min(word.confidence for word in part)))
    return tuple(found)


def _written_out(written: Sequence[str], tokenizer: Tokenizer, language: str) -> list[list[str] | str]:
    """For each word its normalised spoken words, or why there are none."""

    def norm(text: str) -> list[str]:
        return normalise(text, tokenizer.config).split()

    found: list[list[str] | str] = [norm(word) for word in written]
    if language in NO_LANGUAGE:
        return found
    foreign = [at for at, words in enumerate(found) if not words or tokenizer.unspelt(" ".join(words))]
    for at in foreign:
        try:
            found[at] = norm(spoken(written[at], language))
        except TextError as error:
            found[at] = str(error)
    if language in SPACELESS:
        return found
    for start, stop in _neighbourhoods(foreign, len(written)):
        places = [at for at in foreign if start <= at < stop]
        # One of them may spoil the rest: then each with its own neighbours.
        own = [(max(0, at - 1), min(len(written), at + 2), [at]) for at in places]
        for first, last, strange in [(start, stop, places), *own]:
            try:
                together = norm(spoken(" ".join(written[first:last]), language))
            except TextError:
                continue
            alone = [words if isinstance(words, list) else [] for words in found[first:last]]
            for at, words in zip(range(first, last), _shared(alone, together), strict=True):
                if at in strange and words:
                    found[at] = words
            if strange is places:
                break
    return found


def _neighbourhoods(places: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Stretches of ``count`` words around ``places`` with a word on either side, joined where they touch: what a sign
    or a number means may depend on its neighbours."""
    found: list[tuple[int, int]] = []
    for at in places:
        start, stop = max(0, at - 1), min(count, at + 2)
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, stop))
    return found


def _shared(alone: Sequence[Sequence[str]], together: Sequence[str]) -> list[list[str]]:
    """Give the words of a stretch that was written out as a whole to its written words: each to the one that says it
    ``alone`` too, and what only the whole says to the one in whose place it stands."""
    # A written word that says nothing alone has a place all the same.
    flat = [(owner, word) for owner, words in enumerate(alone) for word in words or [""]]
    found: list[list[str]] = [[] for _ in alone]
    matcher = difflib.SequenceMatcher(None, [word for _, word in flat], together, autojunk=False)
    for _, first, last, start, stop in matcher.get_opcodes():
        for at in range(start, stop):
            place = first + (at - start) * (last - first) // (stop - start)
            found[flat[min(place, len(flat) - 1)][0]].append(together[at])
    return found
