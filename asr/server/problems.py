"""Errors of the server that each protocol translates into its own form."""

from __future__ import annotations

from collections.abc import Sequence

from asr.errors import AsrError


def one_of(choices: Sequence[str]) -> str:
    """Choices as a sentence has them: ``json, text or srt``."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


class RequestError(AsrError):
    """A request that cannot be served as it is. ``param`` names the option at fault, where one is."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModelError(RequestError):
    """A model that this server does not have; ``names`` are those it has."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(
            f"model: expected {one_of(names)}, got {name[:200]!r}; asr serve --alias NAME=MODEL adds a name",
            "model",
        )
        self.name, self.names = name, tuple(names)


class BusyError(AsrError):
    """No room now: HTTP 503 with ``Retry-After``, WebSocket 503 before the handshake, a Wyoming ``error``."""

    def __init__(self, message: str, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClosingError(BusyError):
    """The server is shutting down: a stream should be finished now, and nothing new begins."""


class WorkerLostError(AsrError):
    """What computed this stream or file has ended or failed. A new request begins afresh."""
