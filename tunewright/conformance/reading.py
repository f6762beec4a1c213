"""Checks of selectors that read records with a model: what they find does not depend on batches or on the cache, the
model stays as it was, and what it costs is booked.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.conformance.bench import MODELS, record_of, rows_of, seeded, task_of
from tunewright.conformance.case import Case, Check, global_randomness_unchanged
from tunewright.conformance.task_examples import clip, tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.method import Method, call, reads_records
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.contract.task import EncodeOptions
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import differing, gap
from tunewright.models.flops import counting
from tunewright.tasks import get_task

PAIRS = "zero-shot-image-classification"
"""The task of selectors that read pictures with texts."""
SEEN = "image-text-to-text"
"""The task of makers of rows that show pictures."""


class Reads:
    """Tiny records of a method's task with their rows, and readers of them. `offered`: what `select` is given."""

    def __init__(
        self, method: Method, *, cache: Path | None = None, batch_tokens: int = 2048, device: str = "cpu"
    ) -> None:
        if task_of(method) is None and PAIRS in (method.tasks or ()):
            self._pairs(method, cache, batch_tokens, device)
            return
        name = task_of(method) or "text-generation"
        self.task, self.adapted = get_task(name), Adapted(MODELS[name]().to(device), beside="tiny")
        rows = rows_of(self.task, "selected", 12)
        plain = self.task.name == "image-classification"
        self.records = [
            Record({"label": r.label}, id=r.id, source=r.source) if plain else record_of(r, self.task.labelled)
            for r in rows
        ]
        # a number, for selectors that read a column, and what the method's slots may read beside
        self.records = [
            Record({**r, "confidence": i / len(rows), **_beside(method, i)}, id=r.id, source=r.source)
            for i, r in enumerate(self.records)
        ]
        if "prompt" in self.records[0]:  # every third asks what the one before it asks, for what chooses among answers
            for i in range(2, len(rows), 3):
                self.records[i] = self.records[i].replace(prompt=self.records[i - 1]["prompt"])
        of = {r.id: (r, row) for r, row in zip(self.records, rows, strict=True)}

        def encoded(record: Record) -> list[Row]:
            offered, row = of[record.id]
            return [row if offered is record else _answer(row)]

        self.readers = {
            speaker: Reader(
                speaker,
                self.adapted if speaker == "start" else Adapted(MODELS[name](len(speaker)).to(device)),
                self.task,
                encoded,
                device=device,
                cache=cache,
                batch_tokens=batch_tokens,
                window=5,
            )
            for speaker in method.speakers()
        }

    def _pairs(self, method: Method, cache: Path | None, batch_tokens: int, device: str) -> None:
        """Pictures of noise with texts and classes in words, and models of two towers."""
        self.task, words = get_task(PAIRS), tokenizer(end=True)
        self.adapted = Adapted(seeded(clip, 0).to(device), beside="tiny")
        size: dict[str, Any] = {"height": 8, "width": 8, "shortest": None, "channels": 3, "resample": 2}
        options = EncodeOptions(image={**size, "mean": [0.5] * 3, "std": [0.5] * 3, "scale": 1 / 255})
        rng, kinds = np.random.default_rng(0), ("cold", "warm", "very warm")
        self.records = [
            Record(
                {
                    "image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).tolist(),
                    "text": f"picture {i} of {kinds[i % 3]}",
                    "label": kinds[i % 3],
                },
                id=f"selected:{i}",
                source="selected",
            )
            for i in range(12)
        ]
        self.readers = {
            speaker: Reader(
                speaker,
                self.adapted if speaker == "start" else Adapted(seeded(clip, len(speaker)).to(device)),
                self.task,
                lambda record: [self.task.encode(record, words, options)],
                device=device,
                cache=cache,
                batch_tokens=batch_tokens,
                window=5,
            )
            for speaker in method.speakers()
        }

    @property
    def offered(self) -> dict[str, Any]:
        return {"records": self.records, "target": self.records[:4], "readers": self.readers}

    def selected(self, method: Method) -> Selected:
        """What the method gives, whatever form it gives it in."""
        given = call(method, "select", **self.offered, rng=random.Random(0))
        if isinstance(given, Selected):
            return given
        return Selected(*given) if isinstance(given, tuple) else Selected(given)


