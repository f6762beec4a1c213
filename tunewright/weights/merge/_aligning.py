"""Two models' units brought into one order: matchings of a whole model from its weights, or from its activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tunewright.weights.blocks import Learning, real_tokens, walk, watching
from tunewright.weights.merge._matching import assign, assign_heads, closeness, head_similarity
from tunewright.weights.merge._units import STATES, Heads, Units, attention_order, permuted

Tensors = Mapping[str, Tensor]


@dataclass
class Matched:
    """`order`: key -> index of the second model's unit for each of the first's. `score`: hidden key -> similarity [n]
    of each unit with its match."""

    order: dict[str, Tensor] = field(default_factory=dict)
    score: dict[str, Tensor] = field(default_factory=dict)


def similarity(units: Units, key: str, a: Tensors, b: Tensors, order: Tensors, names: set[str] | None = None) -> Tensor:
    """[n, n] inner products of everything that belongs to a unit: the slices of all tensors along the axes of `key`.

    The second model's other axes are first put into the orders found so far. `names`: only these tensors.
    """
    others = {k: o for k, o in order.items() if k != key}
    total: Tensor | None = None
    for name, axes in units.axes.items():
        if key not in axes or (names is not None and name not in names):
            continue
        dim = axes.index(key)
        first = a[name].float().movedim(dim, 0).reshape(a[name].shape[dim], -1)
        second = permuted(b[name].float(), axes, others).movedim(dim, 0).reshape(len(first), -1)
        product = first @ second.T
        total = product if total is None else total + product
    assert total is not None
    return total


def match_weights(units: Units, a: Tensors, b: Tensors, sweeps: int = 100) -> Matched:
    """Match by weights. Blocks are independent of each other; with the stream's order open too, the stream begins from
    what has one fixed axis (embeddings, patches, head) and both are repeated until nothing changes, at most `sweeps`
    times.
    """
    matched = Matched()
    streaming = any(STATES in axes for axes in units.axes.values())
    if streaming:
        anchored = {n for n, axes in units.axes.items() if STATES in axes and all(k in (STATES, None) for k in axes)}
        matched.order[STATES] = assign(similarity(units, STATES, a, b, {}, anchored))
    for _ in range(sweeps if streaming else 1):
        before = dict(matched.order)
        _match_blocks(units, a, b, matched)
        if not streaming:
            break
        matched.order[STATES] = assign(similarity(units, STATES, a, b, matched.order))
        if all(k in before and torch.equal(before[k], o) for k, o in matched.order.items()):
            break
    return matched


def _match_blocks(units: Units, a: Tensors, b: Tensors, matched: Matched) -> None:
    for key in units.hidden:
        alike = similarity(units, key, a, b, matched.order)
        matched.order[key] = assign(alike)
        matched.score[key] = alike[torch.arange(len(alike)), matched.order[key]]
    for heads in units.attention:
        first, second = _parts(units, heads, a, {}), _parts(units, heads, b, matched.order)
        repeat = heads.heads // heads.groups
        whole = [
            {x: t.repeat_interleave(repeat, 0) if x in "kv" else t for x, t in p.items() if x in "qkvo"}
            for p in (first, second)
        ]
        alike = head_similarity(*[(whole[0][x], whole[1][x]) for x in "qkvo"])
        matched.order.update(_inside(heads, first, second, assign_heads(alike, heads.groups)))


def _parts(units: Units, heads: Heads, tensors: Tensors, order: Tensors) -> dict[str, Tensor]:
    """q [H, h, d], k, v [G, h, d], o [H, d, h], and biases qb [H, h], kb, vb [G, h] (zeros where there are none)."""
    by_part = {}
    n = heads.heads * heads.size
    starts = {"q": 0, "k": n, "v": 2 * n} if heads.fused else dict.fromkeys("qkv", 0)
    stream = {k: v for k, v in order.items() if k == STATES}
    for x in "qkv":
        name, count = heads.parts[x], heads.heads if x == "q" else heads.groups
        part = slice(starts[x], starts[x] + count * heads.size)
        weight = f"{name}.weight"
        aligned = permuted(tensors[weight], units.axes[weight], stream)
        by_part[x] = units.matrix({weight: aligned}, weight)[part].reshape(count, heads.size, -1)
        bias = tensors.get(f"{name}.bias")
        by_part[x + "b"] = (
            aligned.new_zeros(count, heads.size, dtype=torch.float32)
            if bias is None
            else bias.float()[part].reshape(count, heads.size)
        )
    weight = f"{heads.parts['o']}.weight"
    aligned = permuted(tensors[weight], units.axes[weight], stream)
    matrix = units.matrix({weight: aligned}, weight)
    by_part["o"] = matrix.reshape(len(matrix), heads.heads, heads.size).transpose(0, 1)
    return by_part


def _inside(
    heads: Heads, first: dict[str, Tensor], second: dict[str, Tensor], matching: Tensor, value: Tensor | None = None
) -> dict[str, Tensor]:
    """Orders by key, once heads are matched: dimensions inside groups from their weights, values from `value` if
    given.
    """
    each = heads.heads // heads.groups
    inner, values = [], []
    for g in range(heads.groups):
        mates = matching[g * each : (g + 1) * each]
        h = int(mates[0]) // each
        own = range(g * each, (g + 1) * each)
        alike = first["k"][g] @ second["k"][h].T + torch.outer(first["kb"][g], second["kb"][h])
        for i, j in zip(own, mates.tolist(), strict=True):
            alike = alike + first["q"][i] @ second["q"][j].T + torch.outer(first["qb"][i], second["qb"][j])
        inner.append(assign(alike) if heads.inner_free else torch.arange(heads.size))
        alike = first["v"][g] @ second["v"][h].T + torch.outer(first["vb"][g], second["vb"][h])
        for i, j in zip(own, mates.tolist(), strict=True):
            alike = alike + first["o"][i].T @ second["o"][j]
        values.append(assign(alike))
    return attention_order(heads, matching, torch.stack(inner), torch.stack(values) if value is None else value)


@dataclass
class _Pair:
    """Sums over rows of two models' activations at one place: A^T B, A^T A and B^T B."""

    cross: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor, old: _Pair | None) -> _Pair:
        new = (a.T @ b).double(), (a.T @ a).double(), (b.T @ b).double()
        return cls(*new) if old is None else cls(old.cross + new[0], old.first + new[1], old.second + new[2])

    @property
    def closeness(self) -> Tensor:
        return closeness(self.cross, self.first.diagonal(), self.second.diagonal())


