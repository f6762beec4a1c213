"""The quickstart's own rows on its own model: `python -m benchmarks.quickstart [--json]`.

SmolLM2-135M-Instruct, the batches that the packaged quickstart recipe makes (whole rows, 256 real tokens): LoRA r16
against a plain PEFT loop, full fine-tuning against a plain torch loop, which pad each of the same batches to its
longest row. Prints tokens a second and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from typing import Any

from benchmarks import machine
from benchmarks.pairs import Side, interleave, ratios, spread
from benchmarks.workload import Example

BATCH_TOKENS = 256
MODEL = "smollm2-135m-instruct"
PAIRS = {"lora": ("tunewright_lora", "peft_lora"), "full": ("tunewright_full", "torch_full")}


def quickstart_model(dtype: str) -> Any:
    """The built-in model."""
    from tunewright.loading.load import load

    return load(MODEL, "text-generation", precision=dtype, progress=False).model


def quickstart_files() -> Any:
    """The built-in model's file, from which a run reads the base back."""
    from tunewright.loading.locate import locate
    from tunewright.models.originals import Files

    return Files(locate(MODEL, progress=False).folder)


def quickstart_batches(count: int, seed: int) -> list[list[Example]]:
    """The first `count` batches of the quickstart's training rows in the loop's own order."""
    from tunewright.contract.task import EncodeOptions
    from tunewright.data.dataset import build, cursor
    from tunewright.loading.load import load
    from tunewright.recipe import Source
    from tunewright.tasks import get_task

    task = get_task("text-generation")
    tokenizer = load(MODEL, task, progress=False).tokenizer
    with tempfile.TemporaryDirectory() as folder:
        dataset = build([Source(path="quickstart:train")], task, tokenizer, EncodeOptions(max_length=256), folder)
        rows = cursor(dataset, seed=seed, batch_tokens=BATCH_TOKENS)
        batches = [[row for row, _ in rows.next_batch()] for _ in range(count)]
        return [
            [Example(tuple(int(i) for i in r.input_ids), next(i for i, w in enumerate(r.weights) if w)) for r in b]
            for b in batches
        ]


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--json", action="store_true", help="JSON alone on stdout")
    a.add_argument("--steps", type=int, default=8, help="timed steps per run")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--minutes", type=float, default=9, help="start no round that would end later than this")
    a.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = a.parse_args()
    common = ("--model", "quickstart", "--steps", str(options.steps), "--threads", str(options.threads))
    sides = [Side(n, sys.executable, "benchmarks.worker", (n, *common)) for pair in PAIRS.values() for n in pair]
    results = interleave(sides, options.rounds, time.monotonic() + 60 * options.minutes)
    result: dict[str, Any] = {"model": MODEL, "machine": machine.describe("float32", options.threads)}
    for name, (ours, peer) in PAIRS.items():
        result[name] = {
            key: ratios(results[ours], results[peer], key) for key in ("tokens_per_second", "peak_memory_gb")
        }
    result["sides"] = {
        n: {k: spread([r[k] for r in rs]) for k in ("tokens_per_second", "peak_memory_gb")} for n, rs in results.items()
    }
    result["rounds"] = results
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{MODEL} float32, {options.threads} threads of {result['machine']['processor']}")
    for name, side in result["sides"].items():
        speed, memory = side["tokens_per_second"], side["peak_memory_gb"]
        print(
            f"  {name:16} {speed['median']:6.0f} tok/s ({speed['low']:.0f}-{speed['high']:.0f})  "
            f"{memory['median']:.2f} GB"
        )
    for name in PAIRS:
        speed, memory = result[name]["tokens_per_second"], result[name]["peak_memory_gb"]
        print(
            f"{name}: {speed['median']:.2f} times the tokens/s ({speed['low']:.2f}-{speed['high']:.2f}), "
            f"{memory['median']:.2f} of the peak memory"
        )


if __name__ == "__main__":
    main()
