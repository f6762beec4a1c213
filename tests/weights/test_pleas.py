"""Matching recovers a known order of units; a merge of a model and its reordered twin is the model; least squares."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.errors import MethodError, ModelError
from tunewright.models.sites import discover
from tunewright.tasks import get_task
from tunewright.weights.blocks import Learning, merge_in_memory, real_tokens, state_of, walk
from tunewright.weights.merge import pleas
from tunewright.weights.merge._aligning import match_activations, match_weights
from tunewright.weights.merge._least_squares import Sums, solve
from tunewright.weights.merge._matching import assign, assign_heads, closeness, kept_apart
from tunewright.weights.merge._units import STATES, attention_order, find_units, permuted

CAUSAL = ("llama", "qwen3", "gpt2")


def rows(n=12, seed=0):
    r = random.Random(seed)
    return [
        Row(f"r{i}", "s", [r.randrange(5, 200) for _ in range(r.randint(5, 9))], [0.0] + [1.0] * 8, r.randrange(3), {})
        for i in range(n)
    ]


def learning(*models, base=None):
    name = type(models[0]).__name__
    if "ForImage" in name:
        task, generator = get_task("image-classification"), torch.Generator().manual_seed(1)
        r = [
            Row(
                f"i{i}",
                "s",
                (),
                [1.0],
                i % 3,
                {"pixels": torch.randint(0, 255, (3, 16, 16), generator=generator).numpy().astype("uint8"), **PIXELS},
            )
            for i in range(12)
        ]
    else:
        task, r = get_task("text-classification" if "Sequence" in name else "text-generation"), rows()
        r = [
            Row(
                x.id,
                x.source,
                x.input_ids,
                [1.0] if task.labelled else x.weights[: len(x.input_ids)],
                x.label,
                x.fields,
            )
            for x in r
        ]
    halves = [r[:6], r[6:]]
    return Learning(
        list(models),
        discover(models[0]),
        lambda n: [task.collate(h, False) for h in halves[: 1 if n < 7 else 2]],
        task,
        base=base,
    )


PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "scale": 1 / 255}


def logits(model, learned):
    with torch.no_grad():
        return torch.cat([learned.forward(model, b).logits for b in learned.batches(12)])


def spread(model, seed=5):
    """Distinct biases and norms: freshly made ones are equal, and equal units have no order."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


def random_order(units, model, generator):
    """A random valid order for every key: what leaves the model's function as it is."""
    sizes = {k: p.shape[d] for n, p in model.named_parameters() for d, k in enumerate(units.axes.get(n, ())) if k}
    order = {k: torch.randperm(sizes[k], generator=generator) for k in sizes if k == STATES or k.endswith(".hidden")}
    for a in units.attention:
        each = a.heads // a.groups
        groups = torch.randperm(a.groups, generator=generator)
        heads = torch.cat([g * each + torch.randperm(each, generator=generator) for g in groups])
        value = torch.stack([torch.randperm(a.size, generator=generator) for _ in range(a.groups)])
        plain = torch.arange(a.size).expand(a.groups, -1)
        inner = (
            torch.stack([torch.randperm(a.size, generator=generator) for _ in range(a.groups)])
            if a.inner_free
            else plain
        )
        order.update(attention_order(a, heads, inner, value))
    return order


def twin(model, states, seed=3):
    """The same function with its units in a random order, and the order that brings it back."""
    units = find_units(model, discover(model), states)
    order = random_order(units, model, torch.Generator().manual_seed(seed))
    other = copy.deepcopy(model)
    for name, p in other.named_parameters():
        p.data = permuted(p.data, units.axes.get(name), order)
    return other, {k: o.argsort() for k, o in order.items()}


