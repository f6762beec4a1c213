"""LT-SFT: the places that moved most, found by hand; the second stage from the same start; sums of sparse changes."""

from __future__ import annotations

import pytest
import torch

from tests import small, tiny
from tests.methods.driving import Run
from tunewright.conformance.bench import Tiny
from tunewright.files import checkpoint
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.objectives.asft import ASFT
from tunewright.methods.parameter_selection.lt_sft import LTSFT, most_changed
from tunewright.models.agreement import differing
from tunewright.recipe import Recipe
from tunewright.runs.run import run as run_recipe
from tunewright.weights.merge.task_arithmetic import TaskArithmetic


def test_the_largest_of_all_tensors_together():
    changes = {"a": torch.tensor([[0.1, -5.0], [0.0, 2.0]]), "b": torch.tensor([3.0, 0.2]), "c": torch.zeros(3)}
    found = most_changed(changes, 3)
    assert {n: i.tolist() for n, i in found.items()} == {"a": [1, 3], "b": [0]}
    assert sum(len(i) for i in most_changed({"a": torch.ones(4), "b": torch.ones(4)}, 5).values()) == 5


def searched(method: LTSFT, steps: int = 3):
    run = Run({"lt-sft": method}, steps=steps)
    before = {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}
    run.train()
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    return run, before


def test_a_search_leaves_the_places_that_moved_most_and_trains_no_norm():
    run, before = searched(LTSFT(keep=0.05))
    state = run.state("lt-sft")
    now = run.adapted.base_parameters()
    norms = {n for n in now if "norm" in n}
    assert norms and all(torch.equal(now[n], before[n]) for n in norms)
    moved = torch.cat([(now[n] - before[n]).abs().flatten() for n in sorted(before.keys() - norms)])
    count = round(0.05 * moved.numel())
    places = {n.removeprefix("mask/"): t for n, t in state.named_buffers() if n.startswith("mask/")}
    assert sum(map(len, places.values())) == count
    least = moved.sort(descending=True).values[count - 1]
    for name, at in places.items():
        change = (now[name.replace("/", ".")] - before[name.replace("/", ".")]).abs().flatten()
        assert float(change[at].detach().min()) >= float(least)


def test_l1_pulls_to_the_start_by_hand():
    """The second gradient has l1 / N sign(theta - theta_0) in it; with one step it changes nothing."""
    seen = {}

    class Watching(LTSFT):
        def gradient(self, gradients, parameters, state):
            given = super().gradient(gradients, parameters, state)
            # clipping scales what was given in place
            copies = [{n: p.detach().clone() for n, p in of.items()} for of in (gradients, given, parameters)]
            seen.setdefault("steps", []).append(copies)
            return given

    run = Run({"lt-sft": Watching(l1=30.0)}, steps=2)
    run.train()
    count = run.state("lt-sft").data["entries"]
    (first, given, start), (second, changed, now) = seen["steps"]
    assert all(torch.equal(first[n], given[n]) for n in first)
    for name in second:
        torch.testing.assert_close(changed[name] - second[name], 30.0 / count * (now[name] - start[name]).sign())


def test_the_sparse_stage_begins_at_the_base_and_its_change_lies_in_the_mask(tmp_path):
    small.write_inputs(tmp_path)
    method = {"lt-sft": {"keep": 0.02}}
    stages = [
        {"name": "search", "methods": [method], "budget": {"steps": 3}},
        {"name": "sparse", "start": "base", "methods": [method], "budget": {"steps": 3}},
        {"name": "next", "start": "base", "methods": [method], "budget": {"steps": 1}},
    ]
    out = tmp_path / "out"
    run_recipe(Recipe.load(small.write_recipe(tmp_path, stages=stages), out=out))
    search, sparse, following = (checkpoint.read(out / "stages" / n) for n in ("search", "sparse", "next"))
    mask = {n.split("|", 2)[2]: t for n, t in search.tensors["left"].items()}
    trained = sparse.tensors["trained"]
    assert not [n for n in trained if n.startswith("value:")], "everything whole was begun again"
    places = {n.removeprefix("places:"): t for n, t in trained.items() if n.startswith("places:")}
    assert places.keys() == mask.keys() and all(torch.equal(places[n], mask[n]) for n in mask)
    phases = [s.state["left"]["lt-sft"]["phase"] for s in (search, sparse, following)]
    assert phases == ["search", "sparse", "search"]


def test_two_sparse_changes_add_up_whatever_their_order():
    """Language plus task, with task-arithmetic: (other language) + (task on its language) - (its language)."""
    base = {n: p.detach() for n, p in tiny.llama().named_parameters()}
    generator = torch.Generator().manual_seed(0)

    def change(seed: int) -> dict[str, torch.Tensor]:
        places = most_changed({n: torch.randn(p.shape, generator=generator) for n, p in base.items()}, 50)
        found = {n: torch.zeros(p.numel()) for n, p in base.items()}
        for n, at in places.items():
            found[n][at] = torch.randn(len(at), generator=generator) + seed
        return {n: t.view(base[n].shape) for n, t in found.items()}

    own, other, task = change(1), change(2), change(3)
    for name, b in base.items():
        tensors = [b + other[name], b + own[name] + task[name], b + own[name]]
        each = [{"weight": w} for w in (1.0, 1.0, -1.0)]
        got = TaskArithmetic(normalize=False).merge(base=b, tensors=tensors, each=each)
        torch.testing.assert_close(got, b + other[name] + task[name], atol=1e-5, rtol=1e-5)
        turned = TaskArithmetic(normalize=False).merge(base=b, tensors=tensors[::-1], each=each[::-1])
        torch.testing.assert_close(got, turned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("more", [{}, {"asft": ASFT()}])
def test_both_stages_resume(more):
    named = [("lt-sft", LTSFT(keep=0.1, l1=5.0)), *more.items()]
    whole = Tiny(named, steps=3, keep=(1, 2)).run()
    assert whole.left.latest("lt-sft").values["phase"] == "search"
    for saved in whole.saved.values():
        assert not differing(whole.tensors(), whole.resumed(saved).tensors())


def test_deltas_beside_it_do_not_train():
    run = Run({"lora": LoRA(rank=2), "lt-sft": LTSFT()}, steps=1)
    run.train()
    assert not any(p.any() for n, p in run.adapted.delta_parameters().items() if "lora_B" in n)
