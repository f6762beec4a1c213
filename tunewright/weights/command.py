"""Merges as the command line or Python names them: what is said, as a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tunewright import catalogue
from tunewright.errors import RecipeError
from tunewright.weights import fast
from tunewright.weights.engine import Engine
from tunewright.weights.request import Part, Request
from tunewright.weights.source import Source, Tuned
from tunewright.weights.stream import Merged, merge
from tunewright.weights.write import size_of


def parsed(text: str) -> Any:
    """A flag's value as YAML reads it: a number, true, a list (a gradient over layers), {filter: ..., value: ...}."""
    import yaml

    from tunewright.weights.mergekit_parts import numbers_in

    try:
        return numbers_in(yaml.safe_load(text))
    except yaml.YAMLError as e:
        raise RecipeError(f"'{text}' is no value", remedy="write a number, true, or a list such as [0, 0.5, 1]") from e


def flags(arguments: Sequence[str]) -> dict[str, list[Any]]:
    """--name value, --name=value -> {name: [values]}, in order. RecipeError for what is neither."""
    by_name: dict[str, list[Any]] = {}
    left = list(arguments)
    while left:
        flag = left.pop(0)
        if not flag.startswith("--"):
            raise RecipeError(
                f"'{flag}' is neither a model nor a flag",
                where="merge",
                remedy="write models first, then --density 0.2",
            )
        name, given, value = flag[2:].partition("=")
        if not given:
            if not left:
                raise RecipeError(f"--{name} has no value", where="merge", remedy=f"write --{name} VALUE")
            value = left.pop(0)
        by_name.setdefault(name, []).append(parsed(value))
    return by_name


def request_of(models: Sequence[str], given: dict[str, list[Any]], **options: Any) -> Request:
    """A request from models and parameters; a parameter that is given once a model is each model's own."""
    parameters: dict[str, Any] = {}
    own: list[dict[str, Any]] = [{} for _ in models]
    for name, values in given.items():
        if len(values) == 1:
            parameters[name] = values[0]
        elif len(values) == len(models):
            for mine, value in zip(own, values, strict=True):
                mine[name] = value
        else:
            raise RecipeError(
                f"--{name} is given {len(values)} times for {len(models)} models",
                where="merge",
                remedy="give it once, or once per model",
            )
    return Request(models=[Part(m, p) for m, p in zip(models, own, strict=True)], parameters=parameters, **options)


def run(
    models: Sequence[str],
    given: Sequence[str],
    out: Path,
    *,
    method: str | None,
    base: str | None,
    dtype: str | None,
    kind: str,
    **more: Any,
) -> Merged:
    """Merge what the command line names: models, or one YAML file in mergekit's form."""
    _check_kind(kind, "--as ")
    if method is None or catalogue.canonical(method) in fast.TABLE:
        fast.import_lean()
    options: dict[str, Any] = {"kind": kind, "shard_size": size_of(more["shard_size"]), "threads": more["threads"]}
    if len(models) == 1 and models[0].endswith((".yml", ".yaml")):
        if given or method or base or more["then"]:
            raise RecipeError(
                "method, base and parameters are the file's",
                where="merge",
                remedy=f"write them into {models[0]} (--then: after:)",
            )
        from tunewright.weights.several import merge_all

        options |= {"dtype": dtype} if dtype else {}
        options |= {"allow_crimes": True} if more["allow_crimes"] else {}
        return merge_all(
            Path(models[0]), out, lambda r: _merged(r, more["data"], more["task"], more["seed"]), **options
        )
    if not method:
        raise RecipeError(
            "no method is named",
            where="merge",
            remedy="write --method linear; `tunewright methods` lists the merges",
        )
    request = request_of(
        models,
        flags(given),
        method=method,
        out=out,
        base=base,
        dtype=dtype,
        seed=more["seed"],
        then=_then(more["then"]),
        allow_crimes=more["allow_crimes"],
        **options,
    )
    return _merged(request, more["data"], more["task"], more["seed"])


def _check_kind(kind: str, flag: str) -> None:
    if kind not in ("model", "delta", "adapter"):
        raise RecipeError(
            f"'{kind}' is nothing that a result can be",
            where=f"merge: {flag.rstrip(' =')}",
            remedy=f"write {flag}model, {flag}delta or {flag}adapter",
        )


def merge_models(
    models: Sequence[str | Path | tuple[str | Path, Mapping[str, Any]]],
    *,
    method: str,
    out: Path,
    parameters: Mapping[str, Any],
    base: str | Path | None,
    kind: Literal["model", "delta", "adapter"],
    data: Sequence[str | Path],
    task: str,
    then: Sequence[str | Mapping[str, Any]],
    **options: Any,
) -> Merged:
    """Merge what Python names: a model may stand with parameters of its own; `options` are those of `Request`."""
    from tunewright.weights.then import steps_of

    _check_kind(kind, "kind=")
    parts = [Part(str(m[0]), m[1]) if isinstance(m, tuple) else Part(str(m)) for m in models]
    request = Request(
        method=method,
        models=parts,
        out=out,
        base=str(base) if base is not None else None,
        parameters=parameters,
        kind=kind,
        then=tuple(s for step in then for s in steps_of(step, "merge: then")),
        **options,
    )
    return _merged(request, data, task, request.seed)


def _merged(request: Request, data: Sequence[str | Path], task: str, seed: int) -> Merged:
    if request.kind == "adapter":
        if request.sections or request.vocabulary or request.chat_template:
            raise RecipeError(
                "an adapter has no slices, modules, tokenizer or chat template of its own",
                where=request.where,
                remedy="leave --as adapter out",
            )
        from tunewright.weights.lora_combination import merge_adapters

        return merge_adapters(request)
    return merge(request, learn=_learn(data, task, seed))


def _then(given: Sequence[str]) -> tuple[Any, ...]:
    from tunewright.weights.then import steps_of

    return tuple(s for text in given for s in steps_of(parsed(text), "merge: --then"))


def _learn(data: Sequence[str | Path], task: str, seed: int) -> Any:
    if not data:
        return None

    def learn(engine: Engine) -> dict[str, Any]:
        from tunewright.weights.learning import from_folders

        folders = [str(getattr(s, "base", s).folder) for s in engine.models]
        changes = [_changes(s) for s in engine.models]
        base = str(engine.base.folder) if engine.base else None
        learning = from_folders(folders, base, task, [str(d) for d in data], changes=changes, seed=seed)
        own, each = engine.operator.at("", 0.0, engine.parts)
        learned: dict[str, Any] = engine.operator.method(own, each).learn(learning)
        return learned

    return learn


def _changes(source: Source) -> dict[str, Any]:
    """The tensors that an adapter or a saved change gives another value, whole."""
    if not isinstance(source, Tuned):
        return {}
    import torch

    return {n: torch.from_numpy(source.whole(n)) for n in source.changes}


def page(m: Merged) -> str:
    """The result in a few lines."""
    checked = f", checked by a forward pass in {m.forward_seconds:.1f} s" if m.forward_seconds is not None else ""
    lines = [f"{m.folder}: {m.tensors} tensors, {m.values:,} values in {m.seconds:.1f} s{checked}"]
    if m.reused:
        lines.append(f"{m.reused} tensors were there from an earlier try")
    return "\n".join([*lines, *(f"note: {n}" for n in m.notes)])
