"""Our merges beside mergekit's own (0.1.5, in an environment of its own), tensor by tensor, on tiny Llamas.

fp32 models are merged with dtype float32; bf16 ones with the sums in fp32 (dtype float32) and bf16 files. What stands
beside what:

- linear, slerp (one t, and t by layer and part), multislerp (with and without a base), task_arithmetic, ties,
  breadcrumbs,
  breadcrumbs_ties, model_stock (per tensor and filter_wise): every tensor.
- passthrough, nuslerp (flat, by rows, by columns, with and without a base), karcher, nearswap, ram, ramplus_tl: every
  tensor. sce and arcee_fusion: all but entries that lie on their threshold to rounding.
- dare_linear, dare_ties, della, della_linear: only where nothing is dropped (density 1), since random numbers differ,
  and its
  `rescale` keeps the sum of magnitudes where ours keeps the expectation.

Magnitudes that equal an end of what is kept (common in bf16) are all kept here and some are dropped there: such entries
are left out, and so is `rescale` in bf16, whose factor counts them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tunewright.catalogue import load_method
from tunewright.weights.merge.arcee_fusion import importance, threshold
from tunewright.weights.operator import merge_one

PEER = (
    Path(os.environ.get("TUNEWRIGHT_BENCH_MERGEKIT") or Path.home() / ".cache" / "tunewright" / "bench-peers-mergekit")
    / "bin"
    / "python"
)
pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        not PEER.exists(),
        reason="needs mergekit 0.1.5 in an environment of its own: TUNEWRIGHT_BENCH_MERGEKIT names it",
    ),
]

WORKER = """
import json, sys
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for job in json.load(open(sys.argv[1])):
    options = MergeOptions(copy_tokenizer=False, quiet=True, device="cpu", write_model_card=False)
    run_merge(MergeConfiguration.model_validate(job["config"]), job["out"], options)
"""


@dataclass(frozen=True)
class Case:
    """One merge: mergekit's method and ours, parameters of the merge and of each model (theirs; ours share the
    names).
    """

    theirs: str
    ours: str
    shared: dict[str, Any] = field(default_factory=dict)
    each: tuple[dict[str, float], ...] = ()
    base: bool = True
    count: int = 3

    def __str__(self) -> str:
        shown = {**self.shared, **(self.each[0] if self.each else {}), "models": self.count, "base": self.base}
        return " ".join([self.theirs, *(f"{n}={'by layer' if isinstance(v, list) else v}" for n, v in shown.items())])


WEIGHTS = ({"weight": 0.5}, {"weight": 0.25}, {"weight": 1.0})
T_BY_LAYER = [{"filter": "self_attn", "value": [0, 0.5, 0.3]}, {"filter": "mlp", "value": [1, 0.4]}, {"value": 0.5}]


def with_each(**parameters: float) -> tuple[dict[str, float], ...]:
    return tuple({**w, **parameters} for w in WEIGHTS)


CASES = [
    Case("linear", "linear", {}, WEIGHTS, base=False),
    Case("linear", "linear", {"normalize": False}, WEIGHTS, base=False),
    Case("slerp", "slerp", {"t": 0.3}, base=False, count=2),
    Case("slerp", "slerp", {"t": T_BY_LAYER}, base=False, count=2),
    Case("multislerp", "multi-slerp", {}, WEIGHTS, base=False),
    Case("multislerp", "multi-slerp", {}, WEIGHTS),
    Case("task_arithmetic", "task-arithmetic", {"lambda": 0.7}, WEIGHTS),
    Case("task_arithmetic", "task-arithmetic", {"normalize": True}, WEIGHTS),
    Case("ties", "ties", {"normalize": True}, with_each(density=0.3)),
    Case("ties", "ties", {"normalize": False, "lambda": 0.5}, with_each(density=1.0)),
    Case("ties", "ties", {"normalize": True, "rescale": True}, with_each(density=0.5)),
    Case("breadcrumbs", "model-breadcrumbs", {"lambda": 0.4}, with_each(density=0.6, gamma=0.05)),
    Case("breadcrumbs", "model-breadcrumbs", {"lambda": 1.0, "rescale": True}, with_each(density=0.9, gamma=0.3)),
    Case("breadcrumbs_ties", "breadcrumbs-ties", {}, with_each(density=0.6, gamma=0.05)),
    Case("passthrough", "passthrough", {}, ({"scale": 0.5},), base=False, count=1),
    Case("nuslerp", "nuslerp", {}, WEIGHTS, base=False, count=2),
    Case("nuslerp", "nuslerp", {"nuslerp_flatten": False}, WEIGHTS, count=2),
    Case("nuslerp", "nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, WEIGHTS, base=False, count=2),
    Case("sce", "sce"),
    Case("sce", "sce", {"select_topk": 0.3}),
    Case("karcher", "karcher", base=False),
    Case("karcher", "karcher", {"max_iter": 3, "tol": 1e-3}, base=False, count=2),
    Case("arcee_fusion", "arcee-fusion", count=1),
    Case("nearswap", "nearswap", {"t": 0.02}, count=1),
    Case("ram", "ram", {"epsilon": 0.03}),
    Case("ramplus_tl", "ramplus-tl", {"epsilon": 0.03, "r": 0.5, "alpha": 2.0}),
    Case("model_stock", "model-stock"),
    Case("model_stock", "model-stock", {"filter_wise": True}),
    *(
        Case(n, n.replace("_", "-"), {}, with_each(density=1.0))
        for n in ("dare_linear", "dare_ties", "della", "della_linear")
    ),
]


def t_of(name: str, layers: int) -> float:
    """mergekit's t for a tensor under T_BY_LAYER: lists run evenly over the layers and are interpolated."""
    values: list[float] = next(
        s["value"] if isinstance(s["value"], list) else [s["value"]] for s in T_BY_LAYER if s.get("filter", "") in name
    )  # type: ignore[misc]
    if len(values) == 1:
        return values[0]
    at = int(name.split(".")[2]) / (layers - 1) * (len(values) - 1)
    low = min(int(at), len(values) - 2)
    return values[low] + (at - low) * (values[low + 1] - values[low])


