"""What a recipe says of scaled positions: RoPE scaling, with transformers' own keys."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tunewright.recipe.fields import Real, Spec, Whole, problem

BY_THE_BATCH = ("dynamic", "longrope")
"""Types whose frequencies follow the longest row read so far, or of the batch."""
OWN: dict[str, tuple[str, ...]] = {
    "linear": (),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
"""The keys of each type, beside those that all have."""


class RopeSpec(Spec):
    """RoPE scaling, as transformers writes it (`rope_parameters`; `rope_scaling` in version 4)."""

    compact: ClassVar[bool] = True
    also: ClassVar[dict[str, str]] = {"type": "rope_type"}
    rope_type: Literal["linear", "yarn", "llama3", "dynamic", "longrope"] = Field(
        description="how frequencies change: linear (Chen et al. 2023), yarn (Peng et al. 2023), llama3 (long waves "
        "alone); dynamic and longrope are refused: what they answer of a row hangs on the rows beside it",
        examples=["yarn"],
    )
    factor: Real = Field(gt=1, description="by how much longer texts may be than the model's own", examples=[4.0])
    original_max_position_embeddings: Whole | None = Field(
        None, gt=0, description="positions the model learnt with; none: those of its config", examples=[2048]
    )
    attention_factor: Real | None = Field(
        None, gt=0, description="yarn: what cosines and sines are multiplied by; none: from factor", examples=[1.2]
    )
    beta_fast: Real | None = Field(
        None, gt=0, description="yarn: turns within the original length from which waves stay; none: 32", examples=[16]
    )
    beta_slow: Real | None = Field(
        None, gt=0, description="yarn: turns below which waves are stretched in full; none: 1", examples=[2]
    )
    mscale: Real | None = Field(None, description="yarn: as DeepSeek writes it; none: 1", examples=[0.7])
    mscale_all_dim: Real | None = Field(None, description="yarn: as DeepSeek writes it", examples=[0.7])
    truncate: bool | None = Field(
        None, description="yarn: whether the ramp's ends are whole dimensions; none: yes", examples=[False]
    )
    low_freq_factor: Real | None = Field(
        None, gt=0, description="llama3: turns below which waves are stretched in full; none: 1", examples=[1.0]
    )
    high_freq_factor: Real | None = Field(
        None, gt=0, description="llama3: turns from which waves stay as they are; none: 4", examples=[4.0]
    )

    @model_validator(mode="after")
    def _of_its_type(self) -> RopeSpec:
        if self.rope_type in BY_THE_BATCH:
            raise problem(
                f"'{self.rope_type}' chooses its frequencies by the longest row read so far, or of the batch: what a "
                "row gives would hang on the rows beside it, and no run could be repeated",
                "write rope_type: yarn, or linear",
                ("rope_type",),
            )
        known = {k for keys in OWN.values() for k in keys}
        for key in sorted(known - set(OWN[self.rope_type])):
            if getattr(self, key) is not None:
                of = next(t for t, keys in OWN.items() if key in keys)
                raise problem(f"'{key}' is of rope_type: {of}, and this is {self.rope_type}", f"remove {key}", (key,))
        if self.rope_type == "llama3":
            self.low_freq_factor = 1.0 if self.low_freq_factor is None else self.low_freq_factor
            self.high_freq_factor = 4.0 if self.high_freq_factor is None else self.high_freq_factor
        for low, high, default in (
            ("low_freq_factor", "high_freq_factor", (1, 4)),
            ("beta_slow", "beta_fast", (1, 32)),
        ):
            below, above = (getattr(self, k) or d for k, d in zip((low, high), default, strict=True))
            if below >= above:
                raise problem(f"{low} ({below:g}) must be less than {high} ({above:g})", f"raise {high}", (low,))
        return self

    @property
    def values(self) -> dict[str, Any]:
        """The keys that are given."""
        return {k: v for k, v in self.model_dump().items() if v is not None}
