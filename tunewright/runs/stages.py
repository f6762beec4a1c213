"""Runs one stage of a recipe: sets its methods up, trains, logs, evaluates, checkpoints, and saves what came out."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tunewright.contract.combining import Bound, Methods
from tunewright.contract.found import Found
from tunewright.contract.left import left_of
from tunewright.contract.returned import place
from tunewright.contract.returned import told as in_words
from tunewright.data.order import Cursor
from tunewright.errors import Interrupted, MethodError
from tunewright.files import checkpoint
from tunewright.files.checkpoint import Checkpoint
from tunewright.machine import terminal
from tunewright.machine.going import telling
from tunewright.machine.group import present
from tunewright.measure.intervals import gain_interval
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import differing
from tunewright.models.compiled import compiling
from tunewright.models.modes import set_training
from tunewright.models.recompute import recomputing
from tunewright.models.shards import own
from tunewright.runs.folder import RunFolder
from tunewright.training import carry
from tunewright.training.divided import gathered, shares
from tunewright.training.setting_up import set_up
from tunewright.training.stage import Stop, TrainingInputs
from tunewright.training.stepping import go_through
from tunewright.training.train import Loop, begun

STAGE_SECONDS = "stage_seconds"
"""Key of progress.json: seconds of training of each finished stage."""
Evaluate = Callable[[Loop], dict[str, float]]


class Verified:
    """A checkpoint that is computed again: `differing` names what does not come out in the same bits (None: not yet
    reached). `saved`: None where there is none on the way; `to_end`: the stage is gone through to its end.
    """

    def __init__(self, saved: Checkpoint | None, *, to_end: bool = False):
        self.saved, self.to_end = saved, to_end
        self.differing: list[str] | None = None

    def compare(self, loop: Loop) -> None:
        """Compare the loop's whole state with the checkpoint's, where it is reached: weights, optimizer, methods,
        generators, place in the rows. Stop where they differ, or where nothing is left to compare with.
        """
        if self.saved is None or self.saved.state["loop"]["step"] != loop.step_number:
            return
        state, tensors = loop.state()
        known = self.saved.state["loop"]
        now = json.loads(json.dumps(state))
        differences = [n for n in sorted({*known, *now} - {"seconds", "splits", "flops"}) if known.get(n) != now.get(n)]
        for stem, values in tensors.items():
            differences += [f"{stem}: {n}" for n in differing(self.saved.tensors.get(stem, {}), values)]
        self.differing = differences
        if differences or not self.to_end:
            raise Stop


def stopped(folder: RunFolder, after: str) -> Interrupted:
    """What a run that was asked to stop ends with."""
    return Interrupted(
        f"stopped by a signal after {after}; nothing is lost",
        where=str(folder.path),
        remedy=f"tunewright resume {folder.path}",
    )


@dataclass
class TrainingCallback:
    """Listens to the loop: logs, evaluates, keeps the best weights, stops early, writes checkpoints.

    `before` is the number of optimizer steps of earlier stages: checkpoints count over the whole run. `hears`: whether
    signals are this stage's to hear; where several train at once, whoever leads them does, and has `asked` for a
    checkpoint after the present step at times. `from_start`: what there is before the first step is evaluated too.
    `rows_of`: loss and weight of each row at the last evaluation.
    """

    folder: RunFolder
    spec: Any
    stage: str
    index: int
    before: int
    evaluate: Evaluate | None = None
    show: Callable[[dict[str, Any]], None] = lambda record: None
    say: Callable[[str], None] = lambda text: None
    track: Callable[[dict[str, Any]], None] = lambda record: None
    best: dict[str, Any] = field(default_factory=dict)
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    row_losses: list[list[float]] = field(default_factory=list)
    stop_requested: bool = False
    ended_by: str | None = None
    verified: Verified | None = None
    hears: bool = True
    asked: bool = False
    from_start: bool = False
    rows_of: Callable[[], list[list[float]]] = list

    def begin(self, loop: Loop) -> None:
        """Before the first step: where the best weights are kept, those of the start are the first to be judged; where
        figures are followed along the way, they are evaluated and choose nothing.
        """
        if not (self.evaluate and self.spec.eval_steps and (self.spec.keep_best or self.from_start)):
            return
        figures = self._judge(loop) if self.spec.keep_best else self._evaluated(loop)
        record = {"stage": self.stage, "step": 0, **figures}
        if self.verified is None:
            self.folder.append_metrics(record)
            self.track(record)
        self.show(record)

    def __call__(self, loop: Loop, record: dict[str, Any]) -> None:
        record = {"stage": self.stage, **record}
        # the last step is evaluated by `finish`, whether or not it is a multiple: here it would be measured twice
        due = self.spec.eval_steps and loop.step_number % self.spec.eval_steps == 0 and not loop.finished()
        if self.evaluate and due:
            record.update(self._judge(loop))
        if self.verified is None and (loop.step_number % self.spec.logging_steps == 0 or "eval_loss" in record):
            self.folder.append_metrics(record)
            self.track(record)
        self.show(record)
        if self.verified is not None:
            self.verified.compare(loop)
            if self.stop_requested:
                raise Interrupted("stopped by a signal; verifying changes nothing", where=str(self.folder.path))
            return
        # early stopping first: a checkpoint written on the way out would be taken for a place to go on from
        if self.ended_by:
            raise Stop
        if self.stops():
            self.write(loop)
            raise stopped(self.folder, self._place(loop.step_number) + ", with a checkpoint")
        due = self.spec.save_steps and (self.asked or loop.step_number % self.spec.save_steps == 0)
        if due and not loop.finished():
            self.write(loop)
        self.asked = False

    def _place(self, step: int) -> str:
        """A step of this stage in words; behind earlier stages, which of the run it is as well."""
        of_run = f" (step {self.before + step} of the run)" if self.before else ""
        return f"step {step} of stage '{self.stage}'{of_run}"

    def stops(self) -> bool:
        """Whether any process of the run was asked to stop. A signal that comes meanwhile stays for the next time."""
        return any(one["stop"] for one in present().told({"stop": self.stop_requested}))

    def _judge(self, loop: Loop) -> dict[str, float]:
        with loop.kept_weights():
            return self._judged(loop)

    def _judged(self, loop: Loop) -> dict[str, float]:
        figures = self._evaluated(loop)
        criterion = self.spec.keep_best or "loss"
        by_loss = criterion == "loss" or "eval_target" not in figures
        value = -figures["eval_loss"] if by_loss else figures["eval_target"]
        best = self.best or {"value": -math.inf, "lowest": -math.inf, "start": self.row_losses if by_loss else []}
        # patience counts from the lowest loss of all, told from the start's or not: a slow run is not ended for it
        lowest = best.get("lowest", best["value"])
        since = 0 if value > lowest or not self.best else best["since"] + 1
        if not self.best or value > best["value"] and not (by_loss and self._hardly_from_start()):
            best = {**best, "value": value, "step": loop.step_number}
            if self.spec.keep_best:
                owned = {f"owned:{n}": p for n, p in loop.trained.owned.items()}
                self.best_tensors = {n: t.detach().clone() for n, t in {**loop.trained.changed(), **owned}.items()}
        self.best = {**best, "lowest": max(lowest, value), "since": since}
        if self.spec.early_stopping and self.best["since"] >= self.spec.early_stopping:
            self.ended_by = "early stopping"
        return figures

    def _hardly_from_start(self) -> bool:
        """Whether the start is still the best and the gain over it cannot be told from nothing on these rows: few of
        them would choose by chance.
        """
        if self.best["step"] != 0 or len(self.best.get("start") or ()) < 2:
            return False
        return gain_interval(self.best["start"], self.row_losses)[1] <= 0

    def _evaluated(self, loop: Loop) -> dict[str, float]:
        assert self.evaluate is not None
        model = loop.adapted.outer
        model.eval()
        figures = self.evaluate(loop)
        set_training(model)
        # one process's word: what stops a stage must stop it in all
        said = present().told({"figures": figures, "rows": self.rows_of() if self.spec.keep_best else []})[0]
        self.row_losses = said["rows"]
        return {f"eval_{k}": v for k, v in said["figures"].items()}

    def write(self, loop: Loop) -> None:
        """Write a checkpoint of the loop and of what is kept here."""
        state, tensors = loop.state()
        best = gathered(loop.adapted, self.best_tensors)
        if loop.adapted.divided is not None and not loop.group.first:
            return  # it has no more than a part
        more = {"loop": state, "stage": self.stage, "index": self.index, "best": self.best}
        checkpoint.save(
            self.folder.path,
            self.before + loop.step_number,
            more,
            {**tensors, "best": best},
            save_total_limit=self.spec.save_total_limit,
        )

    def restore(self, saved: Checkpoint, adapted: Adapted) -> None:
        self.best, self.best_tensors = dict(saved.state["best"]), shares(adapted, saved.tensors.get("best", {}))

    def finish(self, loop: Loop) -> None:
        """At a stage's end: one more evaluation when evaluations are on, and the best weights put back."""
        if self.evaluate and self.spec.eval_steps:
            record = {"stage": self.stage, "step": loop.step_number, **self._judge(loop)}
            loop.adapted.outer.eval()
            if self.verified is None:
                self.folder.append_metrics(record)
                self.track(record)
            self.show(record)
        if self.spec.keep_best and self.best_tensors and self.best["step"] != loop.step_number:
            self._put_back_best(loop)

    def _put_back_best(self, loop: Loop) -> None:
        """The best weights whole: what was drawn for the first time after that step goes back to the base."""
        parameters = loop.adapted.base_parameters()
        with torch.no_grad():
            for name, original in loop.adapted.originals.items():
                own(parameters[name]).copy_(original.restored(parameters[name]))
            for name, p in loop.trained.owned.items():
                p.copy_(self.best_tensors[f"owned:{name}"])
        loop.trained.restore(self.best_tensors)


