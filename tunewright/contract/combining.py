"""How the methods of a stage combine: conflicts refused before anything is loaded, each slot's rule applied here.

Nothing in this file knows a method's name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.contract.class_check import check_class
from tunewright.contract.method import Method, Needs, State, arguments, call
from tunewright.contract.slot import SLOTS
from tunewright.contract.task import Task
from tunewright.errors import MethodError


@dataclass
class Bound:
    """A method in a stage: its name in the recipe, its state, and what its needs gave.

    `weight` scales its objective.
    """

    name: str
    method: Method
    weight: float = 1.0
    state: State = field(default_factory=State)
    stage_needs: dict[str, Any] = field(default_factory=dict)

    @property
    def coupled(self) -> bool:
        return self.method.couples == "batch"


class Methods:
    """The methods of one stage, in the recipe's order."""

    def __init__(self, bound: Sequence[Bound]):
        self.bound = list(bound)
        self._by_slot = {slot: [b for b in self.bound if slot in type(b.method).slots()] for slot in SLOTS}

    def __iter__(self) -> Iterator[Bound]:
        return iter(self.bound)

    def on(self, slot: str) -> list[Bound]:
        """Methods that fill a slot, in order."""
        return self._by_slot[slot]

    def one(self, slot: str) -> Bound | None:
        """The method on a slot that takes one, or None."""
        methods = self.on(slot)
        return methods[0] if methods else None

    def call(self, bound: Bound, slot: str, signals: Mapping[str, Any] | None = None, **offered: Any) -> Any:
        """Call one method's slot function; `needs` is made only when the function asks for it."""
        if "needs" in arguments(type(bound.method), slot):
            offered["needs"] = Needs({**bound.stage_needs, **(signals or {})})
        return call(bound.method, slot, bound.name, state=bound.state, rng=bound.state.rng, **offered)

    def event(self, slot: str, **offered: Any) -> None:
        """Tell every method on an event slot, in order."""
        for b in self.on(slot):
            self.call(b, slot, **offered)

    def chain(self, slot: str, key: str, value: Any, **offered: Any) -> Any:
        """Pass a value through every method on a slot, in order; None keeps it."""
        for b in self.on(slot):
            changed = self.call(b, slot, **{key: value}, **offered)
            value = value if changed is None else changed
        return value


def serves(method: Method | type[Method], task: Task) -> bool:
    """Whether a method serves a task: it names none, the task, or the one of whose kind the task is. One that names a
    classification means one class a row.
    """
    return method.tasks is None or not task.other_problem and any(task.is_a(name) for name in method.tasks)


def check_serves(name: str, method: Method | type[Method], task: Task, where: str) -> None:
    """MethodError where a method does not serve the task."""
    if not serves(method, task):
        what = f"'{name}' does not serve the task {task.called}"
        raise MethodError(what, where=where, remedy="it serves: " + ", ".join(method.tasks or ()))


def check_conflicts(
    named: Sequence[tuple[str, Method]], *, stage: str, task: Task | None = None, carried: bool = False
) -> None:
    """Refuse, before anything is loaded, what cannot be combined. Raises MethodError naming both methods.

    Two methods on a slot that takes one; the same method twice; a method that does not serve the task, or that requires
    a slot which nobody fills. `carried`: the stage begins with deltas that go on training, which count as attached.
    """
    where = f"stages.{stage}.methods"
    seen: dict[str, Method] = {}
    for name, method in named:
        check_class(type(method))
        if name in seen:
            raise MethodError(
                f"'{name}' is named twice",
                where=where,
                remedy="name it once; to use it again with other parameters, add a second stage",
            )
        seen[name] = method
        if task is not None:
            check_serves(name, method, task, where)
    bits = next((n for n, m in named if m.quantises), None)
    for name, method in named:
        if bits is not None and name != bits and not method.quantised:
            raise MethodError(
                f"'{name}' needs the base's weights, and '{bits}' holds them in 4 bits",
                where=where,
                remedy=f"use lora in the place of '{bits}', or put '{name}' into a stage of its own",
            )
    for slot in SLOTS.values():
        filling = [n for n, m in named if slot.name in type(m).slots()]
        if slot.several == "one" and len(filling) > 1:
            a, b = filling[:2]
            raise MethodError(
                f"'{a}' and '{b}' each {slot.does}: the slot '{slot.name}' takes one method",
                where=where,
                remedy=f"put them into two stages:\n     stages:\n       - {{name: first, methods: [{a}]}}\n"
                f"       - {{name: second, start: stages.first, methods: [{b}]}}",
            )
    _check_rows(named, where)
    filled = {slot for _, m in named for slot in type(m).slots()} | ({"attach"} if carried else set())
    for name, method in named:
        for needed in method.requires:
            if needed not in filled:
                raise MethodError(
                    f"'{name}' works beside a method that fills the slot '{needed}', and this stage has none",
                    where=where,
                    remedy=(
                        "add one; `tunewright methods NAME` says which slots a method fills, and lora fills 'attach'"
                    ),
                )
    _check_alone(named, where)


