"""SNELLA: the authors' kernel, scores and allocation by numpy, three steps by a plain loop, and what is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, logits, text_rows
from tests.methods.selecting import BASES, EPS, gradient_numbers, rows_for, state_numbers, stayed
from tunewright.contract.method import State
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.snella import SNELLA, budget_at, kernels, shared_out, smoothed
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.kernel_sparse import KernelSparse, largest
from tunewright.tasks import get_task

LOUD = {"rank": 8, "factor": 20.0}
"""A change that is seen beside the base's weights."""


def by_hand(a, b, share: float, factor=0.1, alpha=1.0, gamma=1.0, beta=0.0):
    """[out, in] in double precision: numpy's distances and quantile."""
    a, b = (t.detach().double().numpy() for t in (a, b))
    apart = np.sqrt(((a[:, :, None] - b[:, None]) ** 2).sum(-1))
    K = factor * (apart[0] - apart[1])
    e = np.exp(K / gamma)
    D = K + alpha * e / e.sum(-1, keepdims=True) + beta
    edge = np.quantile(np.abs(D), share) if share else -1.0
    return np.where(np.abs(D) > edge, D * np.abs(D), 0.0).T


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_change_is_the_authors_kernel_cut_at_its_quantile(share):
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 9, 3, generator=g), torch.randn(2, 7, 3, generator=g)
    delta = KernelSparse(a, b, 63 - int(share * 63), 0.5)
    delta.alpha.data, delta.gamma.data, delta.beta.data = (torch.tensor([v]) for v in (0.7, 1.3, 0.2))
    expected = by_hand(a, b, int(share * 63) / 63, 0.5, 0.7, 1.3, 0.2)
    np.testing.assert_allclose(delta.change().detach().numpy(), expected, atol=1e-5)
    assert np.count_nonzero(expected) == int(delta.kept)
    x, y = torch.randn(4, 9, generator=g), torch.randn(4, 7, generator=g)
    torch.testing.assert_close(delta(x, y), y + x @ torch.tensor(expected.T, dtype=torch.float32), atol=1e-4, rtol=1e-4)
    delta.strength = 0.5
    torch.testing.assert_close(delta(x, y) - y, 0.5 * x @ delta.change().t(), atol=1e-5, rtol=1e-4)


def test_gradients_take_the_size_as_a_number_and_are_the_same_when_made_again():
    D = torch.tensor([[0.5, -2.0], [3.0, 0.1]], requires_grad=True)
    largest(D, 2).sum().backward()
    assert D.grad.tolist() == [[0.0, 2.0], [3.0, 0.0]]
    a = torch.randn(2, 6, 2)
    delta = KernelSparse(a, a[:, :4].clone(), 12)  # equal rows: a distance of 0
    x = torch.randn(3, 6, requires_grad=True)
    delta(x, torch.zeros(3, 4)).square().sum().backward()
    again = [p.grad.clone() for p in (delta.kernel_inputs, delta.kernel_outputs, delta.alpha, x)]
    for p in (*delta.parameters(), x):
        p.grad = None
    (x @ delta.change().t()).square().sum().backward()
    for p, g in zip((delta.kernel_inputs, delta.kernel_outputs, delta.alpha, x), again, strict=True):
        torch.testing.assert_close(p.grad, g)
        assert bool(torch.isfinite(g).all()) and bool(g.any())


def test_the_rank_is_not_bound_by_the_thin_matrices():
    run = Run({"snella": SNELLA(rank=4)})
    delta = next(iter(kernels(run.adapted).values()))
    assert int(torch.linalg.matrix_rank(delta.change().detach().double(), rtol=1e-8)) > 2 * 4


class Layer(nn.Module):
    """A linear layer beside a kernel, dense and by autograd alone."""

    def __init__(self, linear: nn.Linear, delta: KernelSparse, share: float):
        super().__init__()
        self.linear, self.share, self.factor = linear, share, delta.factor
        self.a, self.b = (nn.Parameter(t.detach().clone()) for t in (delta.kernel_inputs, delta.kernel_outputs))
        self.alpha, self.gamma, self.beta = (nn.Parameter(torch.tensor([v])) for v in (1.0, 1.0, 0.0))

    def forward(self, x):
        apart = torch.cdist(self.a, self.b, compute_mode="donot_use_mm_for_euclid_dist")
        K = self.factor * (apart[0] - apart[1])
        D = K + self.alpha * (K / self.gamma).softmax(-1) + self.beta
        size = D.detach().abs()
        mask = size > torch.quantile(size.flatten(), self.share) if self.share else torch.ones_like(size) > 0
        return self.linear(x) + x @ (D * size * mask)


