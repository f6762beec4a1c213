"""Tunewright adapts a pre-trained model with any published method and shows what it gained, lost and cost.

Everything that the command line does is a function here: `run`, `resume`, `plan`, `check`, `suggest`, `select`,
`tune`, `compare`, `fit_laws`, `merge`, `open_run`, `load_recipe`, `methods`. Each returns data that prints as the
command line does and shows itself in a notebook. Importing the package imports nothing heavy: each function imports
what it needs when it is called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

from tunewright.errors import TunewrightError as TunewrightError
from tunewright.machine.waiting import wait_asleep

if TYPE_CHECKING:
    from tunewright.compare.arms import ArmLike
    from tunewright.compare.result import Comparison as Comparison
    from tunewright.compare.suggesting import Suggestion as Suggestion
    from tunewright.finished.run import Run as Run
    from tunewright.laws.fit_laws import Laws as Laws
    from tunewright.planning.check import CheckResult as CheckResult
    from tunewright.planning.plan import RunPlan as RunPlan
    from tunewright.planning.subset import Subset as Subset
    from tunewright.recipe import Recipe as Recipe
    from tunewright.recipe.adapters import AdaptersRecipe as AdaptersRecipe
    from tunewright.runs.adapters import AdaptersResult as AdaptersResult
    from tunewright.runs.result import Result as Result
    from tunewright.trials.tune import TuneResult as TuneResult
    from tunewright.weights.stream import Merged as Merged

wait_asleep()

__version__ = "0.1.0"
__all__ = [
    "AdaptersRecipe",
    "AdaptersResult",
    "CheckResult",
    "Comparison",
    "Laws",
    "Merged",
    "RunPlan",
    "Recipe",
    "Result",
    "Run",
    "Subset",
    "Suggestion",
    "TuneResult",
    "TunewrightError",
    "__version__",
    "check",
    "compare",
    "fit_laws",
    "load_adapters",
    "load_recipe",
    "merge",
    "methods",
    "open_run",
    "plan",
    "resume",
    "resume_adapters",
    "run",
    "run_adapters",
    "select",
    "suggest",
    "tune",
]

_CLASSES = {
    "AdaptersRecipe": "tunewright.recipe.adapters",
    "AdaptersResult": "tunewright.runs.adapters",
    "CheckResult": "tunewright.planning.check",
    "Comparison": "tunewright.compare.result",
    "Laws": "tunewright.laws.fit_laws",
    "Merged": "tunewright.weights.stream",
    "RunPlan": "tunewright.planning.plan",
    "Recipe": "tunewright.recipe",
    "Result": "tunewright.runs.result",
    "Run": "tunewright.finished.run",
    "Subset": "tunewright.planning.subset",
    "Suggestion": "tunewright.compare.suggesting",
    "TuneResult": "tunewright.trials.tune",
}


def run(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    quiet: bool = False,
) -> Result:
    """Measure the base, train, measure again, and report.

    `recipe`: a `Recipe`, a recipe file, the name of one that ships with the package ("quickstart"), or a recipe's
    values as a dict. `out`: the run's folder; none: runs/NAME, then runs/NAME-2 ... `sets`: overrides, as
    ["train.seed=1", "stages.0.budget.steps=24"]. `quiet`: no progress.

    Stopped anywhere, `resume` goes on. Raises RecipeError, DataError, ModelError, MethodError, FolderError and
    NonFiniteError: all of them are TunewrightError, and say what was wrong, where, and what to write instead.
    """
    from tunewright.runs.run import run as start

    return start(recipe, out, sets=sets, quiet=quiet)


@overload
def resume(folder: str | Path, *, verify: Literal[False] = False, quiet: bool = False) -> Result: ...


@overload
def resume(folder: str | Path, *, verify: bool, quiet: bool = False) -> Result | None: ...


def resume(folder: str | Path, *, verify: bool = False, quiet: bool = False) -> Result | None:
    """Go on with a run that was stopped, from its last whole checkpoint, to the same bits as without the stop.

    A finished run is given back as it is. `verify`: compute the last steps again instead and compare every bit: gives
    None, or raises CheckpointError naming what differs. FolderError for a folder that is no run's, or in use.
    """
    from tunewright.runs.run import resume as go_on

    return go_on(folder, verify=verify, quiet=quiet)


def load_adapters(recipe: str | Path | Mapping[str, Any], *, sets: Sequence[str] = ()) -> AdaptersRecipe:
    """Read a recipe that lists adapters: `recipes` holds a `Recipe` of each, to be checked, planned or run alone.

    RecipeError with file:line, the nearest name and an example.
    """
    from tunewright.recipe.adapters import read

    return read(recipe, sets)


def run_adapters(
    recipe: AdaptersRecipe | str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    quiet: bool = False,
    joint: bool = True,
) -> AdaptersResult:
    """Train the adapters that a recipe lists, over one base in this process; each one's `Result` is in `results`.

    `joint`: whether they share forwards; without, each comes out in the bits of its run alone. Else as `run`. One that
    stops does not stop the others: its error is raised when they are done.
    """
    from tunewright.runs.adapters import run as start

    return start(recipe, out, sets=sets, quiet=quiet, joint=joint)


def resume_adapters(folder: str | Path, *, quiet: bool = False) -> AdaptersResult:
    """Go on with a run of several adapters that was stopped; those that are finished are given back as they are."""
    from tunewright.runs.adapters import resume as go_on

    return go_on(folder, quiet=quiet)


def plan(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    on: str | None = None,
    quiet: bool = False,
) -> RunPlan:
    """Before anything is trained: what exactly would be, will it fit (bytes), how long does it take (seconds).

    Loads the model and does a few steps, which leave nothing behind. `on`: machines such as "8x H100 80GB", what it
    takes on which is reckoned on paper. Other arguments and errors as of `run`.
    """
    from tunewright.planning.plan import plan as foresee

    return foresee(recipe, sets=sets, on=on, quiet=quiet)


def check(
    recipe: Recipe | str | Path | Mapping[str, Any], *, sets: Sequence[str] = (), clean: str | Path | None = None
) -> CheckResult:
    """Check a recipe and its data, row by row, without the model's weights: `bad_rows` and `notices` as data.

    Bad rows do not raise. `clean`: a folder for a copy without them, with a quarantine file. RecipeError and
    ModelError (no such tokenizer) where the check cannot begin.
    """
    from tunewright.planning.check import check_recipe

    return check_recipe(recipe, sets=sets, clean=Path(clean) if clean is not None else None)


def suggest(
    recipe: Recipe | str | Path | Mapping[str, Any], *, sets: Sequence[str] = (), memory: int | None = None
) -> Suggestion:
    """Which methods a recipe's model, task and rows allow, how much each trains, and what the claims say of it.

    Reads no weights. `memory`: bytes to train in (default: this machine's). What a recipe's own methods refuse is no
    error here; others are those of `check`.
    """
    from tunewright.compare.suggesting import suggest as find

    return find(recipe, sets=sets, memory=memory)


def select(
    rows: Recipe | str | Path | Mapping[str, Any] | Sequence[str | Path],
    *,
    out: str | Path,
    using: str | Sequence[str | Mapping[str, Any]] | None = None,
    target: str | Path | None = None,
    keep: str | float | None = None,
    model: str | None = None,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    sets: Sequence[str] = (),
) -> Subset:
    """Choose rows without a run: those that are kept, and scores with reasons of all, in a new folder `out`.

    `rows`: a recipe (as of `run`), whose `data.select` says how; or, with `using`, a file of rows or several. `using`:
    selectors in order, as "dsir,near-duplicate:overlap=0.5" or as a recipe writes them. `target`: a file of rows to aim
    at. `keep`: "10%" or a number of rows, for the selector that takes one. `model`, `task`: what reads rows, for
    selectors that read with a model. `columns`: {"prompt": "question"}. `sets`: overrides of a recipe. RecipeError for
    what does not fit together, FolderError for a folder that is there, DataError and MethodError for rows.
    """
    from tunewright.errors import RecipeError
    from tunewright.planning import selecting

    if using is None:
        given_too = (target, keep, model, task, columns)
        if any(value is not None for value in given_too) or isinstance(rows, list | tuple):
            raise RecipeError("it is for files of rows, with selectors", where="using", remedy='write using="dsir"')
        return selecting.select_of_recipe(rows, Path(out), sets=sets)  # type: ignore[arg-type]
    files = [rows] if isinstance(rows, str | Path) else list(rows)  # type: ignore[arg-type]
    return selecting.select_of_pool(
        [str(f) for f in files],
        using,
        Path(out),
        target=str(target) if target is not None else None,
        keep=keep,
        model=model,
        task=task,
        columns=columns,
        seed=seed,
    )


def tune(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    trials: int = 16,
    minutes: float | None = None,
    seeds: int = 1,
    out: str | Path | None = None,
    write: bool = False,
    sets: Sequence[str] = (),
    workers: int | None = None,
    quiet: bool = False,
) -> TuneResult:
    """Look for a better learning rate, length of training and batch, on rows held out from the training rows.

    `trials`: runs at most; `minutes`: none is begun later; `seeds`: runs of each setting. The winning values are
    written to `out` (none: NAME.tuned.yaml beside a recipe's file), or into the file itself with `write`; nothing is
    written where the recipe's own are the best. Stopped anywhere, the same call goes on. RecipeError and FolderError.
    """
    from tunewright.runs import progress
    from tunewright.trials.tuned_recipe import tune_recipe

    return tune_recipe(
        recipe,
        trials=trials,
        minutes=minutes,
        seeds=seeds,
        out=Path(out) if out is not None else None,
        write=write,
        sets=sets,
        workers=workers,
        say=(lambda text: None) if quiet else progress.say,
    )


def compare(
    recipe: Recipe | str | Path | Mapping[str, Any],
    methods: Sequence[ArmLike] = (),
    *,
    select: str | Sequence[str] | None = None,
    seeds: int = 8,
    budget: str | Mapping[str, Any] | None = None,
    tune: bool = False,
    race: bool = False,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    workers: int | None = None,
    cluster: str | None = None,
    quiet: bool = False,
) -> Comparison:
    """Compare methods, or selectors of rows, under one budget over seeds: which gains most, loses least, costs least.

    `methods`: at least two, each as the command line writes it ("lora", "lora:rank=8", "lora+asft", "own.yaml") or as
    a recipe does ({"lora": {"rank": 8}}). `select`: selectors in their place, ["dsir", "near-duplicate+random",
    "none"], of the rows that the recipe's own methods train on. `seeds`: runs of each. `budget`: of each run,
    "tokens=200k" or {"tokens": 200_000}, or steps, epochs, seconds, flops; none: the recipe's. `tune`: choose each
    one's learning rate on validation rows first. `race`: look after each seed, and run those no further that are shown
    to be behind. `out`: the comparison's folder; none: runs/compare-NAME. `workers`: runs side by side; none: as cores
    and memory allow. `cluster`: a Ray cluster's address, or "local".

    Stopped anywhere, the same call goes on. Raises RecipeError and FolderError; a run that fails is a row of its
    method, not an error.
    """
    from tunewright.compare import arms
    from tunewright.compare.comparison import compare as carry_out
    from tunewright.recipe.given import given

    loaded = given(recipe, sets)
    each = arms.given_budget(budget, loaded)
    return carry_out(
        loaded,
        arms.methods_or_selectors(methods, select, loaded, each),
        seeds=seeds,
        budget=each,
        tune=tune,
        race=race,
        cluster=cluster,
        out=Path(out) if out is not None else None,
        workers=workers,
        quiet=quiet,
    )


def fit_laws(
    runs: Sequence[str | Path],
    *,
    hold_out: Sequence[str | Path] = (),
    tokens: Sequence[int] = (),
    keep: str | None = None,
    tolerance: float = 0.05,
) -> Laws:
    """Fit laws of continual pre-training over finished runs: losses at more tokens, and which mixture keeps the base.

    `runs`: folders of runs of one base, task and data, with other shares of `data.replay`, budgets or learning rates.
    `hold_out`: runs to judge laws on, before they are fitted to all (none: those of the largest budget). `tokens`:
    budgets to foresee (none: twice and four times the largest). `keep`: the kept text that is the general one, where
    there are several. `tolerance`: nats per token that the general loss may rise at the critical mixture ratio.
    RecipeError where runs do not go together or are too few for either law, FolderError, NonFiniteError.
    """
    from tunewright.laws.fit_laws import fit_laws as fit

    return fit(runs, hold_out=hold_out, tokens=tokens, keep=keep, tolerance=tolerance)


def merge(
    models: Sequence[str | Path | tuple[str | Path, Mapping[str, Any]]],
    *,
    method: str,
    out: str | Path,
    base: str | Path | None = None,
    kind: Literal["model", "delta", "adapter"] = "model",
    dtype: Literal["bfloat16", "float16", "float32"] | None = None,
    seed: int = 0,
    threads: int | None = None,
    data: Sequence[str | Path] = (),
    task: str = "text-generation",
    then: Sequence[str | Mapping[str, Any]] = (),
    allow_crimes: bool = False,
    **parameters: Any,
) -> Merged:
    """Merge models into one, tensor by tensor, and write it to `out`.

    `models`: folders, hub ids, adapters or runs; one with parameters of its own is a pair, as ("b", {"weight": 0.3}).
    `method`: linear, ties, slerp ... and its `parameters`, as density=0.2 (a list is a gradient over layers). `base`:
    the models' common base. `kind`: a whole model, what differs from the base, or an adapter (of adapters). `dtype`:
    none: as stored. `data`, `task`: rows, for methods that learn. `then`: edits of the merged change, as ["lines"].
    `allow_crimes`: merge models whose config.json differs in what decides their outputs all the same.

    Raises RecipeError, MethodError, ModelError, NonFiniteError and FolderError; nothing is left under `out` then.
    """
    from tunewright.weights.command import merge_models

    return merge_models(
        models,
        method=method,
        out=Path(out),
        base=base,
        kind=kind,
        data=data,
        task=task,
        then=then,
        parameters=parameters,
        dtype=dtype,
        seed=seed,
        threads=threads,
        allow_crimes=allow_crimes,
    )


def open_run(folder: str | Path) -> Run:
    """Open a run's folder: `report`, `metrics`, `rows`, `recipe`; `model()`, `base()`, `generate` and `chat`.

    Weights are loaded when one of the last four is called. FolderError for a folder that is no run's.
    """
    from tunewright.finished.run import Run

    return Run(folder)


def load_recipe(recipe: Recipe | str | Path | Mapping[str, Any], sets: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, by the name of one that ships with the package, or from a dict of its values.

    `sets`: overrides, as ["train.seed=1"]; with them a `Recipe` gives a new one. RecipeError with file:line, the
    nearest name and an example.
    """
    from tunewright.recipe.given import given

    return given(recipe, sets)


@overload
def methods(name: None = None) -> dict[str, str]: ...


@overload
def methods(name: str) -> dict[str, Any]: ...


def methods(name: str | None = None) -> dict[str, Any]:
    """What a recipe may name: {name: what it does}. Of one `name`: its room, slots, parameters, needs and papers.

    A slot's name gives what methods that fill it are offered and give back. RecipeError with the nearest names where
    there is none of that name.
    """
    from tunewright import catalogue
    from tunewright.catalogue import slot_pages
    from tunewright.contract.slot import SLOTS

    if name is None:
        return {n: entry.summary() for n, entry in catalogue.entries().items()}
    return slot_pages.described(name) if name in SLOTS else catalogue.describe(name)


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module 'tunewright' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Facade(ModuleType):
    """`methods` and `compare` are functions here and rooms of the package, and the import system puts a room that it
    has imported in the place of what has its name. The function stays; the room's modules are reached through it too,
    so that `import tunewright.methods.adapters.lora` goes on to mean what it says.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        present = vars(self).get(name)
        if isinstance(value, ModuleType) and isinstance(present, FunctionType):
            present.__dict__ = vars(value)
        else:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Facade
