"""OpenAI's REST interface: ``/v1/audio/transcriptions`` and ``/v1/models``.

An upload is read to a temporary file, checked, and transcribed by the file service. The answer is whole, or with
``stream`` a sequence of server-sent events. Work ends when the client has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from asr.errors import AsrError, AudioError
from asr.server.access import refuse
from asr.server.api_errors import ApiError, api_error
from asr.server.catalogue import ServedModel
from asr.server.form_fields import TranscriptionFields, check_languages, read_fields
from asr.server.messages import HOT_WORD_BOOST, Done, FileEvent, FileOptions
from asr.server.problems import BusyError
from asr.server.services import Services
from asr.server.transcription_bodies import KEEP_ALIVE, EventWriter, event, transcription_body, verbose_tree
from asr.server.uploads import UploadedForm, received_form

_LOG = logging.getLogger("asr.server")
KEEP_ALIVE_S = 10.0
"""Pause of a stream of events after which a comment is sent."""
_GONE = 499
"""Status of an answer that nobody reads; it reaches no client."""
_T = TypeVar("_T")


def rest_routes(services: Services) -> list[BaseRoute]:
    """The routes of this protocol."""
    api = RestApi(services)
    return [
        Route("/v1/audio/transcriptions", api.transcribe, methods=["POST"]),
        Route("/v1/audio/translations", api.translate, methods=["POST"]),
        Route("/v1/models", api.list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", api.show_model, methods=["GET"]),
    ]


class RestApi:
    """Answers the requests of this protocol."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.uploads = 0
        """Forms that are arriving."""

    async def list_models(self, request: Request) -> Response:
        """``GET /v1/models``: models and aliases."""
        models = [self._model_tree(name) for name in self.services.catalogue.names]
        return JSONResponse({"object": "list", "data": models})

    async def show_model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        return JSONResponse(self._model_tree(request.path_params["name"]))

    def _model_tree(self, name: str) -> dict[str, Any]:
        model = self.services.catalogue.find(name)
        created = int(os.path.getmtime(model.path))
        return {"id": name, "object": "model", "created": created, "owned_by": "asr", "languages": model.languages}

    async def translate(self, request: Request) -> Response:
        """``POST /v1/audio/translations``: refused."""
        raise ApiError(
            400,
            "this server does not translate; POST the recording to /v1/audio/transcriptions for its text in the "
            "language that is spoken",
            code="unsupported_endpoint",
        )

    async def transcribe(self, request: Request) -> Response:
        """``POST /v1/audio/transcriptions``."""
        async with contextlib.AsyncExitStack() as stack:
            form = await self._received(request, stack)
            fields = read_fields(form.fields, self.services.settings.limits)
            model = self.services.catalogue.find(fields.model)
            check_languages(fields.languages, model.languages, model.name)
            options = _options(form, fields)
            self.services.files.check(options)
            if not fields.stream:
                return await self._answer(request, form, options, fields, model)
            pieces = PieceReader(self.services.files.pieces(form.path, options), form)
            await stack.enter_async_context(contextlib.aclosing(pieces))
            # An unreadable file gets its own status; a first utterance that takes long is waited for in the stream.
            await _while_there(request.receive, pieces.wait(KEEP_ALIVE_S))
            # The file and the work live as long as the events.
            return EventStream(_events(pieces, _event_writer(fields, model)), stack.pop_all())

    async def _received(self, request: Request, stack: contextlib.AsyncExitStack) -> UploadedForm:
        """The request's form, where there is room for an upload and for another file; ``stack`` removes its file."""
        limits = self.services.settings.limits
        self.services.files.check(FileOptions())
        if self.uploads >= limits.file_jobs:
            raise BusyError(f"expected fewer than {self.uploads} uploads at a time; try again later")
        self.uploads += 1
        try:
            content_type = request.headers.get("content-type", "")
            return await stack.enter_async_context(received_form(content_type, _chunks(request), limits))
        finally:
            self.uploads -= 1

    async def _answer(
        self,
        request: Request,
        form: UploadedForm,
        options: FileOptions,
        fields: TranscriptionFields,
        model: ServedModel,
    ) -> Response:
        with _naming(form):
            made = await _while_there(request.receive, self.services.files.transcribe(form.path, options))
        if made is None:
            return Response(status_code=_GONE)
        body, kind = transcription_body(made, fields, _language(fields, model))
        return Response(body, media_type=kind)


def _language(fields: TranscriptionFields, model: ServedModel) -> str:
    """What ``verbose_json`` states: the language of the model, or the one that was asked of a model without any."""
    return next(iter(model.languages or fields.languages), "")


