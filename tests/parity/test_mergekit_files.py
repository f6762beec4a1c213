"""Whole files in mergekit's form, run by mergekit 0.1.5 and by us, tensor by tensor: slices, modules, tokenizers.

The models are tiny Llamas (fp32) with tokenizers of their own; a file's tokens may come out under other ids than
mergekit gives them (it orders models by a hash that differs from run to run), so rows are compared by token.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests import tiny
from tests.parity.test_mergekit import PEER, WORKER, moved
from tunewright.weights import chat_templates
from tunewright.weights.mergekit_yaml import read
from tunewright.weights.stream import merge

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        not PEER.exists(), reason="needs mergekit 0.1.5: TUNEWRIGHT_BENCH_MERGEKIT names its environment"
    ),
]

FILE_WORKER = WORKER.replace("copy_tokenizer=False", "copy_tokenizer=True")
GRADIENT = [{"filter": "mlp", "value": [0, 0.5, 1]}, {"value": [0.2, 0.9]}]
TA: dict[str, Any] = {"merge_method": "task_arithmetic", "base_model": "m0", "parameters": {"weight": 0.5}}


def source(name: str, start: int, stop: int, **parameters: Any) -> dict[str, Any]:
    own = {"parameters": parameters} if parameters else {}
    return {"model": name, "layer_range": [start, stop], **own}


FILES: dict[str, dict[str, Any]] = {
    "passthrough of one model": {"merge_method": "passthrough", "models": [{"model": "m1"}]},
    "passthrough of slices": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [source("m1", 0, 2)]},
            {"sources": [source("m2", 1, 3, scale=[{"filter": "o_proj", "value": 0.0}, {"value": 1.0}])]},
            {"sources": [source("m1", 2, 3)]},
        ],
    },
    "slerp of slices": {
        "merge_method": "slerp",
        "base_model": "m1",
        "parameters": {"t": GRADIENT},
        "slices": [
            {"sources": [source("m1", 0, 2), source("m2", 1, 3)]},
            {"sources": [source("m1", 0, 1), source("m2", 2, 3)], "parameters": {"t": 0.75}},
        ],
    },
    "slerp with gradients everywhere": {
        "merge_method": "slerp",
        "base_model": "m1",
        "models": [{"model": "m2"}],
        "parameters": {"t": [0.1, 0.6, 0.9]},
    },
    "linear with a base that is not listed": {
        "merge_method": "linear",
        "base_model": "m0",
        "models": [{"model": "m1", "parameters": {"weight": 0.7}}, {"model": "m2"}],
        "parameters": {"weight": [{"filter": "layers.1.", "value": 0.9}, {"value": 0.4}]},
    },
    "ties of slices": {
        "merge_method": "ties",
        "base_model": "m0",
        "parameters": {"weight": 0.5, "int8_mask": True},
        "slices": [
            {"sources": [source("m0", 0, 3), source("m1", 0, 3, weight=[0.2, 1.0]), source("m2", 0, 3)]},
        ],
    },
    "modules": {
        "merge_method": "linear",
        "parameters": {"weight": 1.0},
        "modules": {
            "default": {
                "parameters": {"weight": 0.25},
                "slices": [
                    {"sources": [source("m1", 0, 2, weight=0.5), source("m2", 0, 2)]},
                    {"sources": [source("m2", 2, 3)]},
                ],
            }
        },
    },
    **{
        f"{method} with defaults": {"merge_method": method, "base_model": "m0", "models": models, **more}
        for method, models, more in (
            ("karcher", [{"model": "m1"}, {"model": "m2"}], {}),
            ("nuslerp", [{"model": n, "parameters": {"weight": w}} for n, w in (("m1", 1), ("m2", 2))], {}),
            ("sce", [{"model": "m1"}, {"model": "m2"}], {}),
            ("arcee_fusion", [{"model": "m1"}], {}),
            ("nearswap", [{"model": "m1"}], {"parameters": {"t": 0.03}}),
            ("ram", [{"model": "m1"}, {"model": "m2"}], {}),
            ("ramplus_tl", [{"model": "m1"}, {"model": "m2"}], {}),
        )
    },
    "small changes under sce": {
        "merge_method": "sce",
        "base_model": "m0",
        "models": [{"model": "s1"}, {"model": "s2"}],
    },
    "union": {**TA, "models": ["m1", "v1", "v2"], "tokenizer": {"source": "union"}},
    "union without a base": {
        "merge_method": "linear",
        "models": ["v1", "v2"],
        "parameters": {"weight": 1},
        "tokenizer_source": "union",
    },
    "the base's tokens": {**TA, "models": ["v1", "v2"], "tokenizer_source": "base"},
    "another model's tokens": {**TA, "models": ["v1", "v2"], "tokenizer_source": "v2"},
    "tokens that are chosen": {
        **TA,
        "models": ["v1", "v2"],
        "chat_template": "chatml",
        "tokenizer": {
            "source": "union",
            "pad_to_multiple_of": 16,
            "tokens": {
                "<one>": {"source": "v2", "force": True},
                "<two>": {"source": {"kind": "zero"}},
                "<own>": {"source": {"kind": "model_token", "model": "v1", "token": "<one>"}},
                "<new>": {"source": {"kind": "model_token", "model": "m0", "token_id": 7}, "force": True},
                "<three>": {"source": {"kind": "zero"}, "force": True},
            },
        },
    },
    "slices with one tokenizer": {
        **TA,
        "slices": [
            {"sources": [source("m0", 0, 2), source("v1", 0, 2)]},
            {"sources": [source("m0", 2, 3), source("v2", 2, 3)]},
        ],
        "tokenizer": {"source": "union"},
    },
}
ADDED = {"v1": ["<one>", "<two>"], "v2": ["<three>", "<one>", "<own>"]}


def model(folder: Path, name: str, seed: int, by: float = 0.05) -> None:
    """A tiny Llama near the base, its tokens added behind the common ones."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(ADDED.get(name, []))
    made = LlamaForCausalLM(_config(len(tokenizer)))
    own = LlamaForCausalLM(_config(len(tiny.tokenizer()))).state_dict()
    g = torch.Generator().manual_seed(0)
    base = {n: 0.2 * torch.randn(t.shape, generator=g) for n, t in sorted(own.items())}
    state = moved(base, seed) if seed else base
    if by != 0.05:
        state = {n: base[n] + by / 0.05 * (t - base[n]) for n, t in state.items()}
    more = torch.Generator().manual_seed(100 + seed)
    made.load_state_dict(
        {
            n: torch.cat([state[n], torch.randn(len(t) - len(state[n]), *t.shape[1:], generator=more)])
            for n, t in made.state_dict().items()
        }
    )
    made.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)


