"""Compiled kernels, plain numpy and the methods' own functions give the same bits."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright import catalogue
from tunewright.weights import _plain, fast, parameters
from tunewright.weights.operator import merge_one

NAMES = tuple(n for n in fast.TABLE if n != "slerp")


def rows_of(seed: int, models: int, count: int, bf16: bool, ties: bool):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(count).astype(np.float32)
    rows = [base] + [
        base + (rng.standard_normal(count) * 0.1 * (rng.random(count) < 0.6)).astype(np.float32) for _ in range(models)
    ]
    if ties:
        rows = [np.round(r * 8) / 8 for r in rows]
    out = np.stack(rows).astype(np.float32)
    if not bf16:
        return out
    bits = np.empty(out.shape, np.uint16)
    for a, b in zip(out, bits, strict=True):
        _plain.store(a, b)
    return bits


def run(name, rows, own, each, out_kind, engine):
    with_base = fast.TABLE[name].fields.base == "needed"
    used = rows if with_base else rows[1:]
    out = np.empty(rows.shape[1], out_kind)
    fills = [lambda start, into, r=r: into.__setitem__(slice(None), r[start : start + len(into)]) for r in used]

    def put(start, part):
        out[start : start + len(part)] = part

    bad = fast.run(name, own, each, fast.Workspace(), fills, rows.shape[1], (rows.dtype, out_kind), put, engine)
    return out, bad


def by_class(name, rows, own, each):
    cls = catalogue.load_method(name)
    method = cls(**{k: v for k, v in own.items() if k not in fast.TABLE[name].fields.per_model})
    tensors = [torch.from_numpy(np.array(_plain.widen(r))) for r in rows]
    base = tensors[0] if fast.TABLE[name].fields.base == "needed" else None
    return merge_one(method, "t", base, tensors[1:], each=each).numpy()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 400),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1),
    st.floats(0, 0.3),
    st.data(),
)
def test_plain_numpy_and_the_method_agree_bit_for_bit(name, seed, models, count, bf16, ties, density, gamma, data):
    rows = rows_of(seed, models, count, bf16, ties)
    own = {**parameters.defaults(fast.TABLE[name].fields), "normalize": data.draw(st.booleans())}
    each = [{"weight": data.draw(st.floats(0.1, 2)), "density": density, "gamma": gamma} for _ in range(models)]
    each = [{k: e[k] for k in fast.TABLE[name].fields.per_model} for e in each]
    got, bad = run(name, rows, own, each, np.float32, _plain)
    assert bad == 0 and np.array_equal(got, by_class(name, rows, own, each))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(fast.TABLE)),
    st.sampled_from([(True, np.uint16), (False, np.float32), (True, np.float32), (False, np.uint16)]),
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 5000),
    st.booleans(),
)
def test_compiled_and_plain_agree_bit_for_bit(name, kinds, seed, models, count, ties):
    kernels = pytest.importorskip("tunewright.weights._kernels")
    models = 2 if name == "slerp" else models
    rows = rows_of(seed, models, count, kinds[0], ties)
    own = parameters.defaults(fast.TABLE[name].fields)
    each = [{k: own[k] for k in fast.TABLE[name].fields.per_model} for _ in range(models)]
    with patch.object(fast, "SMALL", 100):
        a, b = (run(name, rows, own, each, kinds[1], e) for e in (kernels, _plain))
    assert a[1] == b[1] == 0 and np.array_equal(a[0], b[0])


@pytest.mark.parametrize("density", [0.001, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("ties", [False, True])
def test_order_statistics_are_exact_however_they_are_found(density, ties, monkeypatch):
    rows = rows_of(3, 3, 6000, False, ties)
    each = [{"density": density, "gamma": 0.05}] * 3
    crumbs = fast.TABLE["model-breadcrumbs"]

    def bounds(small, sample, budget=2**25):
        for key, value in (("SMALL", small), ("SAMPLE", sample), ("BUDGET", budget)):
            monkeypatch.setattr(fast, key, value)
        fills = [lambda start, into, r=r: into.__setitem__(slice(None), r[start : start + len(into)]) for r in rows]
        return fast._bounds(crumbs, each, fast.Ranges(fast.Workspace(), fills, 6000, np.float32), _plain)

    sorted_ = np.sort(np.abs(rows[1] - rows[0])).view(np.uint32)
    kept, top = int(density * 6000), min(int(0.05 * 6000), 6000 - int(density * 6000))
    whole = bounds(10**6, 64)
    if kept < 6000:
        assert whole[0, 0] == sorted_[6000 - top - kept]
    assert np.array_equal(whole, bounds(10, 1000)) and np.array_equal(whole, bounds(10, 50, 4 * 4 * 4096))
    monkeypatch.setattr(fast, "_by_sample", lambda *a: False)
    assert np.array_equal(whole, bounds(10, 50))


def test_a_class_adds_nothing_to_what_its_kernel_is_planned_with():
    for name, row in fast.TABLE.items():
        cls = catalogue.load_method(name)
        assert issubclass(cls, row.fields), name
        for said in (parameters.defaults, parameters.mergekit_defaults, parameters.written):
            assert said(row.fields) == said(cls), name
        assert (row.fields.base, row.fields.models, row.fields.per_model) == (cls.base, cls.models, cls.per_model), name
        assert row.elects == getattr(cls, "election", False), name


def test_planning_a_merge_that_a_kernel_serves_imports_no_torch():
    code = (
        "import sys; from pathlib import Path; import tunewright.weights.command; "
        "from tunewright.weights.resolving import Operator; "
        "from tunewright.weights.request import Part, Request; "
        "own = [Part('a', {'density': 0.5}), Part('b', {'density': [0.1, 0.9]})]; "
        "op = Operator(Request('ties', own, Path('out'), parameters={'lambda': 0.5})); "
        "assert op.at('x', 0.5, op.parts)[1][1]['density'] == 0.5 and op.fast; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_slerp_is_the_methods_to_rounding():
    rows = rows_of(5, 2, 3000, False, False)
    rows[2] = np.random.default_rng(9).standard_normal(3000)
    got, _ = run("slerp", rows, {"t": 0.3}, [{}, {}], np.float32, _plain)
    assert np.allclose(got, by_class("slerp", rows, {"t": 0.3}, None), atol=1e-6)


def test_what_is_not_finite_is_counted():
    rows = rows_of(0, 2, 50, False, False)
    rows[1, 3], rows[2, 7] = np.nan, np.inf
    assert run("linear", rows, {"normalize": True}, [{"weight": 1.0}] * 2, np.uint16, _plain)[1] == 2
    large = np.full((2, 4), 3.4e38, np.float32)
    assert run("linear", large, {"normalize": True}, [{"weight": 1.0}], np.uint16, _plain)[1] == 4, "rounds to infinity"


def test_a_lean_merge_never_imports_scipy():
    """In a process of its own: the first kernel's call must not bring in what `import_lean` kept out."""
    code = (
        "import sys, numpy as np; from tunewright.weights import fast; fast.import_lean(); out = np.zeros(4, "
        "np.float32); "
        "fast.kernels().linear(np.ones((2, 4), np.float32), np.ones(2, np.float32), np.float32(2), out); "
        "assert out.tolist() == [1.0] * 4; assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
