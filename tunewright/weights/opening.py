"""What a user names as a model to merge, opened.

Torch is imported for adapters and changes only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewright.errors import ModelError
from tunewright.files.hashing import PIPELINE
from tunewright.files.home import expanded
from tunewright.loading.locate import Located, licence_of, locate
from tunewright.weights.source import Source, Tuned


def open_source(ref: str, base: str | None = None) -> Source:
    """Open what a user names: a model folder, hub id or built-in; an adapter, saved change or finished run on its base.

    "model+adapter" names both, "owner/name@revision" a state of a hub id. `base` is put under an adapter, else the base
    that the adapter's own files name.
    """
    with _as_model_error(ref):
        return _opened(ref, base)


def located(ref: str) -> Located:
    """Where a model that is no change of another one lies."""
    with _as_model_error(ref):
        name, at, revision = ref.rpartition("@")
        if at and name and not expanded(ref).exists():
            return locate(name, revision, progress=False)
        return locate(ref, progress=False)


@contextmanager
def _as_model_error(ref: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as e:  # a name that no file can have
        raise ModelError(
            f"it cannot be opened: {getattr(e, 'strerror', None) or e}",
            where=ref if len(ref) < 200 else f"{ref[:200]}...",
            remedy="give a folder, a hub id, or MODEL+ADAPTER",
        ) from e


def _opened(ref: str, base: str | None) -> Source:
    if "+" in ref and not Path(ref).exists():
        under, _, ref_change = ref.partition("+")
        return _tuned(Path(ref_change), ref, under)
    folder = expanded(ref)
    change = change_in(folder)
    if change is not None:
        return _tuned(change, ref, base)
    if not (folder / "config.json").exists() and (folder / "recipe.yaml").exists():
        folder = folder / "model"  # a run that left a whole model
        return Source(folder, ref, f"folder {folder}", licence_of(folder))
    place = located(ref)
    if (place.folder / PIPELINE).is_file():
        raise ModelError(
            "this holds its own parts, as a pipeline of diffusers does, and transformers folders are merged here",
            where=ref,
            remedy="merge LoRAs of a diffusion pipeline with diffusers (pipe.set_adapters)",
        )
    return Source(place.folder, ref, place.source, place.licence)


def change_in(folder: Path) -> Path | None:
    """Where an adapter or saved change lies in a folder that is none but a model's."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return None
    for place in (folder, folder / "adapter"):
        if (place / "adapter_config.json").exists() or (place / "delta.json").exists():
            return place
    if (folder / "recipe.yaml").exists() and (folder / "model" / "config.json").exists():
        return None
    if (folder / "recipe.yaml").exists():
        raise ModelError(
            "this run left neither an adapter nor a saved change",
            where=str(folder),
            remedy=f"finish it, or write its model: tunewright export {folder}",
        )
    return None


def _tuned(folder: Path, ref: str, base: str | None) -> Tuned:
    from tunewright.weights import reading
    from tunewright.weights.changes import read_change  # needs torch

    source = read_change(folder, ref, base, open_source)
    reading.note(source)
    return source
