"""The parts of a recipe that one mapping describes: model, data, keep, train, budget, evaluation."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from tunewright.errors import did_you_mean
from tunewright.recipe.boxes import BoxSpec
from tunewright.recipe.fields import Real, Spec, StepsOrShare, Whole, as_list, parse_number, problem
from tunewright.recipe.masks import MaskSpec
from tunewright.recipe.models import ModelSpec, Place
from tunewright.recipe.series import SeriesSpec
from tunewright.recipe.source import Source, Sources
from tunewright.recipe.tables import TableSpec
from tunewright.recipe.trajectories import EnvironmentSpec, TrajectorySpec
from tunewright.recipe.uses import MethodUse
from tunewright.recipe.views import ViewSpec
from tunewright.tasks._parts import DRAWN

__all__ = ["Budget", "DataSpec", "Keep", "MeasureSpec", "ModelSpec", "Place", "Source", "TrainSpec", "Uses"]

Uses = Annotated[list[MethodUse], BeforeValidator(as_list)]


def _share_or_sources(value: Any) -> Any:
    if isinstance(value, str):
        number = parse_number(value)
        value = value if number is None else number
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 < value < 1:
            raise problem(
                f"a share of the training rows lies between 0 and 1, got {value}", "write validation: 10%, or a file"
            )
        return value
    return as_list(value)


class DataSpec(Spec):
    """What is learnt from, and what it is measured on."""

    also: ClassVar[dict[str, str]] = {
        "cutoff_len": "max_length",
        "sequence_len": "max_length",
        "max_seq_length": "max_length",
    }
    train: Sources = Field(description="rows to learn from", examples=["tickets.jsonl"])
    eval: Sources | None = Field(
        None, description="rows to measure on, before and after; never trained on", examples=["tickets-test.jsonl"]
    )
    validation: Annotated[list[Source] | Real | None, BeforeValidator(_share_or_sources)] = Field(
        None,
        description="rows for early stopping and keep_best, or the share of the training rows held out for it",
        examples=["10%"],
    )
    synthesize: Uses = Field(
        default_factory=list,
        description="what makes the rows that are trained on, out of those of `train`: methods in order, and judges "
        "(rewards) that these ask",
        examples=[["s3ft", "exact-answer"]],
    )
    select: Uses = Field(
        default_factory=list,
        description="which training rows to use, of what `synthesize` makes where it does: selectors, in order",
        examples=[["dsir"]],
    )
    replay: dict[Annotated[str, Place], Annotated[Real, Field(gt=0, lt=1)]] = Field(
        default_factory=dict,
        description="earlier data mixed in: a `keep` entry, a file or stages.<an earlier one's name> -> share of the "
        "tokens",
        examples=[{"general": 0.05}],
    )
    max_length: Whole = Field(1024, gt=1, description="longest row, in tokens", examples=[1024])
    truncation: Literal["auto", "drop", "split", "fail"] = Field(
        "auto",
        description="what becomes of longer rows; auto: plain text is split, others are dropped",
        examples=["split"],
    )
    template: str | None = Field(
        None,
        description="text put around each row's text: {text}, or any column, is filled in",
        examples=["Question: {text}"],
    )
    system: str | None = Field(
        None,
        description="system turn of rows that have none; '': without the one that a chat template adds",
        examples=["Be brief."],
    )
    chat: bool | None = Field(
        None, description="prompts go through the model's chat template; none: when it has one", examples=[False]
    )
    labels: list[str] | None = Field(
        None,
        min_length=1,
        description="class names in the order of their ids; none: those of the rows",
        examples=[["no", "yes"]],
    )
    bad_rows: Literal["fail", "skip"] = Field(
        "fail",
        description="training rows that cannot be used: refused, or left out, counted and told",
        examples=["skip"],
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = Field(
        None,
        description="what a classification's rows have: one class, any number of labels, or a number; none: told from "
        "the rows",
        examples=["regression"],
    )
    masks: MaskSpec | None = Field(
        None,
        description="what numbers of masks mean; none: 255 does not count, others are the places of `labels`",
        examples=[{"classes": {"0": "ground", "255": "road"}}],
    )
    boxes: BoxSpec | None = Field(
        None,
        description="what the numbers of boxes mean (task: object-detection); none: x, y, width, height in pixels",
        examples=[{"format": "pascal_voc"}],
    )
    views: ViewSpec | None = Field(
        None,
        description="how pictures are changed into views (task: image-feature-extraction); none: as photographs may be",
        examples=[{"mirror": False}],
    )
    shuffle: bool = Field(True, description="draw rows in a random order, anew each epoch", examples=[True])
    shuffle_buffer: Whole = Field(
        10_000,
        gt=0,
        description="records of a streamed source that are shuffled together; long ones, fewer",
        examples=[50000],
    )
    packing: bool = Field(
        True, description="rows side by side without padding (no attention across them)", examples=[True]
    )
    series: SeriesSpec | None = Field(
        None, description="how time series become windows (task: time-series-forecasting)", examples=[{"stride": 8}]
    )
    trajectories: TrajectorySpec | None = Field(
        None,
        description="how recorded episodes become windows (task: reinforcement-learning)",
        examples=[{"context": 20}],
    )

    target: str | None = Field(
        None,
        min_length=1,
        description="column that is to be told (tasks: tabular-classification, tabular-regression); none: label",
        examples=["income"],
    )
    features: list[str] | None = Field(
        None,
        min_length=1,
        description="columns that are read, in this order; none: all but the target",
        examples=[["age", "job"]],
    )
    table: TableSpec | None = Field(
        None, description="how a table's cells are written for the model", examples=[{"numbers": "bins"}]
    )

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        kept_back = ("series", "trajectories", "masks", "boxes", "views", "target", "features", "table")
        return {k: v for k, v in super()._write(handler).items() if k not in kept_back or v is not None}

    @model_validator(mode="after")
    def _masks_have_their_classes(self) -> DataSpec:
        if self.masks is None:
            return self
        names = list(dict.fromkeys(name for name in self.masks.classes.values() if name is not None))
        if self.labels is None and len(names) < 2:
            what = "masks is given, and nothing says which classes there are"
            raise problem(what, "write labels, in the order of their numbers, or masks: {classes: ...}", ("masks",))
        if unknown := set(names) - set(self.labels or names):
            what = f"labels does not name the class '{min(unknown)}' of masks.classes"
            raise problem(what, "add it, or leave labels out", ("labels",))
        self.labels = self.labels or names
        if unknown := set(self.masks.weights) - set(self.labels):
            what = f"masks.weights names '{min(unknown)}', which is no class"
            raise problem(what, did_you_mean(min(unknown), self.labels), ("masks", "weights"))
        return self

    @model_validator(mode="after")
    def _replay_leaves_room(self) -> DataSpec:
        if self.replay and (total := sum(self.replay.values())) >= 1:
            raise problem(
                f"{total:.0%} of the tokens would be replayed, which leaves none to learn from",
                "write shares that sum to less than 1",
                ("replay",),
            )
        return self

    @property
    def takes_text(self) -> bool:
        """Whether the template, where there is one, says where something of a row goes."""
        return self.template is None or bool(re.search(r"\{\w+\}", self.template))


class Keep(Spec):
    """Something the model must not lose."""

    shorthand: ClassVar[str | None] = "data"
    compact: ClassVar[bool] = True
    data: Annotated[str, Place] = Field(
        min_length=1,
        description="general text (or rows) whose loss is measured before and after, or a pack of questions "
        "(pack:NAME, pack:./FOLDER) whose answers are judged",
        examples=["general.txt"],
    )
    metric: Literal["loss"] = Field(
        "loss", description="what is measured on a text, in nats per token", examples=["loss"]
    )
    name: str | None = Field(None, description="its name in the report; none: the file's name", examples=["general"])
    limit: Whole | None = Field(None, gt=0, description="read at most this many documents or questions", examples=[200])

    @model_validator(mode="before")
    @classmethod
    def _named_by_a_key(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1 and not value.keys() & cls.model_fields.keys():
            name, data = next(iter(value.items()))
            if isinstance(data, str):
                raise problem(
                    "an entry of keep is a file or a pack, not a name with one",
                    f"write keep: [{{data: {data}, name: {name}}}]",
                )
        return value


class TrainSpec(Spec):
    """How training steps."""

    learning_rate: Real | None = Field(
        None, gt=0, description="peak learning rate; none: the method's own, by rule", examples=[2e-4]
    )
    batch_tokens: Whole | None = Field(
        None, gt=0, description="tokens an optimizer step; none: by rule", examples=["16k"]
    )
    micro_tokens: Whole | None = Field(
        None,
        gt=0,
        description="tokens a forward pass; none: batch_tokens, by length where rows are padded, less when memory ends",
        examples=["4k"],
    )
    optimizer: MethodUse = Field(
        default_factory=lambda: MethodUse(name="adamw"),
        description="adamw, sgd, or an optimizer from `tunewright methods`",
        examples=["adamw"],
    )
    weight_decay: Real = Field(
        0.0, ge=0, description="decoupled weight decay a step, times the learning rate", examples=[0.01]
    )
    betas: tuple[Annotated[Real, Field(ge=0, lt=1)], Annotated[Real, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="AdamW's decay rates of its two moments", examples=[[0.9, 0.999]]
    )
    eps: Real = Field(1e-8, gt=0, description="AdamW's term that keeps it from dividing by zero", examples=[1e-8])
    momentum: Real = Field(0.0, ge=0, lt=1, description="SGD's momentum", examples=[0.9])
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of the arithmetic; auto: bfloat16 where a timed product says it is faster, else float32; float16 "
        "(for GPUs without bfloat16): losses are scaled",
        examples=["float32"],
    )
    seed: Whole = Field(0, ge=0, description="of order, initialisation and draws", examples=[0])
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="how the learning rate falls after the warm-up", examples=["cosine"]
    )
    warmup_steps: StepsOrShare | None = Field(
        None,
        ge=0,
        description="optimizer steps of rising learning rate, or (below 1) their share of all; none: by rule",
        examples=["3%"],
    )
    max_grad_norm: Real | None = Field(
        1.0, gt=0, description="longest gradient (2-norm); null: no clipping", examples=[1.0]
    )
    save_steps: Whole | None = Field(
        None, gt=0, description="optimizer steps between checkpoints; none: at stage ends only", examples=[200]
    )
    save_total_limit: Whole = Field(2, gt=0, description="checkpoints kept", examples=[2])
    eval_steps: Whole | None = Field(
        None, gt=0, description="optimizer steps between evaluations; none: at the end only", examples=[200]
    )
    head: Literal["probe", "random"] = Field(
        "probe",
        description="where a classifier's head that is made anew starts: from a linear probe on the base's features, "
        "or drawn at random",
        examples=["random"],
    )
    keep_best: Literal["target", "loss"] | None = Field(
        None,
        description="keep the weights of the best evaluation instead of the last; the start's, where no loss can be "
        "told from it on these rows",
        examples=["target"],
    )
    early_stopping: Whole | None = Field(
        None, gt=0, description="stop after this many evaluations without a better one", examples=[3]
    )
    logging_steps: Whole = Field(1, gt=0, description="optimizer steps between records in metrics.jsonl", examples=[1])
    activation_checkpointing: bool = Field(
        False,
        description="recompute activations in the backward pass: less memory, about a third more time",
        examples=[True],
    )
    compile: Literal[False, True, "inductor", "aot_eager", "eager"] = Field(
        False,
        description="blocks run compiled while they train: by torch's inductor (true), or another of its backends",
        examples=[True],
    )
    activation_offloading: bool = Field(
        False,
        description="on a GPU: what a step keeps for its backward pass lies in the host's memory; less of the GPU's, "
        "more time",
        examples=[True],
    )
    offload_param: Literal["disk"] | None = Field(
        None,
        description="disk: blocks' weights stay in the base's files and are brought in one at a time, so that a frozen "
        "base trains with the memory of a block; activations are recomputed",
        examples=["disk"],
    )
    fsdp: Literal["full_shard"] | None = Field(
        None,
        description="full_shard: where several processes train, each holds a part of the weights and brings a block's "
        "together where it runs (FSDP); alone, a process holds them all",
        examples=["full_shard"],
    )
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list,
        description="trackers beside metrics.jsonl (extras: track for TensorBoard, wandb, mlflow, trackio)",
        examples=[["tensorboard"]],
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where to compute; auto: an NVIDIA or AMD GPU (cuda), else the CPU", examples=["cpu"]
    )
    threads: Whole | None = Field(
        None, gt=0, description="CPU threads; none: the cores, shared among processes", examples=[2]
    )

    @model_validator(mode="after")
    def _share_below_one(self) -> TrainSpec:
        if isinstance(self.warmup_steps, float) and self.warmup_steps >= 1:
            raise problem(
                f"{self.warmup_steps} is neither a number of steps nor a share below 1",
                "write warmup_steps: 100, or warmup_steps: 3%",
                ("warmup_steps",),
            )
        return self


class Budget(Spec):
    """When a stage ends: the first limit reached. With none given, after as many epochs as the rule says."""

    compact: ClassVar[bool] = True
    tokens: Whole | None = Field(None, gt=0, description="tokens trained on", examples=["2M"])
    steps: Whole | None = Field(None, gt=0, description="optimizer steps", examples=[500])
    epochs: Real | None = Field(None, gt=0, description="passes over the stage's data", examples=[3])
    seconds: Real | None = Field(
        None, gt=0, description="seconds of training (such a run is not repeatable to the bit)", examples=[600]
    )
    flops: Real | None = Field(None, gt=0, description="floating-point operations", examples=["1e15"])

    @property
    def limited(self) -> bool:
        """Whether any limit is given."""
        return any(getattr(self, f) is not None for f in type(self).model_fields)


class MeasureSpec(Spec):
    """How base and tuned are measured."""

    split: Literal["eval", "validation"] = Field(
        "eval",
        description=(
            "rows that the target is measured on; validation: where something is chosen by it, so that eval "
            "stays unseen"
        ),
        examples=["eval"],
    )
    metric: str = Field(
        "auto", min_length=1, description="the target's headline; auto: the task's own", examples=["exact_match"]
    )
    num_beams: Whole | None = Field(
        None,
        gt=0,
        description="beams of text2text-generation and speech recognition; none: as the generation config says",
        examples=[4],
    )
    num_inference_steps: Whole = Field(
        int(DRAWN["num_inference_steps"]),
        gt=0,
        description="DDIM steps of each picture that a diffusion pipeline draws to be measured "
        "(unconditional-image-generation, text-to-image)",
        examples=[50],
    )
    guidance_scale: Real = Field(
        DRAWN["guidance_scale"],
        ge=0,
        description="how far a picture is drawn away from that of the empty text (text-to-image); 1: not at all",
        examples=[7.5],
    )
    temperature: Real = Field(
        DRAWN["temperature"],
        gt=0,
        description="what logits of codes are divided by before a next-scale model draws pictures of them",
        examples=[0.8],
    )
    top_k: Whole = Field(
        int(DRAWN["top_k"]), ge=0, description="of its likeliest codes so many are drawn from; 0: all", examples=[900]
    )
    top_p: Real = Field(
        DRAWN["top_p"],
        gt=0,
        le=1,
        description="of these the fewest that hold so much of the probability are drawn from; 1: all",
        examples=[0.96],
    )
    max_new_tokens: Whole = Field(
        32,
        gt=0,
        description="longest generated answer, in tokens; transcripts of recordings have room for the longest",
        examples=[32],
    )
    strengths: list[Annotated[Real, Field(ge=0)]] = Field(
        default_factory=lambda: [0.25, 0.5, 0.75, 1.0],
        min_length=1,
        description="how far from base (0) to tuned (1) the change is dialled afterwards",
        examples=[[0.5, 1.0]],
    )
    dial_rows: Whole | None = Field(
        None,
        gt=0,
        description=(
            "rows that strengths between base and tuned are measured on, of kept texts and drift sequences the same "
            "share; none: all"
        ),
        examples=[60],
    )
    drift_sequences: Whole = Field(
        64, gt=0, description="sequences sampled from the base to measure drift on", examples=[64]
    )
    drift_tokens: Whole = Field(256, gt=1, description="tokens of each of them, at most", examples=[256])
    few_shot: Whole = Field(
        3, ge=0, description="training rows shown to the base for its few-shot line; 0: none", examples=[3]
    )
    rows: Whole | None = Field(None, gt=0, description="evaluate at most this many rows; none: all", examples=[200])
    along: Annotated[list[str], BeforeValidator(as_list)] = Field(
        default_factory=list,
        description="what is measured beside the target at each evaluation while training, and before the first step: "
        "texts of `keep` by name, drift, in-context (copying and induction on made sequences), distance (of the "
        "weights from the base's)",
        examples=[["general", "in-context"]],
    )
    environment: Annotated[list[EnvironmentSpec] | None, BeforeValidator(as_list)] = Field(
        None,
        min_length=1,
        description="where a policy plays (task: reinforcement-learning): environments of gymnasium by their ids, the "
        "first one's return being the target, others' shown beside it",
        examples=["CartPole-v1"],
    )

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        return {k: v for k, v in super()._write(handler).items() if k != "environment" or v is not None}


def methods_alone(value: Any) -> Any:
    """`test_time: [tent]` and `test_time: {tent: {...}}` for `test_time: {adapt: [...]}`."""
    if isinstance(value, list):
        return {"adapt": value}
    if isinstance(value, dict) and len(value) == 1 and not value.keys() & StreamSpec.model_fields.keys():
        return {"adapt": [value]}
    return value


class StreamSpec(Spec):
    """A stream of rows that the tuned model answers in order, adapted by methods that see no label."""

    shorthand: ClassVar[str | None] = "adapt"
    adapt: Annotated[Uses, Field(min_length=1)] = Field(
        description="methods, each measured alone on the whole stream", examples=[["tent"]]
    )
    data: Sources | None = Field(
        None, description="the stream's rows, source after source; none: data.eval", examples=["november.jsonl"]
    )
    corruptions: list[str] = Field(
        default_factory=list,
        description="pictures made worse, as name:severity, from 1 to 5 (left out: 5); the rows come once for each, "
        "one after the other",
        examples=[["gaussian_noise:5", "contrast:3"]],
    )
    rows: Whole | None = Field(None, gt=0, description="at most this many rows of each pass; none: all", examples=[500])
    order: Literal["file", "shuffled"] = Field(
        "file", description="rows as they stand, or in one random order drawn by the seed", examples=["shuffled"]
    )
    batch_rows: Whole = Field(64, gt=0, description="rows that are answered at a time", examples=[32])
    reset: Literal["never", "source", "batch", "row"] | None = Field(
        None,
        description="begin again from the tuned weights: at each new source, batch or row; none: as the method says",
        examples=["source"],
    )
    guard: Real | None = Field(
        0.9,
        gt=0,
        le=1,
        description="most of the latest answers that one class may take before the tuned weights come back; null: any",
        examples=[0.8],
    )
    guard_answers: Whole = Field(128, gt=0, description="how many latest answers that is judged on", examples=[64])
