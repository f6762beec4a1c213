"""The processor of a model of pictures in texts: what its folder says of it, as plain values.

transformers' own loading of such processors asks for torchvision wherever videos could be shown, too; here the class is
made from what it is (its settings, the tokenizer, what prepares pictures), and its files are kept as they came.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.loading.locate import Located

FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
_OTHERS = ("image_processor", "video_processor", "feature_extractor", "processor_class", "auto_map", "chat_template")


@dataclass(frozen=True)
class PictureReader:
    """`settings`: the processor's class and settings, and those of what prepares pictures, as JSON values. `files`: its
    files, which are saved as they came.
    """

    settings: dict[str, Any]
    files: dict[str, bytes]

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the processor's files."""
        for name, content in self.files.items():
            (Path(folder) / name).write_bytes(content)


def picture_reader(located: Located, config: Any, tokenizer: Any, images: Any) -> PictureReader:
    """What `located` says of its processor; the tokenizer gets the chat template of the processor's where it has none.

    ModelError where no file says how pictures are prepared, or the class named is none of transformers' processors.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    folder = located.folder
    if images is None:
        what = "there is no preprocessor_config.json, which says how pictures are made into what the model reads"
        raise ModelError(what, where=str(folder), remedy="copy the processor's files of the model it was made from")
    told = {name: _json(folder / name) for name in FILES}
    kind = next((t["processor_class"] for t in told.values() if isinstance(t.get("processor_class"), str)), None)
    known = {n for n in PROCESSOR_MAPPING_NAMES.values() if isinstance(n, str)}
    kind = kind or PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if kind not in known:
        what = f"the processor '{kind}' is none of transformers' own, and no other code is run"
        raise ModelError(what, where=str(folder), remedy="use a model whose processor transformers has")
    settings = {k: v for k, v in told["processor_config.json"].items() if k not in _OTHERS}
    template = told["chat_template.json"].get("chat_template", told["processor_config.json"].get("chat_template"))
    if not tokenizer.chat_template and isinstance(template, str):
        tokenizer.chat_template = template
    about = {
        "kind": kind,
        "settings": settings,
        "image": {"kind": type(images).__name__, "settings": json.loads(images.to_json_string())},
        "version": transformers.__version__,
    }
    return PictureReader(about, {n: (folder / n).read_bytes() for n in FILES if (folder / n).exists()})


def _json(path: Path) -> dict[str, Any]:
    """A file's object; none where there is no such file."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"it cannot be read: {error}", where=str(path), remedy="download the model again") from None
    return told if isinstance(told, dict) else {}
