"""Load a model for a task: language models, classifiers of texts, pictures and recordings, speech recognition.

Weights come from safetensors and GGUF files only; code that comes with a model is never run. What was made or changed
on the way (a new head, a pad token) is said in `Loaded.notes`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tunewright.errors import ModelError
from tunewright.files.hashing import hash_beside, hash_weights, read_header, weight_files
from tunewright.loading import pipelines
from tunewright.loading.config import config_for, drawn
from tunewright.loading.guard import (
    another_shape,
    check_causal,
    check_finite,
    embedding_of,
    guarded,
    lacks_memory,
    said,
)
from tunewright.loading.heads import set_head
from tunewright.loading.imports import refuse_broken
from tunewright.loading.locate import Located, drawn_as, locate
from tunewright.loading.positions import check_scaled, hash_of, lengthen
from tunewright.loading.quiet import quiet
from tunewright.loading.readers import readers
from tunewright.loading.sentence_modules import note_pooling, pools_texts
from tunewright.loading.streaming import load_streamed
from tunewright.machine import going
from tunewright.models.adapted import Adapted
from tunewright.models.aligned import align
from tunewright.models.generators import seeded
from tunewright.models.layout import lay_channels_last
from tunewright.tasks._parts import DETECTION, FEATURES

if TYPE_CHECKING:
    from tunewright.contract.task import Task
    from tunewright.recipe import ModelSpec
    from tunewright.recipe.rope import RopeSpec

Divide = Callable[[nn.Module, torch.device | str, torch.dtype], None]
"""Puts a model's weights onto a device and into a type, of which other processes hold the rest."""


@dataclass
class Loaded:
    """A model in eval mode with what reads its inputs, and where it came from.

    `source` names the weights it ran on (for the report), `hash` is their content hash, `beside` that of the files
    beside them (config, tokenizer, template, processor), `licence` as the card states it, `dtype` the type they are
    computed in, `notes` what the user should know, `folder` the local transformers folder, `new` the names of
    parameters that were drawn afresh (a new head), `rope` how its positions are scaled, which `hash` tells too.
    """

    model: nn.Module
    tokenizer: Any
    processor: Any
    name: str
    source: str
    hash: str
    licence: str | None
    dtype: torch.dtype
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None
    new: tuple[str, ...] = ()
    beside: str = ""
    rope: RopeSpec | None = None

    def hash_now(self, *, afresh: bool = False) -> str:
        """What `hash` is by the files as they are now: that of the weights, and of how their positions are scaled."""
        assert self.folder is not None
        weights = hash_weights(self.folder, afresh=afresh)
        return weights if self.rope is None else hash_of(weights, self.rope)

    def adapted(self) -> Adapted:
        """The model as methods adapt it, named by its own hashes."""
        return Adapted(self.model, self.tokenizer, base_hash=self.hash, beside=self.beside, name=self.name)

    @property
    def reference(self) -> str:
        """What other tools load the same weights by: the hub id, or the folder's path."""
        if self.folder is None or self.source.startswith("hub "):
            return self.name
        return str(self.folder.resolve())


def load(
    spec: ModelSpec | str,
    task: Task | str,
    *,
    labels: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    seed: int = 0,
    progress: bool = True,
    weights: bool = True,
    streams: bool = False,
    divide: Divide | None = None,
) -> Loaded:
    """Load what `spec` names (built-in name, hub id, folder, .gguf file) with the head that `task` needs.

    `labels`: class names in the order of their ids; a checkpoint without a fitting head gets a new one, drawn by
    `seed`. `precision` is used where the spec's dtype is "auto". Without `weights` the model has its shapes alone (on
    torch's meta device): no value is read, its hash is "", and what values would show is not refused. `streams`: the
    weights of its blocks stay in the files (`models/streamed.py`). `divide` puts it onto the device in the
    place of a plain move, where other processes hold parts of it. Raises ModelError and MissingExtraError.
    """
    from tunewright.tasks import get_task

    name, revision, asked = (
        (spec, None, "auto") if isinstance(spec, str) else (spec.name, spec.revision, str(spec.dtype))
    )
    if getattr(spec, "trust_remote_code", False):
        raise ModelError(
            "code that comes with a model is never run here", where=f"model {name}", remedy="remove trust_remote_code"
        )
    task = get_task(task) if isinstance(task, str) else task
    dtype = precision if asked == "auto" else asked
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ModelError(f"unknown precision '{dtype}'", where=f"model {name}", remedy="float32, bfloat16 or float16")
    with guarded("the model cannot be found or converted", Path(name)):
        located = locate(name, revision, progress=progress, patterns=pipelines.patterns() if task.draws else None)
    located.rope = getattr(spec, "rope_scaling", None)
    with guarded("the model cannot be loaded", located.folder), going.while_waiting(f"loading {name}"):
        return _load(located, name, task, labels, device, getattr(torch, dtype), seed, weights, streams, divide)


