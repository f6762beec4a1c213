"""A model card made from a run's report alone: base, data, figures with intervals, licences, recipe, versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright import __version__
from tunewright.files.markdown import code, fenced, inline
from tunewright.finished.export import figures, public
from tunewright.loading import builtin
from tunewright.recipe import Recipe
from tunewright.report.schema import Report

UNKNOWN = "not stated"


def base_of(recipe: Recipe) -> str | None:
    """The hub id that others find the base by; none where it is a folder of this machine."""
    name = recipe.model.name
    if name in builtin.TABLE:
        return builtin.find(name).hub
    return name if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists() else None


def header(recipe: Recipe, report: Report, kind: str) -> dict[str, Any]:
    """What the hub reads: YAML. `kind`: adapter or model."""
    out: dict[str, Any] = {
        "library_name": "peft" if kind == "adapter" else "transformers",
        "tags": ["tunewright", *dict.fromkeys(m.name for m in (report.trained.methods if report.trained else ()))],
        "pipeline_tag": "text-classification" if recipe.task == "reward-modeling" else recipe.task,
    }
    if (base := base_of(recipe)) is not None:
        out["base_model"] = base
        out["base_model_relation"] = "adapter" if kind == "adapter" else "finetune"
    if report.model and report.model.licence:
        out["license"] = report.model.licence
    hub = [s.path.removeprefix("hf://datasets/") for s in _sources(report) if s.path.startswith("hf://datasets/")]
    if hub:
        out["datasets"] = sorted(set(hub))
    return out


def _sources(report: Report) -> list[Any]:
    return list(report.data.sources) if report.data else []


def _data(report: Report) -> str:
    rows = [
        f"| {code(Path(s.path).name or s.path)} | {inline(s.role)} | {'' if s.rows is None else f'{s.rows:,}'} | "
        f"{inline(s.licence or UNKNOWN)} |"
        for s in _sources(report)
    ]
    return "\n".join(["| source | used for | rows | licence |", "| --- | --- | --- | --- |", *rows]) if rows else ""


def card(recipe: Recipe, report: Report, kind: str) -> str:
    """README.md of what is pushed. Paths of this machine are left out, and so are the rows."""
    import yaml

    base = base_of(recipe) or Path(recipe.model.name).name
    licence = report.model.licence if report.model else None
    head = yaml.safe_dump(header(recipe, report, kind), sort_keys=True, allow_unicode=True).strip()
    what = "A LoRA adapter in PEFT's format" if kind == "adapter" else "A whole model"
    parts = [
        f"---\n{head}\n---",
        f"# {inline(Path(base).name)}, adapted: {inline(recipe.name)}",
        f"{what}, adapted from {code(base)} with Tunewright. The base's licence: {inline(licence or UNKNOWN)}.",
        figures(report, base),
    ]
    if data := _data(report):
        parts += ["## Data", data]
    if report.gate is not None:
        parts.append(f"Its gate says: {inline(report.gate.verdict)}.")
    if base_of(recipe) is None and kind == "adapter":
        parts.append("The base is no model of the hub: load it first, then this adapter on it.")
    parts += ["## Recipe", fenced(public(recipe).strip(), "yaml"), "## Versions", _versions(report.run.versions)]
    return "\n\n".join(parts) + "\n"


def _versions(versions: Mapping[str, str]) -> str:
    known = dict(versions) or {"tunewright": __version__}
    return ", ".join(f"{inline(name)} {inline(version)}" for name, version in sorted(known.items())) + "."
