"""Fits what says whether a transcript is reliable: held-out speech against sound that is not the model's language."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asr.audio import find
from asr.audio.samples import Samples
from asr.data import distort, manifest
from asr.data.archived_utterances import read_utterances
from asr.decode.judgement import EVIDENCE, FrameSums, Judge, fit_weights, frame_sums
from asr.errors import AudioError, ManifestError
from asr.evaluation.calibration import FOLDS
from asr.recognize.option_sources import text_conditions
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording
from asr.scoring import wer
from asr.scoring.rules import LITERAL_RULES

FALSE_ALARMS = 0.02
"""Share of well recognised utterances that may be called unreliable."""
GOOD_WER = 0.5
"""At most this error rate is well recognised."""
MARGIN = 1.0
"""In the logit: how far below the least reliable of well recognised utterances words are dropped."""
MOST_UTTERANCES, MOST_PIECES, MOST_IN_A_FILE = 1000, 2000, 20
LEAST = 20
"""Utterances, and pieces with words, without which nothing can be fitted."""
SHORT_S, LONG_S = 1.0, 20.0
"""Bounds of a piece."""
MADE_S = 30.0
"""Length of each sound that is made: noises, a hum, silence."""


@dataclass(frozen=True)
class HeardSound:
    """A sound that was recognised: where it comes from, the sums of its posteriors and its number of words.

    ``errors``: error rate of held-out speech; None for what is not speech of the model. ``fold``: equal for the
    versions of one utterance, 0 to ``FOLDS - 1``.
    """

    kind: str
    fold: int
    duration_s: float
    sums: FrameSums
    words: int
    errors: float | None = None


@dataclass(frozen=True)
class KindFigures:
    """How examples of a kind were judged: all, those with words, those of them below the threshold and below silence,
    words for each hour, and words for each hour after the least reliable ones were dropped."""

    kind: str
    examples: int
    with_words: int
    unreliable: int
    dropped: int
    words_per_h: float
    left_per_h: float


@dataclass(frozen=True)
class JudgeFit:
    """A judge, with figures that are cross-validated: each example is judged by a fit to others."""

    judge: Judge
    good: int
    alarms: int
    utterances: int
    kinds: tuple[KindFigures, ...] = field(default=())
    decoded: JudgeFit | None = None
    """The fit of ``judge.decoded``, which knows the text as well."""

    def summary(self) -> str:
        """Lines for people."""
        kind = "reliability" if self.judge.fitted_for is None else "reliability with the text"
        head = (
            f"{kind}: {self.good} of {self.utterances} utterances (as they are, by telephone, clipped) with WER "
            f"up to {100 * GOOD_WER:g} %, {100 * self.alarms / self.good:.1f} % of them called unreliable; threshold "
            f"{self.judge.threshold:.3f}, words dropped below {self.judge.silence:.4f}"
        )
        lines = [
            f"  {k.kind:<12}{k.unreliable} of {k.with_words} with words called unreliable ({k.examples} in all); "
            f"{k.words_per_h:.0f} words an hour, {k.left_per_h:.0f} after dropping"
            for k in self.kinds
        ]
        return "\n".join([head, *lines, *([self.decoded.summary()] if self.decoded else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fit_judge(
    path: str | Path, recognizer: Recognizer, foreign: Sequence[str | Path], root: str | Path | None = None
) -> JudgeFit:
    """Fit a judge to a manifest of held-out speakers and to folders of sound that is not the model's language.

    Args:
        path: manifest. Each utterance is also taken through a telephone line and clipped.
        recognizer: decodes as its options say.
        foreign: folders of other languages and music. Files are cut into pieces as long as the utterances. The folder
            just below (``foreign/music/x.wav``) names the kind. Noise, a hum and silence are made here.

    Raises ``ManifestError`` or ``AudioError`` where there is too little of either.
    """
    utterances = read_utterances(path, root)
    rng = np.random.default_rng(1)
    if len(utterances) > MOST_UTTERANCES:
        utterances = [utterances[i] for i in sorted(rng.choice(len(utterances), MOST_UTTERANCES, replace=False))]
    examples = list(_recognised(recognizer, speech(recognizer, utterances)))
    if not examples:
        raise ManifestError(f"{path}: none of {len(utterances)} utterances could be read")
    lengths_s = [e.duration_s for e in examples]
    sounds = [*sound_pieces(recognizer, foreign, lengths_s, rng), *made_sounds(recognizer.sample_rate_hz, rng)]
    examples += _recognised(recognizer, sounds)
    fit = judge_examples(examples)
    if recognizer.decoder.options.beam == 1:
        return fit
    other = judge_examples(examples, fitted_for=text_conditions(recognizer.decoder.options))
    return replace(fit, judge=replace(fit.judge, decoded=other.judge), decoded=other)


def judge_examples(examples: Sequence[HeardSound], fitted_for: Mapping[str, Any] | None = None) -> JudgeFit:
    """Fit a judge to examples that were recognised, to their posteriors alone, or also to the gaps of texts that were
    decoded with the options ``fitted_for``. Raises ``ManifestError`` where there are too few of a kind."""
    known = [e for e in examples if e.words]
    good = np.array([e.errors is not None and e.errors <= GOOD_WER for e in known])
    strange = np.array([e.errors is None for e in known])
    if good.sum() < LEAST or strange.sum() < LEAST:
        raise ManifestError(
            f"expected at least {LEAST} utterances with a WER up to {100 * GOOD_WER:g} %, and {LEAST} pieces of other "
            f"sound with words, got {good.sum()} and {strange.sum()}; use more speech, or more languages and music"
        )
    # Without gaps: a judge of posteriors holds for every search.
    features = np.stack([e.sums.features() for e in known])[:, : len(EVIDENCE) - (fitted_for is None)]
    # Speech that is recognised badly is neither: it must not pull the border to the good.
    shares = good / good.sum() + strange / strange.sum()
    shares *= min(good.sum(), strange.sum())
    folds = np.array([e.fold for e in known])
    used = shares > 0
    weights, bias = fit_weights(features[used], good[used], shares[used])
    for name in ("spoken", "gap"):
        if weights.get(name, 0.0) > 0:
            # Length must never speak for a text: a long piece of music is not more reliable than a short one.
            features[:, EVIDENCE.index(name)] = 0.0
            weights, bias = fit_weights(features[used], good[used], shares[used])
    crossed = np.zeros(len(known))
    for fold in range(FOLDS):
        other = (folds != fold) & used
        if good[other].any() and strange[other].any():
            judge = Judge(*fit_weights(features[other], good[other], shares[other]), 0.0)
        else:
            judge = Judge(weights, bias, 0.0)
        for at in np.flatnonzero(folds == fold):
            crossed[at] = judge.apply(known[at].sums)
    threshold = float(np.sort(crossed[good])[math.floor(FALSE_ALARMS * good.sum())])
    least = float(crossed[good].min())
    silence = least / (least + (1 - least) * math.exp(MARGIN))
    judge = Judge(weights, bias, threshold, min(silence, threshold), fitted_for)
    alarms = int((crossed[good] < threshold).sum())
    judged = dict(zip(map(id, known), crossed.tolist(), strict=True))
    utterances = sum(e.errors is not None for e in examples)
    return JudgeFit(judge, int(good.sum()), alarms, utterances, tuple(_figures(examples, judge, judged)))


def _figures(examples: Sequence[HeardSound], judge: Judge, judged: dict[int, float]) -> Iterator[KindFigures]:
    for kind in dict.fromkeys(e.kind for e in examples):
        own = [e for e in examples if e.kind == kind]
        spoken = [e for e in own if e.words]
        hours = sum(e.duration_s for e in own) / 3600
        below = [e for e in spoken if judged[id(e)] < judge.threshold]
        dropped = [e for e in spoken if judged[id(e)] < judge.silence]
        words, gone = (sum(e.words for e in part) for part in (own, dropped))
        yield KindFigures(kind, len(own), len(spoken), len(below), len(dropped), words / hours, (words - gone) / hours)


_Sound = tuple[str, int, Samples, str | None]
"""Kind, fold, samples at the model's rate, reference."""


