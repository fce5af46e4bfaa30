"""Errors of the HTTP interface in the shape that OpenAI's clients read.

Each answer with an error is ``{"error": {"message", "type", "param", "code"}}`` with the right status. ``param`` names
the form field that is wrong, or is null.
"""

from __future__ import annotations

import json
import math
from typing import Any

from asr.errors import AsrError, AudioError, ConfigError, DecodeError, LengthLimitError, TextError, TooLongError
from asr.server.problems import BusyError, RequestError, UnknownModelError, WorkerLostError

CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    500: "internal_error",
    503: "overloaded",
    507: "insufficient_storage",
}
"""The code of an error where none is given, by status."""
FIELDS = {"hot_words": "keywords", "phrases": "keywords"}
"""The form fields of the services' options; others have the same names."""


class ApiError(AsrError):
    """A request that is answered with an error.

    Args:
        status: of HTTP, 400 to 599.
        message: what was expected, what came, what to do.
        param: the form field that is wrong.
        code: a short name for programs; by default that of the status in ``CODES``.
        retry_after_s: seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = CODES.get(status, f"http_{status}") if code is None else code
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """``type`` of the error: whose fault it is."""
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def tree(self) -> dict[str, Any]:
        """The answer's body as plain values."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def body(self) -> bytes:
        """The answer's body as JSON."""
        return json.dumps(self.tree(), ensure_ascii=False).encode("utf-8", "backslashreplace")

    def headers(self) -> dict[str, str]:
        """Headers of the answer beside that of its length."""
        headers = {"content-type": "application/json"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def api_error(error: AsrError) -> ApiError:
    """An error of the package as the answer to a transcription request.

    Wrong audio concerns ``file``; wrong hot words concern ``keywords``. All others are the server's fault.
    """
    message = str(error)
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnknownModelError):
        return ApiError(404, message, param="model", code="model_not_found")
    if isinstance(error, RequestError):
        return ApiError(400, message, param=None if error.param is None else FIELDS.get(error.param, error.param))
    if isinstance(error, BusyError):
        return ApiError(503, message, retry_after_s=error.retry_after_s)
    if isinstance(error, WorkerLostError):
        return ApiError(503, message, code="worker_lost", retry_after_s=1.0)
    if isinstance(error, LengthLimitError | TooLongError):
        return ApiError(400, message, param="file", code="audio_too_long")
    if isinstance(error, AudioError):
        return ApiError(400, message, param="file", code="invalid_audio")
    if isinstance(error, DecodeError | TextError | ConfigError):
        return ApiError(400, message, param="keywords", code="invalid_keyword")
    return ApiError(500, "the server cannot transcribe this; its log has the reason")
