"""How a recipe is measured: `measurement`, and the stream of `test_time`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from tunewright.recipe.fields import Real, Spec, Whole, as_list
from tunewright.recipe.models import ModelSpec
from tunewright.recipe.source import Sources
from tunewright.recipe.train_spec import TrainSpec
from tunewright.recipe.trajectories import EnvironmentSpec
from tunewright.recipe.uses import Uses
from tunewright.tasks._parts import DRAWN


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
        description="longest generated answer, in tokens, and never more than the longest reference and two; "
        "transcripts of recordings have room for the longest",
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


def in_full(stream: StreamSpec | None, train: TrainSpec, model: ModelSpec) -> None:
    """Arithmetic and weights in float32 where a stream may move weights and nothing else is written: its small steps
    are lost in fewer digits.
    """
    if stream is not None and train.precision in ("auto", "float32"):
        train.precision = "float32"
        model.dtype = "float32" if model.dtype == "auto" else model.dtype
