"""Which of a file's columns are those that a row shape needs, where they are called otherwise: for a first recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CALLED: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "query", "instruction", "input", "source", "user", "problem"),
    "completion": ("answer", "response", "output", "target", "reply", "assistant", "solution"),
    "chosen": ("accepted", "preferred", "better"),
    "rejected": ("dispreferred", "worse"),
    "text": (
        *(
            "transcript",
            "transcription",
            "body",
            "content",
            "sentence",
            "review",
            "comment",
            "message",
            "tweet",
            "document",
            "utterance",
            "passage",
        ),
        *("article", "abstract", "description", "title", "headline", "review_text", "review_body", "texts"),
    ),
    "label": (
        *("labels", "category", "class", "target", "topic", "intent", "sentiment", "tag", "rating", "stars", "score"),
        *("genre", "emotion", "language", "lang", "type", "spam", "polarity"),
    ),
    "image": ("img", "picture", "photo", "image_path", "img_path", "path", "file", "filename", "file_name", "filepath"),
    "audio": ("recording", "audio_path", "audio_file", "audio_filepath", "wav", "wav_path", "clip", "speech", "sound"),
}
"""What people call a column, most usual first."""
SHAPES = (
    *(("prompt", "chosen", "rejected"), ("prompt", "completion"), ("audio", "text"), ("audio", "label")),
    *(("image", "label"), ("text", "label")),
)
"""The shapes that are looked for, in order; text alone is the last that is thought of."""
ENOUGH = 6
"""Rows from which on it is told by what stands in two columns which is the label."""


def guessed(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Column of a shape -> the file's, of those that differ; by their names, else by their values. Empty where neither
    tells.
    """
    if not rows:
        return {}
    columns = list(rows[0])
    found = next((f for shape in SHAPES if (f := _named(shape, columns)) is not None), None)
    found = found or _by_values(rows, [c for c in columns if not c.startswith("Unnamed: ")])
    found = found or _named(("text",), columns) or {}
    return {ours: theirs for ours, theirs in found.items() if ours != theirs}


def _named(shape: Sequence[str], columns: Sequence[str]) -> dict[str, str] | None:
    """Each column of a shape by the name that it has among `columns`; None where one is missing."""
    folded = {c.strip().lower().replace(" ", "_").replace("-", "_"): c for c in reversed(columns)}
    out: dict[str, str] = {}
    for ours in shape:
        theirs = next((folded[n] for n in (ours, *CALLED[ours]) if n in folded and folded[n] not in out.values()), None)
        if theirs is None:
            return None
        out[ours] = theirs
    return out


def _by_values(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """Of two columns, the one whose few short values come again and again is the label."""
    if len(columns) != 2 or len(rows) < ENOUGH:
        return {}
    values = {c: [str(r[c]) for r in rows if r.get(c) is not None] for c in columns}
    text, label = sorted(columns, key=lambda c: -sum(map(len, values[c])))
    repeated = len(set(values[label])) <= len(values[label]) / 2
    several = len(set(values[text])) > len(values[text]) / 2
    return {"text": text, "label": label} if repeated and several and values[label] else {}
