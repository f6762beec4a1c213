"""The files by which sentence-transformers knows how a folder's states become a text's vector: read, and written.

`modules.json` names the steps (Transformer, Pooling, Normalize), `1_Pooling/config.json` how states are pooled,
`sentence_bert_config.json` how long a text may be. What is read stands in the model's config (`models/pooling.py`), so
that whoever has the model knows it; the length is the tokenizer's. Steps that have weights of their own (Dense) are not
read: ModelError.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import ModelError
from tunewright.files.regular import regular
from tunewright.models.pooling import DEFAULT, KEY, MODES, how_of

if TYPE_CHECKING:
    from tunewright.contract.task import Task

MODULES, LENGTH, ABOUT = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
STEPS = ("Transformer", "Pooling", "Normalize")


def is_sentence_model(folder: Path) -> bool:
    """Whether a folder says how its states become a text's vector."""
    return (folder / MODULES).is_file()


def pools_texts(task: Task) -> bool:
    """Whether a task's vectors are made of an encoder's states here, and not by the model's own class."""
    return task.embeds and task.auto_class == "AutoModel" and not task.reads_files


def note_pooling(config: Any, folder: Path) -> list[str]:
    """Let a config say how texts become vectors; what the user should know of it. ModelError for steps unknown here."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            "an encoder-decoder reads two texts, and a sentence's vector is made of one",
            where=str(folder),
            remedy="take an encoder, such as the built-in minilm-l6",
        )
    if not is_sentence_model(folder):
        setattr(config, KEY, how_of(config))
        return ["the folder does not say how a text's vector is made: the mean of its tokens' states, of length 1"]
    steps = _read(folder / MODULES)
    kinds = [str(step.get("type", "")).rsplit(".", 1)[-1] for step in steps] if _steps(steps) else []
    if tuple(kinds) not in (STEPS, STEPS[:2]):
        raise ModelError(
            f"its steps are {', '.join(kinds) or 'none'}, and Transformer, Pooling and Normalize are read here",
            where=str(folder / MODULES),
            remedy="take a model without further layers, such as the built-in minilm-l6",
        )
    setattr(
        config,
        KEY,
        {
            "pooling": _mode(folder / str(steps[1].get("path", "1_Pooling")) / "config.json"),
            "normalize": len(kinds) > 2,
        },
    )
    return []


def longest(folder: Path) -> int | None:
    """Tokens of the longest text that a folder's model was made for; None where it does not say."""
    file = folder / LENGTH
    said = _read(file) if file.is_file() and is_sentence_model(folder) else {}
    value = said.get("max_seq_length") if isinstance(said, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 2 else None


def write_modules(folder: Path, model: Any, tokenizer: Any, base: Path | None) -> None:
    """Write the files of a model that makes vectors into its new folder; nothing for any other. What `base` says of
    prompts stays.
    """
    if getattr(model.config, KEY, None) is None:
        return
    how, width = how_of(model.config), int(model.config.hidden_size)
    steps = [("", STEPS[0]), ("1_Pooling", STEPS[1]), *([("2_Normalize", STEPS[2])] if how["normalize"] else [])]
    _write(
        folder / MODULES,
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(steps)
        ],
    )
    for path, _ in steps[1:]:
        (folder / path).mkdir()
    flags = {f"pooling_mode_{_FLAGS[mode]}": how["pooling"] == mode for mode in MODES}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    _write(folder / LENGTH, {"max_seq_length": int(min(tokenizer.model_max_length, 1 << 20)), "do_lower_case": False})
    if base is not None and (base / ABOUT).is_file():
        shutil.copyfile(base / ABOUT, folder / ABOUT)
    else:
        _write(folder / ABOUT, {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})


_FLAGS = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "lasttoken": "lasttoken"}
_OTHERS = ("mean_sqrt_len_tokens", "weightedmean_tokens")


def _mode(file: Path) -> str:
    """The one way of pooling that a Pooling config names, in older files by a flag for each."""
    said = _read(file)
    said = said if isinstance(said, dict) else {}
    named = said.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or ())
    modes += [mode for mode, flag in _FLAGS.items() if said.get(f"pooling_mode_{flag}") is True]
    modes += [flag for flag in _OTHERS if said.get(f"pooling_mode_{flag}") is True]
    if len(modes) != 1 or modes[0] not in MODES:
        raise ModelError(
            f"it pools by {' and '.join(map(str, modes)) or 'nothing'}, and one of {', '.join(MODES)} is read here",
            where=str(file),
            remedy="take a model that pools so, such as the built-in minilm-l6",
        )
    return str(modes[0]) if said else str(DEFAULT["pooling"])


def _steps(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(step, dict) for step in value)


def _read(file: Path) -> Any:
    try:
        return json.loads(regular(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot be read: {type(error).__name__}", where=str(file), remedy="download the model again"
        ) from error


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
