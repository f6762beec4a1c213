"""Rows of many adapters that share steps are answered as base and adapter answer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.serve import serving
from tunewright.models import deltas as forms
from tunewright.models.agreement import agrees
from tunewright.serve.limits import Limits
from tunewright.serve.requests import Handle, Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.server import Server

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    serving.write_adapters(folder, NAMES)
    return folder


def ids(text: str) -> list[int]:
    return list(tiny.tokenizer()(text, add_special_tokens=False)["input_ids"])


def asked(server: Server, model: str, text: str, tokens: int = 12) -> Handle:
    variant = server.library.find(model)
    return server.engine.submit(Request(ids(text), Sampling(tokens, temperature=0.0, ends=server.ends), variant))


def said(handle: Handle, ends: frozenset[int]) -> list[int]:
    return [s.token for s in handle.result()[0].said if s.token not in ends]


@pytest.mark.slow
@pytest.mark.parametrize("limits", [Limits(), Limits(max_batch=3, chunk=5, prefix_bytes=0), Limits(max_batch=2)])
def test_mixed_batches_say_what_each_says_alone(folder: Path, limits: Limits) -> None:
    models = [serving.BASE, *NAMES, "c", "a@0.5", "a@0", "tiny"]
    with Server(serving.loaded(), serving.BASE, folder, limits) as server:
        pairs = [(m, p) for p in serving.PROMPTS for m in models]
        handles = [asked(server, m, p) for m, p in pairs]
        got = [said(h, server.ends) for h in handles]
    for (model, prompt), tokens in zip(pairs, got, strict=True):
        name, _, dial = model.partition("@")
        own = None if name == serving.BASE else name
        assert tokens == serving.alone(own, folder, ids(prompt), 12, float(dial or 1)), (model, prompt)
    assert len({tuple(t) for t in got}) > len(got) // 2  # adapters do say other things


def test_steps_are_shared(folder: Path) -> None:
    with Server(serving.loaded(), serving.BASE, folder) as server:
        gate = server.engine.limits
        handles = [asked(server, m, p, 20) for p in serving.PROMPTS for m in NAMES]
        for handle in handles:
            handle.result()
        assert server.engine.tokens > 4 * server.engine.steps and gate.max_batch >= len(handles)


def test_a_prefix_is_read_once(folder: Path) -> None:
    text = " ".join(serving.PROMPTS) * 2
    with Server(serving.loaded(), serving.BASE, folder) as server:
        first, second = asked(server, "a", text), None
        first.result()
        second = asked(server, "a", text + " and more")
        other = asked(server, "b", text)
        whole = [said(h, server.ends) for h in (second, other)]
    assert first.cached == 0 and second.cached >= 32 and other.cached == 0
    assert whole[0] == serving.alone("a", folder, ids(text + " and more"), 12)
    assert whole[1] == serving.alone("b", folder, ids(text), 12)


@pytest.mark.parametrize("model", [tiny.gpt2, tiny.qwen3])
def test_other_architectures(model: Any) -> None:
    loaded = serving.loaded(model())
    alone = tiny.tokenizer()
    with Server(loaded, serving.BASE) as server:
        handles = [asked(server, serving.BASE, p) for p in serving.PROMPTS]
        got = [said(h, server.ends) for h in handles]
    for prompt, tokens in zip(serving.PROMPTS, got, strict=True):
        plain = model().generate(
            torch.tensor([ids(prompt)]),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=list(server.ends),
        )
        expected = [t for t in plain[0, len(ids(prompt)) :].tolist() if t not in server.ends]
        assert tokens == expected, alone.decode(tokens)


def test_other_forms_go_beside_low_rank_ones() -> None:
    loaded = serving.loaded()
    with Server(loaded, serving.BASE) as server:
        adapted = server.engine.model
        g = torch.Generator().manual_seed(9)
        sparse: dict[str, forms.Delta] = {}
        biases: dict[str, forms.Delta] = {}
        for site in adapted.structure.linear_sites():
            shape = site.out_features, site.in_features
            places = torch.randperm(shape[0] * shape[1], generator=g)[:40].sort().values
            sparse[site.name] = forms.Sparse(places, torch.randn(40, generator=g), shape)
            biases[site.name] = forms.Bias(torch.randn(site.out_features, generator=g) * 0.3)
        adapters = {"low": serving.low_rank(adapted, 4), "sparse": sparse, "bias": biases}
        for name, deltas in adapters.items():
            server.library.add(name, deltas)
        handles = {(n, p): asked(server, n, p) for n in adapters for p in serving.PROMPTS}
        got = {key: said(h, server.ends) for key, h in handles.items()}
    for (name, prompt), tokens in got.items():
        plain = serving.loaded().adapted()
        for site, delta in adapters[name].items():
            delta.active = True
            forms.attach(plain.structure.site(site), name, delta)
        out = plain.model.generate(  # type: ignore[operator]
            torch.tensor([ids(prompt)]),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=list(server.ends),
        )
        assert tokens == [t for t in out[0, len(ids(prompt)) :].tolist() if t not in server.ends], (name, prompt)


def test_logprobs_are_the_models(folder: Path) -> None:
    prompt = ids(serving.PROMPTS[0])
    with Server(serving.loaded(), serving.BASE, folder) as server:
        request = Request(prompt, Sampling(6, temperature=0.0, logprobs=3), server.library.find("b"))
        result = server.engine.submit(request).result()[0]
    adapted = serving.loaded().adapted()
    serving.peft_format.load_adapter(adapted, folder / "b")
    tokens = [s.token for s in result.said]
    with torch.no_grad():
        logits = adapted.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    shares = torch.log_softmax(logits, -1)
    assert agrees(torch.tensor([s.logprob for s in result.said]), shares.gather(1, torch.tensor(tokens)[:, None])[:, 0])
    for one, own in zip(result.said, shares, strict=True):
        assert [t for t, _ in one.top] == own.topk(3).indices.tolist()
