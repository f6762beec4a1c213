"""The fused low-rank linear gives what the plain formula gives, keeps only x, and leaves out what is not asked."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tunewright.models.lowrank import low_rank, low_rank_plain


def tensors(dtype=torch.float64, transposed=False, lead=(2, 3)):
    g = torch.Generator().manual_seed(0)
    x, w, b, A, B = (
        torch.randn(*s, generator=g, dtype=dtype)
        for s in ((*lead, 5), (5, 4) if transposed else (4, 5), (4,), (2, 5), (4, 2))
    )
    return x.requires_grad_(), w, b, A.requires_grad_(), B.requires_grad_()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lead", [(3,), (2, 3), (2, 1, 3)])
def test_gradcheck_and_equality_with_the_plain_formula(transposed, bias, lead):
    x, w, b, A, B = tensors(transposed=transposed, lead=lead)
    b = b if bias else None
    assert torch.autograd.gradcheck(lambda x, A, B: low_rank(x, w, b, A, B, 0.7, transposed), (x, A, B))
    y, plain = (f(x, w, b, A, B, 0.7, transposed) for f in (low_rank, low_rank_plain))
    assert torch.allclose(y, plain, rtol=1e-12)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, A, B), g), torch.autograd.grad(plain, (x, A, B), g), strict=True
    ):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm()


def test_single_precision_gradients_to_1e_6():
    x, w, b, A, B = tensors(torch.float32, lead=(64,))
    y, plain = (f(x, w, b, A, B, 2.0) for f in (low_rank, low_rank_plain))
    for ours, theirs in zip(
        torch.autograd.grad(y.square().sum(), (x, A, B)),
        torch.autograd.grad(plain.square().sum(), (x, A, B)),
        strict=True,
    ):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_only_x_is_kept_beside_the_parameters():
    x, w, b, A, B = tensors(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        low_rank(x, w, b, A, B, 1.0)
    own = {t.data_ptr() for t in (x, w, A, B)}
    assert {t.data_ptr() for t in kept} == own


def test_of_a_frozen_a_its_product_is_kept_in_the_place_of_x():
    x, w, b, A, B = tensors(torch.float32)
    A.requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        low_rank(x, w, b, A, B, 1.0)
    assert x.data_ptr() not in {t.data_ptr() for t in kept} and (6, 2) in {tuple(t.shape) for t in kept}


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("wanted", "products"), [("xAB", 6), ("AB", 4), ("A", 2), ("B", 1), ("x", 3)])
def test_no_product_is_made_for_a_gradient_that_is_not_asked(wanted, products):
    x, w, b, A, B = tensors(torch.float32)
    for name, t in (("x", x), ("A", A), ("B", B)):
        t.requires_grad_(name in wanted)
    y = low_rank(x, w, b, A, B, 1.0).sum()
    with Products() as seen:
        y.backward()
    assert seen.count == products
    assert [t.grad is not None for t in (x, A, B)] == [n in wanted for n in "xAB"]


def test_a_trained_weight_is_not_this_function_and_gets_nothing():
    x, w, b, A, B = tensors(torch.float32)
    w.requires_grad_(True)
    low_rank(x, w, b, A, B, 1.0).sum().backward()
    assert w.grad is None and A.grad is not None


def test_second_order_takes_the_plain_path():
    x, w, b, A, B = tensors()
    assert torch.autograd.gradgradcheck(lambda x, A, B: low_rank(x, w, b, A, B, 0.7, second_order=True), (x, A, B))
    (g,) = torch.autograd.grad(low_rank(x, w, b, A, B, 0.7).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        torch.autograd.grad(g.sum(), A)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(autocast):
    x, w, b, A, B = tensors(torch.float32 if autocast else torch.bfloat16, lead=(16,))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, plain = (f(x, w, b, A, B, 1.0) for f in (low_rank, low_rank_plain))
    assert y.dtype == torch.bfloat16 and torch.allclose(y, plain, rtol=3e-2, atol=6e-2)
    for t, g in zip((x, A, B), torch.autograd.grad(y.float().sum(), (x, A, B)), strict=True):
        assert g.dtype == t.dtype and torch.isfinite(g).all()


def test_an_offset_pair_starts_at_the_base():
    x, w, b, A, B = tensors()
    A2, B2 = torch.cat([A, A.detach()]), torch.cat([B, -B.detach()], 1)
    assert torch.allclose(low_rank(x, w, b, A2, B2, 0.5), torch.nn.functional.linear(x, w, b), atol=1e-12)
