"""SimCLR: the contrast is read behind a head, of the whole step, and the head is not kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.seeing_alone import TASK, model, recipe_in, rows, write_place
from tunewright.contract.combining import bind
from tunewright.contract.needs import NeedContext, Provider
from tunewright.finished.export import export
from tunewright.methods.objectives.simclr import SimCLR
from tunewright.models.adapted import Adapted
from tunewright.pieces.contrast import nt_xent
from tunewright.recipe import Recipe
from tunewright.runs.run import resume, run


def begun(method, name="simclr"):
    """The method's state as a stage begins with it, and the context that its needs were read in."""
    context = NeedContext(Adapted(model()), TASK, 0, {"train": rows()})
    (bound,) = methods = bind([(name, method)], 0, "main")
    bound.stage_needs = Provider(context).statistics(bound)
    bound.state = method.setup(None)
    methods.event("begin_task", stage="main", adapted=context.adapted)
    return bound.state, context


def test_the_loss_is_the_contrast_of_what_the_head_says() -> None:
    method = SimCLR(temperature=0.3, hidden=16, out=5)
    state, context = begun(method)
    batch = TASK.collate(rows(), epochs=[0] * 6)
    out = TASK.forward(context.adapted.model, batch)
    first, last = state.head[0], state.head[2]
    assert first.weight.shape == (16, 32) and last.weight.shape == (5, 16)
    z = (out.embeddings @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    found = method.objective(out, batch, state).value
    torch.testing.assert_close(found, nt_xent(z, torch.arange(6), 0.3))
    assert begun(SimCLR())[0].head[0].weight.shape == (32, 32) and begun(SimCLR())[0].head[2].weight.shape == (128, 32)
    held = [p.clone() for p in state.head.parameters()]
    again, _ = begun(SimCLR(temperature=0.3, hidden=16, out=5))
    assert all(torch.equal(a, b) for a, b in zip(held, again.head.parameters(), strict=True))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return write_place(tmp_path)


def test_a_run_learns_resumes_in_every_bit_and_leaves_no_head(place: Path) -> None:
    recipe = Recipe.load(recipe_in(place, methods=["full", {"simclr": {"temperature": 0.2, "out": 16}}], steps=12))
    report = run(recipe, place / "out", quiet=True).report
    lines = [float(x) for x in _losses(place / "out")]
    assert sum(lines[-4:]) < sum(lines[:4]) and report.cost.steps == 12
    resume(place / "out", verify=True, quiet=True)
    export(place / "out", place / "model", quiet=True)
    from safetensors import safe_open

    with safe_open(place / "model" / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names and not any("head" in n for n in names)


def test_micro_steps_see_the_whole_step(place: Path) -> None:
    seen = []
    for k, micro in enumerate((12, 3)):
        recipe = recipe_in(place, methods=["full", "simclr"], steps=2, train__micro_tokens=micro)
        run(Recipe.load(recipe), place / f"out-{k}", quiet=True)
        seen.append([float(x) for x in _losses(place / f"out-{k}")])
    assert seen[0] == pytest.approx(seen[1], rel=1e-3)


def _losses(folder: Path) -> list[float]:
    import json

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if "loss" in r]
