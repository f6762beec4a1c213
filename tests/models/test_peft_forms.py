"""Forms that PEFT has beside low rank: folded, dialled, stacked, in 4 bits, beside other rows, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from tests.methods.driving import logits
from tunewright.models import delta_format
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.dora import matrix_of
from tunewright.models.flops import counting
from tunewright.models.nf4 import quantise_sites
from tunewright.models.rotation import block_of, cayley
from tunewright.models.routing import routed
from tunewright.models.shared_projections import projections
from tunewright.models.sites import Site
from tunewright.weights.opening import open_source


def draw(*shape: int, seed: int = 0, std: float = 0.3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


def make(kind: str, site: Site, seed: int) -> forms.Delta:
    out, inn, r = site.out_features, site.in_features, 3
    if kind == "dora":
        return forms.WeightDecomposed(draw(r, inn, seed=seed), draw(out, r, seed=seed + 1), 1 + draw(out).abs(), 0.7)
    if kind == "output-scale":
        return forms.OutputScale(draw(out, seed=seed))
    if kind == "input-scale":
        return forms.InputScale(draw(inn, seed=seed))
    if kind == "vera":
        return forms.SharedProjections(draw(out, seed=seed), draw(r, seed=seed + 1), inn, seed=5, widths=(160, 160))
    if kind == "kept":
        kept = draw(r, inn, seed=seed + 2), draw(out, r, seed=seed + 3)
        return forms.SharedProjections(draw(out, seed=seed), draw(r, seed=seed + 1), inn, kept=kept)
    if kind == "hadamard":
        pairs = [draw(*s, seed=seed + i) for i, s in enumerate(((out, r), (r, inn), (out, r), (r, inn)))]
        return forms.Hadamard(*pairs, 0.7)
    if kind == "kronecker":
        C = draw(2, 4, seed=seed), draw(4, inn // 8, seed=seed + 1)
        return forms.Kronecker(C, draw(out // 2, 8, seed=seed + 2), 0.7, rank=4)
    if kind == "rotation":
        return forms.Rotation(draw(inn // 4, 6, seed=seed), inn, block_size=4, terms=None)
    if kind == "butterfly":
        return forms.Butterfly(draw(2, inn // 4, 4, 4, seed=seed), draw(out, seed=seed + 1))
    if kind == "fixed-a":
        return forms.LowRankFixedA(draw(r, inn, seed=seed), draw(out, r, seed=seed + 1), 0.7)
    return forms.LowRank(draw(r, inn, seed=seed), draw(out, r, seed=seed + 1), 0.7)


KINDS = (
    "dora", "output-scale", "input-scale", "vera", "kept", "hadamard", "kronecker", "rotation", "butterfly", "fixed-a",
)  # fmt: skip
MODELS = {"llama": tiny.llama, "gpt2": tiny.gpt2}


def hung(model: str, kinds: tuple[str, ...], name: str = "") -> Adapted:
    """Every linear layer with one delta of each kind, in this order."""
    adapted = Adapted(MODELS[model](), base_hash="tiny")
    for i, site in enumerate(adapted.structure.linear_sites()):
        for k, kind in enumerate(kinds):
            forms.attach(site, name or f"{kind}{k}", make(kind, site, 10 * i + 100 * k))
    adapted.model.eval()
    return adapted


def by_hand(kind: str, layer: Any, d: Any, x: torch.Tensor, strength: float) -> torch.Tensor:
    """The layer's output by the formula in its docstring, with explicit matrices."""
    W, c = matrix_of(layer), layer.bias if layer.bias is not None else 0.0
    out, inn = W.shape
    if kind == "dora":
        V = W + 0.7 * d.lora_B @ d.lora_A
        V = torch.stack([m * row / row.square().sum().sqrt() for m, row in zip(d.magnitude, V, strict=True)])
        return x @ (W + strength * (V - W)).T + c
    if kind == "output-scale":
        return torch.diag(1 + strength * d.values) @ (W @ x[0].T + (c[:, None] if torch.is_tensor(c) else 0)), None
    if kind == "input-scale":
        return x @ torch.diag(1 + strength * d.values) @ W.T + c
    if kind in ("vera", "kept"):
        A, B = (d.A, d.B) if kind == "kept" else projections(5, 3, 160, 160)
        change = torch.diag(d.vector_b) @ B[:out] @ torch.diag(d.vector_d) @ A[:, :inn]
        return x @ (W + strength * change).T + c
    if kind == "hadamard":
        return x @ (W + strength * 0.7 * (d.a1 @ d.b1) * (d.a2 @ d.b2)).T + c
    if kind == "kronecker":
        return x @ (W + strength * 0.7 * torch.kron(d.C_a @ d.C_b, d.D)).T + c
    if kind == "rotation":
        blocks = []
        for v in d.values:
            Q = torch.zeros(4, 4)
            for value, (i, j) in zip(v, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], strict=True):
                Q[i, j], Q[j, i] = value, -value
            blocks.append((torch.eye(4) - Q) @ torch.linalg.inv(torch.eye(4) + Q))
        R = torch.block_diag(*blocks)
        return x @ (torch.eye(inn) + strength * (R - torch.eye(inn))) @ W.T + c
    if kind == "butterfly":
        R = torch.eye(inn)
        for i, blocks in enumerate(d.values):  # factor i deals half-blocks out within stretches of 4 x 2^i places
            each = []
            for part in blocks:
                Q = (part - part.T) / 2
                each.append((torch.eye(4) - Q) @ torch.linalg.inv(torch.eye(4) + Q))
            P, stretch = torch.zeros(inn, inn), 4 * 2**i
            for begin in range(0, inn, stretch):
                halves = [list(range(begin + h, begin + h + 2)) for h in range(0, stretch, 2)]
                for at, place in enumerate([p for h in halves[0::2] + halves[1::2] for p in h]):
                    P[begin + at, place] = 1.0
            R = P @ torch.block_diag(*each) @ P.T @ R
        return x @ (W + strength * (torch.diag(1 + d.scales) @ W @ R.T - W)).T + c
    return x @ (W + strength * 0.7 * d.lora_B @ d.lora_A).T + c


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_layer_is_its_formula(model, kind, strength):
    adapted = hung(model, (kind,))
    with torch.no_grad():
        for site in adapted.structure.linear_sites()[:7]:
            (delta,) = forms.deltas_of(site).values()
            delta.strength = strength
            x = draw(1, 5, site.in_features, seed=9, std=1.0)
            expected = by_hand(kind, site.module, delta, x, strength)
            expected = expected[0].T[None] if isinstance(expected, tuple) else expected
            torch.testing.assert_close(site.module(x), expected, atol=2e-5, rtol=1e-4)


