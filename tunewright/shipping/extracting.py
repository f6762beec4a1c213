"""The verb `extract-lora`: the difference of two models as a LoRA adapter in PEFT's format.

Every changed linear layer's difference B - A is cut to its `rank` largest singular values, which no other matrix of
that rank approximates better in the Frobenius norm (Eckart and Young 1936). One layer of each model is in memory at a
time. What an adapter cannot say (embeddings, norms, biases, a grown vocabulary) is named, with how much it changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError, RecipeError
from tunewright.files.cache import written_aside
from tunewright.files.tensors import save_tensors
from tunewright.loading.quiet import quiet
from tunewright.models.peft_format import PREFIX, TASK_TYPES, WEIGHTS
from tunewright.models.peft_settings import CONFIG, config_of
from tunewright.models.sites import Site, discover
from tunewright.shipping.comparing import Compared, compare, fits_in_memory, logits_of, model_of, reads_tokens
from tunewright.weights.naming import in_memory, skeleton
from tunewright.weights.opening import open_source
from tunewright.weights.source import Source

WHOLE = 1024
"""Matrices whose shorter side is at most this are decomposed whole; larger ones by subspace iteration."""
ITERATIONS, MORE = 6, 16
"""Of the subspace iteration (Halko, Martinsson and Tropp 2011): power steps, and directions beside the rank."""


@dataclass
class Layer:
    """One layer of the adapter: the change's norm over the weight's (None where the weight was zero), and the part of
    the change that the adapter misses (0: none of it, 1: all of it), both as ratios of Frobenius norms, after rounding
    to the stored type.
    """

    name: str
    rank: int
    changed: float | None
    missed: float


@dataclass
class LeftOut:
    """A tensor that differs and that the adapter does not say; `changed` as in `Layer` (None for another shape)."""

    name: str
    why: str
    changed: float | None


@dataclass
class Extracted:
    """The adapter: its layers, what it leaves out, the part of the whole change that it misses, and logits: of B
    against A (`apart`) and of B against A with the adapter (`missing`)."""

    folder: Path
    rank: int
    layers: list[Layer]
    left_out: list[LeftOut]
    equal: int
    missed: float
    apart: Compared | None = None
    missing: Compared | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def extract(first: str, second: str, out: Path, *, rank: int, dtype: str = "float32") -> Extracted:
    """Write `second` minus `first` to `out` as a LoRA of `rank`, and compare logits.

    Both: folders, hub ids, built-ins, adapters or runs, of one architecture. `dtype` of the factors: float32, bfloat16
    or float16. ModelError for models that are equal, or of two architectures; RecipeError for values that are none.
    """
    if rank < 1:
        raise RecipeError(f"{rank} is no rank", where="--rank", remedy="write 1 or more")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise RecipeError(f"no factors are stored as '{dtype}'", where="--dtype", remedy="float32, bfloat16 or float16")
    a, b = open_source(first), open_source(second, None)
    if a.config.get("architectures") != b.config.get("architectures"):
        raise ModelError(
            f"the models are a {a.config.get('architectures')} and a {b.config.get('architectures')}",
            where=f"{first} and {second}",
            remedy="give two models of one architecture",
        )
    found = Extracted(out, rank, [], [], 0, 0.0)
    with written_aside(out) as aside:
        tensors, sites = _factors(in_memory(a), in_memory(b), found, getattr(torch, dtype))
        _write(aside, tensors, sites, a, found)
    _compare(a, b, found)
    for source in (a, b):
        source.close()
    return found


def _factors(a: Source, b: Source, found: Extracted, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """A and B of every changed linear layer, and the layers; the rest goes into `found`."""
    with quiet():
        structure = discover(skeleton(a))
    sites = {s.weight_name: s for s in structure.sites if s.kind in ("linear", "conv1d") and not s.unfit}
    tensors: dict[str, Tensor] = {}
    used: dict[str, Site] = {}
    lost = total = 0.0
    for name, before, after in _pairs(a, b, found):
        change, size = after - before, float(before.norm())
        if not (moved := float(change.norm())):
            found.equal += 1
            continue
        total += moved**2
        share = moved / size if size else None
        site = sites.get(name)
        if site is None or name in structure.tied.values():
            found.left_out.append(LeftOut(name, _why(name, before, structure.tied), share))
            lost += moved**2
            continue
        matrix = change.t() if site.kind == "conv1d" else change
        A, B = (t.to(dtype) for t in low_rank(matrix, found.rank))
        rest = float((matrix - B.float() @ A.float()).norm())
        tensors[f"{PREFIX}{site.name}.lora_A.weight"], tensors[f"{PREFIX}{site.name}.lora_B.weight"] = A, B
        used[site.name] = site
        found.layers.append(Layer(site.name, len(A), share, rest / moved))
        lost += rest**2
    if not found.layers:
        first = found.left_out[0] if found.left_out else None
        more = f": '{first.name}' and {len(found.left_out) - 1} others do ({first.why})" if first is not None else ""
        raise ModelError(
            f"no linear layer of the two models differs in its values{more}",
            where=str(found.folder),
            remedy="give a model and a fine-tuning of it",
        )
    found.missed = (lost / total) ** 0.5 if total else 0.0
    return tensors, used


def _pairs(a: Source, b: Source, found: Extracted) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The tensors that both models have in one shape, in float32, one pair at a time."""
    for name, entry in a.entries.items():
        other = b.entries.get(name)
        if other is None:
            found.left_out.append(LeftOut(name, "the second model has no such tensor", None))
        elif other.shape != entry.shape:
            why = f"its shape is {entry.shape} in the first model and {other.shape} in the second"
            found.left_out.append(LeftOut(name, why, None))
        elif entry.floats:
            yield name, torch.from_numpy(a.whole(name)), torch.from_numpy(b.whole(name))
    for name in b.entries:
        if name in a.entries:
            continue
        found.left_out.append(LeftOut(name, "the first model has no such tensor", None))


