"""A finished task's low-rank change, read from a stage's or an adapter's folder without putting it onto a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.contract.change import Change
from tunewright.errors import CheckpointError, MethodError
from tunewright.files import checkpoint
from tunewright.models import delta_format, peft_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import same_bits
from tunewright.models.deltas import LowRank, form_class
from tunewright.models.peft_settings import CONFIG


def read_change(folder: Path, adapted: Adapted, name: str) -> Change:
    """The change that a finished stage or a PEFT LoRA adapter holds, with the head that it trained.

    MethodError where it is not low-rank alone; CheckpointError or ModelError for another base and for damaged files.
    """
    if (folder / delta_format.HOW).exists() and not (folder / checkpoint.MANIFEST).exists():
        raise _no_low_rank(name, "steps after its training changed it")
    if (folder / CONFIG).exists():
        return _adapter(folder, adapted, name)
    return _stage(folder, adapted, name)


def _no_low_rank(name: str, why: str) -> MethodError:
    return MethodError(
        f"'{name}' is no low-rank change of the base: {why}",
        where="upstream",
        remedy="train it by lora alone, from the base (start: base)",
    )


def _adapter(folder: Path, adapted: Adapted, name: str) -> Change:
    parts = peft_format.read_parts(folder, adapted.base_hash)
    own = adapted.base_parameters()
    # PEFT writes a classifier's head though it was not trained: one that is the base's own is no part of the change
    values = {n: t.float() for n, t in parts.values.items() if n in adapted.new or _other(t, own.get(n))}
    return Change(name, {n: (A.float(), B.float() * parts.scales[n]) for n, (A, B) in parts.pairs.items()}, values)


def _other(tensor: Tensor, own: Tensor | None) -> bool:
    return own is None or own.device.type != "meta" and not same_bits(tensor.to(own.dtype), own)


def _stage(folder: Path, adapted: Adapted, name: str) -> Change:
    saved = checkpoint.read(folder)
    if adapted.base_hash and saved.state["base_hash"] != adapted.base_hash:
        raise CheckpointError(
            f"'{name}' was trained on another base (weights {saved.state['base_hash'][:12]}, the model here has "
            f"{adapted.base_hash[:12]})",
            where=str(folder),
            remedy="use the model that its run names in its recipe.yaml",
        )
    for kind, what in (
        ("surgery", "it changed the model's shape"),
        ("wrapper", "it wraps the model"),
        ("quantised", "its base is in 4 bits"),
    ):
        if saved.state.get(kind):
            raise _no_low_rank(name, what)
    tensors = saved.tensors["trained"]
    heads = {s.name for s in adapted.structure.sites if s.role == "head"}
    values: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        sort, of = key.split(":", 1)
        if sort in ("value", "entries") and not (
            sort == "value" and (of in adapted.new or of.rpartition(".")[0] in heads)
        ):
            raise _no_low_rank(name, f"it trained '{of}' of the base itself")
        if sort == "value":
            values[of] = tensor.float()
    pairs = {site: _pair(site, told, tensors, adapted, name) for site, told in saved.state["deltas"].items()}
    if not pairs:
        raise _no_low_rank(name, "it holds no delta")
    return Change(name, pairs, values)


def _pair(
    site: str, told: Mapping[str, Any], tensors: Mapping[str, Tensor], adapted: Adapted, name: str
) -> tuple[Tensor, Tensor]:
    """(A, B) of all deltas of a site together, scales and strengths in B."""
    parts: list[tuple[Tensor, Tensor]] = []
    for n, d in told.items():
        form = form_class(d["form"])
        if not issubclass(form, LowRank):
            raise _no_low_rank(name, f"'{site}' has a {d['form']} delta")
        prefix = f"delta:{site}.delta.{n}."
        delta = form.rebuild(d["settings"], adapted.structure.site(site))
        delta.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        A, B = delta.pair()
        parts.append((A.detach().float(), B.detach().float() * delta.scale * d["strength"]))
    return torch.cat([A for A, _ in parts]), torch.cat([B for _, B in parts], dim=1)
