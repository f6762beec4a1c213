"""The parts of a model's folder of several: a folder each, beside `model_index.json`, which names their classes.

Each part is read as the class that is known here and as no other: a file of a model never chooses code. Weights are
safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.errors import MissingExtraError, ModelError
from tunewright.files.regular import regular
from tunewright.loading.guard import check_finite, check_ids, said
from tunewright.loading.locate import Located
from tunewright.loading.quiet import quiet

AGAIN = "download the pipeline again"


@dataclass(frozen=True)
class Kind:
    """A pipeline that is read: the task that it does, and the class of each of its parts."""

    task: str
    parts: dict[str, str]


def tokenizer_of(located: Located, config: Any) -> Any:
    """The pipeline's tokenizer; None of one without texts. ModelError where it cannot be read."""
    folder = located.folder / "tokenizer"
    if not config.reads_text:
        return None
    from transformers import CLIPTokenizer

    try:
        with quiet():
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as e:
        raise ModelError(f"the tokenizer cannot be read: {said(e)}", where=str(folder), remedy=AGAIN) from e
    check_ids(tokenizer, folder)
    tokenizer.model_max_length = config.longest
    return tokenizer


def put_texts(around: Any, located: Located, config: Any, dtype: torch.dtype) -> None:
    """Give a model of texts its tokenizer, text encoder and the ids of the empty text. ModelError where they do not
    belong together.
    """
    import transformers

    folder = located.folder
    around.tokenizer = tokenizer_of(located, config)
    around.text_encoder = made(transformers.CLIPTextModel, folder, "text_encoder", dtype)
    check_finite(around.text_encoder, folder / "text_encoder")
    around.empty = _empty(around.tokenizer, config.longest)
    most = around.text_encoder.config.vocab_size
    if len(around.tokenizer) > most:
        raise ModelError(
            f"the tokenizer has {len(around.tokenizer)} tokens, but the text encoder embeds {most}",
            where=str(folder / "tokenizer"),
            remedy="use the tokenizer that belongs to the pipeline",
        )


def longest_text(folder: Path, kind: Kind) -> int:
    """The most tokens of a text that a pipeline reads."""
    told = read_json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77)
    return int(min(told, part_config(folder, "text_encoder", kind).get("max_position_embeddings", 77)))


def _empty(tokenizer: Any, longest: int) -> list[int]:
    """The ids of the empty text, padded."""
    ids = list(tokenizer("", verbose=False)["input_ids"])
    return [*ids, *[tokenizer.pad_token_id] * (longest - len(ids))]


def made(cls: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """A part with its weights. ModelError where they do not fit its config, or are pickled."""
    what: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    kind = {"dtype": dtype} if cls.__module__.startswith("transformers") else {"torch_dtype": dtype}
    if not list((folder / part).glob("*.safetensors")):
        raise ModelError(
            f"the {part} has no weights in safetensors",
            where=str(folder / part),
            remedy="use a revision with *.safetensors: opening a pickle can run any code",
        )
    try:
        with quiet():
            model, info = cls.from_pretrained(folder / part, **what, **kind)
    except Exception as e:
        raise ModelError(f"the {part} cannot be made: {said(e)}", where=str(folder / part), remedy=AGAIN) from e
    lost = [str(k) for k in (*info["missing_keys"], *info["mismatched_keys"]) if "position_ids" not in str(k)]
    if lost:
        raise ModelError(
            f"the {part} lacks weights that its config asks for: {len(lost)} tensors such as {lost[0]}",
            where=str(folder / part),
            remedy=AGAIN,
        )
    return model


def get_diffusers() -> Any:
    try:
        with quiet():
            import diffusers

            diffusers.utils.logging.set_verbosity_error()
    except ImportError:
        what = "pipelines of pictures are read with diffusers, which is not installed"
        raise MissingExtraError(what, where="model", remedy="pip install 'tunewright[diffusion]'") from None
    return diffusers


def part_config(folder: Path, name: str, kind: Kind) -> dict[str, Any]:
    """A part's config. ModelError where it is of another class than the index says."""
    file = folder / name / "config.json"
    config = read_json(file)
    written = config.get("_class_name") or (config.get("architectures") or [kind.parts[name]])[0]
    if written != kind.parts[name]:
        raise ModelError(
            f"it is the config of a {written}, and a {kind.parts[name]} is read here", where=str(file), remedy=AGAIN
        )
    return config


def read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(regular(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("a file of the pipeline is missing", where=str(file), remedy=AGAIN) from None
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"not readable as JSON: {said(e)}", where=str(file), remedy=AGAIN) from e
    if not isinstance(value, dict):
        raise ModelError("not a JSON object", where=str(file), remedy=AGAIN)
    return value
