"""Training a recurrent language model, through the same loop as the acoustic one."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr.config.language import LanguageConfig
from asr.config.ranks import processes
from asr.data import manifest
from asr.errors import ConfigError, TextError, TrainingError
from asr.files import file_lines
from asr.lm import lm_directory, perplexities
from asr.lm.recurrent import SENTENCE_BOUNDARY, LanguageNetwork
from asr.models import model_directory
from asr.models.device import HALF, pick_device, set_precision
from asr.text import tokenizer_files
from asr.text.normalisation import normalise
from asr.text.tokenizer import Tokenizer
from asr.train import loop, model_card
from asr.train.process import make_network
from asr.train.resume import CHECKPOINT, Progress

PADDING = -100
"""Target that costs nothing; torch's own convention."""
MOST_PADDED = 32_768
"""Tokens of a batch of sentences, padding among them: one sentence of thousands of words among short ones would need
gigabytes."""
BUCKET = 16
"""Batches of sentences that are sorted by length together: little padding, and still another order each epoch."""


def train_language(config: LanguageConfig, *, resume: bool = False) -> Progress:
    """Train as ``config`` says; the language model's directory is ``config.train.output``.

    With ``resume``, continue from its checkpoint if there is one. Raises ``ConfigError``, ``TextError`` (utterance or
    line named) or ``TrainingError``.
    """
    if processes()[1] > 1:
        raise TrainingError("expected one process, got several: language models train in one; start without torchrun")
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)
    folder = Path(config.train.output)
    with loop.hold(folder, config, resume=resume):
        task = LanguageTask(config)
        if task.resuming:
            model_directory.save_config(folder, config)
        else:
            lm_directory.save_lm_description(folder, config, task.tokenizer)
        return loop.fit(task, config, folder)


@dataclass(frozen=True)
class TextBatch:
    """Token ids ``inputs`` and ``targets (B, T)``, ``PADDING`` beyond a sentence; ``fresh`` rows begin a text."""

    inputs: Tensor
    targets: Tensor
    fresh: bool
    ids: tuple[str, ...] = ()

    @property
    def total_tokens(self) -> int:
        """Targets that count, ends of sentences among them."""
        return int((self.targets != PADDING).sum())


class Trainee(nn.Module):
    """The network with the state after the last batch, kept in a buffer so that checkpoints hold it."""

    def __init__(self, network: LanguageNetwork, rows: int) -> None:
        super().__init__()
        self.network = network
        self.state: Tensor
        self.register_buffer("state", network.empty_state(rows))


