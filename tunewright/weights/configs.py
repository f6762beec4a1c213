"""Whether the config.json files of a merge's models compute alike: one of them serves the result.

All keys count but those that are known to change no output of given weights: what is said of files and versions, of
training and of generation, and what tensors' shapes say already. Configs that differ as written are compared once more
as transformers' class for them reads them, with its defaults and under its present names.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.errors import ModelError
from tunewright.weights import layers
from tunewright.weights.names import check_one_family, copies_of
from tunewright.weights.source import Source

SHOWN = 5
_FILES = (
    "_name_or_path name_or_path _commit_hash transformers_version auto_map architectures model_type torch_dtype dtype "
    "tokenizer_class processor_class unsloth_version unsloth_fixed base_model_name_or_path license_name language "
    "finetuning_task task_specific_params torchscript use_bfloat16 model_max_length"
)
_COMPUTING = (
    "use_cache attn_implementation _attn_implementation _attn_implementation_internal _attn_implementation_autoset "
    "experts_implementation _experts_implementation _flash_attn_2_enabled use_flash_attn use_flash_attention_2 "
    "chunk_size_feed_forward pretraining_tp return_dict use_return_dict output_attentions output_hidden_states "
    "output_router_logits gradient_checkpointing use_gradient_checkpointing"
)
_TRAINING = "initializer_range initializer_factor init_std router_aux_loss_coef"
_GENERATION = (
    "bos_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens "
    "bad_words_ids do_sample temperature top_k top_p typical_p num_beams num_beam_groups diversity_penalty "
    "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences "
    "output_scores return_dict_in_generate remove_invalid_values exponential_decay_length_penalty max_length "
    "min_length max_new_tokens early_stopping"
)
_SHAPES = "vocab_size"
IGNORED = frozenset(" ".join((_FILES, _COMPUTING, _TRAINING, _GENERATION, _SHAPES)).split())
"""Keys that decide nothing of what given weights compute; every other key counts, known or not."""
_DROPPED = re.compile(r"(?!token_dropout$)(\w*dropout\w*|\w*layer_?drop|\w*_pdrop|drop_path\w*|drop_rate)$")
"""What is dropped in training alone; ESM's `token_dropout` scales embeddings always."""
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")
"""How many positions there are: learned ones are tensors, and rotary ones go on unless their scaling asks for it."""
_LABELS = ("id2label", "label2id", "num_labels", "problem_type")
_ENDS = ("pad_token_id", "eos_token_id")
"""What a classifier takes its last token by, and some models count their positions from."""
_UNLABELLED = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|ForMaskedLM|ForPreTraining|Model)$")
_GENERATES = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
_COUNTS_FROM_PAD = ("xglm", "m2m_100", "nllb-moe", "fsmt")
_OF_OWN = {"tapas": {"temperature"}}
"""Model types whose own key has the name of one that is passed over."""
_SCALED = ("rope_scaling", "rope_parameters")
MISSING = "nothing"


def check(sources: Sequence[Source], *, allow: bool, sliced: bool, result: Source | None = None) -> list[str]:
    """ModelError where models compute otherwise, by their config.json: the field and both values are named.

    `allow`: they are merged all the same; what differs comes back as notes. `sliced`: layers are chosen one by one, so
    that their number and lists with an entry a layer may differ. `result`: whose config the result has (none: the first
    model's).
    """
    if not allow:
        check_one_family(sources)
    like, notes = result or sources[0], []
    for s in sources:
        if s is like or s.config == like.config:
            continue
        told = [
            f"{key} is {_shown(theirs)}, in '{like.ref}' {_shown(own)}"
            for key, (own, theirs) in differing(like, s, sliced=sliced).items()
        ]
        if _labelled(like) and _placeholders(like.config) != _placeholders(s.config):
            unnamed, named = (like, s) if _placeholders(like.config) else (s, like)
            notes.append(
                f"config.json of '{unnamed.ref}' does not name its labels, so that they cannot be compared with those "
                f"of '{named.ref}'"
            )
        if not told:
            continue
        what = "; ".join(told[:SHOWN]) + (f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else "")
        if not allow:
            raise ModelError(
                f"its config.json gives other outputs for the same weights: {what}",
                where=s.ref,
                remedy="merge fine-tunings of one base; to merge them all the same, with the config.json of "
                f"'{like.ref}': --allow-crimes, or allow_crimes: true in the file",
            )
        notes.append(f"config.json of '{s.ref}' differs, and the result has that of '{like.ref}': {what}")
    return notes


