"""The row shapes of the field, recognised by their columns and brought to one of a few canonical ones.

Canonical: `messages` (+ `tools`); `prompt` + `completion` (+ `system`); `prompt` + `chosen` + `rejected`; `text` +
`label`, `labels` or `score`; `image` + `label`, `text`, `mask` or `objects`; those of texts with `image` or
`images` beside them; `audio` + `label`; `audio` + `text`; `text`; `question` +
`choices`; `question` + `context` + `answers`; `tokens` + `tags`; `anchor` + `positive` (+ `negative` or `negatives`);
`sentence1` + `sentence2` + `score`; `query` + `passage` + `label`; `audio` or `image` with whatever else there is.
Columns that a shape does not use stay in the row as they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.contract.shape import Shape, as_it_is
from tunewright.data.sharegpt import turns_of
from tunewright.data.task_file import TASK_SHAPES
from tunewright.errors import MethodError, did_you_mean, nearest
from tunewright.machine import installed
from tunewright.tasks._parts import (
    FEATURES,
    FORECASTING,
    PLAYING,
    SERIES,
    STEPS,
    TABLE,
    TO_IMAGE,
    TRAJECTORY,
    UNCONDITIONAL,
)

Row = dict[str, Any]


def _sharegpt(row: Row) -> Row:
    messages = turns_of(row["conversations"])
    system = row.get("system")
    if isinstance(system, str) and system and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": system})
    return {**{k: v for k, v in row.items() if k not in ("conversations", "system")}, "messages": messages}


def _alpaca(row: Row) -> Row:
    instruction, given = row["instruction"], row.get("input")
    if not isinstance(instruction, str):
        raise RowProblem(
            "instruction", f"text is needed, not {type(instruction).__name__}", "write it as a JSON string"
        )
    prompt = f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction
    history = row.get("history") or []
    rest = {k: v for k, v in row.items() if k not in ("instruction", "input", "output", "response", "history")}
    answer = row["output"] if "output" in row else row["response"]
    if not history:
        return {**rest, "prompt": prompt, "completion": answer}
    turns = [
        {"role": role, "content": said}
        for pair in history
        for role, said in zip(("user", "assistant"), pair, strict=False)
    ]
    system = [{"role": "system", "content": rest.pop("system")}] if rest.get("system") else []
    return {
        **rest,
        "messages": [*system, *turns, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
    }


def _pair_as_chat(row: Row) -> Row:
    """`chosen` and `rejected` as whole conversations: their common beginning is the prompt."""
    chosen, rejected = row["chosen"], row["rejected"]
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise RowProblem(
            "prompt", "a pair needs a prompt", "add 'prompt', or write chosen and rejected as lists of turns"
        )
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if not n or n == len(chosen) or n == len(rejected):
        raise RowProblem(
            "rejected",
            "chosen and rejected must begin alike and end differently",
            "write the same turns before the two answers",
        )
    return {**row, "prompt": chosen[:n], "chosen": chosen[n:], "rejected": rejected[n:]}


def _renamed(old: str, new: str) -> Callable[[Row], Row]:
    return lambda row: {**{k: v for k, v in row.items() if k != old}, new: row[old]}


_NUMBERED = re.compile(r"negative_\d+")


def _negatives(row: Row) -> Row:
    """`negative_1`, `negative_2` ... as one list."""
    names = sorted((c for c in row if _NUMBERED.fullmatch(c)), key=lambda c: int(c.rpartition("_")[2]))
    rest = {k: v for k, v in row.items() if k not in names}
    more = [row[c] for c in names if row[c] is not None]
    return {**rest, "negatives": [*rest.get("negatives", []), *more]} if more else rest


def _segments(row: Row) -> Row:
    """A text in pieces, which may be scored one by one."""
    texts = row["texts"]
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise RowProblem("texts", "it is no list of texts", 'write ["A sentence.", " And the next."]')
    return {**row, "text": "".join(texts)}


def _as_mask(name: str) -> Callable[[Row], Row]:
    return as_it_is if name == "mask" else _renamed(name, "mask")


def _as_series(row: Row) -> Row:
    from tunewright.data import gluonts  # reading a recipe needs no numpy

    return gluonts.canonical(dict(row))


def _as_trajectory(name: str) -> Callable[[Row], Row]:
    def canonical(row: Row) -> Row:
        from tunewright.data import trajectories  # reading a recipe needs no numpy

        return {TRAJECTORY: trajectories.trajectory_of({**row, "observations": row[name]})}

    return canonical


_SEEN = ("images", "image")
"""Columns of pictures beside texts."""

SHAPES = (
    *(Shape("pictured-chat", ("messages", seen), as_it_is) for seen in _SEEN),
    *(Shape("pictured-chat", ("conversations", seen), _sharegpt) for seen in _SEEN),
    *(Shape("pictured-prompt", ("prompt", "completion", seen), as_it_is) for seen in reversed(_SEEN)),
    *(Shape("pictured-prompt", ("prompt", "response", seen), _renamed("response", "completion")) for seen in _SEEN),
    Shape("chat", ("messages",), as_it_is),
    Shape("sharegpt", ("conversations",), _sharegpt),
    Shape("preference", ("prompt", "chosen", "rejected"), as_it_is),
    Shape("preference-chat", ("chosen", "rejected"), _pair_as_chat),
    Shape("stepwise", ("prompt", "completions", "scores"), as_it_is),
    Shape("stepwise", ("prompt", "completions", "labels"), _renamed("labels", "scores")),
    Shape("prompt-completion", ("prompt", "completion"), as_it_is),
    Shape("prompt-completion", ("prompt", "response"), _renamed("response", "completion")),
    Shape("alpaca", ("instruction", "output"), _alpaca),
    Shape("alpaca", ("instruction", "response"), _alpaca),
    *TASK_SHAPES,
    *(Shape("image-mask", ("image", name), _as_mask(name)) for name in ("mask", "annotation")),
    Shape("image-objects", ("image", "objects"), as_it_is),
    Shape("image-label", ("image", "label"), as_it_is),
    Shape("audio-label", ("audio", "label"), as_it_is),
    Shape("audio-text", ("audio", "text"), as_it_is),
    *(Shape("audio-text", ("audio", name), _renamed(name, "text")) for name in ("transcription", "sentence")),
    Shape("audio", ("audio",), as_it_is),
    Shape("image-text", ("image", "text"), as_it_is),
    Shape("image-text", ("image", "caption"), _renamed("caption", "text")),
    Shape("text-label", ("text", "label"), as_it_is),
    Shape("text-labels", ("text", "labels"), as_it_is),
    Shape("text-score", ("text", "score"), as_it_is),
    Shape("text", ("text",), as_it_is),
    Shape("segments", ("texts",), _segments),
    Shape("image", ("image",), as_it_is),
    Shape("choices", ("question", "choices"), as_it_is),
    Shape("choices", ("sent1", "ending0"), as_it_is),
    Shape("choices", ("ctx", "endings"), as_it_is),
    Shape("question-context", ("question", "context", "answers"), as_it_is),
    Shape("tagged", ("tokens", "tags"), as_it_is),
    Shape("tagged", ("tokens", "ner_tags"), _renamed("ner_tags", "tags")),
    Shape("tagged", ("tokens", "labels"), _renamed("labels", "tags")),
    Shape("positive-pair", ("anchor", "positive"), _negatives),
    Shape("positive-pair", ("query", "positive"), _negatives),
    Shape("judged-passage", ("query", "passage", "label"), as_it_is),
    Shape("scored-pair", ("sentence1", "sentence2", "score"), as_it_is),
    Shape(SERIES, ("start", "target"), _as_series),
    *(Shape(TRAJECTORY, (name, "actions", "rewards"), _as_trajectory(name)) for name in ("observations", "states")),
    Shape(STEPS, ("episode", "observation", "action", "reward"), as_it_is),
)
"""In the order in which they are tried: the first whose columns are all there."""
SHAPELESS = "row"
"""The field of a problem with a row whose columns are no known shape."""
RECORDED = frozenset({"audio-label", "audio-text", "audio"})
"""The shapes of rows that are recordings, which a task has to say that it reads."""


_OF_TASK: dict[str, tuple[str, ...]] = {
    "audio-classification": ("audio-label",),
    "automatic-speech-recognition": ("audio-text",),
    "fill-mask": ("text",),
    "image-classification": ("image-label",),
    FEATURES: ("image", "image-label"),
    "image-segmentation": ("image-mask", "image-label"),
    "image-text-to-text": ("pictured-prompt", "pictured-chat", "image-text"),
    "multiple-choice": ("choices",),
    "object-detection": ("image-objects",),
    "question-answering": ("question-context",),
    "reward-modeling": ("preference", "preference-chat", "stepwise", "prompt-completion"),
    "sentence-similarity": ("positive-pair", "scored-pair"),
    "text-classification": ("text-label", "text-labels", "text-score"),
    "text-generation": ("prompt-completion", "chat", "preference", "text"),
    "text-ranking": ("judged-passage", "positive-pair"),
    "text2text-generation": ("prompt-completion", "chat"),
    FORECASTING: (SERIES,),
    PLAYING: (TRAJECTORY, STEPS),
    "token-classification": ("tagged",),
    UNCONDITIONAL: ("image",),
    TO_IMAGE: ("image-text", "image-label"),
    "zero-shot-image-classification": ("image-text", "image-label"),
}


def columns_of(task: str) -> list[tuple[str, ...]]:
    """The columns of the row shapes that a task reads, most usual first; none where nobody says."""
    of = {s.name: s.columns for s in reversed(SHAPES)}
    if task in _OF_TASK:
        return [of[name] for name in _OF_TASK[task]]
    return [added(n).columns for n in installed.points(installed.SHAPES) if task_of(n) == task]


def named_for(task: str) -> str:
    """How to name a file's columns as the rows of a task have them; "" where nobody says."""
    if not (known := columns_of(task)):
        return ""
    first = ", ".join(f"{c}: your_column" for c in known[0])
    return f"rows of {task} have {' or '.join(' + '.join(c) for c in known)}: name them, columns: {{{first}}}"


