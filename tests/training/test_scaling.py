"""Losses of a model in float16 are scaled: small gradients live, overflows cost no step, and nothing else changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.loop import Rows, largest_difference, run, stage, values
from tunewright.contract.batch import Loss
from tunewright.contract.method import Method
from tunewright.errors import NonFiniteError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.objectives.stablemax import StableMax
from tunewright.training import scaling
from tunewright.training.inner import Inner
from tunewright.training.scaling import FIRST
from tunewright.training.train import Loop


class Faint(Method):
    """An objective whose gradients float16 cannot hold: a millionth of the likelihood."""

    def objective(self, outputs, batch):
        return Loss(-outputs.log_probs() * 1e-6)


class Steep(Method):
    """An objective whose gradients are no numbers, though its value is 0."""

    def objective(self, outputs, batch):
        return Loss((outputs.log_probs() * 0).clamp(min=0).sqrt())


class Together(Method):
    """Items that are read over the whole batch."""

    couples = "batch"

    def objective(self, outputs, batch):
        values = -outputs.log_probs()
        return Loss(values - values.mean() * 0.5)


class Pulled(Method):
    """A penalty on every trained weight's change from zero."""

    def penalty(self, weights):
        return 1e-3 * sum(p.float().square().sum() for w in weights.values() for p in w.parameters.values())


def loop_of(*methods: Method, half: bool, **changes) -> Loop:
    model = tiny.llama()
    made, _ = stage(*methods, model=model.half() if half else model, **changes)
    return Loop(made)


def gradients(loop: Loop) -> dict[str, torch.Tensor]:
    with loop.randomness.lent():
        loop.gradients(loop.take()[0])
    return {n: g.float().clone() for n, g in loop.trained.gradients().items()}


def farthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of all tensors the largest distance, over the tensor's length."""
    assert ours.keys() == theirs.keys() and ours
    return max(float((ours[n] - g).norm() / g.norm().clamp(min=1e-20)) for n, g in theirs.items())


KINDS = {
    "the task's loss": ((), {}),
    "an objective": ((StableMax(),), {}),
    "a coupled objective": ((Together(),), {}),
    "a coupled objective in parts": ((Together(),), {"micro_tokens": 12}),
    "a penalty": ((LoRA(target_modules="all-linear", dropout=0.0), Pulled()), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_loss_itself(kind: str) -> None:
    methods, changes = KINDS[kind]
    half, whole = (loop_of(*methods, half=h, **changes) for h in (True, False))
    assert half.scale.value == FIRST and whole.scale.value is None
    assert farthest(gradients(half), gradients(whole)) < 0.05


def test_gradients_that_the_type_cannot_hold_are_kept() -> None:
    ours = loop_of(Faint(), half=True)
    theirs = gradients(loop_of(Faint(), half=False))
    assert farthest(gradients(ours), theirs) < 0.05
    ours.scale.value = 1.0  # as if nothing were scaled
    assert farthest(gradients(ours), theirs) > 0.2


def test_a_methods_own_gradients_and_those_of_validation_rows_are_scaled_too() -> None:
    from tunewright.training.validation import Validation

    found = []
    for half in (True, False):
        loop = loop_of(half=half)
        rows = loop.take()[0]
        inner, own = Inner(loop, rows), Rows(seed=3).rows[:4]
        by_loss, _ = inner.gradients_of(own)
        by_reading, _ = inner.gradients_of(own, lambda outputs, batch, places: Loss(-outputs.log_probs() * 1e-6))
        checked = Validation.__new__(Validation)
        checked._loop = loop
        found.append((by_loss, by_reading, checked.gradients(loop.micro_batches(rows))))
    for ours, theirs in zip(*found, strict=True):
        assert farthest({n: g.float() for n, g in ours.items()}, theirs) < 0.05


def test_an_overflow_halves_the_factor_and_costs_no_step() -> None:
    wide, plain = (loop_of(LoRA(dropout=0.3), half=True) for _ in range(2))
    wide.scale.value, wide.scale.good = 2.0**40, 5
    first = gradients(wide)
    assert wide.scale.value < 2.0**40 and farthest(first, gradients(plain)) < 0.02  # the same places were dropped
    assert wide.scale.good == 1 and wide.step_number == 0 and wide.stage.rows.at == plain.stage.rows.at


def test_the_factor_doubles_after_enough_steps_and_no_further_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "PATIENCE", 2)
    monkeypatch.setattr(scaling, "MOST", FIRST * 2)
    told = run(model=tiny.llama().half(), steps=6)[1]
    assert [r["loss_scale"] / FIRST for r in told] == [1, 2, 2, 2, 2, 2]


def test_steps_in_float32_tell_of_no_factor() -> None:
    assert all("loss_scale" not in r for r in run(steps=2)[1])


def test_what_learns_in_float16_learns_what_float32_does() -> None:
    dtypes = (torch.float16, torch.float32)
    half, whole = (run(LoRA(dropout=0.0), model=tiny.llama().to(d), rows=Rows(4), steps=8)[1] for d in dtypes)
    assert whole[-1]["loss"] < whole[0]["loss"] - 0.02
    assert [r["loss"] for r in half] == pytest.approx([r["loss"] for r in whole], abs=5e-3)


def test_a_loop_goes_on_with_its_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "PATIENCE", 3)
    straight, _ = run(model=tiny.llama().half(), steps=4)
    made, _ = stage(model=tiny.llama().half(), steps=4)
    first = Loop(made)
    for _ in range(2):
        first.one_step()
    saved, tensors = first.state()
    assert saved["scale"] == {"value": FIRST, "good": 2}
    again = Loop(stage(model=tiny.llama().half(), steps=4)[0])
    again.restore(saved, tensors)
    again.run()
    assert again.scale.value == straight.scale.value == 2 * FIRST
    assert largest_difference(values(again), values(straight)) == 0.0