def _event_writer(fields: TranscriptionFields, model: ServedModel) -> EventWriter:
    language = _language(fields, model)
    verbose = fields.response_format == "verbose_json"
    return EventWriter(fields.logprobs, (lambda made: verbose_tree(made, fields, language)) if verbose else None)


def _options(form: UploadedForm, fields: TranscriptionFields) -> FileOptions:
    return FileOptions(
        model=fields.model or None,
        hot_words=dict.fromkeys(fields.keywords, HOT_WORD_BOOST),
        name=form.name,
    )


@contextlib.contextmanager
def _naming(form: UploadedForm) -> Iterator[None]:
    """Errors name the client's file, not the temporary one."""
    try:
        yield
    except AudioError as error:
        raise type(error)(str(error).replace(form.path, form.name)) from error


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _while_there(receive: Receive, work: Awaitable[_T]) -> _T | None:
    """The result of ``work``; None, and the work is cancelled, if the client goes away before it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for waiting in (task, gone):
            waiting.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class PieceReader:
    """The events of a file's transcription, waited for with a limit, which does not disturb the work."""

    def __init__(self, pieces: AsyncGenerator[FileEvent, None], form: UploadedForm) -> None:
        self._pieces = pieces
        self._form = form
        self._coming: asyncio.Future[FileEvent] | None = None

    async def wait(self, seconds: float) -> bool:
        """Whether the next event is there, after so many seconds at most. Raises what the work raises."""
        if self._coming is None:
            self._coming = asyncio.ensure_future(anext(self._pieces))
        done, _ = await asyncio.wait({self._coming}, timeout=seconds)
        with _naming(self._form):
            if done:
                self._coming.result()
        return bool(done)

    def take(self) -> FileEvent:
        """The event that ``wait`` has found."""
        assert self._coming is not None
        found, self._coming = self._coming.result(), None
        return found

    async def aclose(self) -> None:
        """End the work."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        await self._pieces.aclose()


async def _events(pieces: PieceReader, writer: EventWriter) -> AsyncIterator[bytes]:
    """Server-sent events of a file's events. An error in the middle is an event, too: the status has been sent."""
    try:
        while True:
            while not await pieces.wait(KEEP_ALIVE_S):
                yield KEEP_ALIVE
            piece = pieces.take()
            if isinstance(piece, Done):
                yield writer.done(piece.transcript)
                return
            yield writer.delta(piece.transcript.words)
    except AsrError as error:
        yield event(reported(error).tree())
    except Exception:
        _LOG.exception("a transcription failed")
        yield event(ApiError(500, "the server failed; its log has the reason").tree())


class EventStream(Response):
    """Sends server-sent events and ends the work behind them, also when the client goes away.

    ``resources``: closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], resources: contextlib.AsyncExitStack) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events = events
        self.resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        async with self.resources:
            await _while_there(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self.events:
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class ErrorAnswer(Response):
    """An ``ApiError`` as an answer."""

    def __init__(self, error: ApiError, headers: dict[str, str] | None = None) -> None:
        super().__init__(status_code=error.status)
        self.error = error
        self.more = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and read what the client is still sending for a while."""
        await refuse(scope, send, self.error, self.more)


def reported(error: AsrError) -> ApiError:
    """The answer to an error of the package; what is the server's fault goes to the log."""
    found = api_error(error)
    if found.status == 500:
        _LOG.error("a request failed: %s", error, exc_info=error)
    return found


async def on_asr_error(request: Request, error: Exception) -> Response:
    """The answer to errors of the package."""
    assert isinstance(error, AsrError)
    return ErrorAnswer(reported(error))


async def on_http_error(request: Request, error: Exception) -> Response:
    """The answer to unknown paths and methods, in the shape of all other errors."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == 404:
        message += "; docs/serving.md lists the paths"
    elif allowed := headers.get("Allow"):
        message += f"; expected {allowed}"
    return ErrorAnswer(ApiError(error.status_code, message), headers)


async def on_lost_client(request: Request, error: Exception) -> Response | None:
    """A client that went away while it sent: nobody is left to answer."""
    return None


async def on_defect(request: Request, error: Exception) -> Response:
    """The answer to a defect of this program, which goes to the log."""
    return ErrorAnswer(ApiError(500, "the server failed; its log has the reason"))


ERROR_HANDLERS: dict[Any, Any] = {
    AsrError: on_asr_error,
    HTTPException: on_http_error,
    ClientDisconnect: on_lost_client,
    Exception: on_defect,
}
"""For the application: every error has the shape of OpenAI's."""
