"""A worker among several (torchrun's names in its environment): methods' conformance cases, trained alone and together.

`python -m tests.processes FILE NAME ...`: the first process trains each case by itself; then all train it together. It
writes the losses of both to FILE, by name.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from tunewright.conformance.bench import Tiny
from tunewright.conformance.case import Case
from tunewright.machine.group import Group, present
from tunewright.training import micro_batches, splitting, train

STEPS = 6


@contextmanager
def among(group: Group) -> Iterator[None]:
    """Within, loops are trained by these processes."""
    places = (train, micro_batches, splitting)
    for place in places:
        place.present = lambda: group
    try:
        yield
    finally:
        for place in places:
            place.present = present


def losses(name: str) -> list[float]:
    """The losses of a method's conformance case."""
    return [r["loss"] for r in Tiny(Case.of(name).named, steps=STEPS).run().records]


def work(file: Path, names: Sequence[str]) -> None:
    """Train every case; whatever it raises is written in its place."""
    torch.set_num_threads(1)
    group = present()
    group.join()
    found: dict[str, dict[str, list[float] | str]] = {}
    for name in names:
        found[name] = {}
        for how, by in (("alone", Group()), ("together", group)):
            if how == "alone" and not group.first:
                continue
            try:
                with among(by):
                    found[name][how] = losses(name)
            except Exception:
                found[name][how] = traceback.format_exc()
        group.meet()
    if group.first:
        file.write_text(json.dumps(found))
    group.leave()


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2:])
