"""Whether one more live stream would harm those that are served: by their measured lag, and by what a stream costs."""

from __future__ import annotations

import math
import time
from collections import Counter, deque

from asr.server.wire import StepReport

USE = 0.8
"""Largest share of the time for live streams, as predicted from their marginal cost. Steps then take five times as
long as those of one stream; files get a tenth of the time."""
LAGS_S = 3.0
"""Lags of this many recent seconds count."""
FORGET = 0.998
"""Factor on the weight of a step's cost at each further step."""
QUANTILE = 0.95


class StreamCost:
    """Computing per second of sound of one model: a straight line through the steps, forgetting slowly.

    A step has a fixed cost, which all of its streams share, so that the mean cost falls while streams are added. What
    one more stream adds is the slope.
    """

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def note(self, audio_s: float, seconds: float) -> None:
        """One step."""
        sums = (self._n, self._x, self._y, self._xx, self._xy)
        news = (1.0, audio_s, seconds, audio_s * audio_s, audio_s * seconds)
        self._n, self._x, self._y, self._xx, self._xy = (FORGET * a + b for a, b in zip(sums, news, strict=True))

    @property
    def mean(self) -> float:
        """Seconds of computing per second of sound."""
        return self._y / self._x if self._x > 0 else 0.0

    @property
    def marginal(self) -> float:
        """The same of one more stream: the slope, between a fifth of the mean and the mean."""
        spread = self._n * self._xx - self._x * self._x
        if self._n < 10 or spread <= 1e-9 * self._n * self._xx:
            return self.mean
        slope = (self._n * self._xy - self._x * self._y) / spread
        return min(max(slope, self.mean / 5), self.mean)


class WorkerLoad:
    """The live streams of one worker, what they cost, and their lags."""

    def __init__(self) -> None:
        self.streams: Counter[str] = Counter()
        """Open streams by model."""
        self.costs: dict[str, StreamCost] = {}
        self._lags: deque[tuple[float, float]] = deque(maxlen=8192)

    def note_step(self, report: StepReport) -> None:
        """What a step has cost."""
        if report.audio_s > 0:
            self.costs.setdefault(report.model, StreamCost()).note(report.audio_s, report.seconds)

    def note_lag(self, lag_s: float) -> None:
        """How long a block of sound took from its arrival to its result."""
        self._lags.append((time.monotonic(), lag_s))

    @property
    def lag_s(self) -> float:
        """The lag that 95 % of the recent blocks stay below; 0 without any."""
        since = time.monotonic() - LAGS_S
        while self._lags and self._lags[0][0] < since:
            self._lags.popleft()
        lags = sorted(lag for _, lag in self._lags)
        return lags[int(QUANTILE * (len(lags) - 1))] if lags else 0.0

    def use(self, model: str | None = None) -> float:
        """Predicted computing per second of all open streams, and of one more of ``model``."""
        more = Counter(self.streams)
        if model is not None:
            more[model] += 1
        return sum(count * self.costs[name].marginal for name, count in more.items() if name in self.costs)

    def refusal(self, model: str, limit_s: float) -> str:
        """Why one more stream of a model would do harm; empty where it would not, or without a limit of the lag."""
        if not self.streams.total() or limit_s == math.inf:
            return ""  # a single stream is served on any machine
        if (lag_s := self.lag_s) > limit_s:
            return f"its streams lag {lag_s:.2f} s, expected at most {limit_s:g} s"
        if (use := self.use(model)) > USE:
            return f"one more stream would make it compute {100 * use:.0f} % of the time, expected at most {USE:.0%}"
        return ""
