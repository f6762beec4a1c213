"""A run's parts, loaded and checked: what everything that trains, measures or plans works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tunewright.contract.combining import Methods, bind
from tunewright.contract.method import Method, Plan
from tunewright.contract.needs import NeedContext, Provider
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data.dataset import Dataset, cursor
from tunewright.data.order import longest
from tunewright.errors import MethodError
from tunewright.files.cache import cache_folder
from tunewright.loading.load import Loaded, load
from tunewright.measure.asking import Questions
from tunewright.models.adapted import Adapted
from tunewright.pieces.low_rank import LowRankChange
from tunewright.recipe import DataSpec, ModelSpec, Recipe, StageSpec
from tunewright.recipe.models import located
from tunewright.runs.aiming import aims, halves
from tunewright.runs.judged import learnt_by
from tunewright.runs.judges import judge_of
from tunewright.runs.making import Makers
from tunewright.runs.selecting import Selection, method_of
from tunewright.runs.upstream import changes_of
from tunewright.runs.vocabulary import same_tokenizer
from tunewright.tasks import get_task
from tunewright.training import carry
from tunewright.training.budget import COUNT_UP_TO, GLANCED_AT, few_steps, plan_stage
from tunewright.training.defaults import Setting
from tunewright.training.judging import Judge
from tunewright.training.stage import TrainingInputs
from tunewright.training.validation import asks, no_rows


@dataclass
class Making:
    """What makes a stage's rows, until they are made (`made.py`).

    `records` gives those that they are made of, `options` how rows are encoded and writers asked; `read` encodes a file
    of what was made, `records_of` gives the records of such rows.
    """

    makers: Makers
    records: Callable[[], list[Record]]
    options: EncodeOptions
    read: Callable[[Path], Dataset]
    records_of: Callable[[Dataset, Path], list[Record]]


@dataclass
class StageInputs:
    """One stage, checked: its methods by name, its rows, its resolved `train` section.

    `making`: what makes its rows, until they are made; before, `rows` stand in for them. `selection`: its selectors,
    until they are settled (`selected.py`); before, `rows` are all those that selectors which read with a model may
    choose from. None where there are none.
    """

    spec: StageSpec
    train: Any
    data: DataSpec
    rows: Dataset
    replay: dict[str, tuple[Dataset, float]]
    methods: list[tuple[str, Method]]
    index: int
    selection: Selection | None = None
    making: Making | None = None

    @property
    def picks(self) -> bool:
        """Whether a method reads its rows to pick by them, so that more steps would teach nothing."""
        return any(m.alone for _, m in self.methods)

    @property
    def replayed(self) -> float:
        """Share of the tokens that is replayed."""
        return sum(share for _, share in self.replay.values())

    def cautions(self, plan: Callable[[], Plan]) -> list[str]:
        """What its methods and selectors say of the steps that are planned; `plan` is asked for only where one of them
        might.
        """
        everyone = [*self.methods, *((use.name, method_of(use)) for use in self.data.select)]
        asked = [(name, m) for name, m in everyone if type(m).caution is not Method.caution]
        planned = plan() if asked else None
        said = [(name, m.caution(planned)) for name, m in asked if planned is not None]
        return [f"{name}: {text}" for name, text in said if text]


@dataclass
class Session:
    """A run's parts. `validation` serves choices in training; `eval` only measures. `keep` maps names to documents.

    `weights`: whether its models have their values, or (for a check) their shapes alone.
    `derived`: what the recipe left to the rule, by stage; `recipe` holds the values. `stream`: the rows of `test_time`
    where it names some of its own. `run`: the run's folder, where its finished stages are; None in a check. `packs`:
    questions that base and tuned model are asked.
    """

    recipe: Recipe
    task: Task
    loaded: Loaded
    adapted: Adapted
    device: str
    precision: str
    packed: bool
    options: EncodeOptions
    stages: list[StageInputs]
    eval: Dataset | None
    validation: Dataset | None
    keep: dict[str, Dataset]
    notes: list[str] = field(default_factory=list)
    weights: bool = True
    others: dict[str, Adapted] = field(default_factory=dict)
    voices: dict[str, Adapted] = field(default_factory=dict)
    judges: dict[str, Judge] = field(default_factory=dict)
    derived: dict[str, dict[str, Setting]] = field(default_factory=dict)
    stream: Dataset | None = None
    run: Path | None = None
    packs: dict[str, Questions] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @property
    def seed(self) -> int:
        return int(self.recipe.train.seed)

    def few_steps(self, part: StageInputs, steps: int, tokens: int) -> str | None:
        """What `training.budget.few_steps` tells of a stage; None where more steps would teach nothing."""
        if part.picks:
            return None
        once = self.recipe.sequence is not None and self.recipe.sequence.online
        return few_steps(steps, tokens, part.spec.budget, part.train, longest(part.rows.rows), once=once)

    def on_layers(self) -> list[str]:
        """What is told of the layers that methods change: what all-linear leaves out inside the blocks, a sentence for
        each reason, and ranks above a layer's narrower side.
        """
        structure, used = self.adapted.structure, [one for part in self.stages for one in part.methods]
        asked = (getattr(m, "target_modules", None) for _, m in used)
        out = structure.left_out() if "all-linear" in asked else []
        wide = ((name, m.too_wide(structure)) for name, m in used if isinstance(m, LowRankChange))
        return out + list(dict.fromkeys(f"{name}: {said}" for name, said in wide if said is not None))

    def judge_on_validation(self) -> None:
        """Measure the target on the validation rows; where methods choose on them, selectors aim at them, or weights
        are kept or training ends by them, on every other record of them alone.
        """
        rows = self.validation
        chosen = any(_chooses(m) for part in self.stages for _, m in part.methods)
        chosen |= any(part.train.keep_best or part.train.early_stopping for part in self.stages)
        if rows is not None and (chosen or aims(self.recipe)):
            rows, self.validation = halves(rows)
        self.eval = rows

    def validation_for(self, part: StageInputs) -> Dataset | None:
        """The rows that serve choices in a stage's training: of a sequence those of the tasks known by then."""
        return learnt_by(self.validation, self.recipe.sequence, part.spec.name)

    def other(self, name: str) -> Adapted:
        """One of the recipe's other models, loaded once, frozen. MethodError when its tokenizer differs, or where it is
        an address.
        """
        if name not in self.others:
            loaded = self._loaded(name, self.task)
            same_tokenizer(self.loaded, loaded, name)
            self.others[name] = loaded.adapted()
        return self.others[name]

    @property
    def writing_task(self) -> Task:
        """The task by which models write: the recipe's where its models do."""
        return self.task if self.task.continues else get_task("text-generation")

    def voice(self, name: str) -> Adapted:
        """One of the recipe's other models, to write with a tokenizer of its own; loaded once."""
        if self.task.continues and name in self.others:
            return self.others[name]
        if name not in self.voices:
            self.voices[name] = self._loaded(name, self.writing_task).adapted()
        return self.voices[name]

    def _loaded(self, name: str, task: Task) -> Loaded:
        return load(
            self._there(name),
            task,
            labels=self.options.labels if task is self.task else None,
            device=self.device,
            precision=self.precision,
            weights=self.weights,
        )

    def _there(self, name: str) -> ModelSpec:
        """One of the recipe's other models, whose weights can be read. MethodError for an address."""
        spec = located(self.recipe.models[name], self.recipe.base)
        if spec.url is not None:
            raise MethodError(
                f"models.{name} is an address: it gives answers, and its weights are not here",
                where=f"models.{name}.url",
                remedy="name a folder or hub id; an address can only be asked to write, under data.synthesize",
            )
        return spec

    def judge(self, name: str) -> Judge:
        """One of the recipe's other models as a reward model, loaded once, frozen. ModelError where it is none."""
        if name not in self.judges:
            self.judges[name] = judge_of(
                name,
                self._there(name),
                self.tokenizer,
                device=self.device,
                precision=self.precision,
                weights=self.weights,
            )
        return self.judges[name]

    def needs(self, part: StageInputs) -> NeedContext:
        """What the methods of a stage may ask for."""
        rows: dict[str, Any] = {"train": part.rows.rows}
        hashes = {"train": part.rows.hash}
        if self.keep:
            rows["keep"] = [r for d in self.keep.values() for r in d.rows]
            hashes["keep"] = "+".join(d.hash for d in self.keep.values())
        # never eval: what trains must not see the rows that it is measured on
        for name, dataset in (("validation", self.validation_for(part)), *self.keep.items()):
            if dataset is not None and name not in rows:
                rows[name], hashes[name] = dataset.rows, dataset.hash
        return NeedContext(
            adapted=self.adapted,
            task=self.task,
            seed=part.train.seed,
            rows=rows,
            data_hashes=hashes,
            other_names=tuple(self.recipe.models),
            other=self.other,
            as_judge=self.judge,
            changes=partial(changes_of, self, part),
            cache=cache_folder() / "needs",
            device=self.device,
            packed=self.packed,
        )

    def cursor(self, part: StageInputs, *, stored: bool = False) -> Any:
        """A fresh cursor over a stage's rows; with `stored`, over those that are there, of streamed sources the
        first.
        """
        return cursor(
            part.rows.as_stored() if stored else part.rows,
            seed=part.train.seed,
            batch_tokens=part.train.batch_tokens,
            shuffle=part.data.shuffle,
            replay=part.replay,
            epochs=part.spec.budget.epochs,
        )

    def plan(self, part: StageInputs) -> Plan:
        """How many steps and tokens per stage's budget allows, and what is read beside what is trained on."""
        kept = tuple(d.name for k in self.keep.values() for d in k.sources)
        beside = (d for d in (self.eval, self.validation, self.stream) if d is not None)
        measured = tuple(dict.fromkeys(d.name for b in beside for d in b.sources))
        planned = plan_stage(
            part.spec.budget,
            part.train,
            lambda: self.cursor(part, stored=True),
            stage=part.spec.name,
            index=part.index,
            flops_per_token=self.flops_per_token,
            changing=bool(part.rows.streamed) or any("mixture" in type(m).slots() for _, m in part.methods),
            replay=tuple(d.name for d, _ in part.replay.values()),
            most=COUNT_UP_TO if self.weights and not part.rows.streamed else GLANCED_AT,
            reuse=max(
                [int(getattr(m, "reuse", 1)) for _, m in part.methods if "rollout" in type(m).slots()], default=1
            ),
        )
        return replace(planned, kept=kept, measured=measured)

    @property
    def flops_per_token(self) -> float:
        """Forward and backward of every weight matrix: 6 operations a parameter (an upper estimate; embeddings are
        left out).
        """
        return 6.0 * sum(s.numel for s in self.adapted.structure.sites if s.kind not in ("embedding", "norm"))

    def start(self, part: StageInputs) -> str:
        """What a stage starts from: "base", "stages.<name>", or a folder, seen from the recipe's own."""
        start = part.spec.start or "base"
        return (
            start if start == "base" or start.startswith("stages.") else str(carry.seen_from(self.recipe.base, start))
        )

    def bind(self, part: StageInputs) -> Methods:
        return bind(part.methods, part.train.seed, part.spec.name)

    def training_inputs(self, part: StageInputs) -> tuple[TrainingInputs, Provider]:
        """A stage ready to be set up, with fresh method states. MethodError for a need that cannot be served."""
        provider = Provider(self.needs(part))
        methods = self.bind(part)
        provider.check(methods)
        for b in methods:
            if self.validation is None and asks(type(b.method)):
                raise no_rows(b.name)
        stage = TrainingInputs(
            adapted=self.adapted,
            task=self.task,
            methods=methods,
            rows=self.cursor(part),
            plan=self.plan(part),
            spec=part.train,
            budget=part.spec.budget,
            signals=provider.signals,
            validation=self.validation_for(part),
            device=self.device,
            packed=self.packed,
        )
        return stage, provider


def _chooses(method: Method) -> bool:
    """Whether a method reads validation rows, in a slot or through a need."""
    return asks(type(method)) or any(need.reads == "validation" for need in method.needs())
