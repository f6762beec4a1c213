"""Which tensors a merge makes: names, shapes and vocabularies of all models agree, or one message says where not.

What stands in files twice, or is computed anew by every loader, is no tensor of the model:

- masks and rotary tables that older libraries stored are left out;
- a copy of a tied tensor (a head that is the embedding) is left out where config.json ties it and its values are the
  embedding's. Where a model has a head of its own after all, the others' heads are their embeddings, the result has a
  head of its own, and its config says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.weights.source import Entry, Source, Tuned
from tunewright.weights.views import View

LISTED = 5
_TABLES = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids)$")
_MASKS = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "shared")
_COPIES: Mapping[str, Sequence[str]] = {
    "lm_head.weight": _EMBEDDINGS,
    "embed_out.weight": _EMBEDDINGS,
    "decoder.weight": _EMBEDDINGS,
    "vocab_projector.weight": _EMBEDDINGS,
    "encoder.embed_tokens.weight": ("shared",),
    "decoder.embed_tokens.weight": ("shared",),
}
"""The end of a copy's name -> the last module of the name that it is a copy of."""


@dataclass
class Agreement:
    """Models under common names. `alike`: copy -> the tensor that it equals in every model, both of them in the result.
    `untied`: whether the result has a head of its own though a config ties it.
    """

    sources: list[Source]
    alike: dict[str, str] = field(default_factory=dict)
    untied: bool = False
    notes: list[str] = field(default_factory=list)


def is_table(name: str, entry: Entry) -> bool:
    """Whether a stored tensor is a mask or a table that loaders compute anew."""
    if _TABLES.search(name):
        return True
    return _MASKS.search(name) is not None and (len(entry.shape) == 4 or not entry.shape)


def aligned(sources: Sequence[Source], one_model: bool = True) -> Agreement:
    """Models under the names of the first one, without what is no tensor of theirs.

    `one_model`: they have the same blocks; names that differ are then read as transformers reads them. ModelError where
    that is not possible.
    """
    shown = [_shown(s, [n for n, e in s.entries.items() if not is_table(n, e)]) for s in sources]
    agreement = _tied(shown, {})
    if one_model and any(s.entries.keys() != agreement.sources[0].entries.keys() for s in agreement.sources[1:]):
        from tunewright.weights.naming import translated  # needs torch

        shown, copies = translated(shown)
        agreement = _tied(shown, copies)
    return agreement


def agreed(sources: Sequence[Source]) -> dict[str, Entry]:
    """The tensors that a merge of whole models makes: name in the first one's files -> type and shape.

    ModelError names those that not all models have, or have of another shape.
    """
    return common(aligned(sources).sources)


def common(sources: Sequence[Source]) -> dict[str, Entry]:
    """The tensors of the first source, each found in all others with its shape. ModelError names those that are not."""
    first = sources[0]
    for s in sources[1:]:
        if missing := [n for n in first.entries if n not in s.entries]:
            raise ModelError(
                f"{len(missing)} tensors of '{first.ref}' are missing: {some(missing)}",
                where=s.ref,
                remedy="merge fine-tunings of one base; or its files are incomplete",
            )
        if more := sorted(s.entries.keys() - first.entries.keys()):
            raise ModelError(
                f"{len(more)} tensors are not in '{first.ref}': {some(more)}",
                where=s.ref,
                remedy="merge fine-tunings of one base",
            )
        if other := [n for n, e in first.entries.items() if s.entries[n].shape != e.shape]:
            n, wanted = other[0], first.entries[other[0]].shape
            remedy = "merge fine-tunings of one base"
            if len(wanted) == 2 and wanted[1:] == s.entries[n].shape[1:]:
                remedy = (
                    "their vocabularies (or label sets) differ in size: "
                    f"{remedy}, or write tokenizer: {{source: union}} in a merge's file"
                )
            raise ModelError(
                f"{len(other)} tensors differ in shape: '{n}' is {s.entries[n].shape}, in '{first.ref}' {wanted}",
                where=s.ref,
                remedy=remedy,
            )
    return dict(first.entries)


