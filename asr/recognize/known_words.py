"""The transcript of a recording whose words are known: when each was said."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from asr import decode
from asr.decode import Hypothesis
from asr.models.inference import Posteriors
from asr.recognize.engine import Engine, Span
from asr.recognize.readable import with_written
from asr.text.user_words import Reading
from asr.transcript import Transcript, Word


def aligned_transcript(
    said: Reading,
    places: Sequence[Sequence[int]],
    hypothesis: Hypothesis,
    matrix: Posteriors,
    engine: Engine,
    duration_s: float,
    name: str,
) -> Transcript:
    """The words of a text with their times, and how well text and recording fit.

    Args:
        said: the text as the model spells it.
        places: of each word its positions among the tokens.
        hypothesis: the tokens, aligned to the recording.
        matrix: log-probabilities ``(T, V)`` of the recording.
        engine: the model.
        duration_s, name: of the recording.
    """
    texts = [word.written for word in said.words]
    spans = [Span.of(hypothesis, place, text) for place, text in zip(places, texts, strict=True)]
    middles = [(before.end + after.start) // 2 for before, after in itertools.pairwise(spans)]
    aligned = Transcript(
        " ".join(texts),
        tuple(span.word(engine.frame_s, duration_s) for span in spans),
        duration_s,
        name,
        tokens=_tokens(hypothesis, engine, duration_s),
        spoken=tuple(" ".join(word.words) for word in said.words),
        left_out=said.left_out,
        gaps=said.gaps,
        mismatch=decode.mismatch(matrix, hypothesis),
        losses=tuple(decode.losses(matrix, hypothesis, middles)),
    )
    return with_written(aligned, None)


def _tokens(hypothesis: Hypothesis, engine: Engine, duration_s: float) -> tuple[Word, ...]:
    """Each token but spaces with its time and confidence."""
    tokenizer = engine.model.tokenizer
    spoken = zip(hypothesis.tokens, hypothesis.frames, hypothesis.ends, hypothesis.confidences, strict=True)
    return tuple(
        Span(tokenizer.symbol(token), start, end, p).word(engine.frame_s, duration_s)
        for token, start, end, p in spoken
        if token != tokenizer.space_id
    )