STACKS = [(k,) for k in KINDS] + [
    ("dora", "lora"), ("lora", "dora"), ("lora", "output-scale", "dora"), ("input-scale", "rotation", "dora"),
    ("rotation", "output-scale", "hadamard", "input-scale"), ("dora", "dora"), ("butterfly", "lora"),
    ("lora", "butterfly"),
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kinds", STACKS, ids="+".join)
def test_folding_and_dialling_give_what_stands_beside(model, kinds, tmp_path: Path):
    adapted = hung(model, kinds)
    tuned, base = logits(adapted.model), logits(MODELS[model]())
    assert float((tuned - base).abs().max()) > 1e-2
    with adapted.at_strength(1.0) as one:
        torch.testing.assert_close(logits(one), tuned, atol=2e-4, rtol=1e-4)
    if len(kinds) == 1:
        for by_name in adapted.deltas().values():
            for d in by_name.values():
                d.strength = 0.4
        dialled = logits(adapted.model)
        for by_name in adapted.deltas().values():
            for d in by_name.values():
                d.strength = 1.0
        with adapted.at_strength(0.4) as some:
            torch.testing.assert_close(logits(some), dialled, atol=2e-4, rtol=1e-4)
    with adapted.base() as model_:
        assert torch.equal(logits(model_), base)
    assert torch.equal(logits(adapted.model), tuned)
    delta_format.save_delta(adapted, tmp_path / "delta", "tiny")
    again = Adapted(MODELS[model](), base_hash="tiny")
    delta_format.load_delta(again, tmp_path / "delta")
    assert torch.equal(logits(again.model), tuned)
    MODELS[model]().save_pretrained(tmp_path / "base")
    how = tmp_path / "delta" / "delta.json"
    how.write_text(how.read_text().replace('"hash": "tiny"', '"hash": ""'))
    source, wanted = open_source(str(tmp_path / "delta"), str(tmp_path / "base")), adapted.tuned_state()
    for name in source.changes:
        assert torch.allclose(torch.from_numpy(source.whole(name)), wanted[name], atol=1e-4), name
    adapted.fold()
    assert not adapted.deltas()
    torch.testing.assert_close(logits(adapted.model), tuned, atol=2e-4, rtol=1e-4)
    adapted.forget_changes()
    assert torch.equal(logits(adapted.model), base)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_in_4_bits_takes_it(kind):
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), False)
    adapted.rediscover()
    adapted.model.eval()
    for i, site in enumerate(adapted.structure.linear_sites()):
        forms.attach(site, kind, make(kind, site, i))
    tuned, base = logits(adapted.model), logits(tiny.llama())
    with adapted.at_strength(1.0) as one:
        torch.testing.assert_close(logits(one), tuned, atol=2e-4, rtol=1e-4)
    with adapted.base() as model:
        assert torch.equal(logits(model), base)


