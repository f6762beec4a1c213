"""What tasks are made of, ours and third parties': padding, epochs, templates, labels from names or ids, and a forward
that sees what the head reads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.models import context
from tunewright.pieces.heads import classifier_head


def pad(sequences: Sequence[Sequence[int]], value: int = 0) -> tuple[Tensor, Tensor]:
    """Right-pad to the longest: ids and attention mask, both int64 [R, L]."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), value, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, s in enumerate(sequences):
        ids[i, : len(s)] = torch.as_tensor(s, dtype=torch.long)
        mask[i, : len(s)] = 1
    return ids, mask


def epochs_of(rows: Sequence[Row], epochs: Sequence[int] | None) -> list[int]:
    """One epoch a row; 0 where none are given."""
    if epochs is None:
        return [0] * len(rows)
    if len(epochs) != len(rows):
        raise ValueError(f"{len(epochs)} epochs for {len(rows)} rows")
    return list(epochs)


@lru_cache
def named_in(template: str) -> frozenset[str]:
    """The columns that a template names; none of one that cannot be read."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field]
    except ValueError:
        return frozenset()
    return frozenset(re.split(r"[.\[]", field, maxsplit=1)[0] for field in fields)


def fill(template: str, record: Record, *, answers: Collection[str] = (), **extra: Any) -> str:
    """The recipe's template with a row's columns in it. RowProblem where it names what the row does not have, or what
    is to be answered (`answers`): the model would be told it.
    """
    if told := named_in(template) & set(answers):
        name = "{" + min(told) + "}"
        raise RowProblem(
            "template",
            f"data.template writes the answer, {name}, into what the model is asked",
            f"take {name} out of it",
        )
    try:
        return template.format(**{**record, **extra})
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        columns = ", ".join("{" + k + "}" for k in sorted({*record, *extra}))
        raise RowProblem(
            "template",
            f"data.template cannot be filled: {error}",
            f"it may name {columns}; write a plain brace as {{{{ or }}}}",
        ) from None


@dataclass(frozen=True)
class HeadRead:
    """One forward: the model's output, what its head read ([R, D], or [R, L, D] of a head that reads every token; none
    where no head ran), the head, and what the rows were (`models.context.Present`).
    """

    out: Any
    read: Tensor | None
    head: nn.Linear
    present: Any


def read_head(model: nn.Module, batch: Batch, inputs: dict[str, Any], *, hidden: bool = False) -> HeadRead:
    """Run a model with a head of `config.num_labels` outputs. Methods that ask whose token stands where are told.

    ModelError where the model has no such head.
    """
    seen: list[Tensor] = []
    head = classifier_head(model)
    hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        now = context.of_batch(batch)
        with context.reading(now):
            out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    finally:
        hook.remove()
    return HeadRead(out, seen[-1] if seen else None, head, now)


def label_id(value: Any, labels: Sequence[str] | None, field: str = "label") -> int:
    """A label's id from its name, else from its place in `labels`. Raises RowProblem for what is neither; `field`: the
    column that it names.

    A number is a name wherever a label's name is a number ("1" to "5"); then it is never taken for a place.
    """
    if labels is None:
        raise RowProblem(
            field, "the label names are not known", "give EncodeOptions.labels, from tasks.base.discover_labels"
        )
    known = f"write one of: {', '.join(labels[:5])}" + (", ..." if len(labels) > 5 else "")
    if is_missing(value):
        raise RowProblem(field, "the label is missing (null or NaN)", known)
    if isinstance(value, str) and not value.strip() and value not in labels:
        raise RowProblem(field, "the label is empty", known)
    if isinstance(value, str) and value in labels:
        return list(labels).index(value)
    if isinstance(value, bool):
        for i, label in enumerate(labels):
            if label.lower() == str(value).lower():
                return i
    number = _number(value)
    if number is None:
        raise _no_label(value, known, field)
    if (name := label_name(value)) in labels:
        return list(labels).index(name)
    spelled = [_number(label) for label in labels]
    if spelled.count(number) == 1:
        return spelled.index(number)
    if number in spelled:
        raise RowProblem(field, f"{value!r} may be any of several labels that are this number", known)
    if any(n is not None for n in spelled):
        raise RowProblem(field, f"{value!r} is no known label (the labels' names are numbers)", known)
    if not 0 <= number < len(labels):
        raise RowProblem(field, f"label id {value!s:.20} is outside 0..{len(labels) - 1}", known)
    return number


def is_missing(value: Any) -> bool:
    """Whether a label is not given: null, or NaN as tables write it."""
    return value is None or isinstance(value, float) and math.isnan(value)


def label_name(value: Any) -> str:
    """The name that a label's value means: 1 and 1.0 are "1"."""
    number = None if isinstance(value, str) else _number(value)
    return str(value if number is None else number)


def _number(value: Any) -> int | None:
    """The whole number that a value is or, as text, spells; None for anything else."""
    if isinstance(value, str):
        value = value.strip()
        return int(value.split(".")[0]) if len(value) < 100 and re.fullmatch(r"[+-]?[0-9]+(\.0+)?", value) else None
    try:
        number = int(value)
        return number if number == value else None
    except (TypeError, ValueError, OverflowError):  # a list, NaN, infinity
        return None


def _no_label(value: Any, known: str, field: str) -> RowProblem:
    if isinstance(value, str):
        return RowProblem(field, f"{value[:60]!r} is no known label", known)
    if isinstance(value, int | float):
        return RowProblem(field, f"{value} is no class id", "for classification write a class name or a whole number")
    return RowProblem(field, f"a label is a name or an id, not {type(value).__name__}", known)


def _names_a_class(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return not isinstance(value, float) or _number(value) is not None


def discover_labels(
    records: Iterable[Record], values_of: Callable[[Record], Iterable[Any]] = lambda record: (record.get("label"),)
) -> tuple[str, ...]:
    """Class names of a data set, in order; what no row can have is skipped: missing and empty labels, broken numbers.
    `values_of`: the labels that a record names.

    Names of numbers are in the order of the numbers, others in that of the alphabet. Where every label is a number,
    those below 0 are none (data sets write -1 where a label is held back), and where at least half of the numbers from
    0 to the largest occur, the others up to it are classes, too; not so where all are written with a point (1.0):
    those are values of a table, and its classes are the values.
    """
    given = [v for r in records for v in values_of(r) if not is_missing(v)]
    values = [v for v in given if _names_a_class(v)] or given  # where none can be, each row says why
    names = {label_name(v) for v in values}
    numbers = {name: number for name in names if (number := _number(name)) is not None}
    if len(numbers) < len(names):
        return tuple(sorted(names))
    if values and not any(isinstance(v, str) for v in values):
        numbers = {name: number for name, number in numbers.items() if number >= 0}
        names, most = set(numbers), max(numbers.values(), default=-1) + 1
        pointed = all(isinstance(v, float) or getattr(getattr(v, "dtype", None), "kind", "") == "f" for v in values)
        if most <= 2 * len(names) and not pointed:
            return tuple(str(i) for i in range(most))
    return tuple(sorted(names, key=lambda name: (numbers[name], name)))


def in_type(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs with numbers in the type that the model computes in: the first layer of some is a convolution, which takes
    no other.
    """
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return {name: x.to(kind) if x.is_floating_point() else x for name, x in inputs.items()}
