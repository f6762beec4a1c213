"""What both tasks of tables have: a row is written cell by cell (`tasks._table`) and read by a text encoder's
classification head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.method import row_rng
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import SINGLE_LABEL, EncodeOptions
from tunewright.errors import MethodError
from tunewright.tasks import _table
from tunewright.tasks._parts import DATE, NUMBER
from tunewright.tasks._segments import ids_of
from tunewright.tasks.text_classification import TextClassification


class Tabular(TextClassification):
    """`Row.fields`: `cells` (a number, a text or None for each column of the layout), `starts` (the token that each
    cell begins at, and where the last one ends) where cells change their order, `factors` [T] where numbers scale
    embeddings, `cut` where the row was too long.
    """

    kind: ClassVar[str] = "text-classification"
    problem_type: ClassVar[str] = SINGLE_LABEL
    problem_types: ClassVar[tuple[str, ...]] = ()

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode `cells` and `label`. A `text` that a method made or changed is read in the cells' place, as it is."""
        layout, cells, text = options.table, record.get("cells"), record.get("text")
        if layout is None:
            raise RowProblem("cells", "nobody says what the columns are", "give EncodeOptions.table")
        if not isinstance(cells, dict) and not isinstance(text, str):
            raise RowProblem("cells", "the row is not read as one of a table", "write format: table in the source")
        label, fields = self.target(record, options)
        if not isinstance(cells, dict) or "text" in record and text != _table.plain_text(cells):
            row = super().encode(record, tokenizer, options)
            return Row(row.id, row.source, row.input_ids, row.weights, label, fields)
        parts = _table.parts_of(cells, layout)
        if options.truncation in ("auto", "split"):
            parts, cut = _table.fitted(
                parts, lambda said: len(ids_of(tokenizer, said, special=True)), options.max_length
            )
            fields |= {"cut": True} if cut else {}
        said = _table.text_of(parts)
        ids = ids_of(tokenizer, said, special=True)
        fields["cells"] = [_plain(cells.get(c["name"]), c["kind"]) for c in layout["columns"]]
        if layout["shuffle"] or layout["numbers"] == "scaled":
            starts = _starts(tokenizer, said, ids, _table.places_of(parts))
            fields |= {"starts": starts} if layout["shuffle"] else {}
            if layout["numbers"] == "scaled":
                fields["factors"] = _factors(parts, cells, starts, len(ids))
        return Row(record.id, record.source, ids, [1.0], label, fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """As texts, with `fields["factors"]` [R, L]. While training, cells that may change their order do: drawn by
        seed, epoch and row.
        """
        if epochs is not None:
            rows = [self._reordered(row, seed, epoch) for row, epoch in zip(rows, epochs, strict=True)]
        batch = super().collate(rows, packed, epochs=epochs, seed=seed)
        if not any("factors" in row.fields for row in rows):
            return batch
        factors = torch.ones(batch.inputs["input_ids"].shape)
        for i, row in enumerate(rows):
            own = torch.tensor(row.fields.get("factors", ()), dtype=torch.float32)
            factors[i, : len(own)] = own
        return batch.replace(fields={**batch.fields, "factors": factors})

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """As of texts; where numbers scale embeddings, what the model looks up of a token is multiplied first."""
        factors = batch.fields.get("factors")
        if factors is None:
            return super().forward(model, batch, hidden=hidden)
        look_up: Any = model.get_input_embeddings()  # type: ignore[operator]
        seen = list[bool]()

        def scaled(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            if out.shape[:2] != factors.shape:
                return out
            seen.append(True)
            return out * factors[..., None].to(out)

        hook = look_up.register_forward_hook(scaled)
        try:
            outputs = super().forward(model, batch, hidden=hidden)
        finally:
            hook.remove()
        if not seen:
            raise MethodError(
                "a method gives the model other tokens than the rows', so their numbers cannot scale them",
                where="data.table.numbers",
                remedy="write numbers: digits or numbers: bins, or take the method out",
            )
        return outputs

    def _reordered(self, row: Row, seed: int, epoch: int) -> Row:
        """The row with its cells in an order of its own; as it is where cells keep theirs."""
        starts = row.fields.get("starts")
        if starts is None:
            return row
        spans = list(zip(starts[:-1], starts[1:], strict=True))
        row_rng(seed, self.name, epoch, row.id).shuffle(spans)
        order = [*range(starts[0]), *(t for a, b in spans for t in range(a, b)), *range(starts[-1], len(row.input_ids))]
        fields = dict(row.fields)
        if "factors" in fields:
            fields["factors"] = [fields["factors"][t] for t in order]
        return Row(row.id, row.source, [row.input_ids[t] for t in order], row.weights, row.label, fields)


def _plain(value: Any, kind: str) -> float | str | None:
    """A cell as what reads no text takes it: numbers and dates as numbers, all else as text."""
    if _table.is_empty(value, kind):
        return None
    if kind == NUMBER:
        return _table.number_in(value)
    return _table.moment_in(value) if kind == DATE else _table.said(value)


def _starts(tokenizer: Any, text: str, ids: Sequence[int], places: Sequence[int]) -> list[int]:
    """The token that each cell begins at, and the one behind the last. RowProblem where the tokenizer does not say
    where its tokens stand.
    """
    try:
        read = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    except (NotImplementedError, ValueError):
        what = "the tokenizer does not say where in a text its tokens stand"
        remedy = "write shuffle: false and numbers: digits or numbers: bins (data.table), or take a fast tokenizer"
        raise RowProblem("tokenizer", what, remedy) from None
    spans = [
        (t, b)
        for t, ((a, b), own) in enumerate(zip(read["offset_mapping"], read["special_tokens_mask"], strict=True))
        if not own
    ]
    # a token belongs to the cell that its end lies in: some begin with the space before a word
    starts, t = list[int](), 0
    for place in places[:-1]:
        while t < len(spans) and spans[t][1] <= place:
            t += 1
        starts.append(spans[t][0] if t < len(spans) else len(ids))
    return [*starts, spans[-1][0] + 1]


def _factors(
    parts: Sequence[tuple[Mapping[str, Any], str]], cells: Mapping[str, Any], starts: Sequence[int], size: int
) -> list[float]:
    """What scales the embedding of each token."""
    out = [1.0] * size
    for (column, _), start, end in zip(parts, starts[:-1], starts[1:], strict=True):
        out[start:end] = [_table.factor(cells[column["name"]], column)] * (end - start)
    return out
