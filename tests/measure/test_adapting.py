"""What drives a method on a stream: labels out of reach, the guard, resets, batches, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor

from tunewright.conformance.adapting import Tried, convolutional, deep
from tunewright.conformance.bench import MODELS, llama, rows_of
from tunewright.contract.method import Candidates, Method, State
from tunewright.contract.unlabelled import Moving, Unjudged, Unlabelled
from tunewright.errors import MethodError
from tunewright.measure.adapting import Guard, Stream
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import same_bits
from tunewright.models.chained import chained, check_chain
from tunewright.tasks import get_task

PICTURES = "image-classification"


class Moves(Method):
    """Move all biases by hand, or down a loss of choice."""

    by: float = Field(0.0, description="what is added to the first bias at each batch")
    loss: str = Field("", description="which loss is descended")

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        return [n for n in candidates.base if n.endswith("classifier.bias")]

    def adapt(
        self, batch: Unlabelled, forward: Callable[..., Unjudged], weights: Moving, state: State, step: int
    ) -> Tensor:
        out = forward(batch, grad=True).logits
        state.data["seen"] = [*state.data.get("seen", []), step]
        state.set_buffer("last", out.detach())
        if self.loss:
            total = {"nan": out.sum() * torch.nan, "inf": (out * 0).sum().sqrt(), "fine": out.sum()}[self.loss]
            weights.descend(total, lambda ps: torch.optim.SGD(ps, lr=0.1))
        elif self.by:
            (bias,) = weights.parameters.values()
            with torch.no_grad():
                bias[0] += self.by
        return forward(batch).logits


def stream(method: Method | None = None, *, make: Any = deep, task: str = PICTURES, **more: Any) -> Stream:
    return Stream("moves", method or Moves(), Adapted(make()), get_task(task), **more)


def rows(count: int = 8, task: str = PICTURES) -> list[Any]:
    return rows_of(get_task(task), "stream", count)


def bias(s: Stream) -> Tensor:
    (value,) = s.moving.parameters.values()
    return value.detach().clone()


class Reads(Moves):
    """Ask for what a stream does not have."""

    def adapt(self, batch: Unlabelled, forward: Callable[..., Unjudged]) -> Tensor:  # type: ignore[override]
        where = {"labels": lambda: batch.labels, "outputs": lambda: forward(batch).labels}
        where |= {"log_probs": lambda: forward(batch).log_probs(), "copy": lambda: batch.repeated(2).labels}
        return where[self.loss]()


@pytest.mark.parametrize("what", ["labels", "outputs", "log_probs", "copy"])
def test_labels_are_out_of_reach(what: str) -> None:
    with stream(Reads(loss=what)) as s, pytest.raises(MethodError, match="have no labels"):
        s.answer(rows(3))


def test_the_batch_does_not_hold_them_under_another_name() -> None:
    batch = Unlabelled.of(get_task(PICTURES).collate(rows(3)))
    assert not {"labels"} & (vars(batch).keys() - {"labels"}) and vars(batch)["labels"].numel() == 0
    assert not batch.plain().labels.any() and not batch.fields
    assert batch.repeated(2).row_ids == batch.row_ids * 2


def test_repeated_rows_stand_set_after_set() -> None:
    batch = Unlabelled.of(get_task("text-classification").collate(rows(3, "text-classification")))
    twice = batch.repeated(2)
    for name, tensor in batch.inputs.items():
        assert torch.equal(twice.inputs[name], torch.cat([tensor, tensor]))
    assert twice.fields["prompt_lengths"].tolist() == batch.fields["prompt_lengths"].tolist() * 2
    assert len(twice.rows) == len(twice.weights) == 6 and twice.tokens == 2 * batch.tokens


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_step_that_is_not_finite_never_stands(loss: str) -> None:
    with stream(Moves(loss=loss)) as s:
        first = bias(s)
        given = s.answer(rows(3))
        plain = s.forward(Unlabelled.of(s.task.collate(rows(3)))).logits
        assert same_bits(bias(s), first) and same_bits(given, plain), "the batch is answered by the source"
    (restored,) = s.restored
    assert restored.batch == 0 and "not finite" in restored.why


def test_a_weight_that_is_not_finite_brings_the_source_back() -> None:
    with stream(Moves(by=float("inf"))) as s:
        first = bias(s)
        s.answer(rows(3))
        assert same_bits(bias(s), first)
    assert [r.why for r in s.restored] == ["an answer was not finite"]


def test_one_class_for_everything_brings_the_source_back() -> None:
    with stream(Moves(by=50.0), guard=Guard(0.9, 6)) as s:
        first = bias(s)
        s.answer(rows(3))
        assert not s.restored and not same_bits(bias(s), first), "too few answers to judge by"
        given = s.answer(rows(3))
        assert same_bits(bias(s), first)
        assert same_bits(given, s.forward(Unlabelled.of(s.task.collate(rows(3))), source=True).logits)
        assert s.method_state.data == {} and s.method_state.get("last") is None, "the state begins anew, too"
    assert [(r.batch, r.why) for r in s.restored] == [(1, "class 0 took 100% of the last 6 answers")]


@pytest.mark.parametrize("guard", [Guard(None, 6), Guard(1.0, 6), Guard(0.9, 7)])
def test_the_guard_is_what_it_is_set_to(guard: Guard) -> None:
    with stream(Moves(by=50.0), guard=guard) as s:
        for _ in range(2):
            s.answer(rows(3))
    assert not s.restored


def test_a_source_that_gives_one_class_itself_is_no_collapse() -> None:
    s = stream(Moves(by=1.0), guard=Guard(0.9, 6))
    with torch.no_grad():
        s.adapted.model.classifier.bias[0] += 50
    s = Stream("moves", Moves(by=1.0), s.adapted, s.task, guard=Guard(0.9, 6))
    with s:
        first = bias(s)
        for _ in range(4):
            s.answer(rows(3))
        assert not s.restored and float(bias(s)[0] - first[0]) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("reset", "seen"), [("never", [1, 2, 3, 4]), ("source", [1, 2, 1, 2]), ("batch", [1] * 4), ("row", [1] * 8)]
)
def test_a_reset_brings_weights_and_state_back(reset: Any, seen: list[int]) -> None:
    some = [replace(r, source="ab"[i // 4]) for i, r in enumerate(rows(8))]
    moved = []
    with stream(Moves(by=1.0), reset=reset) as s:
        first = float(bias(s)[0])
        for part in s.batches(some, 2):
            s.answer(part)
            moved.append(round(float(bias(s)[0]) - first))
    assert moved == seen
    assert s.step == len(seen)


def test_batches_keep_sources_apart_and_leave_no_row_alone() -> None:
    s = stream()
    some = [replace(r, source="aaaaabbb"[i]) for i, r in enumerate(rows(8))]
    names = ["".join(r.source for r in part) for part in s.batches(some, 2)]
    assert names == ["aa", "aaa", "bbb"]
    assert [len(b) for b in s.batches(some, 3, mixed=True)] == [3, 3, 2]
    assert [r for part in s.batches(some, 2) for r in part] == some


def test_what_was_left_on_the_parameters_by_training_takes_no_gradient_away() -> None:
    s = stream(Moves(loss="fine"))
    parameter = s.adapted.model.classifier.bias.requires_grad_(True)

    def away(p: Tensor) -> None:
        p.grad = None

    hook = parameter.register_post_accumulate_grad_hook(away)
    with s:
        first = bias(s)
        s.answer(rows(3))
        assert torch.allclose(bias(s), first - 0.3), "three rows, a gradient of one each"
        assert parameter.grad is None and s.moving.backwards == 1
    hook.remove()


def test_the_source_and_lent_weights_answer_without_moving_anything() -> None:
    with stream(Moves(by=1.0)) as s:
        batch = Unlabelled.of(s.task.collate(rows(3)))
        plain = s.forward(batch).logits
        s.answer(rows(3))
        after = s.forward(batch, grad=True).logits
        assert float((after - plain).detach()[:, 0].mean()) == pytest.approx(1.0, abs=1e-5) and after.requires_grad
        assert same_bits(s.forward(batch, source=True, grad=True).logits, plain)
        lent = s.forward(batch, weights=s.moving.source, grad=True).logits
        assert same_bits(lent, plain) and not lent.requires_grad
        assert same_bits(s.forward(batch).logits, after.detach())


def test_batch_norm_by_the_batch_touches_no_statistic() -> None:
    model = convolutional().eval()
    kept = {n: b.clone() for n, b in model.named_buffers()}
    with stream(make=lambda: model) as s:
        batch = Unlabelled.of(s.task.collate(rows(6)))
        plain, by = s.forward(batch).logits, s.forward(batch, batch_statistics=True).logits
        alone = s.forward(Unlabelled.of(s.task.collate(rows(2))), batch_statistics=True).logits
    assert not torch.allclose(plain, by, atol=1e-3)
    assert not torch.allclose(by[:2], alone, atol=1e-3), "a row's answer depends on the rows beside it"
    assert all(torch.equal(kept[n], b) for n, b in model.named_buffers())


def test_a_chain_of_all_blocks_in_order_is_the_model() -> None:
    for task, make in ((PICTURES, deep), ("text-classification", MODELS["text-classification"])):
        s = stream(Moves() if task == PICTURES else Moves(), make=make, task=task)
        blocks = check_chain(s.adapted.structure)
        with s:
            batch = Unlabelled.of(s.task.collate(rows(3, task)))
            plain = s.forward(batch).logits
            assert same_bits(s.forward(batch, path=range(blocks)).logits, plain)
            assert not torch.allclose(s.forward(batch, path=[0]).logits, plain, atol=1e-4)
            assert same_bits(s.forward(batch).logits, plain)


def test_a_chain_runs_the_blocks_that_it_names_in_their_order() -> None:
    adapted = Adapted(llama())
    ran: list[int] = []
    for i, block in enumerate(adapted.model.model.layers):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    ids = torch.arange(4, 12)[None]
    with torch.no_grad(), chained(adapted.model, adapted.structure, [1, 0, 1, 1]) as model:
        assert model.config.num_hidden_layers == 4
        model(ids, use_cache=False)
    assert ran == [1, 0, 1, 1] and adapted.model.config.num_hidden_layers == 2


def test_blocks_of_several_widths_are_no_chain() -> None:
    with pytest.raises(MethodError, match="differ in what they read"):
        check_chain(Adapted(convolutional()).structure)


def test_weights_in_half_precision_are_refused() -> None:
    with pytest.raises(MethodError, match="bfloat16.*small steps are lost"):
        stream(make=lambda: deep().to(torch.bfloat16))


def test_a_name_that_is_no_parameter_and_answers_of_another_shape_are_refused() -> None:
    class Wrong(Moves):
        """Name what is not there."""

        def adapts(self, candidates: Candidates) -> Sequence[str]:
            return ["classifer.bias"]

    class Short(Moves):
        """Answer fewer rows."""

        def adapt(self, batch: Unlabelled, forward: Callable[..., Unjudged]) -> Tensor:  # type: ignore[override]
            return forward(batch).logits[1:]

    with pytest.raises(MethodError, match="did you mean 'classifier.bias'"):
        stream(Wrong())
    with stream(Short()) as s, pytest.raises(MethodError, match="answered 3 rows by logits of shape"):
        s.answer(rows(3))


@pytest.mark.parametrize(("names", "says"), [((), "nothing may move"), (("classifier.bias",), "the loss has none")])
def test_a_step_without_a_gradient_says_what_to_write(names: tuple[str, ...], says: str) -> None:
    class Blind(Moves):
        """Descend what no graph was kept of."""

        def adapts(self, candidates: Candidates) -> Sequence[str]:
            return names

        def adapt(self, batch: Unlabelled, forward: Callable[..., Unjudged], weights: Moving) -> Tensor:  # type: ignore[override]
            weights.descend(forward(batch).logits.sum(), lambda ps: torch.optim.SGD(ps, lr=0.1))
            return forward(batch).logits

    with stream(Blind()) as s, pytest.raises(MethodError, match=says):
        s.answer(rows(3))


def test_an_error_on_the_way_gives_the_model_back_all_the_same() -> None:
    s = stream(Moves(by=1.0))
    first = bias(s)
    with pytest.raises(ZeroDivisionError), s:
        s.answer(rows(3))
        raise ZeroDivisionError
    assert same_bits(bias(s), first) and not any(p.requires_grad for p in s.adapted.model.parameters())


def test_the_suite_would_see_a_method_that_reads_labels_past_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of labels bites: a method that finds them in another way answers otherwise when they change."""
    from tunewright.conformance.adapting import sees_no_label
    from tunewright.conformance.case import Case

    found: list[int] = []
    whole = Tried.run
    monkeypatch.setattr(Tried, "run", lambda self, keep=None: (found.append(self.rows[0].label), whole(self, keep))[1])

    class Peeks(Moves):
        """Know the first row's label from elsewhere."""

        def adapt(self, batch: Unlabelled, forward: Callable[..., Unjudged]) -> Tensor:  # type: ignore[override]
            return forward(batch).logits + found[-1]

    with pytest.raises(AssertionError, match="follow the labels"):
        sees_no_label(Case("peeks", Peeks()))