def test_steps_and_budgets_are_those_of_a_plain_loop():
    rows, method = (
        text_rows(),
        SNELLA(rank=8, factor=2.0, sparsity=0.95, rounds=2, target_modules=("q_proj", "down_proj")),
    )
    run = Run({"snella": method}, sources={"new": rows}, steps=4, eps=EPS)
    model, task, cursor = tiny.llama(), get_task("text-generation"), Cursor({"new": rows})
    model.requires_grad_(False)
    layers = {}
    for name, delta in kernels(run.adapted).items():
        site = name.partition(".delta.")[0]
        parent, _, child = site.rpartition(".")
        layers[site] = Layer(model.get_submodule(site), delta, 0.0)
        setattr(model.get_submodule(parent), child, layers[site])
    run.train()
    kept = np.array([int(d.kept) for d in kernels(run.adapted).values()])
    trained = [p for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=EPS, weight_decay=0.0)
    ema = {(s, n): (0.0, 0.0) for s in layers for n in ("a", "b")}
    for step in range(1, 5):
        batch = task.collate([row for row, _ in cursor.next_batch()], False, seed=0)
        loss = task.loss(task.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        for s, n in ema:
            p = getattr(layers[s], n)
            now = (p * p.grad).abs().detach()
            I = 0.85 * ema[s, n][0] + 0.15 * now  # noqa: E741
            ema[s, n] = (I, 0.85 * ema[s, n][1] + 0.15 * (now - I).abs())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step == 2:  # half of the stage: the first of two rounds, and the only one before the end
            scores = np.array([sum(float((ema[s, n][0] * ema[s, n][1]).mean()) for n in ("a", "b")) for s in layers])
            sizes = np.array([la.a.shape[1] * la.b.shape[1] for la in layers.values()])
            end = sum(int(s) - int(0.95 * s) for s in sizes)
            budget = int(end + (sizes.sum() - end) * 0.125)
            ideal = budget * scores / scores.sum()
            assert bool((ideal < sizes).all()), "no layer is full, so that shares are plain"
            assert kept.sum() == budget and np.abs(kept - ideal).max() < 2.5, "left-overs of rounding to the highest"
            for la, size, count in zip(layers.values(), sizes, kept, strict=True):
                la.share = 1 - count / size
    torch.testing.assert_close(logits(run.adapted.model), logits(model), atol=1e-4, rtol=1e-4)
    assert (logits(model) - logits(tiny.llama())).abs().max() > 0.3


def test_importance_and_how_much_it_wavers_are_smoothed():
    one = torch.tensor([1.0])
    I, U = smoothed(one, 0.5 * one, 2 * one, -1.5 * one, 0.75, 0.5)  # noqa: E741
    assert float(I) == 0.75 + 0.25 * 3 and float(U) == 0.25 + 0.5 * (3 - 1.5)


def test_budgets_fall_by_the_cube_and_are_shared_out_whole():
    assert [budget_at(t, 1000, 200) for t in (0.0, 0.5, 1.0)] == [1000, 300, 200]
    assert shared_out([1, 3], 40, [100, 100]) == [10, 30]
    assert shared_out([1, 9, 0], 50, [100, 20, 100]) == [30, 20, 0], "a full layer's rest goes to the others"
    assert shared_out([0, 0], 7, [4, 10]) == [4, 3] or sum(shared_out([0, 0], 7, [4, 10])) == 7
    assert shared_out([1, 1], 99, [4, 5]) == [4, 5]
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 50, 6).tolist()
        budget = int(rng.integers(0, sum(sizes) + 1))
        given = shared_out(rng.random(6).tolist(), budget, sizes)
        assert sum(given) == budget and all(g <= s for g, s in zip(given, sizes, strict=True))


