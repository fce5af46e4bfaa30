"""What the page asks of the server beside transcripts, below `/page-data/`. Nothing is kept after the answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import IO, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from asr.errors import AsrError
from asr.models.description import load_card
from asr.server.api_errors import ApiError, api_error
from asr.server.catalogue import ServedModel
from asr.server.correction_zip import CorrectionZip, read_header, shown_name
from asr.server.page_audio import loudness, write_flac
from asr.server.raw_bodies import RawBody
from asr.server.services import Services

AT_ONCE = 2
"""Recordings that are decoded for the page at the same time, beside the transcription of others."""
MOST_RECORDINGS = 1000
"""In one zip."""
SEND_BYTES = 2**18


def page_data_routes(services: Services) -> list[BaseRoute]:
    """The routes of the page's own requests.

    `GET info`: models and limits. `POST peaks` and `POST audio`: the loudness of the recording in the body, and its
    sound as FLAC. `POST corrections`: for each recording a line of JSON (``CorrectedRecording``), then its bytes; the
    answer is a zip, and its header ``X-Left-Out`` counts the utterances that are not in it. Errors are ``AsrError``s.
    """
    room = asyncio.Semaphore(AT_ONCE)
    limits = services.settings.limits

    async def info(request: Request) -> Response:
        return JSONResponse(page_info(services), headers={"cache-control": "no-store"})

    async def peaks(request: Request) -> Response:
        async with RawBody(request, limits).file() as path, room:
            found = await _named(request, path, lambda: loudness(path, limits.file_s))
        encoded = base64.b64encode(found.peaks.tobytes()).decode()
        return JSONResponse({"duration_s": round(found.duration_s, 3), "per_s": found.per_s, "peaks": encoded})

    async def audio(request: Request) -> Response:
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(tempfile.TemporaryFile(prefix="asr-flac-"))
            async with RawBody(request, limits).file() as path, room:
                await _named(request, path, lambda: write_flac(path, target, limits.file_s))
            stack.pop_all()  # the answer closes it
        return _sent(target, "audio/flac", {})

    async def corrections(request: Request) -> Response:
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(tempfile.TemporaryFile(prefix="asr-zip-"))
            body, made = RawBody(request, limits), stack.enter_context(CorrectionZip(target))
            count = 0
            while (line := await body.line()) is not None:
                recording = read_header(line)
                count += 1
                if count > MOST_RECORDINGS:
                    raise ApiError(413, f"expected at most {MOST_RECORDINGS} recordings in a zip, got more")
                async with body.file(recording.bytes) as path, room:
                    await asyncio.to_thread(made.add, path, recording, limits.file_s)
            await asyncio.to_thread(made.finish)
            stack.pop_all()
        headers = {
            "content-disposition": 'attachment; filename="corrections.zip"',
            "x-left-out": str(len(made.left_out)),
        }
        return _sent(target, "application/zip", headers)

    routes = {"peaks": peaks, "audio": audio, "corrections": corrections}
    return [
        Route("/page-data/info", info),
        *(Route(f"/page-data/{name}", handler, methods=["POST"]) for name, handler in routes.items()),
    ]


def page_info(services: Services) -> dict[str, Any]:
    """Models, defaults and limits as plain values."""
    catalogue = services.catalogue
    return {
        "models": [_model(model) for model in catalogue.models.values()],
        "file_model": catalogue.find(None).name,
        "live_model": catalogue.find(None, live=True).name,
        "limits": asdict(services.settings.limits),
    }


def _model(model: ServedModel) -> dict[str, Any]:
    purpose = load_card(model.path).get("purpose")
    return {
        "name": model.name,
        "purpose": purpose if isinstance(purpose, str) else "",
        "languages": list(model.languages),
        "calibrated": model.calibrated,
    }


async def _named(request: Request, path: str, work: Callable[[], Any]) -> Any:
    """The result of ``work`` in another thread; its errors name the recording as the client does."""
    try:
        return await asyncio.to_thread(work)
    except AsrError as error:
        name = shown_name(request.query_params.get("name", ""))
        raise ApiError(api_error(error).status, str(error).replace(path, name), param="file") from error


def _sent(target: IO[bytes], media_type: str, headers: dict[str, str]) -> Response:
    """A temporary file as the body of an answer."""
    size = target.seek(0, 2)
    target.seek(0)

    async def chunks() -> AsyncIterator[bytes]:
        with target:
            while piece := await asyncio.to_thread(target.read, SEND_BYTES):
                yield piece

    return StreamingResponse(chunks(), media_type=media_type, headers={**headers, "content-length": str(size)})
