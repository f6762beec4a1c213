"""What a merged folder says about itself: config, tokenizer, generation config, and a card with recipe, inputs,
licences.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.files.markdown import code, fenced, inline
from tunewright.weights.names import reader_folder
from tunewright.weights.request import Part, Request, Section, Token, Vocabulary
from tunewright.weights.source import Source

if TYPE_CHECKING:
    from tunewright.weights.vocabulary import Rows

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "chat_template.jinja",
)
READERS = (*TOKENIZER, "preprocessor_config.json", "processor_config.json")
NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def write_beside(
    folder: Path, config: Mapping[str, Any], like: Source, reader: Source, dtype: str, rows: Rows | None = None
) -> None:
    """Config (with the stored type), generation config and tokenizer files; `rows` has a tokenizer of its own."""
    written = {k: v for k, v in config.items() if k != "torch_dtype"} | {"dtype": NAMES[dtype]}
    (folder / "config.json").write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    generation = getattr(like, "base", like).folder / "generation_config.json"
    if generation.exists():
        shutil.copyfile(generation, folder / "generation_config.json")
    place = reader_folder(reader)
    for name in READERS:
        if (place / name).exists():
            shutil.copyfile(place / name, folder / name)
    if rows is None:
        return
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
    rows.save(folder)
    if generation.exists():
        values = json.loads(generation.read_text(encoding="utf-8"))
        rows.resized(values)
        (folder / generation.name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def recipe_of(request: Request) -> dict[str, Any]:
    """The request as a file that makes the same merge again."""
    out: dict[str, Any] = {"merge_method": request.method}
    if not request.sections:
        out["models"] = [_part(p) for p in request.models]
    elif {s.module for s in request.sections} == {"default"}:
        out["slices"] = [_slice(s) for s in request.sections]
    else:
        out["modules"] = {m: _module([s for s in request.sections if s.module == m]) for m in _modules(request)}
    for key, value in (
        ("base_model", request.base),
        ("parameters", dict(request.parameters)),
        ("dtype", request.dtype),
        ("seed", request.seed),
        ("tokenizer", _vocabulary(request.vocabulary)),
        ("chat_template", request.chat_template),
        ("allow_crimes", request.allow_crimes),
    ):
        if value:
            out[key] = value
    if request.then:
        out["after"] = [{n: dict(p)} if p else n for n, p in request.then]
    if not request.mergekit:
        out["defaults"] = "papers"
    return out


def _modules(request: Request) -> list[str]:
    return list(dict.fromkeys(s.module for s in request.sections))


def _part(part: Part) -> dict[str, Any]:
    layers = {} if part.layers is None else {"layer_range": list(part.layers)}
    return {"model": part.ref, **layers, **({"parameters": dict(part.parameters)} if part.parameters else {})}


def _slice(section: Section) -> dict[str, Any]:
    base = {} if section.base is None else {"base_model": section.base}
    own = {"parameters": dict(section.parameters)} if section.parameters else {}
    return {"sources": [_part(p) for p in section.models], **base, **own}


def _module(sections: Sequence[Section]) -> dict[str, Any]:
    if len(sections) > 1 or sections[0].models[0].layers is not None:
        return {"slices": [_slice(s) for s in sections]}
    own = {"parameters": dict(sections[0].parameters)} if sections[0].parameters else {}
    return {"models": [_part(p) for p in sections[0].models], **own}


def _vocabulary(asked: Vocabulary | None) -> dict[str, Any] | None:
    if asked is None:
        return None
    tokens = {t: _token(token) for t, token in asked.tokens.items()}
    multiple = {} if asked.multiple is None else {"pad_to_multiple_of": asked.multiple}
    return {"source": asked.source, **({"tokens": tokens} if tokens else {}), **multiple}


def _token(token: Token | None) -> dict[str, Any] | None:
    if token is None:
        return None
    row = {"token": token.token} if token.id is None else {"token_id": token.id}
    source: Any = {"kind": "zero"} if token.kind == "zero" else {"kind": "model_token", "model": token.model, **row}
    if token.kind == "row" and token.token is None and token.id is None:
        source = token.model
    return {"source": source, **({"force": True} if token.force else {})}


def card_of(request: Request, sources: Sequence[Source], count: int, notes: Sequence[str]) -> str:
    """README.md: a YAML header that the hub reads, the recipe, every input's hash and licence."""
    import yaml

    licences = {s.licence for s in sources}
    header: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["tunewright", "merge"],
        "base_model": [s.ref for s in sources],
    }
    if len(licences) == 1 and None not in licences:
        header["license"] = licences.pop()
    rows = [
        f"| {code(s.ref)} | {inline(s.origin)} | `{s.hash()}` | {inline(s.licence or 'not stated')} |" for s in sources
    ]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=True, allow_unicode=True).strip()}\n---",
        f"# {inline(request.out.name)}",
        f"Merged with Tunewright by `{request.method}` from {len(request.models)} models; {count:,} parameters.",
        "| model | from | sha256 of its weights | licence |\n| --- | --- | --- | --- |\n" + "\n".join(rows),
        *([] if len(licences) <= 1 else ["The inputs' licences differ: all of them apply."]),
        *([] if not notes else ["\n".join(f"- {inline(n)}" for n in notes)]),
        "## Recipe\n\n"
        + fenced(yaml.safe_dump(recipe_of(request), sort_keys=False, allow_unicode=True).strip(), "yaml"),
    ]
    return "\n\n".join(parts) + "\n"
