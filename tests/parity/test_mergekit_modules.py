"""Modules beyond `default`, slices within them and anchors, run by mergekit 0.1.5 and by us, tensor by tensor.

The models have the modules that mergekit knows of their class, at a few tensors' size: an encoder and a decoder with a
head of its own, and towers for pictures beside a decoder for text.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.parity.test_mergekit import PEER, WORKER
from tests.parity.test_mergekit_files import source, tensors
from tunewright.weights.mergekit_yaml import read
from tunewright.weights.stream import merge

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        not PEER.exists(), reason="needs mergekit 0.1.5: TUNEWRIGHT_BENCH_MERGEKIT names its environment"
    ),
]

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _t5() -> Any:
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(
        T5Config(**sizes, num_decoder_layers=2, tie_word_embeddings=False, feed_forward_proj="gated-gelu")
    )


def _qwen3_vl() -> Any:
    vision = {"depth": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "patch_size": 4}
    vision |= {"out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1, 2]}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    )


MAKES: dict[str, Callable[[], Any]] = {"t5": _t5, "qwen3_vl": _qwen3_vl}


def both(weight: float) -> dict[str, Any]:
    return {"models": [{"model": "m1", "parameters": {"weight": weight}}, {"model": "m2"}]}


TOWERS = {
    "merge_method": "linear",
    "parameters": {"weight": 1.0},
    "modules": {
        "text_decoder": both(0.25),
        "vision_tower": both(3.0),
        "multi_modal_projector": {**both(0.5), "parameters": {"weight": 0.75}},
    },
}
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "an encoder, a decoder and what both share": (
        "t5",
        {
            "merge_method": "linear",
            "parameters": {"weight": 1.0},
            "modules": {"encoder": both(0.25), "decoder": both(3.0), "shared": both(0.5)},
        },
    ),
    "an encoder and a decoder, each of another model": (
        "t5",
        {
            "merge_method": "passthrough",
            "modules": {
                n: {"models": [{"model": m}]} for n, m in (("encoder", "m1"), ("decoder", "m2"), ("shared", "m1"))
            },
        },
    ),
    "layers of a decoder": (
        "t5",
        {
            "merge_method": "passthrough",
            "modules": {
                "encoder": {"models": [{"model": "m1"}]},
                "decoder": {
                    "slices": [{"sources": [source("m2", 0, 2)]}, {"sources": [source("m1", 1, 2, scale=[0.5])]}]
                },
                "shared": {"models": [{"model": "m2"}], "parameters": {"scale": 2.0}},
            },
        },
    ),
    "towers of qwen3_vl": ("qwen3_vl", TOWERS),
    "layers of the text of qwen3_vl": (
        "qwen3_vl",
        {
            "merge_method": "slerp",
            "base_model": "m1",
            "parameters": {"t": [0.2, 0.9]},
            "modules": {
                "text_decoder": {
                    "slices": [{"sources": [source("m1", 0, 1), source("m2", 1, 2)]}] * 3,
                    "parameters": {"t": [{"filter": "mlp", "value": 0.1}]},
                },
                "vision_tower": {"models": [{"model": "m1"}, {"model": "m2"}]},
                "multi_modal_projector": {"models": [{"model": "m1"}, {"model": "m2"}], "parameters": {"t": 0.4}},
            },
        },
    ),
    "all of it by one method": (
        "t5",
        {
            "merge_method": "task_arithmetic",
            "base_model": "m0",
            "parameters": {"weight": 0.5},
            "models": both(0.3)["models"],
        },
    ),
    **{
        f"sce with the share {share}": (
            "t5",
            {
                "merge_method": "sce",
                "base_model": "m0",
                "models": both(1.0)["models"],
                "parameters": {"select_topk": share},
            },
        )
        for share in (0.0, 0.1, 0.75, [0.1, 0.9], [{"filter": "SelfAttention", "value": [0.2, 0.6]}, {"value": 1.0}])
    },
    "a share of sce that is one model's own": (
        "t5",
        {
            "merge_method": "sce",
            "base_model": "m0",
            "models": [{"model": "m1", "parameters": {"select_topk": 0.2, "weight": 0.4}}, {"model": "m2"}],
            "parameters": {"normalize": True, "density": 0.5, "int8_mask": True},
        },
    ),
}
ANCHORED = """
x-half: &half
  weight: [0.5, 0.1]
merge_method: linear
models:
- model: m1
  parameters: &own
    <<: *half
- model: m2
  parameters:
    <<: [*own, *half]
    weight: 0.7
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of models for each class, and mergekit's result of every file under theirs/."""
    folder = tmp_path_factory.mktemp("modules")
    for kind, make in MAKES.items():
        for seed in range(3):
            torch.manual_seed(seed)
            made = make()
            with torch.no_grad():
                for p in made.parameters():
                    p.copy_(0.2 * torch.randn(p.shape))
            made.save_pretrained(folder / kind / f"m{seed}")
    files = {**FILES, "anchors": ("t5", yaml.safe_load(ANCHORED))}
    jobs = []
    for i, (kind, file) in enumerate(files.values()):
        text = json.dumps({**file, "dtype": "float32"})
        for n in ("m0", "m1", "m2"):
            text = text.replace(f'"{n}"', json.dumps(str(folder / kind / n)))
        jobs.append({"config": json.loads(text), "out": str(folder / "theirs" / str(i))})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [PEER, "-c", WORKER, str(folder / "jobs.json")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    yield folder


@pytest.mark.parametrize("name", [*FILES, "anchors"])
def test_every_tensor_is_mergekits(results: Path, name: str) -> None:
    i = [*FILES, "anchors"].index(name)
    kind, content = FILES.get(name, ("t5", {}))
    file, out = results / kind / "merge.yml", results / "ours" / str(i)
    text = yaml.safe_dump(content, sort_keys=False) if content else ANCHORED
    file.write_text(text + "dtype: float32\n")
    merge(read(file, out), forward=False)
    ours, theirs = tensors(out), tensors(results / "theirs" / str(i))
    if "decoder.embed_tokens.weight" in theirs:  # copies, which mergekit may write and we leave out
        theirs = {n: t for n, t in theirs.items() if n in ours}
    assert ours.keys() == theirs.keys()
    for n, wanted in theirs.items():
        got = ours[n]
        scale = float(wanted.abs().max())
        apart = (got - wanted).abs() > 1e-5 * wanted.abs() + max(3e-6 * scale, 1e-7)
        # of sce, entries that lie on their threshold to rounding
        assert got.shape == wanted.shape and int(apart.sum()) <= (1 if "sce" in name else 0), n