def _load(
    located: Located,
    name: str,
    task: Task,
    labels: Sequence[str] | None,
    device: torch.device | str,
    dtype: torch.dtype,
    seed: int,
    weights: bool,
    streams: bool,
    divide: Divide | None,
) -> Loaded:
    if weights or drawn_as(located.folder) is None:  # a fresh model's weights may be drawn later
        for file in weight_files(located.folder):
            read_header(file)
    config = config_for(located, task)
    tokenizer, processor = readers(located, task, config)
    if located.rope is not None:
        lengthen(tokenizer, config)
    if pools_texts(task):
        located.notes += note_pooling(config, located.folder)
    model: Any
    if task.draws:
        model = pipelines.build(located, config, dtype, weights=weights, streams=streams)
    elif streams and weights:
        model = _streaming(located, config, task, dtype, device, seed)
    else:
        build = _build if weights else _shapes
        # what is divided stays mapped from its file until then: no process ever has the whole of it in another type
        stored = "auto" if weights and divide is not None else dtype
        model = build(located, config, task, list(labels) if labels is not None else None, stored, seed)
    if located.rope is not None:
        check_scaled(model, located.rope)
    if weights and not streams:
        check_finite(model, located.folder)
    if tokenizer is not None and not task.draws:
        _fit_tokenizer(model, tokenizer, task, located)
        _let_padding_learn(model)
    model.eval()
    if weights:
        if divide is not None:
            divide(model, device, dtype)  # no process holds the whole of it there
        elif not streams:
            model.to(device)
        if task.auto_class == "AutoModelForCausalLM":
            check_causal(model, located.folder)
        if divide is None:
            align(model)
    if not task.draws:
        lay_channels_last(model)
    made = Loaded(
        model,
        tokenizer,
        processor,
        name,
        located.source,
        "",
        located.licence,
        dtype,
        located.notes,
        located.folder,
        tuple(located.new),
        hash_beside(located.folder),
        located.rope,
    )
    made.hash = made.hash_now() if weights else ""
    return made


@dataclass
class Reading:
    """What reads a model's inputs, as a run has it, without the model: no weights are read."""

    tokenizer: Any
    processor: Any
    config: Any
    labels: list[str] | None
    """Class names in the order of the head's ids."""
    notes: list[str] = field(default_factory=list)
    """What to say of it before a run: how its positions are scaled."""


def reading(spec: ModelSpec, task: Task, labels: Sequence[str] | None = None) -> Reading:
    """Config and tokenizer or image processor of what `spec` names. Raises what `load` raises of them."""
    located = locate(spec.name, spec.revision, patterns=pipelines.patterns() if task.draws else None)
    located.rope = spec.rope_scaling
    config = config_for(located, task)
    tokenizer, processor = readers(located, task, config)
    notes: list[str] = []
    if located.rope is not None:
        lengthen(tokenizer, config)
        notes.append(next(n for n in located.notes if n.startswith("positions are scaled")))
    if task.makes_head:
        set_head(config, task, list(labels) if labels is not None else None, located)
    if pools_texts(task):
        note_pooling(config, located.folder)
    if tokenizer is not None and not task.draws:
        _fit_padding(tokenizer, task, located)
    own = [config.id2label[i] for i in sorted(config.id2label)] if task.labelled else None
    return Reading(tokenizer, processor, config, own, notes)


def _build(located: Located, config: Any, task: Task, labels: list[str] | None, dtype: Any, seed: int) -> Any:
    """The model with its weights; new parts are drawn by `seed`, the global generators are left as they were."""
    import transformers

    classifies = task.makes_head
    if classifies:
        set_head(config, task, labels, located)
    auto = getattr(transformers, task.loads_by(config))
    try:
        with quiet(), seeded(seed):
            model, info = auto.from_pretrained(
                located.folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=classifies,
            )
    except Exception as e:
        if lacks_memory(e):
            raise
        refuse_broken(e, str(located.folder))
        shape = another_shape(config, auto, located.folder)
        what = f"the weights do not fit config.json: {shape}" if shape else f"the model cannot be made: {said(e)}"
        raise ModelError(what, where=str(located.folder), remedy="download the model again") from e
    _forget_quantisation(model)
    missing = sorted(info["missing_keys"])
    mismatched = sorted(k[0] if isinstance(k, tuple) else str(k) for k in info["mismatched_keys"])
    _check_keys(model, missing, mismatched, located, task, labels if classifies else None)
    if unused := sorted(k for k in info["unexpected_keys"] if re.search(r"\.\d+\.", k)):
        located.notes.append(
            f"{len(unused)} tensors of the files are in no layer that config.json has: {unused[0]}, ..."
        )
    return model


