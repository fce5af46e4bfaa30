"""The samples for the windows of log-mel features. A window begins at each hop.

Without ``features.centred`` these are the samples of the recording. With it the recording is reflected at both ends:
``features.lead_samples`` at the start, and the samples that the last window lacks at the end. The reflection repeats
the last sample, as in Kaldi (``snip_edges=False``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr.config.sections import FeatureConfig, count_frames

_Samples = npt.NDArray[np.float32]


class FramedSamples:
    """The samples of one recording that comes in blocks of any length."""

    def __init__(self, config: FeatureConfig) -> None:
        self._config = config
        self._received = 0
        self._held = np.zeros(0, np.float32)
        """At the start the first samples, until there are enough for the reflection; later the last samples, which
        are reflected at the end."""

    def accept(self, samples: _Samples) -> _Samples:
        """Take the next samples of the recording, and return the framed samples ``(n,)`` that are now known."""
        lead = self._config.lead_samples
        if not self._config.centred:
            return samples
        begins = self._received < lead
        joined = np.concatenate([self._held, samples])
        self._received += len(samples)
        if self._received < lead:
            self._held = joined
            return joined[:0]
        self._held = joined[-((self._config.window_samples + 1) // 2) :]
        return np.concatenate([joined[:lead][::-1], joined]) if begins else samples

    def finish(self) -> _Samples:
        """The framed samples after the recording's last one. All together then have ``count_frames`` windows."""
        config = self._config
        frames = count_frames(self._received, config)
        if not config.centred or not frames:
            return np.zeros(0, np.float32)
        missing = (frames - 1) * config.hop_samples + config.window_samples - config.lead_samples - self._received
        return self._held[len(self._held) - missing :][::-1]


def framed(samples: _Samples, config: FeatureConfig) -> _Samples:
    """The framed samples of a whole recording ``(S,)``."""
    if not config.centred:
        return samples
    blocks = FramedSamples(config)
    return np.concatenate([blocks.accept(samples), blocks.finish()])
