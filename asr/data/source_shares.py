"""Several sources of training data, each with its share of the speech (``data.sources``).

An epoch is one pass over the largest source of recorded speech; the others give as much beside it as their shares say.
A source that gives less than all of itself goes on, in the next epoch, where it stopped: each utterance is used once
before any is used twice. What an epoch holds depends on the seed, the epoch's number and the place in the schedule
alone, so that a resumed run continues with the same utterances.
"""

from __future__ import annotations

import itertools
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from asr.cloud.addresses import without_secrets
from asr.config.training_sections import SourceConfig
from asr.data.manifest import Utterance, read_each_manifest
from asr.errors import ConfigError

STREAM = 7
"""Stream of random numbers, beside those of ``asr.data.batches``."""

Tagged: TypeAlias = tuple[list[Utterance], list[str]]
"""Utterances, and the name of the source of each."""


def read_sources(sources: Mapping[str, SourceConfig]) -> Tagged:
    """The utterances of all sources.

    Raises ``ManifestError`` as ``asr.data.manifest.read_each_manifest`` does.
    """
    sets = read_each_manifest([source.path for source in sources.values()])
    names = [name for name, found in zip(sources, sets, strict=True) for _ in found]
    return [utterance for found in sets for utterance in found], names


@dataclass(frozen=True)
class _Group:
    """Utterances that are drawn from together: those of a source, or of one of its speakers."""

    name: str
    positions: np.ndarray
    durations_s: np.ndarray
    most_s: float
    """Most seconds of an epoch."""

    def stretch(self, begin_s: float, end_s: float, key: Sequence[int]) -> np.ndarray:
        """The utterances that begin from ``begin_s`` to ``end_s`` in an endless row of random orders of all."""
        total = float(self.durations_s.sum())
        found = []
        for cycle in range(int(begin_s // total), int(end_s // total) + 1):
            order = np.random.default_rng([*key, cycle]).permutation(len(self.positions))
            starts = cycle * total + np.cumsum(self.durations_s[order]) - self.durations_s[order]
            found.append(self.positions[order[(starts >= begin_s) & (starts < end_s)]])
        return np.concatenate(found)


@dataclass(frozen=True)
class Amount:
    """How much a source has."""

    whole_s: float
    """All its speech that can be used, in seconds."""
    most_s: float
    """What one epoch can take of it without repeating any or exceeding its cap."""
    speakers: int
    """How many have a cap."""


class Shares:
    """What each epoch takes of each source, in seconds.

    Args:
        sources: shares and limits by name.
        amounts: how much each of those with a share has.

    Raises ``ConfigError`` for shares that a cap does not allow.
    """

    def __init__(self, sources: Mapping[str, SourceConfig], amounts: Mapping[str, Amount]) -> None:
        self.sources = {name: source for name, source in sources.items() if source.share}
        self._amounts = amounts
        for at in (0.0, *self.changes):
            self.seconds(at)

    @property
    def changes(self) -> tuple[float, ...]:
        """Shares of the schedule at which a source ends."""
        return tuple(sorted({source.until for source in self.sources.values()} - {1.0}))

    def shares(self, at: float) -> dict[str, float]:
        """The shares of the sources at a place of the schedule, 0 to 1; their sum is 1."""
        active = {name: source.share for name, source in self.sources.items() if at < source.until or source.until == 1}
        total = sum(active.values())
        return {name: share / total for name, share in active.items()}

    def largest(self, at: float) -> str:
        """The source that an epoch is a pass over: the largest of recorded speech, or of all if none is recorded."""
        active = list(self.shares(at))
        recorded = [name for name in active if self.sources[name].real]
        return max(recorded or active, key=self.available_s)

    def available_s(self, name: str) -> float:
        """Seconds that one epoch can take of a source without repeating any or exceeding its cap."""
        return self._amounts[name].most_s

    def seconds(self, at: float) -> dict[str, float]:
        """Seconds that a whole epoch takes of each source at a place of the schedule.

        Raises ``ConfigError`` where a source would have to exceed its cap.
        """
        shares, largest = self.shares(at), self.largest(at)
        epoch_s = self.available_s(largest) / shares[largest]
        needed = {name: share * epoch_s for name, share in shares.items()} | {largest: self.available_s(largest)}
        for name, seconds in needed.items():
            source, most = self.sources[name], self.available_s(name)
            if source.speaker_cap_s and seconds > most * (1 + 1e-9):
                fitting = most / epoch_s
                raise ConfigError(
                    f"data.sources.{name}.share: {shares[name]:.1%} of an epoch of {_length(epoch_s)} (a pass over "
                    f"{largest}) are {_length(seconds)}, but {self._amounts[name].speakers} speakers give at most "
                    f"{_length(most)} with speaker_cap_s={source.speaker_cap_s:g}; expected a share of at most "
                    f"{fitting:.1%}, or a higher cap"
                )
        return needed

    def parts(self, number: int, span: Sequence[float]) -> Iterator[tuple[dict[str, float], float, float]]:
        """The parts of an epoch, which follow each other: between two of them a source ends.

        Args:
            number: of the epoch, from 0.
            span: where in the schedule it begins and ends, 0 to 1.

        Yields:
            Seconds that a whole epoch takes of each source; where the part begins and ends, counted in epochs.
        """
        begin, end = span
        length = end - begin
        cuts = [(at - begin) / length for at in self.changes if begin < at < end] if length > 0 else []
        for first, last in itertools.pairwise([0.0, *cuts, 1.0]):
            # Between the edges: rounding at one of them must not choose the sources of the part before.
            yield self.seconds(begin + (first + last) / 2 * length), number + first, number + last

    def describe(self) -> str:
        """The sources, their shares and hours, for people: a few lines."""
        lines = []
        for at in (0.0, *self.changes):
            needed, largest = self.seconds(at), self.largest(at)
            total = sum(needed.values())
            where = f"from {at:g} of the training on: " if at else ""
            lines.append(f"{where}an epoch has {_length(total)}, one pass over {largest}")
            for name, seconds in needed.items():
                source = self.sources[name]
                given = "" if abs(seconds / total - source.share) < 5e-4 else f" (share {source.share:g})"
                until = f", until {source.until:g} of the training" if source.until < 1 else ""
                cap = f", at most {source.speaker_cap_s:g} s a speaker" if source.speaker_cap_s else ""
                lines.append(
                    f"  {name}: {seconds / total:.1%} of the speech{given}: {_length(seconds)} an epoch of "
                    f"{_length(self._amounts[name].whole_s)}{cap}{until}"
                )
        return "\n".join(lines)


class SourceMix(Shares):
    """What each epoch takes of sources whose utterances are in memory.

    Args:
        sources: shares and limits by name.
        utterances: those that can be used, of all sources.
        names: the source of each.
        seed: ``train.seed``.

    Raises ``ConfigError`` for a source without utterances, speakers that a cap needs and that are not named, and shares
    that a cap does not allow.
    """

    def __init__(
        self, sources: Mapping[str, SourceConfig], utterances: Sequence[Utterance], names: Sequence[str], seed: int
    ) -> None:
        self.seed = seed
        positions: dict[str, list[int]] = defaultdict(list)
        for position, name in enumerate(names):
            positions[name].append(position)
        self._groups = {
            name: _groups(name, source, positions[name], utterances) for name, source in sources.items() if source.share
        }
        super().__init__(sources, {name: _amount(groups) for name, groups in self._groups.items()})

    def epoch(self, number: int, span: Sequence[float]) -> list[np.ndarray]:
        """Positions of the utterances of an epoch, in parts that follow each other; repeats are possible.

        Args:
            number: of the epoch, from 0.
            span: where in the schedule it begins and ends, 0 to 1. A source that ends in between is only in the parts
                before.
        """
        return [
            np.concatenate([self._drawn(name, seconds, first, last) for name, seconds in needed.items()])
            for needed, first, last in self.parts(number, span)
        ]

    def _drawn(self, name: str, seconds: float, first: float, last: float) -> np.ndarray:
        """What a source gives from one place to another, counted in epochs that take ``seconds`` of it."""
        scale = seconds / self.available_s(name)
        found = []
        for group in self._groups[name]:
            key = [self.seed, STREAM, zlib.crc32(name.encode()), zlib.crc32(group.name.encode())]
            step = group.most_s * scale
            found.append(group.stretch(first * step, last * step, key))
        return np.concatenate(found)


def _length(seconds: float) -> str:
    """A length for people, in hours where it has some."""
    return f"{seconds / 3600:.2f} h" if seconds >= 360 else f"{seconds:.0f} s"


def _amount(groups: Sequence[_Group]) -> Amount:
    whole_s = sum(float(group.durations_s.sum()) for group in groups)
    return Amount(whole_s, sum(group.most_s for group in groups), len(groups))


def no_utterance(name: str, source: SourceConfig) -> ConfigError:
    """The error for a source without utterances."""
    place = without_secrets(source.path)
    return ConfigError(f"data.sources.{name}: no usable utterance in {place}; set its share to 0, or remove it")


def no_speaker(name: str, source: SourceConfig, utterance: str) -> ConfigError:
    """The error for a source with a cap for each speaker and an utterance of none."""
    place = without_secrets(source.path)
    return ConfigError(
        f"data.sources.{name}.speaker_cap_s: {place} names no speaker of {utterance}; expected a speaker for every "
        "utterance, or no cap"
    )


def _groups(name: str, source: SourceConfig, positions: Sequence[int], utterances: Sequence[Utterance]) -> list[_Group]:
    """The utterances of a source: by speaker where they have a cap, else all together."""
    if not positions:
        raise no_utterance(name, source)
    speakers: dict[str, list[int]] = defaultdict(list)
    for position in positions:
        speakers[utterances[position].speaker if source.speaker_cap_s else ""].append(position)
    if source.speaker_cap_s and "" in speakers:
        raise no_speaker(name, source, utterances[speakers[""][0]].id)
    groups = []
    for speaker, found in sorted(speakers.items()):
        durations = np.array([utterances[position].duration_s for position in found])
        total = float(durations.sum())
        groups.append(_Group(speaker, np.array(found), durations, min(source.speaker_cap_s or total, total)))
    return groups
