"""A server answers with trained prompts and prefixes as their methods do alone, beside rows of other adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import nn

from tests import tiny
from tests.serve import serving
from tests.serve.test_same_answers import asked, ids, said
from tunewright.measure.generate import greedy
from tunewright.models.prefix import prefixed, save_prefix, sizes
from tunewright.models.prompt import prompted, save_prompt
from tunewright.serve.before import VIRTUAL
from tunewright.serve.errors import ApiError
from tunewright.serve.limits import Limits
from tunewright.serve.requests import Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.server import Server

LENGTHS = {"prompt": 7, "long": 40, "prefix": 5, "made": 4}
KINDS = {"made": {"peft_type": "P_TUNING", "encoder_hidden_size": 8, "encoder_reparameterization_type": "MLP"}}


def numbers(name: str) -> torch.Tensor:
    """Virtual tokens [n, D], or a prefix [n, K, 2, H, d], large enough to change answers."""
    model, g = tiny.llama(), torch.Generator().manual_seed(len(name))
    width = model.config.hidden_size
    if name != "prefix":
        return torch.randn(LENGTHS[name], width, generator=g)
    layers, heads, size = sizes(model)
    return torch.randn(LENGTHS[name], layers, 2, heads, size, generator=g)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config = tmp_path_factory.mktemp("adapters"), tiny.llama().config
    for name in LENGTHS:
        if name == "prefix":
            save_prefix(numbers(name), config, folder / name, serving.BASE, "CAUSAL_LM")
        else:
            save_prompt(nn.Parameter(numbers(name)), config, folder / name, serving.BASE, **KINDS.get(name, {}))
    serving.write_adapters(folder, ["low"])
    return folder


def alone(name: str, folder: Path, prompt: list[int], tokens: int = 12) -> list[int]:
    """What the method's own twin of the model answers."""
    if name not in LENGTHS:
        return serving.alone(None if name == serving.BASE else name, folder, prompt, tokens)
    model, held = tiny.llama().eval(), numbers(name)
    twin = prefixed(model, len(held), lambda: held) if name == "prefix" else prompted(model, nn.Parameter(held))
    return greedy(twin, tiny.tokenizer(), [prompt], tokens)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [Limits(), Limits(max_batch=3, chunk=5, prefix_bytes=0), Limits(max_batch=1)])
def test_rows_behind_a_prompt_say_what_they_say_alone(folder: Path, limits: Limits) -> None:
    models = [*LENGTHS, "low", serving.BASE, *LENGTHS]
    with Server(serving.loaded(), serving.BASE, folder, limits) as server:
        pairs = [(m, p) for p in serving.PROMPTS for m in models]
        handles = [asked(server, m, p) for m, p in pairs]
        got = [said(h, server.ends) for h in handles]
    for (model, prompt), tokens in zip(pairs, got, strict=True):
        assert tokens == alone(model, folder, ids(prompt)), (model, prompt)
    assert len({tuple(t) for t in got}) > len(got) // 4, "they say different things"


def test_virtual_tokens_are_read_once_and_held_by_their_adapter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    with Server(serving.loaded(), serving.BASE, folder, Limits(prefix_bytes=0)) as server:
        forward = server.engine._forward

        def counted(ready: Any, reading: Any) -> Any:
            read.append(sum(r.tokens[r.seat.used : r.seat.used + n].count(VIRTUAL) for r, n in reading))
            return forward(ready, reading)

        monkeypatch.setattr(server.engine, "_forward", counted)
        before = server.library.find("prompt").adapter.bytes  # type: ignore[union-attr]
        for prompt in serving.PROMPTS:
            asked(server, "prompt", prompt).result()
            asked(server, "prefix", prompt).result()
        assert sum(read) == LENGTHS["prompt"]
        held = server.library.find("prompt").adapter.bytes  # type: ignore[union-attr]
        layers, heads, size = sizes(server.engine.model.model)
        assert held - before == LENGTHS["prompt"] * layers * 2 * heads * size * 4


def test_several_answers_and_a_prompt_that_is_known_begin_behind_it(folder: Path) -> None:
    prompt = ids(" ".join(serving.PROMPTS) * 2)
    with Server(serving.loaded(), serving.BASE, folder) as server:
        request = Request(prompt, Sampling(6, temperature=0.0, ends=server.ends), server.library.find("long"), n=2)
        first = server.engine.submit(request)
        answers = [[s.token for s in r.said if s.token not in server.ends] for r in first.result()]
        again = server.engine.submit(request)
        repeated = [[s.token for s in r.said if s.token not in server.ends] for r in again.result()]
    assert answers == repeated == [alone("long", folder, prompt, 6)] * 2
    assert first.cached == 0 and again.cached == (LENGTHS["long"] + len(prompt) - 1) // 32 * 32 - LENGTHS["long"] > 0


def test_its_places_count_and_its_tokens_are_nobody_s(folder: Path) -> None:
    text = {"role": "user", "content": "hi"}
    with serving.served(folder, Limits(max_length=60)) as (server, address):
        told = httpx.post(f"{address}/v1/chat/completions", json={"model": "low", "messages": [text]}).json()["usage"]
        usage = httpx.post(f"{address}/v1/chat/completions", json={"model": "long", "messages": [text]}).json()["usage"]
        assert usage["prompt_tokens"] == told["prompt_tokens"]
        assert usage["completion_tokens"] <= 60 - LENGTHS["long"] - told["prompt_tokens"]
        body = {"model": "long", "prompt": "the river", "max_tokens": 40}
        refused = httpx.post(f"{address}/v1/completions", json=body)
        assert refused.status_code == 400
        assert "40 virtual tokens of the adapter, " in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] == "prompt"
        assert httpx.post(f"{address}/v1/completions", json=body | {"model": "low"}).status_code == 200
        assert {m["id"] for m in httpx.get(f"{address}/v1/models").json()["data"]} >= set(LENGTHS)


def test_the_list_says_which_names_take_a_strength(folder: Path) -> None:
    with serving.served(folder, Limits(max_length=60)) as (server, address):
        for _ in range(2):  # from files alone, then with adapters in memory
            said = {m["id"]: m["strengths"] for m in httpx.get(f"{address}/v1/models").json()["data"]}
            assert said == {serving.BASE: None, "low": [0.0, 4.0], **dict.fromkeys(LENGTHS)}
            for name, strengths in said.items():
                assert httpx.get(f"{address}/v1/models/{name}").json()["strengths"] == strengths
                if name != serving.BASE:
                    assert (server.library.find(f"{name}@0.5") is not None) if strengths else name in LENGTHS


def test_a_strength_between_is_refused_and_0_is_the_base(folder: Path) -> None:
    with Server(serving.loaded(), serving.BASE, folder) as server:
        with pytest.raises(ApiError, match="is there or not: write 'prompt', without a strength"):
            server.library.find("prompt@0.5")
        assert server.library.find("prompt@0") is None
        assert said(asked(server, "prompt@1", "the river rose"), server.ends) == alone(
            "prompt", folder, ids("the river rose")
        )


def test_one_of_another_model_is_refused_by_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    save_prompt(nn.Parameter(torch.zeros(3, 5)), tiny.llama().config, tmp_path / "other", serving.BASE)
    with Server(serving.loaded(), serving.BASE, tmp_path) as server, pytest.raises(ApiError, match=r"\[3, 5\]"):
        server.library.find("other")
