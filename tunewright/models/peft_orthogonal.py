"""PEFT's OFT and BOFT adapters as deltas, and the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.models.butterfly import Butterfly
from tunewright.models.peft_layer import COMMON, Kind, Layer, alike
from tunewright.models.rotation import Rotation, block_of

CAYLEY_SINCE = (0, 18)
"""PEFT's version from which the series of OFT means what it means here."""

# -- OFT ---------------------------------------------------------------------------------------------------------------


def _read_oft(layer: Layer) -> Rotation:
    series = layer.config.get("use_cayley_neumann", True)
    version = re.match(r"(\d+)\.(\d+)", str(layer.config.get("peft_version") or "0.0"))
    if series and (version is None or (int(version[1]), int(version[2])) < CAYLEY_SINCE):
        raise ModelError(
            "its series of Cayley's formula is that of a PEFT before 0.18, which was another one",
            where=layer.where,
            remedy="merge it with the PEFT that wrote it and load the merged model",
        )
    if layer.config.get("r"):
        b = layer.inputs // block_of(layer.inputs, int(layer.config["r"]))
    else:
        b = block_of(layer.inputs, int(layer.config.get("oft_block_size") or 32))
    blocks = 1 if layer.config.get("block_share") else layer.inputs // b
    terms = int(layer.config.get("num_cayley_neumann_terms") or 5) if series else None
    values = layer.take("oft_R", blocks, b * (b - 1) // 2)
    return Rotation(values, layer.inputs, block_size=b, terms=terms)


def _write_oft(d: Rotation) -> dict[str, Tensor]:
    return {"oft_R.weight": d.values}


def _wanted_block(deltas: Mapping[str, Any]) -> int:
    """The block size from which PEFT comes to every layer's own; 0 where there is none."""
    most = max(d.block_size for d in deltas.values())
    fits = (w for w in range(most, 0, -1) if all(block_of(d.inputs, w) == d.block_size for d in deltas.values()))
    return next(fits, 0)


def _obstacle_oft(deltas: Mapping[str, Any]) -> str:
    shared = {len(d.values) == 1 for d in deltas.values() if d.inputs != d.block_size}
    if not _wanted_block(deltas) or len(shared) > 1:
        return "no one block size gives every layer's own"
    return alike(deltas, "terms")


def _config_oft(deltas: Mapping[str, Any]) -> dict[str, Any]:
    one = next(iter(deltas.values()))
    shared = any(len(d.values) == 1 and d.inputs != d.block_size for d in deltas.values())
    series = {"use_cayley_neumann": one.terms is not None, "num_cayley_neumann_terms": one.terms or 5}
    blocks = {"r": 0, "oft_block_size": _wanted_block(deltas), "block_share": shared, "coft": False}
    return {**blocks, **series, "module_dropout": 0.0, "init_weights": True, "peft_version": "0.18.0"}


# -- BOFT --------------------------------------------------------------------------------------------------------------


def _read_boft(layer: Layer) -> Butterfly:
    t = layer.parts.get("boft_R", torch.zeros(0))
    m, b = (t.shape[0], t.shape[-1]) if t.dim() == 4 and len(t) and t.shape[-1] else (1, 4)
    said = {"boft_block_size": b, "boft_block_num": layer.inputs // b, "boft_n_butterfly_factor": m}
    for name, found in said.items():
        if (layer.config.get(name) or found) != found:  # 0: whatever follows from the other
            raise ModelError(
                f"the config says {name}: {layer.config[name]}, and the tensors of '{layer.name}' are of {found}",
                where=layer.where,
                remedy="bring back the adapter_config.json that belongs to these weights",
            )
    values = layer.take("boft_R", m, layer.inputs // b, b, b)
    return Butterfly(values, layer.take("boft_s", layer.outputs, 1).flatten() - 1.0)


def _write_boft(d: Butterfly) -> dict[str, Tensor]:
    return {"boft_R": d.values, "boft_s": (1.0 + d.scales)[:, None]}


def _obstacle_boft(deltas: Mapping[str, Any]) -> str:
    several = len({(len(d.values), d.values.shape[-1]) for d in deltas.values()}) > 1
    return "layers differ in blocks or factors, and PEFT has one for all" if several else ""


def _config_boft(deltas: Mapping[str, Any]) -> dict[str, Any]:
    m, _, b, _ = next(iter(deltas.values())).values.shape
    blocks = {"boft_block_size": b, "boft_block_num": 0, "boft_n_butterfly_factor": m}
    return {**blocks, "boft_dropout": 0.0, "init_weights": True}


ORTHOGONAL = (
    Kind("OFT", (Rotation,), ("oft_R",),
         COMMON | set("r oft_block_size block_share eps init_weights module_dropout use_cayley_neumann "
                      "num_cayley_neumann_terms".split()),
         _read_oft, _write_oft, _config_oft, obstacle=_obstacle_oft, transposed=False),
    Kind("BOFT", (Butterfly,), ("boft_R", "boft_s"),
         COMMON | set("boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout init_weights".split()),
         _read_boft, _write_boft, _config_boft, obstacle=_obstacle_boft, transposed=False),
)  # fmt: skip