def test_rounds_are_spread_over_the_stage_and_none_comes_after_the_last_step():
    run = Run({"snella": SNELLA(rank=4, start_sparsity=0.5, rounds=4)}, steps=8)
    total = sum(d.entries for d in kernels(run.adapted).values())
    assert all(int(d.kept) == d.entries - int(0.5 * d.entries) for d in kernels(run.adapted).values())
    kept = []
    run.stage.listen = lambda *_: kept.append(sum(int(d.kept) for d in kernels(run.adapted).values()))
    run.train()
    assert [k for k, before in zip(kept[1:], kept, strict=False) if k != before] and len(set(kept)) == 4
    for s, share in ((2, 0.25), (4, 0.5), (6, 0.75)):
        assert kept[s - 1] == kept[s] != kept[s - 2]
        assert kept[s - 1] == pytest.approx(total * (0.2 + 0.3 * (1 - share) ** 3), abs=20)
    assert kept[7] == kept[6]


@pytest.mark.parametrize("kind", BASES)
def test_every_base_starts_near_itself_trains_thin_matrices_and_folds(kind):
    make, task = BASES[kind]
    method = SNELLA(rank=8, rounds=2)
    run = Run({"snella": method}, model=make(), task=task, steps=3, sources={"new": rows_for(task)})
    served = get_task(task)
    batch = served.collate(rows_for(task)[:4], False, seed=0)

    def answers(model):
        with torch.no_grad():
            return served.forward(model.eval(), batch).logits

    assert (answers(run.adapted.model) - answers(make())).abs().max() < 0.05 * answers(make()).abs().max()
    numbers = sum(p.numel() for d in kernels(run.adapted).values() for p in d.parameters())
    loop = run.train()
    assert all(bool(s.all()) for n, s in stayed(run.adapted.model, make()).items() if n not in run.adapted.new)
    heads = sum(run.adapted.base_parameters()[n].numel() for n in run.adapted.trainable_new())
    assert gradient_numbers(loop) == numbers + heads and state_numbers(loop) == 2 * (numbers + heads)
    tuned = answers(run.adapted.model)
    run.adapted.fold()
    assert agrees(answers(run.adapted.model), tuned)


OPTIONS = ({"rank": 4}, {"factor": 5.0}, {"start_sparsity": 0.5}, {"sparsity": 0.95}, {"rounds": 4},
           {"importance_smoothing": 0.1}, {"wavering_smoothing": 0.1}, {"target_modules": ("q_proj",)})  # fmt: skip


@pytest.mark.parametrize("change", OPTIONS, ids=str)
def test_every_option_changes_the_run(change):
    def tuned(**fields):
        run = Run({"snella": SNELLA(**{**LOUD, "rounds": 2, **fields})}, steps=8)
        run.train()
        return logits(run.adapted.model), {n: int(d.kept) for n, d in kernels(run.adapted).items()}

    one, other = tuned(**change), tuned()
    assert one[1] != other[1] or not torch.equal(one[0], other[0])


def test_written_read_back_with_its_budget_and_beside_lora(tmp_path: Path):
    run = Run({"snella": SNELLA(**LOUD, rounds=2), "lora": LoRA(rank=2)}, steps=4)
    run.train()
    delta_format.save_delta(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.llama())
    delta_format.load_delta(again, tmp_path)
    assert agrees(logits(again.model), logits(run.adapted.model))
    kept = [int(d.kept) for d in kernels(again).values()]
    assert kept == [int(d.kept) for d in kernels(run.adapted).values()] and len(set(kept)) > 2


def test_what_is_found_says_each_layers_share():
    method = SNELLA(rank=4, rounds=2)
    assert method.found(State()).rows == []
    run = Run({"snella": method}, steps=4)
    run.train()
    found = method.found(run.state("snella"))
    assert len(found.rows) == 14 and found.values["smallest"] < found.values["largest"]
    shares = {n.partition(".delta.")[0]: int(d.kept) / d.entries for n, d in kernels(run.adapted).items()}
    assert all(row[1] == pytest.approx(shares[row[0]], abs=1e-4) for row in found.rows)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValidationError, match="odd"):
        SNELLA(rank=3)
    with pytest.raises(ValidationError, match="shrinks"):
        SNELLA(sparsity=0.2, start_sparsity=0.5)


def test_resumes():
    assert_resumes(lambda listen: Run({"snella": SNELLA(rank=4, rounds=3)}, steps=6, listen=listen), 3)
