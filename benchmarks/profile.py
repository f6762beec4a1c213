"""Where each step's time goes: `python -m benchmarks.profile [--json]`.

LoRA, full, HFT, LIFT and DPO (over LoRA), each in Tunewright's loop and in the plain padded loop that a tutorial would
write ("before"), on the workload of `benchmarks.sft`, a few steps each, read from torch's profiler. Every operator's
own time is counted once: by the phase of the step that it lies in, and forward and backward by kind.

`--part tricks` trains LoRA and full with each of `benchmarks.tricks` switched off, interleaved; `--part slots` counts
what an unused slot costs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks import machine
from benchmarks.pairs import ROOT, Side, interleave, spread
from benchmarks.plain import PLAIN
from benchmarks.tricks import TRICKS
from benchmarks.worker import METHODS, Work, make_stage
from benchmarks.workload import SHAPES

PHASES = ("data", "forward", "reference", "backward", "clip", "optimizer", "rest")
KINDS = ("linears", "attention", "head+loss", "norm+elementwise")


@contextmanager
def marked() -> Iterator[None]:
    """Inside, the phases of a step are named for the profiler."""
    import torch
    from torch.profiler import record_function

    from tunewright.contract.needs import Provider
    from tunewright.training.train import Loop

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*a: Any, **k: Any) -> Any:
            with record_function("phase:" + name):
                return function(*a, **k)

        return call

    with (
        patch.object(Loop, "micro_batches", named("data", Loop.micro_batches)),
        patch.object(Loop, "_backward_each", named("forward", Loop._backward_each)),
        patch.object(Provider, "signals", named("reference", Provider.signals)),
        patch.object(torch.Tensor, "backward", named("backward", torch.Tensor.backward)),
        patch.object(torch.nn.utils, "clip_grad_norm_", named("clip", torch.nn.utils.clip_grad_norm_)),
        patch.object(torch.optim.AdamW, "step", named("optimizer", torch.optim.AdamW.step)),
    ):
        yield


def kind_of(name: str, shapes: list[Any], vocabulary: int) -> str:
    """What an operator of the forward or backward works for, by its name and its operands' shapes."""
    if "scaled_dot_product" in name or "flash_attention" in name:
        return "attention"
    if "embedding" not in name and any(isinstance(s, list) and vocabulary in s for s in shapes):
        return "head+loss"
    return (
        "linears"
        if name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_", "aten::baddbmm")
        else "norm+elementwise"
    )


def shares(events: Any, vocabulary: int) -> dict[str, float]:
    """Seconds by "phase" (and "phase kind" for forward and backward) of every operator's own time within the steps."""
    found: dict[str, float] = {}
    for e in events:
        phase, inside, owner = None, False, e
        above = []
        while owner is not None:
            above.append(owner)
            if phase is None and owner.name.startswith("phase:"):
                phase = owner.name[6:]
            inside = inside or owner.name == "step"
            owner = owner.cpu_parent
        if not inside:
            continue
        key = phase or "rest"
        if key in ("forward", "backward"):
            kinds = [kind_of(a.name, a.input_shapes or [], vocabulary) for a in above]
            special = next((k for k in kinds if k in ("attention", "head+loss")), None)
            key = f"{key} {special or kinds[0]}"
        found[key] = found.get(key, 0.0) + e.self_cpu_time_total / 1e6
    return found


