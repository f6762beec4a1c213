"""Layers with running statistics: the base's statistics stay, scale and shift train."""

from __future__ import annotations

import pytest
import torch

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
