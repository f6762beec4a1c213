"""The routes of files and fine-tuning jobs, to be held by the server's application or by one of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message

from tunewright.serve.errors import ApiError
from tunewright.serve.jobs.asked import JobRequest
from tunewright.serve.jobs.files import PURPOSE, Files
from tunewright.serve.jobs.jobs import Jobs, page

PIECE = 1 << 20
MOST = 100
UPLOAD = "/v1/files"
JOBS = "/v1/fine_tuning/jobs"
ENVELOPE = 1 << 16
"""What the parts of an upload take beside the file."""


def routes(jobs: Jobs) -> list[BaseRoute]:
    """Routes below /v1/files and /v1/fine_tuning/jobs. They raise ApiError."""
    api = _Api(jobs)
    one = JOBS + "/{job}"
    return [
        Route(UPLOAD, api.upload, methods=["POST"]),
        Route(UPLOAD, api.files, methods=["GET"]),
        Route(UPLOAD + "/{file}", api.file, methods=["GET"]),
        Route(UPLOAD + "/{file}", api.delete, methods=["DELETE"]),
        Route(UPLOAD + "/{file}/content", api.content, methods=["GET"]),
        Route(JOBS, api.create, methods=["POST"]),
        Route(JOBS, api.jobs, methods=["GET"]),
        Route(one, api.job, methods=["GET"]),
        Route(one + "/cancel", api.wanting("cancel"), methods=["POST"]),
        Route(one + "/pause", api.wanting("pause"), methods=["POST"]),
        Route(one + "/resume", api.wanting("resume"), methods=["POST"]),
        Route(one + "/events", api.events, methods=["GET"]),
        Route(one + "/checkpoints", api.checkpoints, methods=["GET"]),
    ]


class _Api:
    def __init__(self, jobs: Jobs):
        self._jobs = jobs
        self._files: Files = jobs.files

    # -- files ------------------------------------------------------------------------------------------------------

    async def upload(self, http: Request) -> Response:
        most = self._jobs.limits.file_bytes + ENVELOPE
        try:
            async with Request(http.scope, _limited(http, most)).form(max_files=1, max_fields=8) as form:
                file, purpose = form.get("file"), form.get("purpose")
                if not isinstance(file, UploadFile):
                    raise ApiError(400, "Send the file as the part 'file' of a form.", param="file")
                if purpose != PURPOSE:
                    raise ApiError(400, f"Files are taken with purpose '{PURPOSE}' alone.", param="purpose")
                return JSONResponse(await run_in_threadpool(self._files.add, file.filename or "", _pieces(file.file)))
        except HTTPException as error:
            raise ApiError(400, f"The form cannot be read: {error.detail}") from None
        except (ValueError, AssertionError):
            raise ApiError(400, "The form cannot be read.") from None

    async def files(self, http: Request) -> Response:
        found = await run_in_threadpool(self._files.list)
        purpose = http.query_params.get("purpose")
        return JSONResponse(page([f for f in found if purpose in (None, f["purpose"])], *_paging(http, most=10_000)))

    async def file(self, http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._files.get, http.path_params["file"]))

    async def content(self, http: Request) -> Response:
        path = await run_in_threadpool(self._files.path, http.path_params["file"])
        return FileResponse(path, media_type="application/octet-stream")

    async def delete(self, http: Request) -> Response:
        given = http.path_params["file"]
        await run_in_threadpool(self._files.delete, given)
        return JSONResponse({"id": given, "object": "file", "deleted": True})

    # -- jobs -------------------------------------------------------------------------------------------------------

    async def create(self, http: Request) -> Response:
        asked = await _read(http, self._jobs.limits.body_bytes)
        return JSONResponse(await run_in_threadpool(self._jobs.create, asked))

    async def jobs(self, http: Request) -> Response:
        wanted = {k[9:-1]: v for k, v in http.query_params.items() if k.startswith("metadata[") and k.endswith("]")}
        return JSONResponse(await run_in_threadpool(self._jobs.list, *_paging(http), wanted))

    async def job(self, http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._jobs.get, http.path_params["job"]))

    def wanting(self, what: str) -> Callable[[Request], Any]:
        async def endpoint(http: Request) -> Response:
            return JSONResponse(await run_in_threadpool(self._jobs.want, http.path_params["job"], what))

        return endpoint

    async def events(self, http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._jobs.events, http.path_params["job"], *_paging(http)))

    async def checkpoints(self, http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._jobs.checkpoints, http.path_params["job"], *_paging(http)))


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _limited(http: Request, most: int) -> Callable[[], Any]:
    read = 0

    async def receive() -> Message:
        nonlocal read
        message = await http.receive()
        read += len(message.get("body", b""))
        if read > most:
            raise ApiError(413, f"A request's body has at most {most:,} bytes here.")
        return message

    return receive


def _paging(http: Request, most: int = MOST) -> tuple[str | None, int]:
    given = http.query_params.get("limit", "20" if most == MOST else str(most))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= most:
        raise ApiError(400, f"limit is a whole number from 1 to {most}.", param="limit")
    return http.query_params.get("after"), int(given)


async def _read(http: Request, most: int) -> JobRequest:
    body = b""
    async for piece in Request(http.scope, _limited(http, most)).stream():
        body += piece
    try:
        return JobRequest.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise ApiError(400, "The body is no JSON.") from None
        found = error.errors(include_url=False, include_input=False, include_context=False)
        # of a field that may be several things, what the last of them wants says most
        first = next(e for e in reversed(found) if e["loc"][:2] == found[0]["loc"][:2])
        where = (
            ".".join(p for p in map(str, first["loc"][:4]) if p.isidentifier() and p not in ("int", "float")) or None
        )
        said = "this field is not served" if first["type"] == "extra_forbidden" else first["msg"]
        said = said.removeprefix("Value error, ")
        raise ApiError(400, f"{where}: {said}" if where else said, param=where) from None
