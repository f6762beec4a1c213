"""What a user names to be written in another form: a finished run, or a folder that is a whole model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import FolderError, MethodError
from tunewright.files.hashing import PIPELINE
from tunewright.finished.export import export
from tunewright.recipe import Recipe
from tunewright.runs.folder import RECIPE


@dataclass
class Plain:
    """A plain transformers folder; `named`: what the user named, which messages name too; `recipe`: of the run that it
    is of (None for a model's folder).
    """

    folder: Path
    named: Path
    recipe: Recipe | None = None
    notes: list[str] = field(default_factory=list)


@contextmanager
def plain(ref: Path, out: Path, task: str | None = None) -> Iterator[Plain]:
    """The model of a run (exported into a passing folder beside `out`, its logits checked) or of a folder."""
    if (ref / RECIPE).exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            exported = export(ref, scratch / ref.resolve().name, task, quiet=True)
            _no_pipeline(exported.folder, ref)
            yield Plain(exported.folder, ref, Recipe.load(ref / RECIPE), list(exported.notes))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return
    if (ref / "adapter_config.json").exists():
        raise MethodError(
            "an adapter alone is no model that this format can hold",
            where=str(ref),
            remedy=f"fold it into its base first: tunewright fuse BASE {ref} --out DIR, then export DIR",
        )
    _no_pipeline(ref, ref)
    if not (ref / "config.json").exists():
        raise FolderError(
            "this is neither a run's folder nor a model's",
            where=str(ref),
            remedy="name a finished run or a model folder",
        )
    if task is not None:
        raise MethodError("a folder holds one model, and no task's change", where="--task", remedy="leave --task out")
    yield Plain(ref, ref)


def _no_pipeline(folder: Path, named: Path) -> None:
    """MethodError for a model that draws pictures, which no form but its own holds."""
    if (folder / PIPELINE).is_file():
        raise MethodError(
            "the other forms hold models of transformers, and this holds its own parts, as a pipeline of diffusers "
            "does",
            where=str(named),
            remedy="export it as it is: leave --to out",
        )


def generates(plain: Plain, what: str) -> Any:
    """The folder's tokenizer. MethodError for a model that is no language model."""
    import json

    from transformers import AutoTokenizer

    kind = str((json.loads((plain.folder / "config.json").read_text()).get("architectures") or [""])[0])
    if not kind.endswith(("ForCausalLM", "LMHeadModel")):
        raise MethodError(
            f"{what} holds language models that write text, and this is a {kind}",
            where=str(plain.named),
            remedy="export a plain transformers folder: leave --to out",
        )
    return AutoTokenizer.from_pretrained(plain.folder, local_files_only=True)
