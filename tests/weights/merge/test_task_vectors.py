"""Trimming, electing, masking both tails, and what is added."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.contract.method import Needs
from tunewright.errors import MethodError
from tunewright.weights.merge import _task_vectors as tv
from tunewright.weights.merge._thinning import breadcrumbs
from tunewright.weights.merge.breadcrumbs_ties import BreadcrumbsTies
from tunewright.weights.merge.linear import Linear, linear
from tunewright.weights.merge.model_breadcrumbs import ModelBreadcrumbs
from tunewright.weights.merge.task_arithmetic import TaskArithmetic
from tunewright.weights.merge.ties import Ties
from tunewright.weights.operator import each_of, merge_one, merge_tensors
from tunewright.weights.survey import survey


def change(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


finite = st.floats(-1e3, 1e3, width=32, allow_subnormal=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(finite, min_size=1, max_size=40), st.data())
def test_the_kth_largest_magnitude_is_that_of_a_sort(values, data):
    x = torch.tensor(values)
    k = data.draw(st.integers(1, len(values)))
    wanted = float(x.abs().sort(descending=True).values[k - 1])
    for way in (tv.kth_largest, tv.kth_by_counts):
        assert float(torch.tensor(way(tv.magnitude_bits(x), k), dtype=torch.int32).view(torch.float32)) == wanted


def test_large_tensors_are_trimmed_by_counting_alike():
    x = change(300, 300)
    assert x.numel() > tv.HIGH
    assert torch.equal(
        tv.trim(x, 0.37).view(torch.int32),
        torch.where(x.abs() >= x.abs().flatten().kthvalue(90000 - 33300 + 1).values, x, 0.0).view(torch.int32),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=30), st.floats(0, 1))
def test_trimming_keeps_what_is_asked_and_what_equals_its_smallest(values, density):
    x = torch.tensor(values)
    kept = tv.trim(x, density)
    k = tv.kept_of(density, len(x))
    order = x.abs().sort(descending=True).values
    wanted = x.abs() >= order[k - 1] if k else torch.zeros(len(x), dtype=torch.bool)
    assert torch.equal(kept, torch.where(wanted, x, 0.0))


@pytest.mark.parametrize("density", [0.001, 0.1, 0.2, 0.5, 0.999, 1.0])
def test_distinct_magnitudes_leave_exactly_the_count(density):
    x = change(37, 27)
    kept = tv.trim(x, density)
    assert int((kept != 0).sum()) == max(1, int(density * x.numel()))
    assert (
        float(kept[kept != 0].abs().min()) >= float(x[kept == 0].abs().max()) if density < 1 else torch.equal(kept, x)
    )
    assert not tv.trim(x, 0.0).any()


def test_ties_with_everything_kept_and_agreeing_signs_is_the_weighted_mean():
    base, taus = change(9, 7), [change(9, 7, seed=s).abs() for s in (1, 2, 3)]
    merged = merge_one(
        Ties(density=1), "w", base, [base + t for t in taus], each=[{"weight": w} for w in (0.5, 0.25, 1.0)]
    )
    assert torch.allclose(merged, base + (0.5 * taus[0] + 0.25 * taus[1] + taus[2]) / 1.75, atol=1e-6)


def test_no_merged_value_opposes_its_sign_or_leaves_the_range_of_those_that_agree():
    taus = torch.stack([tv.trim(change(40, 40, seed=s), 0.3) for s in range(5)])
    mixed = tv.combine(list(taus), [1.0] * 5, election=True, normalize=True)
    plus = taus.sum(0) >= 0
    agrees = torch.where(plus, taus > 0, taus < 0)
    assert bool((mixed[plus] >= 0).all()) and bool((mixed[~plus] < 0).all())
    top = torch.where(agrees, taus.abs(), 0.0).amax(0)
    least = torch.where(agrees, taus.abs(), torch.inf).amin(0)
    some = agrees.any(0)
    assert bool((mixed.abs()[some] <= top[some] * (1 + 1e-6)).all()) and bool(
        (mixed.abs()[some] >= least[some] * (1 - 1e-6)).all()
    )
    assert not mixed[~some].any()


def test_the_sign_is_elected_by_weight_and_a_draw_elects_plus():
    taus = [torch.tensor([3.0, 1.0, -1.0, 0.0]), torch.tensor([-1.0, -1.0, -2.0, -4.0])]
    assert tv.combine(taus, [1.0, 1.0], True, True).tolist() == [3.0, 1.0, -1.5, -4.0]
    assert tv.combine(taus, [1.0, 4.0], True, True).tolist() == [-1.0, -1.0, pytest.approx(-1.8), -4.0]
    assert tv.combine(taus, [1.0, 1.0], True, False).tolist() == [3.0, 1.0, -3.0, -4.0]


def test_one_threshold_for_all_tensors_spends_the_budget_where_the_large_changes_are():
    names = ["still", "small", "large"]
    base = {n: change(20, 15, seed=i) for i, n in enumerate(names)}
    scales = {"still": 0.0, "small": 0.01, "large": 1.0}
    models = [{n: base[n] + scales[n] * change(20, 15, seed=10 * s + i) for i, n in enumerate(names)} for s in (1, 2)]
    method = Ties(density=0.25, over="model")
    each = each_of(method, 2, [{"density": 0.25}, {"density": 0.1}])
    known = survey(method, lambda: [(n, base[n], [m[n] for m in models]) for n in names], each)
    for i, density in enumerate((0.25, 0.1)):
        together = torch.cat([(m[n] - base[n]).flatten() for n in names for m in models[i : i + 1]]).abs()
        threshold = torch.tensor(known["thresholds"][i], dtype=torch.int32).view(torch.float32)
        assert float(threshold) == float(together.sort(descending=True).values[int(density * len(together)) - 1])
    merged = {n: merge_one(method, n, base[n], [m[n] for m in models], each=each, needs=Needs(known)) for n in names}
    moved = {n: int((merged[n] - base[n]).abs().gt(1e-4).sum()) for n in names}
    assert moved["still"] == moved["small"] == 0 < moved["large"]
    per_tensor = merge_tensors(Ties(density=0.25), base, models)
    assert int((per_tensor["small"] - base["small"]).abs().gt(1e-4).sum()) > 50
    backwards = survey(method, lambda: [(n, base[n], [m[n] for m in models]) for n in reversed(names)], each)
    assert backwards["thresholds"] == known["thresholds"]


def test_a_model_of_density_zero_changes_nothing_under_one_threshold():
    base, models = {"w": change(6, 6)}, [{"w": change(6, 6, seed=s)} for s in (1, 2)]
    method = Ties(density=0.5, over="model")
    each = each_of(method, 2, [{"density": 0.0}, {"density": 1.0}])
    known = survey(method, lambda: [("w", base["w"], [m["w"] for m in models])], each)
    merged = merge_one(method, "w", base["w"], [m["w"] for m in models], each=each, needs=Needs(known))
    assert torch.allclose(merged, models[1]["w"], atol=1e-6)


@pytest.mark.parametrize("density, gamma", [(0.15, 0.006), (0.2, 0.1), (0.5, 0.0), (0.9, 0.3), (1.0, 0.1), (0.0, 0.1)])
def test_breadcrumbs_keeps_the_ranks_between_the_tails(density, gamma):
    x = change(30, 25)
    n = x.numel()
    top, kept = int(gamma * n), int(density * n)
    top = min(top, n - kept)
    order = x.abs().flatten().argsort(descending=True)
    wanted = torch.zeros(n)
    wanted[order[top : top + kept]] = 1
    assert torch.equal(breadcrumbs(x, density, gamma), x * wanted.view_as(x))


def test_breadcrumbs_by_row_masks_each_row_alone():
    x = change(8, 40)
    x[0] *= 100
    kept = breadcrumbs(x, 0.25, 0.1, over="row")
    assert ((kept != 0).sum(1) == 10).all()
    for row, got in zip(x, kept, strict=True):
        order = row.abs().argsort(descending=True)
        assert not got[order[:4]].any() and bool((got[order[4:14]] == row[order[4:14]]).all())
    conv = change(4, 3, 3, 3)
    assert not breadcrumbs(conv, 0.15, 0.006, over="row").any(), (
        "rows of three keep nothing at 0.15, as in the authors' code"
    )
    assert breadcrumbs(torch.tensor(2.0), 0.1, 0.1) == 2.0


def test_breadcrumbs_without_tails_is_task_arithmetic():
    base, models = {"w": change(5, 4)}, [{"w": change(5, 4, seed=s)} for s in (1, 2)]
    for weight in (1.0, 0.4):
        plain = merge_tensors(TaskArithmetic(weight=weight), base, models)
        assert torch.equal(
            merge_tensors(ModelBreadcrumbs(weight=weight, density=1, gamma=0, lambda_=1), base, models)["w"], plain["w"]
        )
    elected = merge_tensors(BreadcrumbsTies(density=1, gamma=0, normalize=True), base, models)
    assert torch.equal(elected["w"], merge_tensors(Ties(density=1), base, models)["w"])


def test_task_arithmetic_forgets_a_task_with_a_negative_weight():
    base, task = change(5, 4), change(5, 4, seed=1)
    method = TaskArithmetic(**{"lambda": 0.5})
    assert torch.allclose(
        merge_one(method, "w", base, [base + task], each=[{"weight": -1.0}]), base - 0.5 * task, atol=1e-6
    )
    assert torch.allclose(
        merge_one(method, "w", base, [base + task] * 2, each=[{"weight": 1.0}, {"weight": -1.0}]), base, atol=1e-6
    )


def test_rescaling_keeps_the_sum_of_magnitudes():
    x = change(30, 20)
    kept = tv.rescaled(tv.trim(x, 0.2), x)
    assert float(kept.abs().sum()) == pytest.approx(float(x.abs().sum()), rel=1e-5)
    assert torch.equal(tv.rescaled(torch.zeros(3), x), torch.zeros(3))


def test_linear_gives_one_model_bit_for_bit_and_refuses_a_mean_of_nothing():
    x = change(5, 4)
    assert torch.equal(merge_one(Linear(), "w", None, [x]), x)
    assert torch.equal(merge_one(Linear(), "w", None, [x, x]), x)
    a, b = change(5, 4, seed=1), change(5, 4, seed=2)
    assert torch.allclose(linear([a, b], [1.0, 3.0], True), 0.25 * a + 0.75 * b)
    assert torch.allclose(linear([a, b], [1.0, 3.0], False), a + 3 * b)
    with pytest.raises(MethodError, match="sum to 0"):
        linear([a, b], [1.0, -1.0], True)


@pytest.mark.parametrize("cls", [Ties, ModelBreadcrumbs, BreadcrumbsTies])
@pytest.mark.parametrize("density", [-0.1, 1.1])
def test_densities_outside_0_to_1_are_refused(cls, density):
    with pytest.raises(ValueError, match="density"):
        cls(density=density)
