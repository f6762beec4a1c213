"""BYOL: agreement with a slow copy on the other view, by the formula; the copy's way; whole runs that resume."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from tests.methods.test_simclr import _losses, begun
from tests.methods.test_simclr import place as place
from tests.seeing_alone import TASK, recipe_in, rows
from tunewright.methods.objectives.byol import BYOL
from tunewright.recipe import Recipe
from tunewright.runs.run import resume, run


def test_the_loss_is_the_formula_and_the_target_gives_no_gradient() -> None:
    method = BYOL(hidden=16, out=8)
    state, context = begun(method, "byol")
    batch, net = TASK.collate(rows(4), epochs=[0] * 4), context.adapted.model
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.9)
        aim = {n: 0.5 * p.detach() for n, p in state.projector.named_parameters()}
    for name, value in aim.items():
        state.set_buffer("target." + name, value)
    asked = []

    def forward(batch, weights, grad):
        asked.append((weights, grad))
        return TASK.forward(other, batch)

    found = method.objective(TASK.forward(net, batch), batch, forward, state).value
    assert asked == [({}, False)] and found.shape == (4,)
    with torch.no_grad():
        online = normalize(state.predictor(state.projector(TASK.forward(net, batch).embeddings)), dim=1)
        slow = copy.deepcopy(state.projector)
        slow.load_state_dict(aim)
        target = normalize(slow(TASK.forward(other, batch).embeddings), dim=1)
    pairs = [(2 * i, 2 * i + 1) for i in range(4)]
    wanted = [2 - float(online[a] @ target[b] + online[b] @ target[a]) for a, b in pairs]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)
    found.sum().backward()
    assert all(p.grad is not None for p in state.parameters()) and all(p.grad is None for p in other.parameters())


def test_the_target_begins_as_the_model_and_follows_slowly() -> None:
    method = BYOL(decay=0.75, hidden=16, out=8)
    state, _ = begun(method, "byol")
    weight = torch.ones(3)
    method.after_step({"w": weight}, state)
    first = state.projector[0].weight.detach().clone()
    assert torch.equal(state.copies()["w"], weight)
    with torch.no_grad():
        state.projector[0].weight.add_(1.0)
    method.after_step({"w": weight + 1}, state)
    torch.testing.assert_close(state.copies()["w"], torch.full((3,), 1.25))
    torch.testing.assert_close(state.get("target.0.weight"), first + 0.25)
    assert [m.weight.shape for m in (state.projector[0], state.predictor[0])] == [(16, 32), (16, 8)]


def test_a_run_learns_and_resumes_in_every_bit(place: Path) -> None:
    recipe = recipe_in(place, methods=["full", {"byol": {"decay": 0.9, "hidden": 32, "out": 16}}], steps=12)
    run(Recipe.load(recipe), place / "out", quiet=True)
    lines = _losses(place / "out")
    assert sum(lines[-4:]) < sum(lines[:4])
    resume(place / "out", verify=True, quiet=True)


@pytest.mark.parametrize("change", [{"decay": 0.5}, {"hidden": 8}, {"out": 4}])
def test_every_option_changes_the_run(place: Path, change: dict) -> None:
    seen = []
    for k, given in enumerate(({"hidden": 16, "out": 8}, {"hidden": 16, "out": 8, **change})):
        run(Recipe.load(recipe_in(place, methods=["full", {"byol": given}], steps=4)), place / f"out-{k}", quiet=True)
        seen.append(_losses(place / f"out-{k}"))
    assert seen[0] != seen[1]


def test_a_step_may_hold_one_picture(place: Path) -> None:
    recipe = recipe_in(place, methods=["full", {"byol": {"hidden": 16, "out": 8}}], steps=2, train__batch_tokens=1)
    assert all(0 < x < 4 for x in (run(Recipe.load(recipe), place / "out", quiet=True), _losses(place / "out"))[1])
