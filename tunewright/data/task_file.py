"""Files of tasks that are told in words (Mishra et al. 2021, arXiv:2104.08773; papers: natural-instructions): one JSON
object with a task's instructions and its instances, in either form that the authors' repositories have.

    Title, Prompt, Emphasis & Caution, Things to Avoid       texts of the first form, "-" where there is none
    Definition                                               a text, or a list of texts
    Positive Examples, Negative Examples                     [{input, output, explanation | reason}], also in `Examples`
    Instances                                                [{input, output}], one output or a list of right ones

Each instance becomes a row with the task's name (the file's) and all of its fields beside it. The formats say which of
them the prompt holds, as the paper compares them:

    natural-instructions               all of them
    natural-instructions-definition    title, prompt and definition
    natural-instructions-examples      title, prompt and the positive examples
    natural-instructions-input         none: the input alone

`fold` is a whole number from 0 to 9 that hangs on the task's name alone: `where: {fold: [0, 1]}` holds those tasks out,
whole and the same ones everywhere; `where: {task: [...]}` names them.

Differs from the paper in: the words between the fields are ours; as many examples are shown as `EXAMPLES` says, two of
each kind, where the paper fills the model's input; a row with several right outputs is learnt, and measured, by the
first (the others stay in `outputs`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.contract.shape import Shape
from tunewright.data.raw import Bad

PAPERS = ("natural-instructions",)
FOLDS, EXAMPLES = 10, 2
TEXTS = {
    "title": "Title",
    "asks": "Prompt",
    "definition": "Definition",
    "avoid": "Things to Avoid",
    "emphasis": "Emphasis & Caution",
}
"""Column -> the key of a task's text."""
SAID = {
    "title": "Title",
    "asks": "Task",
    "definition": "Definition",
    "avoid": "Things to avoid",
    "emphasis": "Mind",
}
KINDS = {"negative": "Negative Examples", "positive": "Positive Examples"}
FORMATS = {
    "natural-instructions": (*SAID, "negative", "positive"),
    "natural-instructions-definition": ("title", "asks", "definition"),
    "natural-instructions-examples": ("title", "asks", "positive"),
    "natural-instructions-input": (),
}
"""What each format's prompt holds, in order."""


def is_task(value: Any) -> bool:
    """Whether a JSON value is a task with its instances."""
    return isinstance(value, dict) and isinstance(value.get("Instances"), list) and "Definition" in value


def fold_of(task: str) -> int:
    """The fold of a task, 0 .. 9."""
    return int.from_bytes(hashlib.sha256(task.encode()).digest()[:4], "big") % FOLDS


def task_rows(value: Mapping[str, Any], name: str) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    """The rows of a task, numbered from 1, each with the task's fields; an instance that is none is a Bad one."""
    about: dict[str, Any] = {"task": name, "fold": fold_of(name)}
    categories = value.get("Categories")
    if isinstance(categories, list) and categories and isinstance(categories[0], str):
        about["category"] = categories[0]
    about |= {column: _text(value.get(key)) for column, key in TEXTS.items()}
    inner = value.get("Examples")
    where = {**value, **inner} if isinstance(inner, Mapping) else value
    about |= {column: _examples(where.get(key)) for column, key in KINDS.items()}
    for number, one in enumerate(value["Instances"], 1):
        outputs = one.get("output") if isinstance(one, dict) else None
        outputs = [outputs] if isinstance(outputs, str) else outputs
        whole = isinstance(one, dict) and isinstance(one.get("input"), str)
        if not whole or not isinstance(outputs, list) or not outputs or not all(isinstance(o, str) for o in outputs):
            remedy = 'write {"input": "...", "output": ["..."]}'
            yield number, Bad("Instances", "an instance needs an input and an output, both texts", remedy)
            continue
        yield number, {**about, "input": one["input"], "outputs": outputs}


def _text(value: Any) -> str:
    """A field of a task; "" where it says that there is none."""
    said = "\n".join(v for v in value if isinstance(v, str)) if isinstance(value, list) else value
    return said.strip() if isinstance(said, str) and said.strip() not in ("-", "") else ""


def _examples(value: Any) -> list[dict[str, str]]:
    found = []
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict) and isinstance(one.get("input"), str):
            out = one.get("output", "")
            reason = one.get("explanation", one.get("reason", ""))
            found.append({"input": one["input"], "output": _text(out), "reason": _text(reason)})
    return found


def prompt_of(row: Mapping[str, Any], fields: tuple[str, ...]) -> str:
    """The prompt of a row: the fields that it holds and is to show, then the input."""
    parts = []
    for field in fields:
        if field in SAID:
            parts += [f"{SAID[field]}: {row[field]}"] if row.get(field) else []
            continue
        for number, one in enumerate((row.get(field) or [])[:EXAMPLES], 1):
            reason = f"\nReason: {one['reason']}" if one["reason"] else ""
            told = f"Input: {one['input']}\nOutput: {one['output']}{reason}"
            parts.append(f"{field.capitalize()} example {number}\n{told}")
    return "\n\n".join([*parts, f"Input: {row['input']}\n\nOutput:\n"])


def _shape(name: str, fields: tuple[str, ...]) -> Shape:
    def canonical(row: dict[str, Any]) -> dict[str, Any]:
        outputs = row["outputs"]
        if not isinstance(outputs, list) or not outputs:
            raise RowProblem("outputs", "it is no list of right outputs", 'write ["yes"]')
        return {**row, "prompt": prompt_of(row, fields), "completion": outputs[0]}

    return Shape(name, ("definition", "input", "outputs"), canonical)


TASK_SHAPES = tuple(_shape(name, fields) for name, fields in FORMATS.items())
