"""Any trained change as two files: `delta.safetensors` and `delta.json`, which says how to apply it.

Tensors of the base that trained whole are written as they are now ("value:<name>"), those of which some entries trained
as flat places and the values there ("places:<name>", "entries:<name>"), so that applying gives the tuned weights bit
for bit; deltas on sites as their parts ("delta:<site>.delta.<name>.<part>") with their settings in the JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tunewright.errors import MethodError, ModelError, did_you_mean
from tunewright.files.regular import regular
from tunewright.files.tensors import save_tensors
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.delta_names import DeltaName, is_delta
from tunewright.models.shards import is_divided, own
from tunewright.models.surgeries import replayed

HOW, WEIGHTS, FORMAT, VERSION = "delta.json", "delta.safetensors", "tunewright-delta", 1
APPLY = (
    "value:<name> replaces the base's tensor <name>. entries:<name> [k] replace its flat entries at places:<name> [k]. "
    "delta:<site>.delta.<name>.<part> are parts of the change of <site>.weight listed under deltas: low-rank is "
    "scale x strength x (lora_B lora_A - offset_B offset_A), sparse puts values at indices of the [out, in] weight, "
    "low-rank-sparse is scale x lora_B lora_A with value_scale x values put at flat indices, "
    "scale-shift makes scale y + shift of the layer's output y, "
    "bias adds values to the layer's bias, output-scale and input-scale multiply its outputs or inputs by 1 + values, "
    "input-edit makes (1 + scale) x + shift of its input at places, and "
    "position-edit adds R^T (source h + bias_of - R h) to a block's output h at the first and last tokens of a prompt, "
    "R being the Q of rotation's QR. Of every other form the class in tunewright.models that has its name says it. "
    "new_biases names biases that the base does not have. "
    "What is listed under surgery is done to the model's shape first: names and places are those of the new shape."
)


def save_delta(adapted: Adapted, folder: Path | str, base_name: str) -> int:
    """Write everything that differs from the base; return the number of tensors. ModelError when nothing does."""
    parameters, tensors = adapted.base_parameters(), dict[str, Tensor]()
    for name, original in sorted(adapted.originals.items()):
        if original.indices is None:
            p = parameters[name].detach()
            parts = adapted.divided
            tensors[f"value:{name}"] = parts.gathered(own(p), p) if parts is not None and is_divided(p) else p
        else:
            tensors[f"places:{name}"] = original.indices
            tensors[f"entries:{name}"] = parameters[name].detach().reshape(-1)[original.indices]
    tensors |= {f"delta:{n}": t.detach() for n, t in adapted.model.state_dict().items() if is_delta(n)}
    if not tensors and not adapted.operated:
        raise ModelError("nothing differs from the base", remedy="train first")
    described = {
        site: {n: {"form": d.form, "settings": d.settings(), "strength": d.strength} for n, d in by_name.items()}
        for site, by_name in adapted.deltas().items()
    }
    shapes = {n: list(parameters[n].shape) for n in sorted(adapted.originals)}
    biases = sorted(adapted.added)
    how = {
        "format": FORMAT,
        "version": VERSION,
        "base": {"name": base_name, "hash": adapted.base_hash},
        "apply": APPLY,
        "tensors": len(tensors),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({n: t.contiguous() for n, t in tensors.items()}, folder / WEIGHTS)
    (folder / HOW).write_text(
        json.dumps(
            {**how, "surgery": adapted.surgeries(), "shapes": shapes, "new_biases": biases, "deltas": described},
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    return len(tensors)


def load_delta(adapted: Adapted, folder: Path | str) -> int:
    """Apply a saved change to the untouched base, strictly; return the number of tensors. ModelError names what is
    wrong.

    Checked before anything is changed: the base's hash, the count, every name and shape.
    """
    folder = Path(folder)
    how, tensors = read_delta(folder)
    where, base, own = str(folder / WEIGHTS), how["base"], folder / "base"
    if base["hash"] and adapted.base_hash and base["hash"] != adapted.base_hash:
        raise ModelError(
            f"the change belongs to another base (weights {base['hash'][:12]}, here {adapted.base_hash[:12]})",
            where=where,
            remedy=f"load '{own if (own / 'config.json').is_file() else base['name']}'",
        )
    if len(tensors) != how["tensors"]:
        raise ModelError(
            f"{len(tensors)} tensors, and {HOW} counts {how['tensors']}",
            where=where,
            remedy="the file is incomplete: save or download it again",
        )
    for record in how.get("surgery", ()):
        adapted.operate(replayed(record))
    parameters = adapted.base_parameters()
    new = how.get("new_biases", [])
    parameters |= {n: adapted.structure.site(n.removesuffix(".bias")).matrix()[:, 0] for n in new}
    for name, shape in how["shapes"].items():
        if name not in parameters:
            raise ModelError(
                f"this model has no tensor '{name}'",
                where=where,
                remedy=f"load '{base['name']}'; {did_you_mean(name, parameters)}",
            )
        if list(parameters[name].shape) != shape:
            raise ModelError(
                f"'{name}' is {tuple(shape)} there and {tuple(parameters[name].shape)} here",
                where=where,
                remedy=f"load '{base['name']}'",
            )
    by_site = _rebuilt(adapted, how["deltas"], tensors, where)
    used = {
        f"{kind}:{n}"
        for n in how["shapes"]
        for kind in (["value"] if f"value:{n}" in tensors else ["places", "entries"])
    }
    used |= {
        f"delta:{DeltaName(site, n, part)}"
        for site, by_name in by_site.items()
        for n, d in by_name.items()
        for part in d.state_dict()
    }
    if odd := sorted(used ^ set(tensors)):
        raise ModelError(
            f"{len(odd)} tensors are missing or unknown, such as '{odd[0]}'",
            where=where,
            remedy="the file is incomplete: save or download it again",
        )
    for name in new:
        adapted.add_bias(adapted.structure.site(name.removesuffix(".bias")))
    for name in how["shapes"]:
        _put(adapted, name, tensors)
    for site, by_name in by_site.items():
        for n, delta in by_name.items():
            forms.attach(adapted.structure.site(site), n, delta)
    return len(tensors)


def _alone(how: dict[str, Any]) -> bool:
    return not (how.get("surgery") or how.get("new_biases") or how["shapes"])


def is_deltas_alone(folder: Path) -> bool:
    """Whether a saved change says that it is nothing but deltas beside the base; False where nothing can be read."""
    try:
        how = json.loads((folder / HOW).read_text(encoding="utf-8"))
        return _alone(how)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def deltas_alone(adapted: Adapted, folder: Path | str) -> dict[str, dict[str, forms.Delta]]:
    """The deltas of a saved change by site and name, for this model, which is left as it is.

    ModelError where the change is more than deltas beside the base, or belongs to another base.
    """
    folder = Path(folder)
    how, tensors = read_delta(folder)
    where, base = str(folder / WEIGHTS), how["base"]
    if base["hash"] and adapted.base_hash and base["hash"] != adapted.base_hash:
        raise ModelError(
            f"the change belongs to another base (weights {base['hash'][:12]}, here {adapted.base_hash[:12]})",
            where=where,
            remedy=f"load '{base['name']}'",
        )
    if not _alone(how):
        what = "the model's shape" if how.get("surgery") else f"{len(how['shapes']) or 'some'} tensors of the base"
        raise ModelError(
            f"the change is more than deltas beside the base: {what} changed",
            where=where,
            remedy=f"serve the run itself (tunewright serve {folder.name})",
        )
    return _rebuilt(adapted, how["deltas"], tensors, where)


def read_delta(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What delta.json says, and the tensors beside it. ModelError for what is no saved change of this version."""
    try:
        how = json.loads(regular(folder / HOW).read_text(encoding="utf-8"))
        tensors = load_file(regular(folder / WEIGHTS))
    except FileNotFoundError as e:
        raise ModelError(
            f"there is no {Path(e.filename).name if e.filename else WEIGHTS}",
            where=str(folder),
            remedy="name the folder of a saved change",
        ) from None
    except (OSError, ValueError, SafetensorError) as e:
        raise ModelError(f"not readable: {e}", where=str(folder), remedy="save or download it again") from e
    if how.get("format") != FORMAT or how.get("version") != VERSION:
        raise ModelError(
            f"the format is {how.get('format')} {how.get('version')}, not {FORMAT} {VERSION}",
            where=str(folder / HOW),
            remedy="read it with the version that wrote it",
        )
    return how, tensors