class Stoppable(Protocol):
    """Whatever ends after its present step once it is asked to."""

    stop_requested: bool


@contextmanager
def stopping_on_signals(keeper: Stoppable) -> Iterator[None]:
    """SIGTERM, Ctrl-C and a terminal that hangs up ask for a checkpoint after the present step (a second Ctrl-C ends
    at once).
    """

    def ask(number: int, frame: Any) -> None:
        if keeper.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if terminal.is_hang_up(number):
            terminal.leave()
        keeper.stop_requested = True

    try:
        old = {s: signal.signal(s, ask) for s in (*terminal.ending_signals(), signal.SIGINT)}
    except ValueError:  # not the main thread: the caller owns signals
        yield
        return
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


@dataclass
class TrainingOutcome:
    """What a stage cost and did. Times in seconds."""

    steps: int
    tokens: int
    trained_tokens: int
    seconds: float
    trainable: int
    ended_by: str
    best_step: int | None
    splits: int
    trained_names: dict[str, int]
    flops: float | None = None  # counted; None in what was written before it was
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Method -> the figures that it found out (`contract.found.Found`, as JSON)."""
    streamed: dict[str, dict[str, float]] = field(default_factory=dict)
    """Streamed source -> what was read of it (`Cursor.streamed`)."""
    unmoved: bool = False
    """Whether what trains had a gradient of zero at every step."""


def run_stage(
    stage: TrainingInputs, keeper: TrainingCallback, needs: Callable[..., dict[str, Any]], saved: Checkpoint | None
) -> TrainingOutcome:
    """Train a stage from its start (or from a checkpoint within it) to its end."""
    return go_through(steps_of(stage, keeper, needs, saved))


def steps_of(
    stage: TrainingInputs, keeper: TrainingCallback, needs: Callable[..., dict[str, Any]], saved: Checkpoint | None
) -> Generator[Loop, None, TrainingOutcome]:
    """`run_stage`, pausing where a step is due (`training.stepping.go_through`)."""
    methods: Methods = stage.methods
    with telling(keeper.say):
        set_up(stage.adapted, methods, stage.plan, stage.task.name, needs, stage.earlier)
    methods.event("begin_task", stage=keeper.stage, adapted=stage.adapted)
    _recall_splits(keeper.folder, keeper.stage, stage.splits)
    stage.begin, stage.listen = keeper.begin, keeper
    stage.on_split = lambda step, tokens: _note_split(keeper.folder, keeper.stage, step, tokens)
    resume = None
    if saved is not None:
        keeper.restore(saved, stage.adapted)
        resume = (saved.state["loop"], saved.tensors)
    listening = stopping_on_signals(keeper) if keeper.hears else nullcontext()
    recompute = stage.spec.activation_checkpointing
    with listening, recomputing(stage.adapted.model, recompute), compiling(stage.adapted, stage.spec.compile) as blocks:
        stage.compiled = blocks
        loop = begun(stage, resume)
        yield from loop.steps()
    if keeper.verified is None or keeper.verified.to_end:
        keeper.finish(loop)
        end_stage(stage, keeper.stage)
    kept = keeper.best.get("step") if keeper.spec.keep_best else None
    return TrainingOutcome(
        steps=loop.step_number,
        tokens=loop.tokens,
        trained_tokens=loop.trained_tokens,
        seconds=loop.seconds,
        trainable=loop.trained.count(),
        ended_by=keeper.ended_by or _reason(loop),
        best_step=kept if kept != loop.step_number else None,
        splits=len(stage.splits),
        trained_names={n: leaf.count for n, leaf in loop.trained.leaves.items()},
        flops=loop.flops,
        found={b.name: asdict(f) for b in methods if (f := _found(b)) is not None},
        streamed=stage.rows.streamed() if isinstance(stage.rows, Cursor) else {},
        unmoved=bool(loop.step_number) and not loop.pulled and not any(methods.on(s) for s in ("step", "update")),
    )


def _found(bound: Bound) -> Found | None:
    told_by = bound.method.found(bound.state)
    if told_by is None or isinstance(told_by, Found):
        return told_by
    raise MethodError(
        f"'{bound.name}' gave {in_words(told_by)} as what it found",
        where=place(type(bound.method), "found"),
        remedy="return Found(title, description, values), or None",
    )


def end_stage(stage: TrainingInputs, name: str) -> None:
    """Tell every method that the stage has ended, with the statistics of the weights that it ended with."""
    for b in stage.methods.on("end_task"):
        with stage.adapted.evaluating():
            values = stage.signals(b, None, "end")
        stage.methods.call(b, "end_task", values, stage=name, adapted=stage.adapted)


def save_result(folder: RunFolder, stage: TrainingInputs, keeper: TrainingCallback, result: TrainingOutcome) -> None:
    """Write `stages/<name>/`; the run's checkpoints of this stage are no longer needed to go on.

    What a clock said goes to progress.json, so that equal runs leave equal stages.
    """
    known = folder.progress().get(STAGE_SECONDS, {})
    folder.note_progress(**{STAGE_SECONDS: {**known, keeper.stage: result.seconds}})
    write_stage(folder.path / "stages" / keeper.stage, stage, keeper.stage, result)


def write_stage(folder: Path, stage: TrainingInputs, name: str, result: TrainingOutcome) -> None:
    """Write a finished stage into `folder`: what changed, what its training was, what methods leave to later ones."""
    left = [left_of(name, b.name, b.method.leaves, b.state, b.state.data) for b in stage.methods]
    carry.save_stage(folder, stage.adapted, {"result": told(result)}, [one for one in left if one is not None])


def told(result: TrainingOutcome) -> dict[str, Any]:
    """What a finished stage's file says of its training: all but the time that it took."""
    return {k: v for k, v in result.__dict__.items() if k != "seconds" and (v or k != "streamed")}


