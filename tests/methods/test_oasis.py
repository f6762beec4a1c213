"""OASIS: who teaches, when a batch is learnt from, and the balanced step by hand; its contrast against plain loops."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests import tiny
from tunewright.conformance.adapting import convolutional, deep
from tunewright.conformance.bench import rows_of
from tunewright.errors import MethodError
from tunewright.measure.adapting import Stream
from tunewright.methods.objectives.borderline_contrast import BorderlineContrast, balanced_contrast, borders
from tunewright.methods.test_time.oasis import OASIS
from tunewright.models.adapted import Adapted
from tunewright.pieces.heads import classifier_head
from tunewright.tasks import get_task

TASK = get_task("image-classification")


def rows(count: int = 6, source: str = "stream") -> list[Any]:
    return rows_of(TASK, source, count)


def stream(make: Any = deep, **fields: Any) -> Stream:
    return Stream("oasis", OASIS(**fields), Adapted(make()), TASK)


def readings(model: Any, some: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(probabilities [R, V] with their graph, what they say [R], what the features say [R])."""
    outputs = TASK.forward(model, TASK.collate(some))
    p = outputs.logits.softmax(-1)
    w = classifier_head(model).weight
    cosines = (outputs.features @ w.T) / (outputs.features.norm(dim=1)[:, None] * w.norm(dim=1))
    return p, p.argmax(1), cosines.argmax(1)


def test_two_batches_are_those_of_pseudo_labels_weighed_by_the_classes_that_were_seen() -> None:
    model = deep()
    norms = [p for n, p in model.named_parameters() if "norm" in n]
    adam, mean = torch.optim.Adam(norms, lr=2e-3), None
    taught = 0
    with stream(reliable=0.3, sure=1.0, memory=0.25, learning_rate=2e-3) as s:
        for source in ("one", "two"):
            p, said, near = readings(model, rows(source=source))
            given = s.answer(rows(source=source))
            assert torch.allclose(given.softmax(-1), p, atol=1e-5), "answered before its own step"
            now = p.detach().mean(0)
            seen = mean = now if mean is None else 0.25 * mean + 0.75 * now
            each = [(1 / seen[y], -p[r, y].log()) for r, y in enumerate(said) if p[r, y] >= 0.3 and y == near[r]]
            taught += len(each)
            loss = sum(v * c for v, c in each) / sum(v for v, _ in each)
            adam.zero_grad()
            loss.backward()
            adam.step()
            assert torch.allclose(s.method_state.get("classes"), mean, atol=1e-5)
        own = dict(model.named_parameters())
        apart = torch.cat([(p - own[n]).abs().flatten() for n, p in s.moving.values().items()])
    assert 0 < taught < 12, "some rows taught and some did not"
    # the step of an entry whose gradient is all rounding has a direction of its own: few entries may differ
    assert float((apart < 1e-5).float().mean()) > 0.95


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"reliable": 0.0, "sure": 1.0}, 2),
        ({"reliable": 1.0, "sure": 1.0}, 0),
        ({"reliable": 0.0, "sure": 0.0, "moved": 2.0}, 0),
        ({"reliable": 0.0, "sure": 0.0, "moved": 1e-6}, 1),
    ],
    ids=["unsure", "nobody is reliable", "nothing moved", "classes moved"],
)
def test_a_batch_is_learnt_from_where_the_stream_is_unsure_or_its_classes_moved(fields: Any, steps: int) -> None:
    with stream(**fields) as s:
        for source in ("one", "two"):
            s.answer(rows(source=source))
        assert s.moving.backwards == steps and s.forward.calls == 2
        before = s.method_state.get("classes").clone()
        s.answer(rows(source="three"))
        assert not torch.equal(before, s.method_state.get("classes")), "classes are counted where nothing is learnt"


