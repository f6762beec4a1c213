"""mergekit's files as merge requests: all of its methods, slices, modules, tokenizers and several documents in a file.

What is not understood is an error, never left out; what changes no value is said in a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.errors import RecipeError, TunewrightError, did_you_mean
from tunewright.files.regular import regular
from tunewright.loading.locate import read_config
from tunewright.recipe import yaml_text
from tunewright.weights import chat_templates
from tunewright.weights.mergekit_parts import Reader, numbers_in, shown
from tunewright.weights.opening import located
from tunewright.weights.request import DTYPES, Part, Request, Section, Token, Vocabulary, same_model
from tunewright.weights.settings import chained
from tunewright.weights.then import steps_of

KEYS = (
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
    "seed",
    "defaults",
    "after",
    "allow_crimes",
)


ANCHORED = ("x-", ".", "_")
"""How keys begin that hold nothing but what other keys take over: `x-all: &all {density: 0.5}`, `<<: *all`."""


def documents(file: Path) -> list[dict[str, Any]]:
    """The merges in a file, each as it stands there. RecipeError names the line that is wrong."""
    try:
        text = regular(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as e:
        raise RecipeError(
            f"the file cannot be read: {e}", where=str(file), remedy="give a YAML file with merge_method: and models:"
        ) from e
    found = [d.tree for d in yaml_text.read_all(text, str(file)) if d.tree is not None]
    if not found or not all(isinstance(tree, dict) for tree in found):
        raise RecipeError("a merge is a mapping", where=str(file), remedy="write merge_method: and models:")
    return [{k: v for k, v in tree.items() if not k.startswith(ANCHORED)} for tree in found]


def read(file: Path, out: Path, **options: Any) -> Request:
    """The request in a file that holds one merge.

    `options` are further fields of Request. RecipeError names the line or key that is wrong.
    """
    merges = documents(file)
    if len(merges) > 1:
        raise RecipeError(
            f"{len(merges)} merges are in the file",
            where=str(file),
            remedy="run it by `tunewright merge FILE --out DIR`",
        )
    return request_of(merges[0], str(file), out, file.parent, **options)


def request_of(
    found: Mapping[str, Any],
    where: str,
    out: Path,
    beside: Path,
    steps: Mapping[str, Path] | None = None,
    **options: Any,
) -> Request:
    """The request that a mapping in mergekit's form describes; folders are looked for from `beside` too.

    `steps`: folders that names of the file's other merges stand for.
    """
    for key in found:
        if key not in KEYS:
            raise RecipeError(f"unknown key '{key}'", where=where, remedy=did_you_mean(str(key), KEYS))
    method = found.get("merge_method")
    if not isinstance(method, str):
        raise RecipeError("there is no merge_method", where=where, remedy="write for example merge_method: ties")
    reader = Reader(where, beside, catalogue.canonical(method), steps or {})
    parts, sections = _models(found, reader)
    base = found.get("base_model")
    base = None if base is None else reader.model(base)
    request = Request(
        reader.method,
        parts,
        out,
        base=base,
        parameters=reader.parameters(found.get("parameters")),
        dtype=_dtype(found, reader),
        seed=_seed(found, reader),
        where=where,
        mergekit=_defaults(found, reader),
        then=steps_of(numbers_in(found.get("after")), f"{where}: after"),
        sections=tuple(sections),
        vocabulary=_vocabulary(found, reader),
        chat_template=chat_templates.checked(found.get("chat_template"), where),
        notes=tuple(reader.notes),
        allow_crimes=_allowed(found, reader),
    )
    return replace(_simpler(request), **options)


def _simpler(request: Request) -> Request:
    """One slice that takes all layers of every model is the merge of the models."""
    if len(request.sections) != 1 or request.sections[0].module != "default":
        return request
    section = request.sections[0]
    base, refs = section.base or request.base, [p.ref for p in section.models]
    if base is not None and not any(same_model(r, base) for r in refs):
        return request
    if not all(p.layers is None or p.layers == (0, _layers(p.ref)) for p in section.models):
        return request
    parts = [Part(p.ref, p.parameters) for p in section.models]
    parameters = chained(section.parameters, request.parameters)
    return replace(request, models=parts, base=base, parameters=parameters, sections=())


def _layers(ref: str) -> int | None:
    """How many layers the model's config.json states; None where it cannot be read yet."""
    try:
        config = read_config(located(ref.partition("+")[0]).folder)
    except TunewrightError:
        return None
    text = config.get("text_config")
    stated = config.get("num_hidden_layers", text.get("num_hidden_layers") if isinstance(text, dict) else None)
    return stated if isinstance(stated, int) else None


