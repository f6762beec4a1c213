"""The HTTP side: routes, and what holds for all of them: who may ask, how large a body is, how errors look."""

from __future__ import annotations

import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Http
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewright.serve import answers, schemas, streams
from tunewright.serve.adapters import STRONGEST
from tunewright.serve.answers import Envelope
from tunewright.serve.errors import ApiError
from tunewright.serve.requests import Handle, Result, gathered
from tunewright.serve.running import is_loopback
from tunewright.serve.server import Server
from tunewright.serve.vectors import VectorServer

log = logging.getLogger(__name__)
OPEN = ("/health",)
"""Paths that anybody may ask."""

Body = TypeVar("Body", bound=BaseModel)


def build(
    server: Server | VectorServer,
    *,
    extra_routes: Sequence[BaseRoute] = (),
    api_key: str | None = None,
    beside: Sequence[AbstractContextManager[Any]] = (),
    bodies: Mapping[str, int] | None = None,
) -> Starlette:
    """The application. `extra_routes` are held to the same key and sizes as our own, but for paths that `bodies` names
    with what a body has at most. `beside`: what runs as long as the server does.
    """
    api: Texts | Vectors = Texts(server) if isinstance(server, Server) else Vectors(server)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with ExitStack() as stack:
            for one in (server, *beside):
                stack.enter_context(one)
            yield

    routes: list[BaseRoute] = [
        Route("/health", api.health),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        *(Route(f"/v1/{path}", served, methods=["POST"]) for path, served in api.posts.items()),
        *extra_routes,
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _defect,
        },
    )
    app.state.server = server
    app.add_middleware(Gate, key=api_key, most=server.limits.body_bytes, bodies=bodies or {})
    return app


