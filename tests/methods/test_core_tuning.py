"""Core-tuning: pairs, mixed labels, the focal contrast against loops, and exactly equal gradients under micro-steps."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import Run, assert_resumes
from tunewright.contract.combining import check_conflicts
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.objectives.core_tuning import CoreTuning, focal_contrast, hard_pairs, mixed
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.tasks import get_task
from tunewright.training.train import Loop


def make(listen=None, **options):
    fields = options.pop("fields", {})
    methods = {**options.pop("beside", {"full": FullFineTuning()}), "core": CoreTuning(**{"dimensions": 8, **fields})}
    return Run(methods, model=tiny.vit(), task="image-classification", batch=9, listen=listen, **options)


def test_hard_pairs_are_the_furthest_alike_and_the_nearest_unlike():
    angles = torch.tensor([0.0, 0.2, 1.0, 1.2, 2.9])
    features = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([1.0, 3.0, 0.5, 2.0, 1.0])[:, None]
    positive, negative = hard_pairs(features, torch.tensor([0, 0, 0, 1, 2]))
    assert positive.tolist() == [2, 2, 0, 3, 4]  # the last two are alone in their class
    assert negative.tolist() == [3, 3, 3, 2, 3]
    assert hard_pairs(features, torch.zeros(5, dtype=torch.long))[1].tolist() == [0, 1, 2, 3, 4]


def test_mixed_labels_sum_to_one_and_the_originals_are_detached():
    rng = torch.Generator().manual_seed(0)
    f = torch.randn(4, 5, generator=rng).requires_grad_()
    y = F.one_hot(torch.tensor([0, 1, 1, 2]), 3).float()
    a, b = torch.rand(4, generator=rng), torch.rand(4, generator=rng)
    many, soft = mixed(f, y, torch.tensor([1, 0, 3, 2]), a, b, (torch.tensor([0, 2, 1, 3]), torch.tensor([1, 0, 0, 1])))
    torch.testing.assert_close(soft.sum(1), torch.ones(12))
    torch.testing.assert_close(many[4], (1 - a[0]) * f[0] + a[0] * f[1])
    torch.testing.assert_close(many[9], b[1] * f[2] + (1 - b[1]) * f[0])
    torch.testing.assert_close(soft[9], b[1] * y[2] + (1 - b[1]) * y[0])
    assert torch.autograd.grad(many[:4].sum() + 0 * many.sum(), f)[0].abs().max() == 0


@pytest.mark.parametrize("focal", [True, False])
def test_contrast_is_the_formula(focal):
    rng = torch.Generator().manual_seed(1)
    z = F.normalize(torch.randn(6, 4, generator=rng, dtype=torch.float64))
    y = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1, 1, 2]]
    total, having = 0.0, 0
    for i in range(6):
        norm = sum(math.exp(float(z[i] @ z[k]) / 0.3) for k in range(6) if k != i)
        alike = [j for j in range(6) if j != i and torch.equal(y[i], y[j])]
        having += bool(alike)
        for j in alike:
            p = math.exp(float(z[i] @ z[j]) / 0.3) / norm
            total -= ((1 - p) if focal else 1.0) * math.log(p) / 6
    assert float(focal_contrast(z, y, 0.3, focal)) == pytest.approx(total / having)


def test_without_positives_the_contrast_is_zero_with_a_finite_gradient():
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    value = focal_contrast(F.normalize(z), torch.eye(4), 0.07)
    value.backward()
    assert float(value.detach()) == 0.0 and float(z.grad.abs().max()) == 0.0


def test_the_focal_weight_carries_gradient():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    y = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1, 1, 1]]
    assert torch.autograd.gradcheck(lambda x: focal_contrast(F.normalize(x), y, 0.5), (z,))


def pairs_by_loops(unit: torch.Tensor, classes: list[int]) -> list[tuple[int, int]]:
    """(least similar of the same class, most similar of another) of each row; itself where there is none."""
    out, rows = [], range(len(classes))
    for i in rows:
        like = [j for j in rows if j != i and classes[j] == classes[i]]
        unlike = [j for j in rows if classes[j] != classes[i]]
        out.append(
            (
                min(like, key=lambda j: float(unit[i] @ unit[j]), default=i),
                max(unlike, key=lambda j: float(unit[i] @ unit[j]), default=i),
            )
        )
    return out


def test_the_objective_classifies_and_contrasts_features_soft_negatives_and_hard_pairs():
    """Through `objective`, row by row in fp64: the 3B rows of the text, made with the draws of the step."""
    run = make(fields={"eta": 0.7, "least": 0.6, "temperature": 0.4, "alpha": 0.8})
    method, state = run.methods.bound[1].method, run.state("core")
    batch = run.task.collate([row for row, _ in run.cursor.next_batch()])
    outputs = run.task.forward(run.adapted.model.eval(), batch)
    got = float(method.objective(outputs, batch, 5, state).value.detach())

    rng, B = random.Random(f"{state.data['seed']}/5"), 9
    order = rng.sample(range(B), B)
    a, b = ([rng.betavariate(0.8, 0.8) for _ in range(B)] for _ in range(2))
    f, head = outputs.features.detach().double(), run.adapted.model.classifier
    y = F.one_hot(batch.labels, 3).double()
    pairs = pairs_by_loops(F.normalize(f), batch.labels.tolist())
    assert len({p for p, _ in pairs} | {n for _, n in pairs}) > 2
    many, soft = [*f], [*y]
    for of, into in ((f, many), (y, soft)):
        into += [(1 - max(a[i], 0.6)) * of[i] + max(a[i], 0.6) * of[order[i]] for i in range(B)]
        into += [b[i] * of[p] + (1 - b[i]) * of[n] for i, (p, n) in enumerate(pairs)]
    W, bias = head.weight.detach().double(), head.bias.detach().double()
    cross = sum(float(-(t * (W @ x + bias).log_softmax(-1)).sum()) for x, t in zip(many, soft, strict=True)) / (3 * B)
    inner, outer = state.inner.double(), state.outer.double()
    with torch.no_grad():
        z = [F.normalize(outer(torch.relu(inner(x))), dim=0) for x in many]
    contrast, having = 0.0, 0
    for i in range(3 * B):
        alike = [j for j in range(3 * B) if j != i and torch.allclose(soft[i], soft[j], atol=1e-7)]
        having += bool(alike)
        norm = sum(math.exp(float(z[i] @ z[k]) / 0.4) for k in range(3 * B) if k != i)
        shares = [math.exp(float(z[i] @ z[j]) / 0.4) / norm for j in alike]
        contrast -= sum((1 - p) * math.log(p) for p in shares) / (3 * B)
    assert contrast > 0.01
    assert got == pytest.approx(cross + 0.7 * contrast / having, rel=1e-4)


@pytest.mark.parametrize("beside", [{"full": FullFineTuning()}, {"lora": LoRA(rank=2)}])
def test_micro_steps_give_the_same_gradient(beside):
    found = []
    for micro in (None, 2, 4):
        run = make(beside=beside, micro_tokens=micro, fields={"eta": 1.0, "least": 0.2})
        with torch.no_grad():
            for n, p in run.adapted.delta_parameters().items():
                p.add_(0.01 * torch.arange(p.numel()).reshape(p.shape).cos() * n.endswith("lora_B"))
        loop = Loop(run.stage)
        rows = run.cursor.next_batch()
        assert micro is None or len(loop.micro_batches(rows)) > 2
        record = loop.gradients(rows)
        found.append({"loss": torch.tensor(record["loss"]), **loop.trained.gradients()})
    for other in found[1:]:
        assert other.keys() == found[0].keys() and any(n.startswith("core.") for n in other)
        for n, g in found[0].items():
            torch.testing.assert_close(other[n], g, atol=2e-6, rtol=1e-4)
    assert float(max(g.abs().max() for n, g in found[0].items() if n.startswith("core."))) > 1e-4


def test_it_learns_and_the_projection_is_saved_and_resumed():
    run = make(steps=12, learning_rate=3e-3)
    run.train()
    assert run.records[-1]["loss"] < 0.7 * run.records[0]["loss"]
    assert_resumes(lambda listen: make(listen, steps=5), 3)


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    make(steps=1).train()
    assert torch.equal(before, torch.get_rng_state())


def test_a_text_generator_is_refused():
    with pytest.raises(MethodError, match="does not serve"):
        check_conflicts([("core-tuning", CoreTuning())], stage="main", task=get_task("text-generation"))
