"""What a comparison costs beside its own runs: `python -m benchmarks.compare [--runs 20] [--json]`.

Small runs (LoRA and full fine-tuning of a random Llama of 5M parameters on the quickstart's rows) through the pool of
`tunewright compare`, one thread each, a worker a core. Printed: the share of all cores that the worker processes kept
busy, from the first order to the last record (and from the command's start, with torch imported); and what the pool
added to the runs' own time. The processor should do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine

METHODS = ("lora", "full")
STEPS = 20


def make_base(folder: Path) -> None:
    """A freshly drawn Llama of 5M parameters with a byte tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<bos>", "<eos>"]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(special + alphabet)}, merges=[]))
    inner.add_special_tokens(special)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", model_max_length=512
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(special) + len(alphabet),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def recipe(base: Path, method: str, seed: int, steps: int) -> Any:
    from tunewright.recipe import Recipe

    return Recipe(
        model=str(base),
        task="text-generation",
        data={"train": "quickstart:train", "eval": "quickstart:test", "max_length": 256},
        keep=[{"data": "quickstart:keep", "name": "general", "limit": 4}],
        train={"seed": seed, "batch_tokens": 1024, "precision": "float32"},
        methods=[method],
        budget={"steps": steps},
        measurement={"metric": "loss", "rows": 60, "strengths": [0.5, 1.0], "drift_sequences": 4, "drift_tokens": 32},
    )


def measure(runs: int, steps: int) -> dict[str, Any]:
    """Run them and read the clocks."""
    from tunewright.trials.pool import Trial, Workers, run_all
    from tunewright.trials.trial import Store

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TUNEWRIGHT_CACHE"] = str(folder / "cache")
        (folder / "base").mkdir()
        make_base(folder / "base")
        trials = [Trial(m, s, recipe(folder / "base", m, s, steps)) for s in range((runs + 1) // 2) for m in METHODS][
            :runs
        ]
        cores = len(os.sched_getaffinity(0))
        started, everything = time.perf_counter(), machine.busy_seconds()
        with Workers() as pool:
            found = run_all(trials, Store(folder / "trials"), pool=pool)
            ended = time.perf_counter()
            used = sum(_cpu(w.process.pid) for w in pool.processes)
        records = list(found.values())
        began = min(r.started.timestamp() for r in records)
        last = max(r.started.timestamp() + r.seconds for r in records)
        own = sum(r.seconds for r in records)
        inside = sum(sum(r.cost["seconds"].values()) for r in records if r.finished)
        others = None if everything is None else (machine.busy_seconds() or 0.0) - everything - used
        return {
            "runs": len(records),
            "finished": sum(r.finished for r in records),
            "cores": cores,
            "seconds": ended - started,
            "busy_with_start": used / (cores * (ended - started)),
            "busy": own / (cores * (last - began)),
            "own_seconds": own,
            "overhead": (cores * (last - began) - own) / own,
            "overhead_with_start": (cores * (ended - started) - own) / own,
            "outside_phases": 1 - inside / own,
            "other_processes": None if others is None else others / (cores * (ended - started)),
            **machine.describe("float32", 1),
        }


def _cpu(process: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.runs, asked.steps)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['finished']} of {found['runs']} runs on {found['cores']} cores of {found['processor']}: "
        f"{found['seconds']:.1f} s with the start"
    )
    print(
        f"cores busy with runs, first order to last record: {found['busy']:.1%}; CPU time of workers, start "
        f"included: {found['busy_with_start']:.1%}"
    )
    print(
        f"added to the runs' own {found['own_seconds']:.1f} s: {found['overhead']:.1%}; with the start of the "
        f"workers {found['overhead_with_start']:.1%}"
    )
    print(f"of a run's own time outside its phases (load, measure, train, save): {found['outside_phases']:.1%}")
    if found["other_processes"] is not None:
        print(f"taken by other processes meanwhile: {found['other_processes']:.1%} of the machine")


if __name__ == "__main__":
    main()