def check_one_family(sources: Sequence[Source]) -> None:
    """ModelError where models are of several architectures."""
    first = sources[0]
    for s in sources[1:]:
        if s.config.get("model_type") != first.config.get("model_type"):
            raise ModelError(
                f"'{s.ref}' is a {s.config.get('model_type')} model, '{first.ref}' a {first.config.get('model_type')}",
                where=s.ref,
                remedy="merge models of one architecture; to try it all the same: --allow-crimes, or allow_crimes: "
                "true in the file",
            )


def some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _shown(source: Source, names: Sequence[str]) -> Source:
    return source if len(names) == len(source.entries) else View(source, {n: n for n in names})


# -- tied tensors ------------------------------------------------------------------------------------------


def ties(config: Mapping[str, Any]) -> bool | None:
    """Whether a config ties the head to the embedding; None where it does not say."""
    for place in (config, config.get("text_config")):
        if isinstance(place, Mapping) and isinstance(place.get("tie_word_embeddings"), bool):
            return bool(place["tie_word_embeddings"])
    return None


def copies_of(names: Iterable[str]) -> dict[str, str]:
    """Copy -> original, for tensors that models often tie: what is stored of them decides whether they are."""
    known = dict.fromkeys(names)  # in their order: what ends in several of them must be the same original each time
    out: dict[str, str] = {}
    for name in known:
        for end, originals in _COPIES.items():
            if name == end or name.endswith(f".{end}"):
                found = sorted(
                    (n for n in known for o in originals if n != name and f".{n}".endswith(f".{o}.weight")), key=len
                )
                if found:
                    out[name] = found[0]
                break
        if name.endswith("decoder.bias") and (own := name.removesuffix("decoder.bias") + "bias") in known:
            out[name] = own
    return out


def _is_copy(source: Source, copy: str, original: str) -> bool:
    """Whether a model's stored copy has the original's values. A change that names the copy makes it another tensor."""
    if isinstance(source, View) and copy in source.names and original in source.names:
        return _is_copy(source.source, source.names[copy], source.names[original])
    if isinstance(source, Tuned):
        return copy not in source.changes and _is_copy(source.base, copy, original)
    if source.entries[copy] != source.entries[original]:
        return False
    return source.raw(copy) == source.raw(original)


def _tied(sources: Sequence[Source], more: Mapping[str, str]) -> Agreement:
    """The models with every copy left out, or as a tensor of its own in all of them. `more`: further copies by name."""
    pairs = {**copies_of(n for s in sources for n in s.entries), **more}
    out = Agreement(list(sources))
    for copy, original in pairs.items():
        have = [s for s in sources if copy in s.entries]
        if not have or any(original not in s.entries for s in sources):
            continue
        own = [s for s in have if not _is_copy(s, copy, original)]
        tied = [s for s in sources if s not in own and (s in have or ties(s.config) is not False)]
        if not own and (ties(sources[0].config) or copy not in sources[0].entries):
            out.sources = [_shown(s, [n for n in s.entries if n != copy]) for s in out.sources]
            continue
        if not own:
            out.alike[copy] = original
        elif len(own) < len(sources) or ties(sources[0].config):
            out.untied = True
            out.notes.append(
                f"'{copy}' is a tensor of its own in {len(own)} of {len(sources)} models, and so it is in the result"
            )
        out.sources = [
            View(s, {**{n: n for n in s.entries}, copy: original}) if before in tied and copy not in s.entries else s
            for s, before in zip(out.sources, sources, strict=True)
        ]
    return out


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


def _reads_tokens(config: Mapping[str, Any]) -> bool:
    """Whether a config has a vocabulary: forecasters have none, and a policy's is of one token that it never reads."""
    sizes = [place.get("vocab_size") for place in (config, config.get("text_config")) if isinstance(place, Mapping)]
    return any(isinstance(size, int) and size > 1 for size in sizes)


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
        if tokens is None and not _reads_tokens(s.config):
            continue
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
