"""reinforcement-learning: the actions of a policy, learnt from recorded episodes as what follows returns and states.

A row is a window of an episode (`tasks._trajectories`): K steps of return-to-go, state and action. A decision
transformer (Chen et al. 2021) says each action from what came before it and from the return that is still to come, so
that a policy is asked for a return when it plays. Actions to choose from are learnt by cross-entropy, in nats an
action; others by their squared error, the mean over an action's numbers. Every step of a window counts alike.

    loss = mean over steps of -log p(a_t), or of |a_t - a|^2 / A

Episodes are played in environments of gymnasium (`measurement.environment`, `measure.episodes`), where the return is
measured. Reinforcement learning of language models is another thing (docs/reinforcement.md).

What counts as a token is what the model reads as one: three a step.

Errors: RowProblem for a trajectory of other sizes than the model's, or with an action that it does not have.
Differs from the paper: windows lie side by side in place of being drawn with every batch, so that an epoch shows each
action once (`data.trajectories.stride` makes them overlap); episodes are padded at their right, which their mask and
the order of time make the same as at their left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.pieces.means import row_means
from tunewright.tasks import _policies
from tunewright.tasks._parts import CONTINUOUS, DISCRETE
from tunewright.tasks._trajectories import Trajectory, Window, standardised, windows
from tunewright.tasks.base import epochs_of, in_type

_STATE = 1
"""The place of a step's state among its tokens."""


