"""Before anything is trained: what exactly would be, will it fit, and how long does it take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tunewright.data.dataset import Dataset
from tunewright.data.facts import end_ids, end_is_trained, starts_twice
from tunewright.data.pack import TOLERANCE, leak, sample_rows
from tunewright.data.view import one_a_source
from tunewright.machine import host
from tunewright.machine.on_paper import machines
from tunewright.planning import plan_page
from tunewright.planning.estimate import STEPS, estimate
from tunewright.planning.estimated import Estimate
from tunewright.planning.on import on_paper
from tunewright.planning.planned import Ends, PlanFigures, SourcePlan, StagePlan
from tunewright.recipe import Recipe
from tunewright.recipe.given import RecipeLike, given
from tunewright.report import notebook, words
from tunewright.runs import made, streams
from tunewright.runs.assemble import assemble
from tunewright.runs.progress import Screen
from tunewright.runs.rehearsing import rehearse
from tunewright.runs.selected import announced
from tunewright.runs.session import Session
from tunewright.runs.shared import SharedBase
from tunewright.tasks._segments import first_token
from tunewright.training.budget import steps_per_epoch

CHECKED = 2000
"""Rows whose start and end are looked at."""
LEAK_LIMIT = {"float32": TOLERANCE, "bfloat16": 5e-2, "float16": 5e-2}


class RunPlan(PlanFigures):
    """What a recipe would do, as figures; `print(plan)` gives the page of the command line."""

    def __str__(self) -> str:
        return notebook.plain(lambda console: plan_page.show(self, console=console))

    def __repr__(self) -> str:
        return f"<Plan of {self.model['name']}: about {words.seconds(self.estimate.total + self.load)}>"

    def _repr_html_(self) -> str:
        return notebook.recorded(lambda console: plan_page.show(self, console=console))


def plan(recipe: RecipeLike, *, sets: Sequence[str] = (), on: str | None = None, quiet: bool = False) -> RunPlan:
    """Assemble a recipe, look at its rows and probe a few steps. Nothing is written to runs/.

    `sets`: `key.path=value` over the recipe's values. `on`: machines such as "8x H100 80GB", what it takes on which is
    reckoned on paper. `quiet`: no progress.
    """
    named = None if on is None else machines(on)
    asked = given(recipe, sets)
    made = planned(asked, Screen(quiet=quiet))
    divided = asked.train.fsdp is not None
    offloaded = [s.name for s in asked.stages if asked.train_for(s).activation_offloading]
    if named is not None:
        made.on = on_paper(made.estimate.stages, made.precision, named, divided=divided, offloaded=offloaded)
    return made


def planned(recipe: Recipe, screen: Screen, base: SharedBase | None = None) -> RunPlan:
    """The plan of a recipe; `base`: where the model comes from, if others are planned over it too."""
    began = time.perf_counter()
    session = assemble(recipe, screen.say, base=base)
    load = time.perf_counter() - began
    with tempfile.TemporaryDirectory(prefix="tunewright-plan-") as folder:
        rehearse(session, Path(folder))
    screen.say(f"probing {STEPS} steps of each stage")
    return look(session, load)


def look(session: Session, load: float = 0.0) -> RunPlan:
    """The plan of an assembled session, whose model is the base again afterwards, bit for bit."""
    from tunewright.runs.results import model_info

    first = session.stages[0].rows
    leaks = None
    shown = sample_rows(list(first.rows[:64]))
    if session.packed and len(shown) > 1:
        leaks = leak(session.adapted.model, session.task, shown)
    estimated = estimate(session)
    return RunPlan(
        model=model_info(session).model_dump(mode="json"),
        task=session.task.name,
        device=session.device,
        precision=session.precision,
        packed=session.packed,
        notes=[
            *session.notes,
            *session.on_layers(),
            *made.announced(session),
            *announced(session),
            *streams.announced(session),
        ],
        sources=_sources(session),
        ends=_ends(session, first),
        measured=_measured(session),
        leak=leaks,
        leak_limit=LEAK_LIMIT[session.precision],
        view=one_a_source(_training_sources(session), session.tokenizer) if session.tokenizer is not None else {},
        stages=_stages(session, estimated),
        load=load,
        memory=host.total_memory(),
        estimate=estimated,
    )


def _training_sources(session: Session) -> list[Dataset]:
    """Each source that is trained on, once."""
    by_name: dict[str, Dataset] = {}
    for part in session.stages:
        for dataset in (*part.rows.sources, *(d for d, _ in part.replay.values())):
            by_name.setdefault(dataset.name, dataset)
    return list(by_name.values())


def _sources(session: Session) -> list[SourcePlan]:
    replayed = {d.name for part in session.stages for d, _ in part.replay.values()}
    named = [("replay" if d.name in replayed else "train", d) for d in _training_sources(session)]
    for role, dataset in (
        ("eval", session.eval),
        ("validation", session.validation),
        ("test_time", session.stream),
        *(("keep", d) for d in session.keep.values()),
    ):
        named += [(role, d) for d in dataset.sources] if dataset is not None else []
    keys = ("read", "rows", "tokens", "trained_tokens", "too_long", "pieces", "zero_trained", "picture_tokens")
    sources = [SourcePlan(d.name, role, *(d.counts.get(k, 0) for k in keys)) for role, d in named]
    packs = [(f"pack {name}", len(asked.rows), asked.tokens) for name, asked in session.packs.items()]
    return sources + [SourcePlan(name, "keep", n, n, tokens, 0, 0, 0, 0) for name, n, tokens in packs]


def _measured(session: Session) -> int:
    """Rows that gain may be measured on: those of data.eval, or held-out ones, of which some may choose instead; and
    episodes that are played.
    """
    rows = session.eval
    if rows is None and session.recipe.measurement.split == "validation":
        rows = session.validation
    played = sum(place.episodes for place in session.recipe.measurement.environment or [])
    return played + (0 if rows is None else len(rows.rows))


def _ends(session: Session, dataset: Dataset) -> Ends | None:
    """What can go wrong silently at both ends of a row; None where rows are not token by token."""
    tokenizer = session.tokenizer
    rows = [
        r
        for r in dataset.rows[:CHECKED]
        if not r.one_target
        and "targets" not in r.fields  # a class of each word: no end is written
        and r.fields.get("kind") not in ("mask", None)
        and "#" not in r.id
    ]
    if tokenizer is None or not rows:
        return None
    bos, ends = bool(first_token(tokenizer)), end_ids(tokenizer)
    one = sum(
        1
        for r in rows
        if not starts_twice(r, tokenizer.bos_token_id) and (not bos or r.input_ids[0] == tokenizer.bos_token_id)
    )
    return Ends(len(rows), bos, one, sum(1 for r in rows if end_is_trained(r, ends)))


def _stages(session: Session, estimated: Estimate) -> list[StagePlan]:
    from tunewright.runs.results import trained_of

    plans = []
    for part, probed in zip(session.stages, estimated.stages, strict=True):
        trained = trained_of(session, {part.spec.name: probed.result})
        methods = [
            {"name": n, "slots": list(type(m).slots()), "parameters": m.model_dump(mode="json")}
            for n, m in part.methods
        ]
        plans.append(
            StagePlan(
                part.spec.name,
                part.spec.start or "base",
                part.spec.carry,
                methods,
                probed.steps,
                probed.tokens,
                probed.exact,
                0 if part.rows.streamed else len(part.rows.rows),
                0.0
                if part.rows.streamed
                else steps_per_epoch(probed.steps, probed.tokens, part.rows.counts["tokens"], part.replayed),
                session.few_steps(part, probed.steps, probed.tokens),
                part.cautions(partial(session.plan, part)),
                probed.result.trainable,
                {role: (count.trained or 0, count.total or 0) for role, count in trained.roles.items()},
            )
        )
    return plans
