"""Requests of Tinker's protocol in JSON. Fields that are not read here are passed over, as newer clients send more."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(min_length=1, max_length=200)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Lora(Loose):
    rank: int = Field(ge=1, le=512)
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class CreateModel(Loose):
    session_id: Id
    model_seq_id: int = Field(ge=0)
    base_model: Id
    lora_config: Lora = Field(default_factory=lambda: Lora(rank=32))
    optimizer_config: dict[str, Any] = Field(default_factory=lambda: {"type": "adamw"})


class Adam(Loose):
    learning_rate: Finite = Field(1e-4, ge=0)
    beta1: Finite = Field(0.9, ge=0, lt=1)
    beta2: Finite = Field(0.95, ge=0, lt=1)
    eps: Finite = Field(1e-12, ge=0)
    weight_decay: Finite = Field(0.0, ge=0)
    grad_clip_norm: Finite = 0.0


class OfModel(Loose):
    model_id: Id
    seq_id: int | None = None


class OptimStep(OfModel):
    adam_params: Adam


class SaveWeights(OfModel):
    path: str | None = None
    overwrite: bool = False


class LoadWeights(Loose):
    model_id: Id | None = None
    seq_id: int | None = None
    session_id: Id | None = None
    model_seq_id: int | None = None
    path: Annotated[str, Field(max_length=400)]
    optimizer: bool = False


class SamplingSession(Loose):
    session_id: Id
    base_model: str | None = None
    model_path: Annotated[str, Field(max_length=400)] | None = None


class Chunk(Loose):
    type: str = "encoded_text"
    tokens: list[int] = Field(default_factory=list)


class Prompt(Loose):
    chunks: list[Chunk]


class Params(Loose):
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: str | list[str] | list[int] | None = None
    temperature: Finite = Field(1.0, ge=0)
    top_k: int = -1
    top_p: Finite = Field(1.0, gt=0, le=1)


class Sample(Loose):
    num_samples: int = Field(1, ge=1, le=128)
    prompt: Prompt
    sampling_params: Params
    base_model: str | None = None
    model_path: Annotated[str, Field(max_length=400)] | None = None
    sampling_session_id: Id | None = None
    seq_id: int | None = None
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    prompt_alt_tokens_k: int = 0


class Retrieve(Loose):
    request_id: Id