def match_activations(units: Units, learning: Learning, samples: int, a: Tensors, b: Tensors) -> Matched:
    """Match by what units do on the same rows: -||a_i - b_j|| for hidden units, the stream and value dimensions, linear
    CKA for heads. Query-key dimensions inside heads go by weights. One block's sums at a time."""
    matched = Matched()
    batches = list(learning.batches(samples))
    masks = [real_tokens(x) for x in batches]
    structure, (one, two) = learning.structure, learning.models
    readers = {key: reader for key, (_, reader) in units.hidden.items()}
    streaming = any(STATES in axes for axes in units.axes.values())
    stream: _Pair | None = None
    pairs: list[tuple[Heads, _Pair]] = []
    for heads, left, right in zip(
        units.attention,
        walk(one, structure, learning.forward, batches),
        walk(two, structure, learning.forward, batches),
        strict=True,
    ):
        key = f"{left.block.name}.hidden"
        sites = [structure.site(readers[key]), structure.site(heads.parts["o"])]
        sums: dict[str, _Pair | None] = {s.name: None for s in sites}
        for i, mask in enumerate(masks):
            with watching(sites, one, mask) as seen_one, watching(sites, two, mask) as seen_two:
                left.only(i)
                right.only(i)
            for s in sites:
                sums[s.name] = _Pair.of(seen_one[s.name][0], seen_two[s.name][0], sums[s.name])
            if streaming:
                flat = [x.states[i].flatten(0, -2).float() for x in (left, right)]
                flat = [x if mask is None or len(mask) != len(x) else x[mask] for x in flat]
                stream = _Pair.of(flat[0], flat[1], stream)
        hidden, written = sums[readers[key]], sums[heads.parts["o"]]
        assert hidden is not None and written is not None
        alike = hidden.closeness
        matched.order[key] = assign(alike)
        matched.score[key] = alike[torch.arange(len(alike)), matched.order[key]]
        pairs.append((heads, written))
    if stream is not None:
        matched.order[STATES] = assign(stream.closeness)
    for heads, written in pairs:
        matched.order.update(_heads_by_activation(units, heads, written, a, b, matched.order))
    return matched


def _heads_by_activation(
    units: Units, heads: Heads, pair: _Pair, a: Tensors, b: Tensors, order: Tensors
) -> dict[str, Tensor]:
    shape = (heads.heads, heads.size, heads.heads, heads.size)
    cross, first, second = (t.reshape(shape).transpose(1, 2) for t in (pair.cross, pair.first, pair.second))
    h = torch.arange(heads.heads)
    own = [t[h, h].square().sum((1, 2)).sqrt() for t in (first, second)]
    cka = cross.square().sum((2, 3)) / (own[0][:, None] * own[1][None]).clamp_min(1e-60)
    matching = assign_heads(cka, heads.groups)
    each = heads.heads // heads.groups
    near = pair.closeness.reshape(shape).transpose(1, 2)

    def closeness(group: int) -> Tensor:
        total: Any = sum(near[i, int(matching[i])] for i in range(group * each, (group + 1) * each))
        summed: Tensor = total
        return summed

    value = torch.stack([assign(closeness(g)) for g in range(heads.groups)])
    return _inside(heads, _parts(units, heads, a, {}), _parts(units, heads, b, order), matching, value)
