"""``Transcript`` and ``Word``, the results of recognition (``asr.formats`` writes and reads them)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asr.files import recording_name

DOUBT_WORDS = 3
"""Fewest words whose mean confidence is meaningful: a single short command often has a low one."""


@dataclass(frozen=True)
class Word:
    """A word, when it was said (seconds from the start of the recording) and how sure the model is (0 to 1).

    ``raw``: the model's own confidence, where a calibration has replaced it.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float
    raw: float | None = None

    @property
    def own(self) -> float:
        """The model's own confidence, before any calibration."""
        return self.confidence if self.raw is None else self.raw


@dataclass(frozen=True)
class Alternative:
    """One hypothesis of an utterance, and its share of the probability of all that are listed."""

    transcript: Transcript
    share: float

    def behind(self, before: Sequence[Transcript]) -> Alternative:
        """The same with the words of earlier utterances in front."""
        words: tuple[Word, ...] = sum((t.words for t in before), ()) + self.transcript.words
        whole = dataclasses.replace(self.transcript, text=" ".join(word.text for word in words), words=words)
        if whole.written is not None:
            written_words: tuple[Word, ...] = sum((t.written_words for t in before), ()) + whole.written_words
            texts = [t.written for t in (*before, self.transcript) if t.written]
            whole = dataclasses.replace(whole, written=" ".join(texts), written_words=written_words)
        return Alternative(whole, self.share)


@dataclass(frozen=True)
class Transcript:
    """The text of one recording. ``str()`` gives the text alone.

    ``channel``: its channel, from 1; 0: the mean of all. ``reliable``: False where the text probably has little to do
    with what was said (another language, music); None where the model cannot judge that, or there are no words.
    ``reliability``: the probability that this is speech that the model recognises, where other sound is as frequent,
    and ``least_reliability`` the threshold below which a text is not reliable. Models without a fit of it judge by
    ``threshold``: the mean of the words' own confidences that a text should have.

    Words of a given text or phrase keep its spelling; ``spoken`` is then the spoken form of each (``42`` as ``FORTY
    TWO``). For an alignment, ``tokens`` are the words' tokens one by one, with times and confidences. ``left_out``
    gives the reason for each word that could not be aligned, and ``gaps`` how many of ``words`` come before it.
    ``mismatch`` is how much less likely the text is than the model's own transcript (``asr.decode.mismatch``), and
    ``losses`` are its parts, one for each word with half of the pauses beside it (``asr.decode.losses``).

    ``written`` is the text with case, punctuation and digits (``asr.recognize.readable``); None where the model has no
    tagger. ``written_words`` are its words with times: ``$25`` lasts as long as ``TWENTY FIVE DOLLARS``.

    ``acoustic_score`` and ``lm_score`` are natural logarithms: of the acoustic model's probability of the tokens (of
    the best path for greedy decoding, of all paths for a search), and what language models and bonuses added to it.
    The first includes the penalties for blank (``blank_penalty``) of a search that has them.
    Rounding differs between a stream and a whole recording, so they take no part in comparisons.
    """

    text: str
    words: tuple[Word, ...]
    duration_s: float
    source: str = ""
    tokens: tuple[Word, ...] = ()
    channel: int = 0
    spoken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    mismatch: float | None = None
    losses: tuple[tuple[float, int, int], ...] = ()
    threshold: float | None = None
    gaps: tuple[int, ...] = ()
    written: str | None = None
    written_words: tuple[Word, ...] = ()
    reliable: bool | None = None
    reliability: float | None = None
    least_reliability: float | None = None
    acoustic_score: float | None = dataclasses.field(default=None, compare=False)
    lm_score: float | None = dataclasses.field(default=None, compare=False)
    alternatives: tuple[Alternative, ...] = ()
    """The likeliest hypotheses, best first, this one being the first; empty where none were asked for."""

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words; None when there are none."""
        return sum(w.confidence for w in self.words) / len(self.words) if self.words else None

    @property
    def doubt(self) -> str:
        """A line for people where the text is not reliable: it may have little to do with what was said. Empty
        elsewhere."""
        if self.reliability is None:
            return doubt(self.source, len(self.words), sum(word.own for word in self.words), self.threshold)
        if self.reliable is not False:
            return ""
        return unreliable(self.source, len(self.words), self.reliability, self.least_reliability)

    @property
    def spoken_text(self) -> str:
        """The text as the model spells it: what is scored, and trained on."""
        return " ".join(self.spoken) if self.spoken else self.text

    def __str__(self) -> str:
        return self.text

    def as_written(self) -> Transcript:
        """The same with ``written`` as its text and words; unchanged where nothing is written."""
        if self.written is None:
            return self
        return dataclasses.replace(self, text=self.written, words=self.written_words)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in seconds. ``transcript.schema.json`` in ``asr/assets`` describes them."""
        confidence = self.confidence
        tree = {
            "format": 3,
            "source": self.source,
            "duration_s": round(self.duration_s, 3),
            "text": self.text,
            "written": self.written,
            "confidence": None if confidence is None else round(confidence, 4),
            "reliable": self.reliable,
            "reliability": None if self.reliability is None else round(self.reliability, 4),
            "words": [_plain(word) for word in self.words],
        }
        if self.channel:
            tree["channel"] = self.channel
        if self.mismatch is not None:
            tree["mismatch"] = round(self.mismatch, 3)
        if self.alternatives:
            tree["alternatives"] = [
                {"text": one.transcript.text, "share": round(one.share, 4)} for one in self.alternatives
            ]
        return tree | ({"tokens": [_plain(token) for token in self.tokens]} if self.tokens else {})


def doubt(source: str, words: int, total: float, threshold: float | None) -> str:
    """``Transcript.doubt`` of a recording with so many words, whose own confidences sum to ``total``.

    One word is a third of the evidence that three are, and two are two thirds: so much of the threshold is expected.
    """
    if not words or threshold is None:
        return ""
    threshold *= min(1.0, words / DOUBT_WORDS)
    if total / words >= threshold:
        return ""
    return _advice(source, f" (confidence {total / words:.2f}, expected {threshold:.2f} or more)")


def unreliable(source: str, words: int, reliability: float, least: float | None) -> str:
    """The line of ``Transcript.doubt`` for a recording below the least reliability, whose words may be dropped."""
    expected = "" if least is None else f", expected {least:.3f} or more"
    if not words:
        return (
            f"{source or 'audio'}: no words, because the sound is not like speech that the model knows (reliability "
            f"{reliability:.3f}{expected}): if it is speech, use a model that was trained on such speech"
        )
    return _advice(source, f" (reliability {reliability:.3f}{expected})")


def _advice(source: str, figures: str) -> str:
    return (
        f"{source or 'audio'}: the model may not know this kind of speech{figures}: check the text, or use a model "
        "that was trained on such speech; asr info shows what a model is for"
    )


def _plain(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start_s": round(word.start_s, 3),
        "end_s": round(word.end_s, 3),
        "confidence": round(word.confidence, 4),
    }


def ctm_name(source: str) -> str:
    """What a CTM calls a recording."""
    # Fields are separated by blanks, so a name with blanks would shift all of them.
    return "_".join(recording_name(source).split()) or "-"
