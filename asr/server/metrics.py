"""Figures of the server, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

LAGS = 4096
"""Blocks that the quantiles are taken of: the last ones."""
QUANTILES = (0.5, 0.9, 0.99)


def _floats() -> defaultdict[str, float]:
    return defaultdict(float)


@dataclass
class Metrics:
    """What has happened since the start. One process keeps the connections of all workers, so it counts for all."""

    audio_s: defaultdict[str, float] = field(default_factory=_floats)
    """Seconds of sound by kind: ``live``, ``file``."""
    computing_s: defaultdict[str, float] = field(default_factory=_floats)
    refused: Counter[str] = field(default_factory=Counter)
    """Streams and files that there was no room for."""
    opened: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    worker_ends: int = 0
    longest_piece_s: float = 0.0
    """The longest stretch that a file computed without a pause, in processor time."""
    lag_count: int = 0
    lag_sum_s: float = 0.0
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=LAGS))

    def note_lag(self, lag_s: float) -> None:
        """The lag of one block of a live stream."""
        self.lag_count += 1
        self.lag_sum_s += lag_s
        self.lags.append(lag_s)

    def text(self, gauges: dict[str, float]) -> str:
        """All figures, with ``gauges`` of the moment by name."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: dict[str, float]) -> Iterator[str]:
        for name, value in gauges.items():
            yield from (f"# TYPE asr_{name} gauge", f"asr_{name} {value:g}")
        yield "# TYPE asr_lag_seconds summary"
        lags = sorted(self.lags)
        for q in QUANTILES:
            value = lags[int(q * (len(lags) - 1))] if lags else float("nan")
            yield f'asr_lag_seconds{{quantile="{q:g}"}} {value:.6g}'
        yield f"asr_lag_seconds_sum {self.lag_sum_s:.6g}"
        yield f"asr_lag_seconds_count {self.lag_count}"
        for name, counts in (("audio_seconds", self.audio_s), ("computing_seconds", self.computing_s),
                             ("opened", self.opened), ("refused", self.refused), ("failed", self.failed)):  # fmt: skip
            yield f"# TYPE asr_{name}_total counter"
            for kind in ("live", "file"):
                yield f'asr_{name}_total{{kind="{kind}"}} {counts[kind]:.10g}'
        yield "# TYPE asr_real_time_factor gauge"
        for kind in ("live", "file"):
            factor = self.computing_s[kind] / self.audio_s[kind] if self.audio_s[kind] else float("nan")
            yield f'asr_real_time_factor{{kind="{kind}"}} {factor:.6g}'
        yield "# TYPE asr_worker_ends_total counter"
        yield f"asr_worker_ends_total {self.worker_ends}"
        yield "# TYPE asr_longest_file_piece_seconds gauge"
        yield f"asr_longest_file_piece_seconds {self.longest_piece_s:.6g}"