class LanguageTask:
    """A language model with its training and validation texts (see ``asr.train.task.Task``)."""

    criterion = "perplexity"
    trained = False
    changes: Sequence[float] = ()

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.folder = Path(config.train.output)
        self.device = pick_device(config.train.device)
        set_precision(config.train.precision)
        if not config.data.train:
            raise ConfigError("data.train: expected the path of a text, got nothing")
        texts = read_texts(config.data.train)
        self.resuming = os.path.exists(self.folder / CHECKPOINT)
        self.origin = model_card.new_origin()
        if self.resuming:
            # The ids of the run so far, even if the text has changed.
            self.tokenizer = tokenizer_files.load_tokenizer(self.folder / "tokens.txt", config.text)
        elif config.data.tokens:
            self.tokenizer = tokenizer_files.load_tokenizer(config.data.tokens, config.text)
        else:
            self.tokenizer = tokenizer_files.tokenizer_from_texts(texts.values(), config.text)
        self.sentences = encode(texts, self.tokenizer)
        self.held_out: dict[str, str] = {}
        if config.data.valid:
            self.held_out = {name: normalise(t, config.text) for name, t in read_texts(config.data.valid).items()}
            encode(self.held_out, self.tokenizer)  # a text that cannot be spelt is named now, not after an epoch
        network = make_network(lambda: LanguageNetwork(config.model, self.tokenizer.vocab_size))
        trainee = Trainee(network, config.data.batch)
        self.trainee = trainee.to(self.device)
        self.network: nn.Module = self.trainee
        self.rate_factors: dict[str, float] = {}

    @functools.cached_property
    def data_key(self) -> str:
        """Checksum of the training sentences."""
        return model_card.training_checksum([list(map(int, tokens)) for tokens in self.sentences])

    def plan(self, epoch: int, span: Sequence[float] = ()) -> list[list[int]]:
        """Sentences of each batch; or, of running text, the batch's number, since all share one order."""
        order = self._order(epoch)
        size = self.config.data.batch
        if self.config.data.bptt:
            return [[at] for at in range(math.ceil((self._stream_length() - 1) / self.config.data.bptt))]
        buckets = [order[at : at + size * BUCKET] for at in range(0, len(order), size * BUCKET)]
        batches = []
        for bucket in buckets:
            by_length = sorted(bucket, key=lambda index: len(self.sentences[index]))
            for batch in (by_length[at : at + size] for at in range(0, len(by_length), size)):
                rows = max(1, MOST_PADDED // (len(self.sentences[batch[-1]]) + 1))
                batches += [batch[at : at + rows] for at in range(0, len(batch), rows)]
        shuffled = np.random.default_rng((self.config.train.seed, epoch, 1)).permutation(len(batches))
        return [batches[at] for at in shuffled]

    def batches(self, plan: Sequence[list[int]], epoch: int) -> Iterator[TextBatch]:
        if not self.config.data.bptt:
            for indices in plan:
                yield pad([self.sentences[index] for index in indices])
            return
        streams, length = self._streams(epoch), self.config.data.bptt
        for (number,) in plan:
            chunk = streams[:, number * length : (number + 1) * length + 1]
            yield TextBatch(chunk[:, :-1], chunk[:, 1:], fresh=number == 0)

    def loss(self, batch: TextBatch) -> Tensor:
        """Negative log-likelihood of the batch, in nats, summed over its targets."""
        trainee = self.trainee
        rows = len(batch.inputs)
        state = trainee.network.empty_state(rows) if batch.fresh else trainee.state[:rows].clone()
        half = HALF.get(self.config.train.precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            log_probs, state = trainee.network(batch.inputs.to(self.device), state)
        trainee.state[:rows] = state.detach()
        targets = batch.targets.flatten().to(self.device)
        return nn.functional.nll_loss(log_probs.flatten(0, 1).float(), targets, reduction="sum")

    def audio_s(self, batch: TextBatch) -> float:
        return 0.0

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Perplexity per token, word and character of the held-out text; nothing where there is none."""
        if not self.held_out:
            return {}
        assert isinstance(network, Trainee)
        figures = perplexities.network_perplexity(network.network, self.tokenizer, list(self.held_out.values()))
        return {"perplexity": figures.token, "word_perplexity": figures.word, "char_perplexity": figures.char}

    def rank(self, figures: dict[str, float]) -> tuple[float, ...]:
        return (figures["perplexity"],)

    def save_weights(self, network: nn.Module, figures: dict[str, float], progress: dict[str, float]) -> None:
        assert isinstance(network, Trainee)
        model_directory.save_weights(self.folder, network.network, self.card(figures, progress))

    def card(self, figures: dict[str, float], progress: dict[str, float]) -> dict[str, Any]:
        """What this model is and where it comes from, for ``card.json``."""
        return model_card.card_head(self.origin, self.trainee.network) | {
            "training_data": {
                "text": self.config.data.train,
                "sentences": len(self.sentences),
                "tokens": sum(len(s) for s in self.sentences),
            },
            "training": {**progress, "seed": self.config.train.seed, "torch": torch.__version__},
            "validation": figures,
        }

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = (
            np.random.default_rng((self.config.train.seed, epoch)).permutation(len(self.sentences)).tolist()
        )
        return order

    def _stream_length(self) -> int:
        total = 1 + sum(len(sentence) + 1 for sentence in self.sentences)
        return max(2, total // self.config.data.batch)

    def _streams(self, epoch: int) -> Tensor:
        """All sentences with boundaries, as ``batch`` streams side by side: a file's sentences stay in their order,
        which running text needs, and each epoch begins at another of them."""
        first = self._order(epoch)[0]
        text = [SENTENCE_BOUNDARY]
        for sentence in self.sentences[first:] + self.sentences[:first]:
            text += [*sentence, SENTENCE_BOUNDARY]
        size, length = self.config.data.batch, self._stream_length()
        repeated = np.resize(np.array(text), size * length)  # a text shorter than the streams goes round
        return torch.from_numpy(repeated.reshape(size, length))


def pad(sentences: Sequence[Sequence[int]]) -> TextBatch:
    """Sentences as one batch, a boundary before and after each."""
    length = max(len(sentence) for sentence in sentences) + 1
    inputs = torch.full((len(sentences), length), SENTENCE_BOUNDARY)
    targets = torch.full((len(sentences), length), PADDING)
    for row, sentence in enumerate(sentences):
        ids = torch.tensor(sentence, dtype=torch.int64)
        inputs[row, 1 : len(sentence) + 1] = ids
        targets[row, : len(sentence)] = ids
        targets[row, len(sentence)] = SENTENCE_BOUNDARY
    return TextBatch(inputs, targets, fresh=True)


def read_texts(path: str) -> dict[str, str]:
    """Sentences by name: the texts of a manifest (``.jsonl``) by id, or the lines of a text file by number."""
    if path.endswith(".jsonl"):
        return {utterance.id: utterance.text for utterance in manifest.read_manifest(path)}
    try:
        lines = file_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot read the text: {error}") from error
    texts = {f"{path}:{number}": line for number, line in enumerate(lines, start=1) if line.strip()}
    if not texts:
        raise TrainingError(f"{path}: expected a sentence on each line, got none")
    return texts


def encode(texts: dict[str, str], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each text. Raises ``TextError`` naming the first that cannot be spelt."""
    try:
        return [tokenizer.encode(text, name) for name, text in texts.items()]
    except TextError as error:
        raise TextError(f"{error} (tokens must be the acoustic model's)") from error
