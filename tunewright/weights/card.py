"""What a merged folder says about itself: config, tokenizer, generation config, and a card with recipe, inputs,
licences.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.files.markdown import code, fenced, inline
from tunewright.weights.names import reader_folder
from tunewright.weights.request import Request
from tunewright.weights.source import Source

READERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def write_beside(folder: Path, like: Source, reader: Source, dtype: str, changes: Mapping[str, Any]) -> None:
    """Config (with the stored type and a method's own changes), generation config and tokenizer files."""
    config = {**like.config, **changes}
    config["dtype"] = NAMES[dtype]
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    root = getattr(like, "base", like).folder
    if (root / "generation_config.json").exists():
        shutil.copyfile(root / "generation_config.json", folder / "generation_config.json")
    place = reader_folder(reader)
    for name in READERS:
        if (place / name).exists():
            shutil.copyfile(place / name, folder / name)


def recipe_of(request: Request) -> dict[str, Any]:
    """The request as a file that makes the same merge again."""
    out: dict[str, Any] = {"merge_method": request.method, "models": []}
    for m in request.models:
        out["models"].append({"model": m.ref, **({"parameters": dict(m.parameters)} if m.parameters else {})})
    for key, value in (
        ("base_model", request.base),
        ("parameters", dict(request.parameters)),
        ("dtype", request.dtype),
        ("seed", request.seed),
    ):
        if value:
            out[key] = value
    if request.then:
        out["after"] = [{n: dict(p)} if p else n for n, p in request.then]
    if not request.mergekit:
        out["defaults"] = "papers"
    return out


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
