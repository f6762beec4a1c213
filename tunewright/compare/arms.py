"""What is compared: arms from the command line, the recipe each of them runs, and one budget for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tunewright import catalogue
from tunewright.catalogue.numbers import parse_number
from tunewright.errors import RecipeError, did_you_mean
from tunewright.files.regular import regular
from tunewright.recipe import Budget, Recipe
from tunewright.recipe.load import check_names
from tunewright.recipe.uses import MethodUse, use_of
from tunewright.runs.selecting import check_selector, selector
from tunewright.trials.pool import Trial
from tunewright.trials.trial import TrialRecord, key_of
from tunewright.trials.tuning import training_alone

VALIDATION = 0.1  # share of the training rows held out for tuning, where the recipe names none
PILOT_SEED = 1_000_003  # its statistics are drawn by its seed, so that none comes from a cache
PILOT_STEPS = 2
FRAGMENT = {"name", "methods", "after", "train", "carry"}
JOINT = "joint"
"""What stands among an arm's methods where all tasks of a sequence are learnt at once: no method, the upper bound."""
NO_SELECTOR = "none"
"""The arm that trains on all rows."""
OWN_TRAIN = {
    "learning_rate",
    "optimizer",
    "weight_decay",
    "betas",
    "eps",
    "momentum",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
}
"""Keys of `train` that may differ between arms: none of them changes which rows are seen in which order."""


ArmLike = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class ComparedArm:
    """One side of the comparison: a name, its methods, and what else of the recipe is its own. `carry`: of a sequence,
    what becomes of deltas from task to task. `joint`: all tasks are learnt at once, under the budget of all of them.
    `select`: the selectors by which its rows are chosen; None: the recipe's.
    """

    name: str
    methods: tuple[MethodUse, ...]
    after: tuple[MethodUse, ...] | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    carry: str | None = None
    joint: bool = False
    select: tuple[MethodUse, ...] | None = None

    def written(self) -> list[Any]:
        """The methods as a recipe writes them."""
        return [use.model_dump() for use in self.methods]


def parse_arms(text: str, base: Path = Path(".")) -> list[ComparedArm]:
    """Arms from `lora,corda:rank=8,lora+asft,own.yaml`. RecipeError names the item and what is near."""
    return _apart([_arm(item.strip(), base) for item in text.split(",") if item.strip()])


def selecting_arms(text: str | Sequence[str], recipe: Recipe, budget: Budget) -> list[ComparedArm]:
    """Arms that train with the recipe's own methods on the rows that selectors keep: from `dsir,random:keep=10%,none`,
    several in order as `near-duplicate+dsir`. RecipeError for an aim or a budget under which they cannot be compared.
    """
    if len(recipe.stages) != 1:
        raise RecipeError(
            f"selectors are compared in one stage, and this recipe has {len(recipe.stages)}",
            where="stages",
            remedy="write a recipe with top-level `methods` and `budget`, without `tasks`",
        )
    items = [i.strip() for i in text.split(",")] if isinstance(text, str) else list(text)
    arms = []
    for item in filter(None, items):
        uses = [] if item == NO_SELECTOR else [use_of(part, f"--select {item}") for part in item.split("+")]
        for use in uses:
            selector(use, f"--select {item}", aimed=recipe.data.validation is not None)
            check_selector(use, f"--select {item}", recipe)
        arms.append(ComparedArm(item, tuple(recipe.stages[0].methods), select=tuple(uses)))
    if budget.epochs is not None or not budget.limited:
        raise RecipeError(
            "an epoch of fewer rows is fewer tokens, and selectors are compared over as many",
            where="--budget",
            remedy="write --budget tokens=200k, or steps, seconds or flops",
        )
    return _apart(arms, "--select", "selectors")


