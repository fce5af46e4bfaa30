"""Checks audio headers against the bytes that the file really holds.

libsndfile shortens the length of a WAV, SPHERE, CAF or W64 file that was cut off, reads only the first of several
chained Ogg streams, and guesses the length of an MP3 that does not state it. It reports none of this. Every error is an
``AudioError`` that names the file.
"""

from __future__ import annotations

import io
import numbers
import re
import shlex
import struct
from contextlib import suppress
from typing import Any

from asr.cloud.addresses import is_url
from asr.errors import AudioError, ForeignError

STDIN_NAME = "standard input"
"""What messages and transcripts call it."""
MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
HEAD_BYTES = 4096
"""What ``known`` wants to see of a file: several MPEG frames."""
_STREAMED_BYTES = 0x7FFF0000  # writers that cannot seek back (sox, ffmpeg, arecord) leave sizes from here up to 2**32-1


class Reader:
    """A binary file as libsndfile and the header checks need it.

    Reads are full unless the file ends. Seeks before its start, which damaged headers ask for, do nothing. Exceptions
    are kept: in libsndfile's callbacks they would be printed and lost. It has no name, because soundfile takes any file
    called ``*.raw`` for headerless audio.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with suppress(OSError, ValueError, OverflowError):
            self.file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self.file.tell())

    def read(self, count: int) -> bytes:
        data = b""
        try:
            while len(data) < count and (more := self.file.read(count - len(data))):
                data += more
        except Exception as error:
            self.error = error
        return data


class _Patched(Reader):
    """A file in which some bytes are replaced on reading; the file itself is neither changed nor copied."""

    def __init__(self, file: Any, at: int, content: bytes) -> None:
        super().__init__(file)
        self.at, self.content = at, content

    def read(self, count: int) -> bytes:
        start = self.tell()
        data = super().read(count)
        low, high = max(start, self.at), min(start + len(data), self.at + len(self.content))
        if low < high:
            data = data[: low - start] + self.content[low - self.at : high - self.at] + data[high - start :]
        return data


_MAGIC = (
    (0, b"RIFF"), (0, b"RIFX"), (0, b"RF64"), (0, b"BW64"), (0, b"riff\x2e\x91\xcf\x11"), (0, b"fLaC"), (0, b"OggS"),
    (0, b"ID3"), (0, b"FORM"), (0, b".snd"), (0, b"dns."), (0, b"caff"), (0, b"NIST_1A"), (0, b"Creative Voice File"),
    (0, b" paf"), (0, b"fap "), (0, b"PVF1\n"), (0, b"MATLAB 5.0"), (0, b"2BIT"), (0, b"ALawSoundFile"),
    (0, b"Extended Instrument"), (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (0, b"\x1aE\xdf\xa3"),
    (0, b"0&\xb2u\x8ef\xcf\x11"), (0, b"FLV\x01"), (0, b"#!AMR"), (0, b"ajkg"), (0, b"MAC "), (0, b"wvpk"),
    (0, b"TTA1"), (0, b"tBaK"), (0, b"MPCK"), (0, b"MP+"), (0, b"DSD "), (0, b"\0\0\1\xba"), (0, b"\x0b\x77"),
    (0, b".RMF"), (0, b"nut/multimedia container"), (0, b"\x06\x0e\x2b\x34"),
)  # fmt: skip


def known(head: bytes) -> bool:
    """Whether the first ``HEAD_BYTES`` of a file or pipe are those of a container or coding of sound, not samples.

    MPEG audio (MP3, AAC) and transport streams have no magic number that samples could not have: each further frame or
    packet must stand where the one before says.
    """
    if any(head.startswith(magic, at) for at, magic in _MAGIC):
        return True
    if head[:1] == b"G" and len(head) >= 377:
        return head[188:189] == head[376:377] == b"G"
    at = 0
    while len(head) >= at + 6:
        step = _mpeg_frame_bytes(head[at : at + 6])
        if step is None or head[at : at + 2] != head[:2]:
            return False
        at += step
    return at > 0


def _mpeg_frame_bytes(head: bytes) -> int | None:
    """Bytes of the MPEG audio frame that begins with these six; None: none does (ISO 11172-3, 13818-7)."""
    if head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:  # ADTS: 13 bits of length
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return length if length > 7 and head[2] >> 2 & 15 < 13 else None
    version, layer, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3
    index = head[2] >> 4
    if version == 1 or layer == 4 or rate == 3 or not 0 < index < 15:
        return None
    kbps = _KBPS[(version == 3, layer if version == 3 else min(layer, 2))][index - 1]
    rate_hz = (44100, 48000, 32000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return (12_000 * kbps // rate_hz + padding) * 4
    return (72_000 if layer == 3 and version != 3 else 144_000) * kbps // rate_hz + padding


_KBPS = {
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of MPEG audio: whether version 1, and the layer (3 is as 2 in versions 2 and 2.5)."""


