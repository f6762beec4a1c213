"""Whether a run's last steps come out again in every bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.errors import CheckpointError
from tunewright.files import checkpoint
from tunewright.runs.work import Work

if TYPE_CHECKING:
    pass


def verify(work: Work) -> None:
    """Train from the last checkpoint but one to the last, and compare. CheckpointError names what differs."""
    from tunewright.runs.stages import Verified, run_stage
    from tunewright.training import carry

    whole = [checkpoint.read(p) for _, p in checkpoint.listed(work.folder.path)]
    pairs = [(a, b) for a, b in zip(whole, whole[1:], strict=False) if a.state["stage"] == b.state["stage"]]
    if not pairs:
        raise CheckpointError(
            "two checkpoints of one stage are needed to verify",
            where=str(work.folder.path),
            remedy="run with train.save_steps, and save_total_limit of at least 2",
        )
    first, last = pairs[-1]
    part = next(p for p in work.session.stages if p.spec.name == last.state["stage"])
    carry.begin(
        work.session.adapted,
        part.spec.start or "base",
        part.spec.carry,
        work.folder.path,
        f"stages.{part.spec.name}.start",
    )
    stage, provider = work.session.training_inputs(part)
    keeper = work.keeper(part)
    keeper.evaluate, keeper.verified = None, Verified(last)
    with work.screen.training(part.spec.name, stage.plan) as show:
        keeper.show = show
        run_stage(stage, keeper, provider.statistics, first)
    differing = keeper.verified.differing
    if differing:
        raise CheckpointError(
            (
                f"steps {first.step} to {last.step}, computed again, differ in {len(differing)} values, first in "
                f"'{differing[0]}'"
            ),
            where=str(work.folder.path),
            remedy="verify with the run's own machine, versions and threads; with these, report it as a defect",
        )
    work.screen.say(f"verified: steps {first.step} to {last.step}, computed again, are equal in every bit", always=True)
