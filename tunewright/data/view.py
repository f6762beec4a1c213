"""What counts in the loss, token by token, for one row of each source: as data, and coloured for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.text import Text

from tunewright.contract.batch import Row
from tunewright.data.truncate import SEVERAL_TEXTS
from tunewright.tasks._boxes import BOXED
from tunewright.tasks._masks import SEGMENTED
from tunewright.tasks._parts import CLASSED, CODED, NOISED, PICTURE

Token = tuple[str, float]
"""A token's text and its weight in the loss (0: context only)."""


def token_view(row: Row, tokenizer: Any) -> list[Token]:
    """(text, weight) for each token. The first token of a row is never a target, so its weight is shown as 0.

    A row with one target shows its text as context, then the target; one of several texts each of them, a line each:
    what the first should be near to counts.
    """
    if row.fields.get("kind") in SEVERAL_TEXTS:
        return _several(row, tokenizer)
    if row.fields.get("kind") == SEGMENTED:
        return _pixels(row)
    if row.fields.get("kind") == BOXED:
        return _boxes(row)
    if row.fields.get("kind") in (PICTURE, CLASSED):
        return _views(row)
    if row.fields.get("kind") == NOISED:
        noise = ("[the noise put into its picture, at a step of the schedule that is drawn]", float(row.weights[0]))
        return [*[(_text(tokenizer, i), 0.0) for i in row.input_ids], noise]
    if row.fields.get("kind") == CODED:
        codes = ("[the codes of its picture, map by map, each map from the coarser ones]", float(row.weights[0]))
        return [*[(_text(tokenizer, i), 0.0) for i in row.input_ids], codes]
    texts = [_text(tokenizer, i) for i in row.input_ids]
    if row.one_target:
        target = row.fields.get("target", "one target") if row.label is None else row.label
        answer = str(row.fields.get("reference", target))
        return [*[(t, 0.0) for t in texts], (f"[{answer}]", float(row.weights[0]))]
    if "windows" in row.fields:  # each end of a span counts; what lies between them is shown with it
        ends = list(zip(row.fields["targets"][::2], row.fields["targets"][1::2], row.weights[::2], strict=True))
        return [(t, next((w for a, b, w in ends if a <= i <= b), 0.0)) for i, t in enumerate(texts)]
    view = [(t, 0.0 if i == 0 else float(w)) for i, (t, w) in enumerate(zip(texts, row.weights, strict=True))]
    return _folded(view, row) if "shown" in row.fields else view


def _pixels(row: Row) -> list[Token]:
    """Each class of a mask with its share of the picture, the largest first, and the share that does not count."""
    targets, names = row.fields["targets"], row.fields["names"]
    shares = [(float((targets == k).mean()), name) for k, name in enumerate(names)]
    parts = [(f"[{name} {share:.1%}]", float(row.weights[0])) for share, name in sorted(shares, reverse=True) if share]
    outside = float((targets < 0).mean())
    return [*parts, (f"[without a class {outside:.1%}]", 0.0)] if outside else parts


def _boxes(row: Row) -> list[Token]:
    """Each class that is learnt with its boxes and their share of the picture, and what is there beside them."""
    names, classes = row.fields["names"], np.asarray(row.fields["classes"])
    shares = np.array(row.fields["boxes"]).reshape(-1, 4)[:, 2:].prod(1)
    out = list[Token]()
    for k in sorted({*classes.tolist()}, key=lambda k: (-int((classes == k).sum()), k)):
        many, count = shares[classes == k], int((classes == k).sum())
        boxes = f"{count} boxes of {many.min():.1%} to {many.max():.1%}" if count > 1 else f"a box of {many[0]:.1%}"
        out.append((f"[{names[k]}: {boxes}]", float(row.weights[0])))
    crowds = sum(len(one) > 2 for one in json.loads(row.fields["reference"]))
    if crowds:
        out.append((f"[crowds: {crowds}, not learnt]", 0.0))
    return out or [("[nothing]", float(row.weights[0]))]


def _views(row: Row) -> list[Token]:
    """What a picture without labels is learnt from; its class, where it has one, does not count."""
    learnt = ("[two changed views of it, near one another and far from other pictures']", float(row.weights[0]))
    named = row.fields["kind"] == CLASSED
    return [learnt, *([(f"[{row.fields['reference']}: measured by, not learnt]", 0.0)] if named else [])]


def _folded(view: list[Token], row: Row) -> list[Token]:
    """The view with each run of a picture's tokens as one, which says how many they are."""
    own, out, at = set(row.fields["shown"]["tokens"]), list[Token](), 0
    while at < len(view):
        end = at
        while end < len(view) and row.input_ids[end] in own:
            end += 1
        out.append((f"[picture: {end - at:,} tokens]", 0.0) if end > at else view[at])
        at = max(end, at + 1)
    return out


def _several(row: Row, tokenizer: Any) -> list[Token]:
    """The texts of a row that holds several, and its score where it has one."""
    texts, start = list[str](), 0
    for length in row.fields["lengths"]:
        texts.append(tokenizer.decode(row.input_ids[start : start + length], skip_special_tokens=True))
        start += length
    if row.fields["kind"] == "scored-pair":
        return [(f"{texts[0]}\n{texts[1]}\n", 0.0), (f"[{row.fields['reference']}]", float(row.weights[0]))]
    if "labels" in row.fields:
        return [(f"{text}\n[{label:g}]\n", label) for text, label in zip(texts, row.fields["labels"], strict=True)]
    first, *others = texts
    marked = [(f"\n{text}", float(row.weights[0])) for text in others[:1]]
    return [(first, 0.0), *marked, *((f"\nnot: {text}", 0.0) for text in others[1:])]


def one_a_source(sources: Sequence[Any], tokenizer: Any) -> dict[str, list[Token]]:
    """Source name -> view of its first row, for `Dataset.sources`."""
    return {d.name: token_view(d.rows[0], tokenizer) for d in sources if len(d.rows)}


def coloured(view: Sequence[Token], *, limit: int = 400) -> Text:
    """The view for a terminal: trained tokens bold on green (lighter weights on yellow), context dim, line ends
    marked.
    """
    out = Text()
    for i, (text, weight) in enumerate(view[:limit]):
        style = "dim" if weight == 0 else ("bold black on green" if weight >= 1 else "black on yellow")
        if weight > 0 and i % 2:  # neighbours are told apart by a shade
            style = style.replace("on green", "on bright_green").replace("on yellow", "on bright_yellow")
        out.append(text.replace("\n", "\u23ce\n"), style=style)
    if len(view) > limit:
        out.append(f" ... {len(view) - limit} more tokens", style="italic")
    return out


def _text(tokenizer: Any, token: int) -> str:
    """A token's text; a part of a character is shown by the tokenizer's own name for it."""
    text = tokenizer.decode([token])
    return tokenizer.convert_ids_to_tokens([token])[0] if "\ufffd" in text or not text else text
