"""`--engine vllm`, with a module that stands in for vLLM: what it is given, and what is refused by name."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from tests import tiny
from tests.serve import serving
from tunewright.errors import MethodError, MissingExtraError
from tunewright.serve.limits import Limits
from tunewright.serve.opening import open_server
from tunewright.serve.vllm_engine import arguments, sampling_params

SEEN: dict[str, Any] = {}


class FakeEngine:
    @classmethod
    def from_engine_args(cls, args: Any) -> FakeEngine:
        SEEN["engine"] = args.given
        return cls()

    async def generate(self, prompt: Any, params: Any, name: str, lora_request: Any = None) -> AsyncIterator[Any]:
        SEEN.update(prompt=prompt["prompt_token_ids"], params=params.given, lora=lora_request)
        if params.given["max_tokens"] == 13:
            raise RuntimeError("out of luck")
        for i, text in enumerate(["Hel", "Hello", "Hello there"]):
            ids = list(range(10, 11 + i))
            shares = [{t: SimpleNamespace(logprob=-0.5, rank=1), 3: SimpleNamespace(logprob=-1.0, rank=2)} for t in ids]
            end = "length" if i == 2 else None
            outputs = [
                SimpleNamespace(index=k, text=text, token_ids=ids, finish_reason=end, logprobs=shares)
                for k in range(params.given["n"])
            ]
            yield SimpleNamespace(outputs=outputs)
            await asyncio.sleep(0)

    async def abort(self, name: str) -> None:
        SEEN["aborted"] = name


class Keeps:
    def __init__(self, **given: Any):
        self.given = given


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module, lora, request = (types.ModuleType(n) for n in ("vllm", "vllm.lora", "vllm.lora.request"))
    vars(module).update(AsyncEngineArgs=Keeps, AsyncLLMEngine=FakeEngine, SamplingParams=Keeps)
    vars(request).update(LoRARequest=lambda *given: given)
    module.__spec__ = importlib.util.spec_from_loader("vllm", None)
    for name, one in (("vllm", module), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, one)
    SEEN.clear()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    tiny.llama().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    serving.write_adapters(tmp_path / "root", ("a", "b"))
    return tmp_path / "root"


def test_without_vllm_it_says_so(base: Path) -> None:
    with pytest.raises(MissingExtraError, match="vLLM is not installed"):
        open_server(str(base), engine="vllm")


def test_requests_are_handed_over_whole(vllm: None, base: Path, root: Path) -> None:
    server = open_server(str(base), root, Limits(max_length=200, max_batch=8), engine="vllm")
    assert SEEN["engine"]["max_lora_rank"] == 8 and SEEN["engine"]["max_model_len"] == 200
    assert SEEN["engine"]["model"] == str(base) and not SEEN["engine"]["trust_remote_code"]
    with serving.serving(server) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        got = client.completions.create(
            model="b", prompt=[5, 6, 7], max_tokens=9, temperature=0.5, top_p=0.9, seed=4, stop=["x"], n=2, logprobs=1
        )
        assert [c.text for c in got.choices] == ["Hello there"] * 2 and got.choices[0].finish_reason == "length"
        assert got.choices[0].logprobs is not None and got.choices[0].logprobs.token_logprobs == [-0.5] * 3
        assert SEEN["prompt"] == [5, 6, 7] and SEEN["lora"][0] == "b" and SEEN["lora"][2] == str(root / "b")
        wanted = {"n": 2, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 4, "stop": ["x"], "logprobs": 1}
        assert wanted.items() <= SEEN["params"].items()
        stream = client.completions.create(model="tiny", prompt="a", max_tokens=9, stream=True)
        assert "".join(c.choices[0].text for c in stream) == "Hello there" and SEEN["lora"] is None
        with pytest.raises(openai.InternalServerError, match="vLLM failed on this request"):
            client.completions.create(model="tiny", prompt="a", max_tokens=13)
        with pytest.raises(openai.BadRequestError, match="full strength alone"):
            client.completions.create(model="b@0.5", prompt="a")
        with pytest.raises(openai.BadRequestError, match="response_format is not served by this engine"):
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "a"}],
                response_format={"type": "json_object"},
                max_tokens=4,
            )


def test_adapters_that_it_would_answer_otherwise_are_refused(vllm: None, base: Path, root: Path) -> None:
    config = root / "a" / "adapter_config.json"
    told = json.loads(config.read_text())
    first = told["target_modules"][0]
    config.write_text(json.dumps(told | {"alpha_pattern": {first: 9.0}}))
    with serving.serving(open_server(str(base), root, engine="vllm")) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="vLLM applies one lora_alpha / r"):
            client.completions.create(model="a", prompt="a")
    config.write_text(json.dumps(told | {"r": 1024}))
    with pytest.raises(MethodError, match="ranks up to 512, and an adapter has 1024"):
        arguments("x", root, Limits(), "float32")


def test_runs_and_vectors_are_refused(vllm: None, base: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("x")
    with pytest.raises(MethodError, match="a run's folder is not served by vLLM"):
        open_server(str(tmp_path), engine="vllm")
    with pytest.raises(MethodError, match="sentence-similarity is not served by vLLM"):
        open_server(str(base), engine="vllm", task="sentence-similarity")


def test_every_field_of_sampling_is_translated() -> None:
    from dataclasses import fields

    from tunewright.serve.requests import Request
    from tunewright.serve.sampling import Sampling

    plain = Request([5], Sampling(4))
    others = {"seed": 1, "stop": ("a",), "ends": frozenset({2}), "logprobs": 2, "logit_bias": {1: 2.0}}
    for field in fields(Sampling):
        value = others.get(field.name, 0.5 if field.name != "max_tokens" else 5)
        changed = Request([5], Sampling(**{"max_tokens": 4, field.name: value}))  # type: ignore[arg-type]
        assert sampling_params(changed) != sampling_params(plain), field.name