def differing(a: Source, b: Source, *, sliced: bool = False) -> dict[str, tuple[Any, Any]]:
    """What decides outputs and differs: dotted key -> (a's value, b's value). A value that is not there is MISSING."""
    passed = _passed_over(a, b, sliced)
    told = _compared(a.config, b.config, passed)
    if told and a.config.get("model_type") == b.config.get("model_type"):
        own, theirs = _read(a.config), _read(b.config)
        if own is not None and theirs is not None:
            told = _compared(own, theirs, passed)
    return told


def _passed_over(a: Source, b: Source, sliced: bool) -> set[str]:
    """Keys that decide nothing of these two models."""
    kinds = _kinds(a, b)
    passed = set(IGNORED - _OF_OWN.get(str(a.config.get("model_type")), set()))
    if not any(_scales(s.config) for s in (a, b)):
        passed |= set(_LENGTHS)
    if not _labelled(a, b):
        passed |= set(_LABELS)
    elif _placeholders(a.config) or _placeholders(b.config):
        passed |= {"id2label", "label2id"}  # said in a note
    if kinds and all(_GENERATES.search(k) for k in kinds) and a.config.get("model_type") not in _COUNTS_FROM_PAD:
        passed |= set(_ENDS)
    if copies_of([*a.entries, *b.entries]):
        passed.add("tie_word_embeddings")  # tied tensors are compared by their values
    return passed | (set(layers.COUNTS) if sliced else set())


def _kinds(*sources: Source) -> list[str]:
    """The classes that configs name."""
    named = [s.config.get("architectures") for s in sources]
    return [str(k) for kinds in named if isinstance(kinds, list) for k in kinds]


def _labelled(*sources: Source) -> bool:
    """Whether outputs may stand for labels: everywhere but where a class without any is named."""
    kinds = _kinds(*sources)
    return not kinds or not all(_UNLABELLED.search(k) for k in kinds)


def _scales(config: Mapping[str, Any]) -> bool:
    """Whether positions are turned by a rule that may ask how many there are."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            kind = value.get("rope_type", value.get("type"))
            if key in _SCALED and kind not in (None, "default", "linear", "llama3"):
                return True
            if _scales(value):
                return True
    return False


def _placeholders(config: Mapping[str, Any]) -> bool:
    """Whether a config names its labels LABEL_0, LABEL_1 ...: nothing can be compared with such."""
    names = config.get("id2label")
    return not names or (isinstance(names, Mapping) and all(v == f"LABEL_{k}" for k, v in names.items()))


def _compared(a: Mapping[str, Any], b: Mapping[str, Any], passed: set[str], head: str = "") -> dict[str, Any]:
    """Both values of every key that counts and is not equal, by dotted name."""
    out: dict[str, Any] = {}
    for key in dict.fromkeys([*a, *b]):
        own, theirs = a.get(key, MISSING), b.get(key, MISSING)
        if own == theirs or key in passed or (passed and _DROPPED.search(str(key))):
            continue
        if key == "label2id" and "id2label" in a and "id2label" in b:
            continue  # says the same once more
        if isinstance(own, Mapping) and isinstance(theirs, Mapping):  # in id2label keys are labels' numbers, and count
            out |= _compared(own, theirs, set() if key in _LABELS else passed, f"{head}{key}.")
        elif not _per_layer(a, b, own, theirs, passed):
            out[f"{head}{key}"] = (own, theirs)
    return out


def _per_layer(a: Mapping[str, Any], b: Mapping[str, Any], own: Any, theirs: Any, passed: set[str]) -> bool:
    """Whether two lists have an entry a layer, where layers are chosen one by one."""
    if not set(layers.COUNTS) <= passed or not isinstance(own, list) or not isinstance(theirs, list):
        return False
    counts = [{c[k] for k in layers.COUNTS if isinstance(c.get(k), int)} for c in (a, b)]
    return len(own) in counts[0] and len(theirs) in counts[1]


def _read(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A config as transformers' class for its model type reads it; None where there is no such class."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # takes a second, and is seldom needed

    from tunewright.loading.quiet import quiet

    try:
        with quiet():
            read: dict[str, Any] = CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(dict(config))).to_dict()
    except Exception:  # whatever a config class makes of what it does not know: the files are compared as written
        return None
    return read


def _shown(value: Any) -> str:
    text = value if value is MISSING else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
