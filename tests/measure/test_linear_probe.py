from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.measure import linear_probe
from tunewright.measure.intervals import Interval
from tunewright.measure.linear_probe import LinearReading, commonest_results, fit, probe_results
from tunewright.measure.probe import Side
from tunewright.measure.rows import RowResult


def _clouds(n: int, classes: int, size: int = 12, apart: float = 2.5, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    centres = apart * torch.randn(classes, size, generator=torch.Generator().manual_seed(99)) / size**0.5
    y = torch.arange(n) % classes
    return centres[y] + torch.randn(n, size, generator=g) / size**0.5, y.tolist()


def _rows(labels):
    return [Row(f"r:{i}", "s", (), [1.0], y) for i, y in enumerate(labels)]


def _accuracy(probe, x, y):
    return float(np.mean([r.score for r in probe_results(probe, _rows(y), x, {})]))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_is_scikit_learns_logistic_regression(classes):
    from sklearn.linear_model import LogisticRegression

    (x, y), (test, want) = _clouds(90, classes), _clouds(60, classes, seed=1)
    probe = fit(x, y, classes)
    z = (x.double() - x.double().mean(0)) / x.double().std(0, unbiased=False)
    theirs = (
        LogisticRegression(C=probe.c, max_iter=500, tol=1e-3)
        .fit(z, y)
        .predict_log_proba((test.double() - x.double().mean(0)) / x.double().std(0, unbiased=False))
    )
    assert torch.allclose(probe.logits(test).log_softmax(-1), torch.from_numpy(theirs), atol=1e-6)
    assert _accuracy(probe, test, want) > 0.75 and probe.rows == 90


def test_the_penalty_is_chosen_on_held_out_training_rows():
    """Noise with few rows wants a strong penalty; clear classes that hardly vary a weak one."""
    noisy, y = _clouds(60, 3, size=200, apart=1.5)
    clear, z = _clouds(60, 3, size=3, apart=40)
    clear[:, 0] *= 1e-2
    assert fit(noisy, y, 3).c < 10 and fit(clear, z, 3).c == min(linear_probe.STRENGTHS)
    g = np.random.default_rng(0)
    x = torch.from_numpy(g.normal(size=(400, 2)))
    x[:, 1] *= 0.02  # the class hangs on what varies by a fiftieth, along a steep border
    label = (x[:, 1] + 0.002 * torch.from_numpy(g.normal(size=400)) > 0.03).long().tolist()
    assert fit(x, label, 2).c > min(linear_probe.STRENGTHS)


def test_equal_inputs_give_equal_probes_and_no_global_state_is_touched():
    x, y = _clouds(60, 3)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    a, b = fit(x, y, 3), fit(x, y, 3)
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)
    assert (np.random.get_state()[1] == before).all()


def test_scale_and_shift_of_features_do_not_matter():
    (x, y), (test, _) = _clouds(60, 3), _clouds(30, 3, seed=1)
    stretch = torch.logspace(-3, 3, 12)
    plain, moved = fit(x, y, 3), fit(x * stretch + 5, y, 3)
    # what varies less than a hundredth of the most is not blown up: there the two differ, a little
    agree = (plain.logits(test).argmax(-1) == moved.logits(test * stretch + 5).argmax(-1)).double().mean()
    assert agree > 0.5
    same = fit(3 * x - 7, y, 3)
    assert torch.allclose(plain.logits(test), same.logits(3 * test - 7), atol=1e-4)


def test_without_a_bias_it_has_none():
    x, y = _clouds(60, 3)
    probe = fit(x + 1, y, 3, bias=False)
    assert not probe.bias.any() and _accuracy(probe, x + 1, y) > 0.8


def test_classes_without_a_row_and_rows_of_one_class():
    x, y = _clouds(40, 2)
    probe = fit(x, y, 4)
    assert set(probe.logits(x).argmax(-1).tolist()) <= {0, 1}
    one = fit(x, [2] * 40, 4)
    assert set(one.logits(x).argmax(-1).tolist()) == {2} and torch.isfinite(one.bias).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(2, 5), st.integers(1, 4), st.booleans(), st.integers(0, 9))
def test_any_few_rows_give_finite_probes(n, classes, size, bias, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, size, generator=g) if seed % 3 else torch.ones(n, size)
    y = torch.randint(0, classes, (n,), generator=g).tolist()
    probe = fit(x, y, classes, bias=bias)
    assert torch.isfinite(probe.weight).all() and torch.isfinite(probe.bias).all()
    assert probe.weight.shape == (classes, size) and probe.bias.shape == (classes,)


def test_many_rows_are_drawn_the_same_each_time():
    assert linear_probe.draw(7) == list(range(7))
    some = linear_probe.draw(20_000)
    assert len(set(some)) == linear_probe.MOST and some == sorted(some) == linear_probe.draw(20_000)


def test_the_commonest_class_of_the_training_rows():
    found = commonest_results([2, 1, 1, 0], _rows([1, 0, 1]), {0: "a", 1: "b", 2: "c"})
    assert [r.answer for r in found] == ["b"] * 3 and [r.score for r in found] == [1, 0, 1]
    assert [r.reference for r in found] == ["b", "a", "b"] and found[0].confidence == 0.5
    assert commonest_results([1, 0], _rows([0]), {})[0].answer == "0"


# -- as a probe of two models ------------------------------------------------------------------------------------------


def _side(labels: list[str], features: torch.Tensor | None) -> Side:
    rows = [RowResult(id=str(i), reference=label, score=0.0) for i, label in enumerate(labels)]
    return Side(answers={"target": rows}, features=None if features is None else lambda: features)


def test_both_sides_features_are_read_on_held_out_rows() -> None:
    g = torch.Generator().manual_seed(0)
    labels = ["a", "b", "c"] * 20
    told = torch.nn.functional.one_hot(torch.tensor([0, 1, 2] * 20), 3) + 0.01 * torch.randn(60, 3, generator=g)
    noise = torch.randn(60, 200, generator=g)  # more features than rows: a probe that saw the rows would be right
    found = LinearReading().probe(_side(labels, noise), _side(labels, told)).values
    before, after, change = (found[k] for k in ("base_accuracy", "tuned_accuracy", "difference"))
    assert isinstance(before, Interval) and isinstance(after, Interval) and isinstance(change, Interval)
    assert after.value == 1.0 and before.value < 0.6 and before.n == 60
    assert change.value == pytest.approx(after.value - before.value) and found["classes"] == 3


def test_the_number_of_folds_is_how_many_probes_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(linear_probe, "fit", lambda x, y, classes: (seen.append(len(y)), fit(x, y, classes))[1])
    labels, features = ["a", "b"] * 6, torch.arange(12.0)[:, None] % 2
    for folds in (2, 4):
        seen.clear()
        LinearReading(splits=folds).probe(_side(labels, features), _side(labels, features))
        assert seen == [12 - 12 // folds] * (2 * folds)


@pytest.mark.parametrize(
    "labels, features, said",
    [
        (["a", "b"], None, "there are no features to read"),
        ([], torch.zeros(0, 2), "there are no features to read"),
        (["a", "a"], torch.zeros(2, 2), "all rows have one class"),
    ],
)
def test_what_a_linear_probe_needs(labels: list[str], features: torch.Tensor | None, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        LinearReading().probe(_side(labels, features), _side(labels, features))
