"""The verb `plan`: before anything is trained, what exactly would be, will it fit, and how long does it take."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewright.data.check import end_is_trained, starts_twice
from tunewright.data.dataset import Dataset
from tunewright.data.pack import TOLERANCE, leak, sample_rows
from tunewright.data.view import Token, one_a_source
from tunewright.machine import host
from tunewright.planning.estimate import STEPS, estimate
from tunewright.planning.estimated import Estimate
from tunewright.recipe import Recipe
from tunewright.runs.assemble import Session, assemble
from tunewright.runs.progress import Screen
from tunewright.tasks._segments import first_token

CHECKED = 2000
"""Rows whose start and end are looked at."""
LEAK_LIMIT = {"float32": TOLERANCE, "bfloat16": 5e-2}


@dataclass
class SourcePlan:
    """One source: rows as read, and what became of them. `role`: train, eval, validation, keep or replay."""

    name: str
    role: str
    read: int
    rows: int
    tokens: int
    trained_tokens: int
    too_long: int
    pieces: int
    zero_trained: int


@dataclass
class Ends:
    """Of `rows` rows looked at: how many begin with exactly one BOS (`bos`: whether the tokenizer gives one at all),
    and how many end in a trained end token."""

    rows: int
    bos: bool
    one_bos: int
    end_trained: int


@dataclass
class StagePlan:
    """One stage: methods as {name, slots, parameters}, and `rooms` as {role: (trained, all)} parameters."""

    name: str
    start: str
    carry: str
    methods: list[dict[str, Any]]
    steps: int
    tokens: int
    exact: bool
    rows: int
    trainable: int
    rooms: dict[str, tuple[int, int]]


@dataclass
class Plan:
    """What a recipe would do. `leak`: largest difference between packed rows' logits and each alone's, over their
    standard deviation (None: rows are padded). `load`: seconds to load model and data."""

    model: dict[str, Any]
    task: str
    device: str
    precision: str
    packed: bool
    notes: list[str]
    sources: list[SourcePlan]
    ends: Ends | None
    leak: float | None
    leak_limit: float
    view: dict[str, list[Token]]
    stages: list[StagePlan]
    load: float
    memory: int | None
    estimate: Estimate

    def to_json(self) -> dict[str, Any]:
        """JSON values. Seconds, bytes, tokens."""
        found = asdict(self)
        e = self.estimate
        for stage in found["estimate"]["stages"]:
            del stage["result"]
        found["estimate"] |= {"train": e.train, "total": e.total + self.load, "probe_steps": STEPS}
        return found


def plan(path: str | Path, sets: Sequence[str] = (), *, json: bool = False) -> Plan:
    """Assemble a recipe, look at its rows, probe a few steps, and print what was found. Nothing is written to runs/."""
    from tunewright.planning import plan_page

    screen = Screen(json=json)
    began = time.perf_counter()
    session = assemble(Recipe.load(path, sets), screen.say)
    load = time.perf_counter() - began
    screen.say(f"probing {STEPS} steps of each stage")
    made = look(session, load)
    if json:
        print(json_module.dumps(made.to_json(), indent=2, ensure_ascii=False))
    else:
        plan_page.show(made, Path(path))
    return made


def look(session: Session, load: float = 0.0) -> Plan:
    """The plan of an assembled session, whose model is the base again afterwards, bit for bit."""
    from tunewright.runs.results import model_info

    first = session.stages[0].rows
    leaks = None
    shown = sample_rows(list(first.rows[:64]))
    if session.packed and len(shown) > 1:
        leaks = leak(session.adapted.model, session.task, shown)
    found = estimate(session)
    return Plan(
        model=model_info(session).model_dump(mode="json"),
        task=session.task.name,
        device=session.device,
        precision=session.precision,
        packed=session.packed,
        notes=list(session.notes),
        sources=_sources(session),
        ends=_ends(session, first),
        leak=leaks,
        leak_limit=LEAK_LIMIT[session.precision],
        view=one_a_source(_training_sources(session), session.tokenizer) if session.tokenizer is not None else {},
        stages=_stages(session, found),
        load=load,
        memory=host.total_memory(),
        estimate=found,
    )


def _training_sources(session: Session) -> list[Dataset]:
    """Each source that is trained on, once."""
    found: dict[str, Dataset] = {}
    for part in session.stages:
        for dataset in (*part.rows.sources, *(d for d, _ in part.replay.values())):
            found.setdefault(dataset.name, dataset)
    return list(found.values())


def _sources(session: Session) -> list[SourcePlan]:
    replayed = {d.name for part in session.stages for d, _ in part.replay.values()}
    named = [("replay" if d.name in replayed else "train", d) for d in _training_sources(session)]
    for role, dataset in (
        ("eval", session.eval),
        ("validation", session.validation),
        *(("keep", d) for d in session.keep.values()),
    ):
        named += [(role, d) for d in dataset.sources] if dataset is not None else []
    keys = ("read", "rows", "tokens", "trained_tokens", "too_long", "pieces", "zero_trained")
    return [SourcePlan(d.name, role, *(d.counts[k] for k in keys)) for role, d in named]


def _ends(session: Session, dataset: Dataset) -> Ends | None:
    """What can go wrong silently at both ends of a row; None where rows are not token by token."""
    tokenizer = session.tokenizer
    rows = [
        r
        for r in dataset.rows[:CHECKED]
        if r.label is None and r.fields.get("kind") not in ("mask", None) and "#" not in r.id
    ]
    if tokenizer is None or not rows:
        return None
    bos, ends = bool(first_token(tokenizer)), set(tokenizer.all_special_ids)
    one = sum(
        1
        for r in rows
        if not starts_twice(r, tokenizer.bos_token_id) and (not bos or r.input_ids[0] == tokenizer.bos_token_id)
    )
    return Ends(len(rows), bos, one, sum(1 for r in rows if end_is_trained(r, ends)))


def _stages(session: Session, found: Estimate) -> list[StagePlan]:
    from tunewright.runs.results import trained_of

    made = []
    for part, probed in zip(session.stages, found.stages, strict=True):
        trained = trained_of(session, {part.spec.name: probed.result})
        methods = [
            {"name": n, "slots": list(type(m).slots()), "parameters": m.model_dump(mode="json")}
            for n, m in part.methods
        ]
        made.append(
            StagePlan(
                part.spec.name,
                part.spec.start or "base",
                part.spec.carry,
                methods,
                probed.steps,
                probed.tokens,
                probed.exact,
                len(part.rows.rows),
                probed.result.trainable,
                {role: (room.trained or 0, room.total or 0) for role, room in trained.rooms.items()},
            )
        )
    return made