def speech(recognizer: Recognizer, utterances: Sequence[manifest.Utterance]) -> Iterator[_Sound]:
    """Utterances as they are, through a telephone line (300 to 3400 Hz, mu-law), and clipped at a tenth of their
    samples; unreadable ones are left out."""
    rate = recognizer.sample_rate_hz
    for utterance in tqdm(utterances, "held-out speech", disable=None, leave=False):
        fold = zlib.crc32((utterance.speaker or utterance.id).encode()) % FOLDS
        reference = recognizer.model.tokenizer.reference(utterance.text)
        try:
            samples = Recording.of(utterance).samples(rate)
        except AudioError:
            continue
        yield "speech", fold, samples, reference
        if rate > 2 * 3400:
            yield "telephone", fold, distort.mu_law(distort.limit_band(samples, rate, telephone=True)), reference
        yield "clipped", fold, distort.clip(samples, 0.1), reference


def sound_pieces(
    recognizer: Recognizer, folders: Sequence[str | Path], lengths_s: Sequence[float], rng: np.random.Generator
) -> Iterator[_Sound]:
    """The recordings of folders in pieces with lengths drawn from ``lengths_s``.

    Raises ``AudioError`` for a folder without audio and a file that cannot be read.
    """
    rate, count = recognizer.sample_rate_hz, 0
    for folder in folders:
        found = find.find_audio_files(folder)
        if not found:
            raise AudioError(f"{folder}: no audio file in this folder")
        for path in tqdm(found, "other sound", disable=None, leave=False):
            parts = path.relative_to(folder).parts
            kind = parts[0] if len(parts) > 1 else Path(folder).name
            samples, at = Recording.of(path).samples(rate), 0
            fold = zlib.crc32(path.name.encode()) % FOLDS
            for _ in range(MOST_IN_A_FILE):
                size = round(float(np.clip(rng.choice(lengths_s), SHORT_S, LONG_S)) * rate)
                piece = samples[at : at + size]
                if len(piece) < SHORT_S * rate or count == MOST_PIECES:
                    break
                yield kind, fold, piece, None
                at, count = at + size, count + 1


