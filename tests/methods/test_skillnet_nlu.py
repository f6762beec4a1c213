"""SkillNet-NLU: the mean of parts as by hand, no gradient beside a task's list, and tasks that come later."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tests.methods.selecting import BASES, rows_for
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.skillnet_nlu import SkillNetNLU
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.attention import prepare_attention
from tunewright.pieces.skill_parts import held
from tunewright.tasks import get_task
from tunewright.training import carry
from tunewright.training.train import Loop

TASK = get_task("text-generation")
NAME = "skillnet-nlu"
LISTS = {"a": ("x", "y"), "b": ("y",), "c": ()}


def rows(names: str = "abc") -> dict[str, list[Row]]:
    return {n: text_rows(12, n) for n in names}


def make(listen=None, *, model: Any = None, names: str = "abc", task: str = "text-generation", **fields: Any) -> Run:
    given = {"skills": LISTS, "every": 1, **fields}
    steps, sources = given.pop("steps", 4), given.pop("sources", None) or rows(names)
    return Run(
        {NAME: SkillNetNLU(**given)},
        model=model or tiny.llama(),
        task=task,
        sources=sources,
        steps=steps,
        listen=listen,
        plan={"sources": dict.fromkeys(sources, 1)},
    )


def shake(run: Run, seed: int = 0) -> None:
    """Skills that differ, as training makes them."""
    g = torch.Generator().manual_seed(seed)
    for delta in held(run.adapted.structure):
        for p in delta.parameters():
            p.data += 0.3 * torch.randn(p.shape, generator=g)


def said(adapted: Adapted, some: list[Row], task=TASK, packed: bool = False) -> Tensor:
    with adapted.evaluating(), torch.no_grad():
        return task.forward(adapted.outer, task.collate(some, packed)).logits


class Mean(nn.Module):
    """A feed-forward part in the place of a model's own: the mean over whole copies of it."""

    def __init__(self, parts: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, h: Tensor) -> Tensor:
        return torch.stack([p(h) for p in self.parts]).mean(0)


def by_hand(run: Run, names: tuple[str, ...], make=tiny.llama) -> Any:
    """The base with, in each block, the mean of its part and of whole parts with the skills' weights."""
    model: Any = make()
    for i, delta in enumerate(held(run.adapted.structure)):
        block = model.model.layers[i] if make is tiny.llama else model.transformer.h[i]
        parts = [block.mlp]
        for name in names:
            part = deepcopy(block.mlp)
            layers = [part.gate_proj, part.up_proj, part.down_proj] if make is tiny.llama else [part.c_fc, part.c_proj]
            for layer, (weight, bias) in zip(layers, delta.layers(name), strict=True):
                layer.weight.data = weight if make is tiny.llama else weight.T
                if bias is not None:
                    layer.bias.data = bias
            parts.append(part)
        block.mlp = Mean(parts)
    return model.eval()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("make_model", [tiny.llama, tiny.gpt2])
def test_a_rows_parts_are_averaged_over_its_tasks_skills_and_the_general_one(make_model, packed):
    model = make_model()
    assert not packed or prepare_attention(model)
    run = make(model=model)
    shake(run)
    some = [replace(r, source=s) for r, s in zip(text_rows(5), "abcab", strict=True)]
    got, at = said(run.adapted, some, packed=packed), 0
    plain = make_model().eval()
    for row in some:
        model = by_hand(run, LISTS[row.source], make_model)
        with torch.no_grad():
            wanted = model(torch.tensor([row.input_ids])).logits[0, 1:-1]
        torch.testing.assert_close(got[at : at + len(wanted)], wanted, atol=2e-5, rtol=1e-4)
        at += len(wanted)
    assert at == len(got)
    other = [replace(r, source="else") for r in some]
    with torch.no_grad():
        assert agrees(said(run.adapted, other), TASK.forward(plain, TASK.collate(other)).logits), "the general alone"


def test_a_copy_is_a_whole_part_with_weights_of_its_own():
    delta = held(make().adapted.structure)[0]
    h = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    part = tiny.llama().model.layers[0].mlp
    with torch.no_grad():
        torch.testing.assert_close(delta.copies[0](h), part(h))


@pytest.mark.parametrize("kind", BASES)
def test_every_base_starts_as_itself_whatever_a_task_uses(kind):
    make_model, task = BASES[kind]
    served = get_task(task)
    some = [replace(r, source=s) for r, s in zip(rows_for(task)[:3], "abc", strict=True)]
    run = make(model=make_model(), task=task, sources={n: some for n in "abc"})
    assert len(held(run.adapted.structure)) == 2
    with torch.no_grad():
        wanted = served.forward(make_model().eval(), served.collate(some)).logits
    assert agrees(said(run.adapted, some, served), wanted)
    shake(run)
    assert not agrees(said(run.adapted, some, served), wanted)


def test_skills_that_no_row_uses_have_no_gradient_and_stay_to_the_bit():
    run = make(names="bc", skills={"b": ["y"], "c": [], "a": ["x"]})
    before = {n: p.detach().clone() for n, p in run.adapted.delta_parameters().items()}
    loop = Loop(run.stage)
    loop.gradients(loop.take()[0])
    idle = [n for n in before if ".copies.1." in n]
    used = [n for n in before if ".copies.0." in n]
    assert idle and all(run.adapted.delta_parameters()[n].grad is None for n in idle)
    assert used and all(run.adapted.delta_parameters()[n].grad is not None for n in used)
    run.train()
    now = run.adapted.delta_parameters()
    assert all(torch.equal(now[n], before[n]) for n in idle) and not any(torch.equal(now[n], before[n]) for n in used)


