"""A rehearsal buffer: a fixed number of the rows that were trained on, carried from stage to stage.

Rows are kept as they are learnt from (encoded, with everything that their task reads), so that a later stage needs no
file of an earlier one. They stand in a method's state, each as bytes in a buffer "rows.<slot>", beside
`state.data["memory"]` (JSON): what is kept is saved with every checkpoint, and left to later stages as "memory" and
"rows". Which rows are kept:

    reservoir   every row of the stream so far is in it with the same chance, size / seen (Vitter 1985, algorithm R)
    balanced    the same within each class, and a new class takes places from the largest ones (class-balancing
                reservoir sampling, Chrysakis & Moens 2020); of rows without a class, within each source
    herding     size // classes rows of each class, whose mean features are nearest the class's mean (iCaRL, Rebuffi et
                al. 2017): chosen when a stage ends, so that a stage sees rows of those before it alone

A row comes to the stream each time that it is trained on: in several epochs, it is several rows of the stream. Draws
are keyed by (seed, stage, method) and by the row's number in the stream or the step, never by how often they were made:
a step that is done again, split because memory ran out, draws the same.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.contract.found import Found
from tunewright.contract.left import Left
from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError

Keep = Literal["reservoir", "balanced", "herding"]
LEAVES = ("memory", "rows")
"""What a method with a buffer leaves (its `leaves`), beside what it keeps of each row itself."""
_LENGTH = 8


def packed(row: Row) -> Tensor:
    """uint8 [bytes]: a row with all its fields, arrays as they are. MethodError for a field that is neither JSON nor a
    numeric array.
    """
    arrays = {n: v for n, v in row.fields.items() if isinstance(v, np.ndarray)}
    named = {"ids": np.asarray(row.input_ids, np.int32), "weights": np.asarray(row.weights, np.float32)}
    named |= {f"field-{n}": np.asarray(v, order="C") for n, v in arrays.items()}
    told = {
        "row": [row.id, row.source, row.label, {n: v for n, v in row.fields.items() if n not in arrays}],
        "arrays": [[n, v.dtype.str, list(v.shape)] for n, v in named.items()],
    }
    try:
        if bad := next((n for n, v in arrays.items() if v.dtype.hasobject), None):
            raise TypeError(f"'{bad}' holds objects")
        head = json.dumps(told, ensure_ascii=False).encode()
    except TypeError as e:
        raise MethodError(
            f"the row cannot be kept for later stages: {e}", where=row.id, remedy="keep rows of JSON values and arrays"
        ) from None
    body = b"".join([len(head).to_bytes(_LENGTH, "little"), head, *(v.tobytes() for v in named.values())])
    return torch.frombuffer(bytearray(body), dtype=torch.uint8)


def unpacked(held: Tensor) -> Row:
    """The row that `packed` gave."""
    body = held.detach().cpu().numpy().tobytes()
    at = _LENGTH + int.from_bytes(body[:_LENGTH], "little")
    told = json.loads(body[_LENGTH:at])
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, kind, shape in told["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        found[name] = np.frombuffer(body, kind, count, at).reshape(shape).copy()
        at += found[name].nbytes
    row_id, source, label, fields = told["row"]
    fields |= {n.removeprefix("field-"): v for n, v in found.items() if n.startswith("field-")}
    return Row(row_id, source, found["ids"].tolist(), found["weights"].tolist(), label, fields)


def herded(features: Tensor, count: int) -> list[int]:
    """Places of `count` rows of features [N, D] whose running mean stays nearest the mean of all, in the order chosen.

    Features are brought to length 1 first, as iCaRL does; fewer rows than `count` are all given.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    mean, total, left = unit.mean(0), torch.zeros_like(unit[0]), list(range(len(unit)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        gaps = (mean - (unit[left] + total) / (len(chosen) + 1)).norm(dim=-1)
        chosen.append(left.pop(int(gaps.argmin())))
        total = total + unit[chosen[-1]]
    return chosen


@dataclass(frozen=True)
class Admitted:
    """Rows of the stream that are kept: slot -> place among those that came by (the last one, where two came to one
    slot), and the buffer's memory afterwards.
    """

    kept: Mapping[int, int]
    memory: dict[str, Any]


class Buffer:
    """A view of the rows that a method's state holds; nothing is kept here.

    `memory["slots"]` says of each row its stage and class (a source, where rows have no class). `others` are what a
    method keeps beside the rows, such as what the model said of each ("logits"): tensors "<other>.<slot>" that go where
    their row goes.
    """

    def __init__(self, state: State, size: int, keep: Keep = "reservoir", others: Sequence[str] = ()):
        self.state, self.size, self.keep, self.others = state, size, keep, tuple(others)

    @property
    def memory(self) -> dict[str, Any]:
        told: dict[str, Any] = self.state.data["memory"]
        return told

    @property
    def slots(self) -> list[list[Any]]:
        """[stage, class or source] of each row that is kept."""
        slots: list[list[Any]] = self.memory["slots"]
        return slots

    def __len__(self) -> int:
        return len(self.slots)

    def begin(self, run: Setup, before: Left | None) -> None:
        """Fill the state with what the last stage of this method left, or with nothing. MethodError where it held more
        rows than fit now.
        """
        held = before.values if before is not None else {}
        told = dict(held.get("memory", {"slots": [], "seen": 0, "by_class": {}, "full": []}))
        if len(told["slots"]) > self.size:
            raise MethodError(
                f"the stage '{before.stage if before else ''}' left {len(told['slots'])} rows, and buffer_size is "
                f"{self.size}",
                where=f"stages.{run.plan.stage}",
                remedy=f"write buffer_size: {len(told['slots'])} or more, the same in every stage",
            )
        told |= {"key": str(run.rng.getrandbits(63)), "stage": run.plan.stage}
        # what a method leaves by a name is never missing, though no row may be there
        self.state.data |= {"memory": told, **{n: {} for n in ("rows", *self.others)}}
        for name in ("rows", *self.others):
            for slot, tensor in held.get(name, {}).items():
                self.state.set_buffer(f"{name}.{slot}", tensor)

    # -- rows out ----------------------------------------------------------------------------------------------------

    def row(self, slot: int) -> Row:
        held = self.state.get(f"rows.{slot}")
        assert held is not None
        return unpacked(held)

    def other(self, name: str, slot: int) -> Tensor:
        """What was kept of a row beside it."""
        held = self.state.get(f"{name}.{slot}")
        assert held is not None
        return held

    def earlier(self) -> dict[str, list[int]]:
        """Slots by stage, of the stages before the present one, in the order in which they came."""
        found: dict[str, list[int]] = {}
        for slot, (stage, _) in enumerate(self.slots):
            if stage != self.memory["stage"]:
                found.setdefault(stage, []).append(slot)
        return found

    def draw(self, count: int, step: int, purpose: str = "", among: Sequence[int] | None = None) -> list[int]:
        """`count` slots without replacement (all, where there are fewer), of `among` (none: of all rows)."""
        there = list(range(len(self))) if among is None else list(among)
        rng = random.Random(f"{self.memory['key']}/draw/{step}/{purpose}")
        return rng.sample(there, min(count, len(there)))

    def draw_by_stage(self, count: int, step: int, weights: Mapping[str, float]) -> list[int]:
        """`count` slots without replacement (all, where there are fewer): for each one a stage, by `weights` among
        those that have rows left, then any of its rows. Stages without a weight are left alone.
        """
        rng = random.Random(f"{self.memory['key']}/draw-by-stage/{step}")
        left = {stage: [s for s, (of, _) in enumerate(self.slots) if of == stage] for stage in weights}
        drawn: list[int] = []
        while len(drawn) < count and (there := [stage for stage, slots in left.items() if slots]):
            slots = left[rng.choices(there, [weights[stage] for stage in there])[0]]
            drawn.append(slots.pop(rng.randrange(len(slots))))
        return drawn

    # -- rows in -----------------------------------------------------------------------------------------------------

    def admitted(self, rows: Sequence[Row]) -> Admitted:
        """Which of the next rows of the stream are kept, and where. Nothing changes until they are held (`hold`), so
        that a step which is done again finds the stream where it was.
        """
        now, kept = self.memory, dict[int, int]()
        told = {**now, "slots": list(now["slots"]), "by_class": dict(now["by_class"]), "full": list(now["full"])}
        for i, row in enumerate(rows):
            group = row.source if row.label is None else row.label
            slot = None if self.keep == "herding" else self._place(told, group)
            told["seen"] += 1
            told["by_class"][str(group)] = told["by_class"].get(str(group), 0) + 1
            if slot is not None:
                kept[slot] = i
                told["slots"][slot : slot + 1] = [[told["stage"], group]]
        return Admitted(kept, told)

    def hold(self, admitted: Admitted, rows: Sequence[Row], **others: Mapping[int, Tensor]) -> None:
        """Hold what was admitted of `rows`, and what is kept beside each by its place in `rows`."""
        self.state.data["memory"] = admitted.memory
        for slot, i in admitted.kept.items():
            self.state.set_buffer(f"rows.{slot}", packed(rows[i]))
            for name, tensors in others.items():
                self.state.set_buffer(f"{name}.{slot}", tensors[i].detach().clone())

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows come by and hold those that are kept."""
        self.hold(self.admitted(rows), rows)

    def _place(self, told: dict[str, Any], group: int | str) -> int | None:
        slots, count = told["slots"], len(told["slots"])
        if count < self.size:
            return count
        rng = random.Random(f"{told['key']}/keep/{told['seen']}")
        if self.keep == "reservoir":
            drawn = rng.randrange(told["seen"] + 1)
            return drawn if drawn < self.size else None
        counts = Counter(c for _, c in slots)
        largest = max(counts.values())
        told["full"] = sorted({*told["full"], *(c for c, n in counts.items() if n == largest)})
        if group not in told["full"]:
            return rng.choice([s for s, (_, c) in enumerate(slots) if counts[c] == largest])
        if rng.random() < counts[group] / (told["by_class"].get(str(group), 0) + 1):
            return rng.choice([s for s, (_, c) in enumerate(slots) if c == group])
        return None

    def herd(self, rows: Sequence[Row], features: Tensor, classes: Tensor) -> None:
        """At a stage's end: an equal number of each class seen so far; of older ones those that were chosen first stay.

        `features` [N, D] and `classes` [N] are of the stage's `rows`. A class that comes again is chosen anew.
        """
        new = sorted(set(classes.tolist()))
        old = [(self.row(s), stage, c) for s, (stage, c) in enumerate(self.slots) if c not in new]
        quota = self.size // max(1, len({c for *_, c in old} | set(new)))
        if not quota:
            raise MethodError(
                f"a buffer of {self.size} rows has no place for each of {len({c for *_, c in old} | set(new))} classes",
                where="buffer_size",
                remedy="write a larger one",
            )
        held: list[tuple[Row, str, int]] = []
        for c in dict.fromkeys(c for *_, c in old):
            held += [entry for entry in old if entry[2] == c][:quota]
        for c in new:
            at = (classes == c).nonzero()[:, 0].tolist()
            held += [(rows[at[i]], self.memory["stage"], c) for i in herded(features[at], quota)]
        for slot in range(len(self)):
            self.state.drop(f"rows.{slot}")
        self.memory["slots"] = [[stage, c] for _, stage, c in held]
        for slot, (row, *_) in enumerate(held):
            self.state.set_buffer(f"rows.{slot}", packed(row))

    # -- what is told of it ------------------------------------------------------------------------------------------

    def nbytes(self) -> int:
        """Bytes of all that is kept, what is kept beside the rows included."""
        return sum(
            held.nbytes
            for name in ("rows", *self.others)
            for slot in range(len(self))
            if (held := self.state.get(f"{name}.{slot}")) is not None
        )

    def found(self) -> Found:
        """How many rows of which stage are kept, and what they take."""
        told = self.memory
        by_stage = Counter(stage for stage, _ in self.slots)
        notes = []
        if self.keep != "herding" and len(self) == told["seen"]:
            notes = [
                f"the buffer has room for {self.size:,} rows and holds every row that came by, {told['seen']:,} with "
                "each pass counted"
            ]
        return Found(
            "Rehearsal buffer",
            "rows that are kept when the stage ends, by the stage that trained on them; bytes of all, with what is "
            "kept beside them",
            {"rows": len(self), "size": self.size, "rows seen": told["seen"], "bytes": self.nbytes()},
            ("stage", "rows"),
            [(stage, n) for stage, n in by_stage.items()],
            notes,
            dict(by_stage),
        )


class RehearsalMethod(Method):
    """Base of methods that keep rows of the stream for later stages and go back to them in each step.

    A subclass names itself (`_name`, as recipes do), and fills `step`. What it keeps of each row beside the row itself
    it names in `_others`, and adds to `leaves`.
    """

    keep: Literal["reservoir", "balanced"] = Field("reservoir", description="which rows are kept of the stream")
    buffer_size: PositiveInt = Field(500, description="rows that are kept, of all stages together")

    leaves: ClassVar[tuple[str, ...]] = LEAVES
    _name: ClassVar[str]
    _others: ClassVar[tuple[str, ...]] = ()

    def _buffer(self, state: State) -> Buffer:
        """The rows that the state holds."""
        return Buffer(state, self.buffer_size, self.keep, self._others)

    def setup(self, run: Setup) -> State:
        state = State()
        self._buffer(state).begin(run, run.earlier.latest(self._name))
        return state

    def found(self, state: State) -> Found:
        return self._buffer(state).found()
