"""Preflight: finds and names every fault of a manifest and its audio before training (``asr check``).

An error stops training, makes it leave out an utterance, or teaches the model something false. A warning deserves a
look. The rules and their thresholds are the constants below and the table ``FAULT_KINDS``.

One bad line or file never hides another. Every file is read once, in blocks, at its own rate and with its channels
averaged; the segments cut out of one recording are measured in that one pass.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asr import plotting
from asr.audio import read
from asr.audio.levels import SILENT_PEAK, Meter, measure_levels
from asr.config import cpus
from asr.config.sections import Config, output_frames
from asr.data.manifest import SLACK_S, Utterance, scan_manifest
from asr.errors import ConfigError, ManifestError, TextError
from asr.text import normalisation, tokenizer_files
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer, Tokenizer, min_frames

ERROR, WARNING = "error", "warning"
FAULT_KINDS = {
    "bad_line": (ERROR, "malformed lines"),
    "duplicate_id": (ERROR, "duplicate ids"),
    "unreadable": (ERROR, "unreadable audio"),
    "wrong_duration": (ERROR, "wrong durations"),
    "unknown_character": (ERROR, "unknown characters"),
    "label_misfit": (ERROR, "labels that cannot fit their frames"),
    "silent": (ERROR, "silent, but with words"),
    "conflicting_text": (ERROR, "same audio, different text"),
    "duplicate_audio": (WARNING, "same audio, same text"),
    "label_tight": (WARNING, "labels that fit only without speeding up"),
    "too_long": (WARNING, "longer than data.max_utterance_s"),
    "clipped": (WARNING, "clipped"),
    "speaking_rate": (WARNING, "outlying speaking rates"),
}
"""What can be found: severity and title."""
OF_A_MODEL = ("label_misfit", "label_tight", "too_long")
"""What depends on a configuration. Without one it is that of the default model, which need not be the user's."""

RATE_SCORE = 3.5
RATE_FACTOR = 1.5
RATE_UTTERANCES = 10
"""Outlying speaking rate: the logarithm of characters per second has a modified z-score (distance from the median
over 1.4826 median absolute deviations, Iglewicz & Hoaglin 1993) above ``RATE_SCORE``, and the rate is off the median
by more than ``RATE_FACTOR``. Fewer than ``RATE_UTTERANCES`` utterances with words have no outliers."""
FIRST = 5
"""Findings of each kind that the summary names; the JSON has them all."""

TITLES = {
    "duration_s": "duration (s)",
    "characters_per_s": "characters per second",
    "level_dbfs": "level, root mean square (dBFS)",
    "peak_dbfs": "peak (dBFS)",
    "label_share": "frames the label needs / frames there are",
}
"""What is drawn as a histogram, and how its axis is named."""


@dataclass(frozen=True)
class Finding:
    """One fault: its kind (of ``FAULT_KINDS``), its utterance, and its line of the manifest."""

    kind: str
    id: str
    line: int
    message: str


