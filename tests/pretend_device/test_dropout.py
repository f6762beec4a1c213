"""Dropout on the device, in the loop: seeded, saved, restored and drawn again, and nobody else's numbers touched."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from tests import loop as loops
from tests import tiny
from tunewright.contract.batch import Loss
from tunewright.contract.method import Method
from tunewright.models.generators import every_device, present, seeded, undisturbed
from tunewright.models.recompute import recomputing
from tunewright.training.randomness import Randomness
from tunewright.training.train import Loop

Records = list[dict[str, Any]]


def loop(device: str, *methods: Method, seed: int = 0, dropout: float = 0.3, **more: Any) -> tuple[Loop, Records]:
    made, records = loops.stage(*methods, model=tiny.gpt2(dropout=dropout).to(device), seed=seed, **more)
    made.device = device
    return Loop(made), records


def losses(records: Sequence[dict[str, Any]]) -> list[float]:
    return [r["loss"] for r in records]


def trained(device: str, **more: Any) -> list[float]:
    made, records = loop(device, **more)
    made.run()
    return losses(records)


def test_a_seed_gives_the_same_dropout_whatever_was_drawn_before(cuda):
    first = trained(cuda)
    torch.manual_seed(99)
    torch.rand(7, device=cuda)
    assert trained(cuda) == first != trained(cuda, seed=1)
    assert first != trained(cuda, dropout=0.0)


def test_the_callers_generators_are_as_they_were(cuda):
    made, _ = loop(cuda)
    torch.rand(3, device=cuda)
    before = present(every_device())
    assert len(before) > 1
    made.run()
    assert all(torch.equal(state, before[d]) for d, state in present(every_device()).items())


def test_saved_and_restored_bit_for_bit(cuda):
    whole, records = loop(cuda)
    saved = {}

    def listen(at: Loop, record: dict[str, Any]) -> None:
        records.append(record)
        saved[at.step_number] = copy.deepcopy(at.state())
        torch.rand(5, device=cuda)  # a listener's draws are felt by no step

    whole.stage.listen = listen
    whole.run()
    assert losses(records) == trained(cuda)
    state, tensors = saved[3]
    assert set(tensors["random"]) == {"dropout", "dropout.cuda0"}
    again, later = loop(cuda)
    again.restore(state, tensors)
    again.run()
    assert losses(later) == losses(records)[3:]


def test_a_checkpoint_of_before_has_the_cpus_state_alone(cuda):
    made, _ = loop(cuda)
    made.run()
    state, tensors = made.state()
    del tensors["random"]["dropout.cuda0"]
    again, _ = loop(cuda)
    fresh = again.randomness.state()["dropout.cuda0"]
    again.restore(state, tensors)
    assert torch.equal(again.randomness.state()["dropout"], tensors["random"]["dropout"])
    assert torch.equal(again.randomness.state()["dropout.cuda0"], fresh)


def test_memory_that_runs_out_repeats_the_steps_draws(cuda):
    """The step that is done again in smaller pieces starts where it started, and is that of a run which was split."""
    total = sum(r.size for r in loops.Rows().rows[:4])
    split, records = loop(cuda, micro_tokens=total // 2, steps=1)
    split.run()

    torn, later = loop(cuda, steps=1)
    gradients, failed = torn.gradients, []

    def failing(step_rows: Any) -> dict[str, Any]:
        record = gradients(step_rows)
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError
        return record

    torn.gradients = failing  # type: ignore[method-assign]
    torn.run()
    assert failed and torn.micro_tokens == split.micro_tokens and losses(later) == losses(records)


class Spread(Method):
    """A loss over the whole optimizer batch."""

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"

    def objective(self, outputs: Any, batch: Any) -> Loss:
        values = -outputs.log_probs()
        return Loss(values.mean() + values.std())


def test_the_second_pass_of_a_coupled_objective_draws_what_the_first_drew(cuda):
    """What the objective read and what its gradient goes back through are the same numbers."""
    made, _ = loop(cuda, Spread(), micro_tokens=20, steps=1)
    forward, seen = made.forward, list[Tensor]()

    def watching(batch: Any) -> Any:
        outputs = forward(batch)
        seen.append(outputs.logits.detach().clone())
        return outputs

    made.forward = watching  # type: ignore[method-assign]
    made.run()
    half = len(seen) // 2
    assert half > 1 and len(seen) == 2 * half
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_blocks_that_are_computed_again_drop_the_same_places(cuda):
    plain, records = loop(cuda, steps=2)
    plain.tail = None  # blocks that are computed again run their last MLP everywhere
    plain.run()
    again, later = loop(cuda, steps=2)
    with recomputing(again.adapted.model, True):
        again.run()
    assert losses(later) == pytest.approx(losses(records), abs=1e-6)


def test_two_gpus_start_apart(cuda):
    one = Randomness(0, 0, cuda)
    assert [d.type for d in one.devices] == ["cpu", "cuda"]
    assert torch.equal(Randomness(0, 1, "cpu").state()["dropout"], torch.Generator().manual_seed(1).get_state())
    assert not torch.equal(one.state()["dropout.cuda0"], Randomness(1, 0, cuda).state()["dropout.cuda0"])


def test_seeded_and_undisturbed_leave_every_generator(cuda):
    torch.rand(1, device=cuda)
    before = present(every_device())
    drawn = []
    for _ in range(2):
        with seeded(5):
            drawn.append((torch.rand(3), torch.rand(3, device=cuda).cpu()))
    with undisturbed():
        torch.manual_seed(1)
        torch.rand(3, device=cuda)
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert all(torch.equal(state, before[d]) for d, state in present(every_device()).items())
