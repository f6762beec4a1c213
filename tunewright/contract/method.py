"""The contract of a method: what it may fill (slots), ask for (needs), keep (state) and must declare.

A method is a class with typed fields and a few functions named after slots. Each names the arguments it wants, out of
those its slot offers (`SLOTS`). The slot, not the method, owns the rule by which several methods combine.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from tunewright.contract.candidates import Candidates as Candidates
from tunewright.contract.found import Found
from tunewright.contract.left import Earlier
from tunewright.contract.raised import pass_on
from tunewright.contract.returned import check_returned, place, told
from tunewright.contract.slot import SLOTS
from tunewright.contract.state import State as State
from tunewright.errors import MethodError, did_you_mean

if TYPE_CHECKING:
    from tunewright.contract.records import Record
    from tunewright.models.adapted import Adapted
    from tunewright.models.sites import Structure


@dataclass(frozen=True)
class Plan:
    """What the loop knows of a stage before it starts. `steps` are optimizer steps; `tokens` those the budget allows.

    A budget in seconds gives no exact number of steps: then `exact` is False and `steps` follows the clock. `sources`
    maps each source's name to the tokens of one epoch, `replay` names those that are replayed. `kept`: names of the
    sources of `keep`, as rows have them; `measured`: of all others that are read without being trained on.
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
    kept: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What trains until the next drawing.

    `names` are parameter names (of the base, of deltas, or method-owned), sorted when stored. `entries` maps a
    parameter's name to the sorted flat int64 indices of its entries that train (the rest of it stays). `redraw_every`
    is in optimizer steps; None draws once per stage. `moments` says what becomes of the optimizer's state: kept for
    what stays in the selection, parked while something is not drawn, or dropped.

    `places` re-indexes sparse deltas: "<site>.delta.<name>.values" -> its new sorted flat places, as many as before.
    `seeds` gives newcomers among them a start of Adam's moments: (mean gradient [k], mean squared gradient [k]).
    """

    names: tuple[str, ...] = ()
    entries: Mapping[str, Tensor] = field(default_factory=dict)
    redraw_every: int | None = None
    moments: Literal["preserve", "park", "drop"] = "drop"
    places: Mapping[str, Tensor] = field(default_factory=dict)
    seeds: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Method(BaseModel):
    """Base of every method. Subclasses add typed fields with descriptions, and functions named after slots.

    Class attributes declare capabilities, which are enforced by an error:

    - `folds`: the change can be folded into plain weights (False: a delta that changes the graph).
    - `identity`: at the start the model gives the base's outputs bit for bit or to rounding.
    - `quantised`: works on a quantised base.
    - `quantises`: its `prepare` puts the base's matrices into few bits.
    - `reshapes`: its `prepare` gives a `Surgery`, which changes the model's shape.
    - `ranks`: works on several processes.
    - `divides`: works where these hold parts of the weights (`train.fsdp`): proved by a test that runs it so.
    - `takes_gradients`: it asks autograd for gradients beside the loop's backward passes; a need may say so too
      (refused in float16, where the losses of training alone are scaled).
    - `couples`: whether an objective's items are independent tokens, rows, or need the whole optimizer batch.
    - `needs_logits`: an objective over the whole optimizer batch reads logits [S, V] (False: log-probabilities alone,
      so that no more than these is kept of a step's micro-batches).
    - `pairs`: reads a row's chosen and rejected answer as two sequences of one row (`contract/pairs.py`).
    - `tasks`: names of the tasks it serves, and with them every task of their `kind`; None means all.
    - `requires`: slots that some method of its stage must fill ("attach": it chooses among deltas).
    - `leaves`: names of its state (buffers, or what begins their names; keys of `data`) that later stages may see.
    - `learning_rates`: peak learning rates that suit it, by task and "" for any other, of AdamW on a model of width
      1,024 (`training/defaults.py` says what becomes of them); empty: it says none.
    - `carries`: the `carry` that it asks for in the stages of a sequence of tasks, where the recipe does not say one.
    - `rate_factor`: by how much it asks for another rate than the methods that it stands beside say; `rate_by_width`,
      `rate_by_rows`: by which further powers of 1,024 / the model's width, and of rows a step / 4 where weights are
      added, that rate grows.
    - `alone`: it says something of the stage's rows as the data has them: no other method may stand in its stage, and
      rows are not made, selected or replayed for it.
    - `orders`: the order in which its `select` keeps records is that in which they are learnt, in the first pass over
      each source; other selectors' order counts only where `data.shuffle` is off.
    - `resets`: when a method on `adapt` begins again from the source weights, where the recipe does not say.
    - `category`: by what it spares parameters (`contract/category.py`): each in `methods/adapters` and
      `methods/parameter_selection` says it, in its own file, where it is read without importing it.
    - `papers`: slugs of the papers that it implements.
    - `also`: other names of its parameters that are read too, such as PEFT's: other name -> name.

    What the conformance suite reads: `conformance`, parameters for the tiny set-up where the defaults do not fit;
    `conformance_beside`, methods that it cannot do without, by name with their parameters; `conformance_says`,
    what scripted writers answer a method on `synthesize`, with {} for each word of theirs; `conformance_stages`, how
    many stages in a row it takes to show what it does.

    Any other public name in a subclass is refused when the class is loaded: name helpers with an underscore.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)

    folds: ClassVar[bool] = True
    identity: ClassVar[bool] = True
    quantised: ClassVar[bool] = True
    quantises: ClassVar[bool] = False
    reshapes: ClassVar[bool] = False
    ranks: ClassVar[bool] = True
    divides: ClassVar[bool] = False
    takes_gradients: ClassVar[bool] = False
    couples: ClassVar[Literal["token", "row", "batch"]] = "token"
    needs_logits: ClassVar[bool] = True
    pairs: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = None
    requires: ClassVar[tuple[str, ...]] = ()
    leaves: ClassVar[tuple[str, ...]] = ()
    learning_rates: ClassVar[Mapping[str, float]] = {}
    carries: ClassVar[Literal["fold", "frozen", "training", "drop"] | None] = None
    rate_factor: ClassVar[float] = 1.0
    rate_by_width: ClassVar[float] = 0.0
    rate_by_rows: ClassVar[float] = 0.0
    alone: ClassVar[bool] = False
    orders: ClassVar[bool] = False
    resets: ClassVar[Literal["never", "source", "batch", "row"]] = "never"
    category: ClassVar[str | None] = None
    papers: ClassVar[tuple[str, ...]] = ()
    also: ClassVar[Mapping[str, str]] = {}
    conformance: ClassVar[Mapping[str, Any]] = {}
    conformance_beside: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conformance_says: ClassVar[str] = "{}"
    conformance_stages: ClassVar[int] = 1

    @model_validator(mode="before")
    @classmethod
    def _by_other_names(cls, values: Any) -> Any:
        """Bring parameters that are written under another name to their own."""
        if not isinstance(values, Mapping):
            return values
        named = dict(values)
        for other in cls.also.keys() & values.keys():
            if cls.also[other] not in cls.model_fields:
                continue  # a subclass took the parameter away: it is refused by the name that was written
            if cls.also[other] in values:
                raise ValueError(f"'{other}' and '{cls.also[other]}' mean the same: write one of them")
            named[cls.also[other]] = named.pop(other)
        return named

    def needs(self) -> Sequence[Need]:
        """What the method wants from outside: statistics and signals of `methods/needs/`."""
        return ()

    def setup(self, run: Setup) -> State:
        """Make the method's state, once per stage, after `prepare` and before `attach`.

        It may be called once more on the untouched base, before the base is measured, and its result thrown away: what
        cannot work here is refused then. So it must not edit anything, nor draw from another generator than `run.rng`.
        """
        return State()

    def caution(self, plan: Plan) -> str | None:
        """One sentence where the method cannot act in the planned steps, or would undo the run, to be shown."""
        return None

    def save(self, state: nn.Module, model: nn.Module, folder: Path, base_name: str) -> bool:
        """Write what wraps the model into `folder` as others read it; False: it has no such format.

        Asked of a method that fills `wrap`. `base_name` is what the recipe calls the model.
        """
        return False

    def speakers(self) -> tuple[str, ...]:
        """Models that it asks: "tuned", "base" (a predictor), "start" (a selector), or names of `models`.

        On `synthesize` also "previous" (what the stage before made, else the base) and "stages.NAME" of an earlier one.
        """
        return ()

    def own_model(self) -> str | None:
        """The folder of a model of its own that a selector on `select` reads every record with; None: it has none.

        A check asks no model: it says what will be read, and applies this selector and those behind it no sooner than
        the run does.
        """
        return None

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        """A record as a row of what `synthesize` will make, while nothing is made yet: what is missing is filled in.

        A plan, a check and the rule for what a recipe leaves out see these rows, and nothing trains on them."""
        return record

    def makes(self, count: int) -> int | None:
        """How many records `synthesize` makes of `count` at most, for a plan to say; None: nobody can tell."""
        return count

    def found(self, state: State) -> Found | None:
        """Figures that it found out in its stage, asked when the stage has ended; kept with it and reported."""
        return None

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        """Names of the parameters that a method on `adapt` may change at test time: base, deltas, its state's own.

        Asked once per stream, after `setup`. MethodError where this model has nothing that it could change.
        """
        return ()

    @property
    def share_of_sum(self) -> float:
        """What its objective or reward counts in the sum: its field `weight`, else 1."""
        return float(getattr(self, "weight", 1.0))

    @property
    def optimizer_group(self) -> str:
        """The parameter group that its optimizer is for: its field `group`, else all."""
        return str(getattr(self, "group", "all"))

    @classmethod
    def slots(cls) -> tuple[str, ...]:
        """Names of the slots that this class fills, in the table's order."""
        return tuple(n for n in SLOTS if callable(getattr(cls, n, None)))


