"""Each check can fail: methods that break a rule on purpose are caught, by the check that is meant to catch them."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
import torch
from pydantic import Field

from tunewright.conformance import check_method, checks_of
from tunewright.contract.batch import Loss
from tunewright.contract.method import Choice, Method, State
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.models.deltas import LowRank


class Unread(Method):
    """Has a field that nothing reads."""

    unread: int = Field(1, description="nothing")

    def objective(self, outputs):
        return Loss(-outputs.log_probs())


class GlobalRandomness(Method):
    """Draws from torch's global generator outside the loop's fork."""

    def setup(self, run):
        torch.rand(1)
        return State()

    def objective(self, outputs):
        return Loss(-outputs.log_probs())


class NotIdentity(LoRA):
    """Starts away from the base."""

    def attach(self, site, needs, state, rng):
        delta = super().attach(site, needs, state, rng)
        if delta is not None:
            delta.lora_B.data += 0.1
        return delta


class Forgetful(Method):
    """Draws by a generator of its own that no checkpoint holds."""

    _hidden: ClassVar[random.Random] = random.Random(0)

    def choose(self, candidates):
        return Choice(tuple(self._hidden.sample(sorted(candidates.base), 5)), redraw_every=1)


class PerBatch(Method):
    """A loss that depends on how many tokens share its micro-batch, declared as a token's own."""

    def objective(self, outputs):
        log_probs = outputs.log_probs()
        return Loss(-log_probs * len(log_probs))


class Nothing(Method):
    """Trains nothing."""

    def choose(self, candidates):
        return Choice(())


class DoesNotFold(LoRA):
    """Says that it does not fold."""

    folds: ClassVar[bool] = False


class EditsTheBase(Method):
    """Writes into a weight that it did not choose."""

    def choose(self, candidates):
        return Choice(("model.norm.weight",))

    def end_task(self, adapted):
        adapted.base_parameters()["model.embed_tokens.weight"].data.add_(1.0)


class Unregistered(LoRA):
    """Hangs on a delta that no file could bring back."""

    def attach(self, site, needs, state, rng):
        delta = super().attach(site, needs, state, rng)
        if delta is not None:
            delta.__class__ = NewForm
        return delta


class NewForm(LowRank):
    """A form of its own under another's name."""


class NeverAsked(Method):
    """Scores samples in a stage that makes none."""

    tasks: ClassVar[tuple[str, ...]] = ("text-generation",)

    def objective(self, outputs):
        return Loss(-outputs.log_probs())

    def reward(self, samples):
        return [0.0 for _ in samples]


class Idle(Method):
    """Looks at gradients and leaves them as they are."""

    def gradient(self, gradients):
        return {n: g for n, g in gradients.items()}


CAUGHT = [
    (Unread, "every field matters", "unread"),
    (GlobalRandomness, "leaves global randomness alone", "torch's global generator"),
    (NotIdentity, "starts as the identity", "differ by"),
    (Forgetful, "resumes bit for bit", "differ"),
    (Forgetful, "repeats bit for bit", "differ"),
    (PerBatch, "micro-steps agree", "micro-batches"),
    (Nothing, "something trains", "exactly what it said before"),
    (DoesNotFold, "folds as declared", "declared not to fold"),
    (EditsTheBase, "the base comes back", "what the base says"),
    (NeverAsked, "every slot is called", "never called: reward"),
    (Idle, "every slot matters", "'gradient' changes nothing"),
]


@pytest.mark.parametrize("cls, name, says", CAUGHT, ids=lambda x: getattr(x, "__name__", x))
def test_a_broken_rule_is_caught(cls, name, says):
    (check,) = [c for c in checks_of(cls) if c.check.name == name]
    with pytest.raises(AssertionError, match=says):
        check()


def test_a_delta_whose_form_is_not_registered_is_refused():
    with pytest.raises(MethodError, match="'low-rank' of NewForm could not be read back") as refusal:
        check_method(Unregistered, rank=2)
    assert "tunewright.deltas" in str(refusal.value)


@pytest.mark.slow
def test_a_class_of_ones_own_is_checked_like_ours():
    class Plain(LoRA):
        """LoRA under another name."""

    assert len(check_method(Plain, rank=3)) == len(checks_of("lora"))


@pytest.mark.slow
def test_as_a_pytest_plugin(pytestconfig, tmp_path):
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tunewright.conformance",
        "--pyargs",
        "tunewright.conformance.suite",
        "--method",
        "lines",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0 and f"{len(checks_of('lines'))} passed" in done.stdout, done.stdout[-500:]
