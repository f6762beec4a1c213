"""The API as the real `openai` client uses it, against a server on a free port."""

from __future__ import annotations

import re
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
    picture = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    for asked, says in (
        (
            {"messages": [{"role": "user", "content": picture}]},
            r"messages\.0\.content\.0\.type: Input should be 'text'",
        ),
        ({"messages": ASK, "stop": [str(i) for i in range(100)]}, "stop: List should have at most 16 items"),
    ):
        with pytest.raises(openai.BadRequestError, match=says):
            client.chat.completions.create(model="tiny", **asked)  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError, match="3000 prompts are more than wait here"):
        client.completions.create(model="tiny", prompt=["a"] * 3000, max_tokens=1)
    assert httpx.get(f"{there[1]}/v1/none").json()["error"]["type"] == "not_found_error"


def test_the_pages_client_runs(there: tuple[Server, str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0]
    code = code.replace("http://127.0.0.1:8000", there[1]).replace("tickets", "a").replace("[...]", repr(ASK))
    names: dict[str, object] = {}
    exec(code.replace("client.chat", "got = client.chat"), names)
    last = list(names["got"])[-1].choices[0]  # type: ignore[call-overload]
    assert last.finish_reason in ("stop", "length")  # it is drawn: its first token may be its end


def test_odd_turns_and_fields_are_told_apart(client: openai.OpenAI) -> None:
    for turns, says in (
        ([], "at least 1 item"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages.0.content"),
        ([{"role": "other", "content": "a"}], "messages.0.role"),
    ):
        with pytest.raises(openai.BadRequestError, match=says):
            client.chat.completions.create(model="tiny", messages=turns)  # type: ignore[arg-type]


def test_several_prompts_answers_and_echo(client: openai.OpenAI) -> None:
    how = {"model": "a", "prompt": ["the river", "In 1999"], "n": 2, "max_tokens": 4, "temperature": 0}
    plain = client.completions.create(**how)  # type: ignore[call-overload]
    echoed = client.completions.create(**how, echo=True)  # type: ignore[call-overload]
    assert [c.index for c in plain.choices] == [0, 1, 2, 3] and plain.choices[0].text == plain.choices[1].text
    for i, (bare, whole) in enumerate(zip(plain.choices, echoed.choices, strict=True)):
        assert whole.text == how["prompt"][i // 2] + bare.text  # type: ignore[index]
    stream = list(client.completions.create(**how, echo=True, stream=True))  # type: ignore[call-overload]
    for i, whole in enumerate(echoed.choices):
        assert "".join(c.choices[0].text for c in stream if c.choices[0].index == i) == whole.text


def test_a_stop_text_ends_an_answer(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="a", prompt="the river", max_tokens=20, temperature=0).choices[0].text
    stop = whole[len(whole) // 2 :][:2]
    cut = client.completions.create(model="a", prompt="the river", max_tokens=20, temperature=0, stop=stop).choices[0]
    assert cut.finish_reason == "stop" and cut.text == whole[: whole.find(stop)]


def test_developers_speak_as_the_system(client: openai.OpenAI) -> None:
    got = [
        client.chat.completions.create(
            model="a",
            messages=[{"role": role, "content": "Be brief"}, *ASK],
            temperature=0,
            max_tokens=6,  # type: ignore[list-item, misc]
        )
        for role in ("system", "developer")
    ]
    assert got[0].choices[0].message.content == got[1].choices[0].message.content
    assert [g.usage and g.usage.prompt_tokens for g in got][0] == got[1].usage.prompt_tokens  # type: ignore[union-attr]
