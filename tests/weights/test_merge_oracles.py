"""Merges through their slot, `merge`, beside the formulas written out entry by entry in plain Python.

Nothing of the merges' own pieces is used here: an entry is a number, a model a list of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.weights.test_pleas import learning
from tunewright.catalogue import load_method
from tunewright.weights.blocks import merge_in_memory
from tunewright.weights.merge.regmean import RegMean
from tunewright.weights.operator import merge_one, merge_tensors

Row = list[float]


def drawn(count: int, *shape: int, seed: int = 0) -> list[Tensor]:
    """Random tensors, the first as a base; a fifth of the others' entries are the base's."""
    rng = torch.Generator().manual_seed(seed)
    base = torch.randn(*shape, generator=rng)
    moved = [
        (torch.randn(*shape, generator=rng) * 0.5 * (torch.rand(*shape, generator=rng) < 0.8)) for _ in range(count)
    ]
    return [base, *(base + m for m in moved)]


def by_slot(name: str, base: Tensor | None, tensors: Sequence[Tensor], each=None, **fields) -> Tensor:
    return merge_one(load_method(name)(**fields), "t", base, tensors, each=each)


def close(got: Tensor, wanted: Sequence[float], atol: float = 1e-5) -> None:
    torch.testing.assert_close(got.flatten().double(), torch.tensor(list(wanted)).double(), atol=atol, rtol=1e-4)


def rows(*tensors: Tensor) -> list[Row]:
    return [t.flatten().double().tolist() for t in tensors]


def size(x: Row) -> float:
    return math.sqrt(sum(v * v for v in x))


def arc(a: Row, b: Row, t: float) -> Row:
    """The place t between two vectors, by the angle of their directions."""
    angle = math.acos(sum(x * y for x, y in zip(a, b, strict=True)) / size(a) / size(b))
    p, q = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return [p * x + q * y for x, y in zip(a, b, strict=True)]


def elected(changes: Sequence[Row], weights: Sequence[float], mean: bool) -> Row:
    """Entries of the sign of the weighted sum alone (plus for a sum of 0), their mean or sum."""
    out = []
    for values in zip(*changes, strict=True):
        weighted = [w * v for w, v in zip(weights, values, strict=True)]
        sign = 1 if sum(weighted) >= 0 else -1
        agree = [(w, x) for w, x in zip(weights, weighted, strict=True) if x * sign > 0]
        total, parts = sum(x for _, x in agree), sum(w for w, _ in agree)
        out.append(0.0 if not agree else total / parts if mean else total)
    return out


def keep_largest(change: Row, kept: int) -> Row:
    least = sorted((abs(v) for v in change), reverse=True)[kept - 1]
    return [v if abs(v) >= least else 0.0 for v in change]


def added(base: Row, change: Row, factor: float = 1.0) -> Row:
    return [b + factor * c for b, c in zip(base, change, strict=True)]


def minus(models: Sequence[Row], base: Row) -> list[Row]:
    return [[x - b for x, b in zip(m, base, strict=True)] for m in models]


# -- means and arcs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_is_the_weighted_mean_or_sum(normalize):
    a, b = drawn(1, 3, 4)
    wanted = [(2 * x + 0.5 * y) / (2.5 if normalize else 1) for x, y in zip(*rows(a, b), strict=True)]
    close(by_slot("linear", None, [a, b], [{"weight": 2.0}, {"weight": 0.5}], normalize=normalize), wanted)


def test_slerp_follows_the_arc_of_tensors_of_any_length():
    a, b = drawn(1, 3, 4)
    close(by_slot("slerp", None, [a, 3 * b], t=0.3), arc(*rows(a, 3 * b), 0.3))
    near = a + 1e-3 * b
    close(by_slot("slerp", None, [a, near], t=0.3), [0.7 * x + 0.3 * y for x, y in zip(*rows(a, near), strict=True)])
    turned = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.03]) / math.hypot(1.0, 0.03)  # cos 0.99955
    chord = by_slot("slerp", None, turned, t=0.5)
    assert float(chord.norm()) < 1 - 5e-5, "within the linear case the chord is taken, which is shorter"


@pytest.mark.parametrize("based", [True, False])
def test_multi_slerp_is_the_mean_direction_at_the_mean_length(based):
    base, *models = drawn(3, 3, 4)
    weights = [1.0, 2.0, 0.5]
    parts = minus(rows(*models), rows(base)[0]) if based else rows(*models)
    shares = [w / sum(weights) for w in weights]
    sums = [sum(s * p[i] / size(p) for s, p in zip(shares, parts, strict=True)) for i in range(12)]
    length = sum(s * size(p) for s, p in zip(shares, parts, strict=True))
    wanted = [length * v / size(sums) for v in sums]
    got = by_slot("multi-slerp", base if based else None, models, [{"weight": w} for w in weights])
    close(got, added(rows(base)[0], wanted) if based else wanted)


@pytest.mark.parametrize(
    ("fields", "vectors"),
    [
        ({}, lambda x: [x.flatten()]),
        ({"nuslerp_flatten": False}, lambda x: list(x)),
        ({"nuslerp_flatten": False, "nuslerp_row_wise": True}, lambda x: list(x.T)),
    ],
    ids=["flat", "rows", "columns"],
)
def test_nuslerp_turns_changes_row_by_row_to_the_place_that_weights_give(fields, vectors: Callable):
    base, a, b = drawn(2, 3, 4)
    got = by_slot("nuslerp", base, [a, b], [{"weight": 1.0}, {"weight": 3.0}], **fields)
    for x, y, z in zip(vectors(a - base), vectors(b - base), vectors(got - base), strict=True):
        close(z, arc(*rows(x, y), 0.75))
    close(by_slot("nuslerp", None, [a, b]), arc(*rows(a, b), 0.5))


def test_karcher_mean_is_where_the_tangents_to_the_models_sum_to_nothing():
    one, two, three = (torch.randn(2, 3, generator=torch.Generator().manual_seed(s)) for s in (1, 2, 3))
    models = [one, one + 0.3 * two, 4 * three]  # two near each other, one far off
    got = by_slot("karcher", None, models, max_iter=100)
    parts = rows(*models)
    assert float(got.norm()) == pytest.approx(sum(size(p) for p in parts) / 3, rel=1e-5)
    m = [v / float(got.norm()) for v in rows(got)[0]]
    total = [0.0] * 6
    for p in parts:
        u = [v / size(p) for v in p]
        cos = sum(x * y for x, y in zip(m, u, strict=True))
        angle = math.acos(cos)
        total = [t + angle / math.sin(angle) * (x - cos * y) for t, x, y in zip(total, u, m, strict=True)]
    assert size(total) < 1e-4
    plain = [sum(p[i] / size(p) for p in parts) for i in range(6)]
    assert size([a - b / size(plain) for a, b in zip(m, plain, strict=True)]) > 1e-3, "it is not the mean direction"


# -- task vectors -----------------------------------------------------------------------------------------------------

WEIGHTS = [1.0, 0.5, 2.0]
EACH = [{"weight": w} for w in WEIGHTS]


def test_task_arithmetic_adds_weighted_changes_to_the_base():
    base, *models = drawn(3, 3, 4)
    changes, origin = minus(rows(*models), rows(base)[0]), rows(base)[0]
    total = [sum(w * v for w, v in zip(WEIGHTS, values, strict=True)) for values in zip(*changes, strict=True)]
    fields = {"lambda": 0.3}
    close(by_slot("task-arithmetic", base, models, EACH, **fields), added(origin, total, 0.3))
    close(by_slot("task-arithmetic", base, models, EACH, normalize=True), added(origin, total, 1 / 3.5))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_ties_trims_elects_and_averages_what_agrees(normalize, rescale):
    base, *models = drawn(3, 4, 5)
    each = [{"weight": w, "density": 0.3} for w in WEIGHTS]
    changes = minus(rows(*models), rows(base)[0])
    kept = [keep_largest(c, 6) for c in changes]
    if rescale:
        factors = [sum(map(abs, c)) / sum(map(abs, k)) for c, k in zip(changes, kept, strict=True)]
        kept = [[f * v for v in k] for f, k in zip(factors, kept, strict=True)]
    wanted = added(rows(base)[0], elected(kept, WEIGHTS, normalize), 0.7)
    fields = {"normalize": normalize, "rescale": rescale, "lambda": 0.7}
    close(by_slot("ties", base, models, each, **fields), wanted)


def test_ties_elects_plus_where_signs_cancel_and_keeps_one_entry_at_least():
    base, one, two = torch.zeros(3), torch.tensor([1.0, -2.0, 4.0]), torch.tensor([-1.0, 2.0, 1.0])
    close(by_slot("ties", base, [one, two], density=1.0), [1.0, 2.0, 2.5])
    close(by_slot("ties", base, [one], density=0.01), [0.0, 0.0, 4.0])
    close(by_slot("ties", base, [one], density=0.0), [0.0, 0.0, 0.0])


def test_ties_over_the_model_spends_nothing_on_a_tensor_that_hardly_moved():
    base = {n: t for n, t in zip("ab", drawn(1, 4, 5), strict=True)}
    rng = torch.Generator().manual_seed(3)
    model = {n: base[n] + scale * torch.randn(4, 5, generator=rng) for n, scale in (("a", 1.0), ("b", 1e-3))}
    got = merge_tensors(load_method("ties")(over="model", density=0.25), base, [model])
    changes = [c for n in "ab" for c in minus(rows(model[n]), rows(base[n])[0])[0]]
    wanted = added([v for n in "ab" for v in rows(base[n])[0]], keep_largest(changes, 10))
    close(torch.cat([got[n].flatten() for n in "ab"]), wanted, atol=1e-6)
    assert torch.equal(got["b"], base["b"]) and not torch.equal(got["a"], base["a"])


def test_ties_over_the_model_tells_changes_apart_that_differ_in_their_last_bits():
    base = {"a": torch.zeros(4, 5), "b": torch.zeros(4, 5)}
    change = 1 + torch.randperm(40, generator=torch.Generator().manual_seed(5)) * 2**-20
    model = {"a": change[:20].view(4, 5), "b": change[20:].view(4, 5)}
    got = merge_tensors(load_method("ties")(over="model", density=0.25), base, [model])
    kept = torch.cat([got["a"].flatten(), got["b"].flatten()])
    assert torch.equal(kept != 0, change > change.sort().values[29]) and int((kept != 0).sum()) == 10


@pytest.mark.parametrize("name", ["dare-linear", "dare-ties"])
def test_dare_keeps_an_entry_with_its_probability_and_divides_by_it(name):
    base, model = torch.zeros(4000), torch.full((4000,), 2.0)
    for density in (0.25, 0.8):
        got = by_slot(name, base, [model], density=density)
        assert {round(v, 4) for v in got.tolist()} == {0.0, round(2 / density, 4)}
        assert float((got != 0).float().mean()) == pytest.approx(density, abs=0.03)
        assert set(by_slot(name, base, [model], density=density, rescale=False).tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(("name", "elects"), [("dare-linear", False), ("dare-ties", True), ("della-linear", False)])
def test_random_drops_are_summed_and_elect_signs_where_they_say(name, elects):
    """Where nothing is dropped, the sum of what stayed is the whole formula."""
    base, *models = drawn(3, 3, 4)
    changes = minus(rows(*models), rows(base)[0])
    more = {"epsilon": 0.0} if name.startswith("della") else {}
    each = [{"weight": w, "density": 1.0, **more} for w in WEIGHTS]
    total = [sum(w * v for w, v in zip(WEIGHTS, values, strict=True)) for values in zip(*changes, strict=True)]
    wanted = elected(changes, WEIGHTS, False) if elects else total
    close(by_slot(name, base, models, each), added(rows(base)[0], wanted))


def test_della_averages_what_agrees_by_default():
    base, *models = drawn(3, 3, 4)
    each = [{"weight": w, "density": 1.0, "epsilon": 0.0} for w in WEIGHTS]
    changes = minus(rows(*models), rows(base)[0])
    close(by_slot("della", base, models, each), added(rows(base)[0], elected(changes, WEIGHTS, True)))


@pytest.mark.parametrize("name", ["della", "della-linear"])
def test_della_drops_small_entries_the_likelier_and_divides_by_each_ones_probability(name):
    """Rows of 5 entries whose magnitudes fall: of many rows each place stays with its own probability."""
    base, magnitudes = torch.zeros(4000, 5), torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    got = by_slot(name, base, [magnitudes.expand(4000, 5).clone()], density=0.5, epsilon=0.4)
    keep = torch.tensor([0.9, 0.1, 0.7, 0.3, 0.5])
    torch.testing.assert_close((got != 0).float().mean(0), keep, atol=0.03, rtol=0)
    for i in range(5):
        assert {round(v, 3) for v in got[:, i].tolist()} == {0.0, round(float(magnitudes[i] / keep[i]), 3)}


@pytest.mark.parametrize("over", ["tensor", "row"])
@pytest.mark.parametrize("rescale", [True, False])
def test_breadcrumbs_mask_both_tails(over, rescale):
    base, model = drawn(1, 4, 10)
    model = base + torch.randn(4, 10, generator=torch.Generator().manual_seed(5))  # no equal magnitudes
    fields = {"density": 0.5, "gamma": 0.2, "over": over, "rescale": rescale, "lambda": 0.5}
    change = minus(rows(model), rows(base)[0])[0]
    parts = [change] if over == "tensor" else [change[i : i + 10] for i in range(0, 40, 10)]
    kept: Row = []
    for part in parts:
        order = sorted((abs(v) for v in part), reverse=True)
        top = len(part) // 5
        inside = set(order[top : top + len(part) // 2])
        kept += [v if abs(v) in inside else 0.0 for v in part]
    factor = sum(map(abs, change)) / sum(map(abs, kept)) if rescale else 1.0
    close(by_slot("model-breadcrumbs", base, [model], **fields), added(rows(base)[0], kept, 0.5 * factor))
    close(by_slot("breadcrumbs-ties", base, [model], **fields), added(rows(base)[0], kept, 0.5 * factor))


def test_breadcrumbs_with_ties_elect_signs():
    base, *models = drawn(3, 3, 4)
    each = [{"weight": w, "density": 1.0, "gamma": 0.0} for w in WEIGHTS]
    changes = minus(rows(*models), rows(base)[0])
    close(by_slot("breadcrumbs-ties", base, models, each), added(rows(base)[0], elected(changes, WEIGHTS, False)))


# -- changes weighed by angle, number and size ------------------------------------------------------------------------


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_goes_as_far_as_the_mean_angle_says(filter_wise):
    base, *models = drawn(3, 3, 4, seed=2)
    models = [m + 0.4 for m in models]  # changes that share a direction
    got = by_slot("model-stock", base, models, filter_wise=filter_wise)
    for i in range(3 if filter_wise else 1):
        part = [x[i] if filter_wise else x for x in (got, base, *models)]
        out, origin, *own = rows(*part)
        changes = minus(own, origin)
        pairs = [(0, 1), (0, 2), (1, 2)]
        cosines = [
            sum(x * y for x, y in zip(changes[a], changes[b], strict=True)) / size(changes[a]) / size(changes[b])
            for a, b in pairs
        ]
        cos = sum(cosines) / 3
        r = 3 * cos / (1 + 2 * cos)
        mean = [sum(v) / 3 for v in zip(*own, strict=True)]
        close(torch.tensor(out), [r * m + (1 - r) * b for m, b in zip(mean, origin, strict=True)])


def test_nearswap_moves_by_t_at_most():
    base, model = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.05, 0.95, 3.0, -2.0])
    close(by_slot("nearswap", base, [model], t=0.1), [1.05, 0.95, 1.1, 0.9])


def test_passthrough_scales():
    (base,) = drawn(0, 3, 4)
    close(by_slot("passthrough", None, [base], scale=0.25), [0.25 * v for v in rows(base)[0]])


def ram(base: Row, models: Sequence[Row], epsilon: float, factors: Sequence[float]) -> Row:
    out = []
    for b, *values in zip(base, *models, strict=True):
        moved = [(f, v - b) for f, v in zip(factors, values, strict=True) if abs(v - b) > epsilon]
        if len(moved) == 1:
            out.append(b + moved[0][0] * moved[0][1])
        else:
            out.append(b + sum(d for _, d in moved) / max(1, len(moved)))
    return out


def sparse(seed: int = 0) -> list[Tensor]:
    """A base and three models, each of which moved about a third of the entries, some of them by little."""
    rng = torch.Generator().manual_seed(seed)
    base = torch.randn(5, 6, generator=rng)
    moves = [torch.randn(5, 6, generator=rng) * (torch.rand(5, 6, generator=rng) < 0.4) for _ in range(3)]
    return [base, *(base + m for m in moves)]


def test_ram_averages_over_the_models_that_changed_an_entry():
    base, *models = sparse()
    for epsilon in (1e-5, 0.5):
        close(by_slot("ram", base, models, epsilon=epsilon), ram(rows(base)[0], rows(*models), epsilon, [1.0] * 3))


@pytest.mark.parametrize("alpha", [0.2, 50.0])
def test_ramplus_amplifies_what_one_model_alone_changed(alpha):
    base, *models = sparse()
    changed = [[abs(v) > 1e-5 for v in c] for c in minus(rows(*models), rows(base)[0])]
    factors = []
    for own in changed:
        alone = sum(o and sum(c) == 1 for o, c in zip(own, zip(*changed, strict=True), strict=True))
        shared = sum(own) - alone
        factors.append(1 + 0.5 * min(alpha, shared / alone))
    assert len(set(factors)) > 1 or alpha == 0.2
    got = by_slot("ramplus-tl", base, models, r=0.5, alpha=alpha)
    close(got, ram(rows(base)[0], rows(*models), 1e-5, factors))


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("least", [0.0, 1e3])
def test_sce_selects_weighs_by_squares_and_erases_minority_signs(share, least):
    base, *models = drawn(3, 4, 5)
    models = [base + f * (m - base) for f, m in zip((0.2, 1.0, 3.0), models, strict=True)]
    changes = minus(rows(*models), rows(base)[0])
    variance = [sum((v - sum(e) / 3) ** 2 for v in e) / 3 for e in zip(*changes, strict=True)]
    kept = int(sum(v > 0 for v in variance) * share)
    edge = sorted(variance, reverse=True)[kept - 1]
    changes = [[v if x >= edge else 0.0 for v, x in zip(c, variance, strict=True)] for c in changes]
    squares = [sum(v * v for v in c) / len(c) for c in changes]
    weights = [s / sum(squares) if sum(squares) >= least else 1 / 3 for s in squares]
    total = []
    for entry in zip(*changes, strict=True):
        sign = 1 if sum(entry) >= 0 else -1
        agree = [(w, v) for w, v in zip(weights, entry, strict=True) if v * sign > 0]
        total.append(sum(w * v for w, v in agree) / sum(w for w, _ in agree) if agree else 0.0)
    close(by_slot("sce", base, models, select_topk=share, least=least), added(rows(base)[0], total))


def test_arcee_fusion_takes_over_the_entries_far_above_the_median():
    base, model = drawn(1, 6, 8, seed=4)

    def softmax(x: Row) -> Row:
        total = sum(math.exp(v) for v in x)
        return [math.exp(v) / total + 1e-8 for v in x]

    scores = []
    for a, b in zip(model.double().tolist(), base.double().tolist(), strict=True):
        divergence = sum(p * math.log(p / q) for p, q in zip(softmax(a), softmax(b), strict=True))
        scores += [abs(x - y) * divergence for x, y in zip(a, b, strict=True)]
    order = sorted(scores)
    low, middle, high = (order[int(p * (len(order) - 1))] for p in (0.25, 0.5, 0.75))
    edge = middle + 1.5 * (high - low)
    wanted = [m if s >= edge else b for m, b, s in zip(*rows(model, base), scores, strict=True)]
    assert 0 < sum(s >= edge for s in scores) < 12
    close(by_slot("arcee-fusion", base, [model]), wanted)


# -- merges that learn ------------------------------------------------------------------------------------------------


def test_regmean_solves_for_what_every_model_gives_on_what_every_model_is_given():
    """The layer with the least squared difference to both models' own outputs, each on its own inputs: by lstsq."""
    a, b = tiny.llama(0), tiny.llama(1)
    learned = learning(a, b)
    merged, _ = merge_in_memory(RegMean(samples=8, scale=1.0), learned)
    name, inputs = "model.layers.0.self_attn.q_proj", []
    for model in (a, b):
        seen: list[Tensor] = []
        hook = model.get_submodule(name).register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0]))
        for batch in learned.batches(8):
            with torch.no_grad():
                learned.forward(model, batch)
            mask = batch.inputs.get("attention_mask")
            x = seen.pop()
            inputs.append((model, x.flatten(0, 1) if mask is None else x[mask.bool()]))
        hook.remove()
    weights = {id(m): m.get_submodule(name).weight.detach().double() for m in (a, b)}
    X = torch.cat([x.double() for _, x in inputs])
    Y = torch.cat([x.double() @ weights[id(m)].T for m, x in inputs])

    def error(W: Tensor) -> float:
        return float((X @ W.double().T - Y).square().sum())

    best = torch.linalg.lstsq(X, Y, driver="gelsd").solution.T
    assert error(merged[f"{name}.weight"]) == pytest.approx(error(best), rel=1e-3)
    assert error(merged[f"{name}.weight"]) < 0.9 * error((weights[id(a)] + weights[id(b)]) / 2)
    torch.testing.assert_close(merged["model.norm.weight"], (a.model.norm.weight + b.model.norm.weight).detach() / 2)
