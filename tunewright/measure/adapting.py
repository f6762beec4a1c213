"""A stream of rows without labels, answered in order by a model that a method adapts while it answers.

Whoever measures, serves or talks opens a `Stream` and gives it rows; the method's `adapt` answers each batch and may
learn from it for those that come later. What it may change is named (`adapts`), kept as it was, and put back bit for
bit when the stream is closed. Draws are keyed by (seed, method, row id) or saved with the state, so that a stream that
is stopped after any batch and taken up again gives the same bits.

A guard against collapse puts the source weights back where an update is not finite, and where one class takes nearly
all of the latest answers though the source model does not give it to the rows at hand (a model that adapts to its own
errors ends there; Niu et al. 2023, arXiv:2302.12400, restore by a running mean of the entropy instead).
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Outputs, Row
from tunewright.contract.combining import rng_state, rng_tuple
from tunewright.contract.method import Candidates, Method, Plan, Setup, State, begun, call, row_rng
from tunewright.contract.returned import place, told
from tunewright.contract.task import Task
from tunewright.contract.unlabelled import Collapsed, Moving, Unjudged, Unlabelled
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.adapted import Adapted
from tunewright.models.chained import chained
from tunewright.models.modes import batch_statistics as by_batch
from tunewright.models.modes import set_training

Reset = Literal["never", "source", "batch", "row"]


@dataclass(frozen=True)
class Guard:
    """`share`: the most of the latest answers that one class may take before the source weights come back (None: any);
    `answers`: how many answers that is judged on, all of which must be there.
    """

    share: float | None = 0.9
    answers: int = 128


@dataclass(frozen=True)
class Restored:
    """When the guard put the source weights back, and why."""

    batch: int
    why: str


class Forward:
    """The model, run for a method: `forward(batch, grad=False, ...)` -> `Unjudged` outputs.

    `grad` keeps a graph. `source`: by the weights that the stream began with. `weights`: values by name in the place of
    the present ones (a slowly moving copy). `batch_statistics`: batch norm normalises by this batch. `path`: the blocks
    that run, in order (`models.chained`). `hidden`: all hidden states are kept. Counts its calls.
    """

    def __init__(self, adapted: Adapted, task: Task, moving: Moving):
        self._adapted, self._task, self._moving = adapted, task, moving
        self.calls = 0

    def __call__(
        self,
        batch: Unlabelled,
        *,
        grad: bool = False,
        source: bool = False,
        weights: Mapping[str, Tensor] | None = None,
        batch_statistics: bool = False,
        path: Sequence[int] | None = None,
        hidden: bool = False,
    ) -> Unjudged:
        self.calls += 1
        with ExitStack() as stack:
            model = self._adapted.outer
            stack.enter_context(torch.set_grad_enabled(grad and not source and weights is None))
            if source or weights is not None:
                stack.enter_context(self._lent(self._moving.source if source else weights or {}))
            if batch_statistics:
                stack.enter_context(by_batch(model))
            if path is not None:
                stack.enter_context(chained(model, self._adapted.structure, path))
            return Unjudged(_ran(self._task, model, batch, hidden))

    @contextmanager
    def _lent(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        parameters = self._moving.parameters
        here = {n: parameters[n].data for n in values}
        try:
            for n, v in values.items():
                parameters[n].data = v
            yield
        finally:
            for n, data in here.items():
                parameters[n].data = data


def _ran(task: Task, model: nn.Module, batch: Unlabelled, hidden: bool) -> Outputs:
    try:
        return task.forward(model, batch.plain(), hidden=hidden)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise MethodError(
            "batch norm cannot take its statistics from a single value",
            where="test_time.batch_rows",
            remedy="write batch_rows: 32, or the method's batch_statistics: false",
        ) from None


@dataclass
class Stream:
    """One method on one stream. Use it as a context: the model is as it was when the block ends.

    `steps`: how many batches are expected, 0 where nobody knows. `reset`: when the source weights come back of
    themselves; None: what the method says (`resets`). The model must be plain: inside `adapted.at_strength(1.0)`.
    """

    name: str
    method: Method
    adapted: Adapted
    task: Task
    seed: int = 0
    reset: Reset | None = None
    guard: Guard = field(default_factory=Guard)
    steps: int = 0

    def __post_init__(self) -> None:
        self.reset = self.reset or type(self.method).resets
        rng = random.Random(f"{self.seed}/test-time/{self.name}")
        plan = Plan(self.steps, 0, "test-time", 0, 0.0, 0)
        self.method_state: State = begun(self.method, Setup(self.adapted, plan, self.task.name, rng), self.name)
        self.method_state.rng = rng
        self.method_state.place(self.adapted.device)
        self.moving = Moving(self._named())
        self._first = self._kept()
        self.forward = Forward(self.adapted, self.task, self.moving)
        self.step = 0
        self.source: str | None = None
        self.latest: deque[int] = deque(maxlen=self.guard.answers)
        self.restored: list[Restored] = []
        self._flags: list[tuple[nn.Parameter, bool]] = []
        self._was_training = False

    def _named(self) -> dict[str, nn.Parameter]:
        owned = {f"{self.name}.{n}": p for n, p in self.method_state.named_parameters()}
        known = Candidates(self.adapted, owned)
        chosen = self.method.adapts(known)
        if isinstance(chosen, str) or not isinstance(chosen, Iterable):
            raise MethodError(
                f"'{self.name}' gave {told(chosen)} as the names of what it adapts",
                where=place(type(self.method), "adapts"),
                remedy="return a list of parameter names; [] where it changes none",
            )
        names = [*chosen, *owned]
        for n in names:
            if n not in known.parameters:
                raise MethodError(
                    f"'{self.name}' would change '{n}', which is no parameter here",
                    remedy=did_you_mean(n, known.parameters),
                )
            if known.parameters[n].dtype != torch.float32:
                raise MethodError(
                    f"'{self.name}' changes weights at test time, and '{n}' is held in "
                    f"{str(known.parameters[n].dtype).removeprefix('torch.')}: small steps are lost there",
                    where="model.dtype",
                    remedy="write model: {name: ..., dtype: float32} and train.precision: float32",
                )
        return {n: known.parameters[n] for n in sorted(set(names))}

    def _kept(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state = self.method_state
        buffers = {n: t.clone() for n, t in state.named_buffers()}
        return copy.deepcopy(state.data), buffers

    def __enter__(self) -> Stream:
        self._was_training = self.adapted.outer.training
        self.adapted.outer.eval()
        every = {id(p): p for p in (*self.adapted.outer.parameters(), *self.moving.parameters.values())}
        self._flags = [(p, p.requires_grad) for p in every.values()]
        for p, _ in self._flags:
            p.requires_grad_(False)
        for p in self.moving.parameters.values():
            p.requires_grad_(True)
        return self

    def __exit__(self, *_: object) -> None:
        self.moving.restore()
        for p, flag in self._flags:
            p.requires_grad_(flag)
        set_training(self.adapted.outer, self._was_training)

    # -- answering ---------------------------------------------------------------------------------------------------

    def batches(self, rows: Sequence[Row], size: int, *, mixed: bool = False) -> list[list[Row]]:
        """Rows in order, `size` at a time; rows of two sources share a batch only where the stream is `mixed`.

        A single row that is left over goes to the batch before it; one row at a time where each row begins anew.
        """
        if self.reset == "row":
            return [[r] for r in rows]
        runs: list[list[Row]] = []
        for r in rows:
            if not runs or (not mixed and runs[-1][-1].source != r.source):
                runs.append([])
            runs[-1].append(r)
        out: list[list[Row]] = []
        for run in runs:
            cut = [run[i : i + size] for i in range(0, len(run), size)]
            if len(cut) > 1 and len(cut[-1]) == 1 < size:
                cut[-2:] = [[*cut[-2], *cut[-1]]]
            out += cut
        return out

    def answer(self, rows: Sequence[Row]) -> Tensor:
        """Logits [R, V] of one batch of rows, in their order; the weights may move. On the model's device, no graph."""
        batch = Unlabelled.of(self.task.collate(list(rows)).to(self.adapted.device))
        if self.reset in ("batch", "row") or (self.reset == "source" and batch.sources[0] != self.source):
            self._begin_anew()
        self.source = batch.sources[-1]
        try:
            logits = self._adapt(batch)
        except Collapsed as why:
            logits = self._back(batch, str(why))
        else:
            logits = self._watched(batch, logits)
        self.step += 1
        return logits

    def _adapt(self, batch: Unlabelled) -> Tensor:
        def rng_of(i: int) -> random.Random:
            return row_rng(self.seed, self.name, 0, batch.row_ids[i])

        with torch.enable_grad():
            logits: Tensor = call(
                self.method,
                "adapt",
                self.name,
                batch=batch,
                forward=self.forward,
                weights=self.moving,
                model=self.adapted.outer,
                structure=self.adapted.structure,
                step=self.step,
                state=self.method_state,
                row_rng=rng_of,
                rng=self.method_state.rng,
            ).detach()
        if logits.dim() != 2 or len(logits) != len(batch.row_ids):
            raise MethodError(
                f"'{self.name}' answered {len(batch.row_ids)} rows by logits of shape {list(logits.shape)}",
                where="adapt",
                remedy="return logits [R, V], a row for each row of the batch",
            )
        if not bool(torch.isfinite(logits).all()) or not self.moving.finite():
            raise Collapsed("an answer was not finite")
        return logits

    def _watched(self, batch: Unlabelled, logits: Tensor) -> Tensor:
        """The answers, unless one class has taken nearly all of the latest and the source gives it to fewer here."""
        self.latest.extend(logits.argmax(-1).tolist())
        share = self.guard.share
        if share is None or len(self.latest) < self.guard.answers:
            return logits
        top = max(set(self.latest), key=self.latest.count)
        taken = self.latest.count(top) / len(self.latest)
        if taken <= share:
            return logits
        source = self.forward(batch, source=True).logits
        self.latest.clear()
        if float((source.argmax(-1) == top).float().mean()) > share:
            return logits  # the rows are of one class, or the source has collapsed itself
        return self._back(batch, f"class {top} took {taken:.0%} of the last {self.guard.answers} answers", source)

    def _back(self, batch: Unlabelled, why: str, source: Tensor | None = None) -> Tensor:
        self._begin_anew()
        self.restored.append(Restored(self.step, why))
        return self.forward(batch).logits if source is None else source

    def _begin_anew(self) -> None:
        """Source weights, no optimizer, and the method's state as it was set up; its generator goes on."""
        self.moving.restore()
        data, buffers = self._first
        state = self.method_state
        state.data = copy.deepcopy(data)
        for n in list(state._buffers):
            del state._buffers[n]
        for n, t in buffers.items():
            state._buffers[n] = t.clone()
        self.latest.clear()

    # -- stopped and taken up again ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(JSON, tensors) of how far it is: to be given to `resume` of an equal stream, in another process too."""
        state, tensors = self.method_state, {f"moved.{n}": t for n, t in self.moving.values().items()}
        tensors |= {f"buffer.{n}": t.clone() for n, t in state.named_buffers()}
        groups: list[Any] = []
        if self.moving.optimizer is not None:
            saved = self.moving.optimizer.state_dict()
            groups = saved["param_groups"]
            tensors |= {
                f"optimizer.{i}.{k}": torch.as_tensor(v).clone()
                for i, entry in saved["state"].items()
                for k, v in entry.items()
                if v is not None
            }
        data = {
            "step": self.step,
            "source": self.source,
            "latest": list(self.latest),
            "restored": [[r.batch, r.why] for r in self.restored],
            "data": copy.deepcopy(state.data),
            "rng": rng_state(state.rng),
            "groups": groups,
            "calls": self.forward.calls,
            "backwards": self.moving.backwards,
        }
        return data, tensors

    def resume(self, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._begin_anew()
        self.step, self.source = data["step"], data["source"]
        self.latest.extend(data["latest"])
        self.restored = [Restored(b, w) for b, w in data["restored"]]
        self.forward.calls, self.moving.backwards = data["calls"], data["backwards"]
        state = self.method_state
        state.data = copy.deepcopy(data["data"])
        state.rng.setstate(rng_tuple(data["rng"]))
        by_kind: dict[str, dict[str, Tensor]] = {"moved": {}, "buffer": {}, "optimizer": {}}
        for name, t in tensors.items():
            kind, _, rest = name.partition(".")
            by_kind[kind][rest] = t
        self.moving.set(by_kind["moved"])
        for n, t in by_kind["buffer"].items():
            state._buffers[n] = t.to(state.device, copy=True)
        entries: dict[int, dict[str, Tensor]] = {}
        for name, t in by_kind["optimizer"].items():
            i, _, key = name.partition(".")
            entries.setdefault(int(i), {})[key] = t
        if data["groups"]:
            self.moving.saved = {"state": entries, "param_groups": data["groups"]}
