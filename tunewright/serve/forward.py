"""One forward of the model over the tokens of many rows, each with its own adapter and its own seat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunewright.measure._mode import logits_of
from tunewright.models.adapted import Adapted
from tunewright.models.arguments import takes
from tunewright.models.context import Present, Rows, reading
from tunewright.models.lanes import Lanes
from tunewright.serve.attention import PLAIN, Step, stepping
from tunewright.serve.before import VIRTUAL, embedded
from tunewright.serve.rows import Row


class Forward:
    """Gives the logits [rows, V] (fp32) after the last token of each row of a step."""

    def __init__(self, adapted: Adapted, lanes: Lanes):
        self.adapted, self.lanes = adapted, lanes
        self._keeps = takes(adapted.model, "logits_to_keep")
        self._takes_cache = takes(adapted.model, "use_cache")

    def __call__(self, ready: Sequence[Row], read: Sequence[tuple[Row, int]]) -> Tensor:
        model, device = self.adapted.model, self.adapted.device
        tokens, places, owners = list[int](), list[int](), list[int]()
        for i, (row, n) in enumerate([*((r, 1) for r in ready), *read]):
            start = row.seat.used
            tokens += row.tokens[start : start + n]
            places += range(start, start + n)
            owners += [i] * n
        rows = [*ready, *(r for r, _ in read)]
        lengths = [1] * len(ready) + [n for _, n in read]
        last = torch.tensor(lengths, device=device).cumsum(0) - 1
        positions = torch.tensor([places], device=device)
        names = [r.variant.key if r.variant is not None else None for r in rows]
        present = Present(
            Rows(torch.tensor([r.prompt for r in rows], device=device)),
            torch.tensor([owners], device=device),
            positions,
        )
        more: dict[str, Any] = {"logits_to_keep": last} if self._keeps else {}
        more |= {"use_cache": False} if self._takes_cache else {}
        step = Step([r.seat for r in ready], [(r.seat, n) for r, n in read], device)
        ids = torch.tensor([tokens], device=device)
        inputs = {"input_ids": ids}
        if VIRTUAL in tokens:
            table = model.get_input_embeddings()  # type: ignore[operator]
            runs = [(r.before, r.seat.used, n) for r, n in zip(rows, lengths, strict=True)]
            inputs = {"inputs_embeds": embedded(table, ids, runs)}
        with stepping(step), self.lanes.turn(names, lengths), reading(present):
            out = model(
                **inputs,
                position_ids=positions,
                attention_mask=PLAIN.to(device),
                **more,
            )
        logits = logits_of(out)[0]
        return (logits if self._keeps else logits[last]).float()