def one(case: str, which: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step by part of one loop. Two steps warm up: shapes differ from step to step."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.set_num_threads(options.threads)
    work = Work(options.model, "float32", options.steps + 1, 8, 0)
    steps = ours(work, case) if which == "ours" else PLAIN[case](work)
    with marked():
        next(steps)
        next(steps)
        began = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as prof:
            for _ in range(options.steps):
                with record_function("step"):
                    next(steps)
        seconds = time.perf_counter() - began
    found = shares(prof.events(), SHAPES[options.model].vocabulary)
    tokens = sum(len(r.ids) for b in work.batches()[2:] for r in b)
    return {
        "case": case,
        "loop": which,
        "tokens_per_second": tokens / sum(found.values()),
        "seconds_a_step": sum(found.values()) / options.steps,
        "wall": seconds,
        "parts": {k: v / options.steps for k, v in sorted(found.items())},
    }


def ours(work: Work, case: str) -> Iterator[Any]:
    """Tunewright's loop, a step at a time."""
    from tunewright.machine.memory import keep_freed_memory
    from tunewright.training.train import Loop

    keep_freed_memory()
    loop = Loop(make_stage(work, case, lambda loop, record: None))
    (loop.adapted.wrapper or loop.adapted.model).train()
    while True:
        yield loop.one_step()


def slots(options: argparse.Namespace) -> dict[str, Any]:
    """What unfilled slots cost (see `benchmarks.slots`)."""
    import torch

    from benchmarks.slots import cost

    torch.set_num_threads(options.threads)
    return {"slots": cost(100)}


def table(records: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: a row per part, a column a loop, milliseconds per step."""
    keys = [f"{p} {k}" for p in ("forward", "backward") for k in KINDS]
    keys = ["data", *keys[:4], "reference", *keys[4:], "clip", "optimizer", "rest"]
    lines = [
        "| ms a step | " + " | ".join(f"{r['case']} {r['loop']}" for r in records) + " |",
        "| --- " * (len(records) + 1) + "|",
    ]
    for key in keys:
        values = [r["parts"].get(key, 0.0) * 1000 for r in records]
        if any(values):
            lines.append(
                f"| {key} | " + " | ".join(f"{v:.0f}" if v >= 0.5 else ("<1" if v else "-") for v in values) + " |"
            )
    lines.append("| whole step | " + " | ".join(f"{r['seconds_a_step'] * 1000:.0f}" for r in records) + " |")
    lines.append("| tok/s under the profiler | " + " | ".join(f"{r['tokens_per_second']:.0f}" for r in records) + " |")
    return lines


def parts(options: argparse.Namespace) -> dict[str, Any]:
    """Every case in both loops, each in a process of its own."""
    import subprocess

    records = []
    for case in options.case:
        for which in ("plain", "ours"):
            command = [sys.executable, "-m", "benchmarks.profile", "--part", "one", "--case", case, "--loop", which]
            command += ["--model", options.model, "--steps", str(options.steps), "--threads", str(options.threads)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{case} {which} failed:\n{done.stderr[-2000:]}")
            records.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"{case} {which}: {records[-1]['seconds_a_step']:.2f} s a step", file=sys.stderr)
    return {"records": records}


def tricks(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second and peak memory with everything, with each trick left out alone, and with none."""
    common = ("--model", options.model, "--steps", str(options.steps), "--threads", str(options.threads))
    known: dict[str, tuple[str, ...]] = {"everything": (), **{n: (n,) for n in TRICKS}, "none": tuple(TRICKS)}
    left_out = {n: known[n] for n in options.tricks or known}
    made = [
        Side(
            n, sys.executable, "benchmarks.worker", ("tunewright_lora", *common, *(("--without", *out) if out else ()))
        )
        for n, out in left_out.items()
    ]
    results = interleave(made, options.rounds, time.monotonic() + 60 * options.minutes)
    return {
        "tricks": {
            n: {k: spread([r[k] for r in rs]) for k in ("tokens_per_second", "peak_memory_gb")}
            for n, rs in results.items()
        }
    }


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--json", action="store_true", help="JSON alone on stdout")
    a.add_argument("--part", choices=("steps", "tricks", "slots", "one"), default="steps")
    a.add_argument("--case", choices=METHODS, nargs="+", default=list(METHODS))
    a.add_argument("--loop", choices=("ours", "plain"), default="ours", help="with --part one")
    a.add_argument(
        "--tricks", choices=("everything", *TRICKS, "none"), nargs="+", help="with --part tricks: these alone"
    )
    a.add_argument("--model", choices=SHAPES, default="30m")
    a.add_argument("--steps", type=int, default=3)
    a.add_argument("--rounds", type=int, default=2)
    a.add_argument("--minutes", type=float, default=8)
    a.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = a.parse_args()
    if options.part == "one":
        print(json.dumps(one(options.case[0], options.loop, options)), flush=True)
        return
    described = machine.describe("float32", options.threads)
    result = {"steps": parts, "tricks": tricks, "slots": slots}[options.part](options)
    if options.json or options.part != "steps":
        print(json.dumps({"model": options.model, "machine": described, **result}, indent=1))
    else:
        print("\n".join(table(result["records"])))


if __name__ == "__main__":
    main()
