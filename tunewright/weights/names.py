"""Which tensors a merge makes: names, shapes and vocabularies of all models agree, or one message says where not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.weights.source import Entry, Source

LISTED = 5


def agreed(sources: Sequence[Source]) -> dict[str, Entry]:
    """The tensors of the first source, each found in all others with its shape. ModelError names those that are not.

    A head that is stored beside the embedding that it is tied to is left out.
    """
    first = sources[0]
    tied = {id(s): _tied_copies(s) for s in sources}
    entries = {n: e for n, e in first.entries.items() if n not in tied[id(first)]}
    for s in sources[1:]:
        if s.config.get("model_type") != first.config.get("model_type"):
            raise ModelError(
                f"'{s.ref}' is a {s.config.get('model_type')} model, '{first.ref}' a {first.config.get('model_type')}",
                remedy="merge models of one architecture",
            )
        have = {n for n in s.entries if n not in tied[id(s)]}
        if missing := [n for n in entries if n not in have]:
            raise ModelError(
                f"{len(missing)} tensors of '{first.ref}' are missing: {_some(missing)}",
                where=s.ref,
                remedy="merge fine-tunings of one base; or its files are incomplete",
            )
        if more := sorted(have - set(entries)):
            raise ModelError(
                f"{len(more)} tensors are not in '{first.ref}': {_some(more)}",
                where=s.ref,
                remedy="merge fine-tunings of one base",
            )
        if other := [n for n, e in entries.items() if s.entries[n].shape != e.shape]:
            n = other[0]
            remedy = "merge fine-tunings of one base"
            if len(entries[n].shape) == 2 and entries[n].shape[1:] == s.entries[n].shape[1:]:
                remedy = "their vocabularies (or label sets) differ in size: " + remedy
            raise ModelError(
                (
                    f"{len(other)} tensors differ in shape: '{n}' is {s.entries[n].shape}, in '{first.ref}' "
                    f"{entries[n].shape}"
                ),
                where=s.ref,
                remedy=remedy,
            )
    return entries


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _tied_copies(source: Source) -> set[str]:
    """Stored heads of a model whose head is its embedding."""
    if not source.config.get("tie_word_embeddings"):
        return set()
    has_embedding = any(
        n.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight")) for n in source.entries
    )
    return {n for n in source.entries if has_embedding and n.endswith("lm_head.weight")}


def tokens_of(folder: Path) -> dict[str, int] | None:
    """token -> id as the tokenizer's files say; None where they do not (no tokenizer, or one without a plain list)."""
    try:
        file = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        model = file["model"]
        vocabulary = model.get("vocab")
        ids = dict(vocabulary) if isinstance(vocabulary, dict) else {t: i for i, (t, _) in enumerate(vocabulary or [])}
        return {**ids, **{t["content"]: t["id"] for t in file.get("added_tokens", [])}}
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(
            f"the tokenizer is not readable: {e}",
            where=str(folder / "tokenizer.json"),
            remedy="download the model again",
        ) from e
    try:
        plain: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        return plain
    except (OSError, ValueError):
        return None


def reader_folder(source: Source) -> Path:
    """The folder that a source's tokenizer lies in: its own, or its base's."""
    base: Any = getattr(source, "base", None)
    own = source.folder
    return own if base is None or (own / "tokenizer.json").exists() else base.folder


def check_vocabularies(sources: Sequence[Source]) -> list[str]:
    """Token ids must agree.

    ModelError lists tokens whose ids differ; returns notes about what could not be compared.
    """
    folders = [reader_folder(s) for s in sources]
    known: dict[bytes | Path, dict[str, int] | None] = {}
    vocabularies: list[tuple[Source, dict[str, int]]] = []
    notes = []
    for s, folder in zip(sources, folders, strict=True):
        file = folder / "tokenizer.json"
        key: bytes | Path = file.read_bytes() if file.exists() else folder
        if key not in known:
            known[key] = tokens_of(folder)
        tokens = known[key]
        if tokens is None:
            notes.append(f"'{s.ref}' has no tokenizer whose ids could be compared")
        else:
            vocabularies.append((s, tokens))
    for s, tokens in vocabularies[1:]:
        first, first_tokens = vocabularies[0]
        if tokens is first_tokens:
            continue
        if other := sorted(t for t in tokens.keys() & first_tokens.keys() if tokens[t] != first_tokens[t]):
            listed = ", ".join(f"{t!r} ({first_tokens[t]} and {tokens[t]})" for t in other[:LISTED])
            raise ModelError(
                f"{len(other)} tokens have other ids than in '{first.ref}': {listed}",
                where=s.ref,
                remedy="merge models of one vocabulary",
            )
        by_id = {i: t for t, i in first_tokens.items()}
        if clash := sorted((i, by_id[i], t) for t, i in tokens.items() if t not in first_tokens and i in by_id):
            listed = ", ".join(f"{i} is {a!r} there and {b!r} here" for i, a, b in clash[:LISTED])
            raise ModelError(
                f"{len(clash)} ids mean other tokens than in '{first.ref}': {listed}",
                where=s.ref,
                remedy="merge models of one vocabulary",
            )
        if new := sorted(tokens.keys() ^ first_tokens.keys()):
            notes.append(
                f"'{s.ref}' and '{first.ref}' do not know the same tokens: {', '.join(map(repr, new[:LISTED]))}"
            )
    return notes
