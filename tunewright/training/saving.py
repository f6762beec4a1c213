"""A loop's whole state as JSON and tensors, and the way back to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tunewright.contract.combining import restore_states, states_of
from tunewright.contract.method import Choice
from tunewright.errors import CheckpointError
from tunewright.training import divided


def state_of(loop: Any) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """(JSON, tensors by file) from which `restore` goes on bit for bit. Of what is divided among processes the first
    one has the whole, and every process must ask at once.
    """
    data, state_tensors = states_of(loop.methods)
    choice = {n: None if leaf.indices is None else "entries" for n, leaf in loop.trained.leaves.items()}
    entries = {n: leaf.indices for n, leaf in loop.trained.leaves.items() if leaf.indices is not None}
    now = {
        "step": loop.step_number,
        "tokens": loop.tokens,
        "trained_tokens": loop.trained_tokens,
        "seconds": loop.seconds,
        "flops": loop.flops,
        "pulled": loop.pulled,
        "micro_tokens": loop.micro_tokens,
        "redraw_every": loop.redraw_every,
        "splits": {str(k): v for k, v in loop.stage.splits.items()},
        "rows": loop.stage.rows.state(),
        "methods": data,
        "choice": choice,
        "rollouts": loop.rollouts.state() if loop.rollouts else None,
        "validation": loop.validation.state() if loop.validation else None,
        "scale": loop.scale.state(),
        **({"surgery": loop.adapted.surgeries()} if loop.adapted.operated else {}),
    }
    tensors = {
        "trained": loop.trained.changed(),
        "optimizer": loop.optimizers.state(),
        "methods": state_tensors,
        "entries": entries,
        "random": loop.randomness.state(),
        "average": dict(loop.averaged or {}),
        "starts": loop.starts,
    }
    return now, {stem: divided.gathered(loop.adapted, values) for stem, values in tensors.items()}


def restore(loop: Any, saved: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Go back to what `state` gave; the model holds the stage's start."""
    if saved.get("surgery", []) != loop.adapted.surgeries():
        raise CheckpointError(
            "the model's shape was changed in another way than it is now",
            remedy="put data, methods and their parameters back as they were, or begin a new run",
        )
    tensors = {stem: divided.shares(loop.adapted, values) for stem, values in tensors.items()}
    loop.step_number, loop.tokens = saved["step"], saved["tokens"]
    loop.trained_tokens, loop.seconds = saved["trained_tokens"], saved["seconds"]
    loop.flops = saved.get("flops", 0.0)  # checkpoints of before it was counted have none
    loop.pulled = saved.get("pulled", True)
    loop.micro_tokens, loop.redraw_every = saved["micro_tokens"], saved["redraw_every"]
    loop.stage.splits.update({int(k): v for k, v in saved["splits"].items()})
    loop.stage.rows.restore(saved["rows"])
    loop.scale.restore(saved.get("scale"))
    if loop.rollouts:
        loop.rollouts.restore(saved["rollouts"])
    if loop.validation:
        loop.validation.restore(saved["validation"])
    restore_states(loop.methods, saved["methods"], tensors["methods"])
    loop.trained.restore(tensors["trained"])
    entries = tensors.get("entries", {})
    names = tuple(n for n, kind in saved["choice"].items() if kind is None)
    loop.trained.set(Choice(names, dict(entries), loop.redraw_every))
    loop.optimizers.build()
    loop.optimizers.restore(tensors["optimizer"])
    loop.randomness.restore(tensors["random"])
    loop.starts = {n: t.to(loop.adapted.device) for n, t in tensors.get("starts", {}).items()}
    if tensors.get("average"):
        loop.averaged = {n: t.to(loop.adapted.device) for n, t in tensors["average"].items()}
