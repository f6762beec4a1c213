"""ClipCov: picks against the definition worked out in loops, classes by names and by labels, mismatches."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tunewright.conformance.bench import seeded
from tunewright.conformance.task_examples import clip, tokenizer
from tunewright.contract.method import call
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.data.select import clipcov
from tunewright.data.select.clipcov import ClipCov, central, picked
from tunewright.errors import DataError, RecipeError
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task

TASK = get_task("zero-shot-image-classification")
IMAGE = {
    **{"height": 8, "width": 8, "shortest": None, "channels": 3, "resample": 2},
    **{"mean": [0.5] * 3, "std": [0.5] * 3, "scale": 1 / 255},
}


def by_definition(v: np.ndarray, t: np.ndarray, classes: list[int], fits: np.ndarray, count: int) -> list[int]:
    """The order of picking by the module's formulas, anew for each pick."""
    n, order = len(v), list[int]()

    def C(i: int, j: int) -> float:
        return max(0.0, float(v[i] @ t[j])) + max(0.0, float(v[j] @ t[i]))

    def members(k: int) -> list[int]:
        return [j for j in range(n) if classes[j] == k]

    def m(i: int) -> float:
        return sum(C(i, j) for j in members(classes[i])) / len(members(classes[i]))

    def x(i: int) -> float:
        others = sorted(set(classes) - {classes[i]})
        each = [np.mean([v[i] @ t[j] + t[i] @ v[j] for j in members(k)]) for k in others]
        return float(np.mean(each)) if each else 0.0

    for _ in range(count):
        gains = {}
        for i in set(range(n)) - set(order):
            taken = sum(C(i, j) + m(j) + fits[j] / 2 for j in order if classes[j] == classes[i])
            own = m(i) + 2 * max(0.0, float(v[i] @ t[i])) + fits[i] / 2 - x(i)
            gains[i] = own - taken / len(members(classes[i]))
        order.append(max(gains, key=lambda i: gains[i]))
    return order


@pytest.mark.parametrize("kinds", [1, 2, 4])
def test_picks_are_those_of_the_definition(kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipcov, "PIECE", 3)
    rng = torch.Generator().manual_seed(kinds)
    v, t = (normalize(torch.randn(14, 5, generator=rng, dtype=torch.float64), dim=1) for _ in range(2))
    classes = torch.randint(kinds, (14,), generator=rng)
    fits = torch.rand(14, generator=rng, dtype=torch.float64)
    order, gain = picked(v, t, classes, fits, 14)
    assert order == by_definition(v.numpy(), t.numpy(), classes.tolist(), fits.numpy(), 14)
    assert order[0] == int(gain.argmax()) and picked(v, t, classes, fits, 4)[0] == order[:4]


def test_the_larger_part_of_a_class_comes_first_then_the_other_and_a_mismatch_last() -> None:
    eye = torch.eye(6)
    v = torch.stack([*[eye[0]] * 6, *[eye[1]] * 4, eye[2]])
    t = v.clone()
    t[10] = eye[5]  # another's text
    order, gain = picked(v, t, torch.zeros(11, dtype=torch.long), torch.zeros(11), 11)
    assert gain.argsort(descending=True, stable=True).tolist() == list(range(11))  # alone, all six would come first
    assert order[:2] == [0, 1] and 6 in order[:4] and order[-1] == 10
    torch.testing.assert_close(central(v, t)[0], torch.tensor(12 / 11))


def read(records: list[Record]) -> Reader:
    options = EncodeOptions(image=IMAGE)
    words = tokenizer(end=True)
    return Reader("start", Adapted(seeded(clip, 0)), TASK, lambda r: [TASK.encode(r, words, options)], window=4)


def records(**more: Any) -> list[Record]:
    rng = np.random.default_rng(0)
    texts = ("red", "a very blue dog", "green", "amber fox", "teal", "orange", "a dog", "the fox")
    return [
        Record({"image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).tolist(), "text": text, **more}, id=f"r{i}")
        for i, text in enumerate(texts)
    ]


def chosen(some: list[Record], **settings: Any) -> Any:
    method = ClipCov.model_validate({"keep": 3, **settings})
    return call(method, "select", records=some, readers={"start": read(some)}, rng=random.Random(0))


def test_rows_go_to_the_nearest_name_and_count_by_what_the_model_says() -> None:
    some = records()
    names = ["dog", "fox", "colour"]
    found = chosen(some, classes=names)
    model = seeded(clip, 0).eval()
    words = tokenizer(end=True)

    def said(text: str) -> torch.Tensor:
        row = TASK.encode(some[0].replace(text=text), words, EncodeOptions(image=IMAGE))
        out = TASK.forward(model, TASK.collate([row])).embeddings
        return normalize(out[1], dim=0)

    vectors = torch.stack([said(r["text"]) for r in some])
    alike = vectors @ torch.stack([said(f"a photo of a {n}") for n in names]).T
    assert found.scores["class"] == alike.argmax(1).tolist()
    pictures = torch.cat(
        [
            normalize(
                TASK.forward(model, TASK.collate([TASK.encode(r, words, EncodeOptions(image=IMAGE))])).embeddings,
                dim=-1,
            )[:1]
            for r in some
        ]
    )
    np.testing.assert_allclose(found.scores["own"], (pictures * vectors).sum(1).detach(), atol=1e-5)
    order = by_definition(
        pictures.detach().numpy(),
        vectors.detach().numpy(),
        found.scores["class"],
        alike.max(1).values.detach().numpy(),
        3,
    )
    assert list(found.indices) == order
    assert [bool(r) for r in found.reasons] == [i not in found.indices for i in range(8)]


def test_labels_are_classes_and_options_move_gains() -> None:
    some = [r.replace(label="animal" if "dog" in r["text"] or "fox" in r["text"] else "colour") for r in records()]
    by_label = chosen(some)
    assert by_label.scores["class"] == [0, 1, 0, 1, 0, 0, 1, 1]
    named = chosen(some, classes=["dog", "fox"])
    other = chosen(some, classes=["dog", "fox"], template="{label}")
    assert len({tuple(f.scores["gain"]) for f in (by_label, named, other)}) == 3


def test_classes_that_are_not_there_are_one_message() -> None:
    with pytest.raises(DataError, match="the row has no class in words"):
        chosen(records())
    with pytest.raises(DataError, match="the row has no class in words"):
        chosen(records(label=3))
    with pytest.raises(RecipeError, match="a class is named twice: dog"):
        chosen(records(), classes=["dog", "fox", "dog"])
    with pytest.raises(ValueError, match="template"):
        ClipCov(template="a photo")
