"""The contract of a method: what it may fill (slots), ask for (needs), keep (state) and must declare (capabilities).

A method is a class with typed fields and a few functions named after slots. Each function names the arguments it
wants, out of those its slot offers (`SLOTS`); asking for another is an error when the method is loaded. The slot, not
the method, owns the rule by which several methods combine.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from tunewright.errors import MethodError, did_you_mean

if TYPE_CHECKING:
    from tunewright.models.adapted import Adapted
    from tunewright.models.sites import Structure


@dataclass(frozen=True)
class Slot:
    """A place in the life of a model where methods plug in.

    `offers`: argument names a method's function may ask for. `several`: how methods on one slot combine; `"one"` means
    two methods are refused before anything is loaded.
    """

    name: str
    does: str
    offers: tuple[str, ...]
    several: Literal["one", "in order", "weighted sum", "sum", "one a site, else a stack", "one a group"]


SLOTS: dict[str, Slot] = {
    s.name: s
    for s in (
        Slot(
            "prepare",
            "edits model and tokenizer before training",
            ("model", "tokenizer", "needs", "state", "rng"),
            "in order",
        ),
        Slot(
            "attach",
            "gives a site its delta, initialised; None passes",
            ("site", "needs", "state", "rng"),
            "one a site, else a stack",
        ),
        Slot(
            "wrap",
            "replaces the model's forward by one of its own",
            ("model", "structure", "needs", "state", "rng"),
            "one",
        ),
        Slot(
            "choose",
            "names what trains until the next drawing",
            ("candidates", "step", "plan", "needs", "state", "rng"),
            "one",
        ),
        Slot("example", "changes a record before it is encoded", ("record", "rng"), "in order"),
        Slot(
            "batch", "changes a batch after packing", ("batch", "step", "plan", "needs", "state", "row_rng"), "in order"
        ),
        Slot(
            "rollout",
            "turns prompts into rows to train on",
            ("prompts", "generate", "score", "step", "needs", "state", "row_rng"),
            "one",
        ),
        Slot("reward", "scores samples, one number each", ("samples", "needs", "state"), "weighted sum"),
        Slot(
            "objective",
            "what is minimised, a token or a row",
            ("outputs", "batch", "needs", "step", "plan", "state"),
            "weighted sum",
        ),
        Slot(
            "penalty",
            "what is held back, a scalar once an optimizer step",
            ("targets", "needs", "step", "plan", "state"),
            "sum",
        ),
        Slot("gradient", "changes gradients before clipping", ("gradients", "step", "needs", "state"), "in order"),
        Slot(
            "optimizer",
            "makes the optimizer of a parameter group",
            ("parameters", "learning_rate", "weight_decay", "state"),
            "one a group",
        ),
        Slot(
            "update",
            "changes the optimizer's proposed step",
            ("changes", "parameters", "step", "plan", "state"),
            "in order",
        ),
        Slot("schedule", "gives the learning rate's factor at a step", ("step", "plan", "state"), "one"),
        Slot(
            "mixture", "gives the next weights of the sources", ("weights", "progress", "step", "plan", "state"), "one"
        ),
        Slot("average", "gives the weights that are kept", ("averaged", "parameters", "step", "plan", "state"), "one"),
        Slot("step", "owns the whole inner step", ("inner", "step", "plan", "needs", "state"), "one"),
        Slot(
            "begin_task",
            "is told that a task or stage begins",
            ("stage", "adapted", "needs", "state", "rng"),
            "in order",
        ),
        Slot(
            "end_task", "is told that a task or stage ends", ("stage", "adapted", "needs", "state", "rng"), "in order"
        ),
        Slot("after_step", "is told that an optimizer step is done", ("step", "plan", "adapted", "state"), "in order"),
        # Beside training: these are not driven by the loop.
        Slot("select", "scores records, or orders a subset of them", ("records", "target", "rng"), "in order"),
        Slot("synthesize", "makes records before a stage", ("records", "adapted", "rng"), "in order"),
        Slot(
            "merge",
            "tensors of several models -> one tensor",
            ("name", "base", "tensors", "each", "depth", "needs", "rng"),
            "in order",
        ),
        Slot(
            "edit",
            "a model's change -> another change, tensor by tensor",
            ("name", "base", "change", "depth", "needs"),
            "in order",
        ),
        Slot(
            "predict",
            "logits while decoding: those of its speakers, {name: [.., V]} -> [.., V]",
            ("logits", "needs", "state"),
            "in order",
        ),
        Slot(
            "probe", "measures base and tuned weights or answers", ("base", "tuned", "structure", "needs"), "in order"
        ),
    )
}
"""The slots by name. A new one needs three methods waiting for it."""

TRAINING_SLOTS = tuple(n for n in SLOTS if n not in {"select", "synthesize", "merge", "edit", "predict", "probe"})


@dataclass(frozen=True)
class Plan:
    """What the loop knows of a stage before it starts. `steps` are optimizer steps; `tokens` those the budget allows.

    A budget in seconds gives no exact number of steps: then `exact` is False and `steps` is an estimate that follows
    the clock. `sources` maps each source's name to the tokens of one epoch, `replay` names those that are replayed.
    """

    steps: int
    tokens: int
    stage: str
    index: int
    learning_rate: float
    warmup_steps: int
    exact: bool = True
    sources: Mapping[str, int] = field(default_factory=dict)
    replay: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What trains until the next drawing.

    `names` are parameter names (of the base, of deltas, or method-owned), sorted when stored. `entries` maps a
    parameter's name to the sorted flat int64 indices of its entries that train (the rest of it stays). `redraw_every`
    is in optimizer steps; None draws once a stage. `moments` says what becomes of the optimizer's state: kept for what
    stays in the selection, parked while something is not drawn, or dropped.

    `places` re-indexes sparse deltas: "<site>.delta.<name>.values" -> its new sorted flat places, as many as before.
    `seeds` gives newcomers among them a start of Adam's moments: (mean gradient [k], mean squared gradient [k]).
    """

    names: tuple[str, ...] = ()
    entries: Mapping[str, Tensor] = field(default_factory=dict)
    redraw_every: int | None = None
    moments: Literal["keep", "park", "drop"] = "drop"
    places: Mapping[str, Tensor] = field(default_factory=dict)
    seeds: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Candidates:
    """What a `choose` may draw from: every parameter that could train, by kind and block.

    `parameters` maps names to tensors (base weights under the model's own names; deltas under
    "<site>.delta.<part>"; method-owned ones under "<method>.<name>").
    """

    def __init__(self, adapted: Adapted, owned: Mapping[str, nn.Parameter] | None = None):
        self.adapted = adapted
        self.structure: Structure = adapted.structure
        self.base: dict[str, nn.Parameter] = adapted.base_parameters()
        # deltas carried from an earlier stage as `frozen` are no candidates
        self.deltas: dict[str, nn.Parameter] = {
            n: p for n, p in adapted.delta_parameters().items() if not getattr(p, "tunewright_frozen", False)
        }
        self.owned: dict[str, nn.Parameter] = dict(owned or {})

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.base, **self.deltas, **self.owned}

    def by_kind(self, *roles: str) -> dict[str, list[list[str]]]:
        """role -> for each block, the names of its weight matrices (or norm weights) of that role, in module order."""
        return {
            role: [[n for n in block.weights(role) if n in self.base] for block in self.structure.blocks]
            for role in roles
        }

    @property
    def outside_blocks(self) -> tuple[str, ...]:
        """Base parameters that belong to no block: embeddings, final norm, head."""
        inside = {n for block in self.structure.blocks for n in block.parameter_names}
        return tuple(n for n in self.base if n not in inside)

    def linear_weights(self) -> dict[str, nn.Parameter]:
        """Weights of the linear sites inside blocks, by parameter name."""
        return {
            s.weight_name: self.base[s.weight_name]
            for s in self.structure.sites
            if s.block is not None and s.kind in ("linear", "conv1d") and s.weight_name in self.base
        }

    def deltas_by_block(self) -> list[list[str]]:
        """For each block, the names of the delta parameters that hang on its sites."""
        sites = {s.name: s for s in self.structure.sites}
        out: list[list[str]] = [[] for _ in self.structure.blocks]
        for name in self.deltas:
            site = sites[name.rsplit(".delta.", 1)[0]]
            if site.block is not None:
                out[site.block].append(name)
        return out


