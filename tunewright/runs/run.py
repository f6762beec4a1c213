"""Run a recipe from start to report, or go on with a run that was stopped.

The folder, its lock and the recipe exist before torch is imported, so that `resume` works from then on. What is done
is in `progress.json` and in the folders of finished stages; everything else is done again, to the same bits.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import CheckpointError, FolderError, TunewrightError
from tunewright.files import checkpoint
from tunewright.recipe import Recipe
from tunewright.recipe.given import RecipeLike, given
from tunewright.runs.folder import LOCK, RECIPE, ROWS, RunFolder, discard_if_empty, locked, new_folder
from tunewright.runs.progress import Screen
from tunewright.runs.result import Result
from tunewright.runs.track import Trackers

if TYPE_CHECKING:
    from tunewright.measure.cost import Cost
    from tunewright.runs.assemble import Session, StageParts
    from tunewright.runs.meter import Meter, Readings
    from tunewright.runs.stages import Keeper, StageResult


def run(
    recipe: RecipeLike,
    out: Path | str | None = None,
    *,
    sets: Sequence[str] = (),
    quiet: bool = False,
    json: bool = False,
    figures_only: bool = False,
) -> Result:
    """Run a recipe. Writes `out`, or runs/<name>, runs/<name>-2 ...; returns the folder and the report.

    `sets`: `key.path=value` over the recipe's values. `quiet`: no progress. `json`: progress as JSON on standard
    output.

    `figures_only`: for trials, which are thrown away once they are read. No page, no answers and few shots, no choice
    among labels (unless a probe reads it); the last stage is not saved for later stages. The figures are the same.
    """
    recipe = given(recipe, sets)
    folder = new_folder(recipe.name, Path(out) if out is not None else recipe.out)
    screen = Screen(quiet=quiet, json=json)
    for note in recipe.notes:
        screen.warn(note)
    with locked(folder):
        try:
            folder.write_recipe(recipe.dump(absolute=True))
            _note_start(folder)
            # the run's own copy is what `resume` will read: the same text gives the same names
            return _Run(folder, Recipe.load(folder.file(RECIPE)), screen, figures_only=figures_only).whole()
        except Exception:  # a signal is none: what it stops can be gone on with
            if not folder.progress().get("began"):
                discard_if_empty(folder)
            raise


def resume(path: Path | str, *, verify: bool = False, quiet: bool = False, json: bool = False) -> Result | None:
    """Go on with a run. `verify` computes its last steps again instead, compares every bit and gives nothing back."""
    folder = RunFolder(Path(path))
    if not folder.file(RECIPE).exists() or not folder.file(LOCK).exists():  # a recipe alone may be the user's own
        raise FolderError("this is no run's folder", where=str(path), remedy="name a folder that `tunewright run` made")
    with locked(folder):
        if not verify:
            folder.sweep()
        recipe = Recipe.load(folder.file(RECIPE))
        screen = Screen(quiet=quiet, json=json)
        if verify:
            _Run(folder, recipe, screen).verify()
            return None
        if (folder.path / "report.json").exists():
            from tunewright.report.schema import Report

            screen.say("this run is finished")
            return Result(folder.path, Report.load(folder.path), earlier=True)
        _note_start(folder)
        folder.note_progress(resumed=folder.progress().get("resumed", 0) + 1)
        return _Run(folder, recipe, screen).whole()


def _note_start(folder: RunFolder) -> None:
    """Write down when and how the run began, unless a process that was killed since did."""
    from tunewright.runs.results import command

    if "started" not in folder.progress():
        folder.note_progress(started=_now(), command=command())


class _Run:
    """One process's work on a run's folder."""

    def __init__(self, folder: RunFolder, recipe: Recipe, screen: Screen, *, figures_only: bool = False):
        from tunewright.machine.memory import keep_freed_memory
        from tunewright.measure.cost import Cost
        from tunewright.runs.assemble import assemble

        keep_freed_memory()
        self.folder, self.recipe, self.screen, self.figures_only = folder, recipe, screen, figures_only
        self.cost: Cost = Cost()
        with self.cost.phase("load"):
            self.session: Session = assemble(recipe, screen.say)
        if recipe.measurement.split == "validation":
            self._measure_on_validation()
        self._check_same()
        saved = folder.progress().get("cost")
        if saved:
            self.cost.restore(saved)
        self.results: dict[str, StageResult] = {}

    def _measure_on_validation(self) -> None:
        """What is chosen by its figures (a learning rate) is judged on rows held out from training, never on those
        reported.
        """
        from tunewright.errors import RecipeError

        if self.session.validation is None:
            raise RecipeError(
                "there are no validation rows to measure on",
                where="measurement.split",
                remedy="write data.validation: 10%, or a file",
            )
        self.session.eval = self.session.validation

    def _check_same(self) -> None:
        """A resumed run must meet the weights and rows that it began with; a new one only says where they differ."""
        made_with = self.recipe.made_with
        pairs = [("the model's weights", self.recipe.model.name, made_with.get("model_hash"), self.session.loaded.hash)]
        for part in self.session.stages:
            name = part.spec.name
            pairs.append(("the rows", f"stages.{name}", made_with.get("data_hashes", {}).get(name), part.rows.hash))
        for what, where, held, now in pairs:
            if held is None or held == now:
                continue
            if self.folder.progress().get("began"):
                raise CheckpointError(
                    f"{what} are not those that the run began with ({now[:12]}, then {held[:12]})",
                    where=where,
                    remedy="put the old ones back, or begin a new run",
                )
            self.screen.warn(
                f"{where}: {what} are not those of the run that wrote this recipe: its bits will not come out again"
            )

    def write_resolved(self) -> None:
        """The recipe with every default of every method, the precision chosen, versions and hashes."""
        from tunewright import catalogue
        from tunewright.runs.results import versions

        recipe = self.recipe.model_copy(deep=True)
        for _, _, use in recipe.uses():
            if catalogue.lookup(use.name) is not None:
                use.params = catalogue.build(use).model_dump(mode="json")
        recipe.train.precision = self.session.precision  # type: ignore[assignment]
        if self.session.task.labelled:
            recipe.data.labels = list(self.session.options.labels or ())
        recipe.made_with = {
            "versions": versions(),
            "model_hash": self.session.loaded.hash,
            "data_hashes": {p.spec.name: p.rows.hash for p in self.session.stages},
        }
        self.folder.write_recipe(recipe.dump(absolute=True))
        self.recipe = recipe

    def _try_set_up(self) -> None:
        """Let methods refuse what they cannot do here (a target that no layer has ...) before the base is measured.

        Only of stages that start from the base as it is: what others start from is not there yet.
        """
        import random

        from tunewright.contract.method import Setup
        from tunewright.runs import predicting

        predicting.load(self.session)
        for part in self.session.stages:
            stage, _ = self.session.stage(part)
            if (part.spec.start or "base") != "base" or stage.methods.on("prepare"):
                continue
            for b in stage.methods:
                b.method.setup(Setup(self.session.adapted, stage.plan, self.session.task.name, random.Random(0)))

    # -- the phases ----------------------------------------------------------------------------------------------------

    def whole(self) -> Result:
        from tunewright.runs.meter import Meter

        if not self.folder.progress().get("began"):
            self.write_resolved()
            self._try_set_up()
        self.folder.note_progress(began=True)
        self.meter: Meter = Meter(self.session, self.cost)
        if self.figures_only:
            self.meter.figures_only(choices=bool(self.recipe.probes))
        self.screen.say("measuring the base")
        known = self.meter.prepare_base()
        self._note()
        for part in self.session.stages:
            self._stage(part)
        self._after()
        return self._finish(["base measured"] if known else [])

    def _note(self) -> None:
        self.folder.note_progress(cost=self.cost.state())

    def _stage(self, part: StageParts) -> None:
        from tunewright.runs.stages import StageResult, run_stage, save_result, stopped
        from tunewright.training import carry

        name, folder = part.spec.name, self.folder.path / "stages" / part.spec.name
        done = self._finished(folder)
        if done is not None:
            self.results[name] = StageResult(**done.state["result"])
            if part is self.session.stages[-1]:
                self._load_finished(folder)
            return
        with self.cost.phase("set-up"):
            carry.begin(
                self.session.adapted,
                part.spec.start or "base",
                part.spec.carry,
                self.folder.path,
                f"stages.{name}.start",
            )
            stage, provider = self.session.stage(part)
        saved = self._checkpoint_of(part)
        keeper = self._keeper(part)
        trackers = Trackers(part.train.report_to, self.folder.path, saved.state["loop"]["step"] if saved else 0)
        keeper.track = trackers.log
        self.folder.drop_metrics_after(name, saved.state["loop"]["step"] if saved else 0)

        def needs(bound: Any) -> dict[str, Any]:
            with self.cost.phase("statistics"):
                return provider.stage(bound)

        try:
            with self.screen.training(name, stage.plan) as show, self.cost.phase("train"):
                keeper.show = show
                result = run_stage(stage, keeper, needs, saved)
        finally:
            trackers.close()
            self._note()
        self.cost.add(
            "train",
            tokens=result.tokens,
            parameters=self._parameters(),
            gradients="all"
            if any(n in result.trained_names for n in self.session.adapted.base_parameters())
            else "adapters",
        )
        if not (self.figures_only and part is self.session.stages[-1]):
            save_result(self.folder, stage, keeper, result)
        self.results[name] = result
        self._note()
        if keeper.stop_requested:
            raise stopped(self.folder, f"the stage '{name}'")

    def _parameters(self) -> int:
        from tunewright.measure.cost import multiplying_parameters

        return multiplying_parameters(self.session.adapted.model)

    def _finished(self, folder: Path) -> checkpoint.Checkpoint | None:
        """What an earlier process left of a finished stage; a damaged one is named and made again."""
        if not (folder / checkpoint.MANIFEST).exists():
            return None
        try:
            return checkpoint.read(folder)
        except CheckpointError as e:
            self.screen.warn(f"{e}; the stage is trained again from its last checkpoint")
            return None

    def _load_finished(self, folder: Path) -> None:
        """Bring the model to the end of a stage that an earlier process finished."""
        from tunewright.training import carry

        self.session.adapted.forget_changes()
        carry.load_stage(folder, self.session.adapted)

    def _checkpoint_of(self, part: StageParts) -> checkpoint.Checkpoint | None:
        found = checkpoint.latest(self.folder.path, self.screen.warn)
        if found is None or found.state["stage"] != part.spec.name:
            return None
        self.screen.say(f"going on from {found.folder.name}")
        return found

    def _keeper(self, part: StageParts) -> Keeper:
        from tunewright.runs.stages import Keeper

        before = sum(r.steps for r in self.results.values())
        rows = self.session.validation or self.session.eval
        evaluate = None
        if rows is not None and part.train.eval_steps:
            chosen = list(rows.rows)[: self.recipe.measurement.rows or 256]

            def evaluate(loop: Any) -> dict[str, float]:
                with self.session.adapted.at_strength(1.0), self.cost.phase("evaluated while training"):
                    found = self.meter.quick(chosen)
                self.screen.samples(self.meter.samples)
                return found

        return Keeper(self.folder, part.train, part.spec.name, part.index, before, evaluate)

    def _teach(self, models: Any, base: Any) -> Any:
        """What a merge under `after` learns from: the last stage's rows beside its models."""
        from tunewright.weights.learning import over_rows

        return over_rows(models, base, self.session.task, self.session.stages[-1].rows.rows, seed=self.session.seed)

    def _after(self) -> None:
        from tunewright import catalogue
        from tunewright.runs import after, predicting, predictors

        score = None
        if self.session.validation is not None:
            rows = list(self.session.validation.rows)

            def score() -> float:
                found = self.meter.quick(rows, most=len(rows))
                return found.get("target", -found["loss"])

        for use in self.recipe.after:
            if predictors.predicts(use):
                self.meter.predictor = predicting.build(use, self.session, self.meter.model)
                continue
            with self.cost.phase("after"):
                after.apply(catalogue.build(use), use.name, self.session.adapted, self.folder.path, score, self._teach)

    def _finish(self, cached: list[str]) -> Result:
        from tunewright.measure.rows import pair, write_rows
        from tunewright.report import page
        from tunewright.report.schema import Report
        from tunewright.runs import artefacts, probes, results

        adapted, meter = self.session.adapted, self.meter
        self.screen.say("measuring the tuned model")
        with self.cost.phase("tuned measured"), adapted.at_strength(1.0):
            tuned = meter.read(choice=meter.choices)
        dial = self._dial(tuned)
        with self.cost.phase("probes"):
            found = {use.name: probes.run(use, self.session, meter.base, tuned) for use in self.recipe.probes}
        with self.cost.phase("save"):
            stored = artefacts.save(self.folder.path, self.session)
        if meter.base.target and not self.figures_only:
            write_rows(self.folder.file(ROWS), pair(meter.base.target, tuned.target))
        metrics = self.folder.metrics()
        self.folder.note_progress(finished=_now())
        progress = self.folder.progress()
        report = Report(
            run=results.run_info(self.session, self.folder.path.name, progress, self.cost),
            model=results.model_info(self.session),
            task=self.session.task.name,
            data=results.data_of(self.session),
            target=results.target_of(meter, tuned),
            kept=results.kept_of(meter, tuned),
            drift=results.drift_of(meter, tuned),
            trade=dial,
            cost=results.cost_of(self.session, self.cost, self.results, stored, cached),
            trained=results.trained_of(self.session, self.results),
            stages=results.stages_of(self.session, self.results, metrics),
            training=results.training_of(metrics, self.results),
            tokens_view={} if self.figures_only else results.views_of(self.session),
            answers=results.answers_of(meter.base.target, tuned.target)
            if meter.base.target and not self.figures_only
            else [],
            probes=found,
            notes=self._notes(),
            files=artefacts.described(self.folder.path),
        )
        if self.figures_only:
            return Result(self.folder.path, report, results.order_of(self.session, self.results))
        page.render(report, metrics, [r.model_dump() for r in pair(meter.base.target, tuned.target)], self.folder.path)
        report.save(self.folder.path)
        self._note()
        return Result(self.folder.path, report)

    def _notes(self) -> list[str]:
        notes = [*self.session.notes, *self.session.adapted.notes]
        if any(p.train.keep_best for p in self.session.stages) and self.session.validation is None:
            notes.insert(
                0,
                (
                    "the weights were chosen on the evaluated rows (keep_best without data.validation): the "
                    "gain is too "
                    "good by that choice"
                ),
            )
        if self.meter.rows and len(self.meter.rows) < 200:
            notes.append(
                f"only {len(self.meter.rows)} rows were evaluated: differences of a few per cent cannot be seen"
            )
        return notes

    def _dial(self, tuned: Readings) -> list[Any]:
        from tunewright.runs import results

        adapted, meter = self.session.adapted, self.meter
        if not adapted.foldable:
            return []
        made = []
        for strength in sorted({*self.recipe.measurement.strengths}):
            self.screen.say(f"measuring at strength {strength:g}")
            if strength == 1.0:
                made.append(results.strength_of(meter, 1.0, tuned))
                continue
            with self.cost.phase("dial measured"), adapted.at_strength(strength):
                made.append(results.strength_of(meter, strength, meter.read(choice=False)))
        return made

    # -- verification --------------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Train from the last checkpoint but one to the last, and compare. CheckpointError names what differs."""
        from tunewright.runs.stages import Verified, run_stage
        from tunewright.training import carry

        whole = [checkpoint.read(p) for _, p in checkpoint.listed(self.folder.path)]
        pairs = [(a, b) for a, b in zip(whole, whole[1:], strict=False) if a.state["stage"] == b.state["stage"]]
        if not pairs:
            raise CheckpointError(
                "two checkpoints of one stage are needed to verify",
                where=str(self.folder.path),
                remedy="run with train.save_steps, and save_total_limit of at least 2",
            )
        first, last = pairs[-1]
        part = next(p for p in self.session.stages if p.spec.name == last.state["stage"])
        carry.begin(
            self.session.adapted,
            part.spec.start or "base",
            part.spec.carry,
            self.folder.path,
            f"stages.{part.spec.name}.start",
        )
        stage, provider = self.session.stage(part)
        keeper = self._keeper(part)
        keeper.evaluate, keeper.verified = None, Verified(last)
        with self.screen.training(part.spec.name, stage.plan) as show:
            keeper.show = show
            run_stage(stage, keeper, provider.stage, first)
        differing = keeper.verified.differing
        if differing:
            raise CheckpointError(
                (
                    f"steps {first.step} to {last.step}, computed again, differ in {len(differing)} values, first in "
                    f"'{differing[0]}'"
                ),
                where=str(self.folder.path),
            )
        self.screen.say(
            f"verified: steps {first.step} to {last.step}, computed again, are equal in every bit", always=True
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


__all__ = ["Result", "TunewrightError", "resume", "run"]
