"""The likeliest phrase of a closed list or graph, by several models and at several speeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from asr.audio.samples import resample
from asr.decode import Hypothesis
from asr.decode.phrase_graph import Key
from asr.errors import ConfigError
from asr.models.inference import Counts, Posteriors
from asr.recognize.decoder import Decoder
from asr.recognize.engine import Engine


def check_same_phrases(first: Engine, other: Engine) -> None:
    """Raise ``ConfigError`` unless two models can score the same phrases together."""
    name, options = other.model.path, (first.decoder.options, other.decoder.options)
    if not first.decoder.closed or options[0] != options[1]:
        raise ConfigError(
            f"{name}: expected the same phrases, speeds and unknown_penalty for several models, since "
            f"their scores are combined; got {options[0]} and {options[1]}"
        )
    # The same file, but what a model's alphabet makes equal counts once.
    lines = [[phrase.line for phrase in engine.decoder.phrases] for engine in (first, other)]
    if lines[0] != lines[1]:
        odd = sorted(set(lines[0]) ^ set(lines[1]))
        raise ConfigError(
            f"{name}: expected phrases that all models can tell apart; one model spells {odd[0]!r} like another phrase"
        )


def answer(
    engines: Sequence[Engine], waveforms: Sequence[np.ndarray], first: tuple[Posteriors, Counts]
) -> list[list[Hypothesis]]:
    """The likeliest phrase for each waveform.

    Args:
        engines: one or more models with the same phrases.
        waveforms: each ``(S,)`` float32 in [-1, 1] at the first model's rate.
        first: the log-probabilities of the first model at speed 1.
    """
    decoder = engines[0].decoder
    if decoder.graph is None:
        return decoder.answers(*first, list_scores(engines, waveforms, first))
    return _graph_answers(engines, waveforms, first)


def list_scores(
    engines: Sequence[Engine], waveforms: Sequence[np.ndarray], first: tuple[Posteriors, Counts]
) -> np.ndarray:
    """Scores ``(B, P + 1)`` of the phrases of a list, see ``Recognizer.phrase_scores``; arguments as for ``answer``."""
    scores = [
        _mean_of_speeds([decoder.phrase_scores(*posteriors) for posteriors in speeds])
        for decoder, speeds in _all_posteriors(engines, waveforms, first)
    ]
    mean: np.ndarray = np.mean(scores, axis=0)
    return mean


def _graph_answers(
    engines: Sequence[Engine], waveforms: Sequence[np.ndarray], first: tuple[Posteriors, Counts]
) -> list[list[Hypothesis]]:
    """Each model finds candidates at each speed; all of them score the candidates of all."""
    own = engines[0].decoder
    everything = _all_posteriors(engines, waveforms, first)
    found = []
    for row in range(len(waveforms)):
        parts = [
            (decoder, [log_probs[row, : int(frames[row])] for log_probs, frames in speeds])
            for decoder, speeds in everything
        ]
        keys: dict[str, Key] = {}
        for decoder, matrices in parts:
            assert decoder.graph is not None
            assert own.graph is not None
            for key in itertools.chain.from_iterable(map(decoder.graph.candidates, matrices)):
                keys.setdefault(own.graph.phrase(key).text, key)
        chosen = list(keys.values())
        scores = [_mean_of_speeds([d.candidate_scores(m, chosen) for m in matrices]) for d, matrices in parts]
        found.append(own.best_candidates(parts[0][1][0], chosen, np.mean(scores, axis=0)))
    return found


def _all_posteriors(
    engines: Sequence[Engine], waveforms: Sequence[np.ndarray], first: tuple[Posteriors, Counts]
) -> list[tuple[Decoder, list[tuple[Posteriors, Counts]]]]:
    """The decoder of each model with its log-probabilities at each speed."""
    own, *others = engines
    found = [(own.decoder, _at_all_speeds(own, waveforms, first))]
    for other in others:
        rates = own.sample_rate_hz, other.sample_rate_hz
        resampled = [resample(samples, *rates) if rates[0] != rates[1] else samples for samples in waveforms]
        found.append((other.decoder, _at_all_speeds(other, resampled, other.log_probs(resampled))))
    return found


def _at_all_speeds(
    engine: Engine, waveforms: Sequence[np.ndarray], plain: tuple[Posteriors, Counts]
) -> list[tuple[Posteriors, Counts]]:
    rate = engine.sample_rate_hz
    return [
        plain if speed == 1 else engine.log_probs([resample(x, round(rate * speed), rate) for x in waveforms])
        for speed in engine.decoder.options.speeds
    ]


def _mean_of_speeds(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The logarithm of the mean probability."""
    summed: np.ndarray = np.logaddexp.reduce(scores, axis=0)
    return summed - math.log(len(scores))
