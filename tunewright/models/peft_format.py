"""Changes in PEFT's adapter format, out and in: `adapter_config.json` and `adapter_model.safetensors`.

Low-rank ones are here, other types in `peft_kinds.py`, and why a type is not read in `peft_types.py`. Keys are
"base_model.model.<module>.lora_A.weight" [r, in] and "...lora_B.weight" [out, r]. A delta with a frozen offset, s (B A
- B0 A0), is written at rank 2r; several deltas on one module at the sum of their ranks. What other loaders see is the
plain s B A with s = alpha / r. A classifier's head is written whole, as "base_model.model.<name>": PEFT asks for it in
every adapter of a classifier, whether it trained or not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError, did_you_mean
from tunewright.files.tensors import save_tensors
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import same_bits
from tunewright.models.delta_names import is_delta
from tunewright.models.deltas import Delta, LowRank, LowRankConv, attach
from tunewright.models.peft_kinds import kind_of, kind_of_forms, why_not
from tunewright.models.peft_layer import Kind, Layer
from tunewright.models.peft_settings import CONFIG, by_pattern, config_of, open_config, read_config, scale_of, targeted
from tunewright.models.peft_tensors import WEIGHTS, read_tensors, stored_base
from tunewright.models.peft_types import refuse_type
from tunewright.models.sites import Site, Structure

__all__ = ["WEIGHTS", "stored_base"]
PREFIX = "base_model.model."
TASK_TYPES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
}
HEADS = ("classifier", "score")
"""Endings of the modules that PEFT keeps whole in an adapter of a classifier, named in its settings or not."""
CLASSIFIES = ("SEQ_CLS", "TOKEN_CLS")
RENAMED = ("gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj")
"""Endings that PEFT takes for parts of stacked experts, wherever they are, in a model that has some."""


@dataclass(frozen=True)
class Parts:
    """An adapter as read: pairs (A [r, in], B [out, r]) by module, their scales, and whole tensors by name. `kernels`:
    of modules that are convolutions, whose pairs are of the weight as a matrix [out, in x kernel].
    """

    config: Mapping[str, Any]
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    scales: Mapping[str, float]
    values: Mapping[str, Tensor]
    kernels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def obstacle(adapted: Adapted) -> str | None:
    """Why the model's change cannot be a PEFT adapter; None where it can."""
    if adapted.wrapper is not None:
        return "the change wraps the model's forward"
    if adapted.operated:
        return "the model's shape was changed, and an adapter fits the base's own"
    deltas, heads = adapted.deltas(), _heads(adapted)
    if not deltas:
        return None if _norms(adapted, heads) else "there is no low-rank delta"
    kind = kind_of_forms(deltas)
    if kind is not None:
        stored = (s for s in deltas if adapted.structure.site(s).kind == "conv1d")
        if why := why_not(kind, deltas, next(stored, "")):
            return why
    else:
        for site, by_name in deltas.items():
            if other := [d.form for d in by_name.values() if not isinstance(d, LowRank)]:
                return f"a {other[0]} delta on '{site}' has no place in it"
            if any(isinstance(d, LowRankConv) and d.grouped for d in by_name.values()):
                return f"'{site}' is a convolution with groups, whose change has other factors there"
    whole = {n for n, o in adapted.originals.items() if o.indices is None and _within(heads, n)}
    if rest := sorted(set(adapted.originals) - whole):
        return f"tensors of the base itself changed, such as '{rest[0]}'"
    return None


