"""Learned coefficients: their ends, their gradient, and that entropy reads no label.

RegMean and WiSE-FT beside them.
"""

from __future__ import annotations

import copy

import pytest
import torch

from tests import tiny
from tests.weights.test_pleas import learning, logits, put
from tunewright.contract.method import Needs
from tunewright.errors import MethodError
from tunewright.weights.blocks import merge_in_memory, state_of
from tunewright.weights.merge._least_squares import regmean
from tunewright.weights.merge.atlas import Atlas, Composer, coefficient_gradient, composed, entropy, parts_of
from tunewright.weights.merge.regmean import RegMean


def tensors(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 4, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("parts", [1, 3])
def test_coefficients_of_zero_are_the_base_and_one_alone_is_its_model_bit_for_bit(parts):
    base, *models = tensors(4)
    part = parts_of(base.shape, parts, "key")
    c = torch.zeros(3, parts)
    assert torch.equal(composed(base, models, c, part), base)
    c[1] = 1
    assert torch.equal(composed(base, models, c, part), models[1])
    c[:] = 0.3
    assert torch.allclose(composed(base, models, c, part), base + 0.3 * sum(m - base for m in models), atol=1e-6)


def test_parts_have_coefficients_of_their_own_and_come_back_from_their_key():
    part = parts_of((40, 30), 4, "a")
    assert torch.equal(part, parts_of((40, 30), 4, "a")) and not torch.equal(part, parts_of((40, 30), 4, "b"))
    assert all(abs(float((part == k).double().mean()) - 0.25) < 0.06 for k in range(4))
    assert parts_of((40,), 4, "a") is None and parts_of((40, 30), 1, "a") is None
    base, model = torch.zeros(40, 30), torch.ones(40, 30)
    assert torch.equal(composed(base, [model], torch.tensor([[0.0, 1.0, 2.0, 3.0]]), part), part.float())


def test_the_coefficients_gradient_is_autograds_and_that_of_finite_differences():
    base, a, b, g = tensors(4)
    for parts in (1, 3):
        part = parts_of(base.shape, parts, "key")
        c = torch.full((2, parts), 0.2, requires_grad=True)
        index = torch.zeros_like(base, dtype=torch.long) if part is None else part
        ((base + c[0][index] * (a - base) + c[1][index] * (b - base)) * g).sum().backward()
        assert torch.allclose(coefficient_gradient(g, base, [a, b], parts, part), c.grad, atol=1e-5)
    base, *models = (tiny.llama(s).double() for s in range(3))
    learned = learning(*models, base=base)
    batch = next(iter(learned.batches(4)))
    method = Atlas()
    with Composer(base, [state_of(m) for m in models], 1, "atlas") as composer:
        c = torch.full((2, len(composer.names), 1), 0.1, dtype=torch.float64)
        _, gradient = composer.gradient(c, lambda m: method._loss(learned.forward(m, batch), batch, learned.task))
        for i, j in ((0, 0), (1, 3), (0, len(composer.names) - 1)):
            ends = []
            for step in (1e-4, -1e-4):
                moved = c.clone()
                moved[i, j] += step
                ends.append(
                    composer.gradient(moved, lambda m: method._loss(learned.forward(m, batch), batch, learned.task))[0]
                )
            assert float(gradient[i, j]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=2e-2, abs=1e-4)


def test_learning_lowers_the_loss_keeps_the_inputs_and_reports_coefficients():
    base, *models = (tiny.llama(s) for s in range(3))
    learned, before = learning(*models, base=base), [copy.deepcopy(state_of(m)) for m in (base, *models)]
    method = Atlas(samples=6, epochs=20, learning_rate=0.05)
    values = method.learn(learned)
    losses = values["report"]["losses"]
    assert losses[-1] < 0.99 * losses[0] and len(losses) == 20
    assert set(values["coefficients"]) == set(dict(base.named_parameters())) and all(
        v.shape == (2, 1) for v in values["coefficients"].values()
    )
    for model, state in zip((base, *models), before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in state_of(model).items()) and all(
            p.grad is None and p.requires_grad for p in model.parameters()
        )
    untouched, _ = merge_in_memory(Atlas(samples=6, epochs=1, learning_rate=1e-12), learned)
    assert all(torch.allclose(t, untouched[n], atol=1e-9) for n, t in before[0].items())


def test_entropy_reads_no_label_and_labels_do():
    base, *models = (tiny.bert_classifier(s) for s in range(3))
    learned = learning(*models, base=base)
    shuffled = learning(*models, base=base)
    shuffled.batches = lambda n: [b.replace(labels=(b.labels + 1) % 3) for b in learned.batches(n)]
    for objective, equal in (("entropy", True), ("labels", False)):
        method = Atlas(objective=objective, samples=12, epochs=3)
        a, b = (method.learn(x)["coefficients"] for x in (learned, shuffled))
        assert all(torch.equal(a[n], b[n]) for n in a) is equal
    losses = Atlas(objective="entropy", samples=6, epochs=20).learn(learned)["report"]["losses"]
    assert losses[-1] < losses[0]
    assert float(entropy(torch.zeros(5, 8))) == pytest.approx(float(torch.tensor(8.0).log()))


def test_a_head_of_another_shape_stays_the_bases():
    base, other = tiny.bert_classifier(0), tiny.bert_classifier(1)
    other.classifier = torch.nn.Linear(32, 5)
    merged, _ = merge_in_memory(Atlas(epochs=1), learning(other, base=base))
    assert torch.equal(merged["classifier.weight"], base.classifier.weight)
    with pytest.raises(MethodError, match="common base"):
        Atlas().learn(learning(other))


def test_regmean_satisfies_its_equation_and_gives_equal_models_back():
    generator = torch.Generator().manual_seed(0)
    xs, ws = ([torch.randn(*s, generator=generator).double() for _ in range(2)] for s in ((30, 6), (4, 6)))
    grams = [x.T @ x for x in xs]
    w = regmean(ws, grams, 1.0)
    assert torch.allclose(w @ sum(grams), sum(a @ g for a, g in zip(ws, grams, strict=True)))

    def error(w):
        return sum(float((x @ (w - a).T).square().sum()) for a, x in zip(ws, xs, strict=True))

    assert error(w) < error(sum(ws) / 2)
    diagonal = regmean(ws, grams, 0.0)
    energy = [g.diagonal() for g in grams]
    assert torch.allclose(diagonal, sum(a * e for a, e in zip(ws, energy, strict=True)) / sum(energy))
    model = tiny.gpt2()
    learned = learning(model, copy.deepcopy(model))
    merged, _ = merge_in_memory(RegMean(), learned)
    assert torch.allclose(logits(put(model, merged), learned), logits(model, learned), atol=1e-5)
    a, b = tiny.llama(0), tiny.llama(1)
    one, two = (merge_in_memory(RegMean(), learning(*pair))[0] for pair in ((a, b), (b, a)))
    assert all(torch.allclose(one[n], two[n], atol=1e-5) for n in one)


def test_a_tensor_without_coefficients_is_the_bases():
    base, model = tensors(2)
    assert Atlas().merge("head", base, [model], Needs({"coefficients": {}})) is base
