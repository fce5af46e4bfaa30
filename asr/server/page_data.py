"""What the page asks of the server beside transcripts, below `/page-data/`. Nothing is kept after the answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from typing import IO, Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from asr.errors import AudioError
from asr.models.description import load_card
from asr.server.api_errors import ApiError, api_error
from asr.server.catalogue import ServedModel
from asr.server.correction_zip import CorrectionZip, read_header, shown_name
from asr.server.page_audio import loudness, write_flac
from asr.server.problems import BusyError
from asr.server.raw_bodies import RawBody, no_room
from asr.server.services import Services

AT_ONCE = 2
"""Recordings that are decoded for the page at the same time, beside the transcription of others."""
MOST_RECORDINGS = 1000
"""In one zip."""
SEND_BYTES = 2**18
_T = TypeVar("_T")


def page_data_routes(data: PageData) -> list[BaseRoute]:
    """The routes of the page's own requests. Errors are ``AsrError``s."""
    return [
        Route("/page-data/info", data.info),
        Route("/page-data/peaks", data.peaks, methods=["POST"]),
        Route("/page-data/audio", data.audio, methods=["POST"]),
        Route("/page-data/corrections", data.corrections, methods=["POST"]),
    ]


class PageData:
    """Answers the page's own requests."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.limits = services.settings.limits
        self.uploads = 0
        self._room = asyncio.Semaphore(AT_ONCE)

    async def info(self, request: Request) -> Response:
        """``GET``: models and limits."""
        return JSONResponse(page_info(self.services), headers={"cache-control": "no-store"})

    async def peaks(self, request: Request) -> Response:
        """``POST``: the loudness of the recording in the body."""
        name, most_s = request.query_params.get("name", ""), self.limits.file_s
        with self.upload():
            async with RawBody(request, self.limits).file() as path, self._room:
                found = await _worked(lambda: loudness(path, most_s), path, name)
        encoded = base64.b64encode(found.peaks.tobytes()).decode()
        return JSONResponse({"duration_s": round(found.duration_s, 3), "per_s": found.per_s, "peaks": encoded})

    async def audio(self, request: Request) -> Response:
        """``POST``: the sound of the recording in the body as FLAC."""
        name, most_s = request.query_params.get("name", ""), self.limits.file_s
        with self.upload(), contextlib.ExitStack() as stack:
            target = stack.enter_context(tempfile.TemporaryFile(prefix="asr-flac-"))
            async with RawBody(request, self.limits).file() as path, self._room:
                await _worked(lambda: write_flac(path, target, most_s), path, name)
            stack.pop_all()  # the answer closes it
        return _sent(target, "audio/flac", {})

    async def corrections(self, request: Request) -> Response:
        """``POST``: for each recording a line of JSON (``CorrectedRecording``), then its bytes.

        The answer is a zip, and its header ``X-Left-Out`` counts the utterances that are not in it.
        """
        with self.upload(), contextlib.ExitStack() as stack:
            target = stack.enter_context(tempfile.TemporaryFile(prefix="asr-zip-"))
            made = stack.enter_context(CorrectionZip(target))
            await self.fill(made, RawBody(request, self.limits))
            await _worked(made.finish)
            stack.pop_all()
        headers = {
            "content-disposition": 'attachment; filename="corrections.zip"',
            "x-left-out": str(len(made.left_out)),
        }
        return _sent(target, "application/zip", headers)

    async def fill(self, made: CorrectionZip, body: RawBody) -> None:
        """Take the recordings of a body into a zip. Raises ``ApiError`` for what is too much, or is none."""
        count = 0
        while (line := await body.line()) is not None:
            recording = read_header(line)
            count += 1
            if count > MOST_RECORDINGS:
                raise ApiError(413, f"expected at most {MOST_RECORDINGS} recordings in a zip, got more")
            async with body.file(recording.bytes) as path, self._room:
                await _worked(functools.partial(made.add, path, recording, self.limits.file_s), path, recording.name)

    @contextlib.contextmanager
    def upload(self) -> Iterator[None]:
        """One more upload. Raises ``BusyError`` where there is no room for it."""
        if self.uploads >= self.limits.file_jobs:
            raise BusyError(f"expected fewer than {self.uploads} uploads at a time; try again later")
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1


def page_info(services: Services) -> dict[str, Any]:
    """Models, defaults and limits as plain values."""
    catalogue = services.catalogue
    return {
        "models": [_model(model) for model in catalogue.models.values()],
        "file_model": catalogue.find(None).name,
        "live_model": catalogue.find(None, live=True).name,
        "limits": asdict(services.settings.limits),
        "teaches": bool(services.settings.learn),
    }


def _model(model: ServedModel) -> dict[str, Any]:
    purpose = load_card(model.path).get("purpose")
    return {
        "name": model.name,
        "purpose": purpose if isinstance(purpose, str) else "",
        "languages": list(model.languages),
        "calibrated": model.calibrated,
    }


async def _worked(work: Callable[[], _T], path: str = "", name: str = "") -> _T:
    """The result of ``work`` in another thread. Errors have the client's ``name`` of the file at ``path``."""
    try:
        return await asyncio.to_thread(work)
    except AudioError as error:
        shown = str(error).replace(path, shown_name(name)) if path else str(error)
        raise ApiError(api_error(error).status, shown, param="file") from error
    except OSError as error:
        raise no_room(error) from error


def _sent(target: IO[bytes], media_type: str, headers: dict[str, str]) -> Response:
    """A temporary file as the body of an answer."""
    size = target.seek(0, 2)
    target.seek(0)

    async def chunks() -> AsyncIterator[bytes]:
        with target:
            while piece := await asyncio.to_thread(target.read, SEND_BYTES):
                yield piece

    return StreamingResponse(chunks(), media_type=media_type, headers={**headers, "content-length": str(size)})
