"""A worker among several (torchrun's names in its environment): methods' conformance cases, trained alone on a whole
model and together on one whose weights are divided.

`python -m tests.divided FILE NAME ...`: the first process writes to FILE, by name, the losses of both and how far each
saved tensor of the second is from the first one's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.processes import among
from tunewright import catalogue
from tunewright.conformance.bench import Tiny
from tunewright.conformance.case import Case
from tunewright.machine.group import Group, present
from tunewright.models import delta_format, peft_format
from tunewright.models.divided import divide
from tunewright.models.shards import is_divided

STEPS = 4
GENTLE: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "lora-plus": [("lora", {"rank": 2}), ("lora-plus", {"lr_ratio": 1.5})]
}
"""Cases whose own rates make rounding grow within a few steps, with others."""


class Parted(Tiny):
    """The tiny set-up, its model divided among the processes of this run."""

    def fresh(self, seed: int = 0) -> nn.Module:
        model = super().fresh(seed)
        if seed == self.seed:
            divide(model, present(), "cpu")
        return model


def trained(kind: type[Tiny], name: str, folder: Path) -> tuple[list[float], dict[str, Tensor], int]:
    """The losses of a method's conformance case; what it saved, what its change is at some strengths, and what is
    written of it; and how many parameters were held in parts.
    """
    uses = GENTLE.get(name)
    named = Case.of(name).named if uses is None else [(n, catalogue.load_method(n)(**how)) for n, how in uses]
    made = kind(named, steps=STEPS)
    parted = sum(is_divided(p) for p in made.adapted.model.parameters())
    made.run()
    found = made.tensors()
    for strength in (0.0, 0.5, 1.0):
        with made.adapted.at_strength(strength) as model:
            found[f"dialled/{strength}"] = made.logits(model)
    found["dialled/back"] = made.logits()
    folder.mkdir()
    if peft_format.obstacle(made.adapted) is None:
        peft_format.save_adapter(made.adapted, folder, "base")
    else:
        delta_format.save_delta(made.adapted, folder, "base")
    for file in folder.glob("*.safetensors"):
        found |= {f"{file.stem}/{n}": t for n, t in load_file(file).items()}
    return [r["loss"] for r in made.records], found, parted


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """How far tensors are from those of the same name, of their largest; infinite where there is no such tensor."""
    found = {}
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        same = a is not None and b is not None and a.shape == b.shape
        if same and a.is_floating_point():
            found[name] = float((a - b).abs().max()) / max(1e-3, float(a.abs().max())) if a.numel() else 0.0
        elif not name.startswith("random/"):
            found[name] = 0.0 if same and torch.equal(a, b) else float("inf")
    return found


def work(file: Path, names: Sequence[str]) -> None:
    """Train every case both ways; whatever it raises is written in its place."""
    torch.set_num_threads(1)
    group = present()
    group.join()
    found: dict[str, Any] = {}
    for name in names:
        found[name], saved = {}, {}
        for how, kind, by in (("alone", Tiny, Group()), ("divided", Parted, group)):
            if how == "alone" and not group.first:
                continue
            try:
                with among(by), tempfile.TemporaryDirectory() as folder:
                    found[name][how], saved[how], parted = trained(kind, name, Path(folder) / "run")
                found[name]["parted"] = parted
            except Exception:
                found[name][how] = traceback.format_exc()
        if len(saved) == 2:
            found[name]["apart"] = apart(saved["alone"], saved["divided"])
        group.meet()
        if group.first:
            file.write_text(json.dumps(found))
    group.leave()


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2:])
