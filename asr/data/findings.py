"""What ``asr check`` found in a manifest: kinds of faults, the report, its page of histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asr import plotting
from asr.audio.levels import Meter
from asr.data.manifest import Utterance

ERROR, WARNING = "error", "warning"
NO_UTTERANCES = "members that are no utterances"
"""The title of ``bad_line`` in archives and shards, which have no lines."""
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
    """One fault: its kind (of ``FAULT_KINDS``), its utterance, and its line of the manifest.

    In an archive, and in each shard, the line is the place of the utterance, from 1; 0 for none.
    """

    kind: str
    id: str
    line: int
    message: str


@dataclass
class CheckedUtterance:
    """A line of the manifest: its utterance, its token ids if it can be spelt, its audio if it can be read."""

    line: int
    utterance: Utterance
    label: list[int] | None = None
    meter: Meter | None = None

    @property
    def duration_s(self) -> float:
        """As measured, or what the manifest says."""
        return self.meter.duration_s if self.meter else self.utterance.duration_s


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
    unit: str = "line"
    """What ``Finding.line`` counts: lines, or utterances of an archive or a shard."""

    def severity(self, kind: str) -> str:
        """That of ``FAULT_KINDS``; what would not fit the default model is a warning where no configuration was
        given."""
        return WARNING if kind in OF_A_MODEL and not self.configured else FAULT_KINDS[kind][0]

    def add(self, kind: str, entry: CheckedUtterance, message: str) -> None:
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
                title = NO_UTTERANCES if kind == "bad_line" and self.unit != "line" else title
                lines.append(f"{self.severity(kind)}: {title}{whose}: {len(found)}")
                lines += [f"  {self._place(each)}: {each.message}" for each in found[:FIRST]]
                lines += [f"  and {len(found) - FIRST} more"] if len(found) > FIRST else []
        lines.append(f"{self.count(ERROR)} errors, {self.count(WARNING)} warnings")
        return "\n".join(lines)

    def _place(self, finding: Finding) -> str:
        place = f"{self.unit} {finding.line}" if finding.line else ""
        return ", ".join(filter(None, (place, finding.id)))

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