class State(nn.Module):
    """What a method keeps between calls. Parameters train in a group of their own, buffers and `data` are saved.

    `data` holds JSON values only. `rng` is the method's own generator for draws about weights, saved with the rest and
    equal on all ranks. Buffers may change their shape.
    """

    def __init__(self, **data: Any):
        super().__init__()
        self.data: dict[str, Any] = dict(data)
        self.rng = random.Random(0)

    def keep(self, name: str, tensor: Tensor) -> None:
        """Set the saved buffer `name`, whatever its shape was before."""
        self._buffers[name] = tensor


class Method(BaseModel):
    """Base of every method. Subclasses add typed fields with descriptions, and functions named after slots.

    Class attributes declare capabilities, which are enforced by an error:

    - `folds`: the change can be folded into plain weights (False: a delta that changes the graph).
    - `identity`: at the start the model gives the base's outputs bit for bit or to rounding.
    - `compiles`: the choice is static and the objective traces.
    - `second_order`: gradients of its objective may be differentiated again.
    - `quantised`: works on a quantised base.
    - `quantises`: its `prepare` puts the base's matrices into few bits.
    - `ranks`: works on several processes.
    - `couples`: whether an objective's items are independent tokens, rows, or need the whole optimizer batch.
    - `pairs`: reads a row's chosen and rejected answer as two sequences of one row (`tunewright/contract/pairs.py`).
    - `tasks`: names of the tasks it serves; None means all.
    - `requires`: slots that some method of its stage must fill ("attach": it chooses among deltas).
    - `papers`: slugs of the papers that it implements.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)

    folds: ClassVar[bool] = True
    identity: ClassVar[bool] = True
    compiles: ClassVar[bool] = True
    second_order: ClassVar[bool] = True
    quantised: ClassVar[bool] = True
    quantises: ClassVar[bool] = False
    ranks: ClassVar[bool] = True
    couples: ClassVar[Literal["token", "row", "batch"]] = "token"
    pairs: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = None
    requires: ClassVar[tuple[str, ...]] = ()
    papers: ClassVar[tuple[str, ...]] = ()

    def needs(self) -> Sequence[Need]:
        """What the method wants from outside: statistics and signals of `methods/needs/`."""
        return ()

    def setup(self, run: Setup) -> State:
        """Make the method's state, once a stage, after `prepare` and before `attach`.

        It may be called once more on the untouched base, before the base is measured, and its result thrown away: what
        cannot work here is refused then. So it must not edit anything, nor draw from another generator than `run.rng`.
        """
        return State()

    @classmethod
    def slots(cls) -> tuple[str, ...]:
        """Names of the slots that this class fills, in the table's order."""
        return tuple(n for n in SLOTS if callable(getattr(cls, n, None)))