@dataclass
class CheckReport:
    """What ``check_manifest`` found.

    ``series`` are the quantities of the histograms, one value per utterance; ``characters`` counts the normalised
    transcripts' characters, ``rates_hz`` the sample rates of the utterances' files.
    """

    manifest: str
    utterances: int = 0
    audio_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    characters: Counter[str] = field(default_factory=Counter)
    rates_hz: Counter[int] = field(default_factory=Counter)
    series: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TITLES})
    configured: bool = True
    """Whether a configuration was given."""

    def severity(self, kind: str) -> str:
        """That of ``FAULT_KINDS``; what would not fit the default model is a warning where no configuration was
        given."""
        return WARNING if kind in OF_A_MODEL and not self.configured else FAULT_KINDS[kind][0]

    def add(self, kind: str, entry: _Entry, message: str) -> None:
        """Note a finding about an utterance."""
        self.findings.append(Finding(kind, entry.utterance.id, entry.line, message))

    def count(self, severity: str) -> int:
        """Findings that are errors, or warnings."""
        return sum(self.severity(finding.kind) == severity for finding in self.findings)

    def summary(self) -> str:
        """Counts, and the first few of every kind, for people."""
        rates = ", ".join(f"{rate} Hz ({count})" for rate, count in self.rates_hz.most_common())
        rare = ", ".join(f"{char!r} {count}" for char, count in self.characters.most_common()[: -FIRST - 1 : -1])
        lines = [
            f"{self.manifest}: {self.utterances} utterances, {self.audio_s / 3600:.2f} h of audio read",
            f"sample rates: {rates or 'none read'}",
            f"{len(self.characters)} characters{f'; rarest: {rare}' if rare else ''}",
        ]
        for kind, (_, title) in FAULT_KINDS.items():
            found = [finding for finding in self.findings if finding.kind == kind]
            if found:
                whose = "" if self.configured or kind not in OF_A_MODEL else " (of the default model: no --config)"
                lines.append(f"{self.severity(kind)}: {title}{whose}: {len(found)}")
                lines += [f"  line {f.line}, {f.id}: {f.message}" for f in found[:FIRST]]
                lines += [f"  and {len(found) - FIRST} more"] if len(found) > FIRST else []
        lines.append(f"{self.count(ERROR)} errors, {self.count(WARNING)} warnings")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: ``counts`` by kind, ``findings`` in full, quantiles of every series."""
        return {
            "manifest": self.manifest,
            "utterances": self.utterances,
            "audio_s": round(self.audio_s, 3),
            "errors": self.count(ERROR),
            "warnings": self.count(WARNING),
            "counts": {kind: sum(finding.kind == kind for finding in self.findings) for kind in FAULT_KINDS},
            "findings": [{"severity": self.severity(finding.kind), **vars(finding)} for finding in self.findings],
            "sample_rates_hz": {str(rate): count for rate, count in self.rates_hz.most_common()},
            "characters": dict(self.characters.most_common()),
            "quantiles": {name: _quantiles(values) for name, values in self.series.items() if values},
        }


@dataclass
class _Entry:
    line: int
    utterance: Utterance
    label: list[int] | None = None
    meter: Meter | None = None

    @property
    def duration_s(self) -> float:
        """As measured, or what the manifest says."""
        return self.meter.duration_s if self.meter else self.utterance.duration_s


def check_manifest(
    path: str | Path, config: Config | None = None, root: str | Path | None = None, workers: int = 0
) -> CheckReport:
    """Look for everything of ``FAULT_KINDS`` in the manifest ``path``; ``root`` as in ``manifest.read``.

    ``config`` (None: the default one, see ``OF_A_MODEL``) gives text rules, features, subsampling, speeds and the
    longest utterance. The alphabet is ``text.alphabet`` or, as in training, the characters of ``data.train`` and
    ``data.more``; without, that of the manifest itself, in which then nothing is unknown. ``workers`` threads read
    audio; 0 takes one per processor, 8 at most.

    Raises ``ManifestError`` when the manifest cannot be read at all or holds no line, ``ConfigError`` when the
    alphabet cannot be had.
    """
    settings = config or Config()
    report = CheckReport(str(path), configured=config is not None)
    _check(report, scan_manifest(path, root), settings, lambda entries: _tokenizer(path, entries, settings), workers)
    return report


def check_utterances(
    name: str, utterances: Sequence[Utterance], config: Config, training: Sequence[str]
) -> CheckReport:
    """``check_manifest`` of utterances that are not in a file yet; ``training`` are the texts that the alphabet is
    made of."""
    report = CheckReport(name)
    _check(report, enumerate(utterances, 1), config, lambda _: _alphabet(training, config), 0)
    return report


def _check(
    report: CheckReport,
    scanned: Iterable[tuple[int, Utterance | ManifestError]],
    config: Config,
    tokenizer: Callable[[Sequence[_Entry]], Tokenizer],
    workers: int,
) -> None:
    entries: list[_Entry] = []
    lines: dict[str, int] = {}
    for line, item in scanned:
        if isinstance(item, ManifestError):
            report.findings.append(Finding("bad_line", "", line, str(item.__cause__ or item)))
            continue
        entries.append(_Entry(line, item))
        if lines.setdefault(item.id, line) != line:
            report.add("duplicate_id", entries[-1], f"already the id of line {lines[item.id]}")
    if not entries and not report.findings:
        raise ManifestError(f"{report.manifest}: expected one JSON object a line, got no utterance")
    report.utterances = len(entries)
    _spell(report, entries, config, tokenizer(entries))
    files: dict[tuple[str, int | None], list[Meter]] = {}
    for entry in entries:
        entry.meter = Meter(entry.utterance.start_s, entry.utterance.end_s)
        files.setdefault((entry.utterance.audio, entry.utterance.channel), []).append(entry.meter)
    measure_levels(files, workers or min(8, cpus.available()))
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
        _Entry(line, item, list(label)) for line, (item, label) in enumerate(zip(utterances, labels, strict=True), 1)
    ]
    _check_rates(report, entries)
    segments = [
        ((item.audio, item.start_s, item.end_s, item.channel), entry)
        for item, entry in zip(utterances, entries, strict=True)
    ]
    _check_duplicates(report, segments, config)
    return report


def _tokenizer(path: str | Path, entries: Sequence[_Entry], config: Config) -> Tokenizer:
    """The alphabet that training would use."""
    texts = [entry.utterance.text for entry in entries]
    source = config.data.train
    try:
        if source and not config.text.alphabet and os.path.realpath(source) != os.path.realpath(path):
            texts = [u.text for _, u in scan_manifest(source) if isinstance(u, Utterance)]
        for other in config.data.more if config.text.tokenizer != "phone" and not config.text.alphabet else ():
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


def _spell(report: CheckReport, entries: Iterable[_Entry], config: Config, tokenizer: Tokenizer) -> None:
    for entry in entries:
        words = entry.utterance.text
        report.characters.update(normalisation.normalise(words, config.text))
        try:
            entry.label = tokenizer.encode(words)
        except TextError as error:
            report.add("unknown_character", entry, str(error))


def _check_audio(report: CheckReport, entries: Iterable[_Entry]) -> None:
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


def _check_fit(report: CheckReport, entry: _Entry, config: Config) -> None:
    """The label against the frames, as ``data.Dataset`` does, but by the measured duration where there is one."""
    duration_s = entry.duration_s
    samples = duration_s * config.features.sample_rate_hz
    frames = output_frames(round(samples), config)
    if frames == 0:
        window_s = config.features.window_s
        report.add("label_misfit", entry, f"{duration_s:.3f} s are shorter than one window ({window_s:g} s)")
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


def _check_rates(report: CheckReport, entries: Iterable[_Entry]) -> None:
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


def _check_duplicates(report: CheckReport, entries: Iterable[tuple[Hashable, _Entry]], config: Config) -> None:
    """Entries whose keys, what they are known by, occurred before."""
    seen: dict[Hashable, _Entry] = {}
    for key, entry in entries:
        first = seen.setdefault(key, entry)
        if first is entry:
            continue
        words, others = (normalisation.normalise(e.utterance.text, config.text) for e in (entry, first))
        where = f"the same samples as line {first.line}, {first.utterance.id}"
        if words == others:
            report.add("duplicate_audio", entry, where)
        else:
            report.add("conflicting_text", entry, f"{where}; here {_short(words)}, there {_short(others)}")


def draw_findings(report: CheckReport, path: str | Path) -> None:
    """One page of histograms as PNG. Raises ``PlotError`` without matplotlib or when it cannot be written."""
    figure, axes = plotting.page(2, 3)
    for axis, (name, title) in zip(axes, TITLES.items(), strict=False):
        values = np.array(report.series[name])
        axis.set_xlabel(title)
        axis.set_ylabel("utterances")
        if not len(values):
            axis.text(0.5, 0.5, "nothing measured", ha="center", transform=axis.transAxes)
            continue
        axis.hist(values, bins=min(40, max(10, round(2 * len(values) ** 0.5))))
        axis.set_yscale("log" if len(values) > 1000 else "linear")
        axis.set_title(f"median {np.median(values):.3g}, from {values.min():.3g} to {values.max():.3g}", fontsize=9)
    axes[4].axvline(1.0, color="tab:red", linewidth=1, label="no label fits beyond")
    plotting.legend_below(axes[4])
    common = report.characters.most_common(60)
    axes[5].bar(range(len(common)), [count for _, count in common])
    axes[5].set_xticks(range(len(common)), [plotting.plain("␣" if char == " " else char) for char, _ in common])
    axes[5].tick_params(axis="x", labelsize=7)
    axes[5].set_xlabel("characters" if len(common) == len(report.characters) else "the 60 commonest characters")
    axes[5].set_ylabel("occurrences")
    axes[5].set_yscale("log" if common else "linear")
    name = plotting.plain(report.manifest)
    figure.suptitle(
        f"{name}: {report.utterances} utterances, {report.audio_s / 3600:.2f} h, "
        f"{report.count(ERROR)} errors, {report.count(WARNING)} warnings"
    )
    plotting.save_page(figure, path)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    names = ("min", "p05", "median", "p95", "max")
    return {n: round(float(v), 4) for n, v in zip(names, np.quantile(values, (0, 0.05, 0.5, 0.95, 1)), strict=True)}


def _decibels(value: float) -> float:
    return 20 * math.log10(max(value, 1e-10))


def _short(words: str) -> str:
    return repr(words if len(words) <= 40 else words[:39] + "…")
