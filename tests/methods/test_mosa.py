"""MoSA: the authors' full copies with masked gradients by hand, groups that partition, draws, and the merge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, logits, text_rows
from tests.methods.selecting import BASES, rows_for
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.mosa import MoSA, disagreement
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.bottlenecks import Inserted
from tunewright.models.deltas import rename
from tunewright.models.recompute import recomputing
from tunewright.models.split_bottleneck import SplitBottleneck, split
from tunewright.tasks import get_task
from tunewright.training.train import Loop

SMALL = {"bottleneck_size": 6, "scaling": 1.0}


def experts(run: Run) -> dict[str, SplitBottleneck]:
    return {n: d for n, by in run.adapted.deltas().items() for d in by.values() if isinstance(d, SplitBottleneck)}


def merged(adapted: Adapted) -> dict[str, Inserted]:
    return {n: d for n, by in adapted.deltas().items() for d in by.values() if type(d) is Inserted}


class Drawn:
    """Listens to a run: what each step drew, block by block, (first pass, second pass)."""

    def __init__(self, run: Run):
        self.held, self.steps = list(experts(run).values()), []
        self.note()
        run.stage = replace(run.stage, listen=lambda *_: self.note())

    def note(self):
        self.steps.append([tuple(d.drawn.tolist()) for d in self.held])


class Copies:
    """A block's adapter as the authors keep it: E whole ways up with masks, one a pass; the mean where none is said."""

    def __init__(self, delta: SplitBottleneck):
        self.down = torch.nn.Parameter(delta.down.detach().clone())
        self.down_bias = torch.nn.Parameter(torch.zeros(len(self.down)))
        a, d = self.down.shape
        self.ups = [torch.nn.Parameter(torch.zeros(d, a)) for _ in range(delta.experts)]
        self.up_biases = [torch.nn.Parameter(torch.zeros(d)) for _ in range(delta.experts)]
        self.masks = [(delta.owner == e).float().view(d, a) for e in range(delta.experts)]

    def parameters(self):
        return [self.down, self.down_bias, *self.ups, *self.up_biases]

    def __call__(self, h, e=None):
        low = F.gelu(h @ self.down.T + self.down_bias)
        if e is None:
            return low @ (sum(self.ups) / len(self.ups)).T + sum(self.up_biases) / len(self.ups)
        return low @ self.ups[e].T + self.up_biases[e]


def hang(model, copies: list[Copies], now: list):
    """Adapters beside the feed-forward parts of a Llama: they read what it reads; `now` names each one's expert."""
    for i, (layer, copy) in enumerate(zip(model.model.layers, copies, strict=True)):

        def beside(_, given, out, i=i, copy=copy):
            return out + copy(given[0], now[i])

        layer.mlp.register_forward_hook(beside)


