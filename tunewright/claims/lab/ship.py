"""From trained weights to a shipped folder: bfloat16 safetensors, tokenizer, and a card written from measured
figures.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch

from tunewright.claims.lab.scale import SEEDS
from tunewright.machine import host

BASES = Path(__file__).parent / "bases"
MEASURED = "card.json"


def machine() -> str:
    """Processor, system and versions, as a card states them."""
    import transformers

    return (
        f"{host.processor()}, Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}"
    )


def digest(folder: Path) -> str:
    """sha256 of the folder's weights."""
    with (folder / "model.safetensors").open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def ship(name: str, model: Any, tokenizer: Any | None, measured: dict[str, Any], into: Path | None = None) -> Path:
    """Write the base's folder; `measured` is what its card says (see `card`), the tasks' figures are added later."""
    folder = (into or BASES) / name
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "sha256": digest(folder), "machine": machine()}
    write(folder, {"name": name, **facts, **measured})
    return folder


def write(folder: Path, measured: dict[str, Any]) -> None:
    """Write the measured figures and the card made of them."""
    (folder / MEASURED).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(measured), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """The measured figures of a shipped base."""
    measured: dict[str, Any] = json.loads((folder / MEASURED).read_text(encoding="utf-8"))
    return measured


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def card(m: dict[str, Any]) -> str:
    """The README of a base, from its measured figures."""
    parts = [
        (
            f"---\nlicense: {m['licence']}\nlibrary_name: transformers\npipeline_tag: {m['task']}\ntags: [tunewright, "
            f"lab]\n---\n\n# {m['name']}\n\n{m['about']}"
        ),
        f"- Parameters: {m['parameters']:,}; weights in bfloat16, sha256 `{m['sha256']}`\n- Made by: `python -m "
        f"tunewright.claims.lab.make {m['name']}`\n"
        f"- Trained on {m['seen']:,} {m['unit']} in {m['seconds']:.0f} s "
        f"by the clock ({m['threads']} thread(s), the machine shared, pauses included): {m['machine']}",
        "## What it can do\n\n" + "\n".join(f"- {line}" for line in m["figures"]),
        "## What it cannot do\n\n" + "\n".join(f"- {line}" for line in m["limits"]),
        "## Learning curve\n\n"
        + _table((m["unit"], "held-out loss, nats"), [(f"{n:,}", f"{loss:.3f}") for n, loss in thinned(m["curve"])]),
        "## Data\n\n"
        + m["data_note"]
        + "\n\n"
        + _table(("source", "licence", "documents", "characters"), [tuple(row) for row in m["sources"]]),
    ]
    if m.get("tasks"):
        keys = ("task", "metric", "base", "tuned", "sd", "seeds", "arm", "seconds")
        head = (
            "task",
            "metric",
            "base",
            "tuned",
            "standard deviation over seeds",
            "seeds",
            "arm",
            "seconds per run",
            f"{SEEDS} seeds tell apart",
        )
        rows = [(*(t[k] for k in keys), f"{told_apart(float(t['sd'])):.3f}") for t in m["tasks"]]
        parts.append("## Lab tasks\n\n" + _table(head, rows))
        parts.append(
            "The last column is what claims take their number of seeds from: half the width of the 95 % t interval "
            "of the difference between two arms "
            f"over {SEEDS} seeds, where the arms vary as this one does and independently of each other. Arms that "
            "share rows and order usually vary together, "
            "and less is needed. A smaller effect of interest calls for more seeds, or comes out as `unclear`."
        )
    return "\n\n".join(parts) + "\n"


def told_apart(sd: float, seeds: int = SEEDS) -> float:
    """Half the width of the 95 % t interval of a paired difference, each side of standard deviation `sd` and
    independent.
    """
    from scipy.stats import t

    return float(t.ppf(0.975, seeds - 1)) * sd * math.sqrt(2 / seeds)


def thinned(curve: list[Any], most: int = 9) -> list[Any]:
    """At most `most` points of a curve, the last one among them."""
    step = max(1, -(-len(curve) // most))
    return curve[::-1][::step][::-1]
