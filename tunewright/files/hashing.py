"""One hash for a model's weights: of names, types, shapes and bytes, whatever files they are spread over."""

from __future__ import annotations

import hashlib
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from safetensors import SafetensorError, safe_open

from tunewright.errors import ModelError
from tunewright.files import cache
from tunewright.files.stamp import stamp

AGAIN = "download it again, or save it again in safetensors format"
MAX_HEADER = 100 * 2**20  # the format's own limit
_NOT_BESIDE = (".safetensors", ".md", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf")
PIPELINE = "model_index.json"
"""The file that says of a folder that it is a pipeline of diffusers, each part in a folder of its own."""
DENOISERS = ("unet", "next_scale")
"""What pipelines call the part that is adapted: its weights are the folder's, and all else lies beside them."""
_OURS = ("model.safetensors.index.json", "tunewright.json")  # how the weights are spread; where they came from


@dataclass(frozen=True)
class Stored:
    """One tensor in a safetensors file: bytes `start` to `stop` of it."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(file: Path) -> list[Stored]:
    """The tensors of a safetensors file, from its header alone.

    ModelError for a damaged or truncated file, and for every header that the format's own library refuses: tensors that
    overlap, leave holes, or do not have the bytes of their type and shape.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > min(MAX_HEADER, size):
                raise ValueError("its header is longer than the file")
            header = json.loads(f.read(length))
        tensors = [
            Stored(file, n, t["dtype"], tuple(t["shape"]), *(8 + length + o for o in t["data_offsets"]))
            for n, t in header.items()
            if n != "__metadata__"
        ]
        needed = max((t.stop for t in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as e:
        raise ModelError(f"not a readable safetensors file: {e}", where=str(file), remedy=AGAIN) from e
    if needed > size:
        raise ModelError(f"the safetensors file is cut off: {size} bytes of {needed}", where=str(file), remedy=AGAIN)
    try:
        with safe_open(str(file), framework="numpy"):
            return tensors
    except SafetensorError as e:
        raise ModelError(f"not a safetensors file by the format's rules: {e}", where=str(file), remedy=AGAIN) from e


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a model folder's weights, in order.

    ModelError, with the reason, when there are none (a pickled checkpoint is refused), a shard is missing, or the index
    names a file elsewhere.
    """
    if (folder / PIPELINE).is_file():
        return _denoiser_files(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as e:
            raise ModelError("the index of the weights is not readable", where=str(index), remedy=AGAIN) from e
        if odd := [n for n in names if not _inside(n)]:
            raise ModelError(
                f"the index of the weights names {odd[0]!r}, which is no safetensors file of this folder",
                where=str(index),
                remedy=AGAIN,
            )
        if not names:
            raise ModelError("the index of the weights names no file", where=str(index), remedy=AGAIN)
        if missing := [n for n in names if not (folder / n).is_file()]:
            raise ModelError(
                f"of {len(names)} weight files {len(missing)} are missing: {', '.join(missing[:3])}",
                where=str(folder),
                remedy=AGAIN,
            )
        return [folder / n for n in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    raise _no_weights(folder)


def _denoiser_files(folder: Path) -> list[Path]:
    """The weights of the part of a pipeline that is adapted. ModelError where there are none."""
    place = next((folder / part for part in DENOISERS if (folder / part).is_dir()), folder)
    shards = sorted(place.glob("diffusion_pytorch_model-*-of-*.safetensors"))
    if (place / "diffusion_pytorch_model.safetensors.index.json").is_file() and shards:
        return shards
    if (whole := place / "diffusion_pytorch_model.safetensors").is_file():
        return [whole]
    raise _no_weights(place)


def prefix_of(file: Path) -> str:
    """What a model puts before the names of a file's tensors: a pipeline's denoiser is a child of the model."""
    return f"{file.parent.name}." if (file.parent.parent / PIPELINE).is_file() else ""


def _inside(name: object) -> bool:
    """Whether an index's name is that of a safetensors file in its own folder or in one below, on every system."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or "\0" in name:
        return False
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return not (posix.is_absolute() or windows.anchor or ".." in windows.parts)


def _no_weights(folder: Path) -> ModelError:
    pickled = sorted(
        p.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
        for p in folder.glob(pattern)
        if p.name != "training_args.bin"
    )
    if pickled:
        return ModelError(
            f"only pickled weights are here ({pickled[0]}), and opening a pickle can run any code",
            where=str(folder),
            remedy="use a revision with *.safetensors, or convert it where you trust it: model.save_pretrained(folder)",
        )
    foreign = sorted(p.name for pattern in ("*.h5", "*.msgpack", "*.onnx") for p in folder.glob(pattern))
    names = foreign or sorted(p.name for p in folder.glob("*.safetensors")) or sorted(p.name for p in folder.iterdir())
    listed = ", ".join(names[:5]) or "nothing"
    what = f"no weights: model.safetensors is not there (found: {listed})"
    return ModelError(what, where=str(folder), remedy="weights are read from safetensors and GGUF files only")


def _digest(tensor: Stored) -> bytes:
    h = hashlib.sha256(f"{tensor.name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
    with tensor.file.open("rb") as f:
        f.seek(tensor.start)
        left = tensor.stop - tensor.start
        while left:
            chunk = f.read(min(left, 2**22))
            if not chunk:
                raise ModelError("the safetensors file is cut off", where=str(tensor.file), remedy=AGAIN)
            h.update(chunk)
            left -= len(chunk)
    return h.digest()


def hash_weights(folder: Path, *, afresh: bool = False) -> str:
    """The sha256 (hex) of a model folder's weights, the same for any sharding.

    It is kept in the cache by each file's path and `stamp`, so that a large model is read once; `afresh` reads every
    byte all the same.
    """
    files = weight_files(folder)
    key = [[str(f.resolve()), *stamp(f)] for f in files]
    kept = cache.cache_folder() / "hashes" / f"{hashlib.sha256(json.dumps(key[0][0]).encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["files"] == key and not afresh:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    tensors = sorted((t for f in files for t in read_header(f)), key=lambda t: t.name)
    with ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter's lock
        total = hashlib.sha256(b"".join(pool.map(_digest, tensors))).hexdigest()
    try:
        cache.write_json(kept, {"files": key, "sha256": total})
    except OSError:
        pass  # a cache that cannot be written costs time, never the run
    return total


def files_beside(folder: Path) -> list[tuple[str, str]]:
    """(name, sha256) of a model folder's files beside its weights: config, tokenizer, template, processor.

    They decide what the weights compute as much as the weights do (RoPE's base, a window, a class, a chat template).
    """
    files = (p for p in folder.iterdir() if p.is_file() and p.suffix not in _NOT_BESIDE and not p.name.startswith("."))
    beside = [(p.name, _file_digest(p)) for p in sorted(files) if p.name not in _OURS]
    if (folder / PIPELINE).is_file():  # the frozen parts' weights count as much as their configs
        own = set(weight_files(folder))
        parts = (p for p in folder.glob("*/*") if p.is_file() and not p.name.startswith(".") and p not in own)
        kept = (p for p in parts if p.suffix not in _NOT_BESIDE or p.suffix == ".safetensors")
        beside += [(f"{p.parent.name}/{p.name}", _file_digest(p)) for p in sorted(kept)]
    if (folder / "modules.json").is_file():  # sentence-transformers: each step's config lies in a folder of its own
        beside += [(f"{p.parent.name}/{p.name}", _file_digest(p)) for p in sorted(folder.glob("[0-9]*_*/config.json"))]
    return beside


def hash_beside(folder: Path) -> str:
    """One sha256 (hex) of `files_beside`."""
    return hashlib.sha256(json.dumps(files_beside(folder)).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