def _beside(method: Method, number: int) -> dict[str, Any]:
    """Columns that only some methods read: a graph for selectors, an annotated picture for makers of what is seen."""
    slots = type(method).slots()
    if "synthesize" in slots and SEEN in (method.tasks or ()):
        objects = {"bbox": [[0, 0, 3, 3], [4, 4, 4, 3]], "category": [f"kind {number % 3}", "cat"]}
        pixels = [[[number, 20 * x, 20 * y] for x in range(8)] for y in range(8)]
        return {"image": pixels, "label": f"class {number % 2}", "objects": objects, "width": 8, "height": 8}
    return {"edge_index": _ring(number)} if "select" in slots else {}


def _ring(number: int) -> list[list[int]]:
    """Edges of a ring of 3 to 6 nodes, every second one with a chord."""
    nodes = list(range(3 + number % 4))
    return [[*nodes, 0] if number % 2 else nodes, [*nodes[1:], 0, 2] if number % 2 else [*nodes[1:], 0]]


def _answer(row: Row) -> Row:
    """What a record is without its prompt, where a selector took it away: the trained tokens behind the first one."""
    kept = [i for i, w in enumerate(row.weights) if w > 0 or i == 0]
    if len(row.weights) != len(row.input_ids):
        return row
    return row.replace(input_ids=[row.input_ids[i] for i in kept], weights=[row.weights[i] for i in kept], fields={})


def reads_with_a_model(case: Case) -> bool:
    return "select" in case.slots and reads_records(case.method)


def _same(a: Selected, b: Selected) -> bool:
    scores = {n: list(v) for n, v in a.scores.items()} == {n: list(v) for n, v in b.scores.items()}
    return scores and list(a.indices) == list(b.indices) and a.weights == b.weights


def agrees_alone_and_batched(case: Case) -> None:
    """Records that are read one by one have the scores, to rounding, of records that are read side by side."""
    import torch

    assert case.method.speakers(), "it asks for readers and names none: define speakers(self)"
    alone, batched = (Reads(case.method, batch_tokens=n).selected(case.method) for n in (1, 2048))
    assert alone.scores.keys() == batched.scores.keys()
    for name, values in alone.scores.items():
        pair = [torch.tensor(list(v), dtype=torch.float64).float() for v in (values, batched.scores[name])]
        assert gap(*pair) <= 1e-4, f"'{name}' depends on which records are read side by side"
    if not alone.scores:
        assert list(alone.indices) == list(batched.indices), "what is kept depends on which records are read together"


def cached_equals_fresh(case: Case) -> None:
    """Read back from the cache, scores and indices have the bits of those that were computed, at the same cost."""
    with tempfile.TemporaryDirectory() as folder:
        spent, given = [], []
        for _ in range(2):
            reads = Reads(case.method, cache=Path(folder))
            with counting() as counted:
                given.append(reads.selected(case.method))
            spent.append((counted.total, [r.tokens for r in reads.readers.values()]))
        assert any(Path(folder).iterdir()), "nothing was read: it asks for readers and does not use them"
    assert _same(*given), "what came from the cache differs from what was computed"
    assert spent[0] == spent[1], f"what it costs depends on the cache: {spent[0]}, then {spent[1]}"
    assert _same(given[0], Reads(case.method).selected(case.method)), "without a cache it gives something else"


def leaves_the_model_alone(case: Case) -> None:
    """Weights, modes, gradients and what is kept of the base are as they were, and no generator was drawn from."""
    reads = Reads(case.method)
    model = reads.adapted.model
    before = {n: t.clone() for n, t in model.state_dict().items()}
    told = [(n, m.training) for n, m in model.named_modules()], [p.requires_grad for p in model.parameters()]
    with global_randomness_unchanged():
        reads.selected(case.method)
    assert not differing(before, model.state_dict()), "the model's weights were changed"
    after = [(n, m.training) for n, m in model.named_modules()], [p.requires_grad for p in model.parameters()]
    assert told == after and all(p.grad is None for p in model.parameters()), "modes or gradients were left behind"
    assert not reads.adapted.originals and not reads.adapted.deltas(), "the base was touched"


def books_what_it_reads(case: Case) -> None:
    """Every model that it names is read, with its tokens and operations counted."""
    reads = Reads(case.method)
    with counting() as counted:
        reads.selected(case.method)
    unread = [n for n, reader in reads.readers.items() if not reader.tokens]
    assert not unread, f"it names models that it does not read: {', '.join(unread)}"
    assert counted.total > 0, "no operation was counted"


CHECKS = [
    Check("reads alone as batched", reads_with_a_model, agrees_alone_and_batched),
    Check("reads cached as fresh", reads_with_a_model, cached_equals_fresh),
    Check("reads and leaves the model alone", reads_with_a_model, leaves_the_model_alone),
    Check("reads at a cost", reads_with_a_model, books_what_it_reads),
]
