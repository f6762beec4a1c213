"""PEFT's adapters of trained prompts and prefixes, read as what the methods of that kind end with.

Their file holds what was made, whatever network made it: virtual tokens [n, D] before every row, or the keys and values
[n, 2 K H d] of every layer. They hang on no layer, so that they are read where a whole model runs (as a stage's start,
to be measured, answered with or exported) and merge into no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.models.peft_settings import CONFIG, DESCRIBES, open_config, refuse_wrong
from tunewright.models.peft_tensors import WEIGHTS, read_tensors
from tunewright.models.peft_types import BEFORE_ROWS, WITH_PEFT
from tunewright.models.prefix import sizes

TENSOR = "prompt_embeddings"
TRAINED_BY = frozenset(
    "encoder_dropout encoder_hidden_size encoder_num_layers encoder_reparameterization_type init_weights "
    "num_attention_heads num_layers num_transformer_submodules num_virtual_tokens prefix_projection "
    "prompt_tuning_init prompt_tuning_init_state_dict_path prompt_tuning_init_text token_dim tokenizer_kwargs "
    "tokenizer_name_or_path".split()
)
"""Settings of how it was started and trained, or that the tensor itself tells."""
TASKS = {"CAUSAL_LM": "text-generation", "SEQ_CLS": "text-classification"}
SAVE_AGAIN = "save or download the adapter again"


@dataclass(frozen=True)
class BeforeRows:
    """What stands before a task's rows: the `method` that it is the result of, with its `parameters`, `data` and
    `tensors`.
    """

    method: str
    task: str
    parameters: dict[str, Any]
    data: dict[str, Any]
    tensors: dict[str, Tensor]


def read_before_rows(folder: Path, adapted: Adapted) -> BeforeRows | None:
    """What an adapter puts before the rows of this model; None for one of another type.

    ModelError for settings that change what is computed, for another task or another model, and for other tensors.
    """
    config, where = open_config(folder), str(folder / CONFIG)
    kind = config.get("peft_type")
    if kind not in BEFORE_ROWS:
        return None
    task = _task(config, adapted, where)
    found = read_tensors(folder, adapted.base_hash)
    if other := sorted(found.keys() ^ {TENSOR}):
        raise ModelError(
            f"an adapter of type {kind} holds one tensor, {TENSOR}; '{other[0]}' is "
            + ("not there" if other[0] == TENSOR else "there as well"),
            where=str(folder / WEIGHTS),
            remedy=WITH_PEFT if TENSOR in found else SAVE_AGAIN,
        )
    prompt = found[TENSOR].float()
    if kind == "PREFIX_TUNING":
        layers, heads, size = sizes(adapted.model)
        n = _length(prompt, config, 2 * layers * heads * size, folder)
        how = {"shape": [layers, heads, size], "task": task}
        return BeforeRows("prefix-tuning", task, {"num_virtual_tokens": n}, how, {"encoder.embedding.weight": prompt})
    embeddings: Any = adapted.model.get_input_embeddings()  # type: ignore[operator]
    n = _length(prompt, config, embeddings.weight.shape[1], folder)
    return BeforeRows("prompt-tuning", task, {"length": n}, {}, {"prompt": prompt})


def _task(config: dict[str, Any], adapted: Adapted, where: str) -> str:
    """The task that an adapter's settings say. ModelError for wrong ones and for a model of another task."""
    n, of = config.get("num_virtual_tokens"), config.get("task_type")
    fine = {
        "num_virtual_tokens": isinstance(n, int) and not isinstance(n, bool) and n > 0,
        "num_transformer_submodules": config.get("num_transformer_submodules") in (None, 1),
        "task_type": of is None or of in TASKS,
    }
    refuse_wrong(config, fine, where)
    on = {k: v for k, v in config.items() if k not in DESCRIBES | TRAINED_BY and v not in (None, False, {}, [], "")}
    if on:
        said = ", ".join(f"{k}: {v}"[:80] for k, v in on.items())
        raise ModelError(f"the adapter is more than what stands before rows ({said})", where=where, remedy=WITH_PEFT)
    model: Any = adapted.model
    writes = bool(model.can_generate())
    if config["peft_type"] != "PREFIX_TUNING" and not (writes and of in (None, "CAUSAL_LM")):
        raise ModelError(
            "virtual tokens are read before rows that a causal model goes on with, and not before a classifier's",
            where=where,
            remedy=WITH_PEFT,
        )
    if of is not None and writes != (of == "CAUSAL_LM"):
        raise ModelError(
            f"the adapter was trained for {of}, and {type(model).__name__} is no such model",
            where=f"{where}, task_type",
            remedy=f"write task: {TASKS[of]}",
        )
    return TASKS["CAUSAL_LM" if writes else "SEQ_CLS"]


def _length(prompt: Tensor, config: dict[str, Any], width: int, folder: Path) -> int:
    """How many virtual tokens there are. ModelError for another model's, or other than the settings say."""
    n, shape = config["num_virtual_tokens"], list(prompt.shape)
    if len(shape) == 2 and shape[0] == n and shape[1] == width:
        return int(n)
    other = len(shape) == 2 and shape[0] == n
    raise ModelError(
        f"{TENSOR} is {shape}, and {[n, width]} is what {n} virtual tokens of this model take",
        where=str(folder / WEIGHTS),
        remedy="load the base that the adapter was made for" if other else SAVE_AGAIN,
    )
