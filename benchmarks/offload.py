"""What layer streaming costs: peak memory and seconds a step with blocks in memory, recomputed, and on disk.

`python -m benchmarks.offload` makes a random Llama of a billion parameters (`--layers`, `--hidden`), one shard a block,
and trains LoRA on it for a few steps of each kind, in processes of their own, in turn and `--repeats` times. Losses
must be equal to the bit. `--model NAME` takes a model that is here instead.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from tunewright.loading.locate import locate
from tunewright.recipe import Recipe
from tunewright.runs.run import run

KINDS: dict[str, dict[str, Any]] = {
    "in memory": {},
    "recomputed": {"activation_checkpointing": True},
    "on disk": {"offload_param": "disk"},
}


def make(folder: Path, layers: int, hidden: int, reads: str = "smollm2-135m-instruct") -> None:
    """A random Llama, written shard by shard: no more of it than a block is ever in memory."""
    tokenizer = AutoTokenizer.from_pretrained(locate(reads).folder)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    tokenizer.save_pretrained(folder), config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).state_dict()
    shapes.pop("lm_head.weight", None)
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(".".join(name.split(".")[:3]) if ".layers." in name else "rest", []).append(name)
    places, draws = dict[str, str](), torch.Generator().manual_seed(0)
    for group, names in groups.items():
        file = f"model-{group}.safetensors"
        tensors = {
            n: torch.ones(shapes[n].shape, dtype=torch.bfloat16)
            if shapes[n].dim() == 1
            else (torch.randn(shapes[n].shape, generator=draws) * 0.02).bfloat16()
            for n in names
        }
        save_file(tensors, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def train(model: str, kind: str, steps: int, tokens: int, out: Path) -> dict[str, Any]:
    """A few steps; the seconds of each but the first, the losses and the peak memory of this process."""
    text = " ".join(f"{w} {i}" for i in range(tokens * (steps + 1)) for w in ("tunes", "a", "model"))
    (out / "text.txt").write_text(text)
    tree = {
        "model": model,
        "task": "text-generation",
        "data": {"train": "text.txt", "max_length": tokens},
        "methods": [{"lora": {"rank": 8}}],
        "budget": {"steps": steps},
        "train": {"batch_tokens": tokens, "learning_rate": 1e-3, "precision": "float32", **KINDS[kind]},
        "measurement": {"drift_sequences": 1, "drift_tokens": 2, "strengths": [1]},
    }
    (out / "r.yaml").write_text(json.dumps(tree))
    run(Recipe.load(out / "r.yaml"), out / "run", quiet=True)
    records = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    records = [r for r in records if "loss" in r]
    sizes = [
        r["num_tokens"] - before for r, before in zip(records, [0, *(r["num_tokens"] for r in records)], strict=False)
    ]
    seconds = [size / r["tokens_per_second"] for size, r in zip(sizes, records, strict=True)]
    # not ru_maxrss, which begins with what the process had that this one was forked from
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    return {"losses": [r["loss"] for r in records], "seconds": seconds[1:], "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        kind, out = json.loads(asked.one)
        print(json.dumps(train(asked.model, kind, asked.steps, asked.tokens, Path(out))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not asked.model:
            make(folder, asked.layers, asked.hidden)
        model, found = asked.model or str(folder), dict[str, list[dict[str, Any]]]()
        for _ in range(asked.repeats):
            for kind in KINDS:
                out = Path(tempfile.mkdtemp(dir=folder))
                words = ["--model", model, "--steps", str(asked.steps), "--tokens", str(asked.tokens)]
                words += ["--one", json.dumps([kind, str(out)])]
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.offload", *words], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                found.setdefault(kind, []).append(json.loads(done.stdout.splitlines()[-1]))
                shutil.rmtree(out)
    first = found["in memory"][0]["losses"]
    for kind, runs in found.items():
        seconds = [s for r in runs for s in r["seconds"]]
        peak, same = max(r["peak"] for r in runs) / 1e9, all(r["losses"] == first for r in runs)
        told = "equal losses" if same else "OTHER LOSSES"
        print(
            f"{kind:<12} {peak:5.2f} GB at most, {statistics.median(seconds):6.2f} s a step "
            f"({min(seconds):.2f} to {max(seconds):.2f}), {told}"
        )


if __name__ == "__main__":
    main()
