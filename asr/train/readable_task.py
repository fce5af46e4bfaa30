"""Training a tagger that gives spoken words their case and marks, through the loop of the other models.

The texts are running prose as it is printed. ``asr.text.written_tags`` turns them into spoken words with tags.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr.config.language import LanguageConfig
from asr.config.ranks import processes
from asr.errors import TrainingError
from asr.lm.lm_texts import TextReading, stream_sentences
from asr.lm.tagger import Tagger
from asr.lm.tagger_description import END, UNKNOWN, TaggerDescription, read_tagger_description, suffix_bucket
from asr.models import model_directory
from asr.models.device import HALF, pick_device, set_precision
from asr.text.written_tags import TAG_CASES, TAG_MARKS, TaggedWord, tag_words
from asr.train import loop, model_card
from asr.train.process import make_network
from asr.train.resume import CHECKPOINT, Progress

_PADDING = -100
"""Target that costs nothing; torch's own convention."""
_BUCKET = 16
"""Batches of texts that are sorted by length together."""
SENTENCES_OF_TEXT = 8
"""Sentences of one training text at most: utterances of speech are short."""
WORDS_OF_TEXT = 120
"""Words of one training text, unless its only sentence is longer."""
LEAST_MIXED = 3
"""How often a word must be written like ``McDonald`` before that spelling is learnt."""


@dataclass(frozen=True)
class TaggedTexts:
    """Texts as arrays, one word after the other.

    ``words (N,)`` int32 are indices into ``known``; ``cases`` and ``marks (N,)`` int8; text ``i`` is
    ``starts[i]:starts[i + 1]``.
    """

    known: tuple[str, ...]
    words: npt.NDArray[np.int32]
    cases: npt.NDArray[np.int8]
    marks: npt.NDArray[np.int8]
    starts: npt.NDArray[np.int64]
    mixed: dict[str, str]

    def vocabulary(self, size: int) -> tuple[str, ...]:
        """The ``size`` most frequent words, the most frequent first."""
        counts = np.bincount(self.words, minlength=len(self.known))
        order = np.argsort(-counts, kind="stable")[:size]
        return tuple(self.known[at] for at in order)


def read_tagged(paths: Sequence[str | Path], seed: int = 1) -> TaggedTexts:
    """Read prose as training texts of one to ``SENTENCES_OF_TEXT`` sentences.

    Raises ``TrainingError`` naming a file that cannot be read, or where no sentence can be used.
    """
    known: dict[str, int] = {}
    words, cases, marks, starts = _Growing(np.int32), _Growing(np.int8), _Growing(np.int8), [0]
    spellings: Counter[tuple[str, str]] = Counter()
    prose = stream_sentences(paths, TextReading(prose=True), None)
    for group in sentence_groups((sentence for text in prose for sentence in tag_words(text)), seed):
        words.extend([known.setdefault(word.word, len(known)) for word in group])
        cases.extend([word.case for word in group])
        marks.extend([word.mark for word in group])
        spellings.update((word.word, word.written) for word in group if TAG_CASES[word.case] == "mixed")
        starts.append(words.size)
    if not words.size:
        raise TrainingError(
            f"{', '.join(map(str, paths))}: expected prose with capitals and punctuation, got no sentence of that kind"
        )
    best: dict[str, str] = {}
    for (word, written), count in spellings.most_common():
        if count >= LEAST_MIXED and word not in best:
            best[word] = written
    return TaggedTexts(
        tuple(known), words.array(), cases.array(), marks.array(), np.array(starts), dict(sorted(best.items()))
    )


def sentence_groups(sentences: Iterable[list[TaggedWord]], seed: int) -> Iterator[list[TaggedWord]]:
    """Sentences as texts of one to ``SENTENCES_OF_TEXT``, drawn with ``seed``, and at most ``WORDS_OF_TEXT`` words."""
    rng = np.random.default_rng(seed)
    group: list[TaggedWord] = []
    wanted, held = int(rng.integers(1, SENTENCES_OF_TEXT + 1)), 0
    for sentence in sentences:
        if group and (held == wanted or len(group) + len(sentence) > WORDS_OF_TEXT):
            yield group
            group, wanted, held = [], int(rng.integers(1, SENTENCES_OF_TEXT + 1)), 0
        group = group + sentence
        held += 1
    if group:
        yield group