def test_gradients_that_no_factor_saves_end_the_run_by_name() -> None:
    with pytest.raises(NonFiniteError, match=r"the gradient of '.+' is not finite in float16") as caught:
        run(Steep(), model=tiny.llama().half())
    assert "bfloat16" in str(caught.value.remedy) and caught.value.where == "step 1"


def test_whatever_asks_autograd_for_gradients_says_so() -> None:
    """A method, need or selector whose file takes gradients, or calls a piece that does, is refused in float16."""
    from tunewright import catalogue

    asks = re.compile(r"autograd\.grad\(|\.backward\(|import ekfac|data\.select\._gradients|mean_of_gradients\(")
    ends = re.compile(r"\.leave\(|Moving\b")
    root = Path(scaling.__file__).parents[1]
    found = set()
    for entry in catalogue.entries().values():
        cls = catalogue.load_method(entry.name)
        file = Path(__import__(cls.__module__, fromlist=["_"]).__file__ or "")
        text = file.read_text(encoding="utf-8")
        if asks.search(text) or ("adapt" in cls.slots() and ends.search(text)):
            found.add(entry.name)
            assert cls.takes_gradients, f"{file.relative_to(root)} takes gradients"
    assert {"gram", "less", "tent"} <= found
    for file in sorted((root / "methods" / "needs").glob("[a-z]*.py")):
        text = file.read_text(encoding="utf-8")
        if asks.search(text) or "one_gradient_at_a_time(" in text:
            assert "takes_gradients: ClassVar[bool] = True" in text, file.name


@pytest.mark.parametrize(
    "tree, named",
    [
        ({"methods": ["spiel"], "train": {"precision": "float16"}}, "'spiel'"),
        ({"model": {"name": "tiny", "dtype": "float16"}, "methods": ["corda", "lora-ga"]}, "'lora-ga'"),
        (
            {"data": {"train": "t.jsonl", "select": [{"less": {"keep": 2}}]}, "train": {"precision": "float16"}},
            "'less'",
        ),
        ({"test_time": {"adapt": ["tent"]}, "train": {"precision": "float16"}}, "'tent'"),
    ],
)
def test_what_takes_gradients_by_itself_is_refused_by_name(tree, named: str) -> None:
    from tunewright.errors import MethodError
    from tunewright.recipe import Recipe
    from tunewright.runs.halved import check_halved

    whole = {"model": "tiny", "task": "text-generation", "data": {"train": "t.jsonl"}, "methods": ["lora"], **tree}
    with pytest.raises(MethodError, match=named) as caught:
        check_halved(Recipe.model_validate(whole))
    assert "float16" in caught.value.what and "bfloat16" in str(caught.value.remedy)
    for wide in ("float32", "auto"):
        whole["train"] = {"precision": wide}
        whole["model"] = "tiny"
        check_halved(Recipe.model_validate(whole))
