"""What a recipe says of a model: one that is there, or a fresh one that is drawn from a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tunewright.recipe.fields import Real, Spec, Whole, problem
from tunewright.recipe.rope import RopeSpec

TRAIN = "train"
"""As a fresh model's tokenizer: one is trained on the training rows."""


def _a_place(value: Any) -> Any:
    """A path or a name that a disk can hold; anything else that is asked of it fails in as many ways as there are."""
    if not isinstance(value, str):
        return value
    shown = value if len(value) < 60 else f"{value[:60]}..."
    if bad := next((c for c in value if ord(c) < 32 or ord(c) == 127), None):
        raise problem(f"a path cannot hold {bad!r}", "write the path without it")
    if any(len(part.encode("utf-8", "replace")) > 255 for part in value.split("/")) or len(value) > 4000:
        raise problem(f"'{shown}' is longer than a disk allows", "write a shorter path")
    if value.startswith("~"):
        try:
            Path(value).expanduser()
        except RuntimeError:
            raise problem(
                f"the system knows no home folder for {value.split('/')[0]}", "write the path from the root"
            ) from None
    return value


Place = BeforeValidator(_a_place)
"""Of a field that names a file, a folder or something on a hub."""


class ModelSpec(Spec):
    """A pre-trained model: a built-in name, a hub id, a local folder or a GGUF file. With `config`, a fresh one."""

    shorthand: ClassVar[str | None] = "name"
    compact: ClassVar[bool] = True
    also: ClassVar[dict[str, str]] = {"rope_parameters": "rope_scaling"}
    name: Annotated[str, Place] = Field(
        min_length=1,
        description="built-in name, hub id, local folder or GGUF file; of a fresh model what reports call it",
        examples=["smollm2-135m-instruct"],
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub id", examples=["main"])
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="how frozen weights are held; auto: float32 unless bfloat16 is fast here",
        examples=["float32"],
    )
    trust_remote_code: bool = Field(
        False, description="must stay false: code that comes with a model is never run", examples=[False]
    )
    rope_scaling: RopeSpec | None = Field(
        None,
        description="rotary positions scaled, so that longer texts are read: transformers' own keys",
        examples=[{"rope_type": "yarn", "factor": 4.0}],
    )
    config: dict[str, Any] | Annotated[str, Place] | None = Field(
        None,
        description="makes a fresh model: `model_type` and the config's own keys, or a config.json, or a model whose "
        "shape it gets",
        examples=[{"model_type": "llama", "hidden_size": 192}],
    )
    tokenizer: Annotated[str, Place] | None = Field(
        None,
        description="of a fresh model that reads text: `train` (on the training rows), a folder, or a model that has "
        "one; none: train",
        examples=[TRAIN],
    )
    vocab_size: Whole | None = Field(
        None,
        gt=1,
        description="of a fresh model: tokens of the tokenizer that is trained; none: the config's, or 8,192",
        examples=[4096],
    )
    seed: Whole | None = Field(None, ge=0, description="of a fresh model's weights; none: 0", examples=[1])
    url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        description="of one of `models`: an OpenAI-compatible address that writes under this name; nothing is loaded",
        examples=["http://localhost:8000/v1"],
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the address's key",
        examples=["OPENAI_API_KEY"],
    )
    timeout: Real = Field(120.0, gt=0, description="seconds that one answer of the address may take", examples=[120])

    @property
    def fresh(self) -> bool:
        """Whether the model is drawn from a config, in the place of one that is there."""
        return self.config is not None

    @property
    def drawn(self) -> dict[str, Any]:
        """What decides a fresh model, but for its rows and the task."""
        return {
            "config": self.config,
            "tokenizer": self.tokenizer or TRAIN,
            "vocab_size": self.vocab_size,
            "seed": self.seed or 0,
        }

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A fresh model is called by its type, where the recipe does not name it."""
        config = value.get("config") if isinstance(value, dict) else None
        if not config or value.get("name"):
            return value
        kind = config.get("model_type") if isinstance(config, dict) else Path(str(config)).name
        return {**value, "name": f"fresh-{str(kind).removesuffix('.json').removesuffix('.yaml')}"}

    @model_validator(mode="after")
    def _no_remote_code(self) -> ModelSpec:
        if self.trust_remote_code:
            raise problem(
                "code that comes with a model is never run: it could do anything on this machine",
                "remove trust_remote_code; use a model whose class transformers has",
                ("trust_remote_code",),
            )
        return self

    @model_validator(mode="after")
    def _keys_of_an_address(self) -> ModelSpec:
        if self.url is not None and self.fresh:
            raise problem("a fresh model is made here, and a url names one elsewhere", "keep one of the two", ("url",))
        if self.url is not None and self.rope_scaling is not None:
            raise problem(
                "positions of a model at an address cannot be scaled here", "remove rope_scaling", ("rope_scaling",)
            )
        for key in ("api_key_env", "timeout"):
            if self.url is None and key in self.model_fields_set and getattr(self, key) is not None:
                raise problem(f"'{key}' is of an address, and there is no url", "write url beside it", (key,))
        return self

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        out = {k: v for k, v in handler(self).items() if v is not None}
        return out if self.url is not None else {k: v for k, v in out.items() if k != "timeout"}

    @model_validator(mode="after")
    def _fresh_or_there(self) -> ModelSpec:
        if not self.fresh:
            for key in ("tokenizer", "vocab_size", "seed"):
                if getattr(self, key) is not None:
                    raise problem(
                        f"'{key}' is of a fresh model, and '{self.name}' comes with its own",
                        f"remove {key}, or write config: {{model_type: llama, ...}} for a fresh model",
                        (key,),
                    )
            return self
        if self.rope_scaling is not None:
            raise problem(
                "a fresh model's positions are its config's",
                "write rope_parameters in config",
                ("rope_scaling",),
            )
        if self.revision is not None:
            raise problem("'revision' is for hub ids, and this model is drawn afresh", "remove revision", ("revision",))
        if isinstance(self.config, dict):
            _check_config(self.config, self.vocab_size)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        out = super().__get_pydantic_json_schema__(schema, handler)
        whole = next(part for part in out["anyOf"] if "properties" in part)
        whole.pop("required", None)
        whole["anyOf"] = [{"required": ["name"]}, {"required": ["config"]}]
        return out


def _check_config(config: dict[str, Any], vocabulary: int | None) -> None:
    """What a config that is written in the recipe shows without the library that reads it."""
    if not isinstance(config.get("model_type"), str):
        raise problem(
            "a fresh model's config does not say what kind of model it is",
            "write config: {model_type: llama, hidden_size: 192, ...}",
            ("config",),
        )
    said = config.get("vocab_size")
    if said is not None and (isinstance(said, bool) or not isinstance(said, int)):
        raise problem(
            f"config.vocab_size is {said!r:.40}, no whole number", "write vocab_size: 4096", ("config", "vocab_size")
        )
    if said is not None and vocabulary is not None and said != vocabulary:
        raise problem(
            f"vocab_size is {vocabulary:,} here and {said:,} in config", "keep one of the two", ("vocab_size",)
        )


def located(spec: ModelSpec, base: Path) -> ModelSpec:
    """A model's spec with a folder or file that is named from the recipe's own folder written from the root."""
    dotted = spec.name.startswith(("./", "../"))
    if spec.url is not None:
        return spec
    return (
        spec.model_copy(update={"name": str((base / spec.name).resolve())})
        if dotted or (base / spec.name).exists()
        else spec
    )
