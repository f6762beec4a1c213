"""From a recipe to everything a run works with: the model, encoded rows, checked methods. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tunewright import catalogue
from tunewright.contract.combining import Methods, bind, check_conflicts
from tunewright.contract.method import Method, Plan
from tunewright.contract.needs import NeedContext, Provider
from tunewright.contract.pairs import paired_set
from tunewright.contract.record_change import RecordChange, record_change
from tunewright.contract.slot import TRAINING_SLOTS
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data.dataset import Dataset, build, cursor, labels_of
from tunewright.data.order import permutation
from tunewright.errors import DataError, MethodError, RecipeError
from tunewright.files.cache import cache_folder
from tunewright.loading.load import Loaded, load
from tunewright.loading.options import options_of
from tunewright.machine import devices, host
from tunewright.models.adapted import Adapted
from tunewright.models.originals import Files
from tunewright.models.precision import choose_precision
from tunewright.recipe import DataSpec, MethodUse, ModelSpec, Recipe, Source, StageSpec
from tunewright.runs import predictors
from tunewright.runs.selecting import records_of, select, subset, without
from tunewright.tasks import get_task
from tunewright.training.budget import plan_stage
from tunewright.training.optim import BUILTIN
from tunewright.training.train import Stage

Say = Callable[[str], None]


@dataclass
class StageParts:
    """One stage, checked: its methods by name, its rows, its resolved `train` section."""

    spec: StageSpec
    train: Any
    data: DataSpec
    rows: Dataset
    replay: dict[str, tuple[Dataset, float]]
    methods: list[tuple[str, Method]]
    index: int


@dataclass
class Session:
    """A run's parts. `validation` serves choices in training; `eval` only measures. `keep` maps names to documents."""

    recipe: Recipe
    task: Task
    loaded: Loaded
    adapted: Adapted
    device: str
    precision: str
    packed: bool
    options: EncodeOptions
    stages: list[StageParts]
    eval: Dataset | None
    validation: Dataset | None
    keep: dict[str, Dataset]
    notes: list[str] = field(default_factory=list)
    others: dict[str, Adapted] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @property
    def seed(self) -> int:
        return int(self.recipe.train.seed)

    def other(self, name: str) -> Adapted:
        """One of the recipe's other models, loaded once, frozen. MethodError when its tokenizer differs."""
        if name not in self.others:
            spec = located(self.recipe.models[name], self.recipe.base)
            found = load(spec, self.task, labels=self.options.labels, device=self.device, precision=self.precision)
            _same_tokenizer(self.loaded, found, name)
            self.others[name] = Adapted(found.model, found.tokenizer, base_hash=found.hash, name=found.name)
        return self.others[name]

    def needs(self, part: StageParts) -> NeedContext:
        """What the methods of a stage may ask for."""
        rows: dict[str, Any] = {"train": part.rows.rows}
        hashes = {"train": part.rows.hash}
        if self.keep:
            rows["keep"] = [r for d in self.keep.values() for r in d.rows]
            hashes["keep"] = "+".join(d.hash for d in self.keep.values())
        for name, dataset in (("eval", self.eval), ("validation", self.validation), *self.keep.items()):
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
            cache=cache_folder() / "needs",
            device=self.device,
            packed=self.packed,
        )

    def cursor(self, part: StageParts) -> Any:
        """A fresh cursor over a stage's rows."""
        return cursor(
            part.rows,
            seed=part.train.seed,
            batch_tokens=part.train.batch_tokens,
            shuffle=part.data.shuffle,
            replay=part.replay,
        )

    def plan(self, part: StageParts) -> Plan:
        """How many steps and tokens a stage's budget allows."""
        return plan_stage(
            part.spec.budget,
            part.train,
            lambda: self.cursor(part),
            len(part.rows.rows),
            stage=part.spec.name,
            index=part.index,
            flops_per_token=self.flops_per_token,
            changing=any("mixture" in type(m).slots() for _, m in part.methods),
            replay=tuple(d.name for d, _ in part.replay.values()),
        )

    @property
    def flops_per_token(self) -> float:
        """Forward and backward of every weight matrix: 6 operations a parameter (an upper estimate; embeddings are
        left out).
        """
        return 6.0 * sum(
            p.numel() for s in self.adapted.structure.sites if s.kind not in ("embedding", "norm") for p in [s.weight]
        )

    def bind(self, part: StageParts) -> Methods:
        return bind(part.methods, part.train.seed, part.spec.name)

    def stage(self, part: StageParts) -> tuple[Stage, Provider]:
        """A stage ready to be set up, with fresh method states."""
        provider = Provider(self.needs(part))
        methods = self.bind(part)
        provider.check(methods)
        made = Stage(
            adapted=self.adapted,
            task=self.task,
            methods=methods,
            rows=self.cursor(part),
            plan=self.plan(part),
            spec=part.train,
            budget=part.spec.budget,
            signals=provider.signals,
            flops_per_token=self.flops_per_token,
            device=self.device,
            packed=self.packed,
        )
        return made, provider