def recalled(folder: RunFolder, stage: str, state: dict[str, Any]) -> TrainingOutcome:
    """The outcome of a stage that an earlier process finished. Stages of earlier versions hold their own seconds."""
    seconds = folder.progress().get(STAGE_SECONDS, {}).get(stage, 0.0)
    return TrainingOutcome(**{"seconds": seconds, **state["result"]})


def _reason(loop: Loop) -> str:
    b = loop.stage.budget
    for name, limit, used in (
        ("tokens", b.tokens, loop.tokens),
        ("steps", b.steps, loop.step_number),
        ("seconds", b.seconds, loop.seconds),
        ("flops", b.flops, loop.flops),
    ):
        if limit is not None and used >= limit:
            return name
    return "epochs"


def _note_split(folder: RunFolder, stage: str, step: int, tokens: int) -> None:
    """Record at once that memory ran out and how the step was split, so that a run killed later repeats it."""
    # before the step is done again: were it noted afterwards, a kill in between would let the rerun add up differently
    known = folder.progress().get("splits", {})
    known.setdefault(stage, {})[str(step)] = tokens
    folder.note_progress(splits=known)


def _recall_splits(folder: RunFolder, stage: str, splits: dict[int, int]) -> None:
    splits.update({int(k): v for k, v in folder.progress().get("splits", {}).get(stage, {}).items()})
