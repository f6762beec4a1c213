"""What merges promise as merges: equal models and single models come back, and order matters only where they say so."""

from __future__ import annotations

import itertools

import pytest
import torch

from tunewright.catalogue import load_method
from tunewright.weights.operator import Merge, merge_tensors

NAMES = (
    "linear",
    "slerp",
    "multi-slerp",
    "task-arithmetic",
    "ties",
    "dare-linear",
    "dare-ties",
    "della",
    "della-linear",
    "model-breadcrumbs",
    "breadcrumbs-ties",
    "model-stock",
    "model-soups",
    "passthrough",
    "nuslerp",
    "sce",
    "karcher",
    "arcee-fusion",
    "nearswap",
    "ram",
    "ramplus-tl",
)
WHOLE = {
    "ties": {"density": 1},
    "model-breadcrumbs": {"density": 1, "lambda": 1},
    "breadcrumbs-ties": {"density": 1},
    "nearswap": {"t": 10},
    "ram": {"epsilon": 0},
    "ramplus-tl": {"epsilon": 0, "r": 0},
} | {n: {"density": 1} for n in ("dare-linear", "dare-ties", "della", "della-linear")}
"""Parameters under which a merge drops nothing."""
SUMS = {"task-arithmetic", "dare-linear", "dare-ties", "della-linear", "model-breadcrumbs", "breadcrumbs-ties"}
"""Merges that add changes and do not average them."""
PARTS = {"arcee-fusion"}
"""Merges that take over a part of a model, whatever their parameters."""
UNITS = {"arcee-fusion", "nearswap", "ram", "ramplus-tl"}
"""Merges with a length, or a probability, of their own."""


def model(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "a.weight": scale * torch.randn(12, 8, generator=g),
        "a.bias": scale * torch.randn(12, generator=g),
        "scale": scale * torch.randn((), generator=g),
    }


def tuned(seed: int, by: float = 0.05) -> dict[str, torch.Tensor]:
    return {n: t + by * model(seed)[n] for n, t in model(0).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 2e-6) -> bool:
    return all(torch.allclose(a[n], b[n], rtol=tolerance, atol=tolerance) for n in b)


def count_of(cls: type[Merge], wanted: int) -> int:
    return min(wanted, getattr(cls, "models", (1, None))[1] or wanted)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PARTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_merged_with_itself_is_that_model(name, dtype):
    cls = load_method(name)
    n = count_of(cls, 3)
    one = {k: t.to(dtype) for k, t in tuned(1).items()}
    base = {k: t.to(dtype) for k, t in model(0).items()}
    method = cls(**WHOLE.get(name, {}), **({"weight": 1 / n} if name in SUMS else {}))
    merged = merge_tensors(method, base, [one] * n)
    assert all(t.dtype == dtype for t in merged.values())
    assert same(
        {k: t.float() for k, t in merged.items()},
        {k: t.float() for k, t in one.items()},
        2e-6 if dtype == torch.float32 else 0.0,
    )


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"slerp", "nuslerp", "model-stock"} | PARTS])
def test_one_model_of_weight_one_comes_back(name):
    merged = merge_tensors(load_method(name)(**WHOLE.get(name, {})), model(0), [tuned(1)])
    assert same(merged, tuned(1))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_models_matters_only_where_the_merge_says_so(name):
    cls = load_method(name)
    models = [tuned(1), tuned(2), tuned(3)][: count_of(cls, 3)]
    if len(models) == 1:
        pytest.skip("it takes one model")
    method = cls(**({"t": 0.3} if name == "slerp" else {}))
    first = merge_tensors(method, model(0), models)
    others = [merge_tensors(method, model(0), list(p)) for p in itertools.permutations(models)]
    if getattr(cls, "symmetric", True):
        assert all(same(o, first) for o in others)
    else:
        assert any(not same(o, first) for o in others)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in UNITS])
def test_a_merge_follows_a_common_factor(name):
    """Scaling base and models alike scales the result: nothing in a merge has a unit. (Tiny lengths excepted.)"""
    cls = load_method(name)
    models = [tuned(1), tuned(2)][: count_of(cls, 2)]
    small = merge_tensors(cls(), model(0), models)
    large = merge_tensors(
        cls(), {n: 4 * t for n, t in model(0).items()}, [{n: 4 * t for n, t in m.items()} for m in models]
    )
    assert same({n: t / 4 for n, t in large.items()}, small, 1e-5)
