"""The spoken words of a written text: "10% of 42," as ``TEN PERCENT OF FORTY TWO``.

A word that the model's tokens can spell stays as it is. Any other is written out as it is spoken
(``asr.text.written_out``, by language), and words that still cannot be spelt are left out and named. Each word keeps
its written form, so that results use the spelling of the text.
"""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from asr.errors import TextError
from asr.text.language_tables import SPACELESS
from asr.text.normalisation import normalise
from asr.text.tokenizer import Tokenizer
from asr.text.written_out import spoken
from asr.transcript import Word

PUNCTUATION = set(".,;:!?…'\"¡¿()[]{}«»‹›“”„‚‘’-‐‑‒–—―")
"""Signs without a sound: a word of nothing else is passed over without a message."""
MOST_CUTS = 16
"""Places at which it is tried whether a stretch can be cut."""
NO_LANGUAGE = ("none", "")
"""The language of texts that are spelt as they are or not at all."""


@dataclass(frozen=True)
class Said:
    """A word as ``written``, and its normalised spoken words, which the model can spell.

    Words that are spoken in another order or as one (``$5 million``) are kept together, with spaces between.
    """

    written: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """The words of a text in order, and those that were left out, each with the reason.

    ``gaps``: for each word left out, how many of ``words`` come before it.
    """

    words: tuple[Said, ...]
    unsaid: tuple[tuple[str, str], ...] = ()
    gaps: tuple[int, ...] = ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """A message for each word that was left out."""
        return tuple(f"{word!r} left out: {reason}" for word, reason in self.unsaid)

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

    ``language``: as ``asr.text.written_out.spoken`` takes it; ``none`` writes nothing out. Raises ``TextError``,
    which begins
    with ``where``, if no word can be spelt.
    """
    found = _read(text, tokenizer, language, where)
    if not found.words:
        reason = found.left_out[0] if found.left_out else f"got {text[:60]!r}"
        raise TextError(f"{where or 'text'}: expected words that the model can spell; {reason}")
    return found


def whole_reading(text: str, tokenizer: Tokenizer, language: str, where: str) -> Reading:
    """As ``reading``, of all words: raises ``TextError``, which begins with ``where``, for one that is left out."""
    found = _read(text, tokenizer, language, where)
    for word, reason in found.unsaid:
        raise TextError(f"{where}: {reason}" if word == text.strip() else f"{where}: {word!r}: {reason}")
    if not found.words:
        raise TextError(f"{where}: expected words, got {text[:60]!r}")
    return found


def _read(text: str, tokenizer: Tokenizer, language: str, where: str) -> Reading:
    if not isinstance(text, str):
        raise TextError(f"{where or 'text'}: expected words as a text, got {text!r}"[:200])
    words, unsaid, gaps = [], [], []
    for word, ways in _written_out(text.split(), tokenizer, language):
        reason = ""
        if isinstance(ways, str):
            reason = ways
        elif unspelt := tokenizer.unspelt(" ".join(ways)):
            reason = f"{', '.join(map(repr, unspelt))} cannot be spelt with the model's tokens"
        elif ways:
            words.append(Said(word, tuple(ways)))
        else:
            reason = f"it is not known how that is said (language {language!r})"
        if reason and set(word) - PUNCTUATION:
            unsaid.append((word, reason))
            gaps.append(len(words))
    return Reading(tuple(words), tuple(unsaid), tuple(gaps))


def as_written(words: Sequence[Word], said: Sequence[Said]) -> tuple[Word, ...]:
    """Spoken words with their times, put together to the written ones they were said for: as long as all of them, as
    certain as the least certain."""
    found, at = [], 0
    for one in said:
        part = words[at : at + len(one.words)]
        at += len(part)
        found.append(Word(one.written, part[0].start_s, part[-1].end_s, min(word.confidence for word in part)))
    return tuple(found)


Ways = list[str] | str
"""The normalised spoken words of a written one, or why there are none."""


def _written_out(written: Sequence[str], tokenizer: Tokenizer, language: str) -> list[tuple[str, Ways]]:
    """The written words, some of them put together, each with its spoken ones."""

    def norm(text: str) -> list[str]:
        return normalise(text, tokenizer.config).split()

    @functools.cache
    def say(text: str) -> Ways:
        try:
            return norm(spoken(text, language))
        except TextError as error:
            return str(error)

    found: list[Ways] = [norm(word) for word in written]
    if language in NO_LANGUAGE:
        return list(zip(written, found, strict=True))
    strange = {at for at, words in enumerate(found) if not words or tokenizer.unspelt(" ".join(words))}
    glued: set[int] = set()
    if language in SPACELESS:
        found = [say(word) if at in strange else found[at] for at, word in enumerate(written)]
    else:
        for start, stop in _neighbourhoods(sorted(strange), len(written)):
            _write_out(written, range(start, stop), strange, say, found, glued)
    parts: list[tuple[str, Ways]] = []
    for at, (word, ways) in enumerate(zip(written, found, strict=True)):
        if at in glued and not isinstance(ways, str) and not isinstance(before := parts[-1][1], str):
            parts[-1] = (f"{parts[-1][0]} {word}", before + ways)
        else:
            parts.append((word, ways))
    return parts


def _write_out(
    written: Sequence[str],
    places: range,
    strange: set[int],
    say: Callable[[str], Ways],
    found: list[Ways],
    glued: set[int],
) -> None:
    """Put into ``found`` what the ``strange`` words of a stretch say there, and into ``glued`` the places of words that
    are put together with the ones before them.

    A stretch is cut where its parts say the same as the whole. A word that is refused beside its neighbours is left
    out, unless the neighbours are refused alone: then these spoil it. The stretch is cut there.
    """
    if strange.isdisjoint(places):
        return
    alone = {at: say(written[at]) for at in places}
    together = say(" ".join(written[at] for at in places))
    if not isinstance(together, str):
        middle = (places.start + places.stop) // 2
        cuts = sorted(places[1:], key=lambda cut: abs(cut - middle))
        for cut in cuts[:MOST_CUTS]:
            parts = range(places.start, cut), range(cut, places.stop)
            said = [say(" ".join(written[part.start : part.stop])) for part in parts]
            if [word for part in said if not isinstance(part, str) for word in part] == together:
                for part in parts:
                    _write_out(written, part, strange, say, found, glued)
                return
        _share(places, strange, alone, together, found, glued)
        return
    refused = {at: ways for at, ways in alone.items() if at not in strange and isinstance(ways, str)}
    for at in strange.intersection(places):
        near = [n for n in (at - 1, at, at + 1) if n == at or (n in alone and not isinstance(alone[n], str))]
        if isinstance(ways := say(" ".join(written[n] for n in near)), str):
            own = alone[at]
            refused[at] = own if isinstance(own, str) else ways
    if not refused:
        refused = dict.fromkeys(strange.intersection(places), together)
    for at in strange.intersection(refused):
        found[at] = refused[at]
    cuts = [places.start - 1, *sorted(refused), places.stop]
    for before, behind in itertools.pairwise(cuts):
        _write_out(written, range(before + 1, behind), strange, say, found, glued)


def _share(
    places: range,
    strange: set[int],
    alone: Mapping[int, Ways],
    together: Sequence[str],
    found: list[Ways],
    glued: set[int],
) -> None:
    """Give what a stretch says ``together`` to its words: to all of them as one where a word says nothing there, or one
    that can be spelt says something else than ``alone``."""
    plain = [[] if isinstance(alone[at], str) else list(alone[at]) for at in places]
    shares = dict(zip(places, _shared(plain, together), strict=True))
    as_one = any(shares[at] != alone[at] if at not in strange else alone[at] and not shares[at] for at in places)
    if as_one:
        glued.update(places[1:])
    for at in places:
        if at in strange or as_one:
            found[at] = shares[at]


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
    if [word for words in alone for word in words] == list(together):
        return [list(words) for words in alone]
    # A written word that says nothing alone has a place all the same.
    flat = [(owner, word) for owner, words in enumerate(alone) for word in words or [""]]
    found: list[list[str]] = [[] for _ in alone]
    matcher = difflib.SequenceMatcher(None, [word for _, word in flat], together, autojunk=False)
    for _, first, last, start, stop in matcher.get_opcodes():
        for at in range(start, stop):
            place = first + (at - start) * (last - first) // (stop - start)
            found[flat[min(place, len(flat) - 1)][0]].append(together[at])
    return found