def put(model, tensors):
    """A copy of a model that holds these tensors."""
    made = copy.deepcopy(model)
    made.load_state_dict(tensors, strict=False)
    return made


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("make", [*CAUSAL, "vit", "bert_classifier"])
def test_a_reordered_twin_is_the_same_function_and_its_order_is_recovered_exactly(make, states):
    model = spread(getattr(tiny, make)())
    if make == "bert_classifier" and states:
        with pytest.raises(ModelError, match=r"bert\.pooler\.dense"):
            find_units(model, discover(model), True)
        return
    other, wanted = twin(model, states)
    learned = learning(model, other)
    assert torch.allclose(logits(model, learned), logits(other, learned), atol=2e-5)
    assert not all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    units = find_units(model, learned.structure, states)
    by_weights = match_weights(units, state_of(model), state_of(other))
    by_activations = match_activations(units, learned, 12, state_of(model), state_of(other))
    for found in (by_weights, by_activations):
        assert found.order.keys() == wanted.keys() and (STATES in wanted) == states
        assert [k for k in wanted if not torch.equal(found.order[k], wanted[k])] == []


@pytest.mark.parametrize("match", ["weights", "activations"])
@pytest.mark.parametrize("make", ["llama", "gpt2"])
def test_merging_with_a_reordered_twin_gives_the_model_bit_for_bit_and_refitting_to_rounding(make, match):
    model = spread(getattr(tiny, make)())
    other, _ = twin(model, True)
    plain, config = merge_in_memory(
        pleas.PLeaS(match=match, bases="different", refit=False), learning(model, copy.deepcopy(other))
    )
    assert not config and all(torch.equal(t, plain[n]) for n, t in state_of(model).items())
    learned = learning(model, copy.deepcopy(other))
    refitted, _ = merge_in_memory(pleas.PLeaS(match=match, bases="different"), learned)
    assert torch.allclose(logits(put(model, refitted), learned), logits(model, learned), atol=1e-4)


def wide(model, tensors, config):
    made_of = copy.deepcopy(model.config)
    for k, v in config.items():
        setattr(made_of, k, v)
    made = type(model)(made_of).eval()
    made.load_state_dict({n: t.clone() for n, t in tensors.items()}, strict=False)
    made.tie_weights()
    return made


@pytest.mark.parametrize("make", ["llama", "gpt2", "vit"])
def test_at_full_budget_every_mlp_is_the_mean_of_both_and_at_zero_it_is_the_plain_merge(make):
    a, b = spread(getattr(tiny, make)(0)), spread(getattr(tiny, make)(1), 6)
    tensors, config = merge_in_memory(pleas.PLeaS(budget=1.0, refit=False), learning(a, copy.deepcopy(b)))
    assert list(config.values()) == [2 * n for n in ([64] if make != "gpt2" else [128])]
    merged = wide(a, tensors, config)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    block = discover(a).blocks[1].name
    name = next(n for n, _ in a.get_submodule(block).named_children() if "mlp" in n)
    with torch.no_grad():
        one, two, both = (m.get_submodule(f"{block}.{name}")(x) for m in (a, b, merged))
    assert torch.allclose(both, (one + two) / 2, atol=1e-5)
    zero, _ = merge_in_memory(pleas.PLeaS(budget=0.0, refit=False), learning(a, copy.deepcopy(b)))
    units = find_units(a, discover(a), False)
    order = match_weights(units, state_of(a), state_of(b)).order
    for n, t in state_of(a).items():
        assert torch.equal(zero[n], (t + permuted(state_of(b)[n], units.axes.get(n), order)) / 2), n


@pytest.mark.parametrize(("factor", "dim"), [(1.0, 0), (0.5, 1)])
def test_shared_units_are_the_mean_of_both_and_those_kept_apart_stand_beside_them(factor, dim):
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 4, generator=g) for _ in range(2))
    got = pleas.arranged(a, b, dim, torch.tensor([False, True, False, True]), factor)
    first, second, out = (t if dim == 0 else t.T for t in (a, b, got))
    wanted = [*((first[i] + second[i]) / 2 for i in (0, 2)), *(factor * t[i] for t in (first, second) for i in (1, 3))]
    torch.testing.assert_close(out, torch.stack(wanted))