def _rebuilt(
    adapted: Adapted, described: dict[str, Any], tensors: dict[str, Tensor], where: str
) -> dict[str, dict[str, forms.Delta]]:
    by_site: dict[str, dict[str, forms.Delta]] = {}
    for site, by_name in described.items():
        for n, d in by_name.items():
            try:
                form = forms.form_class(d["form"])
            except MethodError as e:
                raise ModelError(e.what, where=site, remedy=e.remedy) from e
            delta = form.rebuild(d["settings"], adapted.structure.site(site))
            delta.strength = d["strength"]
            prefix = f"delta:{DeltaName(site, n, '')}"
            try:
                delta.load_state_dict(
                    {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}, strict=True
                )
            except RuntimeError as e:
                raise ModelError(
                    f"the delta of '{site}' does not fit: {str(e).splitlines()[-1].strip()}",
                    where=where,
                    remedy="save or download it again",
                ) from e
            by_site.setdefault(site, {})[n] = delta
    return by_site


def _put(adapted: Adapted, name: str, tensors: dict[str, Tensor]) -> None:
    p = adapted.base_parameters()[name]
    whole = tensors.get(f"value:{name}")
    places = None if whole is not None else tensors[f"places:{name}"]
    adapted.remember(name, places)
    if whole is not None:
        p.data.copy_(whole)
    else:
        p.data.view(-1)[places] = tensors[f"entries:{name}"].to(p.dtype)
