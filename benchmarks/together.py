"""Eight adapters over one base in one process: `python -m benchmarks.together [--model 30m] [--rounds N] [--json]`.

A random Llama (`benchmarks.workload`), one thread, float32; eight adapters, each with rows of its own, the same number
a step: of mixed kinds, and of those that add least. In every round, in turn: a step of each adapter by itself, as when
it is trained alone; and a step of all eight with forwards in common (`tunewright/training/joint.py`). Told, by round:
the common step over the mean step of one ("over one") and over the slowest one's ("over the slowest"), and the eight
alone over the common one ("saved"), as the median with the least and the most. Seconds are of the CPU, which other work
on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.workload import SHAPES, make_model

Kinds = tuple[tuple[str, dict[str, Any]], ...]
MIXED: Kinds = (
    ("lora", {"rank": 8}),
    ("lora", {"rank": 16}),
    ("dora", {"rank": 8}),
    ("ia3", {}),
    ("vera", {"rank": 64}),
    ("oft", {}),
    ("ssf", {}),
    ("bottleneck-adapters", {}),
)
MIXES: dict[str, Kinds] = {"mixed": MIXED, "lora": (("lora", {"rank": 8}),) * 8, "ia3": (("ia3", {}),) * 8}
TOKENS = (8, 32, 128)
"""Tokens that each adapter takes a step, in rows of `ROW` at most."""
ROW = 32
WARM = 2


class Drawn:
    """Rows of random tokens without end, so many tokens a step."""

    exhausted = False

    def __init__(self, vocabulary: int, tokens: int, seed: int):
        self.random, self.vocabulary, self.tokens, self.given = random.Random(seed), vocabulary, tokens, 0

    def next_batch(self) -> list[tuple[Any, int]]:
        from tunewright.contract.batch import Row

        rows = []
        for at in range(0, self.tokens, ROW):
            ids = [self.random.randrange(3, self.vocabulary) for _ in range(min(ROW, self.tokens - at))]
            self.given += 1
            rows.append((Row(f"r{self.given}", "s", ids, [1.0] * len(ids)), 0))
        return rows


def loops_of(model: Any, shape: str, tokens: int, kinds: Kinds) -> list[Any]:
    """A loop for each kind, over one base."""
    from tunewright.catalogue import load_method
    from tunewright.contract.combining import bind
    from tunewright.contract.method import Plan
    from tunewright.models.adapted import Adapted
    from tunewright.models.attention import prepare_attention
    from tunewright.recipe import Budget, TrainSpec
    from tunewright.runs.shared import twin
    from tunewright.tasks import get_task
    from tunewright.training.setting_up import set_up
    from tunewright.training.stage import TrainingInputs
    from tunewright.training.train import begun

    loops = []
    for i, (name, values) in enumerate(kinds):
        adapted = Adapted(twin(model))
        packed = prepare_attention(adapted.model)
        methods = bind([(name, load_method(name)(**values))], i, "main")
        plan = Plan(10_000, 10_000 * tokens, "main", 0, 1e-3, 0)
        task = get_task("text-generation")
        set_up(adapted, methods, plan, task.name, lambda bound, when="once": {})
        spec = TrainSpec(learning_rate=1e-3, batch_tokens=tokens, warmup_steps=0, seed=i)
        rows = Drawn(SHAPES[shape].vocabulary, tokens, i)
        budget = Budget(steps=10_000)
        stage = TrainingInputs(adapted, task, methods, rows, plan, spec, budget, packed=packed)  # type: ignore[arg-type]
        loops.append(begun(stage))
    return loops


def measure(shape: str, tokens: int, rounds: int, kinds: Kinds) -> dict[str, Any]:
    """Seconds of each adapter's step alone, and of all at once, by round."""
    from tunewright.models.adapted import Adapted
    from tunewright.models.attention import prepare_attention
    from tunewright.runs.shared import twin
    from tunewright.training.joint import Joint, why_not

    model = make_model(shape, "float32")
    model.eval()
    loops, body = loops_of(model, shape, tokens, kinds), Adapted(twin(model))
    prepare_attention(body.model)
    assert not any(why := [w for loop in loops if (w := why_not(loop, body))]), why
    joint = Joint(body, loops)

    def together() -> float:
        began = time.process_time()
        dues = [loop.begin_step() for loop in loops]
        found = joint.gradients(dues)
        assert found is not None
        for loop, due, one in zip(loops, dues, found, strict=True):
            loop.end_step(due, loop.told(*one))
        return time.process_time() - began

    def one(loop: Any) -> float:
        began = time.process_time()
        loop.one_step()
        return time.process_time() - began

    alone, common = list[list[float]](), list[float]()
    for n in range(rounds + WARM):
        each, all_of_them = [one(loop) for loop in loops], together()
        if n >= WARM:
            alone.append(each)
            common.append(all_of_them)
    return {"tokens": tokens, "kinds": [name for name, _ in kinds], "alone": alone, "common": common}


def told(found: dict[str, Any]) -> dict[str, list[float]]:
    """Ratios by round."""
    pairs = list(zip(found["alone"], found["common"], strict=True))
    return {
        "over one": [c / (sum(a) / len(a)) for a, c in pairs],
        "over the slowest": [c / max(a) for a, c in pairs],
        "saved": [sum(a) / c for a, c in pairs],
    }


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.together", description=__doc__)
    parser.add_argument("--model", default="30m", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    figures = []
    for name, kinds in MIXES.items():
        for tokens in TOKENS:
            found = {"mix": name, **measure(args.model, tokens, args.rounds, kinds)}
            figures.append(found)
            if not args.json:
                ms = [round(1000 * median(step)) for step in zip(*found["alone"], strict=True)]
                common = round(1000 * median(found["common"]))
                print(f"{args.model}, {name}, {tokens} tokens a step of each: {common} ms; alone: {ms}")
                print("  " + "; ".join(f"{k} {spread(v)}" for k, v in told(found).items()), flush=True)
    if args.json:
        print(json.dumps({"machine": machine.describe("float32", 1), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
