"""A model as a selector reads records with it: batched forwards over a window of records at a time, kept on disk.

A `Reading` turns one forward into a few numbers a row; only these are kept, never logits or states. A window's numbers
go into the cache under a hash of all that decides them: its rows, the model's present weights and deltas, the reading's
code, and how rows are batched. An entry holds one window and not one record: the rows beside a row in a batch decide
its last bits, so what is read back has the bits of what is computed anew, whatever else was ever scored.

What a window costs (real tokens, counted FLOPs) is booked whether it is computed or read back: the cost of a method
does not depend on what this machine did before. Seconds are those that are spent.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record
from tunewright.contract.task import Task
from tunewright.errors import MethodError
from tunewright.files.tensors import save_tensors
from tunewright.machine import installed
from tunewright.models.adapted import Adapted
from tunewright.models.aligned import aligned
from tunewright.models.flops import book, counting

log = logging.getLogger(__name__)

WINDOW = 256
"""Records that are read, and kept in the cache, at a time."""
SMALL = 8
"""Numbers a record up to which a reader remembers what it has read."""


@dataclass(frozen=True)
class Reading:
    """What is read off a forward: `of(outputs, batch)` gives values [R, K] and what each row counts [R].

    A record that was cut into several rows has the mean of their values by these counts. `hidden`: all hidden states
    are needed.
    """

    name: str
    of: Callable[[Outputs, Batch], tuple[Tensor, Tensor]]
    hidden: bool = False


def mean_losses(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """([R, 1] mean loss in nats, [R] trained tokens) of each row; a token counts once, whatever its loss weight."""
    rows = batch.rows.cpu()
    count = torch.zeros(len(batch.row_ids), dtype=torch.float64)
    total = count.clone()
    total.index_add_(0, rows, -outputs.log_probs().cpu().double())  # on the CPU: the same order of sums each time
    count.index_add_(0, rows, torch.ones(len(rows), dtype=torch.float64))
    return (total / count.clamp(min=1.0))[:, None], count


def states_of(outputs: Outputs, batch: Batch) -> list[Tensor]:
    """[L, D] last hidden states of each row's tokens, float32, however the rows lie in the batch."""
    assert outputs.hidden is not None
    states = outputs.hidden[-1].float()
    if batch.cu_seqlens is not None:
        bounds = batch.cu_seqlens.tolist()
        return [states[0, a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    return [row[kept] for row, kept in zip(states, batch.inputs["attention_mask"].bool(), strict=True)]


def mean_states(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """([R, D] mean of the last hidden states, [R] tokens); of a classifier its pooled features, each counting 1."""
    if outputs.features is not None:
        return outputs.features.float(), torch.ones(len(outputs.features))
    pieces = states_of(outputs, batch)
    return torch.stack([p.mean(0) for p in pieces]), torch.tensor([float(len(p)) for p in pieces])


LOSSES = Reading("mean loss", mean_losses)
STATES = Reading("mean of the last hidden states", mean_states, hidden=True)


@dataclass
class Reader:
    """Reads records with one model, which stays as it is. `rows_of` gives a record's encoded rows: those of a record
    that was offered, or of one that a selector changed (`record.replace(...)`), encoded anew.

    `bring` is called before the model is looked at, for a model that has to be loaded first.
    `batch_tokens`: tokens of a batch, padding included. `cache`: a folder, or None to keep nothing. `tokens` counts
    what was read. FLOPs go to every counter that is open (`models/flops.py`).
    """

    name: str
    adapted: Adapted
    task: Task
    rows_of: Callable[[Record], Sequence[Row]]
    seed: int = 0
    device: str = "cpu"
    packed: bool = False
    cache: Path | None = None
    batch_tokens: int = 2048
    window: int = WINDOW
    tokens: int = 0
    bring: Callable[[], object] = lambda: None
    _known: dict[tuple[str, bytes], Tensor] = field(default_factory=dict, repr=False)

    def losses(self, records: Sequence[Record]) -> Tensor:
        """[n] mean loss of each record's trained tokens, in nats. MethodError for a classifier whose head is new."""
        self.refuse_a_new_head()
        return self.read(records, LOSSES)[:, 0]

    def refuse_a_new_head(self) -> None:
        """MethodError for a classifier whose head is new: for what reads losses or gradients by the task itself."""
        if self.task.labelled and self.adapted.new:
            raise MethodError(
                f"the head of '{self.name}' is new: its losses say nothing of records",
                where="data.select",
                remedy="select by what needs no head, or with a model that was tuned for this task",
            )

    def embeddings(self, records: Sequence[Record]) -> Tensor:
        """[n, D] float32 mean of each record's last hidden states; a classifier's pooled features."""
        return self.read(records, STATES)

    def sizes(self, records: Sequence[Record]) -> list[int]:
        """Trained tokens of each record (1 where a row has one target)."""
        return [sum(sum(1 for w in row.weights if w > 0) for row in self.rows_of(r)) for r in records]

    def loss(self, record: Record) -> Tensor:
        """[] mean loss of a record's trained tokens, in nats, with its graph: for what reads gradients. A record that
        was cut into pieces has the mean over all their tokens. The model is in evaluation mode; what trains is the
        caller's (a delta that it hung on `adapted`, and takes away again). MethodError for a head that is new.
        """
        self.refuse_a_new_head()
        rows = self.rows_of(record)
        self.tokens += sum(r.size for r in rows)
        self.bring()
        with self.adapted.evaluating():
            batch = self.task.collate(rows, self.packed, seed=self.seed).to(self.device)
            return -self.task.forward(self.adapted.outer, batch).log_probs().mean()

    def remembered(
        self, name: str, records: Sequence[Record], how: Mapping[str, Any], compute: Callable[[], Tensor]
    ) -> Tensor:
        """What `compute` gives of records with this model: [n, K], from the cache where it has it. `how` holds, as JSON
        values, all beside the records, the model and the code of compute's module that decides it. What it costs is
        booked in both cases.
        """
        rows = [row for r in records for row in self.rows_of(r)]
        self.bring()
        told = [dict(how), name, inspect.getsource(inspect.getmodule(compute) or compute)]
        file = None if self.cache is None else self.cache / f"{self._key_of(rows, {'computed': told})}.safetensors"
        known = None if file is None else _load(file)
        if known is not None:
            book(float(known["flops"]), 0.0, known["values"])
            self.tokens += int(known["counts"])
            return known["values"]
        before = self.tokens
        with counting() as counted:
            values = compute().detach().float().cpu()
        if file is not None:
            spent = {"counts": torch.tensor(self.tokens - before), "flops": torch.tensor(counted.total).double()}
            _save(file, {"values": values, **spent})
        return values

    def read(self, records: Sequence[Record], reading: Reading) -> Tensor:
        """[n, K] float32 of any reading, all records together.

        Up to `SMALL` numbers a record are remembered, so that a later selector finds them.
        """
        keys = [(reading.name, b"".join(_row_hash(row) for row in self.rows_of(r))) for r in records]
        unread = [i for i, key in enumerate(keys) if key not in self._known]
        windows = [values for _, values in self.stream([records[i] for i in unread], reading)]
        if windows and windows[0].shape[1] > SMALL:
            return torch.cat(windows)
        self._known.update({keys[i]: v for i, v in zip(unread, (v for w in windows for v in w), strict=True)})
        return torch.stack([self._known[key] for key in keys])

    def stream(self, records: Sequence[Record], reading: Reading) -> Iterator[tuple[Sequence[Record], Tensor]]:
        """(records, [n, K] float32) window by window, in order: what does not fit into memory at once.

        MethodError names a record whose value is not finite.
        """
        for start in range(0, len(records), self.window):
            some = records[start : start + self.window]
            rows = [(i, row) for i, r in enumerate(some) for row in self.rows_of(r)]
            values = self._kept([row for _, row in rows], reading)
            yield some, self._by_record(some, [i for i, _ in rows], values, reading)

    def _by_record(
        self, records: Sequence[Record], owner: list[int], values: dict[str, Tensor], reading: Reading
    ) -> Tensor:
        """[n, K]: the rows' values brought to their records."""
        of = torch.tensor(owner)
        count = torch.zeros(len(records), dtype=torch.float64).index_add_(0, of, values["counts"])
        weighted = values["values"].double() * values["counts"][:, None]
        total = torch.zeros(len(records), weighted.shape[1], dtype=torch.float64).index_add_(0, of, weighted)
        found = (total / count[:, None]).float()
        for i in (~torch.isfinite(found).all(1)).nonzero()[:1, 0].tolist():
            raise MethodError(
                f"the {reading.name} under '{self.name}' is no finite number",
                where=records[i].where,
                remedy="look at this row and at the model's weights, or take the row out",
            )
        return found

    # -- windows -------------------------------------------------------------------------------------------------------

    def _kept(self, rows: list[Row], reading: Reading) -> dict[str, Tensor]:
        """A window's `values` [r, K] and `counts` [r] in the rows' order, from the cache where it has them."""
        self.tokens += sum(r.size for r in rows)
        self.bring()
        file = None if self.cache is None else self.cache / f"{self._key(rows, reading)}.safetensors"
        known = None if file is None else _load(file)
        if known is not None:
            book(float(known["flops"]), 0.0, known["values"])
            return known
        with counting() as counted:
            values = self._forward(rows, reading)
        values["flops"] = torch.tensor(counted.total, dtype=torch.float64)
        if file is not None:
            _save(file, values)
        return values

    def _forward(self, rows: list[Row], reading: Reading) -> dict[str, Tensor]:
        values: list[Tensor | None] = [None] * len(rows)
        counts = torch.zeros(len(rows), dtype=torch.float64)
        with torch.no_grad(), self.adapted.evaluating():
            model = self.adapted.outer
            for places in self._batches(rows):
                batch = self.task.collate([rows[i] for i in places], self.packed, seed=self.seed).to(self.device)
                outputs = self.task.forward(model, batch, hidden=reading.hidden)
                given, count = reading.of(outputs, batch)
                for k, i in enumerate(places):
                    values[i], counts[i] = given[k].detach().cpu().float(), float(count[k])
        return {"values": torch.stack([v for v in values if v is not None]), "counts": counts}

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Places of the rows of each batch: the shortest first, so that little is padded."""
        group: list[int] = []
        for i in sorted(range(len(rows)), key=lambda i: rows[i].size):
            if group and (len(group) + 1) * rows[i].size > self.batch_tokens:
                yield group
                group = []
            group.append(i)
        if group:
            yield group

    def _key(self, rows: Sequence[Row], reading: Reading) -> str:
        return self._key_of(rows, {"reading": [reading.name, reading.hidden, inspect.getsource(reading.of)]})

    def _key_of(self, rows: Sequence[Row], what: dict[str, Any]) -> str:
        how = {
            **what,
            "task": self.task.name,
            **({"code": code} if (code := installed.code_hash((installed.TASKS,))) else {}),
            "batches": [self.batch_tokens, self.packed, self.seed if self.task.is_a("fill-mask") else None],
            "device": self.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        h = hashlib.sha256(json.dumps([self._weights, how], sort_keys=True).encode())
        for row in rows:
            h.update(_row_hash(row))
        return h.hexdigest()[:40]

    @cached_property
    def _weights(self) -> str:
        return hash_of(self.adapted)


def hash_of(adapted: Adapted) -> str:
    """Hash of what computes: present weights, buffers, deltas and their settings, the wrapper, the config."""
    h = hashlib.sha256(adapted.beside.encode())
    told = {
        f"{site}/{n}": [d.form, d.settings(), d.strength, d.active]
        for site, by_name in adapted.deltas().items()
        for n, d in by_name.items()
    }
    config = getattr(adapted.model, "config", None)
    shape = {k: v for k, v in config.to_dict().items() if k != "_name_or_path"} if config is not None else None
    about = [told, shape, adapted.wrapped_by.method if adapted.wrapped_by else None]
    h.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in sorted({**adapted.model.state_dict(), **adapted.outer.state_dict()}.items()):
        plain = tensor.detach().cpu().contiguous()
        h.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        h.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def _row_hash(row: Row) -> bytes:
    plain = [row.id, list(map(int, row.input_ids)), [w > 0 for w in row.weights], row.label]
    h = hashlib.sha256(json.dumps(plain).encode())
    for name, value in sorted(row.fields.items()):
        if isinstance(value, np.ndarray | Tensor):
            array = np.ascontiguousarray(value)
            h.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        else:
            h.update(f"{name} {value!r}".encode())
    return h.digest()


def _load(file: Path) -> dict[str, Tensor] | None:
    """A window's numbers; None where there are none, or none that read back."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = {n: aligned(t) for n, t in load_file(file).items()}
        return found if found.keys() == {"values", "counts", "flops"} else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, SafetensorError) as e:
        log.warning("the cached scores %s cannot be used (%s); they are made again", file, e)
        return None


def _save(file: Path, values: dict[str, Tensor]) -> None:
    """Write aside and rename. A cache that cannot be written is no error: it is said, and that is all."""
    aside: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
        os.close(descriptor)
        save_tensors(values, Path(aside))
        os.replace(aside, file)
    except OSError as e:
        log.warning("scores were not cached: %s", e)
        if aside is not None:
            Path(aside).unlink(missing_ok=True)