def test_each_row_of_a_batch_has_its_own():
    adapted = Adapted(tiny.llama())
    for kind in (*KINDS, "lora"):
        for i, site in enumerate(adapted.structure.linear_sites()):
            forms.attach(site, kind, make(kind, site, i))
    adapted.model.eval()
    rows = ["dora", None, "vera", "rotation", "lora", "kronecker", "output-scale", "input-scale", "fixed-a", "hadamard"]
    ids = torch.arange(10, 16)[None] + torch.arange(len(rows))[:, None]
    with torch.no_grad():
        with routed(adapted, rows):
            together = adapted.model(ids).logits
        for i, name in enumerate(rows):
            for by_name in adapted.deltas().values():
                for n, d in by_name.items():
                    d.active = n == name
            alone = adapted.model(ids[i : i + 1]).logits[0]
            torch.testing.assert_close(together[i], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dora", "vera", "hadamard", "kronecker", "rotation", "butterfly", "fixed-a"])
def test_products_are_counted(kind):
    model = torch.nn.Module()
    model.layer = torch.nn.Linear(32, 16).requires_grad_(False)
    site = Site("layer", "linear", "other", None, model.layer)
    delta = make(kind, site, 0)
    forms.attach(site, kind, delta)
    x = draw(7, 32).requires_grad_()
    with FlopCounterMode(display=False) as theirs, counting() as ours:
        model.layer(x).sum().backward()
    made = {  # products of what makes the change, which no position is multiplied with
        "hadamard": 3 * 2 * (2 * 16 * 3 * 32),
        "kronecker": 3 * (2 * 2 * 4 * 4),
        "rotation": 2 * 8 * 4 * 4 * 4,
        "butterfly": 2 * 2 * 8 * 4 * 4 * 4,
    }
    unseen = 2 * 7 * 3 * (16 + 32) if kind == "fixed-a" else 0  # torch counts no product that is added in place
    assert ours.total == pytest.approx(theirs.get_total_flops() + unseen, abs=made.get(kind, 0.0) + 1.0)


def test_blocks_and_series():
    assert [block_of(12, w) for w in (1, 5, 7, 9, 12, 40)] == [1, 4, 6, 6, 12, 12] and block_of(10, 8) == 10
    Q = draw(2, 4, 4)
    Q = Q - Q.transpose(1, 2)
    R = cayley(Q, None)
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0)
    small = Q * 0.02
    torch.testing.assert_close(cayley(small, 6), cayley(-small, None), atol=1e-6, rtol=0)


def test_the_lengths_take_no_gradient_and_autocast_leaves_them_alone():
    adapted = hung("llama", ("dora",))
    site = adapted.structure.linear_sites()[0]
    delta = forms.deltas_of(site)["dora0"]
    W = site.matrix()
    n = delta.lengths(W)
    assert not n.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(delta.lengths(W), n)
    x = draw(3, site.in_features, seed=2)
    site.module(x).sum().backward()
    V = (W + 0.7 * delta.lora_B @ delta.lora_A).detach()
    torch.testing.assert_close(delta.magnitude.grad, (x @ (V / n[:, None]).T).sum(0), atol=1e-5, rtol=1e-4)
    B = delta.lora_B.detach().clone().requires_grad_()
    (x @ ((W + 0.7 * B @ delta.lora_A.detach()) * (delta.magnitude.detach() / n)[:, None]).T).sum().backward()
    torch.testing.assert_close(delta.lora_B.grad, B.grad, atol=1e-4, rtol=1e-4)