class _Growing:
    """An array that grows by pieces: a list of Python's numbers would take eight times the memory."""

    def __init__(self, kind: type[np.generic]) -> None:
        self.kind = kind
        self.size = 0
        self._parts: list[npt.NDArray[Any]] = []
        self._rest: list[int] = []

    def extend(self, values: list[int]) -> None:
        self._rest += values
        self.size += len(values)
        if len(self._rest) > 100_000:
            self._flush()

    def _flush(self) -> None:
        self._parts.append(np.array(self._rest, self.kind))
        self._rest = []

    def array(self) -> npt.NDArray[Any]:
        self._flush()
        return np.concatenate(self._parts)


def train_readable(
    texts: Sequence[str | Path],
    config: LanguageConfig,
    *,
    words: int = 20_000,
    lookahead: int = 4,
    resume: bool = False,
) -> Progress:
    """Train a tagger on prose; ``config.train.output`` becomes the folder ``readable/`` of a model directory.

    Args:
        texts: files and folders of prose with capitals and punctuation; empty lines stand between paragraphs.
        config: network (LSTM), optimiser and run; ``data.valid`` is prose that chooses the weights to keep.
        words: size of the vocabulary.
        lookahead: words that are awaited before a word is tagged.
        resume: continue from the checkpoint if there is one.

    Raises ``ConfigError`` or ``TrainingError``.
    """
    if processes()[1] > 1:
        raise TrainingError("expected one process, got several: a tagger trains in one; start without torchrun")
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)
    folder = Path(config.train.output)
    with loop.hold(folder, config, resume=resume):
        task = ReadableTask(texts, config, words, lookahead)
        if not task.resuming:
            task.description.save(folder)
        model_directory.save_config(folder, config)
        return loop.fit(task, config, folder)


@dataclass(frozen=True)
class TaggingBatch:
    """Ids and suffixes of words ``(B, T)``, targets ``(B, T)``, ``_PADDING`` where nothing is asked."""

    words: Tensor
    suffixes: Tensor
    cases: Tensor
    marks: Tensor
    ids: tuple[str, ...] = ()

    @property
    def total_tokens(self) -> int:
        """Words of the batch."""
        return int((self.cases != _PADDING).sum())


