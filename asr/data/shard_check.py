"""``asr check`` of manifests and of shards. Shards are checked one after the other: memory does not grow with the set.

What compares utterances (outlying speaking rates, the same audio twice) compares those of one shard.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from tqdm import tqdm

from asr.config.sections import Config
from asr.data.findings import CheckReport, Finding
from asr.data.manifest import Utterance
from asr.data.preflight import check_entries, check_manifest
from asr.data.shard_members import NamedBytes, ShardIndex, open_shard, read_sound, read_utterance
from asr.data.shard_set import ShardSet, is_shards
from asr.errors import AudioError, ConfigError, ManifestError, TextError
from asr.text.tokenizer import Tokenizer

_SERIES = 200_000
"""Values of each histogram that are kept about at most."""


def check_set(path: str, config: Config | None = None, root: str | None = None, workers: int = 0) -> CheckReport:
    """Check a manifest, or shards (see ``asr.data.shard_set.shard_paths``). Raises as ``check_manifest``."""
    return check_shards(path, config, workers) if is_shards(path) else check_manifest(path, config, root, workers)


def check_shards(pattern: str, config: Config | None = None, workers: int = 0) -> CheckReport:
    """Look for everything of ``FAULT_KINDS`` in shards; the line of a finding is the utterance's place in its shard.

    Raises ``ShardError`` where a shard is missing or cut short or an id comes twice, ``ConfigError`` where the alphabet
    cannot be made.
    """
    settings = config or Config()
    shards = ShardSet([pattern])
    tokenizer = _tokenizer(shards, settings)
    report = CheckReport(pattern, configured=config is not None, unit="utterance")
    step = -(-len(shards) // _SERIES)
    numbers = range(len(shards.entries))
    for number in tqdm(numbers, "checking shards", unit="shard", disable=None, leave=False):
        _merge(report, _check_shard(shards.index(number), settings, tokenizer, workers), step)
    return report


def _tokenizer(shards: ShardSet, config: Config) -> Tokenizer:
    named = [name for name in config.data.manifests if is_shards(name)]
    try:
        return (ShardSet(named) if named and named != list(shards.patterns) else shards).tokenizer(config.text)
    except (ManifestError, TextError) as error:
        raise ConfigError(f"cannot make the alphabet: {error}; set text.alphabet") from error


def _check_shard(index: ShardIndex, config: Config, tokenizer: Tokenizer, workers: int) -> CheckReport:
    report = CheckReport(index.path, unit="utterance")
    members = {member.name: member for member in map(index.member, range(len(index.places)))}

    def scan() -> Iterator[tuple[int, Utterance | ManifestError]]:
        with open_shard(index.path) as file:
            for number, member in enumerate(members.values(), 1):
                try:
                    yield number, read_utterance(file, member)
                except ManifestError as error:
                    yield number, error

    def opened(name: str) -> NamedBytes:
        try:
            with open_shard(index.path) as file:
                return read_sound(file, members[name])
        except ManifestError as error:
            raise AudioError(str(error)) from error

    if members:
        check_entries(report, scan(), config, lambda _: tokenizer, workers, opened)
    report.findings += [Finding("bad_line", name, 0, reason) for name, reason in index.sums.skipped]
    return report


def _merge(report: CheckReport, part: CheckReport, step: int) -> None:
    """Add the report of a shard to that of the set, of whose series every ``step``-th value is kept."""
    name = os.path.basename(part.manifest)
    report.utterances += part.utterances
    report.audio_s += part.audio_s
    report.characters.update(part.characters)
    report.rates_hz.update(part.rates_hz)
    report.findings += [dataclasses.replace(each, message=f"{name}: {each.message}") for each in part.findings]
    for key, values in part.series.items():
        report.series[key] += values[::step]
