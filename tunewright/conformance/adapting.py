"""Checks of methods on `adapt`, on streams of tiny classifiers: what they answer, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from tunewright.conformance.bench import LABELS, MODELS, rows_of, seeded
from tunewright.conformance.case import Case, Check, global_randomness_unchanged
from tunewright.conformance.fields import other_values
from tunewright.contract.batch import Row
from tunewright.contract.method import Method
from tunewright.errors import MethodError, ModelError
from tunewright.measure.adapting import Stream
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import differing, same_bits
from tunewright.tasks import get_task

SIZE, ROWS = 3, 8


def convolutional(seed: int = 0) -> nn.Module:
    """A classifier of pictures [3, 8, 8] of convolutions with batch norm."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    one: dict[str, Any] = {n: [1] for n in ("num_block_repeats", "strides", "expand_ratios")}
    one["num_labels"] = LABELS
    config = EfficientNetConfig(
        **one,
        image_size=8,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        kernel_sizes=[3],
        in_channels=[32],
        out_channels=[16],
        depthwise_padding=[],
        hidden_dim=1280,
        initializer_range=0.3,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )
    return seeded(lambda: EfficientNetForImageClassification(config), seed)


def deep(seed: int = 0) -> nn.Module:
    """A classifier of pictures [3, 8, 8] in four patches, of four blocks: chains of them can differ."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 2, "num_labels": LABELS, "image_size": 8, "patch_size": 4}
    plain: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    return seeded(lambda: ViTForImageClassification(ViTConfig(**sizes, **plain)), seed)


BENCHES: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    ("text-classification", MODELS["text-classification"]),
    ("image-classification", deep),
    ("image-classification", convolutional),
)
"""(task, what makes its tiny model)."""


class Tried:
    """A method's stream over a few rows of one bench: `answers` [R, V] of each batch."""

    def __init__(
        self,
        method: Method,
        task: str,
        make: Callable[..., nn.Module],
        rows: list[Row] | None = None,
        device: str = "cpu",
    ):
        self.adapted, self.task = Adapted(make().to(device)), get_task(task)
        self.before = {n: t.clone() for n, t in self.adapted.model.state_dict().items()}
        self.rows = rows if rows is not None else rows_of(self.task, "stream", ROWS)
        self.stream = Stream("checked", method, self.adapted, self.task)
        self.batches = self.stream.batches(self.rows, SIZE)

    def run(self, keep: dict[int, Any] | None = None) -> Tried:
        """Answer every batch; `keep` takes the stream's state after each, as it is written and read."""
        self.answers: list[Tensor] = []
        with self.stream:
            for i, some in enumerate(self.batches):
                self.answers.append(self.stream.answer(some))
                if keep is not None:
                    data, tensors = self.stream.state()
                    keep[i] = json.loads(json.dumps(data)), load(save({n: t.contiguous() for n, t in tensors.items()}))
        return self

    def plain(self) -> list[Tensor]:
        """The untouched model's logits of the same batches."""
        model = self.adapted.model.eval()
        with torch.no_grad():
            return [self.task.forward(model, self.task.collate(some)).logits for some in self.batches]


def benches(method: Method) -> Iterator[tuple[str, Callable[..., nn.Module]]]:
    """The benches on which the method works: its tasks, and models that it does not refuse."""
    for task, make in BENCHES:
        if method.tasks is not None and task not in method.tasks:
            continue
        try:
            Tried(method, task, make)
        except (MethodError, ModelError):
            continue
        yield task, make


def answers_every_row(case: Case) -> None:
    """It works on some bench, and gives finite logits of every class for every row, also of one row alone."""
    found = list(benches(case.method))
    assert found, "it refuses every classifier that is tried here"
    for task, make in found:
        for rows in (ROWS, 1):
            some = rows_of(get_task(task), "stream", rows)
            try:
                tried = Tried(case.method, task, make, some).run()
            except MethodError:
                assert rows == 1, f"it refuses to answer {rows} rows of {task}"
                continue
            given = torch.cat(tried.answers)
            assert given.shape == (rows, LABELS) and bool(torch.isfinite(given).all()), tuple(given.shape)
            assert not tried.stream.restored, f"restored by the guard: {tried.stream.restored}"


