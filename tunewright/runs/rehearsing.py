"""What a run refuses once its parts are there and before it measures: every stage's start and set-up are tried once.

A run does this with its model, a check with the model's shapes alone.
"""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

from tunewright.contract.left import Earlier, NotThereYet
from tunewright.contract.method import Setup, begun
from tunewright.runs import made, predicting, predictors, selected, streams
from tunewright.runs.merging import unfoldable
from tunewright.runs.session import Session, StageInputs
from tunewright.training import carry
from tunewright.training.optim import check_makers


def rehearse(session: Session, run: Path) -> None:
    """Let models, starts and methods refuse what they cannot do here (a target that no layer has ...).

    Only of stages that start from the base or a folder: what others start from is not there yet. The session's model is
    its base again afterwards.
    """
    predicting.load(session)
    made.load(session)
    selected.load(session)
    streams.rehearse(session)
    for part in session.stages:
        stage, _ = session.training_inputs(part)
        check_makers(stage.methods)
        start = session.start(part)
        if start.startswith("stages.") or stage.methods.on("prepare"):
            continue
        try:
            if start != "base":
                _begin(session, part, start, run)
            earlier = Earlier(complete=part.index == 0)
            for b in stage.methods:
                with suppress(NotThereYet):
                    plan, task = stage.plan, session.task.name
                    begun(b.method, Setup(session.adapted, plan, task, random.Random(0), earlier), b.name)
        finally:
            if start != "base":
                session.adapted.forget_changes()
    _check_folds(session)


def _begin(session: Session, part: StageInputs, start: str, run: Path) -> None:
    adapted = session.adapted
    if not adapted.base_hash and session.loaded.folder is not None:
        adapted.base_hash = session.loaded.hash_now()
    carry.begin(adapted, start, part.spec.carry, run, f"stages.{part.spec.name}.start")


def _check_folds(session: Session) -> None:
    """MethodError where the last stage wraps the model and a step after it works on plain weights."""
    wrapped = any("wrap" in type(m).slots() for _, m in session.stages[-1].methods)
    for use in session.recipe.after:
        if wrapped and not predictors.predicts(use):
            raise unfoldable(use.name)