def pcm_wav(head: bytes) -> tuple[int, int, int, int | None] | None:
    """Rate in Hz, channels, place of the samples and their bytes (None: to the end) of a WAV file of 16-bit samples.

    None for anything else, and where ``head`` ends before the samples begin.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at, form = 12, None
    while len(head) >= at + 8:
        kind, size = struct.unpack_from("<4sI", head, at)
        if kind == b"fmt " and len(head) >= at + 24:
            tag, channels, rate_hz, _, frame, bits = struct.unpack_from("<HHIIHH", head, at + 8)
            extended = tag == 0xFFFE and head[at + 32 : at + 34] == b"\1\0"
            if (tag == 1 or extended) and bits == 16 and channels and frame == 2 * channels:
                form = rate_hz, channels
        if kind == b"data":
            return form and (*form, at + 8, size if 0 < size < _STREAMED_BYTES else None)
        at += 8 + size + size % 2
    return None


def argument(name: str) -> str:
    """``name`` for a command that a message advises; a stream or a URL has no name that each command could take."""
    return "INPUT" if name == STDIN_NAME or name.startswith("<") or is_url(name) else shlex.quote(name)


def check_header(raw: Reader, name: str) -> tuple[Reader, int | None]:
    """The file at its start (or a mended view of it), and the sample count that only its header knows."""
    size = raw.seek(0, io.SEEK_END)
    raw.seek(0)
    head = raw.read(4096)
    if size == 0:
        raise AudioError(f"{name}: expected audio, got an empty file (0 bytes); copy or record it again")
    _check_foreign(head, name)
    promised = None
    if head.startswith((b"RIFF", b"RIFX", b"RF64", b"BW64")):
        raw = _check_riff(raw, size, name)
    elif head.startswith((b"caff", b"riff\x2e\x91\xcf\x11")):
        _check_chunks(raw, size, head, name)
    elif head.startswith(b"NIST_1A"):
        promised = _check_sphere(head, size, name)
    elif head.startswith(b"OggS"):
        _check_ogg(raw, size, head, name)
    raw.seek(0)
    return raw, promised


_FOREIGN = (
    (4, b"ftyp", "MP4 (M4A, AAC) audio"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "Windows media (WMA)"),
    (0, b"#!AMR", "AMR audio"),
    (0, b"ajkg", "Shorten audio"),
    (0, b"MAC ", "Monkey's audio"),
    (0, b"wvpk", "WavPack audio"),
)


def _check_foreign(head: bytes, name: str) -> None:
    """Contents that are recognised but not readable, so that the error can say what to do."""
    for offset, magic, kind in _FOREIGN:
        if head[offset:].startswith(magic):
            raise ForeignError(
                f"{name}: holds {kind}, which libsndfile does not read; pip install av to read it, or "
                f"convert: ffmpeg -i {argument(name)} out.wav"
            )
    if head.startswith(b"version https://git-lfs"):
        raise AudioError(f"{name}: holds a Git LFS pointer in place of the audio; fetch it: git lfs pull")
    if head[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise AudioError(f"{name}: holds a web page in place of the audio; download it again")


def _check_riff(raw: Reader, size: int, name: str) -> Reader:
    """``raw``, or a view of it with the length filled in where a streaming writer left 0.

    Sizes of 0 and from ``_STREAMED_BYTES`` up are "unknown" and reach to the end of the file (libsndfile does that
    for the latter only); any other size that reaches past the end means that samples are missing. RF64 keeps the
    size in its ``ds64`` chunk.
    """
    raw.seek(0)
    kind, riff_bytes = struct.unpack("<4sI", raw.read(8)) if size >= 8 else (b"", 0)
    order = ">" if kind == b"RIFX" else "<"
    at, frame, long_bytes = 12, 1, None
    for _ in range(1000):  # a bound: a damaged file may hold any number of empty chunks
        raw.seek(at)
        head = raw.read(36)
        if len(head) < 8:
            return raw  # no data chunk: libsndfile says so
        kind, promised = struct.unpack(f"{order}4sI", head[:8])
        if kind == b"ds64" and len(head) >= 24:
            long_bytes = struct.unpack(f"{order}Q", head[16:24])[0]
        if kind == b"fmt " and len(head) >= 22:
            channels, rate_hz, _, frame = struct.unpack(f"{order}HIIH", head[10:22])
            if channels == 0:
                raise AudioError(
                    f"{name}: expected at least one channel, got 0 in the header; copy or convert it again"
                )
            check_rate(rate_hz, f"{name}: the file's sample rate")
        if kind == b"data":
            break
        at += 8 + promised + promised % 2
    else:
        return raw
    there = size - at - 8
    if promised == 2**32 - 1 and long_bytes not in (None, 0, 2**64 - 1):
        promised = long_bytes
    elif promised >= _STREAMED_BYTES:
        return raw
    if promised == 0 and there > 0 and riff_bytes + 8 != size:
        return _Patched(raw.file, at + 4, struct.pack(f"{order}I", min(there, 2**32 - 1)))
    if promised > there:
        frame = max(1, frame)
        raise truncated(name, f"{promised // frame} samples ({promised} bytes)", there // frame)
    return raw


def _check_chunks(raw: Reader, size: int, head: bytes, name: str) -> None:
    """No chunk of a CAF or W64 file reaches past its end (CAF: size -1, to the end, is for streams)."""
    # Where the chunks start, how their heads look, what the size counts beside the content, and the alignment.
    at, layout, counted, align = (8, ">4sq", 0, 1) if head.startswith(b"caff") else (40, "<16sq", 24, 8)
    for _ in range(1000):
        raw.seek(at)
        chunk = raw.read(struct.calcsize(layout))
        if len(chunk) < struct.calcsize(layout):
            break
        length = struct.unpack(layout, chunk)[1] - counted
        if length < 0:
            return
        at += len(chunk) + length + -length % align
        if at - size >= align:
            raise truncated(name, f"at least {at} bytes", size)


def _check_sphere(head: bytes, size: int, name: str) -> int | None:
    """Sample count of a NIST SPHERE header (None: not given), which libsndfile ignores."""
    fields = {
        key.decode(): value.strip().decode("latin-1")
        for key, value in re.findall(rb"^(\w+) -\w+ ([^\n]*)$", head.split(b"end_head")[0], re.MULTILINE)
    }
    coding = fields.get("sample_coding", "pcm")
    if coding not in ("pcm", "ulaw", "mu-law", "alaw"):
        raise AudioError(
            f"{name}: SPHERE audio coded as {coding!r}, which libsndfile does not read; "
            f"convert with the LDC's sph2pipe: sph2pipe -f wav {argument(name)} out.wav"
        )
    try:
        samples = int(fields["sample_count"])
        frame = int(fields.get("channel_count", "1")) * int(fields.get("sample_n_bytes", "1"))
        there = size - int(head[8:16])
    except (KeyError, ValueError):
        return None
    if samples * frame > there:
        raise truncated(name, f"{samples} samples", max(0, there) // max(1, frame))
    return samples


def _check_ogg(raw: Reader, size: int, head: bytes, name: str) -> None:
    """The last page is whole and of the same stream as the first.

    A file that ends with a whole page but without the end-of-stream mark is taken: recorders of live streams leave
    such files.
    """
    raw.seek(max(0, size - 2 * 65536))  # a page is at most 65307 bytes
    tail = raw.read(2 * 65536)
    at = tail.rfind(b"OggS")
    page = tail[at:]
    lengths = page[27 : 27 + page[26]] if len(page) > 27 else b""
    if at < 0 or len(page) < 27 or len(lengths) < page[26] or len(page) < 27 + len(lengths) + sum(lengths):
        raise AudioError(f"{name}: truncated: its last Ogg page is cut off; copy it again")
    if page[14:18] != head[14:18]:
        raise AudioError(
            f"{name}: holds several Ogg streams, and only the first can be read; join them: ffmpeg -i "
            f"{argument(name)} out.wav"
        )


def mpeg_sync(raw: Reader) -> bytes | None:
    """First two bytes of the first MPEG frame, or None if the frame states the length (Xing, Info or VBRI header)."""
    position, at = raw.tell(), 0
    for _ in range(1000):  # a bound: a damaged file may hold any number of empty tags
        raw.seek(at)
        head = raw.read(256)
        if not head.startswith(b"ID3") or len(head) < 10:
            break
        at += 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    raw.seek(position)
    stated = any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))
    return None if stated else head[:2] or None


def truncated(name: str, expected: str, got: int) -> AudioError:
    return AudioError(f"{name}: truncated or damaged: the header promises {expected}, {got} are there; copy it again")


def check_rate(rate_hz: Any, what: str, whole: bool = True) -> None:
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, numbers.Real):
        raise AudioError(f"{what}: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz!r}")
    rate = float(rate_hz)
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ or (whole and rate != int(rate)):
        raise AudioError(f"{what}: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz}")
