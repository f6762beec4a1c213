"""Log-probabilities through the head: values, gradients under any weighting, and no [S, V] beyond a chunk."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tunewright.models.head import head_log_probs

S, D, V = 7, 4, 11


def make(dtype=torch.float64, bias=False, s=S, v=V):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(s, D, generator=g, dtype=dtype).requires_grad_()
    head = nn.Linear(D, v, bias=bias, dtype=dtype)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=dtype))
    return hidden, head, torch.randint(0, v, (s,), generator=g)


def plain(hidden, head, labels):
    z = head(hidden)
    return torch.log_softmax(z if z.dtype == torch.float64 else z.float(), -1).gather(1, labels[:, None])[:, 0]


@pytest.mark.parametrize("chunk", [1, 3, 7, None])
@pytest.mark.parametrize("bias", [False, True])
def test_gradcheck(chunk, bias):
    hidden, head, labels = make(bias=bias)
    assert torch.allclose(head_log_probs(hidden, head, labels, chunk), plain(hidden, head, labels), rtol=1e-12)
    names = [n for n, _ in head.named_parameters()]

    def value(h, *parameters):
        for n, p in zip(names, parameters, strict=True):
            del head._parameters[n]
            head._parameters[n] = p
        return head_log_probs(h, head, labels, chunk)

    assert torch.autograd.gradcheck(value, (hidden, *head.parameters()))


@pytest.mark.parametrize(
    "objective",
    [
        lambda lp: (-lp * torch.linspace(0.1, 2, S)).sum(),
        lambda lp: (-lp * lp.exp().detach()).sum(),  # DFT, ASFT: weighted by the probability, held constant
        lambda lp: (1 - lp.exp()).square().mean(),  # the probability itself differentiated
        lambda lp: lp[2] - lp[5],
    ],
)
def test_any_weighting_of_targets_has_the_plain_gradient(objective):
    hidden, head, labels = make(torch.float32)
    wanted = [hidden, head.weight]
    ours = torch.autograd.grad(objective(head_log_probs(hidden, head, labels, 3)), wanted)
    for g, e in zip(ours, torch.autograd.grad(objective(plain(hidden, head, labels)), wanted), strict=True):
        assert (g - e).norm() <= 2e-6 * e.norm()


@pytest.mark.parametrize(
    ("train_hidden", "train_head", "products"), [(True, False, 2), (False, True, 3), (True, True, 4)]
)
def test_no_product_is_made_for_what_is_frozen(train_hidden, train_head, products):
    hidden, head, labels = make(torch.float32)
    hidden.requires_grad_(train_hidden)
    head.requires_grad_(train_head)

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_")
            return function(*args, **(kwargs or {}))

    with Products() as seen:
        head_log_probs(hidden, head, labels).sum().backward()
    assert seen.count == products
    with Products() as seen, torch.no_grad():
        head_log_probs(hidden, head, labels)
    assert seen.count == 1
    assert (hidden.grad is not None, head.weight.grad is not None) == (train_hidden, train_head)


def test_logits_beyond_a_chunk_are_never_there():
    hidden, head, labels = make(torch.float32, s=512, v=1000)
    head.requires_grad_(False)

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple) else (out,):
                if isinstance(t, torch.Tensor):
                    self.most = max(self.most, t.numel())
            return out

    with Largest() as seen:
        head_log_probs(hidden, head, labels, 16).sum().backward()
    assert 16 * 1000 <= seen.most < 512 * 1000 // 8


def test_bfloat16_and_autocast_give_fp32_values():
    for autocast in (False, True):
        hidden, head, labels = make(torch.float32 if autocast else torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            lp = head_log_probs(hidden, head, labels, 3)
        assert lp.dtype == torch.float32
        assert torch.allclose(lp, plain(hidden, head, labels), atol=8e-2, rtol=3e-2)
        g = torch.autograd.grad(lp.sum(), [hidden, head.weight])
        assert g[0].dtype == hidden.dtype and g[1].dtype == head.weight.dtype


def test_a_head_that_is_more_than_a_linear_runs_its_own_forward():
    hidden, head, labels = make(torch.float32)
    before = head_log_probs(hidden, head, labels)
    head.register_forward_hook(lambda m, i, out: out * 2)
    after = head_log_probs(hidden, head, labels)
    assert torch.allclose(after, plain(hidden, head, labels)) and not torch.allclose(after, before)


def test_second_order():
    hidden, head, labels = make()
    assert torch.autograd.gradgradcheck(lambda h: head_log_probs(h, head, labels, second_order=True), hidden)


def test_no_targets_at_all():
    hidden, head, labels = make(torch.float32)
    assert head_log_probs(hidden[:0], head, labels[:0]).shape == (0,)
