"""What the page's Teach button asks: corrections that are stored with consent, how learning goes, and deletion."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from asr.errors import OutputError
from asr.server.api_errors import ApiError
from asr.server.correction_zip import CorrectionZip
from asr.server.page_data import PageData
from asr.server.raw_bodies import RawBody, no_room
from asr.server.services import Services
from asr.server.teaching import Teacher

_HEADERS = {"cache-control": "no-store"}


def teaching_routes(services: Services, data: PageData) -> list[BaseRoute]:
    """The routes below ``/page-data/teaching``; none without ``--learn``. Errors are ``AsrError``s."""
    teacher = services.teacher
    if teacher is None:
        return []

    async def status(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(teacher.status), headers=_HEADERS)

    async def teach(request: Request) -> Response:
        if request.query_params.get("consent") != "yes":
            raise ApiError(
                403,
                "expected consent=yes: recordings and texts are stored on the server until somebody deletes them",
                param="consent",
            )
        left_out = await _store(teacher, data, request)
        found = await asyncio.to_thread(teacher.status)
        return JSONResponse({**found, "left_out": left_out}, headers=_HEADERS)

    async def forget(request: Request) -> Response:
        try:
            count = await teacher.forget()
        except OutputError as error:
            raise ApiError(500, str(error)) from error
        return JSONResponse({**await asyncio.to_thread(teacher.status), "deleted": count}, headers=_HEADERS)

    path = "/page-data/teaching"
    return [
        Route(path, status),
        Route(path, teach, methods=["POST"]),
        Route(path, forget, methods=["DELETE"]),
    ]


async def _store(teacher: Teacher, data: PageData, request: Request) -> list[str]:
    """Store the corrections in the body (as those of ``PageData.corrections``); what is left out, with reasons."""
    try:
        with data.upload(), teacher.folder.new_zip() as target, CorrectionZip(target) as made:
            await data.fill(made, RawBody(request, data.limits))
            await asyncio.to_thread(made.finish)
            return list(made.left_out)
    except OSError as error:
        raise no_room(error) from error
