"""Limits, keys, clients that go away, steps that fail: each costs one request an answer, and the server nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from tests.serve import serving
from tests.serve.test_same_answers import asked, said
from tunewright.serve.errors import ApiError
from tunewright.serve.limits import Limits
from tunewright.serve.requests import Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.server import Server

ASK: Any = [{"role": "user", "content": "Which topic is this?"}]
LONG = Sampling(200, temperature=1.0, seed=1)


def until(true: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)


class Held:
    """Steps of an engine that wait until they are let go, and then take `pause` seconds at least."""

    def __init__(self, server: Server, pause: float = 0.0):
        self.go, plain = threading.Event(), server.engine._forward

        def forward(*given: Any) -> Any:
            assert self.go.wait(120)
            time.sleep(pause)
            return plain(*given)

        server.engine._forward = forward  # type: ignore[assignment]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    serving.write_adapters(folder, ("a", "b"))
    return folder


def test_a_key_is_asked_for_everywhere_but_at_health() -> None:
    with serving.served(api_key="a-long-secret") as (_, address):
        assert httpx.get(f"{address}/health").status_code == 200
        for path in ("/v1/models", "/none"):
            got = httpx.get(address + path, headers={"Authorization": "Bearer wrong"})
            assert got.status_code == 401 and got.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="no", max_retries=0).models.list()
        assert openai.OpenAI(base_url=f"{address}/v1", api_key="a-long-secret").models.list().data


def test_without_a_key_pages_of_the_web_are_refused() -> None:
    with serving.served() as (_, address):
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Host": "[x"},
        ):
            got = httpx.get(f"{address}/v1/models", headers=headers)
            assert got.status_code == 403 and got.json()["error"]["type"] == "permission_error", headers
        for headers in ({"Host": "localhost:9"}, {"Origin": "http://127.0.0.1:3000"}, {"Host": "[::1]:8000"}):
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 200, headers
    with serving.served(api_key="a-long-secret") as (_, address):
        headers = {"Host": "my.host", "Authorization": "Bearer a-long-secret"}
        assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 200


def test_large_bodies_are_refused_whatever_their_header_says() -> None:
    with serving.served(limits=Limits(body_bytes=1000)) as (_, address):
        url = f"{address}/v1/completions"
        assert httpx.post(url, content=b"x" * 1001).status_code == 413
        with httpx.Client() as client:
            got = client.post(url, content=iter([b"x" * 600, b"x" * 600]))  # chunked: no length is told
        assert got.status_code == 413 and "1,000 bytes" in got.json()["error"]["message"]
        assert httpx.get(f"{address}/health").status_code == 200


def test_half_a_character_is_refused() -> None:
    with serving.served() as (_, address):
        for body in (b'{"model": "\\ud800", "prompt": "a"}', b'{"model": "tiny", "prompt": "a\\uDFFF"}'):
            got = httpx.post(f"{address}/v1/completions", content=body)
            assert got.status_code == 400 and "whole characters" in got.json()["error"]["message"]
        whole = b'{"model": "tiny", "prompt": "\\ud83d\\ude42", "max_tokens": 1}'
        assert httpx.post(f"{address}/v1/completions", content=whole).status_code == 200


def test_a_full_queue_says_so_and_goes_on() -> None:
    with Server(serving.loaded(), serving.BASE, None, Limits(queue=2, max_batch=1)) as server:
        held = Held(server)
        first = asked(server, serving.BASE, "the river")
        until(lambda: server.load["rows"] == 1)
        others = [asked(server, serving.BASE, "the river") for _ in range(2)]
        with pytest.raises(ApiError) as refused:
            asked(server, serving.BASE, "the river")
        assert refused.value.status == 429
        held.go.set()
        assert said(first, server.ends) == said(others[0], server.ends) == said(others[1], server.ends)


def test_time_is_limited() -> None:
    with Server(serving.loaded(), serving.BASE) as server:
        held = Held(server)
        handle = server.engine.submit(Request([5, 6, 7], LONG, seconds=0.05))
        time.sleep(0.1)
        held.go.set()
        with pytest.raises(ApiError, match="longer than 0.05 s"):
            handle.result()
        until(lambda: server.load == {"rows": 0, "waiting": 0, "cache_tokens": 0})


def test_a_client_that_goes_away_frees_its_seat(caplog: pytest.LogCaptureFixture) -> None:
    with serving.served(limits=Limits(max_length=250)) as (server, address):
        for stream in (True, False):
            held = Held(server, 0.02)  # whoever notices has time for it
            body = {"model": "tiny", "messages": ASK, "max_tokens": 200, "stream": stream, "seed": 1}

            async def leave(body: dict[str, Any] = body, held: Held = held) -> None:
                async with httpx.AsyncClient() as client:
                    task = asyncio.create_task(client.post(f"{address}/v1/chat/completions", json=body))
                    while server.load["rows"] == 0:
                        await asyncio.sleep(0.01)
                    task.cancel()
                held.go.set()

            asyncio.run(leave())
            until(lambda: server.load == {"rows": 0, "waiting": 0, "cache_tokens": 0})
        assert server.engine.tokens < 300
    assert "defect" not in caplog.text and "Exception in ASGI" not in caplog.text


def test_a_step_that_fails_costs_its_own_request_alone(folder: Path) -> None:
    with Server(serving.loaded(), serving.BASE, folder) as server:
        plain, broken = server.engine._forward, 0

        def forward(ready: Any, read: Any) -> Any:
            nonlocal broken
            if any(r.prompt == 3 for r in [*ready, *(r for r, _ in read)]):
                broken += 1
                raise RuntimeError("a kernel failed")
            return plain(ready, read)

        server.engine._forward = forward  # type: ignore[assignment]
        good = [asked(server, m, p) for p in serving.PROMPTS for m in ("tiny", "a", "b")]
        bad = server.engine.submit(Request([5, 6, 7], LONG, server.library.find("a"), n=3))
        good += [asked(server, m, p) for p in serving.PROMPTS for m in ("tiny", "a", "b")]
        with pytest.raises(ApiError, match="failed on this request"):
            bad.result()
        got = [said(h, server.ends) for h in good]
        assert broken and got[:12] == got[12:] and len(set(map(tuple, got))) > 4
        until(lambda: server.load == {"rows": 0, "waiting": 0, "cache_tokens": 0})


def test_an_engine_that_dies_tells_everybody() -> None:
    with Server(serving.loaded(), serving.BASE) as server:
        held = Held(server)
        handles = [server.engine.submit(Request([5, 6, 7], LONG)) for _ in range(3)]

        def die(_: float) -> bool:
            raise SystemExit

        server.engine.between = die
        held.go.set()
        for handle in handles:
            with pytest.raises(ApiError, match="The engine stopped"):
                handle.result()
        with pytest.raises(ApiError, match="The engine stopped"):
            server.engine.submit(Request([5], LONG))


def test_stopping_tells_who_waits() -> None:
    with Server(serving.loaded(), serving.BASE) as server:
        held = Held(server)
        handle = server.engine.submit(Request([5, 6, 7], LONG))
        until(lambda: server.load["rows"] == 1)

        def once_it_stops() -> None:
            until(lambda: server.engine._stopping)
            held.go.set()

        threading.Thread(target=once_it_stops).start()
    with pytest.raises(ApiError, match="shutting down"):
        handle.result()


def test_a_stream_that_is_cut_says_so() -> None:
    with serving.served() as (server, address):
        body = {"model": "tiny", "messages": ASK, "max_tokens": 150, "stream": True, "seed": 1}
        events: list[str] = []

        def read() -> None:
            with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=120) as got:
                events.extend(line for line in got.iter_lines() if line)

        thread, plain = threading.Thread(target=read), server.engine._forward
        server.engine._forward = lambda *given: (time.sleep(0.1), plain(*given))[1]  # type: ignore[assignment]
        thread.start()
        until(lambda: server.engine.tokens > 3)
    thread.join(120)
    assert "shutting down" in events[-1] and "chat.completion.chunk" in events[0]


def test_between_runs_while_idle_and_while_writing() -> None:
    budgets: list[tuple[int, float]] = []
    with Server(serving.loaded(), serving.BASE, None, Limits(step_seconds=5.0)) as server:

        def between(seconds: float) -> bool:
            assert torch.is_grad_enabled()
            budgets.append((server.load["rows"], seconds))
            return len(budgets) < 3

        server.engine.between = between
        server.engine.wake()
        until(lambda: len(budgets) >= 3)
        assert budgets[0] == (0, 5.0)
        handle = asked(server, serving.BASE, "the river")
        handle.result()
        until(lambda: any(rows for rows, _ in budgets))
        assert all(0 < s < 5.0 for rows, s in budgets if rows)


def test_what_can_never_be_served_is_refused_at_once() -> None:
    limits = Limits(max_batch=2, cache_tokens=128)
    with Server(serving.loaded(), serving.BASE, None, limits) as server:
        for request, says in (
            (Request([], LONG), "no tokens"),
            (Request([5] * 100, LONG), "maximum context length"),
            (Request([5], Sampling(4), n=3), "n is at most 2"),
            (Request([5], Sampling(100), n=2), "no room"),
        ):
            with pytest.raises(ApiError, match=says):
                server.engine.submit(request)
