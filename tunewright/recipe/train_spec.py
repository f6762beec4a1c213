"""How a recipe trains and for how long: `train` and `budget`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    model_validator,
)

from tunewright.recipe.fields import Real, Spec, StepsOrShare, Whole, problem
from tunewright.recipe.uses import MethodUse


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
