"""Whether a run's last steps come out again in every bit, and lead to what the run left."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import CheckpointError
from tunewright.files import checkpoint
from tunewright.files.checkpoint import Checkpoint
from tunewright.runs.work import Work

if TYPE_CHECKING:
    from tunewright.runs.intact import Intact
    from tunewright.runs.session import StageInputs
    from tunewright.training.stage import TrainingInputs

SHARED = "shared"
"""Key of progress.json: names of the runs that some of its steps shared forwards with (`runs/turns.py`)."""
COMPARED = ("steps", "tokens", "trained_tokens", "trainable", "best_step", "trained_names")
"""What a stage's result says that no clock decides."""


@dataclass
class Stretch:
    """Steps of one stage to compute again: from `first` (None: the stage's start) over `mark` to `end`, the finished
    stage. One of the last two may not be there.
    """

    part: StageInputs
    first: Checkpoint | None
    mark: Checkpoint | None
    end: Checkpoint | None

    @property
    def begins(self) -> int:
        return int(self.first.state["loop"]["step"]) if self.first is not None else 0

    @property
    def stops(self) -> int:
        """The optimizer step of the stage after which nothing is there to compare with."""
        if self.end is not None:
            return int(self.end.state["result"]["steps"])
        assert self.mark is not None
        return int(self.mark.state["loop"]["step"])


def verify(work: Work, whole: Intact) -> None:
    """Compute the last steps again, compare them with the checkpoint among them, the finished stage and the change that
    the run left. CheckpointError names what differs. `whole`: what was found of its files.
    """
    from tunewright.runs.head_start import start_head, starts_from_probe
    from tunewright.runs.meter import Meter
    from tunewright.runs.stages import Verified, run_stage
    from tunewright.training import carry

    _weights_are_those(work)
    if others := work.folder.progress().get(SHARED):
        work.screen.say(
            f"verified: {whole}; its steps were computed together with those of {', '.join(others)}, and are not "
            "computed again",
            always=True,
        )
        return
    stretch = _last(work)
    part, name = stretch.part, stretch.part.spec.name
    carry.begin(
        work.session.adapted, part.spec.start or "base", part.spec.carry, work.folder.path, f"stages.{name}.start"
    )
    for one in work.session.stages[: part.index + 1]:
        work.select(one)
    if starts_from_probe(work.session, part):
        start_head(work.session, part)
    stage, provider = work.inputs(part)
    # a budget of seconds would end elsewhere each time
    stage.budget = stage.budget.model_copy(update={"seconds": None, "steps": stretch.stops})
    work.meter = Meter(work.session, work.cost)
    keeper = work.keeper(part)
    if stretch.end is None or not part.train.keep_best:
        keeper.evaluate = None
    keeper.verified = Verified(stretch.mark, to_end=stretch.end is not None)
    with work.screen.training(name, stage.plan) as show:
        keeper.show = show
        result = run_stage(stage, keeper, provider.statistics, stretch.first)
    differing, until = keeper.verified.differing, stretch.stops
    if stretch.mark is not None:
        until = stretch.mark.state["loop"]["step"] if differing or differing is None else until
        differing = ["the steps up to the checkpoint"] if differing is None else differing
    if stretch.end is not None and not differing:
        differing = _end_differs(work, stretch, stage, result)
    if differing:
        raise CheckpointError(
            (
                f"steps {stretch.begins} to {until}, computed again, differ in {len(differing)} values, first in "
                f"'{differing[0]}'"
            ),
            where=str(work.folder.path),
            remedy="verify with the run's own machine, versions and threads; with these, report it as a defect",
        )
    work.screen.say(
        f"verified: {whole}; steps {stretch.begins} to {stretch.stops} of the stage '{name}', computed again, are "
        f"equal in every bit",
        always=True,
    )


def _weights_are_those(work: Work) -> None:
    """Read every byte of the base: what the cache knows of unchanged files is not enough here."""
    loaded = work.session.loaded
    if loaded.folder is not None and loaded.hash_now(afresh=True) != loaded.hash:
        raise CheckpointError(
            "the model's weights are not those that the run began with",
            where=str(loaded.folder),
            remedy="put the old ones back, or begin a new run",
        )


def _last(work: Work) -> Stretch:
    """The last steps of which a run's folder holds the end."""
    points = [checkpoint.read(p) for _, p in checkpoint.listed(work.folder.path)]
    stages = {p.spec.name: p for p in work.session.stages}
    finished = [n for n in stages if (_stage(work, n) / checkpoint.MANIFEST).exists()]
    reached = [*finished, *(c.state["stage"] for c in points if c.state["stage"] in stages)]
    if not reached:
        raise CheckpointError(
            "there is nothing to verify yet: neither a checkpoint nor a finished stage",
            where=str(work.folder.path),
            remedy="let it run on, with train.save_steps for checkpoints on the way",
        )
    name = max(reached, key=list(stages).index)
    end = checkpoint.read(_stage(work, name)) if name in finished else None
    own = [c for c in points if c.state["stage"] == name]
    mark = own[-1] if len(own) > 1 or end is None else None
    first = own[-2] if len(own) > 1 else own[-1] if own and end is not None else None
    return Stretch(stages[name], first, mark, end)


def _stage(work: Work, name: str) -> Path:
    return work.folder.path / "stages" / name


def _end_differs(work: Work, stretch: Stretch, stage: TrainingInputs, result: Any) -> list[str]:
    """What of the finished stage, and of the change that the run left, does not come out again."""
    from tunewright.models.agreement import differing
    from tunewright.runs import artefacts, predictors
    from tunewright.runs.stages import write_stage

    assert stretch.end is not None
    known = stretch.end
    with tempfile.TemporaryDirectory(prefix="tunewright-verify-") as folder:
        again = Path(folder)
        write_stage(again / "stage", stage, stretch.part.spec.name, result)
        now = checkpoint.read(again / "stage")
        told = [n for n in {*known.state, *now.state} - {"result"} if known.state.get(n) != now.state.get(n)]
        told += [n for n in COMPARED if known.state["result"].get(n) != now.state["result"].get(n)]
        for stem, values in now.tensors.items():
            told += [f"{stem}: {n}" for n in differing(known.tensors.get(stem, {}), values)]
        edited = any(not predictors.predicts(use) for use in work.recipe.after)
        last = work.session.stages[-1].spec.name == stretch.part.spec.name
        if told or edited or not last:
            return told
        artefacts.save(again, work.session)
        files = [p for p in again.rglob("*.safetensors") if p.parent != again / "stage"]
        names = [p.relative_to(again).as_posix() for p in files]
        # a run that was stopped before its report may not have written them yet; what is there has to come out again
        done = (work.folder.path / "report.json").exists()
        run = work.folder.path
        return [n for n in names if (done or (run / n).exists()) and not _equal(again / n, run / n)]


def _equal(a: Path, b: Path) -> bool:
    return b.is_file() and checkpoint.sha256_of(a) == checkpoint.sha256_of(b)
