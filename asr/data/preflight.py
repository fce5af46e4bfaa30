"""Preflight: finds and names every fault of a manifest and its audio before training (``asr check``).

An error stops training, makes it leave out an utterance, or teaches the model something false. A warning deserves a
look. The rules and their thresholds are the constants below and the table ``asr.data.findings.FAULT_KINDS``.

One bad line or file never hides another. Every file is read once, in blocks, at its own rate and with its channels
averaged; the segments cut out of one recording are measured in that one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from asr.audio import read
from asr.audio.levels import SILENT_PEAK, Meter, measure_levels
from asr.cloud.addresses import is_url, real_place, without_secrets
from asr.config import cpus
from asr.config.sections import Config, output_frames
from asr.data.archived_utterances import named_archives, scan_utterances
from asr.data.findings import CheckedUtterance, CheckReport, Finding
from asr.data.manifest import SLACK_S, Utterance, scan_manifest
from asr.data.shard_set import ShardSet, is_shards
from asr.errors import ConfigError, ManifestError, TextError
from asr.text import normalisation, tokenizer_files
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer, Tokenizer, min_frames

RATE_SCORE = 3.5
RATE_FACTOR = 1.5
RATE_UTTERANCES = 10
"""Outlying speaking rate: the logarithm of characters per second has a modified z-score (distance from the median
over 1.4826 median absolute deviations, Iglewicz & Hoaglin 1993) above ``RATE_SCORE``, and the rate is off the median
by more than ``RATE_FACTOR``. Fewer than ``RATE_UTTERANCES`` utterances with words have no outliers."""


URL_WORKERS = 16
"""Threads that read recordings at URLs: they wait for a service most of the time."""


def check_manifest(
    path: str | Path, config: Config | None = None, root: str | Path | None = None, workers: int = 0
) -> CheckReport:
    """Look for everything of ``FAULT_KINDS`` in a manifest or archives (``path``); ``root`` as in ``manifest.read``.

    ``config`` (None: the default one, see ``OF_A_MODEL``) gives text rules, features, subsampling, speeds and the
    longest utterance. The alphabet is ``text.alphabet`` or, as in training, the characters of the training manifests
    (``data.train`` and ``data.more``, or ``data.sources``); without, that of the manifest itself, in which then nothing
    is unknown. ``workers`` threads read audio; 0 takes one per processor, 8 at most.

    Raises ``ManifestError`` when the manifest cannot be read at all or holds no line, ``ConfigError`` when the
    alphabet cannot be had.
    """
    settings = config or Config()
    unit = "line" if named_archives(str(path)) is None else "utterance"
    report = CheckReport(without_secrets(str(path)), configured=config is not None, unit=unit)
    check_entries(
        report, scan_utterances(path, root), settings, lambda entries: _tokenizer(path, entries, settings), workers
    )
    return report


def check_utterances(
    name: str, utterances: Sequence[Utterance], config: Config, training: Sequence[str]
) -> CheckReport:
    """``check_manifest`` of utterances that are not in a file yet; ``training`` are the texts that the alphabet is
    made of."""
    report = CheckReport(name)
    check_entries(report, enumerate(utterances, 1), config, lambda _: _alphabet(training, config), 0)
    return report


def check_entries(
    report: CheckReport,
    scanned: Iterable[tuple[int, Utterance | ManifestError]],
    config: Config,
    tokenizer: Callable[[Sequence[CheckedUtterance]], Tokenizer],
    workers: int,
    opened: Callable[[str], str | BinaryIO] = lambda name: name,
) -> None:
    """Add to a report what is found in the utterances and errors of ``scanned``, by their line or place.

    ``tokenizer`` makes the alphabet, ``opened`` gives the file of audio whose path is only a name. Raises
    ``ManifestError`` where there is nothing at all.
    """
    entries: list[CheckedUtterance] = []
    lines: dict[str, int] = {}
    for line, item in scanned:
        if isinstance(item, ManifestError):
            report.findings.append(Finding("bad_line", "", line, str(item.__cause__ or item)))
            continue
        entries.append(CheckedUtterance(line, item))
        if lines.setdefault(item.id, line) != line:
            report.add("duplicate_id", entries[-1], f"already the id of {report.unit} {lines[item.id]}")
    if not entries and not report.findings:
        expected = "one JSON object a line" if report.unit == "line" else "recordings with texts"
        raise ManifestError(f"{report.manifest}: expected {expected}, got no utterance")
    report.utterances = len(entries)
    _spell(report, entries, config, tokenizer(entries))
    files: dict[tuple[str, int | None], list[Meter]] = {}
    for entry in entries:
        entry.meter = Meter(entry.utterance.start_s, entry.utterance.end_s)
        files.setdefault((entry.utterance.audio, entry.utterance.channel), []).append(entry.meter)
    remote = any(is_url(path) for path, _ in files)
    measure_levels(files, workers or (URL_WORKERS if remote else min(8, cpus.available())), opened)
    _check_audio(report, entries)
    for entry in entries:
        _check_fit(report, entry, config)
    _check_rates(report, [entry for entry in entries if entry.meter])
    # All digital silence is alike.
    sounding = [(entry.meter.content, entry) for entry in entries if entry.meter and not entry.meter.silent]
    _check_duplicates(report, sounding, config)
    report.findings.sort(key=lambda finding: finding.line)


def glance(path: str, utterances: Sequence[Utterance], labels: Sequence[Sequence[int]], config: Config) -> CheckReport:
    """Faults that the manifest shows without its audio: odd speaking rates, segments with two texts or given twice.

    ``labels`` are the token ids of ``utterances``; the line that a finding names is the utterance's place among them.
    """
    report = CheckReport(path, utterances=len(utterances))
    entries = [
        CheckedUtterance(line, item, list(label))
        for line, (item, label) in enumerate(zip(utterances, labels, strict=True), 1)
    ]
    _check_rates(report, entries)
    segments = [
        ((item.audio, item.start_s, item.end_s, item.channel), entry)
        for item, entry in zip(utterances, entries, strict=True)
    ]
    _check_duplicates(report, segments, config)
    return report


def _tokenizer(path: str | Path, entries: Sequence[CheckedUtterance], config: Config) -> Tokenizer:
    """The alphabet that training would use."""
    texts = [entry.utterance.text for entry in entries]
    source, *more = config.data.manifests or ("",)
    try:
        if shards := [name for name in config.data.manifests if is_shards(name)]:
            return ShardSet(shards).tokenizer(config.text)
        if source and not config.text.alphabet and real_place(source) != real_place(path):
            texts = [u.text for _, u in scan_manifest(source) if isinstance(u, Utterance)]
        for other in more if config.text.tokenizer != "phone" and not config.text.alphabet else ():
            texts += [u.text for _, u in scan_manifest(other) if isinstance(u, Utterance)]
        return _alphabet(texts, config)
    except (ManifestError, TextError) as error:
        raise ConfigError(
            f"cannot make the alphabet: {error}; set text.alphabet, or let data.train name the training manifest"
        ) from error


def _alphabet(texts: Sequence[str], config: Config) -> Tokenizer:
    # Half a surrogate pair is no character: it must not become one of the alphabet, and is found as unknown.
    texts = [words for words in texts if words.isascii() or _encodable(words)]
    if (
        config.text.tokenizer != "phone"
        and not config.text.alphabet
        and not any(normalisation.normalise(words, config.text) for words in texts)
    ):
        return CharTokenizer([BLANK_SYMBOL, " "], config.text)
    return tokenizer_files.tokenizer_from_texts(texts, config.text)


def _encodable(words: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in words)


def _spell(report: CheckReport, entries: Iterable[CheckedUtterance], config: Config, tokenizer: Tokenizer) -> None:
    for entry in entries:
        words = entry.utterance.text
        report.characters.update(normalisation.normalise(words, config.text))
        try:
            entry.label = tokenizer.encode(words)
        except TextError as error:
            report.add("unknown_character", entry, str(error))


def _check_audio(report: CheckReport, entries: Iterable[CheckedUtterance]) -> None:
    """What was measured, or could not be, against what the manifest says."""
    for entry in entries:
        meter, item = entry.meter, entry.utterance
        assert meter is not None
        if meter.error:
            report.add("unreadable", entry, meter.error)
            entry.meter = None
            continue
        report.audio_s += meter.duration_s
        report.rates_hz[meter.rate_hz] += 1
        report.series["duration_s"].append(meter.duration_s)
        if not meter.silent:
            report.series["level_dbfs"].append(_decibels(meter.level))
            report.series["peak_dbfs"].append(_decibels(meter.peak))
        slack_s = SLACK_S if item.end_s is None else read.END_TOLERANCE_S + SLACK_S
        if abs(meter.duration_s - item.duration_s) > slack_s:
            message = f"duration_s is {item.duration_s:g}, the audio lasts {meter.duration_s:.3f} s"
            report.add("wrong_duration", entry, message)
        if meter.silent and item.text.strip():
            message = f"no sample is further than {_decibels(SILENT_PEAK):.0f} dBFS from the middle, but the text is "
            report.add("silent", entry, f"{message}{_short(item.text)}")
        if meter.clipped:
            message = f"{meter.flat} samples on flat tops at {_decibels(meter.peak):.1f} dBFS"
            report.add("clipped", entry, message)


def _check_fit(report: CheckReport, entry: CheckedUtterance, config: Config) -> None:
    """The label against the frames, as ``data.Dataset`` does, but by the measured duration where there is one."""
    duration_s = entry.duration_s
    samples = duration_s * config.features.sample_rate_hz
    frames = output_frames(round(samples), config)
    if frames == 0:
        least_s = config.features.least_s
        message = f"{duration_s:.3f} s are shorter than one window (expected at least {least_s:g} s)"
        report.add("label_misfit", entry, message)
        return
    if duration_s > config.data.max_utterance_s:
        limit_s = config.data.max_utterance_s
        report.add("too_long", entry, f"{duration_s:.1f} s, data.max_utterance_s is {limit_s:g}: left out of training")
    if not entry.label:
        return
    needed = min_frames(entry.label)
    report.series["label_share"].append(needed / frames)
    speed = max(config.augment.speeds)
    if needed > frames:
        message = f"needs {needed} frames (tokens and adjacent repeats), {duration_s:.2f} s give {frames}"
        report.add("label_misfit", entry, f"{message} at subsampling {config.model.subsampling}")
    elif needed > (fastest := output_frames(round(samples / speed), config)):
        message = f"needs {needed} frames; {duration_s:.2f} s give {frames}, at speed {speed:g} {fastest}"
        report.add("label_tight", entry, f"{message}: never played so fast")


def _check_rates(report: CheckReport, entries: Iterable[CheckedUtterance]) -> None:
    spoken = [entry for entry in entries if entry.label and entry.duration_s]
    rates = np.array([len(entry.label or ()) / entry.duration_s for entry in spoken])
    report.series["characters_per_s"] = rates.tolist()
    if len(rates) < RATE_UTTERANCES:
        return
    logs = np.log(rates)
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - median)))
    limit = max(RATE_SCORE * spread, math.log(RATE_FACTOR))
    for index in np.flatnonzero(np.abs(logs - median) > limit).tolist():
        item = spoken[index].utterance
        message = f"{rates[index]:.1f} characters per second, the median is {math.exp(median):.1f}: {_short(item.text)}"
        report.add("speaking_rate", spoken[index], message)


def _check_duplicates(
    report: CheckReport, entries: Iterable[tuple[Hashable, CheckedUtterance]], config: Config
) -> None:
    """Entries whose keys, what they are known by, occurred before."""
    seen: dict[Hashable, CheckedUtterance] = {}
    for key, entry in entries:
        first = seen.setdefault(key, entry)
        if first is entry:
            continue
        words, others = (normalisation.normalise(e.utterance.text, config.text) for e in (entry, first))
        where = f"the same samples as {report.unit} {first.line}, {first.utterance.id}"
        if words == others:
            report.add("duplicate_audio", entry, where)
        else:
            report.add("conflicting_text", entry, f"{where}; here {_short(words)}, there {_short(others)}")


def _decibels(value: float) -> float:
    return 20 * math.log10(max(value, 1e-10))


def _short(words: str) -> str:
    return repr(words if len(words) <= 40 else words[:39] + "…")
