"""PEFT adapters and our saved changes as changes of single tensors, put on a base while it is read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunewright.errors import ModelError, did_you_mean
from tunewright.loading.locate import own_base
from tunewright.models import delta_format, peft_format
from tunewright.models.delta_names import DeltaName
from tunewright.models.deltas import FORMS, Delta, LowRank
from tunewright.models.peft_settings import open_config
from tunewright.models.peft_types import refuse_type
from tunewright.weights.folding import layer_changes
from tunewright.weights.reading import run_of
from tunewright.weights.source import Change, Source, Tuned

ROWS = 64  # rows of a product formed at once, counted from the first row: the same bits whatever range is asked for
TRANSPOSED = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"}
"""Model types that have linears whose weights are stored [in, out] ..."""
TRANSPOSED_LAYERS = {"c_attn", "q_attn", "c_proj", "c_fc"}
"""... and the endings of those linears' names: a head of such a model is stored [out, in] as any other."""


Open = Callable[[str], Source]
"""Opens the model that a user or a file names."""


class _UnnamedError(ModelError):
    """What is changed has no tensor of its name in the base's files."""


def read_change(folder: Path, ref: str, base: str | None, opened: Open) -> Tuned:
    """An adapter or a saved change on `base`, or on the base that its run keeps or it names itself. ModelError for what
    is neither.
    """
    own = own_base(folder)
    base = base or (str(own) if own is not None else None)
    if (folder / "adapter_config.json").exists():
        config = open_config(folder)
        refuse_type(config.get("peft_type"), str(folder / "adapter_config.json"))
        under = _base(base or config.get("base_model_name_or_path"), folder, opened)
        under, changed = _on_names(folder, under)
        return Tuned(under, ref, folder, changed, lambda: _digest(folder / peft_format.WEIGHTS, under))
    if (folder / delta_format.HOW).exists():
        how, tensors = delta_format.read_delta(folder)
        under = _named(_base(base or how["base"]["name"], folder, opened), how)
        base_hash = how["base"]["hash"]
        if base_hash and base_hash != under.hash():
            raise ModelError(
                f"the change belongs to another base (weights {base_hash[:12]}, here {under.hash()[:12]})",
                where=str(folder),
                remedy=f"give its own base: '{own or how['base']['name']}'",
            )
        return Tuned(
            under,
            ref,
            folder,
            _saved(folder, how, tensors, under),
            lambda: _digest(folder / delta_format.WEIGHTS, under),
        )
    raise ModelError(
        "there is neither an adapter nor a saved change",
        where=str(folder),
        remedy="give a folder with adapter_config.json or delta.json",
    )


def _base(name: str | None, folder: Path, opened: Open) -> Source:
    if not name:
        raise ModelError(
            "this adapter does not say what its base is",
            where=str(folder),
            remedy="name it: --base FOLDER, or BASE+ADAPTER",
        )
    under = opened(name)
    if isinstance(under, Tuned):
        raise ModelError(
            "an adapter's base is a model, not another adapter",
            where=str(folder),
            remedy="give the model: --base FOLDER",
        )
    return under


def _named(base: Source, how: Mapping[str, Any]) -> Source:
    """The base under the names of a saved change: where its files have others, those that it has in memory."""
    wanted = [*how["shapes"], *(f"{site}.weight" for site in how["deltas"])]
    if all(n in base.entries or n.partition(".")[2] in base.entries for n in wanted):
        return base
    from tunewright.weights.naming import in_memory  # needs transformers

    return in_memory(base)


def _on_names(folder: Path, base: Source) -> tuple[Source, dict[str, Change]]:
    """An adapter's changes, and the base under the names that they have: where its files have others (of an older
    transformers, or of a model of parts), those that it has in memory.
    """
    try:
        return base, _adapter(folder, base)
    except _UnnamedError as unnamed:
        from tunewright.weights.naming import in_memory  # needs transformers

        try:
            renamed = in_memory(base)
            return renamed, _adapter(folder, renamed)
        except ModelError:
            raise unnamed from None


def _digest(file: Path, base: Source) -> str:
    with file.open("rb") as f:
        own = hashlib.file_digest(f, "sha256").hexdigest()
    return hashlib.sha256(f"{own} on {base.hash()}".encode()).hexdigest()


