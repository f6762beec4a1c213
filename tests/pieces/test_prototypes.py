"""Prototypes and what is kept of classes: means, covariances, and a head trained on draws of them."""

from __future__ import annotations

import pytest
import torch

from tunewright.errors import MethodError
from tunewright.pieces.class_gaussians import RIDGE, aligned_head, class_covariances, drawn
from tunewright.pieces.heads import loss_among
from tunewright.pieces.prototypes import class_means, cosine_logits

FEATURES = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0, 0.5, 0.1])
LABELS = torch.tensor([3, 1] * 9 + [3, 7])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_means_and_cosines_are_those_by_hand():
    means = class_means(FEATURES, LABELS)
    assert list(means) == [1, 3, 7]
    for c, mean in means.items():
        own = [f for f, y in zip(FEATURES, LABELS.tolist(), strict=True) if y == c]
        torch.testing.assert_close(mean, sum(own) / len(own))
    p = torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, 0.0]])
    wanted = torch.tensor([[1.0, 0.5**0.5, 0.0], [0.6, 1.4 * 0.5**0.5, 0.0]])
    torch.testing.assert_close(cosine_logits(torch.tensor([[5.0, 0.0], [0.3, 0.4]]), p), wanted)


def test_covariances_are_torchs_and_one_row_has_none():
    full, diagonal = (class_covariances(FEATURES, LABELS, diagonal=d) for d in (False, True))
    for c in (1, 3):
        wanted = torch.cov(FEATURES[LABELS == c].T) + RIDGE * torch.eye(5)
        torch.testing.assert_close(full[c], wanted)
        torch.testing.assert_close(diagonal[c], wanted.diagonal())
    torch.testing.assert_close(full[7], RIDGE * torch.eye(5))
    torch.testing.assert_close(diagonal[7], torch.full((5,), RIDGE))


def test_draws_have_the_means_and_spreads_that_were_kept():
    means, root = torch.tensor([[1.0, -2.0], [0.0, 5.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    got = drawn(means, torch.stack([root, torch.eye(2)]), 40_000, generator())
    torch.testing.assert_close(got.mean(1), means, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(got[0].T), root @ root.T, atol=0.1, rtol=0)
    flat = drawn(means, torch.tensor([[2.0, 0.5], [1.0, 1.0]]), 40_000, generator())
    torch.testing.assert_close(torch.cov(flat[0].T), torch.diag(torch.tensor([4.0, 0.25])), atol=0.1, rtol=0)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_an_aligned_head_tells_classes_apart_that_were_trained_apart(diagonal, biased):
    means = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, 0.0]])
    spread = torch.ones(3, 2) * 0.2 if diagonal else 0.2 * torch.eye(2).expand(3, 2, 2)
    weight = torch.tensor([[9.0, 9.0], [0.1, 0.0], [0.0, 0.1]])  # the first class shouts the others down
    bias = torch.tensor([4.0, 0.0, 0.0]) if biased else None
    before = (weight.clone(), None if bias is None else bias.clone())

    def hits(w, b):
        f = drawn(means, torch.full((3, 2), 0.2**0.5), 200, generator(1))
        said = (f @ w.T + (0 if b is None else b)).argmax(-1)
        return float((said == torch.arange(3)[:, None]).float().mean())

    w, b = aligned_head(weight, bias, means, spread, epochs=20, rows=20, rate=0.3, generator=generator())
    assert hits(weight, bias) < 0.7 and hits(w, b) > 0.95 and (b is None) is (bias is None)
    assert torch.equal(weight, before[0]) and (bias is None or torch.equal(bias, before[1]))
    other = aligned_head(weight, bias, means, spread, epochs=20, rows=20, rate=0.3, generator=generator())
    assert torch.equal(w, other[0])


def test_alignment_is_sgd_with_momentum_on_a_falling_rate():
    """Followed by hand where spreads are almost nothing, so that every row is its class's mean."""
    means, spread = torch.tensor([[1.0], [-1.0]]), torch.full((2, 1), 1e-12)
    w, v, epochs, rate = torch.zeros(2, 1), torch.zeros(2, 1), 2, 0.1
    g = generator(3)
    got, _ = aligned_head(w, None, means, spread, epochs=epochs, rows=2, rate=rate, generator=generator(3))
    for epoch in range(epochs):
        lr = rate if epoch == 0 else rate / 2
        torch.randn(2, 2, 1, generator=g)
        order = torch.randperm(4, generator=g)
        for some in order.split(2):
            y = torch.tensor([0, 0, 1, 1])[some]
            x = means[y]
            p = torch.softmax(x @ w.T, -1) - torch.nn.functional.one_hot(y, 2)
            v = 0.9 * v + (p.T @ x / 2 + 5e-4 * w)
            w = w - lr * v
    torch.testing.assert_close(got, w, atol=1e-5, rtol=1e-4)


def test_a_loss_among_some_classes_sees_no_other_and_refuses_their_rows():
    logits = torch.randn(3, 5, generator=generator()).requires_grad_()
    labels = torch.tensor([4, 1, 4])
    value = loss_among(logits, labels, [1, 4], method="it")
    wanted = -torch.log_softmax(logits[:, [1, 4]], -1)[torch.arange(3), torch.tensor([1, 0, 1])]
    torch.testing.assert_close(value, wanted)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert not grad[:, [0, 2, 3]].any() and bool(grad[:, [1, 4]].all())
    with pytest.raises(MethodError, match="not the task's own"):
        loss_among(logits, torch.tensor([0, 1, 4]), [1, 4], method="it")