class ReinforcementLearning(Task):
    """`fields`: `states` [K D] (standardised, end to end), `returns` [K] (over the scale), `targets` [K] or [K A] (the
    actions), `actions` (how many there are, or how many numbers each has), `std` [A] of numbers, `start`: the first
    step's time.
    """

    name: ClassVar[str] = "reinforcement-learning"
    auto_class: ClassVar[str] = "AutoModel"
    unit: ClassVar[str] = "loss per action"

    def loads_by(self, config: Any) -> str:
        """No automatic class is for policies alone."""
        return "DecisionTransformerModel"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """A window as a row; of a trajectory the last window. `tokenizer` is not used."""
        how = options.trajectories
        if how is None:
            raise RowProblem("trajectories", "nobody says what a window is", "give EncodeOptions.trajectories")
        window = record.get("window")
        if not isinstance(window, Window):
            whole = record.get("trajectory")
            if not isinstance(whole, Trajectory):
                remedy = "write observations, actions and rewards; or episode, observation, action and reward a step"
                raise RowProblem("observations", "the row holds no trajectory", remedy)
            window = list(windows(whole, record.id, how))[-1]
        return _row(record, window, how)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Windows side by side, padded at their right to the longest. A target a step; `fields` of actions that are
        numbers: `actions` [S, A], `std` [R, A], `mask` [R, K].
        """
        lengths = [len(r.weights) for r in rows]
        longest, numbers = max(lengths), rows[0].fields["kind"] == CONTINUOUS
        wide = int(rows[0].fields["actions"])
        shapes = {"states": len(rows[0].fields["states"]) // lengths[0], "actions": wide, "returns_to_go": 1}
        inputs: dict[str, Tensor] = {n: torch.zeros(len(rows), longest, size) for n, size in shapes.items()}
        inputs["timesteps"] = torch.zeros(len(rows), longest, dtype=torch.long)
        inputs["attention_mask"] = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
            said = torch.from_numpy(np.array(row.fields["targets"]))
            inputs["states"][i, :n] = torch.from_numpy(np.array(row.fields["states"])).view(n, -1)
            inputs["returns_to_go"][i, :n, 0] = torch.from_numpy(np.array(row.fields["returns"]))
            inputs["actions"][i, :n] = said.view(n, -1) if numbers else nn.functional.one_hot(said.long(), wide).float()
            inputs["timesteps"][i, :n] = torch.arange(n) + int(row.fields["start"])
            inputs["attention_mask"][i, :n] = 1
        at = [(r, t) for r, row in enumerate(rows) for t, weight in enumerate(row.weights) if weight > 0]
        owner, place = (torch.tensor([pair[k] for pair in at], dtype=torch.long) for k in (0, 1))
        right = [np.asarray(rows[r].fields["targets"]).reshape(lengths[r], -1)[t] for r, t in at]
        fields = dict[str, Any]()
        if numbers:
            fields = {"actions": torch.from_numpy(np.array(right, np.float32)).view(-1, wide)}
            fields["std"] = torch.from_numpy(np.stack([np.array(r.fields["std"]) for r in rows]))
            fields["mask"] = inputs["attention_mask"].float()
        return Batch(
            inputs=inputs,
            labels=torch.tensor([0 if numbers else int(a[0]) for a in right], dtype=torch.long),
            weights=torch.tensor([rows[r].weights[t] for r, t in at], dtype=torch.float32),
            rows=owner,
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=sum(r.size for r in rows),
            positions=_policies.STEP * (owner * longest + place) + _STATE,
            epochs=epochs_of(rows, epochs),
            fields=fields,
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, A]: of actions, or their numbers; `features` [R, H] the means of the states that they are read
        from.
        """
        rows = context.Rows(None, tuple(batch.row_ids), tuple(batch.sources))
        said = _policies.read(model, in_type(model, batch.inputs), rows, hidden=hidden)
        assert batch.positions is not None
        steps, numbers = batch.positions // _policies.STEP, "actions" in batch.fields
        states = said.states.flatten(0, 1)[steps]
        return Outputs(
            said.actions.flatten(0, 1)[steps],
            batch.labels,
            log_probs=_none if numbers else None,
            hidden=said.hidden,
            features=row_means(states, batch.rows, len(batch.row_ids)),
            head=None if numbers else model.predict_action,  # type: ignore[arg-type]
            raw=said,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """[S] cross-entropy in nats; of numbers their squared error, the mean over an action's."""
        if "actions" not in batch.fields:
            return Loss(-outputs.log_probs())
        return Loss((outputs.logits.float() - batch.fields["actions"]).square().mean(-1))

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the actions that the policy takes, those that were taken) of each row, as JSON: a number or a list a
        step.
        """
        numbers = "actions" in batch.fields
        said = outputs.logits.float().cpu().numpy() if numbers else outputs.logits.argmax(-1).cpu().numpy()
        right = (batch.fields["actions"] if numbers else batch.labels).cpu().numpy()
        owner = batch.rows.cpu().numpy()
        return [(_told(said[owner == k]), _told(right[owner == k])) for k in range(len(rows))]

    def default_metric(self, rows: Sequence[Row]) -> str:
        """The share of actions that are the recorded ones; of numbers their mean absolute error."""
        return "action_accuracy" if rows[0].fields.get("kind") == DISCRETE else "action_mae"


def _told(actions: Any) -> str:
    """Actions [K] or [K, A] as JSON."""
    if actions.ndim == 1:
        return json.dumps(actions.tolist())
    return json.dumps([[float(f"{x:.6g}") for x in action] for action in actions.tolist()])


def _row(record: Record, window: Window, how: dict[str, Any]) -> Row:
    """A window as a row."""
    whole, span = window.trajectory, slice(window.start, window.start + window.length)
    numbers = whole.space == CONTINUOUS
    fields = {
        "kind": whole.space,
        "states": standardised(whole.observations[span], how).ravel(),
        "returns": (whole.returns_to_go()[span] / float(how["return_scale"])).astype(np.float32),
        "targets": whole.actions[span].astype(np.float32 if numbers else np.int64).ravel(),
        "actions": int(how["act_dim"]),
        "start": window.start,
        "trajectory": window.name,
        "size": np.array(_policies.STEP * window.length, np.int32),
        "text": f"steps {window.start} to {window.start + window.length - 1} of {len(whole.rewards)}, "
        f"return {whole.total:.6g}",
    }
    if numbers:
        fields["std"] = np.array(how["action_std"], np.float32)
    return Row(record.id, record.source, (), [1.0] * window.length, fields=fields)


def _none() -> Tensor:
    raise MethodError(
        "an action of numbers has no likelihood", remedy="take a method that serves this task, or none: it has a loss"
    )
