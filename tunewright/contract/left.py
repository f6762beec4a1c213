"""What a method leaves of its state for the stages after its own: by stage, by method, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tunewright.errors import MethodError, did_you_mean


@dataclass(frozen=True)
class Left:
    """What one method left at the end of one stage: each of its declared names -> a tensor, tensors by name, or JSON.

    A name that begins several buffers ("fisher.<site>") gives them as a mapping by the rest of theirs.
    """

    stage: str
    method: str
    values: Mapping[str, Any] = field(default_factory=dict)


class NotThereYet(Exception):
    """Raised in a rehearsal by a method that asks for what a stage before it has yet to leave."""


@dataclass(frozen=True)
class Earlier(Sequence[Left]):
    """Everything that earlier stages left, in the order in which they ended.

    `complete`: they have ended. `way`: the stages that this one goes on from, back to the base; None: all of them.
    """

    all: tuple[Left, ...] = ()
    complete: bool = True
    way: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, i: Any) -> Any:
        return self.all[i]

    def latest(self, method: str) -> Left | None:
        """What the last stage that used `method` left of it; None before the first."""
        return next((left for left in reversed(self.all) if left.method == method), None)

    def inherited(self, method: str) -> Left | None:
        """What the last stage that used `method` left of it, of those that this one goes on from (its start, the start
        of that one ...): what belongs to the model that is there. None before the first.
        """
        there = [left for left in self.all if self.way is None or left.stage in self.way]
        return Earlier(tuple(there)).latest(method)

    def named(self, path: str) -> Any:
        """What `stages.<stage>.<name>` stands for. MethodError with what there is, where nothing is called so."""
        there = {f"stages.{left.stage}.{n}": v for left in self.all for n, v in left.values.items()}
        if path not in there and not self.complete:
            raise NotThereYet
        if path not in there:
            raise MethodError(
                f"no earlier stage has left '{path}'",
                where=path,
                remedy=did_you_mean(path, there) if there else "no method of an earlier stage leaves anything",
            )
        return there[path]


def left_of(stage: str, method: str, names: Sequence[str], state: nn.Module, data: Mapping[str, Any]) -> Left | None:
    """What a method leaves at the end of a stage: `names` of its state's buffers and parameters, or of its data.

    None where it names nothing. MethodError for a name that its state does not hold.
    """
    if not names:
        return None
    buffers = {n.replace("/", "."): t.detach() for n, t in state.named_buffers()}
    buffers.update({n: p.detach() for n, p in state.named_parameters()})
    values: dict[str, Any] = {}
    for leaving in names:
        parts = {n.removeprefix(f"{leaving}."): t for n, t in buffers.items() if n.startswith(f"{leaving}.")}
        if leaving in buffers:
            values[leaving] = buffers[leaving]
        elif parts:
            values[leaving] = parts
        elif leaving in data:
            values[leaving] = data[leaving]
        else:
            raise MethodError(
                f"'{method}' declares that it leaves '{leaving}', and its state holds nothing of that name",
                where=f"stage {stage}",
                remedy=f"it holds: {', '.join(sorted({*buffers, *data})) or 'nothing'}",
            )
    return Left(stage, method, values)


def to_files(left: Sequence[Left]) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """(JSON by method, tensors by "<method>|<name>" or "<method>|<name>|<part>") of one stage's."""
    data: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for one in left:
        data[one.method] = {}
        for name, value in one.values.items():
            if isinstance(value, Tensor):
                tensors[f"{one.method}|{name}"] = value
            elif isinstance(value, Mapping) and value and all(isinstance(v, Tensor) for v in value.values()):
                tensors.update({f"{one.method}|{name}|{part}": t for part, t in value.items()})
            else:
                data[one.method][name] = value
    return data, tensors


def from_files(stage: str, data: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> list[Left]:
    """What `to_files` gave."""
    values: dict[str, dict[str, Any]] = {method: dict(of) for method, of in data.items()}
    for key, tensor in tensors.items():
        method, name, *part = key.split("|", 2)
        held = values.setdefault(method, {})
        if part:
            held.setdefault(name, {})[part[0]] = tensor
        else:
            held[name] = tensor
    return [Left(stage, method, of) for method, of in values.items()]