def made_sounds(rate_hz: int, rng: np.random.Generator) -> Iterator[_Sound]:
    """White, pink and brown noise from -60 to -10 dB, a hum of 50 Hz, silence with and without the last bit."""
    size = round(MADE_S * rate_hz)
    for slope in (0.0, 1.0, 2.0):
        for level_db in range(-60, 0, 10):
            noise = distort.coloured_noise(size, slope, rng)
            noise = noise / max(1e-9, float(np.sqrt(np.square(noise).mean()))) * 10 ** (level_db / 20)
            yield "noise", level_db // 10 % FOLDS, noise.clip(-1, 1).astype(np.float32), None
    times = np.arange(size) / rate_hz
    yield "hum", 0, (0.05 * np.sign(np.sin(2 * np.pi * 50 * times))).astype(np.float32), None
    yield "silence", 0, np.zeros(size, np.float32), None
    yield "silence", 1, (rng.integers(-1, 2, size) / 32768).astype(np.float32), None


def _recognised(recognizer: Recognizer, sounds: Iterator[_Sound] | Sequence[_Sound]) -> Iterator[HeardSound]:
    """Decode one sound after the other, so that little memory is needed for any number of sounds."""
    for kind, fold, samples, reference in sounds:
        log_probs, frames = recognizer.log_probs([samples])
        best = recognizer.decoder.decode(log_probs, frames)[0]
        text = recognizer.decoder.text(best.tokens)
        sums = frame_sums(log_probs, frames, recognizer.decoder.options.blank_penalty)[0]
        if math.isfinite(best.score):
            sums = replace(sums, gap=sums.best - (best.score - best.lm_score))
        errors = None
        if reference is not None:
            report = wer.score({"u": reference}, {"u": text}, LITERAL_RULES)
            errors = report.errors / max(1, report.words)
        yield HeardSound(kind, fold, len(samples) / recognizer.sample_rate_hz, sums, len(text.split()), errors)
