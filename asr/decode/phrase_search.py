"""A closed list of phrases: the probability of each, and the likeliest as the answer.

Where each recording is one of a list of phrases (commands, digits, names), no search is needed. The probability of a
phrase is the sum over all its CTC paths (the forward variable of Graves et al. 2006). Scores of several models, or of
several playing speeds, are combined phrase by phrase, even where the models' tokens differ. A prefix beam search keeps
the best prefixes frame by frame and may lose the phrase that is best as a whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.decode.alignment import align
from asr.decode.hypothesis import Hypothesis
from asr.decode.posteriors import BLANK, Lengths, Matrix, as_batch, check_normalised, next_frames
from asr.errors import DecodeError, TextError
from asr.files import read_limited, split_lines
from asr.text.tokenizer import LARGEST_LIST, Tokenizer, token_ids
from asr.text.user_words import Said, whole_reading

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Phrase:
    """A phrase as in a hypothesis, token ids of each spelling, its line in the list, the spoken form of each word."""

    text: str
    spellings: tuple[tuple[int, ...], ...]
    line: str = ""
    said: tuple[Said, ...] = ()


def read_phrases(path: str | Path, tokenizer: Tokenizer, language: str = "en") -> list[Phrase]:
    """A phrase a line; blank lines are skipped, and what is normalised to the same text counts once.

    What the model cannot spell is written out as it is spoken in ``language`` (``asr.text.user_words``). A phrase that
    cannot be spelt even so is refused and not left out: what it means would be heard as another. Raises ``DecodeError``
    naming the file, and the line of such a phrase.
    """
    try:
        lines = split_lines(read_limited(path, LARGEST_LIST).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DecodeError(f"{path}: cannot read the phrases: {error}") from error
    found: dict[str, Phrase] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = whole_reading(line, tokenizer, language, f"{path}:{number}: {line.strip()[:60]!r}")
            text = tokenizer.reference(read.text)
            spellings = tuple(dict.fromkeys(tuple(way) for way in tokenizer.spellings(read.text)))
        except TextError as error:
            raise DecodeError(str(error)) from error
        found.setdefault(text, Phrase(text, spellings, " ".join(line.split()), read.words))
    if not found:
        raise DecodeError(f"{path}: expected a phrase on each line, got an empty file")
    return list(found.values())


def score_phrases(log_probs: Matrix, phrases: Sequence[Phrase], lengths: Lengths = None) -> Scores:
    """The probability that an utterance is a phrase and nothing else.

    Args:
        log_probs: natural log-probabilities ``(T, V)`` or ``(B, T, V)``, blank in column 0, numpy or torch.
        phrases: their spellings' probabilities add up.
        lengths: valid frames of each utterance ``(B,)``; ``None``: all ``T``.

    Returns:
        ``(B, len(phrases))`` float64 natural logarithms; ``-inf`` for a phrase that has no room in the frames.

    Raises:
        DecodeError: as ``greedy``, and for token ids that are not of this vocabulary.
    """
    batch, frames = as_batch(log_probs, lengths)
    check_normalised(batch, frames)
    ways = [
        token_ids(way, batch.shape[2], least=BLANK + 1, error=DecodeError)
        for phrase in phrases
        for way in phrase.spellings
    ]
    owners = np.array([index for index, phrase in enumerate(phrases) for _ in phrase.spellings])
    scores = np.full((len(batch), len(phrases)), -np.inf)
    if not ways:
        return scores
    trellis = _trellis(ways)
    for row, length in enumerate(frames.tolist()):
        np.logaddexp.at(scores[row], owners, _forward(batch[row, :length].astype(np.float64), *trellis))
    return scores


def _trellis(ways: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The label of each state ``(len(ways), states)`` of token sequences, and their last states ``(len(ways),)``."""
    longest = max(map(len, ways))
    # States: blank, token, blank, ..., token, blank. A shorter sequence has states behind its end that are not read.
    labels = np.full((len(ways), 2 * longest + 1), BLANK)
    for index, way in enumerate(ways):
        labels[index, 1 : 2 * len(way) : 2] = way
    return labels, np.array([2 * len(way) for way in ways])