class Gate:
    """Who may ask, and how much: before any route, of ours or of others."""

    def __init__(self, app: ASGIApp, key: str | None, most: int, bodies: Mapping[str, int]):
        self.app, self.key, self.most, self.bodies = app, key, most, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.lower(): v for k, v in scope["headers"]}
        if self.key is not None and scope["path"] not in OPEN and not self._knows(headers):
            error = ApiError(401, "This server wants its API key as a bearer token.", code="invalid_api_key")
            await _json(error)(scope, receive, send)
            return
        if self.key is None and not _from_here(headers):
            # a page of the web, in a browser of this machine, is somebody else
            error = ApiError(403, "Without an API key this server answers programs of this machine alone.")
            await _json(error)(scope, receive, send)
            return
        length, most = headers.get(b"content-length", b"0"), self.bodies.get(scope["path"], self.most)
        if not length.isdigit() or int(length) > most:
            await _json(_too_large(most))(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _too_large(most)
            return message

        await self.app(scope, limited, send)

    def _knows(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the key stands where OpenAI's clients write it, or where Tinker's do."""
        key = (self.key or "").encode()
        as_bearer = hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + key)
        return as_bearer or hmac.compare_digest(headers.get(b"x-api-key", b""), key)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"A request's body has at most {most:,} bytes here.")


Endpoint = Callable[[Http], Awaitable[Response]]
PATHS = ("chat/completions", "completions", "embeddings", "load_lora_adapter", "unload_lora_adapter")


def _from_here(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the names that a request was sent to, and from, are this machine's."""
    given = [b"//" + headers.get(b"host", b"localhost")]
    given += [headers[b"origin"]] if b"origin" in headers else []
    try:
        return all(is_loopback(urlsplit(g.decode("latin-1")).hostname or "") for g in given)
    except ValueError:
        return False


class _Api:
    """The routes that every server has. `posts`: what answers at each path below /v1."""

    def __init__(self, server: Server | VectorServer, posts: Mapping[str, Endpoint]):
        self._about, kinds = server, {"text": "writes text", "vectors": "makes vectors of texts"}

        async def refused(_: Http) -> Response:
            raise ApiError(400, f"The model '{server.name}' {kinds[server.kind]}: this is not served for it.")

        self.posts: dict[str, Endpoint] = {path: posts.get(path, refused) for path in PATHS}

    async def health(self, _: Http) -> Response:
        return JSONResponse({"status": "ok", **self._about.load})

    async def models(self, _: Http) -> Response:
        names = [self._about.name, *await run_in_threadpool(self._about.library.names)]
        described = await run_in_threadpool(lambda: [self._described(n) for n in names])
        return JSONResponse({"object": "list", "data": described})

    async def model(self, http: Http) -> Response:
        name = http.path_params["name"]
        await run_in_threadpool(self._about.library.find, name)
        return JSONResponse(await run_in_threadpool(self._described, name))

    def _described(self, name: str) -> dict[str, Any]:
        server = self._about
        about = {"id": name, "object": "model", "created": server.started, "owned_by": "tunewright"}
        base = None if name == server.name else server.name
        about |= {"root": server.name, "parent": base, "max_model_len": server.limits.max_length}
        engine = server.engine if isinstance(server, Server) else None
        dialled = not getattr(engine, "full_strength", False) and server.library.takes_strength(name.partition("@")[0])
        return about | {"strengths": [0.0, STRONGEST] if dialled else None}


class Vectors(_Api):
    """The routes of a server that makes vectors."""

    def __init__(self, server: VectorServer):
        super().__init__(server, {"embeddings": self.embeddings})
        self.server = server

    async def embeddings(self, http: Http) -> Response:
        asked = await _read(http, schemas.EmbeddingRequest)
        return JSONResponse(await run_in_threadpool(self.server.embed, asked))


class Texts(_Api):
    """The routes of a server that writes."""

    def __init__(self, server: Server):
        posts: dict[str, Endpoint] = {
            "chat/completions": self.chat,
            "completions": self.completions,
            "load_lora_adapter": self.load,
            "unload_lora_adapter": self.unload,
        }
        super().__init__(server, posts)
        self.server = server

    async def chat(self, http: Http) -> Response:
        asked = await _read(http, schemas.ChatRequest)
        made = await run_in_threadpool(self.server.chat, asked)
        handle = self.server.engine.submit(made.requests[0])
        envelope, tokenizer = Envelope("chat.completion", asked.model), self.server.tokenizer
        if asked.stream:
            counted = asked.stream_options is not None and asked.stream_options.include_usage
            events = streams.chat_events(
                handle, envelope, tokenizer, made.form, made.calls, logprobs=asked.logprobs, counted=counted
            )
            return await _streamed(events, [handle])
        choices = []
        for i, result in enumerate(await _whole(http, [handle])):
            message, reason = answers.message(result, made.form, made.calls)
            choice: answers.Json = {"index": i, "message": message, "finish_reason": reason, "logprobs": None}
            if asked.logprobs:
                choice["logprobs"] = answers.chat_logprobs(tokenizer, result.said)
            choices.append((choice, len(result.said)))
        usage = answers.usage(len(handle.request.prompt), sum(n for _, n in choices), handle.cached)
        return JSONResponse(envelope.whole([c for c, _ in choices], usage))

    async def completions(self, http: Http) -> Response:
        asked = await _read(http, schemas.CompletionRequest)
        made = await run_in_threadpool(self.server.completion, asked)
        handles = self._submitted(made.requests)
        tokenizer, envelope = self.server.tokenizer, Envelope("text_completion", asked.model)
        before = [
            tokenizer.decode(list(r.prompt), skip_special_tokens=True) if asked.echo else "" for r in made.requests
        ]
        if asked.stream:
            counted = asked.stream_options is not None and asked.stream_options.include_usage
            shown = asked.logprobs is not None
            events = streams.text_events(handles, envelope, tokenizer, before, logprobs=shown, counted=counted)
            return await _streamed(events, handles)
        choices, written = [], 0
        for i, result in enumerate(await _whole(http, handles)):
            written += len(result.said)
            text = before[i // asked.n] + result.text
            choice: answers.Json = {"index": i, "text": text, "finish_reason": result.reason, "logprobs": None}
            if asked.logprobs is not None:
                choice["logprobs"] = answers.text_logprobs(tokenizer, result.said)
            choices.append(choice)
        prompt, cached = sum(len(h.request.prompt) for h in handles), sum(h.cached for h in handles)
        return JSONResponse(envelope.whole(choices, answers.usage(prompt, written, cached)))

    def _submitted(self, requests: Sequence[Any]) -> list[Handle]:
        handles: list[Handle] = []
        if len(requests) > (most := self.server.limits.queue):
            raise ApiError(
                400, f"{len(requests)} prompts are more than wait here ({most}): send fewer.", param="prompt"
            )
        try:
            for request in requests:
                handles.append(self.server.engine.submit(request))
        except ApiError:
            for handle in handles:
                handle.cancel()
            raise
        return handles

    async def load(self, http: Http) -> Response:
        asked = await _read(http, schemas.LoadAdapter)
        await run_in_threadpool(self.server.library.load, asked.lora_name, asked.lora_path)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, http: Http) -> Response:
        asked = await _read(http, schemas.UnloadAdapter)
        await run_in_threadpool(self.server.library.unload, asked.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")


async def _read(http: Http, kind: type[Body]) -> Body:
    """A request's body. ApiError (400) names what is wrong, and where."""
    try:
        body = await http.body()
        given = json.loads(body)
        if b"\\u" in body:  # half of a character can be escaped, and neither read as text nor sent back
            json.dumps(given, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is no JSON of whole characters.") from None
    if not isinstance(given, dict):
        raise ApiError(400, "The body is no JSON object.")
    try:
        return kind.model_validate(given)
    except ValidationError as problem:
        first = _first(problem)
        where = ".".join(str(p) for p in first["loc"] if not _IS_TYPE.search(str(p))) or None
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = "this field is not served"
        raise ApiError(400, f"{where}: {said}" if where else said, param=where) from None


_IS_TYPE = re.compile(r"[\[(]|^str$")
"""A part of a place that names one of several types which a value may have."""


def _first(problem: ValidationError) -> Any:
    """The first fault; of a value that may have several types, that of the type which it comes nearest to."""
    every = problem.errors(include_url=False, include_input=False, include_context=False)
    place = every[0]["loc"]
    owner = place[:-1] if place and _IS_TYPE.search(str(place[-1])) else place
    same = [e for e in every if e["loc"][: len(owner)] == owner]
    return min(same, key=lambda e: (e["type"].endswith("_type"), -len(e["loc"])))


async def _whole(http: Http, handles: Sequence[Handle]) -> list[Result]:
    """All answers of all handles, in order. A client that goes away lets its rows go."""
    pieces: list[list[Any]] = [[] for _ in handles]

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect

    async def collect(group: anyio.abc.TaskGroup) -> None:
        async for i, piece in streams.merged(handles):
            pieces[i].append(piece)
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(gone)
            await collect(group)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    finally:
        for handle in handles:
            handle.cancel()
    return [r for h, own in zip(handles, pieces, strict=True) for r in gathered(h.request.n, own)]


async def _streamed(events: AsyncIterator[str], handles: Sequence[Handle]) -> Response:
    """A stream, once its first event is there: what fails before is an error with a status."""

    async def all_events(first: str) -> AsyncIterator[str]:
        try:
            yield first
            async for one in events:
                yield one
        except ApiError as error:
            yield streams.event(error.body())
        finally:
            for handle in handles:
                handle.cancel()

    try:
        first = await anext(events)
    except BaseException:
        for handle in handles:
            handle.cancel()
        raise
    return StreamingResponse(all_events(first), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _json(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status)


async def _api_error(_: Http, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error)


async def _http_error(http: Http, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: f"There is nothing at {http.url.path[:200]}.", 405: f"{http.method} is not served here."}
    return _json(ApiError(error.status_code, what.get(error.status_code, error.detail)))


async def _gone(_: Http, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _defect(_: Http, error: Exception) -> Response:
    log.error("a request met a defect", exc_info=error)
    return _json(ApiError(500, f"The server failed on this request ({type(error).__name__})."))
