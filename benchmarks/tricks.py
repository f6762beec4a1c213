"""What makes the loop fast, each switched off by itself, so that a benchmark shows what it gives.

Each trick is a name and a way to put the plain operation in its place; the loop's own code has no such switches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


def _nothing() -> Any:
    """Left out where the stage is made, not here."""
    return ExitStack()


def _every_position() -> Any:
    """Logits and softmax as the model's own class makes them: at every position, kept for the backward."""

    def outputs(model: Any, batch: Any, *, hidden: bool = False) -> Any:
        from tunewright.contract.batch import Outputs
        from tunewright.tasks._causal import model_inputs

        logits = model(**model_inputs(batch)).logits
        return Outputs(logits.flatten(0, 1)[batch.positions], batch.labels)

    return patch("tunewright.tasks.text_generation.causal_outputs", outputs)


def _kept_logits() -> Any:
    """The head at the labels, its logits kept for the backward."""
    return patch("tunewright.tasks._causal._fused", lambda *a: None)


def _plain_low_rank() -> Any:
    """Two more linears a site, each with a node of its own in the graph."""
    from tunewright.models.lowrank import low_rank_plain

    return patch("tunewright.models.deltas.low_rank", low_rank_plain)


def _whole_last_mlp() -> Any:
    return patch("tunewright.training.train.tail", lambda *a: None)


TRICKS: dict[str, Callable[[], Any]] = {
    "padding-free": _nothing,
    "head at labels": _every_position,
    "no kept logits": _kept_logits,
    "fused low-rank": _plain_low_rank,
    "last MLP at labels": _whole_last_mlp,
    "kept memory": _nothing,
}


@contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """Inside, the named tricks are not used. `padding-free` and `kept memory` are left out by `worker.ours` itself."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(TRICKS[name]())
        yield
