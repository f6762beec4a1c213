"""Start-up: `python -m benchmarks.startup [--json]`.

Seconds until `tunewright --help` has answered, and until `tunewright run quickstart` has logged its first optimizer
step (warm files; the base was measured by a run before), each several times; beside them Python alone, the import of
torch and transformers that any such tool pays for, and a plain PEFT loop's first step on the same model and rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.pairs import ROOT, spread

TUNEWRIGHT = "from tunewright.commands.cli import main; main()"


def timed(arguments: list[str]) -> float:
    """Seconds of a Python process from its start to its end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def first_step(limit: float = 240) -> float:
    """Seconds until the quickstart's first optimizer step is in its metrics.jsonl; the run is then ended."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        began = time.perf_counter()
        command = [
            sys.executable,
            "-c",
            TUNEWRIGHT,
            "run",
            "quickstart",
            "--out",
            str(metrics.parent),
            "--set",
            "train.logging_steps=1",
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            while not (metrics.exists() and '"num_tokens"' in metrics.read_text(encoding="utf-8")):
                if process.poll() is not None:
                    raise RuntimeError(
                        "the quickstart ended before its first "
                        f"step:\n{process.stderr.read()[-2000:] if process.stderr else ''}"
                    )
                if time.perf_counter() - began > limit:
                    raise RuntimeError(f"no step within {limit:.0f} s")
                time.sleep(0.02)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


CASES: dict[str, tuple[int, Callable[[], float]]] = {
    "python": (7, lambda: timed(["-c", "pass"])),
    "help": (7, lambda: timed(["-c", TUNEWRIGHT, "--help"])),
    "import_torch_transformers": (
        3,
        lambda: timed(
            ["-c", "import torch, transformers; from transformers import AutoModelForCausalLM, AutoTokenizer"]
        ),
    ),
    "quickstart_first_step": (3, first_step),
    "peft_loop_first_step": (
        3,
        lambda: timed(["-m", "benchmarks.worker", "peft_lora", "--model", "quickstart", "--steps", "0"]),
    ),
}
"""How often, and how; the two first steps lie side by side in every round."""


def measure(rounds: int | None) -> dict[str, dict[str, float]]:
    """Seconds of every case, in turn, after one run of each that warms files and caches."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for r in range(1 + max(n for n, _ in CASES.values())):
        for name, (count, run) in CASES.items():
            if r <= (rounds or count):
                seconds = run()
                if r:
                    found[name].append(seconds)
                print(f"{name}: {seconds:.2f} s{'' if r else ' (warming)'}", file=sys.stderr)
    return {name: spread(values) for name, values in found.items()}


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--json", action="store_true", help="JSON alone on stdout")
    a.add_argument("--rounds", type=int, help="times each case is run (none: as each says)")
    options = a.parse_args()
    described = machine.describe("float32", os.cpu_count() or 1)
    seconds = measure(options.rounds)
    result: dict[str, Any] = {"machine": described, "seconds": seconds}
    result["ratio_first_step_to_peft"] = round(
        seconds["quickstart_first_step"]["median"] / seconds["peft_loop_first_step"]["median"], 2
    )
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, s in seconds.items():
        print(f"{name:28} {s['median']:6.2f} s ({s['low']:.2f}-{s['high']:.2f})")


if __name__ == "__main__":
    main()
