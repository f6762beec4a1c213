"""One side of a pair, in a process of its own: trains a few steps and prints one JSON line.

`python -m benchmarks.worker SIDE --model 30m --dtype float32 --steps 4`; a side is a function below. The first step
warms up and is not counted. Peak memory is the process's own largest resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.tricks import TRICKS, switched_off
from benchmarks.workload import BOS, EOS, PAD, SHAPES, Example, make_model, make_rows, useful_flops

RANK, ALPHA, RATE = 16, 32, 1e-4
QUICKSTART = "quickstart"
METHODS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "lora": [("lora", {"rank": RANK, "alpha": ALPHA})],
    "full": [("full", {})],
    "hft": [("hft", {})],
    "lift": [("lift", {"rank": RANK, "refresh_steps": None})],
    "dpo": [("lora", {"rank": RANK, "alpha": ALPHA}), ("dpo", {})],
}
"""What each case is made of, by its methods' names in a recipe."""


@dataclass
class Work:
    """What a side is given, and the clock it keeps."""

    model: str
    dtype: str
    steps: int
    batch: int
    seed: int
    without: tuple[str, ...] = ()
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def rows(self) -> list[Example]:
        return [r for b in self.batches() for r in b]

    def batches(self) -> list[list[Example]]:
        """The rows of every step, the warming-up one first."""
        if self.model == QUICKSTART:
            from benchmarks.quickstart import quickstart_batches

            return quickstart_batches(self.steps + 1, self.seed)
        rows = make_rows(self.model, self.batch * (self.steps + 1), self.seed)
        return [rows[s * self.batch : (s + 1) * self.batch] for s in range(self.steps + 1)]

    def make(self) -> Any:
        """The model before training."""
        if self.model == QUICKSTART:
            from benchmarks.quickstart import quickstart_model

            return quickstart_model(self.dtype)
        return make_model(self.model, self.dtype, self.seed)


def ours(work: Work, method: str) -> None:
    """Tunewright's own loop with its own method, on an unmodified transformers model; `work.without` are tricks
    left out.
    """
    from tunewright.machine.memory import keep_freed_memory
    from tunewright.training.train import train

    if "kept memory" not in work.without:
        keep_freed_memory()
    clock = [0.0]

    def listen(loop: Any, record: dict[str, Any]) -> None:
        work.seconds.append(time.perf_counter() - clock[0])
        work.losses.append(record["loss"])
        clock[0] = time.perf_counter()

    with switched_off(work.without):
        stage = make_stage(work, method, listen)
        clock[0] = time.perf_counter()
        train(stage)


