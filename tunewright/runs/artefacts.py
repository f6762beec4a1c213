"""What a run leaves to be used: an adapter in PEFT's format where the change is low-rank, else delta.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.files import checkpoint
from tunewright.models import delta_format, diffusers_lora, peft_format
from tunewright.models.denoiser import Denoiser
from tunewright.runs.session import Session

KNOWN = {
    "recipe.yaml": "the recipe with every default written out, versions and hashes",
    "begun.json": "what the run began with: its recipe's values, and hashes of all that it names",
    "report.json": "every figure of the report",
    "report.html": "the report to look at: one file, no network",
    "rows.jsonl": "every evaluated row: base and tuned answer beside the reference",
    "pictures.png": "pictures: what was to be drawn, what the base draws and what the tuned model draws",
    "stream.jsonl": "every row of the test-time stream, in its order: the answer without adaptation and each method's",
    "metrics.jsonl": "one record a logged step",
    "base": "the fresh model that the run began with, as a plain transformers folder",
    "adapter": "the change as a PEFT adapter",
    "delta.safetensors": "the change; delta.json says how",
    "wrapper": "what wraps the model: the method that makes it, and its tensors",
    "along": "what each stage gave along its way: every row and text at every evaluation",
    "tasks": "each evaluated row after each task of the sequence",
    "stages": "each stage's result, from which later stages and runs start",
    "model": "a plain transformers folder",
}


IN_FEW_BITS = (
    "the adapter was trained beside a base in 4 bits (NF4, as stored here): beside whole weights, or those of another "
    "tool in 4 bits, it answers otherwise; the exported model does not"
)
"""What the run and the export say of an adapter whose base was quantised."""


def save(run: Path, session: Session) -> tuple[int, int]:
    """Write the change; return how many numbers and bytes have to be kept beside the base."""
    adapted = session.adapted
    deltas = [d for by_name in adapted.deltas().values() for d in by_name.values()]
    if peft_format.obstacle(adapted) is None:
        if adapted.quantised():
            session.notes.append(IN_FEW_BITS)
        folder = run / "adapter"
        peft_format.save_adapter(adapted, folder, session.loaded.reference)
        if isinstance(adapted.model, Denoiser) and adapted.model.config.reads_text:  # what loads such a file
            diffusers_lora.write_lora(folder)
        stored = sum(p.numel() for p in adapted.delta_parameters().values())
        stored += _changed(session)
        return stored, sum(f.stat().st_size for f in folder.iterdir())
    stored, size = _save_wrapper(run, session)
    if adapted.wrapped_by is not None and not deltas and not adapted.originals:
        return stored, size
    delta_format.save_delta(adapted, run, session.loaded.name)
    stored += _changed(session) + sum(p.numel() for p in adapted.delta_parameters().values())
    return stored, size + (run / "delta.safetensors").stat().st_size


def _changed(session: Session) -> int:
    """Numbers of the base's own tensors that differ from it, over all processes."""
    originals, parameters = session.adapted.originals, session.adapted.base_parameters()
    return sum(parameters[n].numel() if o.indices is None else o.values.numel() for n, o in originals.items())


def _save_wrapper(run: Path, session: Session) -> tuple[int, int]:
    """What wraps the model: in the format of the method's own `save` where it has one, else its state and how it
    was made.
    """
    by, base = session.adapted.wrapped_by, {"name": session.loaded.name, "hash": session.adapted.base_hash}
    if by is None:
        return 0, 0
    method: Any = catalogue.load_method(by.method["name"])(**by.method["parameters"])
    folder = run / "adapter"
    if not method.save(by.state, session.adapted.model, folder, session.loaded.reference):
        folder = checkpoint.write_folder(
            run / "wrapper", {"base": base, **by.method, "data": by.state.data}, {"state": by.state.state_dict()}
        )
    return sum(t.numel() for t in by.state.state_dict().values()), sum(f.stat().st_size for f in folder.iterdir())


def described(run: Path) -> dict[str, str]:
    """What is in the run's folder."""
    names = {p.name for p in run.iterdir()} | {"report.json", "report.html"}
    return {n: what for n, what in KNOWN.items() if n in names}
