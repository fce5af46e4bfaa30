"""The options of a server, in one frozen value that all of its parts read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CASES = ("model", "lower", "written")
"""How texts are written: as the model spells them, in small letters, or with case, punctuation and digits."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True)
class ServerLimits:
    """Bounds on what one client may ask for."""

    file_bytes: int = 512 * 2**20
    """Bytes of an uploaded file."""
    file_s: float = 4 * 3600.0
    """Seconds of audio in a file."""
    stream_s: float = 4 * 3600.0
    """Seconds of audio in a live stream."""
    streams: int = 1000
    """Live streams at the same time. Admission by measured lag comes on top."""
    file_jobs: int = 32
    """Files that are being transcribed or wait for it."""
    idle_s: float = 60.0
    """Seconds without a message of the client after which a connection is closed. Silence is sound like any other."""
    message_bytes: int = 24 * 2**20
    """Bytes of one message of a WebSocket: 15 MiB of audio in base64 fit, as in OpenAI's API."""
    hot_words: int = 500
    """Hot words (keywords), or phrases, of a session."""
    phrase_characters: int = 200
    """Characters of each hot word or phrase."""


@dataclass(frozen=True)
class Settings:
    """The options of ``asr serve``.

    ``models``: model directories or bundled names by the name that clients use. ``aliases``: further names, such as
    ``{"whisper-1": "an4"}``. ``file_model`` and ``live_model``: names used where a client names none; empty: the first
    model, and the first that streams without extra delay. ``token``: clients must give it; empty: none is needed.
    ``origins`` and ``hosts`` are allowed beyond those of this server itself.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    models: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    file_model: str = ""
    live_model: str = ""
    device: str = "auto"
    runtime: str = "auto"
    """What runs the models: ``torch``, ``onnxruntime``, or ``auto``: torch on a GPU, else onnxruntime."""
    case: str = "model"
    workers: int = 1
    limits: ServerLimits = ServerLimits()
    lag_s: float = 0.3
    """New streams are refused while the lag of those that are served is longer, or would be; infinite: never."""
    grace_s: float = 10.0
    """Seconds that streams and files have to end by themselves after SIGTERM."""
    token: str = ""
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    certificate: str = ""
    key: str = ""
    wyoming: Address | None = None
    """Where the Wyoming protocol is spoken; None: nowhere."""
    zeroconf: bool = False
    """Whether the Wyoming service is announced on the local network."""
    vosk_port: int | None = None
    """A port of its own for the Vosk protocol at ``/``; it is always spoken at ``/vosk``."""
    learn: str = ""
    """Folder for corrections from the page; empty: they stay in the browser."""
