"""What a run will take: a few real steps of each stage, and reading a few rows, on the session's model; then all is put
back.

Seconds are those of this machine now: what else runs on it counts. Nothing is written into a run's folder.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.contract.left import Earlier
from tunewright.measure.cost import Cost
from tunewright.models.compiled import check_deltas
from tunewright.models.generators import undisturbed
from tunewright.models.recompute import recomputing
from tunewright.planning.estimated import Estimate, StageEstimate
from tunewright.planning.held import keeping
from tunewright.planning.measuring_time import time_base, time_tuned
from tunewright.runs.session import Session, StageInputs
from tunewright.runs.stages import TrainingOutcome
from tunewright.training import carry
from tunewright.training.setting_up import set_up
from tunewright.training.stage import Stop
from tunewright.training.train import Loop

STEPS = 3
"""Timed steps of the probe; one more goes before them, since the first one pays for memory and kernels."""


@contextmanager
def untouched(session: Session) -> Iterator[Session]:
    """A session to try things on: on leaving, the given one's model is its base again, bit for bit, in its mode, with
    its deltas, gradients and tokenizer as they were. ValueError for a model that is changed already.
    """
    adapted = session.adapted
    if adapted.originals or adapted.deltas() or adapted.wrapper is not None:
        raise ValueError("an estimate starts from an untouched base")
    trial = session
    if any("prepare" in type(m).slots() for part in session.stages for _, m in part.methods):
        model, tokenizer = copy.deepcopy((session.loaded.model, session.loaded.tokenizer))
        loaded = replace(session.loaded, model=model, tokenizer=tokenizer)
        trial = replace(session, loaded=loaded, adapted=loaded.adapted())
        trial.adapted.always = adapted.always
    modes = [(m, m.training) for m in adapted.model.modules()]
    try:
        with undisturbed():
            yield trial
    finally:
        for one in (adapted, trial.adapted):
            one.forget_changes()
            for p in one.model.parameters():
                p.requires_grad_(False)
                p.grad = None
        for module, mode in modes:
            module.training = mode


def estimate(session: Session) -> Estimate:
    """Probe every stage and every measurement.

    The session is as before afterwards; the base's own errors are raised.
    """
    cost, estimated = Cost(), Estimate()
    with untouched(session) as trial, tempfile.TemporaryDirectory(prefix="tunewright-plan-") as folder:
        # the base is measured before anything hangs on it, as in a run
        readings = time_base(trial, estimated)
        for part in trial.stages:
            carry.begin(
                trial.adapted, trial.start(part), part.spec.carry, Path(folder), f"stages.{part.spec.name}.start"
            )
            estimated.stages.append(probe_stage(trial, part))
            if any(later.spec.start == f"stages.{part.spec.name}" for later in trial.stages):
                carry.save_stage(Path(folder) / "stages" / part.spec.name, trial.adapted, {})
        time_tuned(trial, estimated, readings)
    estimated.disk = _disk(session, estimated.stages)
    estimated.peak_memory, estimated.peak_cuda = cost.state()["peak_memory"], cost.peak_cuda
    return estimated


def probe_stage(session: Session, part: StageInputs) -> StageEstimate:
    """Set a stage up and do its first steps. The model is left as they leave it."""
    stage, provider = session.training_inputs(part)
    began = time.perf_counter()
    earlier = Earlier(complete=part.index == 0)  # stages are begun and not ended here: nothing is left of them
    set_up(stage.adapted, stage.methods, stage.plan, session.task.name, provider.statistics, earlier)
    stage.methods.event("begin_task", stage=part.spec.name, adapted=stage.adapted)
    ready = time.perf_counter()
    if part.train.compile:
        check_deltas(stage.adapted)
    loop = Loop(stage)
    drawn = time.perf_counter() - ready
    records: list[tuple[int, float, float]] = []
    counted = ExitStack()  # what the first step keeps; counting it takes time, and only later steps are timed
    kept = counted.enter_context(keeping(stage.adapted.model.parameters()))

    def listen(loop: Loop, record: dict[str, Any]) -> None:
        spent, tokens = loop.seconds - sum(s for _, s, _ in records), loop.tokens - sum(t for t, _, _ in records)
        records.append((tokens, spent, record["loss"]))
        counted.close()
        # samples are trained on in several steps, of which the first reads the prompts: a set is timed whole
        if len(records) > STEPS and not (loop.rollouts and loop.rollouts.left):
            raise Stop

    stage.listen = listen
    with recomputing(stage.adapted.model, part.train.activation_checkpointing), counted:
        loop.run()
    timed = records if loop.rollouts else records[1:] or records
    per_token = sum(s for _, s, _ in timed) / sum(t for t, _, _ in timed)
    train = per_token * stage.plan.tokens
    if loop.redraw_every and loop.redraw_every > STEPS:  # rarer drawings are not among the timed steps
        train += drawn * (stage.plan.steps // loop.redraw_every)
    if part.spec.budget.seconds is not None:
        train = min(train, part.spec.budget.seconds)
    state, tensors = loop.state()
    state_bytes = {n: sum(t.numel() * t.element_size() for t in group.values()) for n, group in tensors.items()}
    names = {n: leaf.count for n, leaf in loop.trained.leaves.items()}
    result = TrainingOutcome(
        loop.step_number,
        loop.tokens,
        loop.trained_tokens,
        loop.seconds,
        loop.trained.count(),
        "probe",
        None,
        len(stage.splits),
        names,
    )
    losses = [loss for _, _, loss in records]
    return StageEstimate(
        part.spec.name,
        stage.plan.steps,
        stage.plan.tokens,
        stage.plan.exact,
        ready - began + drawn,
        per_token,
        train,
        sum(state_bytes.values()),
        state_bytes["trained"] + (state_bytes["methods"] if stage.adapted.wrapper is not None else 0),
        losses,
        result,
        **_held(loop, state_bytes, kept.peak, statistics.mean(t for t, _, _ in records)),
    )


def _held(loop: Loop, state_bytes: dict[str, int], kept: int, step_tokens: float) -> dict[str, Any]:
    """What one process holds in training, and what a token costs it."""
    model = loop.stage.adapted.outer
    own = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    leaves = [leaf.leaf for leaf in loop.trained.leaves.values()]
    apart = sum(t.numel() * t.element_size() for t in leaves if t.data_ptr() not in own)  # copies in full precision
    return {
        "weights": sum(own.values()),
        "gradients": sum(t.numel() * t.element_size() for t in leaves),
        "state": apart + sum(size for name, size in state_bytes.items() if name != "trained"),
        "kept_for_backward": kept,
        "micro_tokens": min(step_tokens, float(loop.micro_tokens or step_tokens)),
        "step_tokens": step_tokens,
        "flops_per_token": loop.flops / max(1, loop.tokens),
        **_divisible(loop),
    }


def _divisible(loop: Loop) -> dict[str, int]:
    """What dividing weights among processes divides, and what it brings together at once: what lies outside the blocks,
    the largest of these, and the one that is fetched while it runs.
    """
    adapted = loop.stage.adapted
    sizes = {n: p.numel() * p.element_size() for n, p in adapted.base_parameters().items()}
    blocks = [sum(sizes.get(n, 0) for n in b.parameter_names) for b in adapted.structure.blocks]
    outside = sum(sizes.values()) - sum(blocks)
    trained = [leaf.leaf for leaf in loop.trained.leaves.values() if leaf.group == "base"]
    return {
        "divisible": sum(sizes.values()),
        "together": outside + sum(sorted(blocks)[-2:]),
        "divisible_gradients": sum(t.numel() * t.element_size() for t in trained),
    }


def _disk(session: Session, stages: list[StageEstimate]) -> int:
    """Bytes of a run's folder: finished stages, the change once more as an artefact, and the checkpoints that are
    kept.
    """
    total = sum(s.kept for s in stages) + (stages[-1].kept if stages else 0)
    most = 0
    for part, s in zip(session.stages, stages, strict=True):
        if part.train.save_steps:
            most = max(most, s.checkpoint * min(part.train.save_total_limit, s.steps // part.train.save_steps))
    return total + most
