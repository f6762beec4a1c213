"""A fine-tuning job as clients ask for it. What is not read is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tunewright.serve.schemas import Name, Strict

Auto = Literal["auto"]
Epochs = Auto | Annotated[int, Field(ge=1, le=50)]
BatchSize = Auto | Annotated[int, Field(ge=1, le=256)]
Multiplier = Auto | Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Beta = Auto | Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


class Hyperparameters(Strict):
    """`batch_size`: rows of an optimizer step. `learning_rate_multiplier`: of the rate that the rule gives."""

    n_epochs: Epochs = "auto"
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = "auto"


class DpoHyperparameters(Hyperparameters):
    beta: Beta = "auto"


class Supervised(Strict):
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)


class Dpo(Strict):
    hyperparameters: DpoHyperparameters = Field(default_factory=DpoHyperparameters)


class Method(Strict):
    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None

    @model_validator(mode="after")
    def _one(self) -> Method:
        other = "dpo" if self.type == "supervised" else "supervised"
        if getattr(self, other) is not None:
            raise ValueError(f"{other} does not go with type: {self.type}")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        own = self.dpo or Dpo() if self.type == "dpo" else self.supervised or Supervised()
        return own.hyperparameters


class JobRequest(Strict):
    """`tunewright` holds parts of a recipe, which go over what the rest says."""

    model: Name
    training_file: str
    validation_file: str | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    seed: int | None = Field(None, ge=0, lt=1 << 31)
    suffix: str | None = Field(None, min_length=1, max_length=64)
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    integrations: list[Any] | None = Field(None, max_length=0)
    tunewright: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _once(self) -> JobRequest:
        if self.method is not None and self.hyperparameters is not None:
            raise ValueError("hyperparameters go into method")
        return self

    @property
    def kind(self) -> str:
        return self.method.type if self.method is not None else "supervised"

    @property
    def chosen(self) -> Hyperparameters:
        """What it says of training, wherever it says so."""
        return self.method.hyperparameters if self.method is not None else self.hyperparameters or Hyperparameters()
