"""Mixtures of pictures: their pixels, labels and losses, read off the rows that a step hands to the loop."""

from __future__ import annotations

import math
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.class_tasks import PICTURES, TASKS, rows
from tests.methods.prompt_tasks import follow, learnt
from tunewright.methods.continual.dualmix import DualMix
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.training.inner import Inner

PLAIN: dict[str, Any] = {
    "buffer_size": 6,
    "minibatch_size": 3,
    "area": 1.0,
    "mirror": False,
    "enmix_weight": 0.7,
    "adpmix_weight": 0.4,
}


def made(**fields):
    return {"dualmix": DualMix(**{**PLAIN, **fields}), "full": FullFineTuning()}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    learnt(folder, made(), 1, PICTURES, steps=3)
    return folder


@pytest.fixture(scope="module")
def told(one):
    """What two steps of a second task handed to the loop: joined rows, and each mixture with its loss function."""
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        own = Inner.gradients, Inner.gradients_of

        def gradients(self, also=()):
            seen.append(SimpleNamespace(rows=list(self.rows), also=list(also), mixtures=[], plain=None))
            found = own[0](self, also)
            seen[-1].plain, seen[-1].gradients = self.record["loss"], {n: g.clone() for n, g in found.items()}
            return found

        def gradients_of(self, given, loss=None):
            found, value = own[1](self, given, loss)
            seen[-1].mixtures.append(SimpleNamespace(rows=given, reading=loss, gradients=found, value=value))
            return found, value

        patch.setattr(Inner, "gradients", gradients)
        patch.setattr(Inner, "gradients_of", gradients_of)
        left: list[Any] = []
        patch.setattr(
            Inner,
            "leave",
            lambda self, g, own=Inner.leave: (left.append({n: x.clone() for n, x in g.items()}), own(self, g)),
        )
        run = follow(one, "one", made(), TASKS[1], PICTURES, how="training")
        run.train()
    return SimpleNamespace(steps=seen, run=run, left=left)


def pixels(given) -> np.ndarray:
    return np.stack([r.fields["pixels"].astype(np.float64) for r in given])


def share(mixed: np.ndarray, a: np.ndarray, b: np.ndarray) -> float | None:
    """s where mixed = s a + (1 - s) b, else None."""
    d = (a - b).ravel()
    if not d.any():
        return None
    s = float((mixed - b).ravel() @ d / (d @ d))
    return s if np.allclose(s * a + (1 - s) * b, mixed, atol=1e-2) else None


def label_share(mixture, i: int, a: int, b: int) -> float:
    """Of a mixed row's loss, how much is the first label's: read off logits that say 1 and 0."""
    logits = torch.zeros(1, 6)
    logits[0, a] = 5.0
    said = logits.log_softmax(-1)[0]
    value = float(mixture.reading(SimpleNamespace(logits=logits), None, [i]).value)
    return (value + float(said[b])) / float(said[b] - said[a])


def test_changed_pictures_are_mixed_with_their_labels(told):
    step = told.steps[1]
    plain = [*step.rows, *step.also]
    mixture, given = step.mixtures[0], pixels(plain)
    assert len(mixture.rows) == len(plain) == 7
    partners = []
    for i, (row, mixed) in enumerate(zip(plain, pixels(mixture.rows), strict=True)):
        if np.allclose(mixed, given[i], atol=1e-2):
            continue  # mixed with itself
        ((j, s),) = [(j, s) for j in range(7) if (s := share(mixed, given[i], given[j])) is not None]
        assert 0 <= s <= 1
        partners.append(plain[j].id)
        if plain[j].label != row.label:
            assert label_share(mixture, i, row.label, plain[j].label) == pytest.approx(s, abs=1e-4)
    assert Counter(partners) <= Counter(r.id for r in plain) and len(partners) >= 4  # each is a partner once


def test_old_classes_are_mixed_with_new_ones_and_the_rarer_has_more_of_the_label(told):
    counts: Counter[int] = Counter()
    leant = 0
    for step in told.steps:
        mixture = step.mixtures[1]
        old = rows(TASKS[0], PICTURES)
        for i, (row, mixed) in enumerate(zip(step.rows, pixels(mixture.rows), strict=True)):
            fits = [(o, s) for o in old if (s := share(mixed, pixels([o])[0], pixels([row])[0])) is not None]
            (o, s), *_ = fits
            assert row.label in TASKS[1] and 0 <= s <= 1
            c_o, c_n = 1 + counts[o.label], 1 + counts[row.label]
            wanted = s * c_n / (s * c_n + (1 - s) * c_o)
            assert label_share(mixture, i, o.label, row.label) == pytest.approx(wanted, abs=1e-4)
            leant += c_o != c_n
        counts.update(r.label for r in (*step.rows, *step.also))
    assert leant > 0


def test_a_step_goes_by_all_three_losses(told):
    for step, left, record in zip(told.steps, told.left, told.run.records, strict=True):
        en, adp = step.mixtures
        assert record["loss"] == pytest.approx(step.plain + 0.7 * en.value + 0.4 * adp.value, rel=1e-5)
        assert record["enmix/dualmix"] == en.value and record["joined_rows"] == len(step.also)
        for n, g in left.items():
            wanted = step.gradients[n] + 0.7 * en.gradients[n] + 0.4 * adp.gradients[n]
            torch.testing.assert_close(g, wanted)


def test_views_show_a_part_and_some_are_mirrored():
    given = rows(TASKS[0], PICTURES)
    method = DualMix(area=1.0)
    views, *_ = method._views(given, random.Random(0))
    ways = []
    for row, view in zip(given, views, strict=True):
        p, q = row.fields["pixels"].astype(float), view.fields["pixels"]
        ways.append(
            "same" if np.allclose(p, q, atol=0.1) else "mirrored" if np.allclose(p[..., ::-1], q, atol=0.1) else ""
        )
    assert set(ways) == {"same", "mirrored"}
    parts, *_ = DualMix(area=0.2, mirror=False)._views(given, random.Random(0))
    assert not any(
        np.allclose(a.fields["pixels"], b.fields["pixels"], atol=1) for a, b in zip(given, parts, strict=True)
    )


def test_no_older_class_no_such_mixture(one):
    run = follow(one, "one", made(), TASKS[0], PICTURES, how="training", steps=1)
    run.train()
    assert "enmix/dualmix" in run.records[0] and "adpmix/dualmix" not in run.records[0]
    assert math.isfinite(run.records[0]["loss"])
