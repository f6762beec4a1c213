"""What a user names as a model to merge, opened.

Torch is imported for adapters and changes only.
"""

from __future__ import annotations

from pathlib import Path

from tunewright.errors import ModelError
from tunewright.files.home import expanded
from tunewright.loading.locate import licence_of, locate
from tunewright.weights.source import Source, Tuned


def open_source(ref: str, base: str | None = None) -> Source:
    """Open what a user names: a model folder, hub id or built-in; an adapter, saved change or finished run on its base.

    "model+adapter" names both. `base` is put under an adapter, else the base that the adapter's own files name.
    """
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
    located = locate(ref, progress=False)
    return Source(located.folder, ref, located.source, located.licence)


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
    from tunewright.weights.changes import read_change  # needs torch

    return read_change(folder, ref, base, open_source)
