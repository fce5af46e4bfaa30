"""Network, features and decoder of a model, shared by recognizers and streams."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from asr.audio.samples import Samples, as_mono
from asr.config.loader import as_number
from asr.decode import Hypothesis
from asr.decode.confidence import NBEST, agreeing_share
from asr.decode.judgement import FrameSums, frame_sums
from asr.errors import AudioError, ConfigError
from asr.models.bundled import readable_folder
from asr.models.inference import Counts, Fetch, LoadedModel, Posteriors
from asr.recognize.decoder import Decoder
from asr.recognize.loading import GraphModel
from asr.recognize.option_sources import confidences
from asr.recognize.options import Decoding, load_chunks, load_options
from asr.recognize.readable import with_written
from asr.recognize.readable_model import load_readable
from asr.recognize.vocabulary import Vocabulary
from asr.text.tokenizer import Tokenizer
from asr.text.user_words import as_written
from asr.transcript import Alternative, Transcript, Word

BATCH_S = {"cpu": 90.0, "cuda": 800.0}
"""Seconds of padded audio in one forward pass, by device. On a CPU larger batches are no faster."""

Part: TypeAlias = "tuple[Transcript, FrameSums | None]"
"""An utterance of a recording, and the sums of its posteriors."""


class Engine:
    """A model ready to run: network, features, decoder, and calibration of its confidences.

    Args:
        model: a loaded model directory or an exported model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoding: how to decode; by default as the model directory says, else greedily.
        precision: what ``log_probs`` computes the network in: ``fp32``, strictly, or ``bf16`` or ``fp16`` (autocast).
        batch_s: padded seconds of audio that the network gets at once; by default ``BATCH_S`` of the device.

    Raises ``DecodeError`` or ``ModelError`` naming a language model or word that cannot be used.
    """

    also: Sequence[Engine] = ()
    """Further models that judge the same phrases."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: str = "auto",
        decoding: Decoding | None = None,
        precision: str = "fp32",
        batch_s: float | None = None,
    ) -> None:
        if batch_s is not None and not 0 < as_number(batch_s, "batch_s") < math.inf:
            raise ConfigError(f"batch_s: expected > 0 or None, got {batch_s}")
        self.model = model
        self.decoder = Decoder(decoding or load_options(model.path), model.tokenizer, isinstance(model, GraphModel))
        self.calibration, self.threshold, self.remark, self.judge = confidences(model.path, self.decoder.options)
        """See ``asr.recognize.option_sources.Confidences``."""
        self.chunks = load_chunks(model.path)
        """In which a bidirectional model streams."""
        folder = readable_folder(model.path)
        self.readable = None if folder is None else load_readable(folder)
        """What writes transcripts with case, punctuation and digits; None where the model has no tagger."""
        self.backend = model.backend(device, precision)
        """The network and its features."""
        self.batch_s = batch_s or BATCH_S["cuda" if self.backend.on_gpu else "cpu"]

    @property
    def sample_rate_hz(self) -> int:
        """The rate the model hears; other audio is resampled to it."""
        return self.model.config.features.sample_rate_hz

    @property
    def frame_s(self) -> float:
        """Seconds from one row of log-probabilities to the next."""
        return self.model.config.output_frame_s

    def log_probs(self, waveforms: Sequence[np.ndarray]) -> tuple[Posteriors, Counts]:
        """Log-probabilities of waveforms at the model's rate, as one batch.

        Args:
            waveforms: one or more, each ``(S,)`` floats in [-1, 1] or integers.

        Returns:
            ``(B, T, V)`` float32 natural log-probabilities, blank first, and ``(B,)`` int64 valid frames.

        A batch for which there is no memory is split, and ``batch_s`` halved for those to come.

        Raises ``AudioError`` for what is no sound, as ``asr.audio.read.load_audio`` for arrays, and for one waveform
        that is too long for the memory.
        """
        return self.begin_log_probs(waveforms)()

    def begin_log_probs(self, waveforms: Sequence[np.ndarray]) -> Fetch:
        """``log_probs`` that a GPU may still be computing: call the result, in any thread, to wait for them."""
        return self._begin([as_mono(w, f"waveform {i}", self.sample_rate_hz) for i, w in enumerate(waveforms)])

    def _begin(self, waveforms: list[Samples]) -> Fetch:
        try:
            return self.backend.begin(waveforms)
        except MemoryError as error:
            reason = str(error)
        # Outside the handler: the traceback would keep what the attempt has allocated.
        return self._begin_halves(waveforms, reason)

    def _begin_halves(self, waveforms: list[Samples], reason: str) -> Fetch:
        longest_s = max(map(len, waveforms)) / self.sample_rate_hz
        if len(waveforms) == 1:
            advice = ("use --device cpu" if self.backend.on_gpu else "free memory") + " or use a smaller model"
            raise AudioError(
                f"out of memory with one recording of {longest_s:.1f} s on {self.device}; {advice} ({reason})"
            )
        self.backend.free()
        self.batch_s = min(self.batch_s, longest_s * len(waveforms) / 2)
        print(
            f"warning: out of memory with {len(waveforms)} recordings of up to {longest_s:.1f} s; from here on batches "
            f"have {self.batch_s:.1f} s (--batch-s {self.batch_s:.1f}) ({reason})",
            file=sys.stderr,
        )
        middle = len(waveforms) // 2
        halves = [self._begin(part) for part in (waveforms[:middle], waveforms[middle:])]

        def fetch() -> tuple[Posteriors, Counts]:
            found = [half() for half in halves]
            return pad_rows([row for rows, _ in found for row in rows]), np.concatenate([counts for _, counts in found])

        return fetch

    @property
    def device(self) -> Any:
        """Where the network computes: of a model directory a ``torch.device``."""
        return self.backend.device

    @property
    def depth(self) -> int:
        """Hypotheses of a search that ``transcript`` needs."""
        return NBEST if self.calibration is not None and self.calibration.share else 1

    def transcript(
        self,
        hypotheses: Sequence[Hypothesis],
        duration_s: float,
        source: str = "",
        vocabulary: Vocabulary | None = None,
        sums: FrameSums | None = None,
        decoder: Decoder | None = None,
    ) -> Transcript:
        """The best of a search's hypotheses as a transcript, with calibrated confidences where the model has them.

        ``vocabulary``: that of the search, where it has other hot words than the options. ``sums``: of the posteriors,
        which say whether the transcript is reliable; without words where they are not like speech. ``decoder``: that of
        the search, where it is another; fitted confidences do not hold for it.
        """
        made = self._calibrated(hypotheses, duration_s, source, vocabulary, decoder or self.decoder)
        return self.judged(made, sums)

    def alternatives(
        self, hypotheses: Sequence[Hypothesis], made: Transcript, count: int, vocabulary: Vocabulary, decoder: Decoder
    ) -> tuple[Alternative, ...]:
        """Up to ``count`` hypotheses with different texts, best first: ``made``, which is the transcript of the first,
        and others. Arguments as for ``transcript``."""
        found: dict[str, tuple[Transcript, float]] = {}
        for hypothesis in hypotheses:
            one = made
            if found:
                one = self._calibrated([hypothesis], made.duration_s, made.source, vocabulary, decoder, fitted=False)
                one = with_written(one, self.readable)
            text, score = one.text, hypothesis.score
            if text in found:  # two spellings of the same words
                found[text] = found[text][0], float(np.logaddexp(found[text][1], score))
            elif len(found) < count:
                found[text] = one, score
        total = np.logaddexp.reduce([score for _, score in found.values()])
        return tuple(Alternative(one, math.exp(score - total)) for one, score in found.values())

    def judged(self, made: Transcript, sums: FrameSums | None, *, drop: bool = True) -> Transcript:
        """A transcript with what the model's judge, or else its threshold, says of it.

        ``drop``: without words where they are below the judge's ``silence``.
        """
        if not made.words:
            return made
        if self.judge is None or sums is None:
            reliable = None if self.threshold is None else not made.doubt
            return dataclasses.replace(made, reliable=reliable)
        judge = self.judge.of(sums)
        found, least = judge.apply(sums), judge.threshold
        if drop and found < judge.silence:
            made = dataclasses.replace(made, text="", words=(), spoken=())
        return dataclasses.replace(made, reliable=found >= least, reliability=found, least_reliability=least)

    def whole(self, made: Transcript, parts: Sequence[Part]) -> Transcript:
        """A transcript of several utterances, judged by those with words, else by those whose words were dropped."""
        acoustic = [part.acoustic_score for part, _ in parts if part.acoustic_score is not None]
        language = [part.lm_score for part, _ in parts if part.lm_score is not None]
        if acoustic and len(acoustic) == len(parts):
            made = dataclasses.replace(made, acoustic_score=sum(acoustic), lm_score=sum(language))
        if made.words:
            found = [sums for part, sums in parts if part.words and sums is not None]
            return self.judged(made, sum(found[1:], found[0]) if found else None, drop=False)
        dropped = [part for part, _ in parts if part.reliability is not None]
        if not dropped:
            return made
        best = max(dropped, key=lambda part: part.reliability or 0.0)
        return dataclasses.replace(
            made, reliable=False, reliability=best.reliability, least_reliability=best.least_reliability
        )

    def sums(self, log_probs: Posteriors, lengths: Counts | None = None) -> list[FrameSums | None]:
        """What ``judged`` needs of each row of posteriors ``(B, T, V)``, or of one ``(T, V)``; None without a judge."""
        if self.judge is None:
            return [None] * (len(log_probs) if log_probs.ndim == 3 else 1)
        return list(frame_sums(log_probs, lengths, self.decoder.options.blank_penalty))

    def with_gap(
        self,
        sums: FrameSums | None,
        best: Hypothesis,
        vocabulary: Vocabulary | None = None,
        decoder: Decoder | None = None,
    ) -> FrameSums | None:
        """``sums`` with the gap of what was decoded from the same rows, where the judge has a fit for it.

        Arguments as for ``transcript``: a search with other hot words or phrases has none.
        """
        if sums is None or self.judge is None or self.judge.decoded is None or not math.isfinite(best.score):
            return sums
        if decoder not in (None, self.decoder) or not (vocabulary is None or vocabulary is self.decoder.vocabulary):
            return sums
        return dataclasses.replace(sums, gap=sums.best - (best.score - best.lm_score))

    def _calibrated(
        self,
        hypotheses: Sequence[Hypothesis],
        duration_s: float,
        source: str,
        vocabulary: Vocabulary | None,
        decoder: Decoder,
        *,
        fitted: bool = True,
    ) -> Transcript:
        best = hypotheses[0]
        texts = (vocabulary or decoder.vocabulary).texts(best.tokens)
        # The same phones may be those of several phrases: what was chosen counts, not what they are read as.
        phrase = decoder.phrase_of.get(best.phrase)
        if phrase and len(phrase.text.split()) == len(texts):
            texts = phrase.text.split()
        made = make_transcript(best, self.model.tokenizer, self.frame_s, duration_s, source, texts)
        made = dataclasses.replace(made, threshold=self.threshold)
        if phrase and sum(len(one.words) for one in phrase.said) == len(texts):
            written = as_written(made.words, phrase.said)
            spoken = tuple(" ".join(one.words) for one in phrase.said)
            made = dataclasses.replace(made, text=" ".join(w.text for w in written), words=written, spoken=spoken)
        if self.calibration is None or decoder is not self.decoder or not fitted:
            return made
        words = [
            dataclasses.replace(word, confidence=self.calibration.apply(p, s), raw=word.confidence)
            for word, (_, p, s) in zip(made.words, self.evidence(hypotheses, vocabulary), strict=True)
        ]
        return dataclasses.replace(made, words=tuple(words))

    def evidence(
        self, hypotheses: Sequence[Hypothesis], vocabulary: Vocabulary | None = None
    ) -> list[tuple[str, float, float]]:
        """What confidences are made of: each word of the best hypothesis, the posterior of its least certain token,
        and the share of the hypotheses' probability that agrees (see ``asr.decode.confidence``)."""
        vocabulary = vocabulary or self.decoder.vocabulary
        lists = [spans(h, self.model.tokenizer, vocabulary.texts(h.tokens)) for h in hypotheses]
        rivals = [
            (h.score, [(x.text, x.start, x.end) for x in words]) for h, words in zip(hypotheses, lists, strict=True)
        ]
        return [
            (x.text, x.confidence, agreeing_share((x.text, x.start, x.end), rivals) if len(rivals) > 1 else 1.0)
            for x in lists[0]
        ]


