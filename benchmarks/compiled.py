"""What compiled blocks gain: `python -m benchmarks.compiled [--model NAME] [--backend inductor]`.

Two loops of one LoRA stage on one model, one with its blocks compiled, do the same steps in turn, in one process: rows
packed, of several lengths, processor seconds of forward, loss and backward. Printed are the seconds that compiling
takes, and for each length the ratio of the plain loop's seconds to the compiled one's: median, least and most. Losses
must agree to 1e-4.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch

from tunewright.contract.batch import Row
from tunewright.contract.combining import bind
from tunewright.contract.method import Plan
from tunewright.loading.load import load
from tunewright.methods.adapters.lora import LoRA
from tunewright.models.adapted import Adapted
from tunewright.models.attention import prepare_attention
from tunewright.models.compiled import compiling
from tunewright.tasks import get_task
from tunewright.training.setting_up import set_up
from tunewright.training.stage import TrainingInputs
from tunewright.training.train import Loop

LENGTHS, ROWS = (128, 256, 512), 4


def loop_of(model: str, backend: str, stack: ExitStack) -> Loop:
    """A stage of LoRA on the model; with a `backend` its blocks run compiled for as long as `stack` is open."""
    loaded = load(model, "text-generation")
    packs = prepare_attention(loaded.model)
    adapted = Adapted(loaded.model)
    bound = bind([("lora", LoRA(dropout=0.0))], 0, "main")
    plan = Plan(100, 100000, "main", 0, 1e-4, 1)
    set_up(adapted, bound, plan, "text-generation", lambda b: {})
    spec = SimpleNamespace(
        micro_tokens=None,
        seed=0,
        learning_rate=1e-4,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        momentum=0.0,
        optimizer=SimpleNamespace(name="adamw", params={}),
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        activation_offloading=False,
    )
    task = get_task("text-generation")
    none = SimpleNamespace(tokens=None, steps=None, seconds=None, flops=None, epochs=None)
    rows: Any = SimpleNamespace(weights={}, exhausted=False)
    stage = TrainingInputs(adapted, task, bound, rows, plan, spec, none, packed=packs)
    stage.compiled = stack.enter_context(compiling(adapted, backend))
    return Loop(stage)


def rows_of(tokens: int, seed: int) -> list[tuple[Row, int]]:
    """`ROWS` rows of random tokens, `tokens` in all; the first half of each is not trained."""
    drawn, each = random.Random(seed), tokens // ROWS
    weights = [0.0] * (each // 2) + [1.0] * (each - each // 2)
    return [(Row(f"r{i}", "s", [drawn.randrange(5, 9000) for _ in range(each)], weights), 0) for i in range(ROWS)]


def timed(loop: Loop, rows: list[tuple[Row, int]]) -> tuple[float, float]:
    """(processor seconds, loss) of a step's gradients."""
    began = time.process_time()
    record = loop.gradients(rows)
    return time.process_time() - began, record["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        plain, fast = (loop_of(given.model, backend, stack) for backend in ("", given.backend))
        for loop in (plain, fast):
            began = time.monotonic()
            timed(loop, rows_of(200, 0))
            print(f"first step {time.monotonic() - began:.1f} s{' compiled' if loop is fast else ''}")
        for tokens in LENGTHS:
            timed(fast, rows_of(tokens, 0))
            ratios = []
            for i in range(given.repeats):
                (slow, a), (quick, b) = (timed(loop, rows_of(tokens, i)) for loop in (plain, fast))
                assert abs(a - b) < 1e-4, (a, b)
                ratios.append(slow / quick)
            print(f"{tokens} tokens: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
