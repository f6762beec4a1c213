"""Probes of any two models, by name: those of a recipe's `probes`, ours and other packages' (a method with the slot
`probe`).

One model is in memory at a time: where a probe asks for `structure`, and so reads weights, the first side's are written
aside, as it answers with them (deltas folded in), and read back tensor by tensor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tunewright import catalogue
from tunewright.contract.method import Method, arguments, call
from tunewright.errors import FolderError, MethodError, RecipeError
from tunewright.files.tensors import save_tensors
from tunewright.measure.drift import take_features
from tunewright.measure.probe import Side
from tunewright.paired.reading import Read
from tunewright.paired.sides import Opened
from tunewright.recipe import MethodUse
from tunewright.recipe.naming import numbered
from tunewright.report.schema import Probe
from tunewright.runs.probes import Weights

WHERE = "--probes"
SLOT = "probe"


class Saved(Mapping[str, Tensor]):
    """Tensors of a safetensors file, read when asked for."""

    def __init__(self, file: Path):
        from safetensors import safe_open

        self._file = safe_open(file, framework="pt")
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass
class Probing:
    """The probes that are asked for, and what was kept of the first side for them."""

    probes: dict[str, Method]
    _first: Side = field(default_factory=Side)
    _folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def reads_weights(self) -> bool:
        """Whether any of them reads weights."""
        return any("structure" in arguments(type(m), SLOT) for m in self.probes.values())

    def keep(self, side: Opened, found: Read) -> None:
        """Keep what the probes read of the first side, while it is open. FolderError where the disk is full."""
        if not self.probes:
            return
        weights: Mapping[str, Tensor] = {}
        if self.reads_weights and side.adapted.foldable:
            self._folder = tempfile.TemporaryDirectory(prefix="tunewright-measure-")
            file = Path(self._folder.name) / "first.safetensors"
            try:
                with side.adapted.at_strength(1.0):
                    save_tensors({n: p.detach().cpu().contiguous() for n, p in _parameters(side)}, file)
            except OSError as e:
                what = f"the first side's weights cannot be written for the probes: {e.strerror or e}"
                raise FolderError(what, where=str(file), remedy="free space, or set TMPDIR to another disk") from e
            weights = Saved(file)
        read = _features(side, found)
        there = read() if read is not None else None  # now: its model goes before the other comes
        self._first = Side(weights, _answers(found), None if there is None else lambda: there)

    def run(self, side: Opened, found: Read) -> dict[str, Probe]:
        """Each probe's result, of the first side and this one. MethodError where a probe lacks what it needs."""
        if not self.probes:
            return {}
        weights: Mapping[str, Tensor] = {}
        if self.reads_weights and side.adapted.foldable:
            weights = Weights(side.adapted, tuned=True)
            self._check(side)
        offered: dict[str, Any] = {
            "base": self._first,
            "tuned": Side(weights, _answers(found), _features(side, found)),
            "structure": side.adapted.structure,
        }
        return {n: Probe(**call(m, SLOT, n, **offered).model_dump()) for n, m in self.probes.items()}

    def close(self) -> None:
        """Take away what was written."""
        self._first = Side()
        if self._folder is not None:
            self._folder.cleanup()

    def _check(self, side: Opened) -> None:
        """MethodError where the sides' weights are not those of one architecture."""
        own = {n: tuple(p.shape) for n, p in _parameters(side)}
        first = self._first.weights
        other = next((n for n in own if n not in first or tuple(first[n].shape) != own[n]), None)
        if first and (other is not None or len(own) != len(first)):
            raise MethodError(
                f"the two sides' weights are not of one shape ({other or 'other names'})",
                where=WHERE,
                remedy="leave out the probes that read weights, or name a model and what was tuned from it",
            )


def _parameters(side: Opened) -> Iterator[tuple[str, Tensor]]:
    yield from side.adapted.base_parameters().items()


def _features(side: Opened, found: Read) -> Callable[[], Tensor] | None:
    """What reads the features of the target's rows; None of tasks that pool none, and without rows."""
    if not side.task.pools or not found.target:
        return None
    rows = {row.id: row for row in found.asked}
    own = [rows[r.id] for r in found.target]
    return lambda: take_features(side.model, side.task, own).values.cpu()


def _answers(found: Read) -> dict[str, Any]:
    return {"target": found.target, "choice": found.choice, **found.packs}


def probing(asked: Sequence[str | MethodUse]) -> Probing:
    """The probes of these names. RecipeError and MethodError for one that there is none of, or that is no probe."""
    uses = [MethodUse(name=u) if isinstance(u, str) else u for u in asked]
    for use in uses:
        cls = catalogue.load_method(use.name, WHERE)
        if SLOT not in cls.slots():
            known = [n for n, e in catalogue.entries().items() if e.room == "measure"]
            what = f"'{use.name}' is no probe: it fills {', '.join(cls.slots())}"
            raise MethodError(what, where=WHERE, remedy=f"probes: {', '.join(known)}, and those of other packages")
    built = [catalogue.build(use, WHERE) for use in uses]
    return Probing(dict(zip(numbered([use.name for use in uses]), built, strict=True)))


def names(written: Sequence[str]) -> list[str]:
    """`--probes a,b`, given once or often. RecipeError for an empty name."""
    found = [name.strip() for text in written for name in text.split(",")]
    if "" in found:
        raise RecipeError(
            "a probe without a name", where=WHERE, remedy="write --probes calibration,intruder-dimensions"
        )
    return found