def test_all_trains_where_it_is_shared_and_skills_alone_where_it_is_not():
    for shared in (True, False):
        run = make(shared=shared)
        loop = run.train()
        base = dict(tiny.llama().named_parameters())
        moved = {n for n, p in run.adapted.base_parameters().items() if not torch.equal(p, base[n])}
        assert moved == (set(run.adapted.base_parameters()) if shared else set())
        assert all(".copies." in n for n in loop.trained.leaves if ".delta." in n)
        assert any(".copies." in n for n in loop.trained.leaves)


def test_each_source_has_a_skill_of_its_own_where_none_are_listed_and_others_share_one():
    run = make(skills={}, names="ab")
    assert held(run.adapted.structure)[0].tasks == {"a": ("a",), "b": ("b",)}
    shake(run)
    some = [replace(r, source="else") for r in text_rows(3)]
    plain = said(run.adapted, some)
    run = make(skills={}, names="ab", others="b")
    shake(run)
    assert torch.equal(said(run.adapted, some), said(run.adapted, [replace(r, source="b") for r in some]))
    assert not agrees(said(run.adapted, some), plain)


def test_every_so_manieth_block_holds_skills_the_first_among_them():
    for every, blocks in ((1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])):
        run = make(model=tiny.llama(layers=4), every=every)
        sites = [s.block for s in run.adapted.structure.sites if NAME in getattr(s.module, "delta", {})]
        assert sorted(set(sites)) == blocks
    assert SkillNetNLU().every == 2 and SkillNetNLU().shared


def carried(folder: Path, how: str, run: Run) -> Adapted:
    carry.save_stage(folder / "stages" / "one", run.adapted, {})
    adapted = Adapted(tiny.llama())
    carry.begin(adapted, "stages.one", how, folder, "recipe.yaml")
    return adapted


def test_a_later_task_starts_from_known_skills_and_leaves_the_earlier_tasks_alone(tmp_path: Path):
    first = make(shared=False)
    first.train()
    old = [replace(r, source=s) for r, s in zip(text_rows(4), "abca", strict=True)]
    wanted = said(first.adapted, old)
    later = make(model=carried(tmp_path, "frozen", first), names="d", skills={"d": ["y", "z"]}, shared=False)
    one, two = (held(later.adapted.structure)[i] for i in (0, 1))
    assert one.names == ("x", "y") and two.names == ("y", "z")
    for got, known in zip(two.layers("y"), one.layers("y"), strict=True):
        assert torch.equal(got[0], known[0])
    gate = later.adapted.structure.site("model.layers.0.mlp.gate_proj")
    assert torch.equal(two.layers("z")[0][0], gate.matrix())
    assert agrees(said(later.adapted, old), wanted)
    new = [replace(r, source="d") for r in text_rows(3)]
    before = said(later.adapted, new)
    later.train()
    assert agrees(said(later.adapted, old), wanted) and not agrees(said(later.adapted, new), before)
    with pytest.raises(MethodError, match="'a' has its skills from an earlier stage"):
        make(model=carried(tmp_path, "frozen", first), names="a", skills={"a": ["x"]})


def test_with_training_carried_on_earlier_skills_train_along(tmp_path: Path):
    first = make(shared=False, names="ab", skills={"a": ["x"], "b": ["y"]})
    first.train()
    later = make(model=carried(tmp_path, "training", first), names="ad", skills={"d": ["y"]}, shared=False)
    kept = later.adapted.delta_parameters()
    before = {n: p.detach().clone() for n, p in kept.items() if "one-" in n}
    later.train()
    moved = {n for n in before if not torch.equal(before[n], kept[n])}
    assert moved and all(".copies.0." in n for n in moved), "the task that comes again trains its skill, the other not"


def test_it_resumes_and_comes_back_from_its_files(tmp_path: Path):
    assert_resumes(make, 2)
    run = make()
    run.train()
    some = [replace(r, source=s) for r, s in zip(text_rows(3), "abc", strict=True)]
    delta_format.save_delta(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.llama())
    delta_format.load_delta(again, tmp_path)
    torch.testing.assert_close(said(again, some), said(run.adapted, some))
    half = said(run.adapted, some)
    for delta in held(run.adapted.structure):
        delta.strength = 0.5
    assert not agrees(said(run.adapted, some), half)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"skills": {"a": []}}, "no task has a skill"),
        ({"others": "z"}, "which is no task"),
        ({"model": tiny.efficientnet, "task": "image-classification"}, "feed-forward"),
        ({"model": "odd"}, "says no activation"),
        ({"model": "wrong"}, "does not say what it says"),
    ],
)
def test_what_cannot_work_is_refused_before_a_step(fields, says):
    if callable(fields.get("model")):
        fields = {**fields, "model": fields["model"](), "sources": {"a": rows_for(fields["task"])}}
    elif "model" in fields:
        model = tiny.llama()
        model.config.hidden_act = {"odd": "no such", "wrong": "tanh"}[fields["model"]]
        fields = {**fields, "model": model}
    with pytest.raises(MethodError, match=says) as caught:
        make(**fields)
    assert caught.value.remedy
