"""What a finished run of image-text-to-text says of pictures that are no row of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.errors import MethodError
from tunewright.finished.finished import Finished
from tunewright.loading.quiet import quiet
from tunewright.models.generators import seeded
from tunewright.tasks.image_text_to_text import ImageTextToText, read_by

_SAID = "."  # in an answer's place, while a prompt is made


def answered(run: Finished, rows: Sequence[Any], max_new_tokens: int, temperature: float, strength: float) -> list[str]:
    """The answer to each row: a text, or a mapping of columns without the answer, whose paths start from the working
    folder.

    `temperature`: 0 is greedy; above it, draws that are the same each time. `strength`: 0 is the base. DataError for
    what the task cannot read, MethodError for a model of another task.
    """
    if not isinstance(run.task, ImageTextToText):
        what = f"a model of {run.task.name} is asked in texts, not in rows"
        raise MethodError(what, where="generate", remedy="give prompts as text")
    asked = []
    for i, given in enumerate(rows):
        name = f"prompt {i + 1}"
        try:
            asked.append(run.task.asked(_row(run, given, name)))
        except RowProblem as problem:
            raise problem.at(name).error() from None
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    how: dict[str, Any] = drawn if temperature else {}
    with run.adapted.evaluating(), run.adapted.at_strength(strength) as plain, torch.no_grad(), seeded(1), quiet():
        model = run.adapted.wrapper if run.adapted.wrapper is not None else plain
        texts = run.task.write(model, run.tokenizer, asked, max_new_tokens, **how)
    return [str(run.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in texts]


def _row(run: Finished, given: Any, name: str) -> Row:
    """A row that asks, with some answer."""
    columns = dict(given) if isinstance(given, Mapping) else {"prompt": given}
    if "messages" in columns:
        columns["messages"] = [*columns["messages"], {"role": "assistant", "content": _SAID}]
    else:
        columns = {"completion": _SAID, **({} if "prompt" in columns else {"text": _SAID}), **columns}
        columns = columns if "prompt" in columns else {k: v for k, v in columns.items() if k != "completion"}
    return run.task.encode(Record(columns, id=name, base="."), run.tokenizer, run.options)


def check_inputs(run: Finished) -> dict[str, Tensor]:
    """All that the model reads of two rows with a picture each, noise and the same each time, of equal length."""
    drawn, rows = np.random.default_rng(0), []
    for i in range(2):
        noise = drawn.integers(0, 256, (64, 64, 3), dtype=np.uint8).tolist()
        rows.append(_row(run, {"prompt": "what is it", "image": noise}, f"noise {i + 1}"))
    inputs = run.task.collate(rows).inputs
    return read_by(run.adapted.model, inputs)