def _check_alone(named: Sequence[tuple[str, Method]], where: str) -> None:
    """MethodError where a method that has its stage to itself has another one beside it; an optimizer does nothing."""
    alone = next((n for n, m in named if m.alone), None)
    beside = next((n for n, m in named if n != alone and set(type(m).slots()) != {"optimizer"}), None)
    if alone is not None and beside is not None:
        raise MethodError(
            f"'{alone}' has its stage to itself, and '{beside}' stands beside it",
            where=where,
            remedy=f"put '{beside}' into a stage of its own",
        )


def _check_rows(named: Sequence[tuple[str, Method]], where: str) -> None:
    """MethodError where rows that a method changes are not single texts of the data."""
    changing = next((n for n, m in named if "row" in type(m).slots()), None)
    made = next((n for n, m in named if m.pairs or "rollout" in type(m).slots()), None)
    if changing is not None and made is not None:
        raise MethodError(
            f"'{changing}' changes rows of the data, and '{made}' trains on answers that belong together",
            where=where,
            remedy="put them into two stages",
        )


def bind(named: Sequence[tuple[str, Method]], seed: int, stage: str) -> Methods:
    """Methods with fresh states; each one's generator is seeded by (seed, stage, name)."""
    bound = []
    for name, method in named:
        b = Bound(name, method, weight=method.share_of_sum)
        b.state.rng = random.Random(f"{seed}/{stage}/{name}")
        bound.append(b)
    return Methods(bound)


def states_of(methods: Methods) -> tuple[dict[str, Any], dict[str, Any]]:
    """(JSON, tensors) of all methods' states: data, generator, parameters and buffers under "<method>.<name>"."""
    data = {b.name: {"data": b.state.data, "rng": rng_state(b.state.rng)} for b in methods}
    tensors = {f"{b.name}.{n}": t for b in methods for n, t in b.state.state_dict(keep_vars=True).items()}
    return data, tensors


def restore_states(methods: Methods, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Put back what `states_of` gave; buffers take the saved shape."""
    for b in methods:
        saved = data[b.name]
        b.state.data = dict(saved["data"])
        b.state.rng.setstate(rng_tuple(saved["rng"]))
        own = f"{b.name}."
        restore_tensors(b.state, {n.removeprefix(own): t for n, t in tensors.items() if n.startswith(own)})


def restore_tensors(state: State, tensors: Mapping[str, Any]) -> None:
    """Put a state's tensors back, by the names of its `state_dict()`; buffers take the saved shape, and those that
    `setup` does not make are made.
    """
    owned = dict(state.named_parameters())
    for name, tensor in tensors.items():
        if name in owned:
            owned[name].data.copy_(tensor)
        else:
            path, _, leaf = name.rpartition(".")
            state.get_submodule(path)._buffers[leaf] = tensor.to(state.device, copy=True)


def rng_state(rng: random.Random) -> list[Any]:
    """A Python generator's state as JSON."""
    version, internal, gauss = rng.getstate()
    return [version, list(internal), gauss]


def rng_tuple(saved: Sequence[Any]) -> tuple[Any, ...]:
    """The state that `random.Random.setstate` takes, from `rng_state`."""
    return (saved[0], tuple(saved[1]), saved[2])
