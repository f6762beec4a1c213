"""PEFT's adapters beside plain LoRA, as deltas: how each type's tensors and settings become a form, and the way back.

A file's keys are "base_model.model.<module>.<part>", with or without ".weight" behind it; what all layers share is
"base_model.<part>". Which types there are, and why the others are not read: `peft_types.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.models.delta_forms import Delta
from tunewright.models.dora import WeightDecomposed
from tunewright.models.factor_products import Hadamard, Kronecker
from tunewright.models.peft_layer import COMMON, Kind, Layer, alike
from tunewright.models.peft_orthogonal import ORTHOGONAL
from tunewright.models.peft_read_only import READ_ONLY
from tunewright.models.peft_settings import FOLLOWED, check_names, check_values, config_of, scale_of
from tunewright.models.scales import InputScale, OutputScale
from tunewright.models.shared_projections import SharedProjections, projections


def _ranks(deltas: Mapping[str, Any]) -> dict[str, Any]:
    """r, alpha and their patterns, as LyCORIS's types have them."""
    ranks = {s: int(d.rank) for s, d in deltas.items()}
    alphas = {s: d.scale * d.rank for s, d in deltas.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": rank,
        "alpha": alpha,
        "rank_pattern": {s: r for s, r in ranks.items() if r != rank},
        "alpha_pattern": {s: a for s, a in alphas.items() if a != alpha},
        "init_weights": True,
    }


# -- DoRA --------------------------------------------------------------------------------------------------------------


def _read_dora(layer: Layer) -> WeightDecomposed:
    r = layer.setting("r", 8)
    A, B = layer.take("lora_A", r, layer.inputs), layer.take("lora_B", layer.outputs, r)
    m = layer.take("lora_magnitude_vector", layer.outputs)
    dropout = float(layer.config.get("lora_dropout") or 0.0)
    return WeightDecomposed(A, B, m, scale_of(layer.config, layer.name, r), dropout=dropout)


def _write_dora(d: WeightDecomposed) -> dict[str, Tensor]:
    return {"lora_A.weight": d.lora_A, "lora_B.weight": d.lora_B, "lora_magnitude_vector": d.magnitude}


def _check_dora(config: dict[str, Any], where: str) -> None:
    check_values(config, where)
    check_names(config, where)


def _config_dora(deltas: Mapping[str, Any]) -> dict[str, Any]:
    scales = {s: d.scale for s, d in deltas.items()}
    return {**config_of({s: d.rank for s, d in deltas.items()}, scales), "use_dora": True}


# -- IA3 ---------------------------------------------------------------------------------------------------------------


def _read_ia3(layer: Layer) -> InputScale | OutputScale:
    inner = _feed_forward(layer)
    other = (layer.outputs, 1) if inner else (1, layer.inputs)
    if tuple(layer.parts["ia3_l"].shape) == other != ((1, layer.inputs) if inner else (layer.outputs, 1)):
        raise ModelError(
            f"feedforward_modules {'names' if inner else 'leaves out'} '{layer.name}', whose factors are of its "
            f"{'outputs' if inner else 'inputs'}",
            where=layer.where,
            remedy="bring back the adapter_config.json that belongs to these weights",
        )
    if inner:
        return InputScale(layer.take("ia3_l", 1, layer.inputs).flatten() - 1.0)
    return OutputScale(layer.take("ia3_l", layer.outputs, 1).flatten() - 1.0)


def _feed_forward(layer: Layer) -> bool:
    named = layer.config.get("feedforward_modules") or ()
    if isinstance(named, str):
        return re.fullmatch(named, layer.name) is not None
    return any(layer.name.endswith(n) for n in named)


def _write_ia3(d: InputScale | OutputScale) -> dict[str, Tensor]:
    factors = 1.0 + d.values
    return {"ia3_l": factors[None] if isinstance(d, InputScale) else factors[:, None]}


def _config_ia3(deltas: Mapping[str, Any]) -> dict[str, Any]:
    inner = sorted(s for s, d in deltas.items() if isinstance(d, InputScale))
    return {"feedforward_modules": inner, "init_ia3_weights": True}


# -- VeRA --------------------------------------------------------------------------------------------------------------