def _why(name: str, tensor: Tensor, tied: dict[str, str]) -> str:
    if name in tied or name in tied.values():
        return "a head that is tied to the embeddings: a low-rank change would untie them"
    if tensor.dim() < 2:
        return "a vector (norm or bias), and an adapter has matrices alone"
    return "embeddings, or no linear layer"


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(A [r, in], B [out, r]) with B A the closest matrix [out, in] of that rank, its weight shared evenly."""
    short = min(matrix.shape)
    if short <= WHOLE or rank + MORE >= short:
        U, S, V = torch.linalg.svd(matrix, full_matrices=False)
        Vt = V
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            U, S, right = torch.svd_lowrank(matrix, q=rank + MORE, niter=ITERATIONS)
        Vt = right.t()
    keep = min(rank, int((S > S[0] * 1e-7).sum()))
    root = S[:keep].sqrt()
    return (root[:, None] * Vt[:keep]).contiguous(), (U[:, :keep] * root).contiguous()


def _write(folder: Path, tensors: dict[str, Tensor], sites: dict[str, Site], a: Source, found: Extracted) -> None:
    base = a.ref if a.origin.startswith("hub ") else str(a.folder.resolve())
    save_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt", "base_hash": a.hash()})
    kind = str((a.config.get("architectures") or [""])[0])
    config = config_of({x.name: x.rank for x in found.layers}, {x.name: 1.0 for x in found.layers}) | {
        "base_model_name_or_path": base,
        "fan_in_fan_out": any(s.kind == "conv1d" for s in sites.values()),
        "task_type": next((t for end, t in TASK_TYPES.items() if kind.endswith(end)), None),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _compare(a: Source, b: Source, found: Extracted) -> None:
    """Logits of B against A, and against A with the adapter, as this package reads it again; one model at a time."""
    if (why := fits_in_memory(getattr(a, "base", a).folder)) is not None:
        found.notes.append(why)
        return
    try:
        model = model_of(b)
        wanted, numbers = logits_of(model), not reads_tokens(model)
        begun = logits_of(model_of(a))
        if wanted.shape != begun.shape:
            found.notes.append("logits were not compared: the vocabularies differ in size")
            return
        with_adapter = _on(a, found.folder)
    except ModelError as error:
        found.notes.append(f"logits were not compared: {error}")
        return
    found.apart = compare(wanted, begun, numbers=numbers)
    found.missing = compare(wanted, with_adapter, numbers=numbers)


def _on(a: Source, adapter: Path) -> Tensor:
    """Logits of A with the adapter's layers beside its own."""
    from tunewright.models import peft_format
    from tunewright.models.adapted import Adapted

    adapted = Adapted(model_of(a), None, base_hash=a.hash())
    peft_format.load_adapter(adapted, adapter)
    return logits_of(adapted.model)


def _percent(share: float | None) -> str:
    return f"{'all' if share is None else format(100 * share, '.3g'):>8}"


def page(found: Extracted) -> str:
    """The result as text: a line for each layer, the largest miss first."""
    most = sorted(found.layers, key=lambda x: -x.missed)
    width = max(len(x.name) for x in most)
    rank = min(found.rank, max(x.rank for x in most))
    lines = [
        f"{found.folder} is written: a LoRA of rank {rank} on {len(most)} layers, in PEFT's format",
        f"it misses {100 * found.missed:.3g} % of the change (by norm), what it leaves out included",
        "",
        f"{'layer':<{width}}  rank  changed by  missed",
        *(f"{x.name:<{width}}  {x.rank:>4}  {_percent(x.changed)} %  {100 * x.missed:>5.3g} %" for x in most),
    ]
    if found.left_out:
        lines += ["", "not in the adapter:"]
        for one in found.left_out:
            by = "" if one.changed is None else f", changed by {100 * one.changed:.3g} %"
            lines.append(f"  {one.name}{by}: {one.why}")
    if found.apart is not None and found.missing is not None:
        lines += ["", f"the first model against the second: {found.apart}"]
        lines += [f"the first with the adapter against the second: {found.missing}"]
    return "\n".join([*lines, *(f"note: {n}" for n in found.notes)])
