"""Layers with running statistics: the base's statistics stay, scale and shift train."""

from __future__ import annotations

import pytest
import torch
import transformers

from tests import tiny
from tests.methods.driving import Run, image_rows
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.adapted import Adapted
from tunewright.models.modes import set_training


def test_running_statistics_stay_in_training_mode_and_only_they():
    model = set_training(tiny.efficientnet())
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert all(m.training for m in model.modules() if not isinstance(m, torch.nn.BatchNorm2d))
    assert not any(m.training for m in set_training(model, False).modules())


def test_evaluating_puts_the_modes_back():
    adapted = Adapted(set_training(tiny.efficientnet()))
    with adapted.evaluating() as model:
        assert not any(m.training for m in model.modules())
    assert adapted.model.training and not any(
        m.training for m in adapted.model.modules() if isinstance(m, torch.nn.BatchNorm2d)
    )


@pytest.mark.parametrize("batch", [3, 9])
def test_full_fine_tuning_keeps_the_statistics_and_trains_scale_and_shift(batch):
    model = tiny.efficientnet()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    run = Run(
        {"full": FullFineTuning()},
        model=model,
        task="image-classification",
        sources={"i": image_rows()},
        batch=batch,
        steps=4,
    )
    run.train()
    after = run.adapted.model.state_dict()
    held = dict(model.named_buffers())
    assert held and all(torch.equal(before[n], after[n]) for n in held)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert any("expand_bn.weight" in n for n in moved) and any("expand_bn.bias" in n for n in moved)
    run.adapted.forget_changes()
    assert all(torch.equal(before[n], t) for n, t in run.adapted.model.state_dict().items())


@torch.no_grad()
def test_what_a_layer_computed_from_other_weights_is_not_used_again():
    """LeViT keeps its attention biases in evaluation mode: the base's, the tuned ones and the base's again differ."""
    config = transformers.LevitConfig(
        image_size=32, patch_size=16, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 2], depths=[1, 1, 1]
    )
    model = transformers.LevitForImageClassification(config).eval()
    adapted, pixels = Adapted(model), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first = model(pixels).logits
    for name, p in model.named_parameters():
        if "attention_biases" in name:
            adapted.remember(name)
            p.copy_(torch.arange(p.numel(), dtype=p.dtype).reshape(p.shape).flip(-1))
    tuned = model(pixels).logits
    with adapted.base() as base:
        again = base(pixels).logits
    assert not torch.equal(first, tuned) and torch.equal(first, again) and torch.equal(tuned, model(pixels).logits)
    assert not any(m.training for m in model.modules())