_READING = frozenset({"train", "max_length", "truncation", "template", "system", "chat"})
"""Keys of `data` by which a stage's rows are read anew."""

_OF_THE_RUN = {"data": ("eval", "validation", "labels", "packing"), "train": ("precision", "device", "threads")}
"""Keys that hold for the whole run, so that a stage cannot have its own."""


def _check_stage_keys(recipe: Recipe) -> None:
    for stage in recipe.stages:
        for part, keys in _OF_THE_RUN.items():
            own = getattr(stage, part)
            for key in keys:
                if own is not None and key in own.model_fields_set:
                    raise RecipeError(
                        f"'{key}' holds for the whole run: a stage cannot have its own",
                        where=f"stages.{stage.name}.{part}.{key}",
                        remedy=f"write {part}.{key}",
                    )


def assemble(recipe: Recipe, say: Say = lambda text: None) -> Session:
    """Check methods, load the model, encode the rows.

    Errors name the field, file or row; nothing is trained or written.
    """
    task = get_task(recipe.task)
    methods = [_methods_of(recipe, stage, task.name) for stage in recipe.stages]
    _check_after(recipe)
    _check_stage_keys(recipe)
    torch.set_num_threads(recipe.train.threads or host.cores())
    device = device_of(recipe)
    precision = choose_precision(device) if recipe.train.precision == "auto" else recipe.train.precision
    say(f"loading {recipe.model.name}")
    labels: Sequence[str] | None = recipe.data.labels
    if task.labelled and labels is None:
        labels = labels_of([*recipe.data.train, *(recipe.data.eval or [])], recipe.base)
    loaded = load(
        located(recipe.model, recipe.base),
        task,
        labels=labels if task.labelled else None,
        device=device,
        precision=precision,
    )
    if task.labelled:  # a checkpoint's head keeps its own order of the labels
        names: Any = loaded.model.config.id2label  # type: ignore[union-attr]
        labels = [names[i] for i in sorted(names)]
    if recipe.new_tokens:
        add_tokens(loaded, recipe.new_tokens)
    adapted = Adapted(loaded.model, loaded.tokenizer, base_hash=loaded.hash, name=loaded.name)
    adapted.new = loaded.new
    if loaded.folder is not None and not any(
        n.when == "batch" for named in methods for _, m in named for n in m.needs()
    ):
        adapted.files = Files(loaded.folder)  # a signal of the base in each batch would read it again each time
    adapted.always = _new_rows(adapted, recipe.new_tokens)
    options = options_of(recipe.data, labels, loaded)
    packed = bool(recipe.data.packing and task.packs and _can_pack(loaded))
    say("reading data")
    cache = cache_folder()

    def read(
        sources: Sequence[Source],
        opt: EncodeOptions = options,
        of: Task = task,
        change: RecordChange | None = None,
    ) -> Dataset:
        return build(
            sources,
            of,
            loaded.tokenizer if loaded.tokenizer is not None else loaded.processor,
            opt,
            cache,
            base=recipe.base,
            change=change,
        )

    train_rows = read(recipe.data.train)
    evaluation = read(recipe.data.eval) if recipe.data.eval else None
    train_rows, validation = _validation(recipe, train_rows, read)
    keep = {}
    for k in recipe.keep:
        name = k.name or Path(k.data.split(":")[-1]).stem
        keep[name] = read([Source(path=k.data, limit=k.limit)], replace(options, truncation="split", template=None))
    parts = []
    for i, (stage, named) in enumerate(zip(recipe.stages, methods, strict=True)):
        data = recipe.data_for(stage)
        given = stage.data.model_fields_set if stage.data is not None else set()
        change = record_change(named, recipe.train_for(stage).seed)
        anew = bool(given & _READING) or change is not None
        rows = read(data.train, options_of(data, labels, loaded), change=change) if anew else train_rows
        if anew and validation is not None:
            rows = without(rows, validation)
        if data.select:
            rows = _selected(recipe, stage, data, rows, validation, alone="train" in given)
        replay = {n: (_replayed(n, keep, recipe, read), share) for n, share in data.replay.items()}
        pairs = any(m.pairs for _, m in named)
        rows, replay = (
            (paired_set(rows), {n: (paired_set(d), share) for n, (d, share) in replay.items()})
            if pairs
            else (rows, replay)
        )
        parts.append(StageParts(stage, recipe.train_for(stage), data, rows, replay, named, i))
    return Session(
        recipe,
        task,
        loaded,
        adapted,
        device,
        precision,
        packed,
        options,
        parts,
        evaluation,
        validation,
        keep,
        list(loaded.notes),
    )