def shape_names() -> list[str]:
    """Names of all shapes, those of other packages last."""
    return list(dict.fromkeys([*(s.name for s in SHAPES), *installed.points(installed.SHAPES)]))


def is_format(wanted: str) -> bool:
    """Whether a source's `format` means a shape, by its name or by one of its columns; those of other packages too, and
    tables, whose columns may be any.
    """
    if wanted == TABLE or wanted in shape_names() or any(wanted in s.columns for s in SHAPES):
        return True
    return any(wanted in s.columns for s in _added()[0])


@functools.cache
def added(name: str) -> Shape:
    """The shape of another package. MethodError where its entry point gives none."""
    point = installed.points(installed.SHAPES)[name]
    shape = point.load({s.name for s in SHAPES})
    if not isinstance(shape, Shape) or not shape.columns:
        raise point.wrong("Shape with columns")
    return replace(shape, name=name)


def task_of(name: str) -> str:
    """The task that another package says rows of a shape are for; "" where it says none."""
    return added(name).task if name in installed.points(installed.SHAPES) else ""


def _added() -> tuple[list[Shape], list[str]]:
    """The shapes of other packages, and what is wrong with those that cannot be had."""
    shapes, broken = list[Shape](), list[str]()
    for name in installed.points(installed.SHAPES):
        try:
            shapes.append(added(name))
        except MethodError as error:
            broken.append(error.what)
    return shapes, broken


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    """Apply `columns` (canonical name -> the file's). RowProblem when the file has no such column."""
    out = {k: v for k, v in row.items() if k not in columns.values()}
    for ours, theirs in columns.items():
        if theirs not in row:
            near = nearest(theirs, row, n=1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            raise RowProblem(
                theirs,
                f"columns names '{theirs}', which the row does not have",
                f"{guess}The row has {', '.join(row)}: name one of them, or take '{ours}' out of columns",
            )
        out[ours] = row[theirs]
    return out


def recognise(row: Mapping[str, Any], wanted: str | None = None) -> Shape:
    """The shape of a row, by its columns; `wanted` names one. RowProblem says what is missing.

    Shapes of other packages are tried last: installing one changes nothing about rows that were read before.
    """
    if wanted is None:
        for shape in SHAPES:
            if row.keys() >= shape.needs:
                return shape
    own = {s.name for s in SHAPES}
    others, broken = [added(wanted)] if wanted in {*installed.points(installed.SHAPES)} - own else [], list[str]()
    if not others and wanted not in own:
        others, broken = _added()
    every = (*SHAPES, *others)
    named = [s for s in every if wanted is None or s.name == wanted]
    candidates = named or [s for s in every if wanted in s.columns]
    if not candidates:
        raise RowProblem("format", f"no row shape is called '{wanted}'", did_you_mean(str(wanted), shape_names()))
    for shape in candidates:
        if all(c in row for c in shape.columns):
            return shape
    has = ", ".join(sorted(row)) or "nothing"
    if wanted is not None:
        lacks = [c for c in candidates[0].columns if c not in row]
        raise RowProblem(
            lacks[0],
            f"a row of shape '{candidates[0].name}' has {' + '.join(candidates[0].columns)}; this one has {has}",
            "add it, or name its column in the source, by columns",
        )
    if "question" in row and "answer" in row:
        raise RowProblem(
            "prompt",
            f"the row's columns ({has}) are no known shape",
            "write columns: {prompt: question, completion: answer}",
        )
    known = "; ".join(dict.fromkeys(" + ".join(s.columns) for s in every))
    raise RowProblem(
        SHAPELESS,
        "; ".join([f"the row's columns ({has}) are no known shape", *broken]),
        f"name them with columns: {{prompt: ..., completion: ...}}; known: {known}",
    )


def canonical(row: Mapping[str, Any], columns: Mapping[str, str], wanted: str | None = None) -> tuple[Row, str]:
    """Bring a row to its canonical shape; return it with the shape's name. Raises RowProblem."""
    named = rename(row, columns) if columns else dict(row)
    shape = recognise(named, wanted)
    try:
        return shape.canonical(named), shape.name
    except RowProblem:
        raise
    except Exception as error:
        if shape in SHAPES:
            raise
        comes_from = installed.points(installed.SHAPES)[shape.name].comes_from
        raise RowProblem(
            "row",
            f"the shape '{shape.name}' of {comes_from} failed on it: {type(error).__name__}: {error}",
            "take the row out; if nothing is wrong with it, the package has a defect",
        ) from error
