"""Sounds and pictures of ``asr report``: utterances as Opus, posteriors as PNG."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

from asr.audio.samples import Samples, resample
from asr.text.tokenizer import Tokenizer

OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)
OPUS_COMPRESSION = 0.9
"""Of libsndfile, 0 to 1; 0.9 is about 25 kbit/s for speech at 16 kHz."""
WRITTEN = 1 << 16
"""Samples written at a time: libsndfile takes the memory of a whole call from the stack."""
LEAST_POSTERIOR = 0.05
"""Tokens that never reach it have no row in a picture."""
MOST_ROWS = 40
MOST_COLUMNS = 3000


@dataclass(frozen=True)
class PosteriorPicture:
    """Posteriors as a PNG: a column for each frame of ``frame_s`` seconds, a row for each of ``tokens``.

    Its pixels are black; their opacity, 0 to 255, is the posterior. So a page can give it any colour.
    """

    png: bytes
    tokens: tuple[str, ...]
    frame_s: float


def as_opus(samples: Samples, sample_rate_hz: int) -> bytes:
    """Mono samples ``(S,)`` in [-1, 1] as an Ogg Opus file; a rate that Opus does not have becomes 16 kHz."""
    if sample_rate_hz not in OPUS_RATES_HZ:
        samples, sample_rate_hz = resample(samples, sample_rate_hz, 16000), 16000
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", sample_rate_hz, 1, format="OGG", subtype="OPUS", compression_level=OPUS_COMPRESSION
    ) as file:
        for at in range(0, len(samples), WRITTEN):
            file.write(np.clip(samples[at : at + WRITTEN], -1.0, 1.0))
    return buffer.getvalue()


def draw_posteriors(log_probs: npt.NDArray[np.floating], tokenizer: Tokenizer, frame_s: float) -> PosteriorPicture:
    """The posteriors of one utterance.

    Args:
        log_probs: natural log-probabilities ``(T, V)``, blank in column 0.
        tokenizer: names the tokens.
        frame_s: seconds from one row to the next. More than ``MOST_COLUMNS`` frames share columns, which then show the
            largest posterior.

    Tokens stand in the order in which they have their peak, from top to bottom, so that the text runs along a diagonal;
    blank is the last row.
    """
    posteriors = np.exp(np.minimum(log_probs, 0.0))
    together = -(-len(posteriors) // MOST_COLUMNS)
    if together > 1:
        padded = np.concatenate([posteriors, np.repeat(posteriors[-1:], -len(posteriors) % together, axis=0)])
        posteriors = padded.reshape(-1, together, padded.shape[1]).max(axis=1)
    peaks = posteriors[:, 1:].max(axis=0)
    shown = 1 + np.argsort(-peaks, kind="stable")[:MOST_ROWS]
    shown = shown[peaks[shown - 1] >= LEAST_POSTERIOR]
    shown = shown[np.argsort(posteriors[:, shown].argmax(axis=0), kind="stable")]
    rows = np.concatenate([shown, [0]])
    names = [_name(tokenizer, int(token)) for token in shown]
    opacity = np.rint(255 * posteriors[:, rows].T).astype(np.uint8)
    return PosteriorPicture(as_png(opacity), (*names, "blank"), frame_s * max(1, together))


def _name(tokenizer: Tokenizer, token: int) -> str:
    return "space" if token == tokenizer.space_id else tokenizer.symbol(token) or str(token)


def as_png(opacity: npt.NDArray[np.uint8]) -> bytes:
    """Black pixels of the given opacities ``(rows, columns)`` as a PNG with a palette (PNG specification, 11.2)."""
    height, width = opacity.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = opacity
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": bytes(3 * 256),
        b"tRNS": bytes(range(256)),
        b"IDAT": zlib.compress(lines.tobytes(), 9),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