def _methods_of(recipe: Recipe, stage: StageSpec, task: str) -> list[tuple[str, Method]]:
    uses: list[MethodUse] = list(stage.methods)
    optimizer = recipe.train_for(stage).optimizer
    if optimizer.name not in BUILTIN:
        uses.append(optimizer)
    named = []
    for use in uses:
        cls = catalogue.load_method(use.name, use.place)
        if not set(cls.slots()) & set(TRAINING_SLOTS):
            raise MethodError(
                f"'{use.name}' does nothing in training: it fills {', '.join(cls.slots())}",
                where=use.place or f"stages.{stage.name}.methods",
                remedy=_other_place(cls),
            )
        named.append((catalogue.canonical(use.name), catalogue.build(use)))
    check_conflicts(named, stage=stage.name, task=task, carried=stage.carry == "training" and stage.start != "base")
    return named


def _other_place(cls: type[Method]) -> str:
    places = {"merge": "after", "edit": "after", "predict": "after", "probe": "probes", "select": "data.select"}
    return "write it under " + " or ".join(sorted({places.get(s, s) for s in cls.slots()})) + ":"


def _check_after(recipe: Recipe) -> None:
    for place, slots, uses in (
        ("after", ("merge", "edit", "predict"), recipe.after),
        ("probes", ("probe",), recipe.probes),
    ):
        for use in uses:
            cls = catalogue.load_method(use.name, use.place)
            if not set(cls.slots()) & set(slots) or (place == "after" and set(cls.slots()) & set(TRAINING_SLOTS)):
                raise MethodError(
                    f"'{use.name}' cannot stand under {place}: it fills {', '.join(cls.slots())}",
                    where=use.place or place,
                    remedy="write it under stages' methods:",
                )
            catalogue.build(use)
    predictors.check(recipe)


def located(spec: ModelSpec, base: Path) -> ModelSpec:
    """A model's spec with a folder or file that is named from the recipe's own folder written from the root."""
    dotted = spec.name.startswith(("./", "../"))
    return (
        spec.model_copy(update={"name": str((base / spec.name).resolve())})
        if dotted or (base / spec.name).exists()
        else spec
    )


def device_of(recipe: Recipe) -> str:
    """Where the recipe computes: "cpu", "cuda" or "mps". MethodError when it asks for a GPU that torch does not see."""
    wanted = recipe.train.device
    if wanted != "auto" and not devices.sees(wanted):
        raise MethodError(
            f"device: {wanted} was asked for, and torch sees no {'Apple ' if wanted == 'mps' else ''}GPU",
            where="train.device",
            remedy="write device: auto; `tunewright doctor` says what torch sees",
        )
    return wanted if wanted != "auto" else "cuda" if devices.sees("cuda") else "cpu"


def _can_pack(loaded: Loaded) -> bool:
    from tunewright.models.attention import prepare_attention

    can = prepare_attention(loaded.model)  # type: ignore[arg-type]
    if not can:
        loaded.notes.append("rows are padded: this model's attention cannot take packed rows")
    return can


