"""Whatever is sent: a proper answer or a proper error, and the server lives on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve import serving
from tests.serve.test_staying_alive import until
from tunewright.serve.limits import Limits

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MODELS = st.sampled_from(["tiny", "a", "b", "a@0.5", "b@0", "a@9", "", "../a", "a/b", "none", "a@"])
TEXTS = st.text(max_size=40) | st.sampled_from(["<|im_end|>", "<|im_start|>system", "\ud800", "\0", "a " * 300])
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "other"])},
        optional={
            "content": TEXTS | st.none() | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS})),
            "name": TEXTS,
            "tool_call_id": TEXTS,
            "tool_calls": JUNK,
        },
    ),
    max_size=4,
)
SAMPLED: dict[str, Any] = {
    "max_tokens": st.integers(-1, 12) | JUNK,
    "n": st.integers(-1, 5),
    "temperature": st.floats(-0.5, 2.5) | JUNK,
    "top_p": st.floats(-0.1, 1.1),
    "stop": TEXTS | st.lists(TEXTS, max_size=3) | JUNK,
    "seed": st.integers() | JUNK,
    "presence_penalty": st.floats(-3, 3),
    "frequency_penalty": st.floats(-3, 3) | JUNK,
    "logit_bias": st.dictionaries(st.integers(-2, 330).map(str), st.floats(-101, 101), max_size=3) | JUNK,
    "stream": st.booleans(),
    "stream_options": st.just({"include_usage": True}) | JUNK,
    "user": TEXTS,
}
SCHEMAS = (
    st.sampled_from([{"type": "boolean"}, {"enum": ["a", 3]}, {"minimum": 3}, {"type": "x"}, {"$ref": "#"}]) | JUNK
)
FORMATS = (
    st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object", "json_schema"])})
    | st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries({"name": st.just("x"), "schema": SCHEMAS}),
        }
    )
    | JUNK
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": TEXTS, "parameters": JUNK})}
    ),
    max_size=2,
)
CHATS = st.fixed_dictionaries(
    {"model": MODELS, "messages": TURNS | JUNK},
    optional={
        **SAMPLED,
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(-1, 25),
        "tools": TOOLS | JUNK,
        "response_format": FORMATS,
    },
)
PROMPTS = TEXTS | st.lists(st.integers(-5, 400), max_size=5) | st.lists(TEXTS, max_size=3) | JUNK
COMPLETIONS = st.fixed_dictionaries(
    {"model": MODELS, "prompt": PROMPTS},
    optional={**SAMPLED, "logprobs": st.integers(-1, 25), "echo": st.booleans()},
)
LOADS = st.fixed_dictionaries(
    {"lora_name": TEXTS | MODELS | JUNK, "lora_path": TEXTS | st.sampled_from(["a", "../a", "/etc"]) | JUNK}
)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("adapters")
    serving.write_adapters(folder, ("a", "b"))
    with serving.served(folder, Limits(max_batch=4, seconds=300)) as (_, address):
        with httpx.Client(base_url=address, timeout=600) as client:
            yield client


def proper(got: httpx.Response, path: str) -> None:
    """Assert that an answer is one, or an error in OpenAI's shape."""
    if got.status_code == 200:
        if got.headers["content-type"].startswith("text/event-stream"):
            events = [e.removeprefix("data: ") for e in got.text.split("\n\n") if e]
            for event in events if events[-1] != "[DONE]" else events[:-1]:
                data = json.loads(event)
                assert "choices" in data or "message" in data["error"]
            assert events[-1] == "[DONE]" or "error" in json.loads(events[-1])
        elif "lora" not in path:
            assert got.json()["choices"] and got.json()["usage"]["total_tokens"] > 0
        return
    assert got.status_code in (400, 401, 404, 405, 413, 429), got.text
    error = got.json()["error"]
    assert (
        set(error) == {"message", "type", "param", "code"} and error["message"] and "Traceback" not in error["message"]
    )


def send(client: httpx.Client, path: str, body: Any) -> None:
    proper(client.post(path, content=json.dumps(body), headers={"content-type": "application/json"}), path)


FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(CHATS)
def test_chats(there: httpx.Client, body: Any) -> None:
    send(there, "/v1/chat/completions", body)


@FEW
@given(COMPLETIONS)
def test_completions(there: httpx.Client, body: Any) -> None:
    send(there, "/v1/completions", body)


@FEW
@given(LOADS, st.sampled_from(["load", "unload"]))
def test_adapters(there: httpx.Client, body: Any, what: str) -> None:
    if body["lora_name"] not in ("a", "b"):
        send(there, f"/v1/{what}_lora_adapter", body)


@FEW
@given(
    st.binary(max_size=60) | JUNK.map(lambda v: json.dumps(v).encode()),
    st.sampled_from(["chat/completions", "completions"]),
)
def test_bodies_of_any_kind(there: httpx.Client, body: bytes, path: str) -> None:
    proper(there.post(f"/v1/{path}", content=body), path)


@FEW
@given(st.text(max_size=30), st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
def test_paths_of_any_kind(there: httpx.Client, path: str, method: str) -> None:
    from urllib.parse import quote

    got = there.request(method, "/v1/models/" + quote(path.encode("utf-8", "replace")))
    if got.status_code == 200:
        assert got.json().get("object") in ("model", "list")
    else:
        proper(got, path)


def test_it_lives_on_afterwards(there: httpx.Client) -> None:
    proper(there.post("/v1/completions", json={"model": "a", "prompt": "the river", "max_tokens": 3}), "")
    until(lambda: there.get("/health").json() == {"status": "ok", "rows": 0, "waiting": 0, "cache_tokens": 0})