def moved(model: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: t + 0.05 * torch.randn(t.shape, generator=g) for n, t in sorted(model.items())}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def merged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]]:
    """(base and models as stored, mergekit's result of every case)."""
    folder, dtype = tmp_path_factory.mktemp(request.param), getattr(torch, request.param)
    paths, stored = [], []
    for i in range(4):
        model = tiny.llama(seed=0, layers=3)
        if i:
            model.load_state_dict(moved(model.state_dict(), i))
        paths.append(str(folder / f"m{i}"))
        model.to(dtype).save_pretrained(paths[-1])
        stored.append(load_file(Path(paths[-1]) / "model.safetensors"))
    jobs = [{"config": _config(c, paths, request.param), "out": str(folder / f"out{i}")} for i, c in enumerate(CASES)]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [PEER, "-c", WORKER, str(folder / "jobs.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    yield stored, [_tensors(Path(j["out"])) for j in jobs]  # type: ignore[arg-type]


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {n: t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


def _config(case: Case, paths: list[str], dtype: str) -> dict[str, Any]:
    models = [
        {"model": p, "parameters": dict(case.each[i])} if case.each else {"model": p}
        for i, p in enumerate(paths[1 : case.count + 1])
    ]
    base = {"base_model": paths[0]} if case.base else {"base_model": paths[1]} if case.theirs == "slerp" else {}
    return {
        "merge_method": case.theirs,
        "models": models,
        "parameters": case.shared,
        "dtype": "float32",
        "out_dtype": dtype,
        **base,
    }


@pytest.mark.parametrize("index", range(len(CASES)), ids=[str(c) for c in CASES])
def test_every_tensor_is_mergekits(merged: tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]], index: int) -> None:
    stored, results = merged
    case, theirs = CASES[index], results[index]
    base, models = stored[0], stored[1 : case.count + 1]
    if case.shared.get("rescale") and base["model.norm.weight"].dtype == torch.bfloat16:
        pytest.skip("its factor counts entries that lie on a threshold")
    assert theirs.keys() == base.keys()
    compared = left_out = 0
    for name, wanted in theirs.items():
        shared = {n: t_of(name, 3) if isinstance(v, list) else v for n, v in case.shared.items()}
        method = load_method(case.ours)(**shared)
        origin = base[name].float() if case.base else None
        tensors = [m[name].float() for m in models]
        got = merge_one(method, name, origin, tensors, each=case.each or None)
        decided = ~torch.stack(
            [_at_an_end(t - base[name].float(), own) for t, own in zip(tensors, case.each or ({},) * 3, strict=False)]
        ).any(0)
        decided &= ~_on_a_threshold(case, base[name].float(), tensors)
        compared, left_out = compared + int(decided.sum()), left_out + int((~decided).sum())
        step = 2 * torch.finfo(wanted.dtype).eps
        scale = float(wanted.float().abs().max())
        exact = torch.allclose(got[decided], wanted.float()[decided], rtol=step, atol=max(2e-6 * scale, 1e-7))
        assert exact, f"{name}: {float((got - wanted.float())[decided].abs().max())} apart"
        assert case.theirs == "slerp" or not torch.equal(wanted, models[0][name])
    assert left_out < 0.1 * compared


def _on_a_threshold(case: Case, base: Tensor, tensors: list[Tensor]) -> Tensor:
    """Entries whose score is a method's threshold to rounding."""
    if case.theirs == "arcee_fusion":
        scores = importance(tensors[0], base)
        return (scores - threshold(scores)).abs() <= 1e-3 * scores.abs().max()
    if "select_topk" in case.shared:
        variance = torch.stack([t - base for t in tensors]).var(0, unbiased=False)
        order = variance.flatten().sort(descending=True).values
        last = order[max(0, int(case.shared["select_topk"] * int((variance > 0).sum())) - 1)]
        return (variance - last).abs() <= 1e-5 * last
    return torch.zeros(base.shape, dtype=torch.bool)


def _at_an_end(change: Tensor, own: dict[str, float]) -> Tensor:
    """Entries whose magnitude equals another one at an end of what is kept: which of them stays is a matter of
    sorting.
    """
    density, n = own.get("density", 1.0), change.numel()
    undecided = torch.zeros(change.shape, dtype=torch.bool)
    if density >= 1:
        return undecided
    order = change.abs().flatten().sort(descending=True).values
    top = min(int(own.get("gamma", 0) * n), n - int(density * n))
    for place in (top + max(1, int(density * n)) - 1, top):
        same = change.abs() == order[place]
        undecided |= same if int(same.sum()) > 1 else torch.zeros_like(same)
    return undecided
