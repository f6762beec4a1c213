"""The API as the real `openai` client uses it, against a server on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests import tiny
from tests.serve import serving
from tunewright.serve.server import Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    serving.write_adapters(folder, ("a", "b"))
    return folder


@pytest.fixture(scope="module")
def there(folder: Path) -> Iterator[tuple[Server, str]]:
    with serving.served(folder) as both:
        yield both


@pytest.fixture(scope="module")
def client(there: tuple[Server, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{there[1]}/v1", api_key="none", max_retries=0)


ASK = [{"role": "user", "content": "Which topic is this?"}]


def chat_ids(text: str) -> list[int]:
    turns = [{"role": "user", "content": text}]
    shown = tiny.tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tiny.tokenizer()(shown, add_special_tokens=False)["input_ids"])


def test_models_are_the_base_and_the_adapters(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny", "a", "b"]
    assert client.models.retrieve("a@0.75").id == "a@0.75"


@pytest.mark.parametrize("model", ["tiny", "a", "b@0.5"])
def test_a_chat_says_what_the_adapter_says_alone(client: openai.OpenAI, folder: Path, model: str) -> None:
    got = client.chat.completions.create(model=model, messages=ASK, temperature=0, max_tokens=9)  # type: ignore[arg-type]
    name, _, dial = model.partition("@")
    prompt = chat_ids(ASK[0]["content"])
    ids = serving.alone(None if name == "tiny" else name, folder, prompt, 9, float(dial or 1))
    assert got.choices[0].message.content == tiny.tokenizer().decode(ids, skip_special_tokens=True)
    assert got.usage is not None and got.usage.prompt_tokens == len(prompt) and got.model == model
    assert got.usage.completion_tokens in (len(ids), len(ids) + 1)  # the token that ends it counts
    assert got.choices[0].finish_reason == ("length" if len(ids) == 9 else "stop")


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="a", messages=ASK, temperature=0, max_tokens=9)  # type: ignore[arg-type]
    stream = client.chat.completions.create(
        model="a",
        messages=ASK,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_errors_have_openais_shape(client: openai.OpenAI, there: tuple[Server, str]) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="c", messages=ASK)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.completions.create(model="tiny", prompt="a " * 400, max_tokens=4)
    with pytest.raises(openai.BadRequestError, match="best_of: this field is not served"):
        client.completions.create(model="tiny", prompt="a", best_of=2)
    assert httpx.get(f"{there[1]}/v1/none").json()["error"]["type"] == "not_found_error"
