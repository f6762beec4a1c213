"""A fresh model: a transformers folder made from a config, with a tokenizer and, once they are wanted, drawn weights.

Such a folder is a model like any other: it is the base that a run adapts, measures, gives back and compares with. The
same config, tokenizer, seed and versions of the libraries draw the same bits. Classes are transformers' own: nothing
that a config names is fetched or run.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tunewright.errors import ModelError, did_you_mean, nearest
from tunewright.files.hashing import weight_files
from tunewright.files.home import expanded
from tunewright.loading.config import config_for, drawn
from tunewright.loading.guard import guarded, lacks_memory, said
from tunewright.loading.heads import set_head
from tunewright.loading.imports import refuse_broken
from tunewright.loading.locate import DRAWN, Located, locate, read_config
from tunewright.loading.new_tokenizer import UNBOUNDED
from tunewright.loading.quiet import quiet
from tunewright.models.generators import seeded
from tunewright.recipe.models import TRAIN, ModelSpec
from tunewright.tasks._parts import FORECASTING, PLAYING
from tunewright.tasks._pictures import sees_alone

if TYPE_CHECKING:
    from tunewright.contract.task import Task

VOCABULARY = 8192
"""Tokens of a trained tokenizer where neither recipe nor config says how many."""
FROM_FILES = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "compression_config",
    "dtype",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
)
"""Keys of a config.json that speak of the weights beside it, which a fresh model does not have."""
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
WHERE = "model.config"

Tokenizing = Callable[[int, bool], Any]
"""(tokens, whether the model reads whole texts with some hidden) -> a trained tokenizer."""


def write_reader(
    folder: Path, spec: ModelSpec, base: Path, task: Task, labels: Sequence[str] | None, tokenizing: Tokenizing
) -> list[str]:
    """Write the config and the tokenizer of a fresh model, without weights; return what the user should know.

    Relative paths of `spec` start from `base`; `labels` are a classifier's. ModelError for a config that no class of
    transformers takes, keys that it does not have, sizes that disagree, and a task that the model does not do.
    """
    if task.reads_audio:
        what = f"the task {task.name} reads recordings, and how a fresh model would hear them is not said by a config"
        raise ModelError(what, where=WHERE, remedy="name a folder with weights and a preprocessor_config.json")
    if task.draws:
        what = f"the task {task.name} reads a pipeline of several parts, and one config says of one"
        raise ModelError(
            what, where=WHERE, remedy="save a pipeline that is drawn, and name its folder: docs/data-formats.md"
        )
    values, notes = _values(spec, base), list[str]()
    config = _config(values)
    config.save_pretrained(folder)
    config = _for_task(folder, task)
    tokenizer = None
    if reads_text(task):
        tokenizer = _tokenizer(spec, base, task, config, tokenizing)
        notes += _fit(config, tokenizer, spec, values)
    elif spec.tokenizer is not None or spec.vocab_size is not None:
        key = "tokenizer" if spec.tokenizer is not None else "vocab_size"
        raise ModelError(f"the task {task.name} reads no text", where=f"model.{key}", remedy=f"leave {key} out")
    if task.makes_head:
        set_head(config, task, task.head_of(labels), Located(folder, "", None))
    model = _of_config(config, task, meta=True)
    if tokenizer is not None:
        longest = min(_positions(model), int(min(tokenizer.model_max_length, UNBOUNDED)))
        tokenizer.model_max_length = longest
        tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return notes


def write_weights(folder: Path, task: Task, seed: int) -> None:
    """Draw the weights of the model whose config lies in `folder`, in float32 by the CPU, and save them there."""
    model = _of_config(_for_task(folder, task), task, seed=seed)
    with guarded("the fresh model cannot be saved", folder, "report this as a defect"), quiet():
        model.save_pretrained(folder)


def reads_text(task: Task) -> bool:
    """Whether a task's models have a tokenizer."""
    return not sees_alone(task) and not task.is_a(FORECASTING) and not task.is_a(PLAYING)


def has_weights(folder: Path) -> bool:
    """Whether a model's folder holds weights yet."""
    try:
        return bool(weight_files(folder))
    except ModelError:
        return False


def _values(spec: ModelSpec, base: Path) -> dict[str, Any]:
    """The config's keys as they are written, in the recipe or in a file."""
    if isinstance(spec.config, dict):
        return dict(spec.config)
    path = base / expanded(str(spec.config))
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise ModelError(f"not readable as JSON: {e}", where=str(path), remedy="write a config.json") from e
        if not isinstance(values, dict):
            raise ModelError("not a JSON object", where=str(path), remedy="write a config.json")
    else:
        values = read_config(_folder_of(str(spec.config), base))
    return {k: v for k, v in values.items() if k not in FROM_FILES}


def _folder_of(name: str, base: Path) -> Path:
    """The folder of what a recipe names: a folder from the recipe's own on (of a run, its fresh model's), or a model's.

    One that holds a tokenizer alone will do.
    """
    path = base / expanded(name)
    if (path / "base" / DRAWN).is_file():
        return path / "base"
    if path.is_dir():
        return path
    return locate(str(path.resolve()) if name.startswith(("./", "../", "~")) else name).folder


