"""The loop: batches in, optimizer steps out. Re-entrant: `train` may be called by larger systems as a subroutine.

One optimizer step: draw what trains if due; take rows; split them into micro-batches; sum every objective's
denominator over them; forward and backward each; penalties once; gradient methods; clip; step; update methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.combining import Bound
from tunewright.contract.method import Candidates, Choice
from tunewright.machine.group import present
from tunewright.models.flops import counting
from tunewright.models.lean_tail import only_at, tail
from tunewright.models.modes import set_training
from tunewright.training import coupled, saving, together
from tunewright.training.again import Again
from tunewright.training.following import carried
from tunewright.training.inner import TrainedWeight
from tunewright.training.losses import sum_weights, weighted_sum
from tunewright.training.micro_batches import micro_batches
from tunewright.training.nonfinite import diagnose
from tunewright.training.optim import Optimizers
from tunewright.training.randomness import Randomness
from tunewright.training.rollouts import Rollouts
from tunewright.training.scaling import Scale
from tunewright.training.schedules import factor_for
from tunewright.training.splitting import with_splits
from tunewright.training.stage import Stop, TrainingInputs
from tunewright.training.start import Start
from tunewright.training.stepping import Due, apply, go_through
from tunewright.training.trained import Trained
from tunewright.training.validation import Validation, asks


class Loop:
    """One stage's training, resumable at any optimizer step."""

    def __init__(self, stage: TrainingInputs):
        self.stage, self.plan, self.spec = stage, stage.plan, stage.spec
        self.group = present()
        self.adapted, self.methods = stage.adapted, stage.methods
        self.step_number, self.tokens, self.trained_tokens, self.seconds = 0, 0, 0, 0.0
        self.flops = 0.0
        self.pulled = False  # whether any step had a gradient that is not zero
        self.micro_tokens: int | None = stage.spec.micro_tokens
        self.done: dict[str, Any] = {}  # the record of the latest step
        self.averaged: dict[str, Tensor] | None = None
        self.redraw_every: int | None = None
        devices = {p.device for p in self.adapted.model.parameters()}
        self.randomness = Randomness(self.spec.seed, self.plan.index, *devices)
        self.scale = Scale(self)
        self.wants_hidden = any(need.hidden for b in self.methods for need in b.method.needs())
        # methods that ask autograd themselves, and compiled blocks, know whole gradients alone
        asking = any(b.method.takes_gradients or any(n.takes_gradients for n in b.method.needs()) for b in self.methods)
        self.whole_gradients = asking or stage.compiled is not None
        self._begin()
        # what reads more than a token's own state would miss the tokens that the lean tail leaves out
        wide = any(
            d.reads_rows or d.every_token or "block" in d.site_kinds
            for s in self.adapted.deltas().values()
            for d in s.values()
        )
        whole = self.wants_hidden or wide or self.adapted.wrapper is not None
        self.tail = None if whole else tail(self.adapted.structure, self.adapted.model)
        together.begin_alike(self)
        self._mix({})  # a mixture is asked before the first batch too

    # -- set-up ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        owned: dict[str, nn.Parameter] = {}
        for b in self.methods:
            b.state.place(self.adapted.device)  # `begin_task` may have made more
            owned.update({f"{b.name}.{n}": p for n, p in b.state.named_parameters()})
        self.trained = Trained(self.adapted, owned)
        self.chooser = self.methods.one("choose")
        if self.chooser is None:
            # a stage that wraps the frozen model trains what the wrapping method owns, and deltas if there are any
            wraps = self.methods.one("wrap") is not None and not self.adapted.trainable_deltas()
            self.trained.set(Choice(self.adapted.trainable_new()) if wraps else self.trained.default())
        else:
            first = self._draw()
            self.trained.move(first.places)
            self.trained.set(first)
        self.starts: dict[str, Tensor] = {}
        asks_start = [*self.methods.on("rollout"), *self.methods.on("objective")]
        from_start = any(getattr(b.method, "reference", "base") == "start" for b in asks_start)
        self.start = Start(self) if from_start else None
        self.notes_starts = from_start or bool(self.methods.on("penalty"))
        self._note_starts()
        asking = next((b.name for b in self.methods if asks(type(b.method))), None)
        self.validation = None if asking is None else Validation(self, self.stage.validation, asking)
        self.optimizers = Optimizers(self.trained, self.methods, self.spec, self.plan)
        if self.methods.on("average"):
            self.averaged = {n: p.detach().clone() for n, p in self.trained.parameters().items()}
        self.rollouts = Rollouts(self) if self.methods.on("rollout") else None

    def _note_starts(self) -> None:
        """Penalties, rollouts and objectives ask where weights began: keep each one's value when it is first drawn."""
        if self.notes_starts:
            drawn = {
                n: leaf for n, leaf in self.trained.leaves.items() if leaf.group == "base" and n not in self.starts
            }
            self.starts.update({n: leaf.parameter.detach().clone() for n, leaf in drawn.items()})

    def _draw(self) -> Choice:
        assert self.chooser is not None
        candidates = Candidates(self.adapted, self.trained.owned)
        signals = self.stage.signals(self.chooser, None, "redraw")
        choice: Choice = self.methods.call(
            self.chooser, "choose", signals, candidates=candidates, step=self.step_number, plan=self.plan
        )
        self.redraw_every = choice.redraw_every
        return replace(choice, names=tuple(sorted(choice.names)))

    def _redraw(self) -> None:
        """Train what is drawn now; what follows the weights goes on following them."""
        old, new = self.optimizers.redraw(self._draw())
        self._note_starts()
        present = self.trained.parameters()
        for b in self.methods:
            if copies := b.state.copies():
                b.state.set_copies(carried(copies, old, new, present))
        if self.averaged is not None:
            started = {n: p.detach().clone() for n, p in present.items()}
            self.averaged = {**started, **carried(self.averaged, old, new, present)}

    # -- one optimizer step ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until the plan's steps are done, the budget is spent or a listener raises Stop."""
        go_through(self.steps())

    def steps(self) -> Generator[Loop, None, None]:
        """`run` with a pause where a step is due: whoever goes through it does the step and leaves its record in
        `done`, as `go_through` does. Between steps others may train on the same base.
        """
        set_training(self.adapted.outer)
        with self.randomness.lent():
            try:
                if self.step_number == 0:
                    self.stage.begin(self)
                    self.randomness.back()
                while not self.finished():
                    yield self
                    self.randomness.remember()
                    self.stage.listen(self, self.done)
                    self.randomness.back()  # a listener may draw: the next step does not feel it
            except Stop:
                pass
        self.adapted.outer.eval()
        if self.averaged is not None:
            self.use_average()

    def finished(self) -> bool:
        b = self.stage.budget
        if self.step_number >= self.plan.steps and self.plan.exact:
            return True
        # with a mixture that changes, how many steps the epochs take is seen on the way
        if not self.plan.exact and self.stage.rows.exhausted:
            return True
        spent = (
            (b.steps, self.step_number),
            (b.tokens, 0 if self.rollouts and self.rollouts.left else self.tokens),  # a set of samples is used whole
            (b.seconds, self.seconds),
            (b.flops, self.flops),
        )
        return any(limit is not None and used >= limit for limit, used in spent)

    def one_step(self) -> dict[str, Any]:
        """Do one optimizer step and return its record."""
        with counting() as counted:
            due = self.begin_step()
            began = time.monotonic()
            record = with_splits(self, due.rows)
            due.seconds += time.monotonic() - began
            record = self.end_step(due, record)
        self.flops += together.sum_of(self.group, counted.total)
        return record

    def begin_step(self) -> Due:
        """What comes before a step's gradients: draw what trains if due, take rows, set the learning rate."""
        began = time.monotonic()
        if self.chooser and self.step_number and self.redraw_every and self.step_number % self.redraw_every == 0:
            self._redraw()
        rows, told = self.take()
        factor = factor_for(self)
        return Due(rows, told, factor, self.optimizers.set_factor(factor), time.monotonic() - began)

    def end_step(self, due: Due, record: dict[str, Any]) -> dict[str, Any]:
        """What comes after a step's gradients, whose `record` `gradients` gave: move the weights, count, and tell."""
        began = time.monotonic()
        apply(self, due.factor, record)
        self.step_number += 1
        tokens = sum(row.size for row, _ in due.rows)
        # budgets and epochs count what is read of the data; what a rollout makes of it is logged beside
        self.tokens += self.rollouts.read if self.rollouts else tokens
        self.trained_tokens += record.pop("labels")
        self.methods.event(
            "after_step",
            step=self.step_number,
            plan=self.plan,
            adapted=self.adapted,
            parameters=self.trained.parameters(),
        )
        self._mix(record)
        elapsed = together.largest(self.group, due.seconds + time.monotonic() - began)
        together.check_alike(self)
        self.seconds += elapsed
        return {
            "step": self.step_number,
            "learning_rate": due.rate,
            "num_tokens": self.tokens,
            "epoch": max((e for _, e in due.rows), default=0),
            "tokens_per_second": tokens / max(elapsed, 1e-9),
            **due.told,
            **record,
        }

    def take(self) -> tuple[list[tuple[Row, int]], dict[str, float]]:
        """Rows of the next step, each with its epoch, and what is logged of them: from the data, or sampled by a
        rollout.
        """
        return self.rollouts.take() if self.rollouts else (self.stage.rows.next_batch(), {})

    def micro_batches(self, rows: Sequence[tuple[Row, int]]) -> list[Batch]:
        """Rows of one step as collated micro-batches of at most `micro_tokens` tokens, methods on `row` and `batch`
        applied.
        """
        return micro_batches(self, rows)

    def gradients(self, rows: Sequence[tuple[Row, int]]) -> dict[str, Any]:
        """Fill every leaf's gradient with that of the step's loss; return what is logged."""
        batches = micro_batches(self, rows, apart=not coupled.rows_of(self))

        def once() -> dict[str, Any]:
            record: dict[str, Any] = {"labels": sum(len(b.labels) for b in batches)}
            return self.told(record, self.backward(batches, record), batches)

        record = self.scale.settled(once)
        return record if self.scale.value is None else {**record, "loss_scale": self.scale.value}

    def backward(self, batches: list[Batch], record: dict[str, Any]) -> Tensor:
        """Add the gradient of the stage's objectives, or of the task's loss, over `batches` as one step; penalties are
        apart. Gives the loss, and adds to `record` what is logged.
        """
        objectives = self.methods.on("objective")
        if coupled.rows_of(self):
            return coupled.backward(self, batches, objectives, record)
        with nullcontext() if self.whole_gradients else self.trained.sampling():
            return self._backward_each(batches, objectives, record)

    def told(self, record: dict[str, Any], total: Tensor, batches: list[Batch]) -> dict[str, Any]:
        """A step's record once its losses, whose sum is `total`, have their gradients: those of penalties are added."""
        for b in self.methods.on("penalty"):
            value = self.methods.call(
                b, "penalty", weights=self.trained_weights(), step=self.step_number, plan=self.plan
            )
            if value.requires_grad:
                self.scale.backward(value)
            record[f"penalty/{b.name}"] = value.detach()
            total = total + value.detach()
        record["loss"] = total
        record = {k: float(v) if isinstance(v, Tensor) else v for k, v in record.items()}
        if not math.isfinite(record["loss"]):
            raise diagnose(self, batches, f"the loss is {record['loss']}")
        return record

    def _backward_each(self, batches: list[Batch], objectives: list[Bound], record: dict[str, Any]) -> Tensor:
        denominators = [sum_weights(batches, o) for o in objectives] or [sum_weights(batches, None)]
        total = torch.zeros((), device=self.stage.device)
        for batch, counts in together.shared_out(self, batches, record, total):
            outputs = self.forward(batch)
            losses: list[tuple[Bound | None, Loss]] = [(b, self.objective(b, outputs, batch)) for b in objectives]
            losses = losses or [(None, self.stage.task.loss(outputs, batch))]
            loss: Any = 0.0
            for (bound, item), denominator in zip(losses, denominators, strict=True):
                part = weighted_sum(item, batch, bound) / denominator * counts
                if bound is not None:
                    record[f"loss/{bound.name}"] = record.get(f"loss/{bound.name}", 0.0) + part.detach()
                    for key, told in item.logs.items():
                        share = weighted_sum(Loss(told.detach(), item.weight), batch, bound) / denominator * counts
                        record[f"{key}/{bound.name}"] = record.get(f"{key}/{bound.name}", 0.0) + share
                loss = loss + part * (bound.weight if bound else 1.0)
            if loss.requires_grad:
                self.scale.backward(loss)
            total += loss.detach()
        return total

    def forward(self, batch: Batch) -> Outputs:
        """One forward; hidden states only when a method's need asks for them, the last MLP only where a target
        reads it.
        """
        model = self.adapted.outer
        self._learn_costs(batch)
        ids = batch.inputs.get("input_ids")
        # blocks that are computed again in the backward pass would meet other shapes there: the hook is gone by then
        recomputed = getattr(self.adapted.model, "is_activation_checkpointing", False)
        with only_at(None if recomputed else self.tail, batch.positions, 0 if ids is None else ids.numel()):
            outputs: Outputs = self.stage.task.forward(model, batch, hidden=self.wants_hidden)
            return outputs

    def _learn_costs(self, batch: Batch) -> None:
        """Let compiled blocks see what they cost, before the first forward in which they run so."""
        if self.stage.compiled is not None:
            drawn = self.randomness.now()
            self.stage.compiled.learn(lambda: self.stage.task.forward(self.adapted.outer, batch))
            self.randomness.again(drawn)

    def objective(self, bound: Bound, outputs: Outputs, batch: Batch, signals: dict[str, Any] | None = None) -> Loss:
        if signals is None:
            signals = self.stage.signals(bound, batch, "batch")
        loss: Loss = self.methods.call(
            bound,
            "objective",
            signals,
            outputs=outputs,
            batch=batch,
            forward=Again(self),
            step=self.step_number,
            plan=self.plan,
        )
        return loss

    def trained_weights(self) -> dict[str, TrainedWeight]:
        """What trains at sites, by the weight's name (of a block: "<block>.weight"), since the stage began."""
        found: dict[str, TrainedWeight] = {}
        by_site = self.adapted.deltas()
        for site in self.adapted.structure.every_site:
            name = site.weight_name
            parts = {
                n: d for n, d in by_site.get(site.name, {}).items() if any(p.requires_grad for p in d.parameters())
            }
            if parts or name in self.starts:
                found[name] = TrainedWeight(site, parts, self.starts.get(name))
        return found

    def _mix(self, record: Mapping[str, Any]) -> None:
        mixer = self.methods.one("mixture")
        if mixer is None:
            return
        rows: Any = self.stage.rows
        weights = self.methods.call(
            mixer,
            "mixture",
            weights=dict(rows.weights),
            progress=record,
            validation=self.validation,
            step=self.step_number,
            plan=self.plan,
        )
        if weights is not None:
            rows.weights = weights

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Inside, what trains has the weights that are kept so far, where a method averages them."""
        trained = self.trained.parameters() if self.averaged is not None else {}
        present = {n: p.detach().clone() for n, p in trained.items()}
        try:
            if self.averaged is not None:
                self.use_average()
            yield
        finally:
            with torch.no_grad():
                for n, p in trained.items():
                    p.copy_(present[n])

    def use_average(self) -> None:
        """Put the kept average in the place of the last weights."""
        assert self.averaged is not None
        with torch.no_grad():
            for n, p in self.trained.parameters().items():
                if n in self.averaged:
                    p.copy_(self.averaged[n])
        self.trained.write_back()

    # -- saving ------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """(JSON, tensors by file) from which `restore` goes on bit for bit."""
        return saving.state_of(self)

    def restore(self, loop: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go back to what `state` gave; the model holds the stage's start."""
        saving.restore(self, loop, tensors)


def begun(
    stage: TrainingInputs, resume: tuple[Mapping[str, Any], Mapping[str, Mapping[str, Tensor]]] | None = None
) -> Loop:
    """The loop of a stage whose methods are set up, before its first step, or where `Loop.state` was taken."""
    loop = Loop(stage)
    if resume is not None:
        loop.restore(*resume)
    return loop


def train(
    stage: TrainingInputs, resume: tuple[Mapping[str, Any], Mapping[str, Mapping[str, Tensor]]] | None = None
) -> Loop:
    """Train one stage whose methods are set up; `resume` is what `Loop.state` gave. Returns the finished loop."""
    loop = begun(stage, resume)
    loop.run()
    return loop