def methods_or_selectors(
    methods: str | Sequence[ArmLike] | None, select: str | Sequence[str] | None, recipe: Recipe, budget: Budget
) -> list[ComparedArm]:
    """The arms that are asked for: of methods, or of selectors. RecipeError for both or neither."""
    if (not methods) == (not select):
        what = "methods and selectors are compared one at a time" if methods else "nothing is named to be compared"
        raise RecipeError(what, where="--methods", remedy="write --methods lora,full, or --select dsir,random")
    return selecting_arms(select, recipe, budget) if select else given_arms(methods or ())


def given_arms(methods: str | Sequence[ArmLike], base: Path = Path(".")) -> list[ComparedArm]:
    """Arms from Python: each as the command line writes one (`lora:rank=8`, `own.yaml`), or as a recipe writes methods:
    {"lora": {"rank": 8}}, or several in a list.
    """
    if isinstance(methods, str):
        return parse_arms(methods, base)
    return _apart([_arm(item, base) if isinstance(item, str) else _written(item) for item in methods])


def _apart(arms: list[ComparedArm], flag: str = "--methods", what: str = "methods") -> list[ComparedArm]:
    """The arms, at least two with names of their own."""
    names = [a.name for a in arms]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise RecipeError(
            f"'{twice}' is named twice", where=flag, remedy="name it once, or give one of them other parameters"
        )
    if len(arms) < 2:
        raise RecipeError(
            f"a comparison needs at least two {what}",
            where=flag,
            remedy=f"write {flag} {'lora,full' if what == 'methods' else 'dsir,random'}",
        )
    return arms