def test_three_steps_are_those_of_whole_copies_with_masked_gradients():
    rows = text_rows()
    run = Run({"mosa": MoSA(**SMALL, dropout=0.0, consistency=2.0)}, sources={"new": rows}, steps=3, eps=1e-3)
    model, task, cursor = tiny.llama(), get_task("text-generation"), Cursor({"new": rows})
    copies, now = [Copies(d) for d in experts(run).values()], [None, None]
    draws = Drawn(run)
    run.train()
    run.adapted.model.eval()
    assert len({e for s in draws.steps for pair in s for e in pair}) > 1

    model.requires_grad_(False)
    hang(model, copies, now)
    trained = [p for c in copies for p in c.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=1e-3, weight_decay=0.0)
    for step in range(3):
        batch, z = task.collate([row for row, _ in cursor.next_batch()], False, seed=0), []
        for part in range(2):
            now[:] = [pair[part] for pair in draws.steps[step]]
            z.append(task.forward(model, batch).logits)
        p, q = (torch.softmax(x, -1) for x in z)
        kl = F.kl_div(p.log(), q.detach(), reduction="none").sum(-1) + F.kl_div(
            q.log(), p.detach(), reduction="none"
        ).sum(-1)
        loss = F.cross_entropy(z[0], batch.labels, reduction="none") + 2.0 * 0.5 * kl
        ((loss * batch.weights).sum() / batch.weights.sum()).backward()
        for c in copies:
            for up, mask in zip(c.ups, c.masks, strict=True):
                if up.grad is not None:
                    up.grad *= mask
        torch.nn.utils.clip_grad_norm_([t for t in trained if t.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    now[:] = [None, None]
    torch.testing.assert_close(logits(run.adapted.model), logits(model), atol=1e-4, rtol=1e-4)
    assert (logits(model) - logits(tiny.llama())).abs().max() > 1e-2


def test_the_groups_share_nothing_and_fill_the_matrix():
    g = torch.Generator().manual_seed(0)
    for size, count in ((192, 4), (10, 3), (7, 7)):
        sizes = torch.bincount(split(size, count, g), minlength=count)
        assert int(sizes.sum()) == size and int(sizes.max() - sizes.min()) <= 1
    run = Run({"mosa": MoSA(**SMALL)})
    for delta in experts(run).values():
        for e, v in enumerate(delta.values):
            v.data.fill_(e + 1.0)
        stacked = torch.stack([delta.expert(e) for e in range(4)])
        assert bool(((stacked != 0).sum(0) == 1).all()), "each entry has one owner"
        assert torch.equal(stacked.max(0).values.flatten().long() - 1, delta.owner)
        torch.testing.assert_close(delta.mean()[0], stacked.sum(0) / 4)
    first, second = (d.owner for d in experts(run).values())
    assert not torch.equal(first, second), "each block is cut on its own"


def test_an_expert_that_was_not_drawn_stays_and_the_rest_of_the_model_too():
    run = Run({"mosa": MoSA(**SMALL, consistency=0.0)}, steps=1)
    before = {n: p.detach().clone() for n, p in run.adapted.delta_parameters().items()}
    base = {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}
    held = experts(run)
    first = Drawn(run).steps[0]
    run.train()
    for (name, delta), (drawn, _) in zip(held.items(), first, strict=True):
        for e in range(4):
            moved = not torch.equal(delta.values[e], before[f"{name}.delta.mosa.values.{e}"])
            assert moved == (e == drawn), (name, e)
            assert bool(delta.biases[e].detach().any()) == (e == drawn)
    assert all(torch.equal(p, base[n]) for n, p in run.adapted.base_parameters().items())


@pytest.mark.slow
def test_draws_are_new_each_step_even_over_experts_and_the_same_for_a_seed():
    def drawn(seed):
        run = Run({"mosa": MoSA(**SMALL)}, steps=40)
        run.methods.on("objective")[0].state.data["seed"] = seed
        draws = Drawn(run)
        run.train()
        return draws.steps[1:]  # the first was drawn at set-up

    one = drawn(1)
    assert one == drawn(1) != drawn(2)
    for place in (0, 1):
        counts = torch.bincount(torch.tensor([pair[place] for s in one for pair in s]), minlength=4)
        assert int(counts.min()) >= 10, "80 draws of 4"
    assert sum(pair[0] == pair[1] for s in one for pair in s) < 40, "the passes draw apart"


def test_a_block_that_is_computed_again_runs_the_expert_of_its_own_pass():
    found = []
    for on in (False, True):
        run = Run({"mosa": MoSA(**SMALL, dropout=0.0)}, steps=1)
        for d in experts(run).values():
            d.drawn.copy_(torch.tensor([1, 2]))
            for i, v in enumerate(d.values):
                v.data = torch.randn(v.shape, generator=torch.Generator().manual_seed(i))
        loop = Loop(run.stage)
        run.adapted.model.train()
        with recomputing(run.adapted.model, on):
            loop.gradients(loop.take()[0])
        found.append({n: g.clone() for n, g in loop.trained.gradients().items()})
    assert found[0].keys() == found[1].keys()
    assert {n.split(".")[-1] for n in found[0] if "values" in n} == {"1", "2"}
    for n, g in found[0].items():
        torch.testing.assert_close(g, found[1][n], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", BASES)
def test_every_base_starts_as_itself_and_ends_as_one_plain_adapter_a_block(kind):
    make, task = BASES[kind]
    run = Run({"mosa": MoSA(**SMALL)}, model=make(), task=task, steps=4, sources={"new": rows_for(task)})
    served, rows = get_task(task), rows_for(task)[:4]
    batch = served.collate(rows, False, seed=0)
    with torch.no_grad():
        run.adapted.model.eval()
        assert torch.equal(served.forward(run.adapted.model, batch).logits, served.forward(make().eval(), batch).logits)
    live = experts(run)
    assert len(live) == 2
    a, d = next(iter(live.values())).down.shape
    run.train()
    with torch.no_grad():
        trained = served.forward(run.adapted.model.eval(), batch).logits
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    plain = merged(run.adapted)
    assert plain.keys() == live.keys() and not experts(run)
    for name, delta in plain.items():
        torch.testing.assert_close(delta.up, torch.stack([live[name].expert(e) for e in range(4)]).mean(0))
        assert sum(p.numel() for p in delta.parameters()) == 2 * a * d + a + d, "no more than one adapter"
    with torch.no_grad():
        torch.testing.assert_close(served.forward(run.adapted.model.eval(), batch).logits, trained)
        assert (trained - served.forward(make().eval(), batch).logits).abs().max() > 1e-3


def test_one_expert_is_an_adapter_that_is_trained_whole():
    run = Run({"mosa": MoSA(**SMALL, experts=1, dropout=0.0, consistency=0.0)}, steps=3, eps=1e-3)
    copies, now = [Copies(d) for d in experts(run).values()], [0, 0]
    model, task, cursor = tiny.llama(), get_task("text-generation"), Cursor({"new": text_rows()})
    model.requires_grad_(False)
    hang(model, copies, now)
    trained = [p for c in copies for p in c.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=1e-3, weight_decay=0.0)
    for _ in range(3):
        batch = task.collate([row for row, _ in cursor.next_batch()], False, seed=0)
        loss = task.loss(task.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    run.train()
    torch.testing.assert_close(logits(run.adapted.model), logits(model), atol=1e-4, rtol=1e-4)


def test_the_disagreement_is_the_symmetric_divergence():
    a, b = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    got = disagreement(a, b)
    p, q = a.detach().softmax(-1).numpy(), b.detach().softmax(-1).numpy()
    expected = ((p * np.log(p / q)).sum(-1) + (q * np.log(q / p)).sum(-1)) / 2
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-5)
    got.sum().backward()
    # only the side whose logits stand in the logarithm has a gradient: (p - q) / 2
    np.testing.assert_allclose(a.grad.numpy(), (p - q) / 2, atol=1e-6)
    np.testing.assert_allclose(b.grad.numpy(), (q - p) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [{"experts": 2}, {"bottleneck_size": 3}, {"scaling": 3.0}, {"dropout": 0.6}, {"consistency": 20.0}],
    ids=str,
)
def test_every_option_changes_the_run(change):
    def losses(**fields):
        run = Run({"mosa": MoSA(**{**SMALL, **fields})}, steps=4)
        run.train()
        return [r["loss"] for r in run.records]

    assert losses(**change) != losses()


def test_written_read_back_and_with_lora(tmp_path: Path):
    run = Run({"mosa": MoSA(**SMALL), "lora": LoRA(rank=2)}, steps=3, model=tiny.bert_classifier(),
              task="text-classification", sources={"new": rows_for("text-classification")})  # fmt: skip
    run.train()
    ids = torch.arange(10, 24)[None]
    for end in (False, True):
        if end:
            run.methods.event("end_task", stage="main", adapted=run.adapted)
        folder = tmp_path / str(end)
        folder.mkdir()
        delta_format.save_delta(run.adapted, folder, "tiny")
        again = Adapted(tiny.bert_classifier())
        delta_format.load_delta(again, folder)
        with torch.no_grad():
            torch.testing.assert_close(again.model.eval()(ids).logits, run.adapted.model.eval()(ids).logits)


def test_the_merge_keeps_name_strength_and_what_others_hung():
    run = Run({"mosa": MoSA(**SMALL), "lora": LoRA(rank=2)}, steps=2)
    run.train()
    name = next(iter(experts(run)))
    site = run.adapted.structure.site(name)
    rename(site, "mosa", "other")
    rename(run.adapted.structure.site(experts(run)[name].source), "mosa", "other")
    experts(run)[name].strength = 0.5
    with torch.no_grad():
        before = logits(run.adapted.model)
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    assert set(site.module.delta) == {"lora", "other"} and site.module.delta["other"].strength == 0.5
    torch.testing.assert_close(logits(run.adapted.model), before, atol=1e-6, rtol=1e-5)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(MethodError, match="experts are to share"):
        Run({"mosa": MoSA(bottleneck_size=1, experts=100)})
    with pytest.raises(MethodError, match="feed-forward"):
        Run({"mosa": MoSA()}, model=tiny.efficientnet(), task="image-classification")


def test_resumes():
    assert_resumes(lambda listen: Run({"mosa": MoSA(**SMALL)}, steps=4, listen=listen), 2)
