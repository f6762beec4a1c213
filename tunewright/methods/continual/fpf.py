"""FPF and k-FPF: forgetting prioritized fine-tuning, what changes most between tasks alone is tuned on kept rows (Zhao
et al. 2023, arXiv:2304.04158; papers: fpf).

    score(g) = mean between-task change of g / mean change of g within a task;   change = |theta' - theta|_1 / |g|

g is a module (the trained numbers of one layer, or one part of a delta), theta and theta' its values `window` steps
apart. A stage's first window is its change between tasks, all others are changes within. The first stage has no task
before it: its first window counts for nothing, and nothing is fine-tuned in it. Nor does a window count in which there
was a round. Figures of all stages are averaged, and go on with the kept rows (a delta that an earlier stage left has
another name, and begins anew).

A round of fine-tuning takes `finetune_steps` steps of Adam, which begins anew, on `minibatch_size` kept rows of all
stages, and moves only the `modules` with the highest scores. There are `k` rounds a stage, evenly apart, the last one
at its end: k 1 is FPF, more are k-FPF. No other step replays; beside a method that does not own the step (ewc, lwf),
FPF comes on top of it. Logged: `modules/fpf`, how many were tuned in a round, whose loss is that on the kept rows.

Cost: a copy of what trains, for changes. The optimizer's rate scales all modules' changes alike, warm-up included, and
with them the scores, but not their order. Any task and any objective.

Source: the paper's abstract and summaries; its text and code were not at hand. Windows of steps, the form of the ratio,
a fixed share of modules (the abstract: "only a few") and Adam are ours, and so are the defaults: a fifth of the
modules, 20 steps a round, at the stage's learning rate, windows of a tenth of the stage. Differs from the paper in: a
round stands in the place of a step, whose rows are kept and not trained on; kept logits are not matched (the paper's
k-FPF-KD). Where a stage's steps are not known (a budget in seconds), rounds come as often as if those foreseen were
all, and maybe none at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Plan, Setup, State
from tunewright.pieces.rehearsal import LEAVES, RehearsalMethod
from tunewright.training.inner import Inner

NAME, CHANGES = "fpf", "changes"
SHOWN = 5


def module_of(name: str) -> str:
    """The module that a trained tensor is of: "blocks.0.norm" of "blocks.0.norm.weight"."""
    return name.rpartition(".")[0] or name


def scores(changes: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Module -> mean change between tasks over that within one, of those that have both, the highest first.

    `changes` gives of each module the sum and the number of its changes between tasks, then of those within.
    """
    known = {m: (b / n) / (w / k) for m, (b, n, w, k) in changes.items() if n and k and w}
    return dict(sorted(known.items(), key=lambda item: (-item[1], item[0])))