def _forward(matrix: Scores, labels: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Scores:
    """Log-probability of each token sequence of ``_trellis`` ``(N,)`` in frames ``(T, V)``; all advance together."""
    rows = np.arange(len(labels))
    # A blank may be left out between different tokens.
    jumps = np.zeros(labels.shape, dtype=bool)
    jumps[:, 3::2] = labels[:, 3::2] != labels[:, 1:-2:2]
    alpha = np.full(labels.shape, -np.inf)
    alpha[:, 0] = 0
    for frame, row in enumerate(matrix):
        total = alpha.copy()
        if frame == 0:
            total[:, 1:2] = 0
        else:
            total[:, 1:] = np.logaddexp(total[:, 1:], alpha[:, :-1])
            total[:, 2:] = np.where(jumps[:, 2:], np.logaddexp(total[:, 2:], alpha[:, :-2]), total[:, 2:])
        alpha = total + row[labels]
    # The last token or the blank behind it; where there is no token, the one blank alone.
    scores: Scores = np.where(ends, np.logaddexp(alpha[rows, ends], alpha[rows, ends - 1]), alpha[:, 0])
    return scores


def answers(matrix: Matrix, phrases: Sequence[Phrase], scores: Scores, count: int = 1) -> list[Hypothesis]:
    """The ``count`` likeliest of the list, best first, with their times.

    Args:
        matrix: natural log-probabilities ``(T, V)`` that the times are taken from.
        phrases: ``P`` of them.
        scores: ``(P,)`` natural logarithms, as from ``score_phrases``, or one more: that of anything else.

    Returns:
        Hypotheses whose ``score`` is the phrase's and whose confidences all are its share of the probability of
        everything in ``scores``. What has no room has no place among them; where nothing has, or where anything else
        is likelier than every phrase, the first is empty.
    """
    best = scores.max(initial=-np.inf)
    if best == -np.inf:
        return [Hypothesis()]
    shares = np.exp(scores - best) / np.exp(scores - best).sum()
    found = []
    for index in np.argsort(-scores, kind="stable")[:count].tolist():
        if scores[index] == -np.inf:
            break
        if index == len(phrases):
            found.append(Hypothesis(score=float(scores[index])))
            continue
        placed = _placed(matrix, phrases[index])
        certainty = (float(shares[index]),) * len(placed.tokens)
        found.append(
            dataclasses.replace(placed, confidences=certainty, score=float(scores[index]), phrase=phrases[index].text)
        )
    return found


def _placed(matrix: Matrix, phrase: Phrase) -> Hypothesis:
    """When the tokens of the best spelling were said; one that only another speed or model has room for fills all
    frames."""
    frames = len(matrix)
    there = []
    for way in phrase.spellings:
        with contextlib.suppress(DecodeError):  # too few frames, or a token that is impossible here
            there.append(align(matrix, way))
    if there:
        return max(there, key=lambda hypothesis: hypothesis.score)
    way = phrase.spellings[0]
    return Hypothesis(way, (0,) * len(way), (frames,) * len(way), (0.0,) * len(way))


class PhraseSearch:
    """Frames as they come, with the interface of ``asr.decode.BeamSearch``; the answer is given at the end.

    ``answer`` makes hypotheses of the log-probabilities ``(T, V)`` of a whole utterance. It is not called where blank
    is the likeliest in every frame: silence between the phrases of a stream is no phrase.
    """

    def __init__(self, answer: Callable[[npt.NDArray[np.floating]], list[Hypothesis]]) -> None:
        self._answer = answer
        self.start()

    def start(self) -> None:
        """Forget everything accepted so far."""
        self._rows: list[npt.NDArray[np.floating]] = []
        self.frames = 0
        """Frames accepted so far."""

    def accept(self, log_probs: Matrix) -> None:
        """Keep the next frames ``(T, V)``, ``T`` from 0. Raises ``DecodeError`` as ``BeamSearch.accept``."""
        columns = self._rows[0].shape[1] if self._rows else None
        self._rows.append(next_frames(log_probs, columns, self.frames))
        self.frames += len(self._rows[-1])

    def hypotheses(self, nbest: int = 1) -> list[Hypothesis]:
        """The likeliest phrase of what has come so far. Raises ``DecodeError`` for another ``nbest`` than 1."""
        if nbest != 1:
            raise DecodeError(f"expected nbest 1 for a search for phrases, got {nbest}; leave nbest out")
        matrix = np.concatenate(self._rows) if self.frames else np.zeros((0, 1))
        return self._answer(matrix) if (matrix.argmax(axis=1) != BLANK).any() else [Hypothesis()]

    def partial(self) -> tuple[Hypothesis, int]:
        """Nothing: which phrase it is shows at its end."""
        return Hypothesis(), 0

    def finish(self, nbest: int = 1) -> list[Hypothesis]:
        """``hypotheses``, then ``start``."""
        result = self.hypotheses(nbest)
        self.start()
        return result