def _read_vera(layer: Layer) -> SharedProjections:
    r, seed = layer.setting("r", 256), int(layer.config.get("projection_prng_key") or 0)
    b, d = layer.take("vera_lambda_b", layer.outputs), layer.take("vera_lambda_d", r)
    more: dict[str, Any] = {"seed": seed, "dropout": float(layer.config.get("vera_dropout") or 0.0)}
    if "vera_A" not in layer.shared or "vera_B" not in layer.shared:
        raise ModelError(
            "the file leaves out the random matrices, which other versions of torch may draw otherwise",
            where=layer.where,
            remedy="save it with save_projection: true",
        )
    A, B = layer.shared["vera_A"], layer.shared["vera_B"]
    if len(A) != r or B.shape[1] != r or A.shape[1] < layer.inputs or len(B) < layer.outputs:
        raise ModelError(
            f"'{layer.name}' does not fit: the shared A is {tuple(A.shape)} and B {tuple(B.shape)}, "
            f"where the rank is {r} and the layer {layer.outputs} x {layer.inputs}",
            where=layer.where,
            remedy="load the base that the adapter was made for",
        )
    widths = (A.shape[1], len(B))
    drawn = projections(seed, r, *widths)
    if torch.equal(drawn[0], A) and torch.equal(drawn[1], B):
        return SharedProjections(b, d, layer.inputs, widths=widths, **more)
    kept = (A[:, : layer.inputs].contiguous(), B[: layer.outputs].contiguous())
    return SharedProjections(b, d, layer.inputs, widths=widths, kept=kept, **more)


def _write_vera(d: SharedProjections) -> dict[str, Tensor]:
    return {"vera_lambda_b": d.vector_b, "vera_lambda_d": d.vector_d}