class ReadableTask:
    """A tagger with its training and validation texts (see ``asr.train.task.Task``)."""

    criterion = "loss"
    trained = False
    changes: Sequence[float] = ()

    def __init__(self, texts: Sequence[str | Path], config: LanguageConfig, words: int, lookahead: int) -> None:
        self.config = config
        self.texts = tuple(map(str, texts))
        self.folder = Path(config.train.output)
        self.device = pick_device(config.train.device)
        set_precision(config.train.precision)
        self.resuming = os.path.exists(self.folder / CHECKPOINT)
        self.origin = model_card.new_origin()
        self.tagged = read_tagged(self.texts, config.train.seed)
        if self.resuming:
            self.description = read_tagger_description(self.folder)
        else:
            vocabulary = self.tagged.vocabulary(words)
            self.description = TaggerDescription(vocabulary, lookahead, "en", self.tagged.mixed, config.model)
        self.held_out = read_tagged([config.data.valid]) if config.data.valid else None
        count = len(self.description.words)
        self.tagger = make_network(lambda: Tagger(config.model, count)).to(self.device)
        self.network: nn.Module = self.tagger
        self.rate_factors: dict[str, float] = {}

    @functools.cached_property
    def data_key(self) -> str:
        """Checksum of the training texts."""
        parts = (self.tagged.words, self.tagged.cases, self.tagged.marks, self.tagged.starts)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    def plan(self, epoch: int, span: Sequence[float] = ()) -> list[list[int]]:
        """Texts of each batch, of about the same length."""
        return _plan(self.tagged, self.config.data.batch, (self.config.train.seed, epoch))

    def batches(self, plan: Sequence[list[int]], epoch: int) -> Iterator[TaggingBatch]:
        encoder = _Encoder(self.tagged, self.description)
        yield from (encoder.batch(indices) for indices in plan)

    def loss(self, batch: TaggingBatch) -> Tensor:
        """Negative log-likelihood of cases and marks, in nats, summed over the words."""
        half = HALF.get(self.config.train.precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            return _loss(self.tagger, batch, self.device)

    def audio_s(self, batch: TaggingBatch) -> float:
        return 0.0

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Loss in nats per word, share of wrong cases and marks, of the held-out text."""
        if self.held_out is None:
            return {}
        network.eval()
        encoder, sums = _Encoder(self.held_out, self.description), np.zeros(4)
        with torch.inference_mode():
            for indices in _plan(self.held_out, self.config.data.batch, (0, 0)):
                batch = encoder.batch(indices)
                logits = _logits(network, batch, self.device)
                wrong = [
                    int(((guess.argmax(-1).cpu() != target) & (target != _PADDING)).sum())
                    for guess, target in zip(logits, (batch.cases, batch.marks), strict=True)
                ]
                sums += [float(_loss(network, batch, self.device)), *wrong, batch.total_tokens]
        loss, cases, marks = (sums[:3] / sums[3]).tolist()
        return {"loss": loss, "wrong_cases": cases, "wrong_marks": marks}

    def rank(self, figures: dict[str, float]) -> tuple[float, ...]:
        return (figures["loss"],)

    def save_weights(self, network: nn.Module, figures: dict[str, float], progress: dict[str, float]) -> None:
        card = model_card.card_head(self.origin, self.tagger) | {
            "training_data": {
                "texts": [Path(text).name for text in self.texts],
                "words": len(self.tagged.words),
            },
            "training": {**progress, "seed": self.config.train.seed, "torch": torch.__version__},
            "validation": figures,
        }
        model_directory.save_weights(self.folder, network, card, storage="int8")


class _Encoder:
    """Batches of texts for a network with another vocabulary."""

    def __init__(self, texts: TaggedTexts, description: TaggerDescription) -> None:
        ids = description.ids()
        self.texts = texts
        self.lookahead = description.lookahead
        self.ids = torch.tensor([ids.get(word, UNKNOWN) for word in texts.known])
        self.suffixes = torch.tensor([suffix_bucket(word) for word in texts.known])

    def batch(self, indices: Sequence[int]) -> TaggingBatch:
        texts, ahead = self.texts, self.lookahead
        spans = [slice(int(texts.starts[at]), int(texts.starts[at + 1])) for at in indices]
        length = max(span.stop - span.start for span in spans) + ahead
        words = torch.full((len(spans), length), END)
        suffixes = torch.zeros(len(spans), length, dtype=torch.int64)
        cases, marks = (torch.full((len(spans), length), _PADDING) for _ in range(2))
        for row, span in enumerate(spans):
            known = torch.from_numpy(texts.words[span]).long()
            words[row, : len(known)] = self.ids[known]
            suffixes[row, : len(known)] = self.suffixes[known]
            cases[row, ahead : ahead + len(known)] = torch.from_numpy(texts.cases[span])
            marks[row, ahead : ahead + len(known)] = torch.from_numpy(texts.marks[span])
        return TaggingBatch(words, suffixes, cases, marks)


def _plan(texts: TaggedTexts, size: int, seed: tuple[int, int]) -> list[list[int]]:
    lengths = np.diff(texts.starts)
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches: list[list[int]] = []
    for at in range(0, len(order), size * _BUCKET):
        bucket = order[at : at + size * _BUCKET]
        by_length = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [by_length[start : start + size].tolist() for start in range(0, len(by_length), size)]
    shuffled = np.random.default_rng((*seed, 1)).permutation(len(batches))
    return [batches[at] for at in shuffled]


def _logits(network: nn.Module, batch: TaggingBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    logits = network(batch.words.to(device), batch.suffixes.to(device))
    return logits[..., : len(TAG_CASES)], logits[..., len(TAG_CASES) : len(TAG_CASES) + len(TAG_MARKS)]


def _loss(network: nn.Module, batch: TaggingBatch, device: torch.device) -> Tensor:
    total = torch.zeros((), device=device)
    for logits, target in zip(_logits(network, batch, device), (batch.cases, batch.marks), strict=True):
        total = total + nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), target.flatten().to(device), reduction="sum"
        )
    return total