@dataclass
class Setup:
    """What `setup` may look at: the model to be adapted, its structure, the stage's plan, the task's name."""

    adapted: Adapted
    plan: Plan
    task: str
    rng: random.Random

    @property
    def structure(self) -> Structure:
        return self.adapted.structure


class Need(BaseModel):
    """Something a method asks for. Each kind is one file in `methods/needs/`.

    `when`: "stage" (a statistic, computed once from the weights a stage starts with and cached), "batch" (a signal
    computed each micro-batch) or "redraw" (computed only at the steps where a choice is drawn). Equal needs of several
    methods are computed once. A method reads it as `needs.<name>`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    when: ClassVar[Literal["stage", "batch", "redraw"]]

    def check(self, run: Any) -> None:
        """Raise MethodError at plan time when this run cannot serve it."""

    def compute(self, run: Any, batch: Any = None) -> Any:
        """Give the value: a dict by site or parameter name for a statistic, a tensor for a signal."""
        raise NotImplementedError


class Needs:
    """What one method asked for, read by attribute: `needs.base_logits`, `needs.input_covariance[site.name]`."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise MethodError(
                f"the need '{name}' was not asked for",
                remedy=f"return it from needs(); asked for: {sorted(self.__dict__.get('_values', {}))}",
            ) from None


def call(method: Method, slot: str, **offered: Any) -> Any:
    """Call a method's slot function with those of the offered arguments that it names."""
    function = getattr(method, slot)
    return function(**{n: offered[n] for n in arguments(type(method), slot)})


_ARGUMENTS: dict[tuple[type, str], tuple[str, ...]] = {}


def arguments(cls: type[Method], slot: str) -> tuple[str, ...]:
    """Names of the arguments that a class's slot function asks for; MethodError when the slot does not offer one."""
    key = (cls, slot)
    if key not in _ARGUMENTS:
        names = tuple(inspect.signature(getattr(cls, slot)).parameters)[1:]
        for n in names:
            if n not in SLOTS[slot].offers:
                raise MethodError(
                    f"{cls.__name__}.{slot} asks for '{n}', which the slot does not offer",
                    where=inspect.getsourcefile(cls),
                    remedy=did_you_mean(n, SLOTS[slot].offers),
                )
        _ARGUMENTS[key] = names
    return _ARGUMENTS[key]


def check_class(cls: type[Method]) -> None:
    """Check what a method class declares: at least one slot, known arguments, described fields.

    MethodError otherwise.
    """
    where = inspect.getsourcefile(cls)
    if not cls.slots():
        raise MethodError(
            f"{cls.__name__} fills no slot",
            where=where,
            remedy="define a function named after one of: " + ", ".join(SLOTS),
        )
    for slot in cls.slots():
        arguments(cls, slot)
    for name, info in cls.model_fields.items():
        if not info.description:
            raise MethodError(
                f"{cls.__name__}.{name} has no description",
                where=where,
                remedy="write it as Field(default, description='... with its unit')",
            )


def row_rng(seed: int, method: str, epoch: int, row_id: str) -> random.Random:
    """A generator for draws about one row, the same however rows are packed, split or spread over ranks."""
    return random.Random(f"{seed}/{method}/{epoch}/{row_id}")


def torch_generator(rng: random.Random) -> torch.Generator:
    """A CPU generator seeded by the next draw of `rng`."""
    return torch.Generator().manual_seed(rng.getrandbits(63))


SlotFunction = Callable[..., Any]
