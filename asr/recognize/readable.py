"""Readable text: case, punctuation and digits for words as they were spoken, while they arrive.

A tagger (``asr.lm.tagger``) gives each word its case and mark; rules write numbers (``asr.text.number_words``). A word
is decided when the tagger has seen ``lookahead`` more words and, beside a number, the rules ``CONTEXT`` more. What is
decided never changes, and a text that arrives in pieces becomes what the whole becomes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.errors import ModelError
from asr.lm.tagger_description import (
    END,
    UNKNOWN,
    TaggerDescription,
    read_tagger_description,
    suffix_bucket,
    tagger_shapes,
)
from asr.models.bundled import READABLE
from asr.models.tensors import load_arrays
from asr.text.number_words import CONTEXT, is_number_word, write_numbers
from asr.text.written_tags import END_MARKS, TAG_CASES, TAG_MARKS
from asr.transcript import Transcript, Word

NO_MARK = 0.5
"""What the probability of no mark is multiplied by: chosen for the F1 of marks on validation texts, since a word is
most often followed by none, and an uncertain tagger would set too few."""
LONGEST_NUMBER = 40
"""Words that are awaited until a number ends; a longer one stays in words."""
WRITTEN_TITLES = {"mister": "Mr.", "missus": "Mrs.", "missis": "Mrs.", "doctor": "Dr."}
"""Written so before a name."""
ALWAYS_CAPITAL = frozenset(("i", "i'm", "i'll", "i've", "i'd"))

Floats = npt.NDArray[np.float32]


def missing(model: Path) -> str:
    """A message for a model without a tagger: what to do."""
    return (
        f"{model}: expected a folder {READABLE}/ for written text, got none; make one with "
        f"asr train-readable TEXT {model / READABLE}, or copy that of another model of the language"
    )


@dataclass(frozen=True)
class ReadableModel:
    """A loaded tagger; its weights are float32 arrays, and nothing in it changes while it is used."""

    description: TaggerDescription
    ids: dict[str, int]
    words: Floats
    suffixes: Floats
    layers: tuple[tuple[Floats, Floats, Floats], ...]
    """Of each LSTM layer: input weights ``(4 H, I)``, recurrent weights ``(4 H, H)``, bias ``(4 H,)``."""
    output: tuple[Floats, Floats]

    def step(self, word: str | None, state: list[tuple[Floats, Floats]]) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        """Logits ``(9,)`` of cases, then marks, after one more word (None: the text's end); states of the layers."""
        if word is None:
            x = np.concatenate([self.words[END], self.suffixes[0]])
        else:
            x = np.concatenate([self.words[self.ids.get(word, UNKNOWN)], self.suffixes[suffix_bucket(word)]])
        following = []
        for (inputs, recurrent, bias), (h, c) in zip(self.layers, state, strict=True):
            take, keep, new, give = np.split(inputs @ x + recurrent @ h + bias, 4)
            c = _sigmoid(keep) * c + _sigmoid(take) * np.tanh(new)
            x = _sigmoid(give) * np.tanh(c)
            following.append((x, c))
        return self.output[0] @ x + self.output[1], following

    def start(self) -> list[tuple[Floats, Floats]]:
        """The states of the layers before the first word."""
        return [(np.zeros(r.shape[1], np.float32), np.zeros(r.shape[1], np.float32)) for _, r, _ in self.layers]


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 + 0.5 * np.tanh(0.5 * x)  # no overflow, unlike 1 / (1 + exp(-x))
    return result


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    result: Floats = powers / powers.sum()
    return result


def load_readable(folder: Path) -> ReadableModel:
    """Read a tagger's folder. Raises ``ModelError`` naming the file that is missing, damaged or does not fit."""
    description = read_tagger_description(folder)
    weights = folder / "model.safetensors"
    arrays = load_arrays(weights, tagger_shapes(description))
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ModelError(f"{weights}: {name} holds values that are not finite; get the file again")
    layers = []
    for at in range(description.network.layers):
        part = {key: arrays[f"cells.{at}.{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        layers.append((part["weight_ih"], part["weight_hh"], part["bias_ih"] + part["bias_hh"]))
    return ReadableModel(
        description,
        description.ids(),
        arrays["words.weight"],
        arrays["suffixes.weight"],
        tuple(layers),
        (arrays["output.weight"], arrays["output.bias"]),
    )


@dataclass(frozen=True)
class WrittenPiece:
    """Words ``start`` to ``stop - 1`` of a text as they are written, with the mark behind them."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class _Tagged:
    spoken: str
    word: str
    """In small letters."""
    case: str
    mark: str


class ReadableWriter:
    """Writes one text: ``accept`` words, then ``finish``. ``pieces`` are those that are decided."""

    def __init__(self, model: ReadableModel) -> None:
        self.model = model
        self.accepted: list[str] = []
        self.pieces: list[WrittenPiece] = []
        self._state = model.start()
        self._seen = 0
        """Steps of the tagger."""
        self._pending: list[_Tagged] = []
        """Words with tags that are not decided, behind ``_before``."""
        self._before: list[_Tagged] = []
        """The last two words that are decided."""
        self._end = 0.0
        """The probability that a sentence ends behind the last tagged word, where none does by its mark."""
        self._starts = True
        """Whether the next word begins a sentence."""
        self._since = 0
        """In a number that is too long: words since its last number word."""
        self._too_long = False

    @property
    def decided(self) -> int:
        """How many words the pieces are made of."""
        return self.pieces[-1].stop if self.pieces else 0

    def accept(self, words: Sequence[str]) -> None:
        """Take the next words as they were spoken, in any case."""
        for word in words:
            self.accepted.append(word)
            self._step(word.lower())

    def finish(self) -> list[WrittenPiece]:
        """Decide the rest: the pieces of the whole text."""
        for _ in range(self.model.description.lookahead if self.accepted else 0):
            self._step(None)
        self._decide(last=True)
        return self.pieces

    def text(self) -> str:
        """The pieces, with spaces between."""
        return " ".join(piece.text for piece in self.pieces)

    def guess(self, more: Sequence[str] = ()) -> str:
        """``text`` with the words that are not decided, and ``more`` that are not accepted, as plain small letters."""
        rest = [word.lower() for word in (*self.accepted[self.decided :], *more)]
        if rest and self._starts:
            rest[0] = _capital(rest[0])
        return " ".join([piece.text for piece in self.pieces] + rest)

    def _step(self, word: str | None) -> None:
        logits, self._state = self.model.step(word, self._state)
        self._seen += 1
        at = self._seen - 1 - self.model.description.lookahead
        if at < 0 or at >= len(self.accepted):
            return
        case, mark = self._tag(logits)
        spoken = self.accepted[at]
        self._pending.append(_Tagged(spoken, spoken.lower(), case, mark))
        if word is not None:
            self._decide()

    def _tag(self, logits: Floats) -> tuple[str, str]:
        """The case and mark of the next word."""
        cases, marks = _softmax(logits[: len(TAG_CASES)]), _softmax(logits[len(TAG_CASES) :])
        # A capital may be that of a sentence's first word or that of a name. Where no sentence was ended before this
        # word, the first reason does not hold, and its probability is taken off.
        cases[TAG_CASES.index("capital")] -= self._end
        ends = float(sum(marks[TAG_MARKS.index(end)] for end in END_MARKS))
        marks[0] *= NO_MARK
        mark = TAG_MARKS[int(marks.argmax())]
        self._end = 0.0 if mark in END_MARKS else ends
        return TAG_CASES[int(cases.argmax())], mark

    def _decide(self, *, last: bool = False) -> None:
        """Move what is decided from ``_pending`` to ``pieces``; all of it at the end of the text."""
        if last and self._pending and self._pending[-1].mark == ",":
            self._pending[-1] = dataclasses.replace(self._pending[-1], mark="")
        while self._pending:
            word = self._pending[0].word
            if self._too_long:
                self._since = 0 if is_number_word(word) else self._since + 1
                self._too_long = self._since < CONTEXT
                self._emit(1)
            elif is_number_word(word):
                group = self._group(last)
                if not group:
                    return
                self._write_group(group)
            elif word in WRITTEN_TITLES and len(self._pending) == 1 and not last:
                return
            else:
                self._emit(1)

    def _group(self, last: bool) -> int:
        """How many words the numbers that begin here take, if their end is known; else 0."""
        numbers = [at for at, tagged in enumerate(self._pending) if is_number_word(tagged.word)]
        end = 0
        for at in numbers:
            if at - end > CONTEXT:
                return end + 1
            end = at
        if last or len(self._pending) - 1 - end >= CONTEXT:
            return end + 1
        if len(self._pending) > LONGEST_NUMBER:
            self._too_long, self._since = True, 0
            return -1
        return 0

    def _write_group(self, group: int) -> None:
        if group < 0:
            return
        known = len(self._before)
        tagged = [*self._before, *self._pending[: group + CONTEXT]]
        numbers = write_numbers([t.word for t in tagged], [t.mark for t in tagged], known)
        at = known
        for number in numbers:
            while at < number.start:
                self._emit(1)
                at += 1
            self._emit(number.stop - number.start, number.text)
            at = number.stop
        while at < known + group:
            self._emit(1)
            at += 1

    def _emit(self, count: int, text: str = "") -> None:
        """Decide the first ``count`` pending words: one word as it is tagged, or a number's ``text``."""
        taken, self._pending = self._pending[:count], self._pending[count:]
        mark = taken[-1].mark
        text = text or self._spelling(taken[0])
        if not (mark == "." and text.endswith(".")):
            text += mark
        start = self.decided
        self.pieces.append(WrittenPiece(text, start, start + count))
        self._starts = mark in END_MARKS
        self._before = [*self._before, *taken][-2:]

    def _spelling(self, tagged: _Tagged) -> str:
        word, case = tagged.word, tagged.case
        if not any(c.isalpha() for c in word):
            return tagged.spoken
        if word in WRITTEN_TITLES and not tagged.mark and self._pending and self._pending[0].case != "lower":
            return WRITTEN_TITLES[word]
        spelt = bool(self._before) and len(self._before[-1].word) == 1 and self._before[-1].word not in "ai"
        if case == "upper" or (len(word) == 1 and (word != "a" or spelt)):  # k n a g: letters
            return word.upper()
        if case == "mixed":
            return self.model.description.mixed.get(word, _capital(word))
        return _capital(word) if case == "capital" or self._starts or word in ALWAYS_CAPITAL else word


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def with_written(
    transcript: Transcript, model: ReadableModel | None, writer: ReadableWriter | None = None
) -> Transcript:
    """``transcript`` with its written text, as the words of a phrase list are or as ``model`` writes them.

    Without a model ``written`` stays None. ``writer``: one that has accepted all of the words already.
    """
    if transcript.spoken:  # the words have the spelling of a text or list
        return dataclasses.replace(transcript, written=transcript.text, written_words=transcript.words)
    if model is None:
        return transcript
    words = transcript.words
    if writer is None:
        writer = ReadableWriter(model)
        writer.accept([word.text for word in words])
    written = written_words(writer.finish(), words)
    return dataclasses.replace(transcript, written=writer.text(), written_words=tuple(written))


def written_words(pieces: Sequence[WrittenPiece], words: Sequence[Word]) -> list[Word]:
    """Pieces of a text with the times and least confidences of the ``words`` that it is made of."""
    written = []
    for piece in pieces:
        parts = words[piece.start : piece.stop]
        raws = [part.raw for part in parts if part.raw is not None]
        least = min(part.confidence for part in parts)
        written.append(
            Word(piece.text, parts[0].start_s, parts[-1].end_s, least, min(raws) if len(raws) == len(parts) else None)
        )
    return written
