"""Sound of films and of formats that libsndfile does not know, and quick Opus, through PyAV (extra ``media``)."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asr.errors import AudioError

if TYPE_CHECKING:  # the command line takes the names of recordings from here, and --help needs no numpy
    import numpy as np
    import numpy.typing as npt

CONTAINERS = (
    "mov", "matroska", "webm", "avi", "asf", "flv", "mpegts", "mpeg", "mxf", "rm", "nut", "aac", "ac3", "eac3", "dts",
    "truehd", "mlp", "amr", "amrnb", "amrwb", "ape", "wv", "tta", "tak", "mpc", "mpc8", "shn", "dsf", "loas", "gsm",
    "wav", "w64", "aiff", "caf", "au", "ogg", "flac", "mp3", "voc",
)  # fmt: skip
"""Names of the FFmpeg demuxers that may read a file. Each finds all it needs in the bytes of that file. Playlists and
session descriptions (concat, hls, dash, sdp) name other files and addresses, which FFmpeg would open."""
_OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}


def pyav_is_installed() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


@functools.cache
def pyav_writes_opus() -> bool:
    """Whether PyAV is installed and has the encoder of libopus."""
    if not pyav_is_installed():
        return False
    import av

    return "libopus" in av.codecs_available


def opus_file(samples: npt.NDArray[np.float32], rate_hz: int, bits_per_second: float) -> io.BytesIO:
    """Ogg Opus of ``samples`` ``(S,)`` float32 at 8, 12, 16, 24 or 48 kHz, where ``pyav_writes_opus``.

    It is 2 s long at least, with silence at its end. FFmpeg puts a second into each Ogg page, and libsndfile takes some
    files of a single page for damaged.
    """
    import av
    import numpy as np

    samples = np.pad(samples, (0, max(0, 2 * rate_hz - len(samples))))
    content = io.BytesIO()
    with av.open(content, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate_hz, layout="mono", format="flt")
        stream.bit_rate = round(bits_per_second)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content.seek(0)
    return content


def is_film(raw: Any) -> bool:
    """Whether FFmpeg finds a sound track in what libsndfile does not recognise at all."""
    import av

    try:
        raw.seek(0)
        with av.open(raw, mode="r", metadata_errors="replace", container_options=_OPTIONS) as container:
            return bool(container.streams.audio)
    except Exception:  # PyAV raises errors of many types for damaged files, IndexError and AttributeError among them
        return False


class MediaSound:
    """The first sound track of a container, with the part of ``soundfile.SoundFile`` that reading needs.

    Raises ``AudioError`` naming the file when there is none or it cannot be decoded. ``frames`` is unknown, because
    headers of films do not state the length exactly.
    """

    format = "MEDIA"
    extra_info = ""

    def __init__(self, raw: Any, name: str, unknown: int) -> None:
        import av

        self.name = name
        self.frames = unknown
        raw.seek(0)
        with self._naming():
            self._container = av.open(raw, mode="r", metadata_errors="replace", container_options=_OPTIONS)
        try:
            with self._naming():
                self._start(av)
        except AudioError:
            self.close()
            raise

    def _start(self, av: Any) -> None:
        """Choose the first sound track and make ready to decode it."""
        import numpy as np

        tracks = self._container.streams.audio
        if not tracks:
            raise AudioError(
                f"{self.name}: expected sound, got a film without a sound track; check that this is the right file"
            )
        track = tracks[0]
        if track.codec_context is None:
            raise AudioError(
                f"{self.name}: expected sound, got a track in a coding that FFmpeg does not decode; convert it to WAV"
            )
        self.samplerate = int(track.rate or 0)
        self.channels = int(track.channels or 0)
        self.subtype = str(track.codec_context.name).upper()
        if not self.channels:
            raise AudioError(f"{self.name}: expected sound, got a track without channels; copy the file again")
        self._resampler = av.AudioResampler(format="fltp", layout=track.layout, rate=track.rate)
        self._blocks = self._decode(track)
        self._rest = np.zeros((0, self.channels), np.float32)

    def __enter__(self) -> MediaSound:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the decoder's memory back."""
        self._container.close()

    def can_seek(self) -> bool:
        """Never: where a seek lands depends on the format."""
        return False

    def read(self, count: int, dtype: str = "float32", always_2d: bool = True) -> npt.NDArray[np.float32]:
        """The next ``count`` samples ``(n, C)``, fewer at the end. Raises ``AudioError`` where the damage is met."""
        import numpy as np

        assert (dtype, always_2d) == ("float32", True)
        parts, have = [self._rest], len(self._rest)
        while have < count and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            have += len(block)
        whole = np.concatenate(parts)
        self._rest = whole[count:]
        return whole[:count]

    def _decode(self, track: Any) -> Iterator[npt.NDArray[np.float32]]:
        import numpy as np

        with self._naming():
            for frame in self._container.decode(track):
                for part in self._resampler.resample(frame):
                    yield np.asarray(part.to_ndarray().T, np.float32)
            for part in self._resampler.resample(None):
                yield np.asarray(part.to_ndarray().T, np.float32)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Any error of PyAV becomes an ``AudioError`` that names the file: PyAV raises many types for damaged files."""
        try:
            yield
        except AudioError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise AudioError(f"{self.name}: cannot be decoded ({reason}): corrupt, truncated or not audio") from error