def save_adapter(adapted: Adapted, folder: Path | str, base_name: str) -> int:
    """Write the model's deltas, low-rank ones at their present strength, or its norms where they are all that changed,
    and a classifier's head; return the number of tensors written.

    `base_name`: the hub id or path that the base is loaded by. ModelError when the change is of no one type of PEFT's:
    then `delta_format.save_delta` is the way.
    """
    if (why := obstacle(adapted)) is not None:
        raise ModelError(
            f"this change cannot be a PEFT adapter: {why}",
            remedy="save it as delta.safetensors, or export the whole model",
        )
    sites, kind = list(adapted.deltas()), kind_of_forms(adapted.deltas())
    heads, task = _heads(adapted), _task_type(adapted)
    if task in CLASSIFIES and any(_within(heads, site) for site in sites):
        task = None  # PEFT would keep the head whole and leave out the low-rank change inside it
        heads = [h for h in heads if any(_within([h], n) for n in adapted.originals)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    norms = _norms(adapted, heads)
    if norms:
        tensors, config = _of_norms(adapted, norms)
    else:
        tensors, config = _low_rank(adapted) if kind is None else _of_kind(adapted, kind)
    for name, t in adapted.model.state_dict().items():
        if _within(heads, name) and not is_delta(name):
            tensors[f"{PREFIX}{name}"] = t.detach().clone()
    save_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt", "base_hash": adapted.base_hash})
    by_weight = [s for s in sites if kind is None and _renamed(adapted.structure, s)]
    config |= {
        "base_model_name_or_path": base_name,
        "modules_to_save": heads or None,
        "target_modules": norms or sorted(set(sites) - set(by_weight)),
        "task_type": task,
    }
    if not norms and (kind is None or kind.transposed):
        config["fan_in_fan_out"] = any(adapted.structure.site(s).kind == "conv1d" for s in sites)
    if by_weight:
        config["target_parameters"] = sorted(f"{s}.weight" for s in by_weight)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return len(tensors)


def _low_rank(adapted: Adapted) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of low-rank deltas."""
    parts = {site: combined(list(by_name.values())) for site, by_name in adapted.deltas().items()}
    tensors: dict[str, Tensor] = {}
    for site, (A, B, _) in parts.items():
        tensors |= stored_pair(site, A, B, kernel_of(adapted.structure.site(site)))
    scales = {s: scale for s, (_, _, scale) in parts.items()}
    return tensors, config_of({s: len(A) for s, (A, _, _) in parts.items()}, scales)


def kernel_of(site: Site) -> tuple[int, ...]:
    """Lengths of the axes of a convolution's kernel; none of another layer's."""
    return tuple(site.weight.shape[2:]) if site.kind == "conv" else ()


def stored_pair(name: str, A: Tensor, B: Tensor, kernel: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of a layer's pair: of a convolution A [r, in, kernel ...] and B [out, r, 1 ...]."""
    if kernel:
        A, B = A.unflatten(1, (-1, *kernel)), B.reshape(*B.shape, *(1,) * len(kernel))
    return {f"{PREFIX}{name}.lora_A.weight": A.contiguous(), f"{PREFIX}{name}.lora_B.weight": B.contiguous()}


def _of_kind(adapted: Adapted, kind: Kind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of deltas of another kind."""
    deltas = {site: next(iter(by_name.values())) for site, by_name in adapted.deltas().items()}
    tensors = {f"{PREFIX}{s}.{part}": t for s, d in deltas.items() for part, t in kind.write(d).items()}
    tensors |= {f"base_model.{n}": t for n, t in kind.write_shared(deltas).items()}
    named = {"peft_type": kind.name, "inference_mode": True}
    return {n: t.detach().contiguous() for n, t in tensors.items()}, {**named, **kind.config(deltas)}


def _norms(adapted: Adapted, heads: Sequence[str]) -> list[str]:
    """The norms whose own tensors are all that changed, beside whole heads; none where anything else did, or where a
    norm keeps statistics, which PEFT would take along.
    """
    if adapted.deltas():
        return []
    changed = [n for n in adapted.originals if not _within(heads, n)]
    modules = {n.rpartition(".")[0] for n in changed}
    kinds = {s.name: s.kind for s in adapted.structure.sites}
    fine = all(kinds.get(m) == "norm" and not list(adapted.model.get_submodule(m).buffers()) for m in modules)
    return sorted(modules) if fine and all(adapted.originals[n].indices is None for n in changed) else []


def _of_norms(adapted: Adapted, norms: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of norms that changed, each whole."""
    own = {m: adapted.model.get_submodule(m).state_dict() for m in norms}
    tensors = {f"{PREFIX}{m}.ln_tuning_layers.{n}": t for m, state in own.items() for n, t in state.items()}
    return {n: t.detach().clone() for n, t in tensors.items()}, {"peft_type": "LN_TUNING", "inference_mode": True}


def _task_type(adapted: Adapted) -> str | None:
    kind = type(adapted.model).__name__
    return next((t for end, t in TASK_TYPES.items() if kind.endswith(end)), None)


def _heads(adapted: Adapted) -> list[str]:
    """Modules that the adapter keeps whole: a classifier's head, as PEFT finds it, and layers drawn afresh."""
    modules = [n for n, _ in adapted.model.named_modules() if n and not is_delta(n + ".")]
    ends = HEADS if _task_type(adapted) in CLASSIFIES else ()
    named = [n for n in modules if n.endswith(ends)] if ends else []
    named += [n.rpartition(".")[0] for n in adapted.new]
    outer = sorted(set(named) - {""}, key=lambda n: n.count("."))
    return sorted(n for i, n in enumerate(outer) if not _within(outer[:i], n))


def _within(modules: Iterable[str], name: str) -> bool:
    """Whether a name is one of the modules' or lies inside one."""
    return any(name == m or name.startswith(m + ".") for m in modules)


def _renamed(structure: Structure, site: str) -> bool:
    """Whether PEFT would look for a site's change among the experts, unless its weight is named."""
    stacks = any(n.endswith("gate_up_proj") for n in structure.stacked)
    return stacks and site.rpartition(".")[2] in RENAMED


def combined(deltas: list[Any]) -> tuple[Tensor, Tensor, float]:
    """(A, B, scale) of all deltas of a module together."""
    pairs = [(*d.pair(), d.scale * d.strength * d.active) for d in deltas]
    if len(pairs) == 1 and pairs[0][2]:
        A, B, scale = pairs[0]
        return A.detach(), B.detach(), scale
    return torch.cat([A for A, _, _ in pairs]).detach(), torch.cat([B * s for _, B, s in pairs], dim=1).detach(), 1.0


def load_adapter(adapted: Adapted, folder: Path | str, name: str = "adapter") -> int:
    """Attach a PEFT adapter under `name`, strictly; return the number of tensors that layers and whole modules have.

    ModelError for a type that is not read, for another base (hash or shapes), and for missing or unknown keys.
    """
    deltas, values = adapter_deltas(adapted, folder)
    known = {s.name: s for s in adapted.structure.sites}
    changed = _changed_values(adapted, values, str(Path(folder) / WEIGHTS))
    for n, delta in deltas.items():
        attach(known[n], name, delta)
    with torch.no_grad():
        for n, t in changed.items():
            adapted.remember(n)
            adapted.base_parameters()[n].copy_(t)
    return sum(len(list(d.parameters())) for d in deltas.values()) + len(values)


def adapter_deltas(adapted: Adapted, folder: Path | str) -> tuple[dict[str, Delta], Mapping[str, Tensor]]:
    """(changes by site, whole tensors by name) of an adapter for this model, which is left as it is.

    Errors as in `load_adapter`.
    """
    folder = Path(folder)
    where, known = str(folder / WEIGHTS), {s.name: s for s in adapted.structure.sites}

    def size(name: str) -> tuple[int, int]:
        if name not in known:
            raise ModelError(
                f"this model has no layer '{name}'",
                where=where,
                remedy=f"load the base that the adapter was made for; {did_you_mean(name, known)}",
            )
        return known[name].in_features, known[name].out_features

    config, deltas, values = read_deltas(folder, size, adapted.base_hash)
    for name, delta in deltas.items():
        if known[name].kind == "conv" and isinstance(delta, LowRank):
            deltas[name] = _convolved(known[name], delta, where)
    if config.get("peft_type") == "LN_TUNING":
        norms = (s.weight_name for n, s in known.items() if s.kind == "norm" and targeted(config, n))
        _all_there([n for n in norms if n not in values], where)
    some = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    expected = set() if some else {n for n, s in known.items() if targeted(config, n) and not s.unfit}
    kinds = ("linear", "conv1d", "conv") if config.get("peft_type") == "LORA" else ("linear", "conv1d")
    _all_there([n for n in expected - set(deltas) if known[n].kind in kinds], where)
    return deltas, values


def _convolved(site: Site, delta: LowRank, where: str) -> LowRankConv:
    """A pair that was read for a convolution. ModelError for one with groups."""
    made = LowRankConv.on(site, delta)
    if made.grouped:
        raise ModelError(
            f"'{site.name}' is a convolution with groups, whose pair PEFT reads otherwise",
            where=where,
            remedy="merge this adapter with PEFT and load the merged model",
        )
    return made


def _all_there(missing: Sequence[str], where: str) -> None:
    """ModelError where targeted layers have no tensors."""
    if missing:
        raise ModelError(
            f"{len(missing)} targeted layers have no tensors here, such as '{min(missing)}'",
            where=where,
            remedy="the file is incomplete: save or download it again",
        )


def read_deltas(
    folder: Path, size: Callable[[str], tuple[int, int]], base_hash: str = ""
) -> tuple[Mapping[str, Any], dict[str, Delta], Mapping[str, Tensor]]:
    """(settings, changes by layer, whole tensors by name) of an adapter, where `size` gives a layer's inputs and
    outputs.

    ModelError for a type that is not read, and as in `read_parts`.
    """
    where, config = str(folder / WEIGHTS), open_config(folder)
    refuse_type(config.get("peft_type"), str(folder / CONFIG))
    kind = kind_of(config)
    if kind is None:
        parts = read_parts(folder, base_hash)
        return parts.config, {n: _delta(size(n), n, parts, where) for n in parts.pairs}, parts.values
    kind.check(config, str(folder / CONFIG))
    kept, tensors = _kept_modules(config), read_tensors(folder, base_hash)
    shared = {n: tensors.pop(f"base_model.{n}").float() for n in kind.shared if f"base_model.{n}" in tensors}
    found: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        place = kind.place(key)
        if (whole := kind.whole_name(key)) is not None:
            values[whole] = tensor
        elif place is not None:
            found.setdefault(place[0], {})[place[1]] = tensor.float()
        elif key.startswith(PREFIX) and _kept(kept, key.removeprefix(PREFIX)):
            values[key.removeprefix(PREFIX)] = tensor
        else:
            raise ModelError(
                f"the key '{key}' is no part of an adapter of type {kind.name}",
                where=where,
                remedy="merge this adapter with PEFT and load the merged model",
            )
    if not found and not values:
        raise ModelError("the file holds no tensor", where=where, remedy="save or download it again")
    layers = (Layer(n, *size(n), parts, config, shared, where) for n, parts in found.items())
    deltas = {layer.name: kind.read(layer) for layer in layers if kind.read is not None}
    return config, deltas, values


def _changed_values(adapted: Adapted, values: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Those whole tensors that are not the base's own. ModelError for one that the model does not have."""
    state, trained = adapted.model.state_dict(), adapted.base_parameters()
    for n, t in values.items():
        if n not in state or state[n].shape != t.shape:
            here = f"the model's is {tuple(state[n].shape)}" if n in state else "the model has none of this name"
            raise ModelError(
                f"'{n}' {tuple(t.shape)} does not fit: {here}",
                where=where,
                remedy="load the base that the adapter was made for, with as many labels",
            )
    changed = {n: t for n, t in values.items() if not same_bits(t.to(state[n].dtype), state[n])}
    if apart := sorted(n for n in changed if n not in trained):
        tied = adapted.structure.tied.get(apart[0])
        there = f"tied to {tied}" if tied else "no parameter"
        raise ModelError(
            f"the adapter's '{apart[0]}' is not the model's, where it is {there}",
            where=where,
            remedy="merge this adapter with PEFT and load the merged model",
        )
    return changed


def read_parts(folder: Path, base_hash: str = "") -> Parts:
    """An adapter's settings and tensors, checked against each other.

    ModelError for what is no plain LoRA, for an incomplete or damaged file and, where `base_hash` is given, for another
    base.
    """
    config, tensors = read_config(folder), read_tensors(folder, base_hash)
    where = str(folder / WEIGHTS)
    if stacked := [p for p in config.get("target_parameters") or () if not p.endswith(".weight")]:
        raise ModelError(
            f"it adapts experts that are stacked in one tensor ('{stacked[0]}'), which is not read here",
            where=str(folder / CONFIG),
            remedy="merge this adapter with PEFT and load the merged model",
        )
    kept = _kept_modules(config)
    found: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if match := re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight", key):
            found.setdefault(match[1], {})[match[2]] = tensor
        elif key.startswith(PREFIX) and _kept(kept, key.removeprefix(PREFIX)):
            values[key.removeprefix(PREFIX)] = tensor
        else:
            raise ModelError(
                f"the key '{key}' is no low-rank part of a linear layer",
                where=where,
                remedy="merge this adapter with PEFT and load the merged model",
            )
    pairs = {n: _pair(n, parts, by_pattern(config.get("rank_pattern") or {}, n, config["r"]), where)
             for n, parts in found.items()}  # fmt: skip
    kernels = {n: tuple(parts["A"].shape[2:]) for n, parts in found.items() if parts["A"].dim() > 2}
    return Parts(config, pairs, {n: scale_of(config, n, len(A)) for n, (A, _) in pairs.items()}, values, kernels)


def _kept_modules(config: Mapping[str, Any]) -> list[str]:
    """Endings of the modules that an adapter keeps whole."""
    return [*(config.get("modules_to_save") or ()), *(HEADS if config.get("task_type") in CLASSIFIES else ())]


def _kept(modules: list[str], name: str) -> bool:
    """Whether a tensor lies in a module that PEFT keeps whole: one whose name ends so."""
    path = name.split(".")
    return any(".".join(path[:k]).endswith(tuple(modules)) for k in range(1, len(path))) if modules else False


def _pair(name: str, parts: Mapping[str, Tensor], rank: int, where: str) -> tuple[Tensor, Tensor]:
    if set(parts) != {"A", "B"}:
        raise ModelError(
            f"'{name}' has lora_{'/'.join(sorted(parts))} alone",
            where=where,
            remedy="the file is incomplete: save or download it again",
        )
    A, B = parts["A"], parts["B"]
    if A.dim() == B.dim() > 2 and set(B.shape[2:]) == {1}:  # a convolution's, the second over a point
        A, B = A.flatten(1), B.flatten(1)
    if A.dim() != 2 or B.dim() != 2 or len(A) != rank or B.shape[1] != rank:
        raise ModelError(
            f"'{name}' does not fit: A {tuple(A.shape)}, B {tuple(B.shape)}, where {CONFIG} gives it the rank {rank}",
            where=where,
            remedy="load adapters of linear layers and convolutions, with the settings that they were saved with",
        )
    return A, B


def _delta(size: tuple[int, int], name: str, parts: Parts, where: str) -> LowRank:
    A, B = (t.float() for t in parts.pairs[name])
    rank = len(A)
    expected = (rank, size[0]), (size[1], rank)
    if (tuple(A.shape), tuple(B.shape)) != expected:
        raise ModelError(
            f"'{name}' does not fit: A {tuple(A.shape)}, B {tuple(B.shape)}, expected A {expected[0]}, B {expected[1]}",
            where=where,
            remedy="load the base that the adapter was made for",
        )
    return LowRank(A, B, parts.scales[name], dropout=float(parts.config.get("lora_dropout") or 0.0))
