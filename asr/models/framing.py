"""The samples that the windows of log-mel features are cut from, beginning at one hop after the other.

Without ``features.centred`` they are the recording's own. With it the recording is reflected at both ends:
``features.lead_samples`` in front, and behind it what the last window lacks. The last sample is not left out of the
reflection, as in Kaldi (``snip_edges=False``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr.config.sections import FeatureConfig, count_frames

_Samples = npt.NDArray[np.float32]


class FramedSamples:
    """The samples of one recording that comes in blocks. The blocks may be of any length."""

    def __init__(self, config: FeatureConfig) -> None:
        self._config = config
        self._received = 0
        self._held = np.zeros(0, np.float32)
        """Less than is reflected in front, at the start; later the last samples, which are reflected at the end."""

    def accept(self, samples: _Samples) -> _Samples:
        """The samples ``(n,)`` that are certain with the next ones of the recording."""
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
        """The samples behind the recording's last one. ``whole_windows`` of all is ``count_frames`` then."""
        config = self._config
        frames = count_frames(self._received, config)
        if not config.centred or not frames:
            return np.zeros(0, np.float32)
        missing = (frames - 1) * config.hop_samples + config.window_samples - config.lead_samples - self._received
        return self._held[len(self._held) - missing :][::-1]


def framed(samples: _Samples, config: FeatureConfig) -> _Samples:
    """Those of a whole recording ``(S,)``."""
    if not config.centred:
        return samples
    blocks = FramedSamples(config)
    return np.concatenate([blocks.accept(samples), blocks.finish()])