def _written(item: Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> ComparedArm:
    """An arm that is written as in a recipe, named as on the command line."""
    try:
        uses = [MethodUse.model_validate(u) for u in ([item] if isinstance(item, Mapping) else item)]
    except ValidationError as e:
        raise RecipeError(
            f"{item!r} is no method: {e.errors()[0]['msg']}", where="methods", remedy='write {"lora": {"rank": 8}}'
        ) from e
    name = "+".join(":".join([u.name, *(f"{k}={v}" for k, v in u.params.items())]) for u in uses)
    return ComparedArm(name, tuple(_known(u, name) for u in uses))


def _arm(item: str, base: Path) -> ComparedArm:
    if item.endswith((".yaml", ".yml")):
        return _fragment(base / item, item)
    joint = JOINT in (parts := item.split("+"))
    uses = [_known(use_of(part, f"--methods {item}"), item) for part in parts if part != JOINT]
    return ComparedArm(item, tuple(uses), joint=joint)


def _known(use: MethodUse, item: str) -> MethodUse:
    use._place = f"--methods {item}"
    catalogue.build(use, use._place)
    return use


def _fragment(path: Path, item: str) -> ComparedArm:
    """A file with `methods` and, beside them, only what leaves rows and budget equal."""
    try:
        tree = yaml.safe_load(regular(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise RecipeError(
            f"cannot be read: {e}", where=f"--methods {item}", remedy="give a YAML file with `methods:`"
        ) from e
    if not isinstance(tree, dict) or not tree.get("methods"):
        raise RecipeError("no `methods` in it", where=f"--methods {item}", remedy="write methods: [{lora: {rank: 16}}]")
    for key, known in [
        *((k, FRAGMENT) for k in tree),
        *((f"train.{k}", {f"train.{t}" for t in OWN_TRAIN}) for k in tree.get("train") or {}),
    ]:
        if key not in known:
            what = "may not differ between the methods of a comparison"
            raise RecipeError(
                f"'{key}' {what}: all see the same rows under the same budget",
                where=str(path),
                remedy=did_you_mean(key, known),
            )
    listed = tree["methods"] if isinstance(tree["methods"], list) else [tree["methods"]]
    after = tree.get("after")
    return ComparedArm(
        str(tree.get("name") or path.stem),
        tuple(_known(MethodUse.model_validate(m), item) for m in listed),
        None
        if after is None
        else tuple(MethodUse.model_validate(m) for m in (after if isinstance(after, list) else [after])),
        dict(tree.get("train") or {}),
        tree.get("carry"),
    )


def parse_budget(text: str | None, recipe: Recipe) -> Budget:
    """`tokens=200k`; none: the recipe's own. RecipeError with the kinds there are."""
    if text is None:
        return recipe.stages[0].budget
    kind, _, amount = text.partition("=")
    value = parse_number(amount) if amount else None
    if kind in Budget.model_fields and value is not None:
        return _valid({kind: value}, text, "--budget", "KIND=AMOUNT, as tokens=200k")
    raise _no_budget(f"'{text}' is no budget", "--budget", "KIND=AMOUNT, as tokens=200k")


def given_budget(budget: str | Mapping[str, Any] | None, recipe: Recipe) -> Budget:
    """A budget from Python: as on the command line, or {"tokens": 200_000}; none: the recipe's own."""
    if budget is None or isinstance(budget, str):
        return parse_budget(budget, recipe)
    return _valid(dict(budget), repr(dict(budget)), "budget", '{"tokens": 200_000}')


def _valid(given: Mapping[str, Any], said: str, where: str, form: str) -> Budget:
    try:
        return Budget.model_validate(given)
    except ValidationError as e:
        what = str(e.errors()[0]["msg"]).replace("Input should", "an amount should")
        raise _no_budget(f"{said} is no budget: {what}", where, form) from e


def _no_budget(what: str, where: str, form: str) -> RecipeError:
    return RecipeError(what, where=where, remedy=f"write {form}; kinds: {', '.join(Budget.model_fields)}")


def check_stages(recipe: Recipe, arms: Sequence[ComparedArm], *, race: bool = False) -> None:
    """RecipeError for a recipe of several stages that are no sequence of tasks, or arms that only such a one has."""
    asks = next((a.name for a in arms if recipe.sequence is None and (a.joint or a.carry is not None)), None)
    if asks is not None:
        raise RecipeError(
            f"'{asks}' says how a sequence of tasks is learnt, and the recipe has none",
            where="--methods",
            remedy="write tasks: {by: COLUMN} in the recipe, or name methods alone",
        )
    if race and (bound := next((a.name for a in arms if a.joint), None)) is not None:
        raise RecipeError(
            f"'{bound}' is the upper bound and no method to race against",
            where="--race",
            remedy="leave it out, or leave --race out",
        )
    if len(recipe.stages) != 1 and recipe.sequence is None:
        raise RecipeError(
            f"compare replaces the methods of a recipe with one stage, and this one has {len(recipe.stages)}",
            where="stages",
            remedy="write a recipe with top-level `methods` and `budget`, for a sequence with `tasks` beside them",
        )


def arm_recipe(
    recipe: Recipe, arm: ComparedArm, budget: Budget, seed: int, rate: float | None = None, *, validation: bool = False
) -> Recipe:
    """The recipe with an arm's methods, one budget and a seed.

    `validation`: rows are held out for tuning where none are yet.
    """
    tree = recipe.model_dump(mode="python")
    each = budget
    if arm.joint:
        tree["stages"], each = [{"name": JOINT}], times(budget, len(recipe.stages))
    if arm.carry is not None:
        tree["sequence"]["carry"] = arm.carry
    for stage in tree["stages"]:
        stage["methods"] = arm.written() or [use.model_dump() for use in recipe.stages[0].methods]
        stage["budget"], stage["train"] = each.model_dump(exclude_none=True), None
        if arm.carry is not None:
            stage["carry"] = arm.carry
    if arm.after is not None:
        tree["after"] = [use.model_dump() for use in arm.after]
    if arm.select is not None:
        (stage,) = tree["stages"]
        of_stage = stage["data"] if "select" in (stage.get("data") or {}) else tree["data"]
        of_stage["select"] = [use.model_dump() for use in arm.select]
    # what only a kept run folder needs is left out: it would cost time and change nothing
    tree["train"].update(save_steps=None, report_to=[], **arm.train)
    tree["train"]["seed"] = seed
    if rate is not None:
        tree["train"]["learning_rate"] = rate
    if validation and tree["data"]["validation"] is None:
        tree["data"]["validation"] = VALIDATION
    tree["name"] = "trial"
    tree.pop("made_with", None)
    trial_recipe = Recipe(**tree)
    trial_recipe._base = recipe.base
    check_names(trial_recipe)
    return trial_recipe


def times(budget: Budget, tasks: int) -> Budget:
    """The budget of so many tasks at once: passes over their rows are as many as over each."""
    said = budget.model_dump(exclude_none=True)
    return Budget.model_validate({k: v if k == "epochs" else v * tasks for k, v in said.items()})


@dataclass(frozen=True)
class Given:
    """What one arm's training may use, and how that was reckoned."""

    budget: Budget
    note: str = ""


Run = Any  # (trials) -> {key: record}


def equal_budgets(recipe: Recipe, arms: Sequence[ComparedArm], budget: Budget, run: Run) -> dict[str, Given]:
    """Each arm's training budget, so that all spend the same.

    Tokens, steps and epochs are given as they are. Of seconds, what a pilot run spends on set-up, generation, selection
    and statistics is taken off (teachers run inside the steps). FLOPs become tokens by what the pilot counts a token,
    teachers and all passes of a step included, less what its generation, selection and statistics take once.
    RecipeError for an arm whose set-up alone takes more than the budget.
    """
    if budget.seconds is None and budget.flops is None:
        return {arm.name: Given(budget) for arm in arms}
    trials = {arm.name: Trial(f"{arm.name} pilot", PILOT_SEED, _pilot(recipe, arm)) for arm in arms}
    keys = {name: key_of(t.recipe) for name, t in trials.items()}
    records = run(list(trials.values()))
    return {arm.name: _given(arm, budget, records[keys[arm.name]], len(recipe.stages)) for arm in arms}


ONCE = ("set-up", "generation", "selection", "statistics")
"""Phases of a run's cost that it spends once, before it trains."""


def _pilot(recipe: Recipe, arm: ComparedArm) -> Recipe:
    pilot = arm_recipe(recipe, arm, Budget(steps=PILOT_STEPS), PILOT_SEED)
    return training_alone(pilot, rows=8)


def _given(arm: ComparedArm, budget: Budget, pilot: TrialRecord, stages: int = 1) -> Given:
    """`stages`: how many the budget is given to each of; what is spent once is taken off all of them alike."""
    if not pilot.finished:
        return Given(budget, "its pilot run failed")  # so will its runs, and they say why
    if budget.flops is not None:
        return _by_flops(arm, budget.flops, pilot, stages)
    booked = sum(pilot.cost.get("seconds", {}).get(phase, 0.0) for phase in ONCE) / stages
    assert budget.seconds is not None
    left = round(budget.seconds - booked, 1)
    if left <= 0:
        raise RecipeError(
            f"the set-up of '{arm.name}' alone takes {booked:.1f} s of {budget.seconds:g}",
            where="--budget seconds",
            remedy="give a larger budget",
        )
    return Given(Budget(seconds=left), f"{booked:.1f} s of set-up, selection and statistics taken off")


def _by_flops(arm: ComparedArm, flops: float, pilot: TrialRecord, stages: int) -> Given:
    counted = pilot.cost.get("flops_by_phase") or {}
    each = counted.get("train", 0.0) / max(1, pilot.cost.get("tokens") or 0)
    once = sum(counted.get(phase, 0.0) for phase in ONCE) / stages
    if not each:
        raise RecipeError(
            "its FLOPs a token are not known", where=f"--methods {arm.name}", remedy="give the budget in tokens"
        )
    if once >= flops:
        raise RecipeError(
            f"selection and statistics of '{arm.name}' alone take {once:.3g} FLOPs of {flops:.3g}",
            where="--budget flops",
            remedy="give a larger budget",
        )
    said = f"{flops:.3g} FLOPs at {each:.3g} a token" + (
        f", {once:.3g} of selection and statistics taken off" if once else ""
    )
    return Given(Budget(tokens=max(1, int((flops - once) / each))), said)
