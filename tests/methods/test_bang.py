"""BANG: smoothed and mixed losses against their formulas, plain cross-entropy at zero, and less sure of itself once
trained.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows
from tunewright.contract.batch import Outputs
from tunewright.contract.method import State
from tunewright.methods.objectives.bang import Bang, mixed_loss, smoothed
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.tasks import get_task


def make(listen=None, steps=6, **fields):
    return Run(
        {"full": FullFineTuning(), "bang": Bang(**fields)},
        model=tiny.vit(),
        task="image-classification",
        batch=9,
        listen=listen,
        steps=steps,
    )


def test_smoothing_is_cross_entropy_with_soft_targets():
    logits, y = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 3, 3, 2])
    soft = 0.8 * F.one_hot(y, 4).float() + 0.2 / 4
    torch.testing.assert_close(smoothed(logits, y, 0.2), -(soft * logits.log_softmax(-1)).sum(-1))
    assert torch.equal(smoothed(logits, y, 0.0), F.cross_entropy(logits, y, reduction="none"))
    one = torch.ones(5)
    assert torch.equal(mixed_loss(logits, y, y.roll(1), one, 0.1), smoothed(logits, y, 0.1))
    torch.testing.assert_close(
        mixed_loss(logits, y, y.roll(1), 0.5 * one, 0.0),
        (smoothed(logits, y, 0.0) + smoothed(logits, y.roll(1), 0.0)) / 2,
    )


def test_pictures_are_mixed_with_their_neighbour_by_a_share_of_their_own():
    batch = get_task("image-classification").collate(image_rows(4))
    mixed = Bang(mixup=0.4).batch(batch, lambda i: random.Random(i))
    pixels, m = batch.inputs["pixel_values"], mixed.fields["mixup_share"]
    assert [float(x) for x in m] == pytest.approx([random.Random(i).betavariate(0.4, 0.4) for i in range(4)])
    torch.testing.assert_close(mixed.inputs["pixel_values"][3], m[3] * pixels[3] + (1 - m[3]) * pixels[0])
    assert mixed.fields["mixup_targets"].tolist() == [*batch.labels[1:].tolist(), int(batch.labels[0])]
    assert Bang().batch(batch, lambda i: random.Random(i)) is None


def test_nothing_smoothed_or_mixed_is_plain_training():
    plain = Run({"full": FullFineTuning()}, model=tiny.vit(), task="image-classification", batch=9)
    plain.train()
    bang = make(smoothing=0.0)
    bang.train()
    assert [r["loss"] for r in bang.records] == pytest.approx([r["loss"] for r in plain.records], rel=1e-5)


def test_a_model_trained_so_is_less_sure():
    batch = get_task("image-classification").collate(image_rows(12, seed=9))
    sure = {}
    for name, fields in {
        "plain": {"smoothing": 0.0},
        "smoothed": {"smoothing": 0.3},
        "mixed": {"smoothing": 0.0, "mixup": 1.0},
    }.items():
        run = make(steps=30, **fields)
        model = run.train().stage.adapted.model.eval()
        with torch.no_grad():
            logits = get_task("image-classification").forward(model, batch).logits
        assert float((logits.argmax(-1) == batch.labels).float().mean()) > 0.9
        sure[name] = float(logits.softmax(-1).max(-1).values.mean())
    assert sure["smoothed"] < sure["plain"] - 0.02 and sure["mixed"] < sure["plain"] - 0.02


def test_texts_mix_their_features_and_their_classes_by_one_order_and_share():
    rng = torch.Generator().manual_seed(0)
    features, weight = torch.randn(5, 4, generator=rng), torch.randn(3, 4, generator=rng)
    head = torch.nn.Linear(4, 3, bias=False)
    head.weight.data = weight
    outputs = Outputs(features @ weight.T, torch.tensor([0, 1, 2, 2, 0]), features=features, head=head)
    batch = SimpleNamespace(labels=outputs.labels, fields={})
    found = Bang(mixup=0.7, smoothing=0.1).objective(outputs, batch, 3, State(seed=11)).value
    draw = random.Random("11/3")
    order = draw.sample(range(5), 5)
    expected = []
    for i, j in enumerate(order):
        m = draw.betavariate(0.7, 0.7)
        log_p = ((m * features[i] + (1 - m) * features[j]) @ weight.T).log_softmax(-1)
        soft = 0.1 / 3 + 0.9 * (m * F.one_hot(batch.labels[i], 3) + (1 - m) * F.one_hot(batch.labels[j], 3))
        expected.append(-float((soft * log_p).sum()))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_it_resumes_bit_for_bit():
    assert_resumes(lambda listen: make(listen, mixup=0.5), 3)