@dataclass
class Setup:
    """What `setup` may look at: the model to be adapted, its structure, the stage's plan, the task's name.

    `earlier`: what methods of earlier stages left of their state: `run.earlier.latest("ewc")`,
    `run.earlier.named("stages.first.fisher")`, `run.earlier.inherited("mos")` of the stages that this one goes on from.
    """

    adapted: Adapted
    plan: Plan
    task: str
    rng: random.Random
    earlier: Earlier = field(default_factory=Earlier)

    @property
    def structure(self) -> Structure:
        return self.adapted.structure


class Need(BaseModel):
    """Something a method asks for. Each kind is one file in `methods/needs/`.

    `when`: "once" (a statistic, computed once from the weights a stage starts with and cached), "prepare" (computed
    from the weights before this method's `prepare`, which may change the model's shape), "batch" (a signal
    computed each micro-batch), "redraw" (computed only at the steps where a choice is drawn) or "end" (computed from
    the weights a stage ends with, for `end_task`). Equal needs of several methods are computed once, unless
    `reads_state` is set: then `compute(run, batch, state)` also gets the state of the method that asks. A method reads
    it as `needs.<name>`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    when: ClassVar[Literal["once", "prepare", "batch", "redraw", "end"]]
    reads_state: ClassVar[bool] = False
    of_models: ClassVar[bool] = False
    """Whether it reads other models alone, so that it is there before a stage is set up."""
    of_rows: ClassVar[bool] = False
    """Whether it reads rows alone, so that a check can have it."""
    hidden: ClassVar[bool] = False
    """Whether the loop's own forward has to keep all hidden states for it."""
    takes_gradients: ClassVar[bool] = False
    """Whether it asks autograd for gradients of the model."""

    @property
    def reads(self) -> str | None:
        """The source of rows that it draws from: the field `source` of a need that has one."""
        source = getattr(self, "source", None)
        return None if source is None else str(source)

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


