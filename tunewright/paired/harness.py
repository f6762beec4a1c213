"""lm-evaluation-harness run here, through its own library, on both sides: its tasks, its prompts, its numbers.

The library (extra `eval`) asks each model in turn and writes what its command line writes with `--output_path` and
`--log_samples`; these files are then paired row by row (`lm_eval.py`). Models are asked as it asks them by default:
without a chat template, with the number of examples that each task says. Code that a task brings along is not run
unless the task lies in the user's own folder (`--include-path`).
"""

from __future__ import annotations

import gc
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.contract.task import Task
from tunewright.errors import DataError, MissingExtraError, ModelError, RecipeError, did_you_mean
from tunewright.models.precision import choose_precision
from tunewright.paired import lm_eval
from tunewright.paired.result import Pair, SideInfo
from tunewright.paired.sides import Asked, asked, device_for, open_side
from tunewright.recipe import DataSpec, Source
from tunewright.recipe.gate import Bound
from tunewright.report.gated import judge
from tunewright.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Iterator

WHERE = "--lm-eval"
TASK = "text-generation"
BATCH = 8
SIDES = ("first", "second")


@dataclass(frozen=True)
class Evaluation:
    """What the harness is asked: its tasks, a folder with more of them, and at most so many rows of each."""

    tasks: Sequence[str]
    include: Path | None = None
    rows: int | None = None


def named(text: str) -> list[str]:
    """`arc_easy,hellaswag`. RecipeError for an empty name."""
    names = [n.strip() for n in text.split(",")]
    if "" in names:
        raise RecipeError("a task without a name", where=WHERE, remedy="write --lm-eval arc_easy,hellaswag")
    return names


def refuse(sides: Sequence[Sequence[str]], flags: Mapping[str, Any]) -> None:
    """RecipeError for a flag that says what is asked instead, for several seeds, and for outputs of the harness."""
    if given := next((name for name, value in flags.items() if value is not None), None):
        what = "the harness's tasks say what is asked and how it is scored"
        raise RecipeError(what, where=f"--{given}", remedy=f"leave --{given} out, or measure it without --lm-eval")
    for side in sides:
        if len(side) > 1:
            what = "the harness evaluates one model a side, and this one names several"
            raise RecipeError(what, where=WHERE, remedy="name one run a side")
        if lm_eval.holds(side[0]):
            what = "this was evaluated already: it is what the harness wrote"
            raise RecipeError(what, where=side[0], remedy="leave --lm-eval out, or name a model")


def measure(
    first: str,
    second: str,
    evaluation: Evaluation,
    *,
    base: str | None = None,
    device: str = "auto",
    bounds: Sequence[Bound] = (),
    out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Pair:
    """Evaluate both sides and pair what they gave; with `out`, the harness's files stay there, under `lm-eval/`.

    MissingExtraError without the library, RecipeError for a task that it does not know, ModelError for a side that it
    cannot ask, DataError where its task fails (rows that cannot be had, say).
    """
    if importlib.util.find_spec("lm_eval") is None:
        what = "the harness's tasks are run by its own library, lm_eval, which is not installed"
        raise MissingExtraError(what, where=WHERE, remedy="pip install 'tunewright[eval]'")
    with _offline_of_telemetry():
        manager = _manager(evaluation)
    members = [asked(name, base) for name in (first, second)]
    with tempfile.TemporaryDirectory(prefix="tunewright-lm-eval-") if out is None else nullcontext(out) as place:
        folder = Path(place) / "lm-eval"
        hashes = []
        for member, name in zip(members, SIDES, strict=True):
            say(f"evaluating {member.name}")
            hashes.append(_evaluated(member, evaluation, manager, folder / name, device))
        pair = lm_eval.measure([str(folder / SIDES[0])], [str(folder / SIDES[1])], out=None)
    pair.first, pair.second = (
        SideInfo(names=[m.name], kind=m.kind, hashes=[h]) for m, h in zip(members, hashes, strict=True)
    )
    pair.task = TASK
    if bounds:
        pair.gate = judge(bounds, pair)
    if out is not None:
        pair.save(out)
    return pair


@contextmanager
def _offline_of_telemetry() -> Iterator[None]:
    """The harness reads a variable of the environment to say less; it is put back."""
    before = os.environ.get("LMEVAL_LOG_LEVEL")
    os.environ["LMEVAL_LOG_LEVEL"] = "ERROR"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("LMEVAL_LOG_LEVEL", None)
        else:
            os.environ["LMEVAL_LOG_LEVEL"] = before


def _manager(evaluation: Evaluation) -> Any:
    """The harness's list of tasks, with those of the user's folder. RecipeError for a task that is not in it."""
    from lm_eval.tasks import TaskManager

    if evaluation.include is not None and not evaluation.include.is_dir():
        raise RecipeError("no such folder", where="--include-path", remedy="name the folder of the tasks' YAML files")
    include = None if evaluation.include is None else str(evaluation.include)
    manager = TaskManager(include_path=include)
    for task in evaluation.tasks:
        if task not in manager.all_tasks:
            what = f"the harness has no task '{task}'"
            raise RecipeError(what, where=WHERE, remedy=did_you_mean(task, manager.all_tasks))
    return manager


def _evaluated(member: Asked, evaluation: Evaluation, manager: Any, folder: Path, device: str) -> str:
    """Ask one side everything, write the harness's files into a folder; the hash of its weights."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM

    gc.collect()
    task, where = get_task(TASK), device_for(device)
    recipe = member.recipe
    data = recipe.data if recipe is not None else DataSpec(train=[Source(path=member.name)])
    side = open_side(member, task, data, None, where, choose_precision(where))
    if side.adapted.wrapper is not None or not _writes(task, side.model):
        raise ModelError(
            "the harness asks plain causal models, and this one answers in a way of its own",
            where=member.name,
            remedy="measure it with --data, or name what `tunewright export` wrote of it",
        )
    tracker = EvaluationTracker(output_path=str(folder))
    with side.adapted.at_strength(1.0) as model:
        asks = HFLM(pretrained=model, tokenizer=side.tokenizer, batch_size=BATCH)
        try:
            found: Any = simple_evaluate(
                model=asks,
                model_args={"pretrained": Path(member.name).name},
                tasks=list(evaluation.tasks),
                task_manager=manager,
                limit=evaluation.rows,
                bootstrap_iters=0,
                evaluation_tracker=tracker,
                log_samples=True,
            )
        except Exception as e:  # a task is YAML and code of others: rows that cannot be had, a wrong key
            said = (str(e).strip() or type(e).__name__).splitlines()[0][:300]
            what = f"the harness cannot evaluate {', '.join(evaluation.tasks)}: {said}"
            raise DataError(what, where=WHERE, remedy="look at the task's files and its data set") from e
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)
    return side.identity


def _writes(task: Task, model: Any) -> bool:
    return bool(task.continues and getattr(model, "generation_config", None) is not None)
