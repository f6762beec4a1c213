"""Three tasks of two classes each for `mos`, through files as a run goes: what its tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests import tiny
from tests.methods.driving import Run, image_rows
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.methods.continual.mos import MOS, named
from tunewright.models.adapted import Adapted
from tunewright.models.experts import expert
from tunewright.runs.stages import end_stage
from tunewright.training import carry

STEPS = 4
TEXT, PICTURES = "text-classification", "image-classification"
TASKS = ((0, 1), (2, 3), (4, 5))
SMALL: dict[str, Any] = {"width": 3, "align_epochs": 4, "align_rows": 10}


def rows(classes: tuple[int, ...], task: str, count: int = 8) -> list[Row]:
    if task == PICTURES:
        made = image_rows(count, 2, seed=classes[0])
        return [r.replace(id=f"t{classes[0]}:{i}", label=classes[i % len(classes)]) for i, r in enumerate(made)]
    g = torch.Generator().manual_seed(classes[0])
    out = []
    for i in range(count):
        words = torch.randint(30, 200, (3 + i % 4,), generator=g).tolist()
        out.append(Row(f"t{classes[0]}:{i}", "t", [tiny.CLS, 20 + classes[i % len(classes)], *words], [1.0]))
    return [r.replace(label=classes[i % len(classes)]) for i, r in enumerate(out)]


def model(task: str = TEXT) -> Adapted:
    adapted = Adapted(tiny.bert_classifier(labels=6) if task == TEXT else tiny.vit(labels=6))
    adapted.new = tuple(n for n in adapted.base_parameters() if n.startswith("classifier."))
    return adapted


def stage(adapted: Adapted, classes, earlier=None, listen=None, beside=None, task: str = TEXT, **fields: Any) -> Run:
    methods = {"mos": MOS(**{**SMALL, **fields}), **(beside or {})}
    run = Run(
        methods,
        model=adapted,
        task=task,
        sources={"t": rows(classes, task)},
        steps=STEPS,
        listen=listen,
        earlier=earlier,
    )
    run.methods.event("begin_task", stage="x", adapted=adapted)
    return run


def end(run: Run, folder: Path, name: str) -> None:
    """What a run does when a stage has ended."""
    end_stage(run.stage, name)
    left = [left_of(name, b.name, b.method.leaves, b.state, b.state.data) for b in run.methods]
    carry.save_stage(folder / "stages" / name, run.adapted, {}, [one for one in left if one is not None])


def left_by(folder: Path, start: str | None = None) -> Earlier:
    """What all stages left; of one that starts from `start`."""
    stages = ("one", "two", "three")
    way = None if start is None else stages[: stages.index(start) + 1] if start != "base" else ()
    return replace(carry.earlier_of({n: folder / "stages" / n for n in stages}), way=way)


def follow(folder: Path, start: str, classes, *, listen=None, how: str = "frozen", task: str = TEXT, **more) -> Run:
    adapted = model(task)
    carry.begin(adapted, f"stages.{start}", how, folder, "recipe.yaml")
    return stage(adapted, classes, left_by(folder, start), listen, task=task, **more)


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory) -> tuple[Path, str]:
    """A run's folder with two tasks done, and the task that it is of."""
    folder = tmp_path_factory.mktemp("run")
    run = stage(model(request.param), TASKS[0], task=request.param)
    run.train()
    end(run, folder, "one")
    run = follow(folder, "one", TASKS[1], task=request.param)
    run.train()
    end(run, folder, "two")
    return folder, request.param


def values(adapted: Adapted, task: int) -> list[Tensor]:
    return [p.detach().clone() for d in expert(adapted.structure, named(task)) for p in d.parameters()]


def same(a, b) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def logits(run: Run, batch, *, outer: bool = True) -> Tensor:
    with torch.no_grad():
        module = run.adapted.outer.eval() if outer else run.adapted.model.eval()
        return run.task.forward(module, batch).logits


def next_task(run: Run, classes, **fields: Any) -> Run:
    """The task after one that was trained, without files between them."""
    end_stage(run.stage, "one")
    left = [left_of("one", b.name, b.method.leaves, b.state, b.state.data) for b in run.methods]
    carry.apply_carry(run.adapted, "frozen", "one")
    return stage(run.adapted, classes, Earlier(tuple(one for one in left if one is not None)), **fields)


def made(kind: str) -> Adapted:
    """A tiny classifier of six texts' classes of another family, with a head that is new."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain = {"vocab_size": tiny.VOCABULARY, "num_labels": 6, "pad_token_id": tiny.PAD, "initializer_range": tiny.STD}
    config = getattr(transformers, f"{kind}Config")(**sizes, **plain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = Adapted(getattr(transformers, f"{kind}ForSequenceClassification")(config).eval())
    adapted.new = tuple(n for n in adapted.base_parameters() if n.startswith(("classifier.", "score.")))
    return adapted