def call(method: Method, slot: str, named: str = "", /, **offered: Any) -> Any:
    """Call a method's slot function with those of the offered arguments that it names. `named`: the method in the
    recipe. MethodError where it gives what the slot does not take, and where a method of somebody's own raises.
    """
    function, takes = getattr(method, slot), arguments(type(method), slot)
    try:
        given = function(**{n: offered[n] for n in takes})
    except Exception as error:
        pass_on(error, method, slot, named)
    check_returned(type(method), slot, given, named, offered)
    return given


def begun(method: Method, run: Setup, named: str = "") -> State:
    """What a method's `setup` gives. MethodError where it gives no State, or a method of somebody's own raises."""
    try:
        state = method.setup(run)
    except Exception as error:
        pass_on(error, method, "setup", named)
    if not isinstance(state, State):
        raise MethodError(
            f"'{named or type(method).__name__}' gave {told(state)} as its state",
            where=place(type(method), "setup"),
            remedy="end setup with `return State(...)`",
        )
    return state


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


def reads_records(method: Method) -> bool:
    """Whether a selector reads records with a model: it asks for readers, and its parameters name one (or it forgot to
    say which).
    """
    cls = type(method)
    asks = "select" in cls.slots() and "readers" in arguments(cls, "select")
    return asks and (bool(method.speakers()) or cls.speakers is Method.speakers)


def row_rng(seed: int, method: str, epoch: int, row_id: str) -> random.Random:
    """A generator for draws about one row, the same however rows are packed, split or spread over ranks."""
    return random.Random(f"{seed}/{method}/{epoch}/{wherever(row_id)}")


def wherever(name: str) -> str:
    """A source's or row's name without the folder of an absolute path: what is drawn by it does not hang on where a
    user keeps the data.
    """
    return os.path.basename(name) if os.path.isabs(name) else name


def torch_generator(rng: random.Random) -> torch.Generator:
    """A CPU generator seeded by the next draw of `rng`."""
    return torch.Generator().manual_seed(rng.getrandbits(63))
