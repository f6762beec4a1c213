"""The routes of Tinker's protocol, below /api/v1."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tunewright.errors import TunewrightError
from tunewright.serve import errors
from tunewright.serve.errors import ApiError
from tunewright.serve.tinker import asked
from tunewright.serve.tinker.service import Tinker

log = logging.getLogger(__name__)
PROTO = "application/x-protobuf"
WAIT = 10.0
"""Seconds that a client is let wait for a result before it is told to ask again."""
TRAIN = "/api/v1/forward_backward"
BODY = 64 << 20
"""Most bytes of data that are learnt from in one request."""
Body = TypeVar("Body", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]


def routes(tinker: Tinker) -> list[BaseRoute]:
    """Routes below /api/v1. They answer errors by themselves, as Tinker's clients read them."""
    api = _Api(tinker)
    posts: dict[str, Endpoint] = {
        "client/config": api.plain({}),
        "client/dynamic_config": api.plain({}),
        "telemetry": api.plain({"status": "accepted"}),
        "create_session": api.create_session,
        "session_heartbeat": api.heartbeat,
        "sessions/{session}/finish": api.finish,
        "create_model": api.later(asked.CreateModel, tinker.create),
        "unload_model": api.later(asked.OfModel, tinker.unload),
        "get_info": api.info,
        "forward_backward": api.forward_backward,
        "optim_step": api.later(asked.OptimStep, tinker.optim_step),
        "save_weights": api.later(asked.SaveWeights, lambda g: tinker.save(g, "weights")),
        "save_weights_for_sampler": api.later(asked.SaveWeights, lambda g: tinker.save(g, "sampler_weights")),
        "load_weights": api.later(asked.LoadWeights, tinker.load),
        "create_sampling_session": api.sampling_session,
        "asample": api.sample,
        "retrieve_future": api.retrieve,
    }
    gets: dict[str, Endpoint] = {
        "healthz": api.plain({"status": "ok"}),
        "get_server_capabilities": api.capabilities,
        "samplers/{sampler}": api.sampler,
    }
    return [
        *(Route(f"/api/v1/{path}", _told(served), methods=["POST"]) for path, served in posts.items()),
        *(Route(f"/api/v1/{path}", _told(served), methods=["GET"]) for path, served in gets.items()),
    ]


def _told(served: Endpoint) -> Endpoint:
    async def endpoint(http: Request) -> Response:
        try:
            return await served(http)
        except ApiError as error:
            body = {**error.body(), "detail": error.message}
            return JSONResponse(body, status_code=error.status)

    return endpoint


class _Api:
    def __init__(self, tinker: Tinker):
        self._tinker = tinker

    def plain(self, answer: dict[str, Any]) -> Endpoint:
        async def endpoint(http: Request) -> Response:
            return JSONResponse(answer)

        return endpoint

    def later(self, kind: type[Body], do: Callable[[Body], str]) -> Endpoint:
        async def endpoint(http: Request) -> Response:
            given = await _read(http, kind)
            return JSONResponse({"request_id": await run_in_threadpool(do, given)})

        return endpoint

    async def create_session(self, http: Request) -> Response:
        return JSONResponse({"type": "create_session", "session_id": self._tinker.session()})

    async def heartbeat(self, http: Request) -> Response:
        given = await _json(http)
        self._tinker.alive(str(given.get("session_id")))
        return JSONResponse({"type": "session_heartbeat"})

    async def finish(self, http: Request) -> Response:
        self._tinker.finish(http.path_params["session"])
        return JSONResponse({})

    async def capabilities(self, http: Request) -> Response:
        server = self._tinker.server
        own = {"model_name": server.name, "max_context_length": server.limits.max_length}
        return JSONResponse({"supported_models": [own | {"trainable": True, "sampleable": True}]})

    async def sampler(self, http: Request) -> Response:
        given = http.path_params["sampler"]
        found = self._tinker.sampler(given)
        told = {"sampler_id": given, "base_model": self._tinker.server.name, "model_path": found.path}
        return JSONResponse(told)

    async def info(self, http: Request) -> Response:
        model = self._tinker.model((await _read(http, asked.OfModel)).model_id)
        name = self._tinker.server.name
        about = {"model_name": name, "tokenizer_id": name}
        told = {"model_data": about, "model_id": model.id, "is_lora": True, "lora_rank": model.change.shape.rank}
        return JSONResponse({"type": "get_info", "model_name": name, **told})

    async def forward_backward(self, http: Request) -> Response:
        body = await http.body()
        return JSONResponse({"request_id": await run_in_threadpool(self._tinker.forward_backward, body)})

    async def sample(self, http: Request) -> Response:
        given = await _read(http, asked.Sample)
        number = await run_in_threadpool(self._tinker.sample, given)
        ids = [f"{number}-{i}" for i in range(given.num_samples)]
        return JSONResponse({"request_id": number, "sample_sequence_ids": ids})

    async def sampling_session(self, http: Request) -> Response:
        given = await _read(http, asked.SamplingSession)
        opened = await run_in_threadpool(self._tinker.sampling_session, given)
        return JSONResponse({"type": "create_sampling_session", "sampling_session_id": opened})

    async def retrieve(self, http: Request) -> Response:
        given = (await _read(http, asked.Retrieve)).request_id
        future = self._tinker.result(given)
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(lambda f: f.cancelled() or f.exception())  # it is told below, and not by asyncio
        await asyncio.wait([waiting], timeout=WAIT)
        if not future.done():
            return JSONResponse({"type": "try_again", "request_id": given, "queue_state": "active"})
        return _answer(future)


def _answer(future: Future[Any]) -> Response:
    error = future.exception()
    if error is None:
        told = future.result()
        return Response(told, media_type=PROTO) if isinstance(told, bytes) else JSONResponse(told)
    if isinstance(error, TunewrightError):
        error = errors.of(error)
    if isinstance(error, ApiError):
        return JSONResponse({"error": error.message, "category": "user" if error.status < 500 else "server"})
    log.error("a request of a training loop failed", exc_info=error)
    return JSONResponse({"error": f"The server failed on this request ({type(error).__name__}).", "category": "server"})


async def _json(http: Request) -> dict[str, Any]:
    try:
        given = json.loads(await http.body())
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is no JSON.") from None
    if not isinstance(given, dict):
        raise ApiError(400, "The body is no JSON object.")
    return given


async def _read(http: Request, kind: type[Body]) -> Body:
    try:
        return kind.model_validate(await _json(http))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"][:4]))
        raise ApiError(400, f"{where}: {first['msg']}", param=where) from None
