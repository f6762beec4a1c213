"""Tiny servers for tests: a fresh base, adapters on disk, and what each says alone."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from tests import tiny
from tunewright.loading.load import Loaded
from tunewright.measure.generate import greedy
from tunewright.models import deltas as forms
from tunewright.models import peft_format
from tunewright.models.adapted import Adapted
from tunewright.serve.app import build
from tunewright.serve.limits import Limits
from tunewright.serve.server import Server
from tunewright.serve.web import Web

BASE = "tiny"
UNLESS_SAID = inspect.signature(httpx.get).parameters["timeout"].default
UNLESS_SAID.connect = UNLESS_SAID.read = UNLESS_SAID.write = UNLESS_SAID.pool = 120.0
"""What httpx waits for where a test does not say it: its own 5 s pass while a machine is busy with other work."""
PROMPTS = ("Which topic is this?", "the river rose", "def add(a, b):\n    return", "The bank's customer asked why")


def loaded(model: Any = None) -> Loaded:
    """A fresh tiny model as `load` gives it."""
    model = tiny.llama() if model is None else model
    return Loaded(model, tiny.tokenizer(), None, BASE, "fresh", "", None, torch.float32)


def low_rank(adapted: Adapted, seed: int, rank: int = 3, *, some: int = 1) -> dict[str, forms.Delta]:
    """Low-rank changes on every `some`-th linear layer, large enough to change answers."""
    g = torch.Generator().manual_seed(seed)
    out: dict[str, forms.Delta] = {}
    for site in adapted.structure.linear_sites()[::some]:
        A = torch.randn(rank, site.in_features, generator=g) / site.in_features**0.5
        out[site.name] = forms.LowRank(A, torch.randn(site.out_features, rank, generator=g) * 0.3, 0.7)
    return out


def write_adapters(folder: Path, names: Sequence[str]) -> None:
    """PEFT adapters of rank 2, 3, 4 ... in folders of these names."""
    for i, name in enumerate(names):
        adapted = loaded().adapted()
        for site, delta in low_rank(adapted, i + 1, 2 + i).items():
            forms.attach(adapted.structure.site(site), "a", delta)
        peft_format.save_adapter(adapted, folder / name, BASE)


def alone(name: str | None, folder: Path, prompt: Sequence[int], tokens: int, strength: float = 1.0) -> list[int]:
    """What base and one adapter, folded into it, answer greedily, without any server."""
    adapted = loaded().adapted()
    if name is not None:
        peft_format.load_adapter(adapted, folder / name)
    with adapted.at_strength(strength if name else 1.0) as model:
        return greedy(model, tiny.tokenizer(), [prompt], tokens)[0]  # type: ignore[arg-type]


@contextmanager
def served(folder: Path | None = None, limits: Limits | None = None, **how: Any) -> Iterator[tuple[Server, str]]:
    """(server, its address) of a real server on a free port of this machine."""
    server = Server(how.pop("loaded", None) or loaded(), BASE, folder, limits)
    with serving(server, **how) as address:
        yield server, address


@contextmanager
def serving(server: Any, **how: Any) -> Iterator[str]:
    """The address of a server while it runs."""
    ready, told = threading.Event(), list[str]()
    web = Web(build(server, **how), "127.0.0.1", 0, lambda address: (told.append(address), ready.set())[0])
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    assert ready.wait(120)
    try:
        yield told[0]
    finally:
        web.should_exit = True
        thread.join(120)
