"""The types of `report.json`: what a run gained, lost and cost, every number with its unit and interval.

One file, one version. Whatever was not measured is null or empty, never a made-up zero; readers show what is there.
Units: seconds, bytes, tokens; losses and divergences in nats per token; scores as the metric's `unit` says.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field

from tunewright.measure.intervals import Interval
from tunewright.report.adaptations import Adaptation
from tunewright.report.along import StageAlong
from tunewright.report.answer import Answer as Answer
from tunewright.report.gated import Gate
from tunewright.report.measured import Measured
from tunewright.report.packed import PackFigure
from tunewright.report.saved import Part, Saved
from tunewright.report.seal import seal_of
from tunewright.report.sequenced import SequenceReport

VERSION: Literal[1] = 1

Cell = str | int | float | bool | None


class Hardware(Part):
    """The machine that the run used."""

    device: str = Field("cpu", description="where the model ran: cpu, cuda:0 ...")
    name: str | None = Field(None, description="processor or accelerator, as the system names it")
    cores: int | None = Field(None, ge=1, description="processor cores that the process may use")
    memory_bytes: int | None = Field(None, ge=0, description="memory of the machine, bytes")
    accelerator_memory_bytes: int | None = Field(None, ge=0, description="memory of the accelerator, bytes")
    precision: str | None = Field(
        None, description="number format of the forward and backward: float32, bfloat16, float16"
    )


class RunInfo(Part):
    """Which run this is and the surroundings it had."""

    name: str = Field(description="name of the run, as its folder is called")
    status: Literal["finished", "running", "interrupted", "failed"] = Field(
        "finished", description="finished, running, interrupted (can be resumed) or failed"
    )
    stopped_in: str | None = Field(
        None, description="phase in which a run that is not finished stopped: base, train, measure ..."
    )
    started: datetime | None = Field(None, description="when the run first started, with time zone")
    finished: datetime | None = Field(None, description="when the run ended, with time zone; null while it has not")
    seconds: float | None = Field(
        None, ge=0, description="time spent from start to end, seconds; pauses before a resume are not in it"
    )
    resumed: int = Field(0, ge=0, description="how many times the run was resumed")
    attempt: int | None = Field(
        None,
        ge=1,
        description="which run of its work folder it is on these evaluation rows, where the folder counts them",
    )
    command: str | None = Field(None, description="the command that made it")
    versions: dict[str, str] = Field(default_factory=dict, description="package -> version, python included")
    parts: dict[str, str] = Field(
        default_factory=dict,
        description="task, metric, row shapes and methods that came from other packages -> distribution and version",
    )
    hardware: Hardware | None = Field(None, description="the machine")
    threads: int | None = Field(None, ge=1, description="threads that torch used")
    load_at_start: float | None = Field(
        None, ge=0, description="one-minute load average of the machine at start (processes)"
    )
    seed: int | None = Field(None, description="the recipe's seed")


class ModelInfo(Part):
    """The base model, and which weights the run really used."""

    name: str = Field(description="as the recipe names it")
    source: str | None = Field(None, description="hub id with revision, folder or package that the weights came from")
    weights: str | None = Field(
        None, description="in words: which weights it ran on, e.g. 'dequantised from a Q8_0 GGUF file'"
    )
    hash: str | None = Field(None, description="SHA-256 of the weights, hexadecimal")
    licence: str | None = Field(None, description="licence of the weights, as the source states it")
    parameters: int | None = Field(None, ge=0, description="parameters of the base, tied ones counted once")


class SourceInfo(Part):
    """One source of rows."""

    path: str = Field(description="file, folder, hub id or built-in name")
    role: str = Field("train", description="train, replay, eval, validation, test_time or keep")
    weight: float = Field(1.0, ge=0, description="weight in the mixture (a ratio)")
    rows: int | None = Field(None, ge=0, description="rows read and used")
    tokens: int | None = Field(None, ge=0, description="tokens of those rows")
    licence: str | None = Field(None, description="licence of the data, where it is known")


class DataInfo(Part):
    """What the run was given and what became of it. Counts are of the training rows unless a field says otherwise."""

    sources: list[SourceInfo] = Field(default_factory=list, description="every source, in the recipe's order")
    hash: str | None = Field(None, description="SHA-256 of the encoded training rows, hexadecimal")
    rows: int | None = Field(None, ge=0, description="training rows used")
    tokens: int | None = Field(None, ge=0, description="tokens of one pass over the training rows")
    trained_tokens: int | None = Field(None, ge=0, description="of those, tokens that count in the loss")
    dropped: int = Field(0, ge=0, description="rows left out because they were too long or held nothing to train on")
    truncated: int = Field(0, ge=0, description="rows shortened or split to max_length")
    bad: int = Field(0, ge=0, description="rows that could not be read")
    duplicates: int = Field(0, ge=0, description="rows equal to an earlier row")
    overlap: int = Field(0, ge=0, description="evaluation rows that also occur in training")


class Target(Measured):
    """What was to be gained; beside it what tells format from skill."""

    others: list[Measured] = Field(
        default_factory=list, description="further metrics on the same rows, or on others by name"
    )
    few_shot: Interval | None = Field(
        None, description="the untouched base given a few examples in its prompt, same metric"
    )
    shots: int | None = Field(None, ge=0, description="examples in that prompt")
    likelihood: Measured | None = Field(
        None,
        description=(
            "base and tuned choosing the likeliest of the labels instead of writing freely: skill without format"
        ),
    )
    linear_probe: Measured | None = Field(
        None,
        description=(
            "of a classifier: a linear probe on the base's frozen features, fitted on the training rows (before), "
            "beside the tuned model (after); the difference is what was learnt beyond the features"
        ),
    )
    commonest: Interval | None = Field(
        None,
        description="of a classifier: the commonest class of the training rows, given as every answer, or to each word",
    )
    baselines: list[Measured] = Field(
        default_factory=list,
        description="what needs no pre-trained model (before), beside the tuned model (after): of forecasts the last "
        "season or the last value again, of episodes actions at random, of tables gradient-boosted trees fitted on the "
        "training rows",
    )
    tasks: dict[str, Interval] = Field(
        default_factory=dict, description="of a run of several stages: evaluated source -> the untouched base there"
    )
    fresh_head: bool = Field(
        False, description="the base's head was drawn at random for this task, so that `before` is what chance gives"
    )


class Drift(Part):
    """How far the tuned model moved from its base. Zero for a model that learned nothing: never rank by it alone."""

    measure: Literal["kl", "1-cka", "forecast", "action", "denoising"] = Field(
        "kl",
        description="'kl': mean KL(base || tuned), nats per token; '1-cka': 1 - linear CKA, 0 to 1; 'forecast' and "
        "'action': root mean square of how far forecasts, or actions that are numbers, moved, in standard deviations; "
        "'denoising': mean square of the changes of what is predicted of noised pictures",
    )
    value: Interval = Field(description="by sequence")
    sequences: int | None = Field(None, ge=0, description="sequences measured on")
    tokens: int | None = Field(None, ge=0, description="tokens measured on")
    on: str | None = Field(None, description="in words: where the sequences came from, e.g. 'sampled from the base'")


class Strength(Part):
    """The trade at one strength of the change: 0 is the base, 1 the tuned model; between them without retraining."""

    strength: float = Field(description="factor on the trained change (a ratio)")
    target: Interval | None = Field(None, description="target metric at this strength")
    kept: dict[str, Interval] = Field(default_factory=dict, description="kept name -> its metric at this strength")
    drift: Interval | None = Field(None, description="drift at this strength, same measure as `drift`")


class Cost(Part):
    """Everything spent, discarded work included."""

    seconds: dict[str, float] = Field(
        default_factory=dict, description="phase -> seconds: load, data, base, statistics, train, measure ..."
    )
    tokens: int | None = Field(None, ge=0, description="tokens that went through training, all epochs and stages")
    trained_tokens: int | None = Field(None, ge=0, description="of those, tokens that counted in the loss")
    steps: int | None = Field(None, ge=0, description="optimizer steps")
    trainable_parameters: int | None = Field(None, ge=0, description="parameters that could change (largest stage)")
    stored_parameters: int | None = Field(None, ge=0, description="parameters that have to be kept beside the base")
    stored_bytes: int | None = Field(None, ge=0, description="size of what is kept beside the base, bytes")
    peak_memory_bytes: int | None = Field(
        None, ge=0, description="largest memory in use, bytes: of the accelerator if there is one, else of the process"
    )
    flops: float | None = Field(
        None,
        ge=0,
        description=(
            "floating-point operations of training and its statistics: counted products with weights, of every forward "
            "and backward (reports before 0.2: an estimate by parameters and tokens)"
        ),
    )
    flops_by_phase: dict[str, float] = Field(
        default_factory=dict, description="of those, by phase: train, statistics (what methods asked for once)"
    )
    tokens_per_second: float | None = Field(
        None, ge=0, description="training speed, tokens a second, padding not counted"
    )
    cached: list[str] = Field(
        default_factory=list,
        description="phases whose result came from a cache; their seconds are those of the reading",
    )


class RoleCounts(Part):
    """Parameters of one kind of weight."""

    trained: int = Field(ge=0, description="parameters trained here, added ones included")
    total: int | None = Field(None, ge=0, description="parameters of the model here, in the shape that was trained")


class MethodInfo(Part):
    """One method as it was used, every parameter written out."""

    name: str = Field(description="its name in a recipe")
    slots: list[str] = Field(default_factory=list, description="the slots it fills")
    parameters: dict[str, Any] = Field(default_factory=dict, description="parameter -> value, defaults included")
    stage: str | None = Field(None, description="stage that used it; 'after' for a step after training")
    papers: list[str] = Field(default_factory=list, description="papers that it comes from")


class Trained(Part):
    """What could change and what could not."""

    roles: dict[str, RoleCounts] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("roles", "rooms"),
        description="attention, mlp, norm, embedding, head ... -> parameters",
    )
    parameters: int | None = Field(
        None, ge=0, description="parameters of the model that was trained, where its shape is another than the base's"
    )
    methods: list[MethodInfo] = Field(default_factory=list, description="methods, in order of use")
    frozen: list[str] = Field(default_factory=list, description="what stayed as it was, in words or as names")

    @property
    def rooms(self) -> dict[str, RoleCounts]:
        """`roles`, as scripts written for earlier reports call them."""
        return self.roles


class StageReport(Part):
    """One stage of training."""

    name: str = Field(description="its name in the recipe")
    start: str = Field("base", description="what it started from")
    carry: str = Field("fold", description="what became of the deltas it started with: fold, frozen, training, drop")
    methods: list[str] = Field(default_factory=list, description="names of its methods")
    status: Literal["finished", "interrupted", "discarded"] = Field(
        "finished", description="finished, interrupted or discarded"
    )
    ended_by: str | None = Field(
        None, description="what ended it: tokens, steps, epochs, seconds, flops, early stopping, signal"
    )
    steps: int | None = Field(None, ge=0, description="optimizer steps")
    tokens: int | None = Field(None, ge=0, description="tokens that went through training")
    epochs: float | None = Field(None, ge=0, description="passes over its training rows")
    steps_per_epoch: float | None = Field(None, ge=0, description="optimizer steps to one pass over its training rows")
    seconds: float | None = Field(None, ge=0, description="time in its steps, seconds")
    loss_first: float | None = Field(None, description="training loss at its first logged step, nats per token")
    loss_last: float | None = Field(None, description="training loss at its last logged step, nats per token")
    tasks: dict[str, Interval] = Field(
        default_factory=dict,
        description="of a run of several stages: evaluated source -> the target's metric after this stage",
    )
    best_step: int | None = Field(
        None,
        ge=0,
        validation_alias=AliasChoices("best_step", "kept_step"),
        description="step whose weights were kept, where that is not the last one",
    )


class Training(Part):
    """The loss curve in a few numbers; the whole curve is in metrics.jsonl."""

    steps: int | None = Field(None, ge=0, description="optimizer steps, all stages")
    first: float | None = Field(None, description="loss at the first logged step, nats per token (or a row)")
    last: float | None = Field(None, description="mean loss of the last tenth of the logged steps")
    lowest: float | None = Field(None, description="lowest logged loss")
    lowest_step: int | None = Field(None, ge=0, description="step of the lowest logged loss")
    splits: int = Field(0, ge=0, description="times a batch was split smaller for want of memory")


class Probe(Part):
    """What a probe found: single values and a table."""

    title: str | None = Field(None, description="heading; none: the probe's name")
    description: str | None = Field(None, description="what the numbers mean, with units")
    values: dict[str, Cell | Interval] = Field(default_factory=dict, description="name -> single value")
    columns: list[str] = Field(default_factory=list, description="headings of the table")
    rows: list[list[Cell]] = Field(default_factory=list, description="cells, one list a row")


class Report(Saved):
    """`report.json`."""

    file: ClassVar[str] = "report.json"
    noun: ClassVar[str] = "report"
    where_else: ClassVar[str] = "point to a run's folder or its report.json"
    again: ClassVar[str] = "re-make it with the version of tunewright that wrote it"

    version: Literal[1] = Field(VERSION, description="version of this format; a change of meaning raises it")
    run: RunInfo = Field(description="which run, where and when")
    model: ModelInfo | None = Field(None, description="the base model")
    task: str | None = Field(None, description="the hub's name of the task: text-generation ...")
    data: DataInfo = Field(default_factory=DataInfo, description="rows and tokens")
    target: Target | None = Field(None, description="what was to be gained, before and after")
    kept: list[Measured] = Field(
        default_factory=list, description="what should not be lost, before and after; one entry a `keep` of the recipe"
    )
    packs: list[PackFigure] = Field(
        default_factory=list, description="packs of the recipe's `keep`: questions judged by rule, before and after"
    )
    drift: Drift | None = Field(None, description="how far the model moved")
    trade: list[Strength] = Field(
        default_factory=list, description="the change dialled down afterwards; empty where it cannot be dialled"
    )
    cost: Cost = Field(default_factory=Cost, description="what was spent")
    trained: Trained = Field(default_factory=Trained, description="what could change")
    stages: list[StageReport] = Field(default_factory=list, description="stages in order")
    sequence: SequenceReport | None = Field(
        None, description="of a recipe with `tasks`: what is known of each task after each, and what follows from it"
    )
    along: list[StageAlong] = Field(
        default_factory=list,
        description="of a recipe with `measurement.along`: target, kept texts and more at each evaluation of a stage",
    )
    training: Training | None = Field(None, description="summary of the loss curve")
    tokens_view: dict[str, list[tuple[str, float]]] = Field(
        default_factory=dict,
        description="source -> one example as (token's text, loss weight); weight 0: not trained on",
    )
    answers: list[Answer] = Field(
        default_factory=list, description="a few rows for a first look; all are in rows.jsonl"
    )
    probes: dict[str, Probe] = Field(default_factory=dict, description="probe -> result")
    test_time: list[Adaptation] = Field(
        default_factory=list, description="a stream that the tuned model answered while methods adapted it"
    )
    gate: Gate | None = Field(None, description="the verdict on the recipe's `gate`, where it has one")
    notes: list[str] = Field(default_factory=list, description="warnings shown to the user, most important first")
    files: dict[str, str] = Field(default_factory=dict, description="what is in the run folder: name -> what it is")
    hashes: dict[str, str] = Field(
        default_factory=dict, description="file of the run folder -> its SHA-256, hexadecimal; `resume --verify` checks"
    )
    seal: str | None = Field(None, description="SHA-256 of all that this file says but this, hexadecimal")

    def save(self, folder: Path | str) -> Path:
        """Write it under its seal, as `Saved.save` does."""
        self.seal = seal_of(self.dumps())
        return super().save(folder)
