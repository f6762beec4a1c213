"""Calls of tools: told by the template or in words, parsed back from an answer, whole and in a stream."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import torch

from tests import tiny
from tests.serve import serving
from tunewright.measure.calls import HERMES, Form
from tunewright.serve.requests import Piece
from tunewright.serve.streams import _Choice

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {},
        },
    }
]
ASK: Any = [{"role": "user", "content": "Weather in Rome?"}]
SAYS = {
    "call": 'Yes.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    "words": "It is < warm and <tool there",
}


def roomy() -> Any:
    """A model whose prompt has room for what is said of tools."""
    loaded = serving.loaded()
    loaded.model.config.max_position_embeddings = 1024  # type: ignore[union-attr]
    return loaded


def scripted(server: Any, text: str) -> list[int]:
    """Let the model say a text, whatever it is asked; the prompt of its last request is what this returns."""
    tokens, seen = tiny.tokenizer()(text, add_special_tokens=False)["input_ids"], list[int]()

    def forward(ready: Any, read: Any) -> torch.Tensor:
        out = []
        for row in [*ready, *(r for r, _ in read)]:
            seen[:] = row.tokens[: row.prompt]
            at = len(row.tokens) - row.prompt
            logits = torch.zeros(tiny.VOCABULARY)
            logits[tokens[at] if at < len(tokens) else tiny.EOS] = 50.0
            out.append(logits)
        return torch.stack(out)

    server.engine._forward = forward
    return seen


@pytest.mark.parametrize("kind", list(SAYS))
def test_calls_come_back_as_calls(kind: str) -> None:
    with serving.served(loaded=roomy()) as (server, address):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        seen = scripted(server, SAYS[kind])
        how: Any = {"model": "tiny", "messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": 120}
        whole = client.chat.completions.create(**how).choices[0]
        assert "weather" in tiny.tokenizer().decode(seen) and "Weather in Rome?" in tiny.tokenizer().decode(seen)
        chunks = [c.choices[0] for c in client.chat.completions.create(**how, stream=True)]
        bare = client.chat.completions.create(**{**how, "tool_choice": "none"}).choices[0]
    said = "".join(c.delta.content or "" for c in chunks)
    calls = [c for chunk in chunks for c in chunk.delta.tool_calls or ()]
    assert chunks[-1].finish_reason == whole.finish_reason
    if kind == "call":
        assert whole.finish_reason == "tool_calls" and whole.message.content == "Yes." and said.strip() == "Yes."
        assert whole.message.tool_calls is not None
        call: Any = whole.message.tool_calls[0]
        assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Rome"}
        assert calls[0].function is not None and calls[0].function.name == "weather"
        assert json.loads(calls[0].function.arguments or "") == {"city": "Rome"}
    else:
        assert whole.message.content == said == SAYS[kind] and not calls and whole.finish_reason == "stop"
    assert bare.message.tool_calls is None and bare.message.content == SAYS[kind]


def test_turns_with_calls_are_told_to_the_template() -> None:
    turns: Any = [
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "19 degrees"},
    ]
    with serving.served() as (server, address):
        seen = scripted(server, "ok")
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        client.chat.completions.create(model="tiny", messages=turns, max_tokens=4)
        assert "19 degrees" in tiny.tokenizer().decode(seen)
        turns[1]["tool_calls"][0]["function"]["arguments"] = "{city"
        with pytest.raises(openai.BadRequestError, match="no JSON"):
            client.chat.completions.create(model="tiny", messages=turns, max_tokens=4)


def test_one_call_alone_where_several_are_not_wanted() -> None:
    twice = SAYS["call"] + SAYS["call"].removeprefix("Yes.")
    with serving.served(loaded=roomy()) as (server, address):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        scripted(server, twice)
        how: Any = {"model": "tiny", "messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": 300}
        for parallel, count in ((True, 2), (False, 1)):
            whole = client.chat.completions.create(**how, parallel_tool_calls=parallel).choices[0].message
            chunks = client.chat.completions.create(**how, parallel_tool_calls=parallel, stream=True)
            assert len(whole.tool_calls or ()) == count
            assert sum(len(c.choices[0].delta.tool_calls or ()) for c in chunks) == count


@pytest.mark.parametrize("form", [HERMES, Form(""), Form("[TOOL_CALLS]")])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("text", ["plain < words [x] {y", "<tool_call>{nothing", "[TOOL_CALLS] no", "{}"])
def test_text_that_is_no_call_is_all_shown(form: Form, size: int, text: str) -> None:
    choice, said = _Choice(0, form), ""
    for i in range(0, len(text), size):
        last = i + size >= len(text)
        delta, reason = choice.delta(Piece(0, text[i : i + size], (), "stop" if last else None))
        said += delta.get("content", "")
    assert said == text and reason == "stop"
