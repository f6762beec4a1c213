"""SaRA: the smallest entries train, the mask only shrinks, and the pull is the nuclear norm's own gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes
from tests.methods.selecting import BASES, gradient_numbers, rows_for, state_numbers, stayed
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.sara import SaRA, pull, threshold_of
from tunewright.models.adapted import Adapted


def mask(r: Run) -> dict[str, set[int]]:
    held = {n.replace("/", "."): set(t.tolist()) for n, t in r.state("sara").named_buffers()}
    return {n: held[f"mask.{n}"] for n in r.state("sara").data["masked"]}


@pytest.mark.parametrize("share", [0.02, 0.1, 1.0])
def test_a_share_of_the_smallest_over_all_tensors(share):
    r = Run({"sara": SaRA(share=share, low_rank=0)}, steps=1)
    r.train()
    sizes = {n: p.detach().abs().numpy().ravel() for n, p in tiny.llama().named_parameters()}
    every = np.sort(np.concatenate(list(sizes.values())))
    limit = every[round(share * len(every)) - 1]
    assert mask(r) == {n: set(np.flatnonzero(s <= limit).tolist()) for n, s in sizes.items() if (s <= limit).any()}


@pytest.mark.parametrize("kind", BASES)
def test_only_they_move_and_only_their_numbers_exist(kind):
    make, task = BASES[kind]
    adapted = Adapted(make())
    adapted.new = tuple(n for n, _ in make().named_parameters() if n.startswith("classifier"))
    r = Run({"sara": SaRA(share=0.05)}, model=adapted, task=task, sources={"new": rows_for(task)}, steps=1)
    loop = r.train()
    allowed = mask(r)
    for name, same in stayed(r.adapted.model, make()).items():
        moved = set((~same).flatten().nonzero()[:, 0].tolist())
        assert name in adapted.new or moved <= allowed.get(name, set())
    count = sum(map(len, allowed.values())) + sum(p.numel() for n, p in make().named_parameters() if n in adapted.new)
    assert loop.trained.count() == count == gradient_numbers(loop) and state_numbers(loop) == 2 * count


def test_zeros_are_small_and_a_threshold_is_taken_as_it_is():
    tensors = {"a": torch.tensor([0.0, -0.3, 0.2]), "b": torch.tensor([[0.1, -0.05]])}
    assert 0.1 < threshold_of(tensors, 0.6) <= 0.2 and 0.05 < threshold_of(tensors, 0.4) <= 0.1
    equal = {"a": torch.full((10,), 0.5)}
    assert threshold_of(equal, 0.3) == pytest.approx(0.5), "of equal sizes all train or none"
    r = Run({"sara": SaRA(threshold=0.01)}, steps=1)
    r.train()
    assert r.state("sara").data["threshold"] == 0.01
    assert all(max(abs(float(p.detach().flatten()[i])) for i in mask(r)[n]) < 0.01
               for n, p in tiny.llama().named_parameters() if n in mask(r))  # fmt: skip
    model = tiny.llama()
    for p in model.parameters():
        p.data.fill_(1.0)
    with pytest.raises(MethodError, match="no entry is smaller than 0.01"):
        Run({"sara": SaRA(threshold=0.01)}, model=model, steps=1).train()


def test_half_way_what_outgrew_the_threshold_stays_and_adam_begins_anew():
    seen = []

    def listen(loop):
        values = {n: p.detach().flatten().clone() for n, p in r.adapted.base_parameters().items()}
        steps = {float(t) for n, t in loop.optimizers.state().items() if n.endswith("|step")}
        seen.append((mask(r), values, steps))

    r = Run({"sara": SaRA(share=0.1, readjust=0.5, low_rank=0)}, steps=6, listen=listen)
    r.train()
    tau = r.state("sara").data["threshold"]
    first, (_, middle, _) = seen[0][0], seen[2]
    wanted = {n: {i for i in places if abs(float(middle[n][i])) < tau} for n, places in first.items()}
    assert seen[2][0] == first and seen[3][0] == {n: i for n, i in wanted.items() if i}
    gone = {n: first[n] - wanted[n] for n in first}
    assert sum(map(len, gone.values())) > 10
    for n, places in gone.items():
        at = sorted(places)
        assert torch.equal(seen[5][1][n][at], middle[n][at]), "they keep what they learnt"
    assert [s[2] for s in seen] == [{1.0}, {2.0}, {3.0}, {1.0}, {2.0}, {3.0}]
    never = Run({"sara": SaRA(share=0.1, readjust=None)}, steps=6)
    never.train()
    assert mask(never) == first


def test_the_pull_is_the_gradient_of_the_nuclear_norm():
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(7, 5, generator=generator)
    places = torch.randperm(35, generator=generator)[:20].sort().values
    mask = torch.zeros(35).index_fill(0, places, 1.0).view(7, 5)
    leaf = W.clone().requires_grad_(True)
    torch.linalg.svdvals(leaf * mask).sum().backward()
    torch.testing.assert_close(pull(W.flatten()[places], places, (7, 5)), leaf.grad.flatten()[places])
    u, v = torch.randn(7, generator=generator), torch.randn(5, generator=generator)
    one = torch.outer(u, v)
    of_one = pull(one.flatten(), torch.arange(35), (7, 5)).view(7, 5)
    torch.testing.assert_close(of_one, torch.outer(u / u.norm(), v / v.norm()), msg="directions that are not there")


def test_one_matrix_a_step_is_pulled_and_narrow_ones_never():
    deltas = []
    for weight in (0.0, 0.2):
        r = Run({"sara": SaRA(share=0.2, low_rank=weight, min_side=20)}, steps=1)
        loop = r.train()
        rows, _ = loop.take()
        loop.gradients(rows)
        bound = next(iter(r.methods))
        given = bound.method.gradient(
            loop.trained.gradients(), {n: p.detach() for n, p in loop.trained.parameters().items()}, bound.state
        )
        deltas.append((given, loop.trained.gradients(), r))
    assert deltas[0][0] is None
    given, plain, r = deltas[1]
    changed = [n for n in plain if not torch.equal(given[n], plain[n])]
    assert len(changed) == 1 and min(r.adapted.base_parameters()[changed[0]].shape) > 20
    W = r.adapted.base_parameters()[changed[0]].detach()
    places = torch.tensor(sorted(mask(r)[changed[0]]))
    leaf = W.flatten()[places].clone().requires_grad_(True)
    whole = torch.zeros(W.numel()).index_put((places,), leaf).view(W.shape)
    (0.2 * torch.linalg.svdvals(whole).sum()).backward()
    torch.testing.assert_close(given[changed[0]] - plain[changed[0]], leaf.grad, atol=1e-5, rtol=1e-3)
    narrow = Run({"sara": SaRA(min_side=1000)}, steps=1)
    narrow.train()
    assert narrow.state("sara").data["shapes"] == {}


def test_deltas_train_along():
    r = Run({"lora": LoRA(rank=2), "sara": SaRA(share=0.01)}, steps=2)
    loop = r.train()
    assert set(r.adapted.trainable_deltas()) <= set(loop.trained.leaves)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_resumes(at):
    assert_resumes(lambda listen: Run({"sara": SaRA(low_rank=0.1, min_side=8)}, steps=5, listen=listen), at)