def _config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the models, and mergekit's result of every file under theirs/."""
    folder = tmp_path_factory.mktemp("files")
    for name, seed, by in (("m0", 0, 0.05), ("m1", 1, 0.05), ("m2", 2, 0.05), ("s1", 3, 1e-4), ("s2", 4, 3e-4)):
        model(folder, name, seed, by)
    for name, seed in (("v1", 5), ("v2", 6)):
        model(folder, name, seed)
    jobs = [
        {"config": {**file, "dtype": "float32"}, "out": str(folder / "theirs" / str(i))}
        for i, file in enumerate(FILES.values())
    ]
    jobs = [j | {"config": _plain(j["config"])} for j in jobs]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [PEER, "-c", FILE_WORKER, str(folder / "jobs.json")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    yield folder


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    models = config.get("models")
    return config | ({"models": [{"model": m} if isinstance(m, str) else m for m in models]} if models else {})


def tensors(folder: Path) -> dict[str, Tensor]:
    return {n: t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


def by_token(t: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    vocabulary = tokenizer.get_vocab()
    order = [vocabulary[k] for k in sorted(vocabulary)]
    return torch.cat([t[order], t[len(order) :]])


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_is_mergekits(results: Path, name: str) -> None:
    file, out = results / "merge.yml", results / "ours" / str(list(FILES).index(name))
    file.write_text(yaml.safe_dump({**FILES[name], "dtype": "float32"}, sort_keys=False))
    merge(read(file, out), forward=False)
    theirs_at = results / "theirs" / str(list(FILES).index(name))
    ours, theirs = tensors(out), tensors(theirs_at)
    assert ours.keys() == theirs.keys()
    readers = [AutoTokenizer.from_pretrained(f) for f in (out, theirs_at)]
    assert readers[0].get_vocab().keys() == readers[1].get_vocab().keys()
    configs = [json.loads((f / "config.json").read_text()) for f in (out, theirs_at)]
    for key in ("num_hidden_layers", "vocab_size"):
        assert configs[0][key] == configs[1][key], key
    for n, wanted in theirs.items():
        got = ours[n]
        assert got.shape == wanted.shape, n
        if n in ("model.embed_tokens.weight", "lm_head.weight"):
            got, wanted = (by_token(t, r) for t, r in zip((got, wanted), readers, strict=True))
        scale = float(wanted.abs().max())
        assert torch.allclose(got, wanted, rtol=1e-5, atol=max(3e-6 * scale, 1e-7)), (
            f"{n}: {float((got - wanted).abs().max())} apart"
        )
    if "chat_template" in FILES[name]:
        talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
        ours_said, theirs_said = (r.apply_chat_template(talk, tokenize=False) for r in readers)
        assert ours_said == theirs_said and "<|im_start|>user\nHello<|im_end|>" in ours_said


@pytest.mark.parametrize("name", sorted(chat_templates.NAMED))
def test_named_templates_write_what_mergekits_do(name: str, tmp_path: Path) -> None:
    """Up to white space, which some of mergekit's files hold between their lines."""
    code = "import importlib.resources as r, sys; from mergekit._data import chat_templates as c; print(r.files(c))"
    folder = Path(subprocess.run([PEER, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    talk = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Bye"},
    ]
    tokenizer = tiny.tokenizer()
    said = []
    for template in (chat_templates.NAMED[name], (folder / f"{name}.jinja").read_text()):
        for turns in (talk, talk[1:], talk[1:3]):
            for prompt in (True, False):
                text = tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=prompt, chat_template=template
                )
                said.append("".join(text.split()))
    assert said[:6] == said[6:]
