"""A set of shards to train on: which files they are, whether they are whole, and what they hold.

What is kept in memory is a few numbers a shard. Arrays of a shard are read again when they are needed.
"""

from __future__ import annotations

import glob
import itertools
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from asr.audio.find import expand_ranges
from asr.cloud.addresses import is_url, real_place, without_secrets
from asr.config.sections import TextConfig
from asr.config.training_sections import DataConfig
from asr.data.manifest import Statistics, Utterance
from asr.data.remote_shards import ask_for_shards, listed_shards
from asr.data.shard_index import find_index
from asr.data.shard_members import ShardError, ShardIndex, ShardSums, read_shard_texts
from asr.errors import AudioError, CloudError, ConfigError, TextError
from asr.text import tokenizer_files
from asr.text.tokenizer import Tokenizer

_SUFFIX = ".tar"
_SHOWN = 5
_HASHES_AT_ONCE = 20_000_000
_RECENT_ROWS = 500_000
_LEARNT_TEXTS = 1_000_000
"""Texts that pieces of words are learnt from at most."""


def is_shards(path: str) -> bool:
    """Whether ``path`` names shards, not a manifest: a tar file, a range or pattern of them, or a folder with some."""
    if path.endswith(_SUFFIX) or (is_url(path) and path.endswith("/")):
        return True
    return os.path.isdir(path) and any(name.endswith(_SUFFIX) for name in os.listdir(path))


def refuse_mixture(data: DataConfig) -> None:
    """Raise ``ConfigError`` for training data of which some are shards and others manifests."""
    shards = [path for path in data.manifests if is_shards(path)]
    others = [path for path in data.manifests if not is_shards(path)]
    if not shards or not others:
        return
    if data.sources:
        name = next(name for name, source in data.sources.items() if source.path == others[0])
        place, kind = f"data.sources.{name}.path", "shards in all sources, or manifests in all"
    else:
        place, kind = "data.train, data.more", "shards only, or manifests only"
    first = without_secrets(others[0])
    if is_url(others[0]) or os.path.isfile(others[0]):
        remedy = f"asr shard {first} OUT makes shards of it"
    elif os.path.isdir(others[0]):
        remedy = f"the folder holds no {_SUFFIX} file"
    else:
        remedy = "there is no such file or folder"
    raise ConfigError(f"{place}: expected {kind}, got {first} beside shards ({without_secrets(shards[0])}); {remedy}")


def shard_paths(pattern: str) -> list[str]:
    """The files that ``a/{00000..00999}.tar``, ``a/*.tar``, ``a/00000.tar`` or the folder ``a`` stands for, in order.

    Raises ``ShardError`` that names what is missing.
    """
    if is_url(pattern):
        return _remote_paths(pattern)
    if os.path.isdir(pattern):
        return sorted(os.path.join(pattern, name) for name in os.listdir(pattern) if name.endswith(_SUFFIX))
    found = []
    for path in _expanded(pattern):
        if glob.has_magic(path) and not os.path.exists(path):
            found += sorted(glob.glob(path))
        else:
            found.append(path)
    missing = [path for path in found if not os.path.isfile(path)]
    if missing or not found:
        names = f"{', '.join(missing[:_SHOWN])}{', …' if len(missing) > _SHOWN else ''}" if missing else "no file"
        raise ShardError(
            f"{pattern}: expected {f'{len(found)} shards' if found else 'shards'}, "
            f"{f'{len(missing)} are missing' if missing else 'found none'}: {names}; correct the range, or copy them"
        )
    return found


def _remote_paths(pattern: str) -> list[str]:
    """A range of shards at URLs, or those of a folder whose URL ends with a slash; a missing one is named later."""
    try:
        found = listed_shards(pattern, _SUFFIX) if pattern.endswith("/") else _expanded(pattern)
    except CloudError as error:
        raise ShardError(str(error)) from error
    if not found:
        raise ShardError(f"{pattern}: expected shards, found no file that ends with {_SUFFIX}")
    return found


def _expanded(pattern: str) -> list[str]:
    try:
        return expand_ranges(pattern)
    except AudioError as error:
        raise ShardError(str(error)) from error


