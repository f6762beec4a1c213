"""`export --to`: a run or a model's folder in another program's form, and what was checked of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import RecipeError, did_you_mean
from tunewright.files.cache import written_aside
from tunewright.shipping import gguf
from tunewright.shipping.opened import generates, plain


@dataclass
class Options:
    """What a format may be told. `kind`: the type of a GGUF's matrices; `splitter`: GGUF's name of how its tokenizer
    splits text; `task`: of a change made for each task, the one to write."""

    kind: str | None = None
    splitter: str | None = None
    task: str | None = None


@dataclass
class Shipped:
    """What was written: the format, where, which files; `checks`: sentences; `figures`: what they say in numbers."""

    format: str
    path: Path
    files: list[str]
    checks: list[str]
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "path": str(self.path),
            "files": self.files,
            "checks": self.checks,
            "figures": self.figures,
            "notes": self.notes,
        }

    def page(self) -> str:
        head = f"{self.path} is written: {self.format} ({', '.join(self.files)})"
        return "\n".join([head, *self.checks, *(f"note: {n}" for n in self.notes)])


def ship(ref: Path, to: str, out: Path | None, options: Options) -> Shipped:
    """Write `ref` as `to` to `out` (none: beside the run's other files). RecipeError for a format that there is not."""
    if to not in FORMATS:
        raise RecipeError(f"'{to}' is no format", where="--to", remedy=did_you_mean(to, ["transformers", *FORMATS]))
    if options.kind is not None and to not in ("gguf", "ollama"):
        raise RecipeError(f"{to} has no types to choose from", where="--type", remedy="leave it out")
    if options.splitter is not None and to not in ("gguf", "ollama"):
        raise RecipeError(f"{to} keeps the tokenizer's own splitter", where="--pre-tokenizer", remedy="leave it out")
    return FORMATS[to](ref, out, options)


def _gguf(ref: Path, out: Path | None, options: Options) -> Shipped:
    from tunewright.shipping import gguf_types

    kind = gguf_types.kind_of(options.kind or "q8_0")
    file = out or ref / "gguf"
    if file.suffix != ".gguf":
        file = file / f"{ref.resolve().name}-{kind}.gguf"
    with plain(ref, file, options.task) as model:
        generates(model, "GGUF")
        written = gguf.write(model.folder, file, kind, splitter=options.splitter)
        told = gguf.page(written).splitlines()
        checks = [line for line in told[1:] if not line.startswith("note: ")]
        return Shipped("gguf", file, [file.name], [told[0].partition(": GGUF, ")[2], *checks], written.to_json(),
                       [*model.notes, *written.notes])  # fmt: skip


def _ollama(ref: Path, out: Path | None, options: Options) -> Shipped:
    from transformers import AutoConfig

    from tunewright.shipping import gguf_types, ollama

    kind = gguf_types.kind_of(options.kind or "q8_0")
    target = out or ref / "ollama"
    with plain(ref, target, options.task) as model, written_aside(target) as aside:
        tokenizer = generates(model, "ollama")
        config = AutoConfig.from_pretrained(model.folder, local_files_only=True)
        system = model.recipe.data.system if model.recipe is not None else None
        text, talks = ollama.modelfile(model.folder, f"model-{kind}.gguf", tokenizer, config, system, str(ref))
        written = gguf.write(model.folder, aside / f"model-{kind}.gguf", kind, splitter=options.splitter)
        written.file = target / written.file.name
        (aside / "Modelfile").write_text(text, encoding="utf-8")
        told = gguf.page(written).splitlines()
        checks = [line for line in told[1:] if not line.startswith("note: ")]
        if talks:
            checks.append("the Modelfile's template writes four conversations as the model's own template does")
        notes = [*model.notes, *written.notes, "ollama itself did not read it: `ollama create NAME -f Modelfile` does"]
        if not talks:
            notes.append("the model has no chat template: prompts go in as they are")
        if model.recipe is not None and model.recipe.data.template:
            notes.append(
                f"the run's prompts were written through the recipe's template: {model.recipe.data.template!r}"
            )
        return Shipped("ollama", target, [written.file.name, "Modelfile"], checks,
                       {"gguf": written.to_json(), "modelfile": text}, notes)  # fmt: skip


def _mlx(ref: Path, out: Path | None, options: Options) -> Shipped:
    from tunewright.shipping import mlx

    target = out or ref / "mlx"
    with plain(ref, target, options.task) as model:
        generates(model, "mlx")
        with written_aside(target) as aside:
            shutil.copytree(model.folder, aside, dirs_exist_ok=True)
            checks, figures, notes = mlx.check(aside)
        return Shipped("mlx", target, sorted(p.name for p in target.iterdir()), checks, figures, model.notes + notes)


def _onnx(ref: Path, out: Path | None, options: Options) -> Shipped:
    from tunewright.shipping import onnx

    target = out or ref / "onnx"
    with plain(ref, target, options.task) as model:
        with written_aside(target) as aside:
            checks, figures, notes = onnx.write(model.folder, aside)
        return Shipped("onnx", target, sorted(p.name for p in target.iterdir()), checks, figures, model.notes + notes)


def _vllm(ref: Path, out: Path | None, options: Options) -> Shipped:
    from tunewright.shipping import vllm_adapter

    if options.task is not None:
        raise RecipeError("an adapter's folder holds one change", where="--task", remedy="leave it out")
    target = out or ref / "vllm-adapter"
    checks, figures, notes = vllm_adapter.write(ref, target)
    return Shipped("vllm-adapter", target, sorted(p.name for p in target.iterdir()), checks, figures, notes)


FORMATS: dict[str, Callable[[Path, Path | None, Options], Shipped]] = {
    "gguf": _gguf,
    "ollama": _ollama,
    "mlx": _mlx,
    "onnx": _onnx,
    "vllm-adapter": _vllm,
}
"""What `--to` may name, beside `transformers`."""
