"""What a training from shards does before its first step: finds them, makes the tokenizer, names what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from asr.config.sections import Config
from asr.data.shard_set import ShardSet, refuse_mixture
from asr.data.sharded_batches import ShardedDataset
from asr.errors import TrainingError
from asr.text import tokenizer_files
from asr.text.tokenizer import Tokenizer
from asr.train.distributed import World

_T = TypeVar("_T")


def read_shards(config: Config, world: World) -> ShardSet:
    """The shards of ``data.train`` and ``data.more``, or of all ``data.sources``.

    Raises ``ConfigError`` for manifests beside shards, ``ShardError`` as ``ShardSet``.
    """
    data = config.data
    refuse_mixture(data)
    capped = [source.path for source in data.sources.values() if source.share and source.speaker_cap_s]
    return one_after_another(world, lambda: ShardSet(data.manifests, capped))


def one_after_another(world: World, read: Callable[[], _T]) -> _T:
    """What ``read`` gives, in the first process, which makes the indices that are missing, before the others.

    Raises as ``read``, and ``TrainingError`` in the others where the first cannot.
    """
    found: _T | None = None
    if world.first:
        try:
            found = read()
        except Exception as error:
            world.gather(str(error) or type(error).__name__)
            raise
    if refused := world.gather("")[0]:
        raise TrainingError(refused)
    return read() if found is None else found


def shard_tokenizer(shards: ShardSet, config: Config, folder: Path | None) -> Tokenizer:
    """The tokenizer made of the texts, or that of the run in ``folder``.

    Raises ``TextError`` for a character that the alphabet lacks.
    """
    # The ids of the run so far, even if the shards have changed.
    made = tokenizer_files.load_tokenizer(folder / "tokens.txt", config.text) if folder else None
    tokenizer = made or shards.tokenizer(config.text)
    shards.check_spelling(tokenizer)
    return tokenizer


def unused_parts(data: ShardedDataset) -> Iterator[str]:
    """How many utterances are not used, and why, as warnings. Raises ``TrainingError`` where none can be used."""
    shards = data.shards
    if shards.skipped:
        yield (
            f"{shards.name}: {shards.skipped} members are no utterances and left out, such as {shards.first_skipped}; "
            "asr check lists them"
        )
    limit_s = data.config.data.max_utterance_s
    if data.unusable:
        yield (
            f"{shards.name}: {data.unusable} utterances left out, such as {data.first_unusable}: longer than "
            f"data.max_utterance_s ({limit_s:g} s), or shorter than one window"
        )
    if data.unusable == len(shards):
        raise TrainingError(f"{shards.name}: no usable utterance is left; the first: {data.first_unusable}")