def _config(values: dict[str, Any]) -> Any:
    """transformers' config of these values. ModelError for a type or a key that it does not know."""
    import transformers

    kind = values.get("model_type")
    known = [str(k) for k in transformers.CONFIG_MAPPING]
    if kind not in known:
        raise ModelError(
            f"transformers {transformers.__version__} does not know the model type '{kind}'",
            where=f"{WHERE}.model_type",
            remedy=did_you_mean(str(kind), known) if nearest(str(kind), known) else "llama, bert and vit are known",
        )
    rest = {k: v for k, v in values.items() if k != "model_type"}
    try:
        with quiet():
            kept = transformers.CONFIG_MAPPING[kind]
            takes = {*inspect.signature(kept.__init__).parameters, *kept().to_dict(), *kept.attribute_map, "num_labels"}
            if unknown := sorted(k for k in rest if k not in takes):
                near = nearest(unknown[0], sorted(takes), n=1)
                raise ModelError(
                    f"the config of a {kind} model has no key '{unknown[0]}'",
                    where=f"{WHERE}.{unknown[0]}",
                    remedy=f"did you mean '{near[0]}'?" if near else "leave it out",
                )
            return transformers.AutoConfig.for_model(kind, **rest)
    except ModelError:
        raise
    except Exception as e:  # its validators raise classes of their own
        raise ModelError(f"this is no config of a {kind} model: {said(e)}", where=WHERE, remedy="put it right") from e


def _for_task(folder: Path, task: Task) -> Any:
    """The folder's config, held to the task; a refusal names the recipe's key and not a folder of ours."""
    try:
        return config_for(Located(folder, "", None), task)
    except ModelError as e:
        e.where = WHERE
        raise


def _tokenizer(spec: ModelSpec, base: Path, task: Task, config: Any, tokenizing: Tokenizing) -> Any:
    import transformers

    name = spec.tokenizer or TRAIN
    if name == TRAIN:
        return tokenizing(spec.vocab_size or _said_size(spec, config) or VOCABULARY, _reads_whole(task, config))
    folder = _folder_of(name, base)
    remedy = "give a folder or a model with a tokenizer, or write tokenizer: train"
    with guarded("the tokenizer cannot be read", folder, remedy), quiet():
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _said_size(spec: ModelSpec, config: Any) -> int | None:
    """The vocabulary that the config itself was written with; its class's default says nothing of these rows."""
    said = isinstance(spec.config, str) or "vocab_size" in (spec.config or {})
    size = getattr(config, "vocab_size", None)
    return int(size) if said and isinstance(size, int) else None


def _reads_whole(task: Task, config: Any) -> bool:
    """Whether the model reads a text from both sides, so that its tokenizer needs a token that hides."""
    import transformers

    whole = type(config) in transformers.AutoModelForMaskedLM._model_mapping
    return task.auto_class == "AutoModelForMaskedLM" or (task.labelled and whole)


def _fit(config: Any, tokenizer: Any, spec: ModelSpec, values: dict[str, Any]) -> list[str]:
    """Give the config the tokenizer's size and special tokens. ModelError where they disagree."""
    have, trained = len(tokenizer), (spec.tokenizer or TRAIN) == TRAIN
    asked = spec.vocab_size if spec.vocab_size is not None else _said_size(spec, config)
    notes = []
    if asked is not None and not trained and (have > asked or (spec.vocab_size is not None and have != asked)):
        key = "model.vocab_size" if spec.vocab_size is not None else f"{WHERE}.vocab_size"
        raise ModelError(
            f"the vocabulary is to have {asked:,} tokens, and the tokenizer {spec.tokenizer} has {have:,}",
            where=key,
            remedy=f"write vocab_size: {have}, or tokenizer: train",
        )
    if trained and have < (asked or VOCABULARY):
        notes.append(f"the training rows gave a tokenizer of {have:,} tokens, of {asked or VOCABULARY:,} asked for")
    config.vocab_size = have if trained or asked is None else asked
    for name in IDS:
        own = getattr(tokenizer, name, None)
        if isinstance(spec.config, dict) and values.get(name) not in (None, own):
            raise ModelError(
                f"config.{name} is {values[name]}, and the tokenizer's is {own}",
                where=f"{WHERE}.{name}",
                remedy=f"leave {name} out: it is taken from the tokenizer",
            )
        if own is not None and (hasattr(config, name) or name in IDS[:3]):
            setattr(config, name, int(own))
        elif hasattr(config, name):
            setattr(config, name, None)
    if getattr(config, "is_encoder_decoder", False) and "decoder_start_token_id" not in values:
        _begin_writing(config, tokenizer)
    return notes


def _begin_writing(config: Any, tokenizer: Any) -> None:
    """What a decoder is given first: the end of text where the config's class says so of its own ids (BART), else
    padding (T5). BART's kind also ends what is cut with it.
    """
    own = type(config)()
    first = getattr(own, "decoder_start_token_id", None)
    ends = first is not None and first == own.eos_token_id
    config.decoder_start_token_id = int(tokenizer.eos_token_id if ends else tokenizer.pad_token_id)
    if getattr(own, "forced_eos_token_id", None) is not None:
        config.forced_eos_token_id = int(tokenizer.eos_token_id)


def _of_config(config: Any, task: Task, *, meta: bool = False, seed: int = 0) -> Any:
    import transformers

    try:
        with quiet(), seeded(seed), torch.device("meta" if meta else "cpu"):
            return drawn(getattr(transformers, task.loads_by(config)), config, torch.float32)
    except Exception as e:
        if lacks_memory(e):
            raise ModelError(
                "there is not enough memory to draw this model", where=WHERE, remedy="write a smaller config"
            ) from e
        refuse_broken(e, WHERE)
        raise ModelError(
            f"a {config.model_type} model cannot be made of this config: {said(e)}",
            where=WHERE,
            remedy="put the sizes right: heads divide the width, and layers are 1 or more",
        ) from e


def _positions(model: nn.Module) -> int:
    """Tokens of the longest text that the model has places for; some count theirs from the padding id on."""
    sizes = [int(n) for n in [getattr(model.config, "max_position_embeddings", None)] if isinstance(n, int) and n > 1]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            sizes.append(module.num_embeddings - module.padding_idx - 1)
    return min([UNBOUNDED, *sizes])
