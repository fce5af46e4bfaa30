"""Readable text: case, punctuation and digits for words as they were spoken, while they arrive.

A tagger (``asr.recognize.readable_model``) gives each word its case and mark; rules write numbers
(``asr.text.number_words``). A word is decided when the tagger has seen ``lookahead`` more words and, beside a number,
the rules ``CONTEXT`` more. What is decided never changes, and a text that arrives in pieces becomes what the whole
becomes: a pass over one word and one over many round alike but for the last digits of a logit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.recognize.readable_model import Floats, ReadableModel
from asr.text.number_words import CONTEXT, is_number_word, write_numbers
from asr.text.written_tags import END_MARKS, TAG_CASES, TAG_MARKS
from asr.transcript import Transcript, Word

NO_MARK = 0.5
"""What the probability of no mark is multiplied by: chosen for the F1 of marks on validation texts, since a word is
most often followed by none, and an uncertain tagger would set too few."""
LONGEST_NUMBER = 40
"""Words that are awaited until a number ends; a longer one stays in words."""
READ_AT_ONCE = 500
"""Words of a text that the tagger reads in one pass; more would take memory, and are no faster."""
WRITTEN_TITLES = {"mister": "Mr.", "missus": "Mrs.", "missis": "Mrs.", "doctor": "Dr."}
"""Written so before a name."""
ALWAYS_CAPITAL = frozenset(("i", "i'm", "i'll", "i've", "i'd"))


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return result


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
        self._at_end = False
        """Whether the tagger has read the text's end."""
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
        for at in range(0, len(words), READ_AT_ONCE):
            part = words[at : at + READ_AT_ONCE]
            self._read(part, [word.lower() for word in part])

    def finish(self) -> list[WrittenPiece]:
        """Decide the rest: the pieces of the whole text."""
        if self.accepted and not self._at_end:
            self._read((), self.model.text_end)
            self._at_end = True
        self._decide(last=True)
        return self.pieces

    def take_text(self, words: Sequence[str], logits: Floats) -> None:
        """Take a whole text that the tagger has read to its end: logits ``(words + lookahead, 9)``."""
        self._take(words, logits[: len(words)])
        self._take((), logits[len(words) :])
        self._at_end = True

    def text(self) -> str:
        """The pieces, with spaces between."""
        return " ".join(piece.text for piece in self.pieces)

    def guess(self, more: Sequence[str] = ()) -> str:
        """``text`` with the words that are not decided, and ``more`` that are not accepted, as plain small letters."""
        rest = [word.lower() for word in (*self.accepted[self.decided :], *more)]
        if rest and self._starts:
            rest[0] = _capital(rest[0])
        return " ".join([piece.text for piece in self.pieces] + rest)

    def _read(self, words: Sequence[str], read: Sequence[str | None]) -> None:
        logits, states = self.model.run([read], [self._state])
        self._state = states[0]
        self._take(words, logits[0])

    def _take(self, words: Sequence[str], logits: Floats) -> None:
        """Accept words, and tag those of the text that logits ``(steps, 9)`` are of.

        There is a step for each word, or for each ``None`` behind the text.
        """
        self.accepted += words
        cases, marks = _softmax(logits[:, : len(TAG_CASES)]), _softmax(logits[:, len(TAG_CASES) :])
        for of_case, of_mark in zip(cases, marks, strict=True):
            self._seen += 1
            at = self._seen - 1 - self.model.description.lookahead
            if at < 0:
                continue
            case, mark = self._tag(of_case, of_mark)
            spoken = self.accepted[at]
            self._pending.append(_Tagged(spoken, spoken.lower(), case, mark))
            if words:
                self._decide()

    def _tag(self, cases: Floats, marks: Floats) -> tuple[str, str]:
        """The case and mark of the next word from their probabilities, which are changed."""
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
    if writer is None:
        return all_with_written([transcript], model)[0]
    if transcript.spoken:
        return _as_listed(transcript)
    return _with_pieces(transcript, writer)


def all_with_written(transcripts: Sequence[Transcript], model: ReadableModel | None) -> list[Transcript]:
    """``with_written`` of several transcripts, which the tagger reads side by side: that is faster."""
    made = [_as_listed(one) if one.spoken else one for one in transcripts]
    rows = [row for row, one in enumerate(transcripts) if not one.spoken]
    if model is None or not rows:
        return made
    for row, writer in zip(rows, write_texts(model, [[w.text for w in made[row].words] for row in rows]), strict=True):
        made[row] = _with_pieces(made[row], writer)
    return made


def write_texts(model: ReadableModel, texts: Sequence[Sequence[str]]) -> list[ReadableWriter]:
    """Writers that have accepted the words of whole texts."""
    writers = [ReadableWriter(model) for _ in texts]
    beside = []
    for writer, words in zip(writers, texts, strict=True):
        if len(words) > READ_AT_ONCE:
            writer.accept(words)
        elif words:
            beside.append((writer, words))
    if not beside:
        return writers
    read = [[*(word.lower() for word in words), *model.text_end] for _, words in beside]
    logits, _ = model.run(read, [model.start()] * len(read))
    for (writer, words), rows in zip(beside, logits, strict=True):
        writer.take_text(words, rows)
    return writers


def _as_listed(transcript: Transcript) -> Transcript:
    """The words have the spelling of a text or list."""
    return dataclasses.replace(transcript, written=transcript.text, written_words=transcript.words)


def _with_pieces(transcript: Transcript, writer: ReadableWriter) -> Transcript:
    written = written_words(writer.finish(), transcript.words)
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