def _models(found: Mapping[str, Any], reader: Reader) -> tuple[list[Part], list[Section]]:
    given = [k for k in ("models", "slices", "modules") if found.get(k) is not None]
    if not given:
        raise reader.wrong("the list of models is empty", "write models: [{model: FOLDER}, ...]")
    if len(given) > 1:
        raise reader.wrong(f"both '{given[0]}' and '{given[1]}' are given", "write one of them")
    if given == ["models"]:
        return reader.parts(found["models"]), []
    sections = reader.slices(found["slices"]) if given == ["slices"] else reader.modules(found["modules"])
    every = {p.ref: Part(p.ref) for s in sections for p in s.models}
    return list(every.values()), sections


def _dtype(found: Mapping[str, Any], reader: Reader) -> str | None:
    dtype = found.get("out_dtype") or found.get("dtype")
    if isinstance(dtype, str):
        dtype = dtype.removeprefix("torch.")
    if dtype is None or (isinstance(dtype, str) and dtype in DTYPES):
        return dtype
    raise reader.wrong(f"{shown(dtype)} is no type that results are stored in", "write " + ", ".join(DTYPES), "dtype")


def _seed(found: Mapping[str, Any], reader: Reader) -> int:
    seed = found.get("seed", 0)
    if type(seed) is not int:
        raise reader.wrong(f"{shown(seed)} is no seed", "write a whole number", "seed")
    return seed


def _defaults(found: Mapping[str, Any], reader: Reader) -> bool:
    defaults = found.get("defaults", "mergekit")
    if defaults not in ("mergekit", "papers"):
        raise reader.wrong(f"{shown(defaults)} are no defaults", "write mergekit or papers", "defaults")
    return bool(defaults == "mergekit")


def _allowed(found: Mapping[str, Any], reader: Reader) -> bool:
    allowed = found.get("allow_crimes", False)
    if not isinstance(allowed, bool):
        raise reader.wrong(f"allow_crimes is {shown(allowed)}", "write true or false", "allow_crimes")
    return allowed


# -- tokenizers ------------------------------------------------------------------------------------------


def _vocabulary(found: Mapping[str, Any], reader: Reader) -> Vocabulary | None:
    """The vocabulary that is asked for, by either of mergekit's two keys."""
    source, given = found.get("tokenizer_source"), found.get("tokenizer")
    if source is not None and given is not None:
        raise reader.wrong("both 'tokenizer' and 'tokenizer_source' are given", "write one of them")
    if source is not None:
        return Vocabulary(_source(source, reader))
    if given is None:
        return None
    form = "tokenizer: {source: union, tokens: {<tok>: {source: FOLDER}}}"
    known = reader.keys(given, ("source", "tokens", "pad_to_multiple_of"), "the tokenizer", form)
    multiple, tokens = known.get("pad_to_multiple_of"), known.get("tokens") or {}
    if multiple is not None and (type(multiple) is not int or not 1 <= multiple <= 2**20):
        raise reader.wrong(
            f"{shown(multiple)} is no number of rows", "write a whole number from 1", "pad_to_multiple_of"
        )
    if not isinstance(tokens, dict):
        raise reader.wrong(f"tokens are a mapping, not {shown(tokens)}", f"write {form}", "tokenizer")
    chosen = {t: _token(t, entry, reader) for t, entry in tokens.items()}
    return Vocabulary(_source(known.get("source", "union"), reader), chosen, multiple)


def _source(source: Any, reader: Reader) -> str:
    return source if source in ("union", "base") else reader.model(source)


def _token(token: str, entry: Any, reader: Reader) -> Token | None:
    form = "{source: FOLDER}, {source: {kind: zero}} or {source: {kind: model_token, model: FOLDER, token: TEXT}}"
    if entry is None:
        return None
    if not token:
        raise reader.wrong("a token has no text", "write the token as it stands in the vocabulary", "tokens")
    known = reader.keys(entry, ("source", "force"), f"the token {token!r}", form)
    source, force = known.get("source"), known.get("force", False)
    if not isinstance(force, bool):
        raise reader.wrong(f"force is {shown(force)}", "write true or false", f"tokens: {token}")
    if source is None:
        if force:
            raise reader.wrong("force without a source", f"write {form}", f"tokens: {token}")
        return None
    if not isinstance(source, dict) or "kind" not in source:
        return Token("row", reader.model(source), force=force)
    kind = source["kind"]
    if kind == "zero":
        reader.keys(source, ("kind",), f"the token {token!r}", form)
        return Token("zero", force=force)
    if kind != "model_token":
        raise reader.wrong(f"{shown(kind)} is no kind of row", f"write {form}", f"tokens: {token}")
    row = reader.keys(source, ("kind", "model", "token", "token_id"), f"the token {token!r}", form)
    text, at = row.get("token"), row.get("token_id")
    if (text is None) == (at is None) or not isinstance(text, str | None) or (at is not None and type(at) is not int):
        raise reader.wrong("a row is named by one of 'token' and 'token_id'", f"write {form}", f"tokens: {token}")
    return Token("row", reader.model(row.get("model")), text, at, force)