def _streaming(
    located: Located, config: Any, task: Task, dtype: torch.dtype, device: torch.device | str, seed: int
) -> Any:
    """The model with the weights of its blocks left in the files."""
    import transformers

    try:
        return load_streamed(located.folder, getattr(transformers, task.loads_by(config)), config, dtype, device, seed)
    except ModelError:
        raise
    except Exception as e:
        if lacks_memory(e):
            raise
        refuse_broken(e, str(located.folder))
        raise ModelError(
            f"the model cannot be made: {said(e)}", where=str(located.folder), remedy="download the model again"
        ) from e


def _shapes(located: Located, config: Any, task: Task, labels: list[str] | None, dtype: Any, seed: int) -> Any:
    """The model without values: every tensor is on the meta device."""
    import transformers

    if task.makes_head:
        set_head(config, task, labels, located)
    try:
        with quiet(), seeded(seed), torch.device("meta"):
            return drawn(getattr(transformers, task.loads_by(config)), config, dtype)
    except Exception as e:
        refuse_broken(e, str(located.folder))
        raise ModelError(
            f"the model cannot be made: {said(e)}", where=str(located.folder), remedy="download the model again"
        ) from e


def _forget_quantisation(model: Any) -> None:
    """Weights that were made whole are plain ones from here on, and are saved as such."""
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer = None
        model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _check_keys(
    model: Any, missing: list[str], mismatched: list[str], located: Located, task: Task, labels: list[str] | None
) -> None:
    """A classifier's head may be new, when the labels are known; anything else that is missing is an error."""
    prefix = f"{model.base_model_prefix}."
    if not hasattr(model, model.base_model_prefix):  # its body has a name of its own, and is what weighs most
        prefix = max(model.named_children(), key=lambda c: sum(p.numel() for p in c[1].parameters()))[0] + "."
    classifies = task.makes_head
    new = [k for k in missing + mismatched if classifies and (not k.startswith(prefix) or ".pooler." in k)]
    if task.is_a(DETECTION):  # some have heads of classes inside their bodies, one a layer
        new += [k for k in mismatched if k not in new]
    pools_here = pools_texts(task) or task.is_a(FEATURES)
    if pools_here:  # nothing reads what a class pools for a head
        new = [k for k in missing if k.startswith("pooler.")]
        if new:
            located.notes.append(f"{new[0].split('.')[0]} is drawn afresh, and nothing reads it: states are pooled")
    if lost := [k for k in missing + mismatched if k not in new]:
        head = not pools_here and not any(k.startswith(prefix) for k in lost)
        what = (
            f"the checkpoint has no {task.name} head"
            if head
            else "the checkpoint lacks weights that config.json asks for"
        )
        remedy = "use a checkpoint that was trained with one" if head else "download the model again"
        raise ModelError(f"{what}: {len(lost)} tensors such as {lost[0]}", where=str(located.folder), remedy=remedy)
    if not new or pools_here:
        return
    if labels is None:
        what = f"the checkpoint has no {task.name} head, and no labels are given for a new one"
        raise ModelError(what, where=str(located.folder), remedy="give data with labels")
    located.new += new
    for_what = "" if task.scores or task.outputs else f" for {len(labels)} labels"
    located.notes.append(f"new {task.name} head{for_what}, freshly drawn: {', '.join(new)}")


def _fit_tokenizer(model: Any, tokenizer: Any, task: Task, located: Located) -> None:
    """Check that every id has an embedding."""
    table = embedding_of(model)
    rows = model.config.get_text_config().vocab_size if table is None else table.weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model embeds {rows}",
            where=str(located.folder),
            remedy="use the tokenizer that belongs to the model; new tokens are named in the recipe (new_tokens)",
        )
    _fit_padding(tokenizer, task, located)
    if task.scores or task.makes_head and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id  # causal classifiers find each row's last token by it


def _fit_padding(tokenizer: Any, task: Task, located: Located) -> None:
    """Give a pad token where there is none. ModelError where none can serve, or a mask token is needed and lacks."""
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
        located.notes.append(
            f"the tokenizer names no pad token: its end token {tokenizer.eos_token!r} is used, masked out"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(
            "the tokenizer names neither a pad nor an end token",
            where=str(located.folder),
            remedy='set "pad_token" in tokenizer_config.json',
        )
    if task.auto_class == "AutoModelForMaskedLM" and tokenizer.mask_token_id is None:
        raise ModelError(
            "the tokenizer names no mask token",
            where=str(located.folder),
            remedy='set "mask_token" in tokenizer_config.json',
        )


def _let_padding_learn(model: Any) -> None:
    """Where padding is also a token that texts hold (pad = eos), let its embedding have a gradient.

    torch gives the row `padding_idx` none, so `<|im_end|>` would never learn as an input. The forward is unchanged.
    """
    table = embedding_of(model)
    embedding = getattr(table, "padding_idx", None)
    ends = getattr(model.config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    if embedding is not None and embedding in [*ends, getattr(model.config, "bos_token_id", None)]:
        table.padding_idx = None