def low_rank(
    A: NDArray[np.float32], B: NDArray[np.float32], scale: float, shape: tuple[int, ...], transposed: bool
) -> Change:
    """Adds scale x B A (its transpose where the weight is stored [in, out]; a convolution's laid out as a matrix)."""
    if transposed:
        A, B = B.T.copy(), A.T.copy()
    if (len(B), A.shape[1]) != (shape[0], math.prod(shape[1:])):
        raise ModelError(
            f"a low-rank change of {(len(B), A.shape[1])} does not fit a weight of {tuple(shape)}",
            remedy="give the base that it was made for",
        )
    B, width = B * np.float32(scale), A.shape[1]

    def add(start: int, out: NDArray[np.float32]) -> None:
        stop = start + len(out)
        for top in range(start // width // ROWS * ROWS, -(-stop // width), ROWS):
            block = (B[top : top + ROWS] @ A).reshape(-1)
            first, last = max(start, top * width), min(stop, top * width + len(block))
            if last > first:
                out[first - start : last - start] += block[first - top * width : last - top * width]

    return add


def stored_transposed(config: Mapping[str, Any], site: str) -> bool:
    """Whether a linear layer's weight is stored [in, out], by the layer's kind and not by what an adapter says.

    `config`: the base's config.json. A square weight does not tell by its shape.
    """
    types = {config.get("model_type"), *(v.get("model_type") for v in config.values() if isinstance(v, Mapping))}
    return site.rpartition(".")[2] in TRANSPOSED_LAYERS and bool(types & TRANSPOSED)


def sparse(places: NDArray[np.int64], values: NDArray[np.float32], *, replace: bool = False) -> Change:
    """Adds values at flat places (sorted), or puts them there."""

    def change(start: int, out: NDArray[np.float32]) -> None:
        a, z = np.searchsorted(places, [start, start + len(out)])
        if replace:
            out[places[a:z] - start] = values[a:z]
        else:
            out[places[a:z] - start] += values[a:z]

    return change


def value(whole: Tensor) -> Change:
    """Puts a whole tensor in the place of the base's."""
    flat = whole.reshape(-1)

    def change(start: int, out: NDArray[np.float32]) -> None:
        out[:] = flat[start : start + len(out)].float().numpy()

    return change


def together(changes: list[Change]) -> Change:
    """One change after the other."""
    if len(changes) == 1:
        return changes[0]

    def change(start: int, out: NDArray[np.float32]) -> None:
        for c in changes:
            c(start, out)

    return change


def _weight(base: Source, site: str, folder: Path) -> str:
    """The stored name of a site's weight."""
    return _stored_name(base, f"{site}.weight", folder)


def _stored_name(base: Source, parameter: str, folder: Path) -> str:
    """The stored name of a parameter; checkpoints of a base model lack its prefix, or have one more."""
    for name in (parameter, parameter.partition(".")[2]):
        if name in base.entries:
            return name
    remedy = f"give the base that it was made for; {did_you_mean(parameter, base.entries)}"
    if (run := run_of(folder)) is not None:
        remedy = (
            "give the base that it was made for; where its run made it beside the base, as a head for a task, merge "
            f"models that are whole: `tunewright export {run}` writes one"
        )
    if base.config.get("tie_word_embeddings") and parameter.endswith(("lm_head.weight", "embed_out.weight")):
        # an output that is kept whole (modules_to_save) beside embeddings that the base shares with it
        raise ModelError(
            f"it holds '{parameter}' whole, and the base's output is its embeddings, tied",
            where=str(folder),
            remedy="merge it with PEFT, which parts the two, and load the merged model",
        )
    raise _UnnamedError(f"the base has no tensor '{parameter}'", where=str(folder), remedy=remedy)


def _bias(base: Source, site: str) -> str | None:
    """The stored name of a layer's bias; None where it has none."""
    return next((n for n in (f"{site}.bias", f"{site}.bias".partition(".")[2]) if n in base.entries), None)


def _array(t: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = t.detach().float().numpy()
    return values


def _adapter(folder: Path, base: Source) -> dict[str, Change]:
    def size(site: str) -> tuple[int, int]:
        shape = base.entries[_weight(base, site, folder)].shape
        if len(shape) > 2:  # a convolution's, as a matrix
            return math.prod(shape[1:]), shape[0]
        out, inputs = shape[::-1] if stored_transposed(base.config, site) else shape
        return inputs, out

    _, deltas, values = peft_format.read_deltas(folder, size)
    _same_base(folder, base)
    changes: dict[str, Change] = {}
    for site, delta in deltas.items():
        name, transposed = _weight(base, site, folder), stored_transposed(base.config, site)
        if isinstance(delta, LowRank):
            A, B = delta.pair()
            changes[name] = low_rank(_array(A), _array(B), delta.scale, base.entries[name].shape, transposed)
        else:
            changes |= layer_changes(base, name, _bias(base, site), [delta], transposed)
    for name, whole in values.items():
        stored = _stored_name(base, name, folder)
        if base.entries[stored].shape != tuple(whole.shape):
            raise ModelError(
                f"the adapter's '{name}' is {tuple(whole.shape)}, the base's {base.entries[stored].shape}",
                where=str(folder),
                remedy="give the base that it was made for",
            )
        changes[stored] = value(whole)
    return changes


def _same_base(folder: Path, base: Source) -> None:
    base_hash = peft_format.stored_base(folder)
    if base_hash and base_hash != base.hash():
        raise ModelError(
            f"the adapter belongs to another base (weights {base_hash[:12]}, here {base.hash()[:12]})",
            where=str(folder),
            remedy="give the base that adapter_config.json names",
        )


def _saved(folder: Path, how: Mapping[str, Any], tensors: Mapping[str, Tensor], base: Source) -> dict[str, Change]:
    changes: dict[str, list[Change]] = {}
    for name, shape in how["shapes"].items():
        if name not in base.entries or list(base.entries[name].shape) != shape:
            raise ModelError(
                f"the base has no tensor '{name}' of {tuple(shape)}",
                where=str(folder),
                remedy=f"give its own base; {did_you_mean(name, base.entries)}; where its run made it beside the base, "
                "merge models that are whole: `tunewright export RUN` writes one",
            )
        whole = tensors.get(f"value:{name}")
        if whole is not None:
            changes[name] = [value(whole)]
        else:
            changes[name] = [
                sparse(tensors[f"places:{name}"].numpy(), _array(tensors[f"entries:{name}"]), replace=True)
            ]
    for site, by_name in how["deltas"].items():
        stored, transposed = _weight(base, site, folder), stored_transposed(base.config, site)
        if not all(_adds(d["form"], transposed) for d in by_name.values()):
            deltas = [_rebuilt(n, d, site, tensors, base.entries[stored].shape, transposed) for n, d in by_name.items()]
            _check_folds(deltas, folder)
            first = together(changes.pop(stored)) if stored in changes else None
            made = layer_changes(base, stored, _bias(base, site), deltas, transposed, first)
            for name, change in made.items():
                changes.setdefault(name, []).append(change)
            continue
        for n, d in by_name.items():
            part = {k: tensors[key] for k in _PARTS if (key := f"delta:{DeltaName(site, n, k)}") in tensors}
            changes.setdefault(stored, []).append(_of_form(d, part, base.entries[stored].shape, transposed))
    return {n: together(c) for n, c in changes.items()}


@dataclass(frozen=True)
class _Sides:
    """What a form is rebuilt for, of a layer that is read from files: its `weight` has its shape alone, as a module
    would hold it.
    """

    name: str
    weight: Tensor

    @property
    def kind(self) -> str:
        return "conv" if self.weight.dim() > 2 else "linear"

    def matrix(self) -> Tensor:
        return self.weight.flatten(1)

    @property
    def in_features(self) -> int:
        return self.matrix().shape[1]

    @property
    def out_features(self) -> int:
        return len(self.weight)


def _adds(form: str, transposed: bool) -> bool:
    """Whether a form's change is added to a tensor range by range."""
    if form == "sparse":
        return not transposed
    return form in ("low-rank", "low-rank-conv", "gated-low-rank", "low-rank-fixed-a")


def _rebuilt(
    name: str, told: Mapping[str, Any], site: str, tensors: Mapping[str, Tensor], shape: tuple[int, ...], turned: bool
) -> Delta:
    """A delta of a built-in form from its saved settings and tensors."""
    form: Any = FORMS.get(told["form"], Delta)
    if form is Delta:
        return form()  # type: ignore[no-any-return]
    sides = _Sides(site, torch.empty(shape[::-1] if turned else shape, device="meta"))
    delta: Delta = form.rebuild(told["settings"], sides)
    prefix = f"delta:{DeltaName(site, name, '')}"
    delta.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    delta.strength = float(told["strength"])
    return delta


def _check_folds(deltas: list[Delta], folder: Path) -> None:
    if other := [getattr(d, "form", "of another package") for d in deltas if not d.foldable or type(d) is Delta]:
        raise ModelError(
            f"a change of the form '{other[0]}' cannot be put on a tensor here",
            where=str(folder),
            remedy="write its model: tunewright export RUN",
        )


_PARTS = ("lora_A", "lora_B", "offset_A", "offset_B", "gate", "indices", "values")


def _of_form(d: Mapping[str, Any], part: Mapping[str, Tensor], shape: tuple[int, ...], transposed: bool) -> Change:
    strength = float(d["strength"])
    if d["form"] != "sparse":
        A, B = _array(part["lora_A"]), _array(part["lora_B"])
        if "gate" in part:
            B = B * _array(part["gate"])
        if "offset_A" in part:
            A, B = np.concatenate([A, _array(part["offset_A"])]), np.concatenate([B, -_array(part["offset_B"])], axis=1)
        return low_rank(A, B, d["settings"]["scale"] * strength, shape, transposed)
    return sparse(part["indices"].numpy(), _array(part["values"]) * np.float32(strength))