@dataclass(frozen=True)
class ShardEntry:
    """What is kept of one shard; ``first`` is the number of its first utterance in the set."""

    path: str
    first: int
    utterances: int
    seconds: float
    pattern: str
    """What the user wrote that stands for it, among other shards."""


class ShardSet:
    """The utterances of several shards, numbered from 0 in the order of the shards.

    Args:
        patterns: as ``shard_paths``.
        speakers: those of the patterns whose indices must know the speaker of each utterance.

    Raises ``ShardError`` for missing shards, for all that are cut short, for an id in two shards, and for no utterance.
    """

    def __init__(self, patterns: Sequence[str], speakers: Collection[str] = ()) -> None:
        self.patterns = tuple(patterns)
        pattern_of = [(path, pattern) for pattern in patterns for path in shard_paths(pattern)]
        paths = [path for path, _ in pattern_of]
        if twice := [path for path, count in Counter(map(real_place, paths)).items() if count > 1]:
            raise ShardError(f"{', '.join(patterns)}: {twice[0]} is named twice")
        self.entries: list[ShardEntry] = []
        self.inventory: Counter[str] = Counter()
        self.skipped = 0
        self.first_skipped = ""
        self._speakers: set[str] = set()
        self._with_speakers = frozenset(speakers)
        self._words = self._characters = 0
        self._recent: dict[int, ShardIndex] = {}
        self._recent_rows = 0
        self._lock = threading.Lock()
        faults = []
        ask_for_shards([path for path in paths if is_url(path)])
        for path, pattern in tqdm(pattern_of, "reading indices", unit="shard", disable=None, leave=False, delay=1):
            try:
                self._add(path, pattern, find_index(path, speakers=pattern in self._with_speakers).sums)
            except ShardError as error:
                faults.append(str(error))
        if faults:
            more = f"\nand {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            raise ShardError("\n".join(faults[:_SHOWN]) + more)
        if not len(self):
            why = f"; the first member, {self.first_skipped}" if self.first_skipped else ""
            raise ShardError(f"{self.name}: expected utterances, got none{why}")
        self._check_ids()

    def _add(self, path: str, pattern: str, sums: ShardSums) -> None:
        self.entries.append(ShardEntry(path, len(self), sums.utterances, sums.seconds, pattern))
        self.inventory.update(sums.inventory)
        self._speakers.update(sums.speakers)
        self._words += sums.words
        self._characters += sums.characters
        if sums.skipped and not self.first_skipped:
            self.first_skipped = f"{path}: {sums.skipped[0][0]}: {sums.skipped[0][1]}"
        self.skipped += len(sums.skipped)

    def __len__(self) -> int:
        return self.entries[-1].first + self.entries[-1].utterances if self.entries else 0

    @property
    def name(self) -> str:
        """What messages call the set."""
        return ", ".join(self.patterns)

    @property
    def seconds(self) -> float:
        """Length of all speech."""
        return sum(entry.seconds for entry in self.entries)

    @property
    def statistics(self) -> Statistics:
        """Sums over all utterances."""
        return Statistics(len(self), self.seconds / 3600, len(self._speakers), self._words, self._characters)

    def shared_speakers(self, others: Sequence[Utterance]) -> list[str]:
        """Speakers of ``others`` that are in the shards, too."""
        return sorted({item.speaker for item in others if item.speaker} & self._speakers)

    def index(self, number: int) -> ShardIndex:
        """The index of a shard; those that were asked for last are kept."""
        with self._lock:
            index = self._recent.get(number)
            if index is None:
                entry = self.entries[number]
                index = find_index(entry.path, speakers=entry.pattern in self._with_speakers)
                self._recent[number] = index
                self._recent_rows += len(index.places)
                while self._recent_rows > _RECENT_ROWS and len(self._recent) > 8:
                    self._recent_rows -= len(self._recent.pop(next(iter(self._recent))).places)
            return index

    def texts(self, step: int = 1) -> Iterator[Utterance]:
        """The utterances without their audio, of every ``step``-th shard."""
        entries = self.entries[::step]
        for entry in tqdm(entries, "reading texts", unit="shard", disable=None, leave=False, delay=1):
            yield from read_shard_texts(find_index(entry.path))

    def _check_ids(self) -> None:
        """Refuse an id that is in two shards; hashes of ids are compared, a part of them at a time."""
        parts = 1 + len(self) // _HASHES_AT_ONCE
        for part in range(parts):
            hashes = []
            for entry in self.entries:
                found = find_index(entry.path).places["id_hash"]
                hashes.append(found[found % np.uint64(parts) == part] if parts > 1 else found)
            joined = np.sort(np.concatenate(hashes))
            for value in joined[1:][joined[1:] == joined[:-1]][:_SHOWN].tolist():
                self._name_twice(value)

    def _name_twice(self, value: int) -> None:
        """Raise ``ShardError`` for an id that is in two shards; ids that only have the same hash are good."""
        seen: dict[str, str] = {}
        for entry in self.entries:
            index = find_index(entry.path)
            for row in np.flatnonzero(index.places["id_hash"] == value).tolist():
                name = index.id(row)
                if name in seen:
                    raise ShardError(
                        f"{entry.path}: id {name!r} is also in {seen[name]}; every utterance needs its own id: leave "
                        "one of the shards out, or make them anew"
                    )
                seen[name] = entry.path

    def tokenizer(self, config: TextConfig) -> Tokenizer:
        """The tokenizer made of the texts, as ``asr.text.tokenizer_files.tokenizer_from_texts``.

        An alphabet is taken from the characters that indices count, without reading texts, where each character can
        be normalised by itself. Pieces of words are learnt from ``_LEARNT_TEXTS`` texts at most. Raises ``TextError``.
        """
        if config.tokenizer == "char" and (config.alphabet or is_separable(self.inventory, config)):
            return tokenizer_files.tokenizer_from_texts((f"{char} {char}" for char in self.inventory), config)
        texts: Iterable[str] = (item.text for item in self.texts())
        if config.tokenizer == "bpe":
            step = -(-len(self) // _LEARNT_TEXTS)
            learnt = (item.text for item in self.texts(step))
            # Characters that the texts left out may have: one text of each.
            texts = itertools.chain(learnt, (char for char in self.inventory if step > 1 and not char.isspace()))
        return tokenizer_files.tokenizer_from_texts(texts, config)

    def check_spelling(self, tokenizer: Tokenizer) -> None:
        """Refuse characters that the alphabet lacks, before training. Raises ``TextError`` naming an utterance."""
        config = tokenizer.config
        if config.unknown != "error" or config.tokenizer not in ("char", "bpe"):
            return
        unknown = {char for char in self.inventory if tokenizer.unspelt(f"{char}") and not char.isspace()}
        if not unknown:
            return
        for entry in self.entries:
            index = find_index(entry.path)
            if unknown & index.sums.inventory.keys():
                for item in read_shard_texts(index):
                    try:
                        tokenizer.encode(item.text, item.id)
                    except TextError as error:
                        raise TextError(f"{entry.path}: {error}") from error


def is_separable(inventory: Iterable[str], config: TextConfig) -> bool:
    """Whether the normalised texts of such characters have the characters of the normalised characters."""
    return all(len(key) == 1 for key in config.replace) and not any(
        unicodedata.combining(char) or unicodedata.category(char) == "Mc" or char == "Σ" or "ᄀ" <= char <= "ᇿ"
        for char in inventory
    )


def draw_utterances(shards: ShardSet, seed: int, limit_s: float, most_shards: int = 32) -> list[int]:
    """Utterances of at most ``limit_s`` seconds, a run of neighbours from each of some shards that are drawn."""
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.permutation(len(shards.entries))[:most_shards]).tolist()
    rows: list[int] = []
    for number in drawn:
        index, entry = shards.index(number), shards.entries[number]
        if not entry.utterances:
            continue
        share_s = limit_s / len(drawn)
        durations = index.places["duration_s"]
        start = int(rng.integers(entry.utterances)) if entry.seconds > share_s else 0
        within = np.cumsum(durations[start:]) - durations[start:] <= share_s
        rows += (entry.first + start + np.flatnonzero(within)).tolist()
    return rows