def gives_the_model_back(case: Case) -> None:
    """Afterwards every tensor, every buffer and every flag of the model is as it was."""
    for task, make in benches(case.method):
        tried = Tried(case.method, task, make)
        model = tried.adapted.model.train()
        flags = [(p.requires_grad, p.grad) for p in model.parameters()]
        modes = [m.training for m in model.modules() if not hasattr(m, "running_mean")]
        tried.run()
        changed = differing(tried.before, model.state_dict())
        assert not changed, f"these tensors of {task} do not come back: {changed[:3]}"
        assert [(p.requires_grad, p.grad) for p in model.parameters()] == flags, "requires_grad or gradients were left"
        assert [m.training for m in model.modules() if not hasattr(m, "running_mean")] == modes, "modes were left"


def sees_no_label(case: Case) -> None:
    """Other labels, the same answers in every bit."""
    for task, make in benches(case.method):
        first = Tried(case.method, task, make).run()
        other = [replace(r, label=(r.label or 0) + 1 - LABELS * (r.label == LABELS - 1)) for r in first.rows]
        again = Tried(case.method, task, make, other).run()
        assert all(map(same_bits, first.answers, again.answers)), f"the answers of {task} follow the labels"


def repeats(case: Case) -> None:
    """Twice the same in every bit, and no global generator is drawn from."""
    for task, make in benches(case.method):
        first, second = Tried(case.method, task, make), Tried(case.method, task, make)
        with global_randomness_unchanged():
            first.run()
        assert all(map(same_bits, first.answers, second.run().answers)), f"two equal streams of {task} differ"


def goes_on_bit_for_bit(case: Case) -> None:
    """Stopped after any batch, written, read and continued: the same answers in every bit."""
    for task, make in benches(case.method):
        kept: dict[int, Any] = {}
        whole = Tried(case.method, task, make).run(kept)
        for i, state in kept.items():
            later = Tried(case.method, task, make)
            with later.stream as stream:
                stream.resume(*state)
                given = [stream.answer(some) for some in later.batches[i + 1 :]]
            assert all(map(same_bits, given, whole.answers[i + 1 :])), f"gone on after batch {i} of {task}, others come"
            assert later.stream.step == whole.stream.step


def adapts(case: Case) -> None:
    """Some answer is another one than without adaptation."""
    for task, make in benches(case.method):
        tried = Tried(case.method, task, make)
        plain = tried.plain()
        if any(float((a - b).abs().max()) > 1e-4 for a, b in zip(tried.run().answers, plain, strict=True)):
            return
    raise AssertionError("every answer is what the model says without it")


def every_field_changes_answers(case: Case) -> None:
    """Each parameter, changed alone, changes an answer on some bench."""
    found = [(task, make, Tried(case.method, task, make).run().answers) for task, make in benches(case.method)]
    for name in type(case.method).model_fields:
        others = other_values(case.method, name)
        assert others, f"no other value of '{name}' is known: give the field examples"
        assert any(_other(other, *bench) for other in others for bench in found), (
            f"'{name}' changes nothing: tried {[getattr(o, name) for o in others]}"
        )


def _other(method: Method, task: str, make: Callable[..., nn.Module], answers: list[Tensor]) -> bool:
    try:
        given = Tried(method, task, make).run().answers
    except MethodError:
        return False  # not with this value, on this bench
    return len(given) != len(answers) or not all(map(same_bits, given, answers))


def rows_stand_alone(case: Case) -> None:
    """Where every row begins anew, its answer does not depend on those before it."""
    for task, make in benches(case.method):
        forward = Tried(case.method, task, make).run()
        backward = Tried(case.method, task, make, forward.rows[::-1]).run()
        assert all(map(same_bits, forward.answers, backward.answers[::-1])), f"a row of {task} knows of those before"


def _adapts(case: Case) -> bool:
    return "adapt" in case.slots


CHECKS = [
    Check("answers every row of a stream", _adapts, answers_every_row),
    Check("gives the model back", _adapts, gives_the_model_back),
    Check("sees no label", _adapts, sees_no_label),
    Check("a stream repeats bit for bit", _adapts, repeats),
    Check("a stream goes on bit for bit", _adapts, goes_on_bit_for_bit),
    Check("adapts", _adapts, adapts),
    Check("every field changes answers", _adapts, every_field_changes_answers),
    Check("rows stand alone", lambda case: _adapts(case) and type(case.method).resets == "row", rows_stand_alone),
]
