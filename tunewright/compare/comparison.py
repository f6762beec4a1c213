"""`tunewright compare`: which of these methods gains most, loses least and costs least here, under one budget, over
seeds.

Every arm runs the same recipe with its own methods, on the same rows in the same order for each seed. Finished runs are
kept in the folder (`trials/`) and found again by what decides their numbers, so that the same command goes on after any
interruption.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.compare import arms as compare_arms
from tunewright.compare import figures as compare_figures
from tunewright.compare.arms import ComparedArm, Given, arm_recipe
from tunewright.compare.cautions import cautions
from tunewright.compare.racing import check_race
from tunewright.compare.refused import check_arms
from tunewright.compare.result import Comparison
from tunewright.compare.rounds import run_race
from tunewright.compare.settling import settle
from tunewright.errors import RecipeError
from tunewright.files.cache import cache_folder
from tunewright.files.checkpoint import write_text
from tunewright.recipe import Budget, Recipe
from tunewright.report.compare_schema import ArmFigures, TunedRate, compared
from tunewright.runs import progress
from tunewright.runs.results import command
from tunewright.trials.place import place
from tunewright.trials.pool import Trial, Workers, run_all
from tunewright.trials.trial import Store, TrialRecord, commit_of, key_of
from tunewright.trials.tuning import FACTOR, Tuned, tune_many

Run = Callable[[Sequence[Trial]], dict[str, TrialRecord]]


@dataclass
class Progress:
    """What a person sees while trials run: a line per run, with what is left."""

    quiet: bool = False
    total: int = 0
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        if not self.quiet:
            progress.say(text)

    def landed(self, record: TrialRecord) -> None:
        self.done += 1
        what = f"{record.arm}, seed {record.seed}: "
        if not record.finished:
            what += f"{record.status}: {record.error.message if record.error else ''}"
        elif record.tuned is not None and record.tuned.target is not None:
            what += f"{record.target_metric} {record.tuned.target:.3f} in {record.seconds:.0f} s"
        else:
            what += f"finished in {record.seconds:.0f} s"
        self.say(f"[{self.done}/{self.total}] {what}" if self.total else what)


def _folder(recipe: Recipe, out: Path | None) -> Path:
    return Path(out) if out is not None else Path("runs") / f"compare-{recipe.name}"


def compare(
    recipe: Recipe,
    arms: Sequence[ComparedArm],
    *,
    seeds: int = 8,
    budget: Budget | None = None,
    tune: bool = False,
    race: bool = False,
    cluster: str | None = None,
    out: Path | None = None,
    workers: int | None = None,
    memory: int | None = None,
    quiet: bool = False,
) -> Comparison:
    """Run every arm with every seed and judge them; writes `out` (default runs/compare-NAME): compare.json,
    compare.html, winner.yaml, trials/.

    `seeds`: how many, from train.seed on. `budget`: of each run (default: the recipe's). `tune`: choose each arm's
    learning rate by one rule on validation rows. `race`: look after each seed and run those no further that are shown
    to be behind (`racing`). `cluster`: a Ray address or "local"; `workers`, `memory`: see `pool.run_all`. Interrupted
    is raised after Ctrl-C; calling again goes on. RecipeError for stages that are no sequence of tasks,
    nothing to measure on, or too few seeds for a race.
    """
    compare_arms.check_stages(recipe, arms, race=race)
    if race:
        check_race(seeds)
    if not recipe.judged:
        raise RecipeError(
            "there are no rows to compare on",
            where="data.eval",
            remedy="write data.eval: FILE with rows that are not trained on",
        )
    folder = _folder(recipe, out)
    with place(folder) as held:
        recipe, budget, rates = settle(recipe, arms, budget or recipe.stages[0].budget)
        check_arms(recipe, arms, budget, validation=tune)
        work = _Work(recipe, arms, seeds, budget, tune, race, folder, Progress(quiet), rates)
        held.done = lambda: work.progress.done
        if cluster is not None:
            return work.whole(lambda ts: run_all(ts, work.store, cluster=cluster, on_record=work.progress.landed))
        with Workers(workers, memory=memory) as pool:
            return work.whole(lambda ts: run_all(ts, work.store, pool=pool, on_record=work.progress.landed))


class _Work:
    """One comparison, from its arms to its files."""

    def __init__(
        self,
        recipe: Recipe,
        arms: Sequence[ComparedArm],
        seeds: int,
        budget: Budget,
        tune: bool,
        race: bool,
        folder: Path,
        progress: Progress,
        rates: Mapping[str, float],
    ):
        self.recipe, self.arms, self.budget, self.tune, self.folder, self.progress = (
            recipe,
            arms,
            budget,
            tune,
            folder,
            progress,
        )
        first = int(recipe.train.seed)
        self.seeds = list(range(first, first + seeds))
        self.race = race
        self.store = Store(folder / "trials", also=[cache_folder() / "trials"])
        self.rates = rates

    def _recipe(self, arm: ComparedArm, given: Given, seed: int, rate: float | None = None) -> Recipe:
        return arm_recipe(self.recipe, arm, given.budget, seed, rate, validation=self.tune)

    def whole(self, run: Run) -> Comparison:
        given = compare_arms.equal_budgets(self.recipe, self.arms, self.budget, run)
        tuned = self._tune(given, run) if self.tune else {}
        chosen = {a.name: tuned[a.name].rate if self.tune else self.rates[a.name] for a in self.arms}
        trials = {
            (arm.name, seed): Trial(arm.name, seed, self._recipe(arm, given[arm.name], seed, rate))
            for seed in self.seeds
            for arm in self.arms
            if (rate := chosen[arm.name]) is not None
        }
        smaller = _smaller(tuned)  # at which what is lost is compared
        gentle = {
            (arm.name, seed): Trial(arm.name, seed, self._recipe(arm, given[arm.name], seed, smaller[arm.name]))
            for seed in self.seeds
            for arm in self.arms
            if arm.name in smaller
        }
        whole = len(trials) + len(gentle)
        self.progress.total, self.progress.done = whole, 0
        at_most = "at most " if self.race else ""
        self.progress.say(f"{len(self.arms)} {compared(self.arms)}s, {len(self.seeds)} seeds: {at_most}{whole} runs")
        raced = run_race(trials, self.seeds, run, self.progress) if self.race and trials else None
        gentle = {at: t for at, t in gentle.items() if raced is None or at[0] not in raced.race.dropped}
        by_key = run([*(trials.values() if raced is None else ()), *gentle.values()])
        made = raced.records if raced is not None else {at: by_key[key_of(t.recipe)] for at, t in trials.items()}
        records: dict[str, dict[int, TrialRecord]] = {a.name: {} for a in self.arms}
        for (name, seed), record in made.items():
            records[name][seed] = record.model_copy(update={"arm": name, "seed": seed})
        for arm in self.arms:
            if chosen[arm.name] is None:
                records[arm.name] = {s: _untuned(arm.name, s, tuned[arm.name]) for s in self.seeds}
        kept = {name: dict(by_seed) for name, by_seed in records.items()}
        for (name, seed), trial in gentle.items():
            kept[name][seed] = by_key[key_of(trial.recipe)].model_copy(update={"arm": name, "seed": seed})
        comparison = self._comparison(given, tuned, chosen, records)
        if raced is not None:
            raced.tell(comparison, {a.name: len(self.seeds) * (1 + (a.name in smaller)) for a in self.arms})
        self._judge(comparison, records, kept)
        self._write(comparison, chosen)
        return comparison

    def _tune(self, given: Mapping[str, Given], run: Run) -> dict[str, Tuned]:
        self.progress.say("tuning learning rates on validation rows")

        def maker(arm: ComparedArm) -> Callable[[float, int], Recipe]:
            return lambda rate, seed: self._recipe(arm, given[arm.name], self.seeds[0] + seed, rate)

        grids = {a.name: [self.rates[a.name] * f for f in (1 / FACTOR, 1.0, FACTOR)] for a in self.arms}
        return tune_many({a.name: maker(a) for a in self.arms}, grids, run)

    # -- what came out -------------------------------------------------------------------------------------------------

    def _comparison(
        self,
        given: Mapping[str, Given],
        tuned: Mapping[str, Tuned],
        chosen: Mapping[str, float | None],
        records: Mapping[str, Mapping[int, TrialRecord]],
    ) -> Comparison:
        some = next((r for by_seed in records.values() for r in by_seed.values() if r.finished), None)
        every = [r for by_seed in records.values() for r in by_seed.values()]
        arms = [_arm_of(a, given[a.name], tuned.get(a.name), chosen[a.name]) for a in self.arms]
        comparison = Comparison(
            name=self.recipe.name,
            model=self.recipe.model.name,
            task=self.recipe.task,
            budget={k: float(v) for k, v in self.budget.model_dump(exclude_none=True).items()},
            budget_words=budget_words(self.budget)
            + (f" a task, {len(self.recipe.stages)} tasks" if self.recipe.sequence is not None else ""),
            seeds=self.seeds,
            tuned=self.tune,
            tasks=[t.name for t in self.recipe.sequence.tasks] if self.recipe.sequence is not None else [],
            share_of_gain=compare_figures.SHARE,
            arms=arms,
            commit=commit_of(),
            command=command(),
            finished=datetime.datetime.now(datetime.UTC),
            run_seconds=sum(r.seconds for r in every) + sum(a.tuning_seconds for a in arms),
        )
        if some is not None:
            comparison.metric, comparison.unit, comparison.direction, comparison.evaluated = (
                some.target_metric,
                some.target_unit,
                some.direction,
                some.evaluated,
            )
            comparison.base_target, comparison.base_kept, comparison.drift_measure = (
                some.base.target,
                dict(some.base.kept),
                some.drift_measure,
            )
            comparison.kept_unit, comparison.base_packs = some.kept_unit, dict(some.base.packs)
            comparison.hardware, comparison.threads, comparison.versions = some.hardware, some.threads, some.versions
        comparison._folder = self.folder
        return comparison

    def _judge(
        self,
        comparison: Comparison,
        records: Mapping[str, Mapping[int, TrialRecord]],
        kept: Mapping[str, Mapping[int, TrialRecord]],
    ) -> None:
        compare_figures.fill(comparison, records, kept)
        comparison.cautions = cautions(comparison, records, self.recipe)

    def _write(self, comparison: Comparison, chosen: Mapping[str, float | None]) -> None:
        from tunewright.report.compare import render

        comparison.save(self.folder)
        render(comparison, self.folder)
        winner = self.folder / "winner.yaml"
        if comparison.winner is None:
            winner.unlink(missing_ok=True)
            return
        arm = next(a for a in self.arms if a.name == comparison.winner)
        write_text(winner, winner_recipe(comparison, self.recipe, arm, chosen[arm.name]))


def _arm_of(arm: ComparedArm, given: Given, tuned: Tuned | None, rate: float | None) -> ArmFigures:
    tried: dict[float, list[float | None]] = {}
    for attempt in tuned.attempts if tuned else ():
        tried.setdefault(attempt.rate, []).append(attempt.score)
    return ArmFigures(
        name=arm.name,
        methods=arm.written(),
        joint=arm.joint,
        select=None if arm.select is None else [use.model_dump() for use in arm.select],
        rate=rate,
        tuning=[TunedRate(rate=r, scores=s) for r, s in sorted(tried.items())],
        tuning_seconds=sum(a.seconds for a in tuned.attempts) if tuned else 0.0,
        rate_at_edge=tuned.at_edge if tuned else False,
        rates_tied=tuned.tied if tuned else [],
        budget={k: float(v) for k, v in given.budget.model_dump(exclude_none=True).items()},
    )


def _smaller(tuned: Mapping[str, Tuned]) -> dict[str, float]:
    """The smallest rate that is tied with the best one, of arms where that is another one."""
    return {n: t.smallest for n, t in tuned.items() if t.smallest is not None and t.smallest != t.rate}


def _untuned(arm: str, seed: int, tuned: Tuned) -> TrialRecord:
    """Stands for the runs of an arm that finished at no learning rate."""
    from tunewright.trials.trial import TrialError

    what = (
        f"no learning rate from {min(a.rate for a in tuned.attempts):.3g} to "
        f"{max(a.rate for a in tuned.attempts):.3g} let it finish"
    )
    whys = dict.fromkeys(a.error for a in tuned.attempts if a.error)
    what += f": {next(iter(whys))}" if len(whys) == 1 else ""
    error = TrialError(type="TuningError", message=what, where="tuning")
    return TrialRecord(
        key=tuned.attempts[0].key,
        arm=arm,
        seed=seed,
        status="failed",
        error=error,
        started=datetime.datetime.now(datetime.UTC),
    )


def budget_words(budget: Budget) -> str:
    """What the one budget counts, in words."""
    from tunewright.report.words import count, seconds

    texts = {
        "tokens": lambda v: f"{count(v)} training tokens",
        "steps": lambda v: f"{v:g} optimizer steps",
        "epochs": lambda v: f"{v:g} epoch" + ("s" if v != 1 else ""),
        "seconds": lambda v: f"{seconds(v)} of training, set-up, statistics and teachers counted",
        "flops": lambda v: f"{count(v)} FLOPs of training",
    }
    return " or ".join(texts[k](v) for k, v in budget.model_dump(exclude_none=True).items())


def winner_recipe(made: Comparison, recipe: Recipe, arm: ComparedArm, rate: float | None) -> str:
    """The recipe as it was, with the winner's methods and learning rate, to run at full size; comments say how it
    was chosen.
    """
    full = arm_recipe(recipe, arm, recipe.stages[0].budget, int(recipe.train.seed), rate)
    full.train = full.train.model_copy(
        update={"save_steps": recipe.train.save_steps, "report_to": recipe.train.report_to}
    )
    full.name = recipe.name
    how = (
        f"tuned on validation rows ({len(made.arm(arm.name).tuning)} rates)"
        if made.tuned
        else "the recipe's own, not tuned"
    )
    others = ", ".join(a.name for a in made.arms if a.name != arm.name)
    lines = [
        f"{arm.name}: chosen by tunewright compare among {len(made.arms)} methods (also: {others}).",
        f"Why: {made.why}.",
        f"Compared over {len(made.seeds)} seeds, each run with {made.budget_words}; learning rate {rate:g}: {how}."
        if rate is not None
        else "",
        "The budget below is the recipe's own. All figures: compare.json and compare.html beside this file.",
    ]
    return "".join(f"# {line}\n" for line in lines if line) + full.dump(absolute=True)
