"""mergekit's YAML as a merge request, for the methods that both have.

What is not understood is an error, never left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.errors import RecipeError, did_you_mean
from tunewright.weights.request import Part, Request
from tunewright.weights.then import steps_of

KEYS = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "seed",
    "defaults",
    "after",
)
ELSEWHERE = {
    "modules": "merges of single modules are not made here: name whole models under models:",
    "tokenizer": "write tokenizer_source: base",
    "chat_template": "the tokenizer's own template is kept",
}
IGNORED = {"int8_mask"}
"""Parameters that change how mergekit computes, not what."""


def read(file: Path, out: Path, **options: Any) -> Request:
    """The request in a file.

    `options` are further fields of Request. RecipeError names the line or key that is wrong.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"the file cannot be read: {e}", where=str(file)) from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise RecipeError(
            f"not YAML: {getattr(e, 'problem', e)}", where=f"{file}:{mark.line + 1}" if mark else str(file)
        ) from e
    if not isinstance(content, dict):
        raise RecipeError("a merge is a mapping", where=str(file), remedy="write merge_method: and models:")
    return request_of(content, str(file), out, file.parent, **options)


def request_of(found: Mapping[str, Any], where: str, out: Path, beside: Path, **options: Any) -> Request:
    """The request that a mapping in mergekit's form describes; folders are looked for from `beside` too."""
    if "slices" in found:
        found = _whole(found, where, beside)
    for key in found:
        if key in ELSEWHERE:
            raise RecipeError(f"'{key}' is not read here", where=where, remedy=ELSEWHERE[key])
        if key not in KEYS:
            raise RecipeError(f"unknown key '{key}'", where=where, remedy=did_you_mean(str(key), KEYS))
    method = found.get("merge_method")
    if not isinstance(method, str):
        raise RecipeError("there is no merge_method", where=where, remedy="write for example merge_method: ties")
    models = found.get("models")
    if not isinstance(models, list) or not models:
        raise RecipeError("the list of models is empty", where=where, remedy="write models: [{model: FOLDER}, ...]")
    parts = [_part(m, where, beside) for m in models]
    base = found.get("base_model")
    base = None if base is None else _located(_ref(base, where), beside)
    request = Request(
        catalogue.canonical(method),
        parts,
        out,
        base=base,
        parameters=_parameters(found.get("parameters"), where),
        dtype=_dtype(found.get("out_dtype") or found.get("dtype"), where),
        tokenizer=_tokenizer(found.get("tokenizer_source"), base, where, beside),
        seed=int(found.get("seed", 0)),
        where=where,
        mergekit=found.get("defaults", "mergekit") == "mergekit",
        then=steps_of(numbers_in(found.get("after")), f"{where}: after"),
    )
    return replace(request, **options)


def _whole(mapping: Mapping[str, Any], where: str, beside: Path) -> dict[str, Any]:
    """The same merge with `models` for one slice that takes all layers of every model; other slices are an error."""
    whole = "merges of single layers are not made here: give one slice of all layers, or name the models under models:"
    slices = mapping["slices"]
    if "models" in mapping:
        raise RecipeError("both 'models' and 'slices' are given", where=where, remedy="write one of them")
    if (
        not isinstance(slices, list)
        or not all(isinstance(s, dict) and isinstance(s.get("sources"), list) for s in slices)
        or not slices
    ):
        raise RecipeError(
            "slices are a list of sources",
            where=where,
            remedy="write slices: [{sources: [{model: FOLDER, layer_range: [0, 32]}, ...]}]",
        )
    if len(slices) != 1:
        raise RecipeError(f"the model is put together from {len(slices)} slices", where=where, remedy=whole)
    if odd := [k for k in slices[0] if k not in ("sources", "parameters")]:
        raise RecipeError(
            f"unknown key '{odd[0]}' of a slice",
            where=where,
            remedy=did_you_mean(str(odd[0]), ("sources", "parameters")),
        )
    models = []
    for source in slices[0]["sources"]:
        if not isinstance(source, dict) or "model" not in source:
            raise RecipeError(
                f"{source!r} names no model", where=where, remedy="write - {model: FOLDER, layer_range: [0, 32]}"
            )
        ref, asked = _located(_ref(source["model"], where), beside), source.get("layer_range")
        if asked is not None and asked != [0, layers := _layers(ref)]:
            raise RecipeError(
                f"the slice takes layers {asked} of '{ref}', which has {layers}", where=where, remedy=whole
            )
        models.append({k: v for k, v in source.items() if k != "layer_range"})
    parameters = {**_parameters(mapping.get("parameters"), where), **_parameters(slices[0].get("parameters"), where)}
    return {**{k: v for k, v in mapping.items() if k != "slices"}, "models": models, "parameters": parameters}


def _layers(ref: str) -> int | None:
    """How many layers the model's config.json states."""
    from tunewright.loading.locate import locate, read_config

    config = read_config(locate(ref.partition("+")[0], progress=False).folder)
    return config.get("num_hidden_layers", (config.get("text_config") or {}).get("num_hidden_layers"))


def _part(m: Any, where: str, beside: Path) -> Part:
    if isinstance(m, str):
        return Part(_located(m, beside))
    if not isinstance(m, dict) or "model" not in m:
        raise RecipeError(f"{m!r} names no model", where=where, remedy="write - model: FOLDER")
    if odd := [k for k in m if k not in ("model", "parameters")]:
        raise RecipeError(
            f"unknown key '{odd[0]}' of a model", where=where, remedy=did_you_mean(str(odd[0]), ("model", "parameters"))
        )
    return Part(_located(_ref(m["model"], where), beside), _parameters(m.get("parameters"), where))


def _ref(model: Any, where: str) -> str:
    if isinstance(model, str):
        return model
    if isinstance(model, dict) and isinstance(model.get("model"), dict) and isinstance(model["model"].get("path"), str):
        lora = (model.get("lora") or {}).get("path")
        return model["model"]["path"] + (f"+{lora}" if lora else "")
    raise RecipeError(f"{model!r} is no model", where=where, remedy="write a folder, a hub id, or MODEL+ADAPTER")


def _located(ref: str, beside: Path) -> str:
    """A folder named from the file's own place as a path; everything else as it is."""
    return (
        str(beside / ref)
        if not Path(ref).expanduser().exists() and re.match(r"[\w.]", ref) and (beside / ref).is_dir()
        else ref
    )


def _parameters(values: Any, where: str) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(
            f"parameters are a mapping, not {values!r}", where=where, remedy="write parameters: {weight: 0.5}"
        )
    return {str(k): numbers_in(v) for k, v in values.items() if k not in IGNORED}


def numbers_in(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text: numbers written so are numbers."""
    if isinstance(value, list):
        return [numbers_in(v) for v in value]
    if isinstance(value, dict):
        return {k: (v if k == "filter" else numbers_in(v)) for k, v in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _dtype(dtype: Any, where: str) -> str | None:
    from tunewright.weights.request import DTYPES

    if dtype is None or dtype in DTYPES:
        return dtype  # type: ignore[no-any-return]
    raise RecipeError(
        f"'{dtype}' is no type that results are stored in", where=f"{where}: dtype", remedy="write " + ", ".join(DTYPES)
    )


def _tokenizer(source: Any, base: str | None, where: str, beside: Path) -> str | None:
    if source in (None, "base"):
        return base if source == "base" else None
    if source == "union":
        raise RecipeError(
            "tokenizer_source: union is not made here",
            where=where,
            remedy="models of one vocabulary need none: leave it out",
        )
    return _located(_ref(source, where), beside)