def test_a_row_whose_features_are_nearer_to_another_class_teaches_nothing() -> None:
    model = deep()
    head = classifier_head(model)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([20.0] + [0.0] * (len(head.bias) - 1)))  # all rows are class 0 by the bias alone
    _, said, near = readings(model, rows())
    assert set(said.tolist()) == {0} != set(near.tolist())
    other = [row for row, c in zip(rows(), near.tolist(), strict=True) if c != 0]
    with Stream("oasis", OASIS(reliable=0.0, sure=1.0), Adapted(model), TASK) as s:
        s.answer(other)
        assert other and s.moving.backwards == 0


def test_batch_norm_is_by_the_batch_and_a_model_without_norms_is_refused() -> None:
    kept, by_batch = [], []
    for into, on in ((kept, False), (by_batch, True)):
        with stream(convolutional, batch_statistics=on, reliable=1.0) as s:
            into.append(s.answer(rows()))
    assert not torch.allclose(kept[0], by_batch[0], atol=1e-4)
    bare = copy.deepcopy(tiny.vit())
    for module in list(bare.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, torch.nn.Identity())
    with pytest.raises(MethodError, match="no norm"):
        Stream("oasis", OASIS(), Adapted(bare), TASK)


# -- the contrast of the stage before ----------------------------------------------------------------------------------


def some(count: int = 9, classes: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(count, 4, generator=rng), dim=1)
    return z, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2][:count]) % classes


def by_hand(scores: Tensor, labels: Tensor) -> list[float]:
    out = []
    for i in range(len(labels)):
        below = 0.0
        for c in set(labels.tolist()):
            of = [math.exp(float(scores[i, k])) for k in range(len(labels)) if labels[k] == c and k != i]
            below += sum(of) / len(of) if of else 0.0
        own = [k for k in range(len(labels)) if labels[k] == labels[i] and k != i]
        out.append(-sum(float(scores[i, k]) - math.log(below) for k in own) / len(own) if own else 0.0)
    return out


def test_every_class_pushes_alike_however_many_rows_it_has() -> None:
    z, labels = some()
    scores = z @ z.T / 0.5
    found = balanced_contrast(scores, labels)
    assert torch.allclose(found, torch.tensor(by_hand(scores, labels)), atol=1e-5)
    assert found[8] == 0.0, "alone of its class"
    again = torch.cat([torch.arange(9), torch.tensor([0, 1, 2, 3, 4])])  # the commonest class once more
    more = balanced_contrast(scores[again][:, again], labels[again])
    assert torch.allclose(more[5:8], found[5:8], atol=1e-5), "rows of others do not feel it"


def test_a_border_is_told_by_the_nearest_rows() -> None:
    z = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [0.15]])
    similar = -(z - z.T).abs()
    found = borders(similar, torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert found.tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 1.0]
    assert borders(similar, torch.tensor([0, 0, 0, 1, 1, 1]), 1).tolist() == [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]


def asked(z: Tensor, labels: Tensor, logits: Tensor, **fields: Any) -> float:
    outputs: Any = SimpleNamespace(logits=logits, features=3 * z, head=None)
    batch: Any = SimpleNamespace(labels=labels)
    return float(BorderlineContrast(**fields).objective(outputs, batch).value)


def test_the_loss_weighs_rare_classes_as_common_ones_and_rows_on_a_border_more() -> None:
    z, labels = some()
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    cross = [-float(logits[i].log_softmax(0)[c]) for i, c in enumerate(labels)]
    for refine, neighbours, temperature in ((0.0, 5, 0.5), (2.0, 2, 0.5), (2.0, 4, 0.2)):
        contrast = by_hand(z @ z.T / temperature, labels)
        b = borders(z @ z.T, labels, neighbours)
        w = [(1 + refine * float(b[i])) / [5, 3, 1][labels[i]] for i in range(9)]
        expected = sum(a * (x + 0.7 * c) for a, x, c in zip(w, cross, contrast, strict=True)) / sum(w)
        given = asked(z, labels, logits, amount=0.7, refine=refine, neighbours=neighbours, temperature=temperature)
        assert given == pytest.approx(expected, rel=1e-4)
    assert asked(z[:1], labels[:1], logits[:1]) == pytest.approx(cross[0]), "alone, it has no border and no pair"