def test_half_a_budget_keeps_the_worst_matched_apart_and_runs():
    a, b = tiny.llama(0), tiny.llama(1)
    learned = learning(a, copy.deepcopy(b))
    tensors, config = merge_in_memory(pleas.PLeaS(budget=0.5), learned)
    assert config == {"intermediate_size": 96}
    assert torch.isfinite(logits(wide(a, tensors, config), learned)).all()
    apart = kept_apart(torch.tensor([3.0, 1.0, 2.0, 1.0]), 0.5)
    assert (
        apart.tolist() == [False, True, False, True]
        and not kept_apart(torch.ones(4), 0.0).any()
        and kept_apart(torch.ones(4), 1.0).all()
    )


def test_refitting_never_raises_a_layers_error_and_its_solution_satisfies_the_normal_equations():
    a, b = spread(tiny.llama(0)), spread(tiny.llama(1), 6)
    for budget in (0.0, 0.5):
        learned = learning(a, copy.deepcopy(b))
        found = pleas.PLeaS(budget=budget, ridge=0.1).learn(learned)
        assert len(found["errors"]) == 14
        assert all(after <= before + 1e-9 for before, after in found["errors"].values())
        assert sum(after < 0.9 * before for before, after in found["errors"].values()) > 7
    generator = torch.Generator().manual_seed(0)
    x, y, w0 = (torch.randn(n, m, generator=generator) for n, m in ((30, 6), (30, 4), (4, 6)))
    sums = Sums.of(6, 4)
    sums.add(x[:10], y[:10])
    sums.add(x[10:], y[10:])
    for ridge in (0.0, 0.5):
        w, strength = solve(sums, w0, ridge), ridge * float((x * x).mean(0).mean() * 30)
        assert torch.allclose(
            w @ (x.T @ x).double() + strength * w, (y.T @ x).double() + strength * w0.double(), atol=1e-4
        )
        assert sums.error(w) <= sums.error(w0)
        assert sums.error(w) == pytest.approx(float((x @ w.float().T - y).square().sum() / y.square().sum()), rel=1e-4)
    few = Sums.of(6, 4)
    few.add(x[:2], y[:2])
    assert few.error(solve(few, w0, 0.0)) < 1e-6  # fewer rows than inputs: fitted, the least change
    outside = torch.linalg.svd(x[:2])[2][2:]
    assert torch.allclose(solve(few, w0, 0.0) @ outside.T.double(), w0.double() @ outside.T.double(), atol=1e-4)


def test_assignments():
    p = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(assign(torch.eye(9)[p]), p)
    a = torch.randn(20, 9, generator=torch.Generator().manual_seed(2))
    near = closeness(a.T @ a[:, p], a.square().sum(0), a[:, p].square().sum(0))
    assert torch.equal(assign(near), p.argsort()) and torch.allclose(near, -torch.cdist(a.T, a[:, p].T), atol=1e-2)
    alike = torch.rand(6, 6, generator=torch.Generator().manual_seed(3))
    heads = assign_heads(alike, 3)
    assert sorted(heads.tolist()) == list(range(6)) and all(
        int(heads[2 * g]) // 2 == int(heads[2 * g + 1]) // 2 for g in range(3)
    )


def test_walking_block_by_block_gives_the_forwards_states():
    for make in (*CAUSAL, "bert_classifier", "vit"):
        model = getattr(tiny, make)()
        learned = learning(model, model)
        batches = list(learned.batches(12))
        steps = [
            (s.block.index, [t.clone() for t in s.states])
            for s in walk(model, learned.structure, learned.forward, batches)
        ]
        for i, batch in enumerate(batches):
            wanted = learned.task.forward(model, batch, hidden=True).hidden
            for index, states in steps:
                mask = real_tokens(batch)
                real = slice(None) if mask is None else mask
                assert torch.equal(states[i].flatten(0, -2)[real], wanted[index].flatten(0, -2)[real]), (make, index)


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ModelError, match=r"in the first model and \(320, 64\) in the second"):
        merge_in_memory(pleas.PLeaS(), learning(tiny.llama(), tiny.llama(hidden=64)))
    learned = learning(tiny.llama(0), tiny.llama(1))
    learned.batches = lambda n: []
    with pytest.raises(MethodError, match="calibration rows"):
        merge_in_memory(pleas.PLeaS(), learned)
