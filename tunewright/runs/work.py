"""One process's work on a run's folder: base measured, stages trained, steps after training."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import CheckpointError
from tunewright.files import checkpoint
from tunewright.machine.group import present
from tunewright.recipe import Recipe
from tunewright.runs.folder import PROGRESS, RunFolder
from tunewright.runs.progress import Screen
from tunewright.runs.track import Trackers

if TYPE_CHECKING:
    from tunewright.contract.needs import Provider
    from tunewright.measure.cost import Cost
    from tunewright.measure.intervals import Interval
    from tunewright.runs.meter import Meter
    from tunewright.runs.readings import Readings
    from tunewright.runs.session import Session, StageInputs
    from tunewright.runs.shared import SharedBase
    from tunewright.runs.stages import TrainingCallback, TrainingOutcome
    from tunewright.training.stage import TrainingInputs
    from tunewright.training.train import Loop


class Work:
    """A run's parts and how far they are. `results` holds what each finished stage gave, by name.

    `base`: where the model comes from, if other runs of this process adapt it too; they go on in turns (`steps`).
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        screen: Screen,
        *,
        figures_only: bool = False,
        base: SharedBase | None = None,
    ):
        from tunewright.machine.memory import keep_freed_memory
        from tunewright.measure.cost import Cost
        from tunewright.report.words import counted_in_short
        from tunewright.runs.assemble import assemble
        from tunewright.runs.fresh import settle

        keep_freed_memory()
        self.folder, self.recipe, self.screen, self.figures_only = folder, recipe, screen, figures_only
        self.cost: Cost = Cost()
        with self.cost.phase("load"):
            if not figures_only:
                settle(recipe, folder.path)
            self.session: Session = assemble(recipe, screen.say, base=base)
        self.shares = base is not None
        self.session.run = folder.path
        self.recipe = self.session.recipe
        screen.counted = counted_in_short(recipe.task)
        if recipe.measurement.split == "validation":
            # what is chosen by its figures (a learning rate) is judged on rows held out from training
            self.session.judge_on_validation()
        self._check_same()
        saved = folder.progress().get("cost")
        if saved:
            try:
                self.cost.restore(saved)
            except (AttributeError, KeyError, TypeError, ValueError) as e:
                raise CheckpointError(
                    f"what the run has spent so far cannot be read: {e}",
                    where=f"{folder.file(PROGRESS)}, cost",
                    remedy="put the file back, or begin a new run",
                ) from e
        self.results: dict[str, TrainingOutcome] = {}

    def _check_same(self) -> None:
        """A resumed run must meet the weights and rows that it began with; a new one only says where they differ."""
        from tunewright.runs import begun

        made_with = self.recipe.made_with
        pairs = [("the model's weights", self.recipe.model.name, made_with.get("model_hash"), self.session.loaded.hash)]
        for part in self.session.stages:
            name = part.spec.name
            pairs.append(("the rows", f"stages.{name}", made_with.get("data_hashes", {}).get(name), part.rows.hash))
        for what, where, recorded, now in pairs:
            if recorded is None or recorded == now:
                continue
            if self.folder.progress().get("began"):
                raise CheckpointError(
                    f"{what} are not those that the run began with ({now[:12]}, then {recorded[:12]})",
                    where=where,
                    remedy="put the old ones back, or begin a new run",
                )
            self.screen.warn(
                f"{where}: {what} are not those of the run that wrote this recipe: its bits will not come out again"
            )

        if self.folder.progress().get("began"):
            begun.check_content(self.folder, self.session)

    def write_resolved(self) -> None:
        """The recipe with every default of every method, the precision chosen, versions and hashes."""
        from tunewright import catalogue
        from tunewright.runs import attempts, begun
        from tunewright.runs.results import versions

        recipe = self.recipe.model_copy(deep=True)
        for _, _, use in recipe.uses():
            if catalogue.lookup(use.name) is not None:
                use.params = catalogue.build(use).model_dump(mode="json")
        recipe.train.precision = self.session.precision  # type: ignore[assignment]
        if self.session.task.labelled:
            recipe.data.labels = list(self.session.options.labels or ())
        if self.session.task.other_problem:
            recipe.data.problem_type = self.session.task.problem_type  # type: ignore[assignment]
        recipe.made_with = {
            "versions": versions(),
            "model_hash": self.session.loaded.hash,
            "data_hashes": {p.spec.name: p.rows.hash for p in self.session.stages},
        }
        self.folder.write_recipe(recipe.dump(absolute=True))
        if not self.figures_only:
            begun.note(self.folder, self.session)
            if (rows := self.session.eval) is not None:
                self.folder.note_progress(attempt=attempts.count(self.folder.path, rows.hash))
        self.recipe = recipe

    def train(self) -> list[str]:
        """Measure the base, train every stage, do the steps after training; says what came from a cache."""
        from tunewright.training.stepping import go_through

        return go_through(self.steps())

    def steps(self) -> Generator[Loop, None, list[str]]:
        """`train`, pausing where an optimizer step is due (`training.stepping.go_through`)."""
        from tunewright.runs.meter import Meter
        from tunewright.runs.rehearsing import rehearse

        if not self.folder.progress().get("began"):
            self.write_resolved()
            rehearse(self.session, self.folder.path)
        self.folder.note_progress(began=True)
        self.meter: Meter = Meter(self.session, self.cost)
        if self.figures_only:
            self.meter.figures_only(choices=bool(self.recipe.probes))
        known = self.meter.sharing.lead(self._measure_base)
        for part in self.session.stages:
            yield from self._stage(part)
        if present().first:
            self._after()
        return ["base measured"] if known else []

    def _measure_base(self) -> bool:
        from tunewright.runs import telling

        self.screen.say("measuring the base")
        known = self.meter.prepare_base()
        self.note()
        for line in telling.of_base(self.meter):
            self.screen.say(line)
        return known

    def note(self) -> None:
        """Write down what was spent so far."""
        self.folder.note_progress(cost=self.cost.state())

    def select(self, part: StageInputs) -> None:
        """Give a stage the rows that its makers make and its selectors keep; the session's model is the stage's start,
        where it has not selected before.
        """
        from tunewright.runs import made, selected

        made.settle(self.session, part, self.folder, self.cost, self.screen.say)
        selected.settle(self.session, part, self.folder, self.cost, self.screen.say)

    def inputs(self, part: StageInputs) -> tuple[TrainingInputs, Provider]:
        """What a stage trains with, and what methods of the stages before it left."""
        from tunewright.training import carry

        stage, provider = self.session.training_inputs(part)
        names = [p.spec.name for p in self.session.stages[: part.index]]
        earlier = carry.earlier_of({n: self.folder.path / "stages" / n for n in names})
        stage.earlier = replace(earlier, way=self.recipe.way_to(part.spec))
        return stage, provider

    def _stage(self, part: StageInputs) -> Generator[Loop, None, None]:
        from tunewright.models.flops import counting
        from tunewright.runs import along
        from tunewright.runs.head_start import start_head, starts_from_probe
        from tunewright.runs.stages import recalled, save_result, steps_of, stopped
        from tunewright.training import carry

        name, folder = part.spec.name, self.folder.path / "stages" / part.spec.name
        finished = self._finished(folder)
        if finished is not None:
            self.select(part)
            self.results[name] = recalled(self.folder, name, finished.state)
            if part is self.session.stages[-1] or self._unmeasured(name):
                self._load_finished(folder)
            self._measure_stage(part)
            return
        with self.cost.phase("set-up"):
            carry.begin(
                self.session.adapted,
                part.spec.start or "base",
                part.spec.carry,
                self.folder.path,
                f"stages.{name}.start",
            )
        self.select(part)
        with self.cost.phase("set-up"):
            if starts_from_probe(self.session, part):
                start_head(self.session, part)
            stage, provider = self.inputs(part)
        saved = self._checkpoint_of(part)
        keeper = self.keeper(part)
        first = saved.state["loop"]["step"] if saved else 0
        trackers = Trackers(part.train.report_to, self.folder.path, first, keeper.before)
        keeper.track = trackers.log
        self.folder.drop_metrics_after(name, saved.state["loop"]["step"] if saved else 0)
        along.drop_after(self.folder, name, saved.state["loop"]["step"] if saved else -1)

        def needs(bound: Any, when: str = "once") -> dict[str, Any]:
            with self.cost.phase("statistics"), counting() as counted:
                values = provider.statistics(bound, when)
            self.cost.add("statistics", flops=counted.total)
            return values

        try:
            with self.screen.training(name, stage.plan) as show, self.cost.phase("train"):
                keeper.show, keeper.say = show, self.screen.say
                result = yield from steps_of(stage, keeper, needs, saved)
        finally:
            trackers.close()
            self.session.notes += trackers.cautions
            self.note()
        self.cost.add("train", tokens=result.tokens, flops=result.flops or 0.0)
        if not (self.figures_only and part is self.session.stages[-1]):
            save_result(self.folder, stage, keeper, result)
        self.results[name] = result
        self.note()
        if keeper.stops():
            raise stopped(self.folder, f"the stage '{name}'")
        self._measure_stage(part)

    def _unmeasured(self, stage: str) -> bool:
        """Whether the target is still to be measured after a stage, for the stage-by-task table or the matrix."""
        from tunewright.runs import sequenced

        if self.recipe.sequence is not None:
            return sequenced.unmeasured(self.folder, stage)
        several = len(self.session.stages) > 1 and bool(self.meter.rows) and not self.figures_only
        return several and stage not in self.folder.progress().get("stage_tasks", {})

    def _measure_stage(self, part: StageInputs) -> None:
        """The target on each evaluated source after a stage; after the last one it is the tuned model's own, unless
        steps after training change that.
        """
        self.meter.sharing.lead(lambda: self._read_after(part))

    def _read_after(self, part: StageInputs) -> None:
        from tunewright.runs import sequenced, target_report, telling

        name, last = part.spec.name, part is self.session.stages[-1]
        if not self._unmeasured(name) or (last and not self.recipe.after):
            return
        with self.cost.phase("stages measured"), self.session.adapted.at_strength(1.0):
            sequence = self.recipe.sequence is not None
            rows = sequenced.measure(self.folder, self.meter, name) if sequence else self.meter.read_target()
            found = target_report.by_task(rows, self.meter.metric)
        noted = self.folder.progress().get("stage_tasks", {})
        kept = {source: interval.model_dump() for source, interval in found.items()}
        self.folder.note_progress(stage_tasks={**noted, name: kept})
        self.note()
        self.screen.say(telling.of_stage(self.meter, name, found))

    def stage_tasks(self, tuned: Readings) -> dict[str, dict[str, Interval]]:
        """Stage -> evaluated source -> the target after that stage; empty for a run of one stage."""
        from tunewright.measure.intervals import Interval
        from tunewright.runs import target_report

        if len(self.session.stages) < 2 or not tuned.target or self.figures_only:
            return {}
        noted = self.folder.progress().get("stage_tasks", {})
        found = {s: {t: Interval(**i) for t, i in tasks.items()} for s, tasks in noted.items()}
        last = self.session.stages[-1].spec.name
        return {last: target_report.by_task(tuned.target, self.meter.metric), **found}

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

    def _checkpoint_of(self, part: StageInputs) -> checkpoint.Checkpoint | None:
        newest = checkpoint.latest(self.folder.path, self.screen.warn)
        if newest is None or newest.state["stage"] != part.spec.name:
            return None
        self.screen.say(f"going on from {newest.folder.name}")
        return newest

    def keeper(self, part: StageInputs) -> TrainingCallback:
        """What listens to a stage's loop."""
        from tunewright.runs.along import Along
        from tunewright.runs.in_short import samples_of
        from tunewright.runs.judged import known_task, learnt_by
        from tunewright.runs.parted import spread
        from tunewright.runs.stages import TrainingCallback

        before = sum(r.steps for r in self.results.values())
        sequence = self.recipe.sequence
        rows = self.session.validation_for(part) or learnt_by(self.session.eval, sequence, part.spec.name)
        evaluate = None
        if rows is not None and part.train.eval_steps:
            most = self.recipe.measurement.rows or 256
            chosen = (
                list(rows.rows)[:most] if sequence is None else [rows.rows[i] for i in spread(len(rows.rows), most)]
            )
            chosen = known_task(chosen, sequence, self.session.options.labels or ())

            along = Along(self.folder, self.meter, part.spec.name) if self.recipe.measurement.along else None

            def evaluate(loop: Any) -> dict[str, float]:
                follows = along if along is not None and self.listening.verified is None else None
                with self.cost.phase("evaluated while training"):
                    beside = follows.weights() if follows is not None else {}
                    with self.session.adapted.at_strength(1.0):
                        figures = self.meter.quick(chosen, together=True)
                        if follows is not None:
                            figures |= follows.read(loop.step_number, loop.tokens, beside)
                self.screen.samples(samples_of(self.meter))
                return figures

        self.listening = TrainingCallback(
            self.folder,
            part.train,
            part.spec.name,
            part.index,
            before,
            evaluate,
            hears=not self.shares,
            from_start=bool(self.recipe.measurement.along),
            rows_of=lambda: [[r.score, r.weight] for r in self.meter.lately.get("loss", [])],
        )
        return self.listening

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
                figures = self.meter.quick(rows, most=len(rows))
                return figures.get("target", -figures["loss"])

        for use in self.recipe.after:
            if predictors.predicts(use):
                self.meter.predictor = predicting.build(use, self.session, self.meter.model)
                continue
            with self.cost.phase("after"):
                after.apply(catalogue.build(use), use.name, self.session.adapted, self.folder.path, score, self._teach)