class FPF(RehearsalMethod):
    """Tune the modules that change most between tasks on kept rows, at a stage's end or a few times during it."""

    k: PositiveInt = Field(1, description="rounds of fine-tuning a stage, the last at its end", examples=[2])
    modules: float = Field(0.2, gt=0, le=1, description="share of the modules that a round tunes", examples=[1.0])
    finetune_steps: PositiveInt = Field(20, description="steps of a round", examples=[1])
    learning_rate: PositiveFloat | None = Field(
        None, description="of a round's steps; left out: the stage's", examples=[0.1]
    )
    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step of a round; left out: as many as the stage's steps have", examples=[1]
    )
    window: PositiveInt | None = Field(
        None, description="steps over which a change is taken; left out: a tenth of the stage's", examples=[2]
    )

    leaves: ClassVar[tuple[str, ...]] = (*LEAVES, CHANGES)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 5, "finetune_steps": 2}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = NAME

    def _window(self, plan: Plan) -> int:
        return self.window or max(1, plan.steps // 10)

    def caution(self, plan: Plan) -> str | None:
        first, known = -(-plan.steps // self.k), 2 * self._window(plan)
        if plan.index and not plan.exact:
            return (
                f"how many steps this stage takes is not known: a round comes every {first} or so, and maybe none at "
                "its end; write a budget in steps or tokens"
            )
        if plan.index == 0 or first > known:
            return None
        return (
            f"its first round comes at step {first} of {plan.steps}, and a second stage knows no scores before step "
            f"{known + 1}: write a smaller k, or window"
        )

    def setup(self, run: Setup) -> State:
        state, before = super().setup(run), run.earlier.latest(NAME)
        known = before.values[CHANGES] if before is not None else {}
        state.data |= {CHANGES: dict(known), "later": before is not None, "rounds": 0, "tuned": [], "mixed": False}
        return state

    def step(self, inner: Inner, step: int, plan: Plan, state: State) -> None:
        buffer = self._buffer(state)
        copies = state.copies()  # at first of all that trains; later, of what was drawn anew
        new = {n: p.detach().clone() for n, p in inner.parameters.items() if n not in copies}
        state.set_copies({**copies, **new})
        due = (step + 1) * self.k // plan.steps > step * self.k // plan.steps
        tuned = self._prone(state, inner.parameters) if due and buffer.earlier() else []
        if tuned:
            self._round(inner, tuned, step, plan, state)
        else:
            inner.gradients()
        buffer.add(inner.rows)

    def _prone(self, state: State, names: Iterable[str]) -> list[str]:
        """The modules that a round tunes, of those that train."""
        there = {module_of(n) for n in names}
        ranked = [m for m in scores(state.data[CHANGES]) if m in there]
        return ranked[: max(1, round(self.modules * len(there)))]

    def _round(self, inner: Inner, modules: Sequence[str], step: int, plan: Plan, state: State) -> None:
        buffer, total, labels = self._buffer(state), 0.0, 0
        leaves = {n: p for n, p in inner.parameters.items() if module_of(n) in modules}
        before = {n: p.detach().clone() for n, p in leaves.items()}
        optimizer = torch.optim.Adam(leaves.values(), lr=self.learning_rate or plan.learning_rate)
        try:
            for i in range(self.finetune_steps):
                slots = buffer.draw(self.minibatch_size or len(inner.rows), step, f"{NAME}{i}")
                rows = [buffer.row(slot) for slot in slots]
                found, loss = inner.gradients_of(rows)
                for n, leaf in leaves.items():
                    leaf.grad = found.get(n)
                optimizer.step()
                inner.moved()
                total, labels = total + loss, labels + sum(w > 0 for row in rows for w in row.weights)
        except BaseException:  # a step that memory ran out in is done again from where it began
            with torch.no_grad():
                for n, leaf in leaves.items():
                    leaf.copy_(before[n])
            inner.moved()
            raise
        inner.leave({})
        state.data |= {"rounds": state.data["rounds"] + 1, "tuned": list(modules), "mixed": True}
        inner.tell(total / self.finetune_steps, labels, **{f"modules/{NAME}": len(modules)})

    def after_step(self, step: int, plan: Plan, parameters: Mapping[str, Tensor], state: State) -> None:
        window = self._window(plan)
        if step % window:
            return
        copies, moved = state.copies(), dict[str, list[float]]()
        for name, value in parameters.items():
            of = moved.setdefault(module_of(name), [0.0, 0.0])
            of[0] += float((value.detach() - copies[name]).abs().double().sum())
            of[1] += value.numel()
        counts = step > window or state.data["later"]
        if counts and not state.data["mixed"]:  # what a round moves is no change of the task's
            at = 2 if step > window else 0
            for module, (change, count) in moved.items():
                known = list(state.data[CHANGES].get(module, [0.0, 0, 0.0, 0]))
                known[at : at + 2] = [known[at] + change / count, known[at + 1] + 1]
                state.data[CHANGES][module] = known
        state.data["mixed"] = False
        state.set_copies({n: p.detach().clone() for n, p in parameters.items()})

    def found(self, state: State) -> Found:
        """The buffer's figures, how many rounds there were, and which modules change most between tasks."""
        told, ranked = super().found(state), scores(state.data[CHANGES])
        values = {"rounds": state.data["rounds"], "modules tuned": len(state.data["tuned"]), "modules": len(ranked)}
        first = ", ".join(f"{m} ({ranked[m]:.3g})" for m in list(ranked)[:SHOWN])
        notes = [f"change between tasks over change within, the highest: {first}"] if ranked else []
        if state.data["later"] and not state.data["rounds"]:
            notes.append("nothing was tuned: no module that trained when a round was due had both changes")
        return replace(told, values={**told.values, **values}, notes=[*told.notes, *notes])