class Batches:
    """Rows that are there already, a batch at a time."""

    def __init__(self, batches: Sequence[Sequence[Any]]):
        self.batches, self.given = batches, 0

    def next_batch(self) -> list[tuple[Any, int]]:
        self.given += 1
        return [(r, 0) for r in self.batches[self.given - 1]]

    def state(self) -> dict[str, Any]:
        return {"given": self.given}

    def restore(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


def make_stage(work: Work, method: str, listen: Callable[[Any, dict[str, Any]], None]) -> Any:
    """A stage of `work`'s model and rows with one of the methods below, set up."""
    from tunewright.catalogue import load_method
    from tunewright.contract.batch import Row
    from tunewright.contract.combining import bind
    from tunewright.contract.method import Plan
    from tunewright.contract.needs import NeedContext, Provider
    from tunewright.contract.pairs import Pair
    from tunewright.models.adapted import Adapted
    from tunewright.models.attention import prepare_attention
    from tunewright.recipe import Budget, TrainSpec
    from tunewright.tasks import get_task
    from tunewright.training.setting_up import set_up
    from tunewright.training.stage import TrainingInputs

    adapted = Adapted(work.make())
    if work.model == QUICKSTART:
        from benchmarks.quickstart import quickstart_files

        adapted.files = quickstart_files()
    packed = "padding-free" not in work.without and prepare_attention(adapted.model)
    methods = bind([(n, load_method(n)(**parameters)) for n, parameters in METHODS[method]], work.seed, "bench")
    plan = Plan(work.steps + 1, 10**9, "bench", 0, RATE, 0)
    task = get_task("text-generation")
    provider = Provider(NeedContext(adapted, task, work.seed, packed=packed))
    set_up(adapted, methods, plan, task.name, provider.statistics)

    def row(name: str, r: Example) -> Row:
        return Row(name, "bench", r.ids, [0.0] * r.prompt + [1.0] * (len(r.ids) - r.prompt))

    made = [[row(f"r{i}", r) for i, r in enumerate(b)] for b in work.batches()]
    if method == "dpo":  # the batch's rows two by two: the same number of tokens as the other cases
        made = [
            [Pair(a.id, a.source, a.input_ids, a.weights, rejected=b) for a, b in zip(m[::2], m[1::2], strict=True)]
            for m in made
        ]

    spec = TrainSpec(learning_rate=RATE, lr_scheduler_type="constant", warmup_steps=0)
    return TrainingInputs(
        adapted,
        task,
        methods,
        Batches(made),
        plan,
        spec,
        Budget(steps=work.steps + 1),
        signals=provider.signals,
        listen=listen,
        packed=packed,
    )


def raw_loop(work: Work, model: Any) -> None:
    """The plain torch loop that tutorials show: padded batches, the model's own loss, AdamW."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for b in work.batches():
        t = time.perf_counter()
        longest = max(len(r.ids) for r in b)
        ids = torch.tensor([[*r.ids, *[PAD] * (longest - len(r.ids))] for r in b])
        labels = torch.tensor(
            [[-100] * r.prompt + list(r.ids[r.prompt :]) + [-100] * (longest - len(r.ids)) for r in b]
        )
        mask = torch.tensor([[1] * len(r.ids) + [0] * (longest - len(r.ids)) for r in b])
        loss = model(input_ids=ids, labels=labels, attention_mask=mask).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        work.seconds.append(time.perf_counter() - t)
        work.losses.append(float(loss.detach()))


def tunewright_lora(work: Work) -> None:
    ours(work, "lora")


def tunewright_full(work: Work) -> None:
    ours(work, "full")


def peft_lora(work: Work) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear")
    raw_loop(work, get_peft_model(work.make(), config))


def torch_full(work: Work) -> None:
    raw_loop(work, work.make())


def trl_lora(work: Work) -> None:
    """TRL's SFTTrainer with PEFT, completion-only loss, its defaults otherwise."""
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    words = {f"t{i}": i for i in range(SHAPES[work.model].vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token=f"t{BOS}"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=f"t{PAD}", eos_token=f"t{EOS}")

    class Clock(TrainerCallback):
        start = 0.0

        def on_step_begin(self, *a: Any, **k: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *a: Any, **k: Any) -> None:
            work.seconds.append(time.perf_counter() - self.start)

    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=work.batch,
            max_steps=work.steps + 1,
            report_to=[],
            save_strategy="no",
            logging_steps=10**6,
            use_cpu=True,
            bf16=False,
            fp16=False,
            max_length=512,
            gradient_checkpointing=False,
            learning_rate=RATE,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            packing=False,
        )
        data = Dataset.from_list(
            [
                {"input_ids": list(r.ids), "completion_mask": [0] * r.prompt + [1] * (len(r.ids) - r.prompt)}
                for r in work.rows
            ]
        )
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear")
        model = work.make()
        SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=config,
            callbacks=[Clock()],
        ).train()


SIDES: dict[str, Callable[[Work], None]] = {
    f.__name__: f for f in (tunewright_lora, tunewright_full, peft_lora, torch_full, trl_lora)
}


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("side", choices=SIDES)
    a.add_argument("--model", choices=(*SHAPES, QUICKSTART), default="30m")
    a.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    a.add_argument("--steps", type=int, default=4)
    a.add_argument("--batch", type=int, default=8)
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--without", choices=TRICKS, nargs="+", default=[], help="tricks that our own loop leaves out")
    a.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    o = a.parse_args()
    import torch

    torch.set_num_threads(o.threads)
    work = Work(o.model, o.dtype, o.steps, o.batch, o.seed, tuple(o.without))
    SIDES[o.side](work)
    full = o.side.endswith("_full")
    rows = work.batches()
    # TRL draws its rows in an order of its own: tokens and work of a step are then the mean over all of them
    shuffled = o.side == "trl_lora"
    every = [r for b in rows for r in b]
    tokens = [sum(len(r.ids) for r in (every if shuffled else b)) / (len(rows) if shuffled else 1) for b in rows]
    known = o.model in SHAPES
    flops = [
        useful_flops(o.model, every if shuffled else b, full) / (len(rows) if shuffled else 1) for b in rows if known
    ]
    record = {
        "side": o.side,
        "seconds": work.seconds[1:],
        "tokens_per_second": sum(tokens[1:]) / sum(work.seconds[1:]) if work.steps else None,
        "gflops": sum(flops[1:]) / sum(work.seconds[1:]) / 1e9 if known and work.steps else None,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "first_loss": work.losses[0] if work.losses else None,
    }
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