def pad_rows(matrices: Sequence[Posteriors]) -> Posteriors:
    """Matrices ``(T, V)`` as one batch ``(B, T, V)``, zeros behind the shorter ones."""
    padded = np.zeros((len(matrices), max(map(len, matrices)), matrices[0].shape[1]), np.float32)
    for row, matrix in zip(padded, matrices, strict=True):
        row[: len(matrix)] = matrix
    return padded


@dataclass(frozen=True)
class Span:
    """A word or token of a hypothesis in frames ``start`` to ``end - 1``."""

    text: str
    start: int
    end: int
    confidence: float

    @classmethod
    def of(cls, hypothesis: Hypothesis, positions: Sequence[int], text: str) -> Span:
        """The tokens at ``positions`` as one word: from the first frame of the first to the last of the last, as
        certain as the least certain."""
        certainty = min(hypothesis.confidences[p] for p in positions)
        return cls(text, hypothesis.frames[positions[0]], hypothesis.ends[positions[-1]], certainty)

    def word(self, frame_s: float, duration_s: float) -> Word:
        """The same in seconds; the last frame's window may reach beyond the end of the recording."""
        return Word(
            self.text, min(self.start * frame_s, duration_s), min(self.end * frame_s, duration_s), self.confidence
        )


def spans(hypothesis: Hypothesis, tokenizer: Tokenizer, texts: Sequence[str] | None = None) -> list[Span]:
    """Words of a hypothesis, with the confidence of their least certain token; ``texts`` if they are known already."""
    places = tokenizer.words(hypothesis.tokens)
    if texts is None:
        texts = [tokenizer.decode([hypothesis.tokens[p] for p in positions]) for positions in places]
    return [Span.of(hypothesis, positions, text) for positions, text in zip(places, texts, strict=True)]


def make_transcript(
    hypothesis: Hypothesis,
    tokenizer: Tokenizer,
    frame_s: float,
    duration_s: float,
    source: str = "",
    texts: Sequence[str] | None = None,
) -> Transcript:
    """Words with times and confidences from token ids with frames; ``texts`` of the words if they are known already.

    A word lasts from the first frame of its first token to the last of its last one; its confidence is that of its
    least certain token.
    """
    words = [span.word(frame_s, duration_s) for span in spans(hypothesis, tokenizer, texts)]
    made = Transcript(" ".join(w.text for w in words), tuple(words), duration_s, source)
    if not math.isfinite(hypothesis.score):
        return made
    acoustic = hypothesis.score - hypothesis.lm_score
    return dataclasses.replace(made, acoustic_score=acoustic, lm_score=hypothesis.lm_score)
