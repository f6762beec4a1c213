"""Tent against its formula, computed by other means: the entropy by hand, Adam's first step in closed form.

What the authors' code does (DequanWang/tent, tent.py) was read and is followed where it and the paper leave a choice:
the answer is that of the forward whose gradient is taken.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tunewright.conformance.adapting import convolutional, deep
from tunewright.conformance.bench import rows_of
from tunewright.errors import MethodError
from tunewright.measure.adapting import Stream
from tunewright.methods.test_time.tent import Tent
from tunewright.models.adapted import Adapted
from tunewright.pieces.entropies import cross_entropy, entropy, mean_log_probs
from tunewright.tasks import get_task

TASK = get_task("image-classification")


def rows(count: int = 6) -> list[Any]:
    return rows_of(TASK, "stream", count)


def stream(make: Any = deep, **fields: Any) -> Stream:
    return Stream("tent", Tent(**fields), Adapted(make()), TASK)


def by_hand(logits: Tensor) -> Tensor:
    p = torch.exp(logits.double()) / torch.exp(logits.double()).sum(-1, keepdim=True)
    return -(p * p.log()).sum(-1)


def test_entropies_are_what_they_are_called() -> None:
    z, other = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.randn(5, 7)
    assert torch.allclose(entropy(z).double(), by_hand(z), atol=1e-6)
    p = z.softmax(-1)
    assert torch.allclose(cross_entropy(z, other), -(p * other.softmax(-1).log()).sum(-1), atol=1e-6)
    assert torch.allclose(cross_entropy(z, z), entropy(z), atol=1e-6)
    assert torch.allclose(mean_log_probs(torch.stack([z, other])).exp(), (p + other.softmax(-1)) / 2, atol=1e-6)


def test_scale_and_shift_of_every_norm_move_and_nothing_else() -> None:
    s = stream(convolutional, learning_rate=0.01)
    norms = {
        f"{n}.{part}"
        for n, m in s.adapted.model.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert set(s.moving.parameters) == norms and norms
    before = {n: p.clone() for n, p in s.adapted.model.named_parameters()}
    with s:
        s.answer(rows())
        moved = {n for n, p in s.adapted.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= norms and len(moved) > len(norms) // 2


def test_the_first_step_is_adams_on_the_entropy_and_the_answer_is_from_before_it() -> None:
    """Adam's first step is the rate times g / (|g| + eps), whatever the gradient's size."""
    s, rate = stream(learning_rate=3e-3), 3e-3
    model = deep()
    batch = TASK.collate(rows())
    names = {n: p for n, p in model.named_parameters() if "layernorm" in n}
    logits = model(**batch.inputs).logits
    gradients = torch.autograd.grad(by_hand(logits).mean(), list(names.values()))
    with s:
        answer = s.answer(rows())
        for (name, start), g in zip(names.items(), gradients, strict=True):
            expected = start - rate * g / (g.abs() + 1e-8)
            sure = g.abs() > 1e-5
            assert torch.allclose(s.moving.parameters[name][sure], expected[sure], atol=1e-5), name
    assert torch.allclose(answer, logits, atol=1e-5)


def test_entropy_falls_on_the_rows_at_hand_and_more_with_more_steps() -> None:
    left = []
    for steps in (1, 8):
        with stream(learning_rate=3e-3, steps=steps) as s:
            before = float(entropy(s.answer(rows())).mean()) if steps == 1 else 0.0
            s.answer(rows())
            left.append(float(entropy(s.answer(rows())).mean()))
        if steps == 1:
            assert left[0] < before
    assert left[1] < left[0]


def test_batch_norm_takes_the_batch_only_where_it_is_told_to() -> None:
    model = convolutional().eval()
    batch = TASK.collate(rows())
    with torch.no_grad():
        kept = model(**batch.inputs).logits
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.train()
                m.momentum = 0.0
        of_batch = model(**batch.inputs).logits
    for told, expected in ((False, kept), (True, of_batch)):
        with stream(convolutional, batch_statistics=told) as s:
            assert torch.allclose(s.answer(rows()), expected, atol=1e-4), told
    assert not torch.allclose(kept, of_batch, atol=1e-2)


def test_one_row_of_one_pixel_says_what_to_write() -> None:
    def narrow() -> nn.Module:
        model = convolutional()
        model.efficientnet.encoder.top_bn.register_forward_pre_hook(lambda m, x: (x[0].mean((2, 3), keepdim=True),))
        return model

    with stream(narrow) as s, pytest.raises(MethodError, match="batch_statistics: false"):
        s.answer(rows(1))


def test_a_model_without_norms_is_refused() -> None:
    def bare() -> nn.Module:
        model = deep()
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(parent, name, nn.Identity())
        return model

    with pytest.raises(MethodError, match="no norm with a scale"):
        stream(bare)


def test_it_moves_the_norms_of_a_tuned_model_and_leaves_its_adapter() -> None:
    from tunewright.conformance.bench import Tiny
    from tunewright.methods.adapters.lora import LoRA

    t = Tiny([("lora", LoRA(rank=2))], task_name="image-classification").run()
    tuned, before = t.logits(), {n: x.clone() for n, x in t.adapted.model.state_dict().items()}
    with t.adapted.at_strength(1.0):
        with Stream("tent", Tent(learning_rate=0.05), t.adapted, t.task) as s:
            first = s.answer(rows(3))
            assert torch.allclose(s.forward(_batch(3)).logits, first, atol=1e3) and s.moving.backwards == 1
            assert not torch.allclose(s.forward(_batch(3)).logits, first, atol=1e-3), "the second look is another"
    assert all(torch.equal(before[n], x) for n, x in t.adapted.model.state_dict().items())
    assert torch.equal(t.logits(), tuned)


def _batch(count: int) -> Any:
    from tunewright.contract.unlabelled import Unlabelled

    return Unlabelled.of(TASK.collate(rows(count)))


def test_a_real_classifier_of_texts_has_norms_to_move() -> None:
    task = get_task("text-classification")
    with Stream("tent", Tent(learning_rate=0.02), Adapted(tiny.bert_classifier(labels=3)), task) as s:
        some = rows_of(task, "stream", 6)
        before = float(entropy(s.answer(some)).mean())
        for _ in range(3):
            after = float(entropy(s.answer(some)).mean())
    assert after < before