def _replayed(name: str, keep: dict[str, Dataset], recipe: Recipe, read: Any) -> Dataset:
    if name in keep:
        return keep[name]
    path = recipe.base / name
    if path.exists() or name.startswith("quickstart:"):
        dataset: Dataset = read([Source(path=name, name=Path(name).name)])
        return dataset
    raise DataError(
        f"replay names '{name}', which is neither a `keep` entry nor a file",
        where="data.replay",
        remedy=f"known: {', '.join(keep) or 'none'}; or write a path",
    )


def _validation(recipe: Recipe, rows: Dataset, read: Any) -> tuple[Dataset, Dataset | None]:
    """Rows held out for choices in training: a share of the training rows, or sources of their own."""
    wanted = recipe.data.validation
    if wanted is None:
        return rows, None
    if not isinstance(wanted, int | float):
        return rows, read(wanted)
    order = permutation(len(rows.rows), recipe.train.seed, "validation", 0)
    held = set(order[: max(1, round(wanted * len(order)))])
    if len(held) >= len(order):
        raise DataError(
            f"a share of {wanted:.0%} leaves no row to train on",
            where="data.validation",
            remedy="write a smaller share, or a file",
        )
    return subset(rows, [i for i in range(len(order)) if i not in held]), subset(rows, sorted(held))


def _selected(
    recipe: Recipe, stage: StageSpec, data: DataSpec, rows: Dataset, validation: Dataset | None, *, alone: bool
) -> Dataset:
    """The stage's rows that its selectors keep.

    What they aim at: the validation rows, else what the recipe learns elsewhere.
    """
    target: list[Any] = []
    if validation is not None:
        held = recipe.data.validation
        target = records_of(validation, held if isinstance(held, list) else recipe.data.train, recipe.base)
    elif alone:
        target = records_of(None, recipe.data.train, recipe.base)
    return select(
        data.select, rows, records_of(rows, data.train, recipe.base), target, recipe.train_for(stage).seed, stage.name
    )


def add_tokens(loaded: Loaded, tokens: Sequence[str]) -> None:
    """Add tokens to the vocabulary; each starts at the mean embedding, and is trained where embeddings train."""
    known = set(loaded.tokenizer.get_vocab())
    new = [t for t in tokens if t not in known]
    loaded.tokenizer.add_tokens(new)
    model: Any = loaded.model
    if len(loaded.tokenizer) > model.get_input_embeddings().weight.shape[0]:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(len(loaded.tokenizer), mean_resizing=False)
    with torch.no_grad():
        for embedding in {
            id(e): e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None
        }.values():
            ids = loaded.tokenizer.convert_tokens_to_ids(new)
            if ids:
                embedding.weight[ids] = embedding.weight[: min(ids)].mean(0)
    loaded.notes.append(f"{len(new)} tokens added to the vocabulary, started at the mean embedding")


def _new_rows(adapted: Adapted, tokens: Sequence[str]) -> dict[str, torch.Tensor]:
    """Flat places of the new tokens' rows in embedding and head: they train with every method, or they would mean
    nothing.
    """
    if not tokens:
        return {}
    ids = torch.tensor(sorted(adapted.tokenizer.convert_tokens_to_ids(list(tokens))))
    model: Any = adapted.model
    modules = [m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
    weights = {id(m.weight): m.weight for m in modules}
    names = {id(p): n for n, p in adapted.base_parameters().items()}
    return {names[k]: (ids[:, None] * w.shape[1] + torch.arange(w.shape[1])).reshape(-1) for k, w in weights.items()}


def _same_tokenizer(a: Loaded, b: Loaded, name: str) -> None:
    if a.tokenizer is None or b.tokenizer is None:
        return
    ours, theirs = a.tokenizer.get_vocab(), b.tokenizer.get_vocab()
    if ours != theirs:
        differing = sorted(set(ours) ^ set(theirs))[:3] or [t for t in ours if ours[t] != theirs.get(t)][:3]
        raise MethodError(
            (
                f"the model '{name}' has another tokenizer ({len(theirs)} tokens, here {len(ours)}; for instance "
                f"{differing})"
            ),
            where=f"models.{name}",
            remedy="use a model with the same tokenizer: its outputs are compared token by token",
        )
