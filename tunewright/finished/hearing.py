"""What a finished run of speech recognition hears in recordings that are no row of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.finished.finished import Finished
from tunewright.loading.quiet import quiet
from tunewright.models.generators import seeded


def written_down(
    run: Finished, recordings: Sequence[Any], max_new_tokens: int, temperature: float, strength: float
) -> list[str]:
    """The text of each recording: a path from the working folder, or a mapping of a row's columns.

    `temperature`: 0 is greedy; above it, draws that are the same each time. `strength`: 0 is the base. DataError for
    what is no recording that the model reads.
    """
    asked = []
    for i, given in enumerate(recordings):
        columns = given if isinstance(given, Mapping) else {"audio": given}
        record = Record(columns, id=f"recording {i + 1}", base=".")
        try:
            fields = run.task.heard(record, run.tokenizer, run.options)  # type: ignore[attr-defined]
            asked.append(run.task.asked(Row(record.id, "", fields=fields)))
        except RowProblem as problem:
            raise problem.at(str(columns.get("audio"))[:80]).error() from None
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "num_beams": 1}
    how: dict[str, Any] = drawn if temperature else {}
    with run.adapted.evaluating(), run.adapted.at_strength(strength) as plain, torch.no_grad(), seeded(1), quiet():
        model = run.adapted.wrapper if run.adapted.wrapper is not None else plain
        texts = run.task.write(model, run.tokenizer, asked, max_new_tokens, **how)
    return [str(run.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in texts]