def _widest(deltas: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The shared A [r, most inputs] and B [most outputs, r]."""
    pairs = [d.matrices() for d in deltas.values()]
    return max((A for A, _ in pairs), key=lambda A: A.shape[1]), max((B for _, B in pairs), key=len)


def _shared_vera(deltas: Mapping[str, Any]) -> dict[str, Tensor]:
    A, B = _widest(deltas)
    return {"vera_A": A.contiguous(), "vera_B": B.contiguous()}


def _obstacle_vera(deltas: Mapping[str, Any]) -> str:
    if len({len(d.vector_d) for d in deltas.values()}) > 1:
        return "layers differ in rank, and PEFT has one for all"
    A, B = _widest(deltas)
    for d in deltas.values():
        a, b = d.matrices()
        if not torch.equal(a, A[:, : a.shape[1]]) or not torch.equal(b, B[: len(b)]):
            return "layers have random matrices of their own"
    return ""


def _config_vera(deltas: Mapping[str, Any]) -> dict[str, Any]:
    one = next(iter(deltas.values()))
    return {"r": len(one.vector_d), "projection_prng_key": one.seed, "save_projection": True, "vera_dropout": 0.0}


# -- LoHa, LoKr --------------------------------------------------------------------------------------------------------


def _read_loha(layer: Layer) -> Hadamard:
    r, out, inputs = layer.setting("r", 8), layer.outputs, layer.inputs
    a1, b1, a2, b2 = (
        layer.take(f"hada_w{i}_{side}", *((out, r) if side == "a" else (r, inputs))) for i in (1, 2) for side in "ab"
    )
    return Hadamard(a1, b1, a2, b2, layer.setting("alpha", 8) / r)


def _write_loha(d: Hadamard) -> dict[str, Tensor]:
    return {"hada_w1_a": d.a1, "hada_w1_b": d.b1, "hada_w2_a": d.a2, "hada_w2_b": d.b2}


def _read_lokr(layer: Layer) -> Kronecker:
    r = layer.setting("r", 8)
    made: list[Any] = []
    for part in ("lokr_w1", "lokr_w2"):
        if part in layer.parts:
            made.append(layer.take(part, *layer.parts[part].shape))
        else:
            a, b = (layer.parts.get(f"{part}_{x}", torch.zeros(0, 0)) for x in "ab")
            made.append((layer.take(f"{part}_a", len(a), r), layer.take(f"{part}_b", r, b.shape[1])))
    split = layer.config.get("decompose_factor")
    more = {
        "rank": r,
        "split": split if split and split > 0 else None,
        "both": bool(layer.config.get("decompose_both")),
    }
    delta = Kronecker(made[0], made[1], layer.setting("alpha", 8) / r, **more)
    sides = (delta.rows * delta.inner_rows, delta.columns * delta.inner_columns)
    if sides != (layer.outputs, layer.inputs):
        raise ModelError(
            f"'{layer.name}' does not fit: its product is {sides}, expected {(layer.outputs, layer.inputs)}",
            where=layer.where,
            remedy="load the base that the adapter was made for",
        )
    return delta


def _write_lokr(d: Kronecker) -> dict[str, Tensor]:
    names = {"C": "lokr_w1", "C_a": "lokr_w1_a", "C_b": "lokr_w1_b", "D": "lokr_w2"}
    names |= {"D_a": "lokr_w2_a", "D_b": "lokr_w2_b"}
    return {names[n]: p for n, p in d.named_parameters()}


def _config_lokr(deltas: Mapping[str, Any]) -> dict[str, Any]:
    one = next(iter(deltas.values()))
    return {**_ranks(deltas), "decompose_both": one.both, "decompose_factor": one.split or -1}


DORA = Kind(
    "LORA with use_dora", (WeightDecomposed,), ("lora_A", "lora_B", "lora_magnitude_vector"),
    FOLLOWED | {"use_dora"}, _read_dora, _write_dora, _config_dora, checked=_check_dora,
)  # fmt: skip
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("IA3", (InputScale, OutputScale), ("ia3_l",), COMMON | {"feedforward_modules", "init_ia3_weights"},
             _read_ia3, _write_ia3, _config_ia3),
        Kind("VERA", (SharedProjections,), ("vera_lambda_b", "vera_lambda_d"),
             COMMON | {"r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "init_weights"},
             _read_vera, _write_vera, _config_vera, ("vera_A", "vera_B"), _shared_vera, _obstacle_vera),
        Kind("LOHA", (Hadamard,), ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
             COMMON | set("r alpha rank_pattern alpha_pattern init_weights rank_dropout module_dropout "
                          "use_effective_conv2d".split()),
             _read_loha, _write_loha, _ranks, transposed=False),
        Kind("LOKR", (Kronecker,), ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
             COMMON | set("r alpha rank_pattern alpha_pattern init_weights rank_dropout rank_dropout_scale "
                          "module_dropout use_effective_conv2d decompose_both decompose_factor".split()),
             _read_lokr, _write_lokr, _config_lokr, obstacle=lambda d: alike(d, "both", "split"), transposed=False),
        *ORTHOGONAL,
        *READ_ONLY,
    )
}  # fmt: skip
"""Kinds by PEFT's name of the type. DoRA is a LORA with a setting, and stands apart."""


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """The kind of an adapter by its settings; None for plain LoRA."""
    if config.get("peft_type") == "LORA":
        return DORA if config.get("use_dora") else None
    return KINDS[str(config.get("peft_type"))]


def kind_of_forms(deltas: Mapping[str, Mapping[str, Delta]]) -> Kind | None:
    """The one kind whose forms all these deltas are; None where there is none."""
    each = {type(d) for by_name in deltas.values() for d in by_name.values()}
    return next((k for k in (DORA, *KINDS.values()) if each and each <= set(k.forms)), None)


def why_not(kind: Kind, deltas: Mapping[str, Mapping[str, Delta]], transposed: str = "") -> str:
    """Why deltas of a kind cannot be an adapter of it; "" where they can. `transposed`: a layer stored [in, out]."""
    for site, by_name in deltas.items():
        if len(by_name) > 1:
            return f"'{site}' has {len(by_name)} deltas, and an adapter of type {kind.name} one a layer"
        if any(d.strength != 1.0 or not d.active for d in by_name.values()):
            return f"the delta on '{site}' is dialled, and an adapter of type {kind.name} knows no strength"
    if transposed and not kind.transposed:
        return f"'{transposed}' is stored transposed, and PEFT has no {kind.name} there"
    return kind.obstacle({s: next(iter(by_name.values())) for s, by_name in deltas.items()})
