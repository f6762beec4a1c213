"""NHL: the soft Hebbian rule place by place, what it converges to, and batches written out by hand.

The rule's reference is SoftHebb's `delta_weight` (NeuromorphicComputing/SoftHebb, hebbconv.py, commit f5c11aac), which
was run beside ours on 5 draws of a convolution of 3 to 8 channels with a kernel of 3 (strides 1 and 2, padding 0 and 1,
float64): the largest difference of an entry was 2e-15. NHL's own code was not found.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.conformance.adapting import convolutional, deep
from tunewright.conformance.bench import rows_of
from tunewright.errors import MethodError
from tunewright.measure.adapting import Stream
from tunewright.methods.test_time.nhl import NHL, hebbian
from tunewright.models.adapted import Adapted
from tunewright.pieces.entropies import entropy
from tunewright.tasks import get_task

TASK = get_task("image-classification")
PROJECTION = "vit.embeddings.patch_embeddings.projection"


def rows(count: int = 6, source: str = "stream") -> list[Any]:
    return rows_of(TASK, source, count)


def stream(make: Any = deep, **fields: Any) -> Stream:
    return Stream("nhl", NHL(**fields), Adapted(make()), TASK)


def by_hand(layer: nn.Conv2d, given: Tensor, temperature: float) -> Tensor:
    """The rule over patches, one place after the other."""
    weight = layer.weight.detach().flatten(1)
    change = torch.zeros_like(weight)
    patches = F.unfold(given, layer.kernel_size, padding=layer.padding, stride=layer.stride)
    for patch in patches.transpose(1, 2).flatten(0, 1):
        response = weight @ patch
        won = torch.exp(response / temperature) / torch.exp(response / temperature).sum()
        for k in range(len(weight)):
            change[k] += won[k] * (patch - response[k] * weight[k])
    return (change / change.abs().max()).view_as(layer.weight)


@pytest.mark.parametrize(("stride", "padding", "bias"), [(1, 1, True), (2, 0, False)])
def test_the_rule_is_that_of_every_place_summed(stride: int, padding: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, stride=stride, padding=padding, bias=bias).double()
    given = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    for temperature in (0.3, 2.0):
        assert torch.allclose(hebbian(layer, given, temperature), by_hand(layer, given, temperature), atol=1e-12)
    assert layer.weight.grad is None


def test_neurons_become_the_unit_vectors_that_they_win() -> None:
    """Patches from two directions: each neuron turns to one of them, and its length goes to 1."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]), dim=1)
    layer = nn.Conv2d(4, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, 0.1, 0.0, 0.0], [0.0, 0.1, 0.2, 0.0]])[..., None, None])
    given = directions[torch.randint(2, (64,), generator=generator)][..., None, None]
    for _ in range(400):
        with torch.no_grad():
            layer.weight.add_(0.01 * hebbian(layer, given, 0.1))
    found = layer.weight.detach().flatten(1)
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=0.03)
    assert float((found * directions).sum(1).min()) > 0.97


def test_nothing_seen_changes_nothing() -> None:
    layer = nn.Conv2d(1, 2, 1, bias=False)
    assert torch.equal(hebbian(layer, torch.zeros(2, 1, 3, 3), 1.0), torch.zeros_like(layer.weight))


def test_three_batches_are_those_written_out() -> None:
    """The rule on the first layer, Adam on a gain and a shift behind it, then the answer: on a copy of the model."""
    model, rate, feedback = deep(), 0.02, 0.03
    layer = model.get_submodule(PROJECTION)
    gain, shift = nn.Parameter(torch.ones(layer.out_channels)), nn.Parameter(torch.zeros(layer.out_channels))
    layer.register_forward_hook(lambda m, i, o: o * gain[:, None, None] + shift[:, None, None])
    adam = torch.optim.Adam([gain, shift], lr=feedback)
    with stream(learning_rate=rate, feedback=feedback, temperature=0.5) as s:
        for count in (6, 5, 6):
            some = rows(count)
            given = s.answer(some)
            inputs = TASK.collate(some).inputs
            with torch.no_grad():
                layer.weight.add_(rate * by_hand(layer, inputs["pixel_values"], 0.5))
            adam.zero_grad()
            entropy(model(**inputs).logits).mean().backward()
            adam.step()
            with torch.no_grad():
                assert torch.allclose(given, model(**inputs).logits, atol=2e-3)
        assert s.forward.calls == 9 and s.moving.backwards == 3
        assert torch.allclose(s.moving.parameters[f"{PROJECTION}.weight"], layer.weight, atol=1e-5)
        apart = (s.method_state.gain - gain).abs()
        assert float((apart < 1e-4).float().mean()) > 0.9, "few may have a gradient that is all rounding"


def test_the_first_layers_weights_are_all_of_the_model_that_moves() -> None:
    with stream(convolutional, learning_rate=0.1, feedback=0.1) as s:
        before = {n: p.clone() for n, p in s.adapted.model.named_parameters()}
        s.answer(rows())
        moved = {n for n, p in s.adapted.model.named_parameters() if not torch.equal(p, before[n])}
        change = s.moving.parameters[next(iter(moved))] - before[next(iter(moved))]
    assert len(moved) == 1 and "embeddings.convolution.weight" in next(iter(moved))
    assert float(change.detach().abs().max()) == pytest.approx(0.1, rel=1e-4), (
        "the rate is the largest change of an entry"
    )


def test_each_half_can_be_left_out() -> None:
    with stream(feedback=0.0, learning_rate=0.05) as s:
        assert set(s.moving.parameters) == {f"{PROJECTION}.weight"}
        s.answer(rows())
        assert s.moving.backwards == 0 and s.forward.calls == 2, "no gradient is taken"
    with stream(feedback=0.05, learning_rate=0.0) as s:
        s.answer(rows())
        assert torch.equal(s.moving.parameters[f"{PROJECTION}.weight"], s.moving.source[f"{PROJECTION}.weight"])
        assert not torch.equal(s.method_state.gain, torch.ones_like(s.method_state.gain))


def test_feedback_makes_the_model_surer_of_the_rows_at_hand() -> None:
    with stream(feedback=0.02, learning_rate=0.0) as s:
        first = float(entropy(s.answer(rows())).mean())
        for _ in range(4):
            last = float(entropy(s.answer(rows())).mean())
    assert last < first


def test_a_new_source_begins_anew() -> None:
    with stream(learning_rate=0.05, feedback=0.05) as s:
        first = s.answer(rows(source="one"))
        assert not torch.allclose(s.answer(rows(source="one")), first, atol=1e-3)
        s.answer(rows(source="two"))
        assert torch.allclose(s.answer(rows(source="one")), first, atol=1e-5)


def test_batch_norm_takes_the_batch_only_where_it_is_told_to() -> None:
    answers = []
    for told in (False, True):
        with stream(convolutional, learning_rate=0.0, feedback=0.0, batch_statistics=told) as s:
            answers.append(s.answer(rows()))
    model = convolutional().eval()
    with torch.no_grad():
        assert torch.allclose(answers[0], model(**TASK.collate(rows()).inputs).logits, atol=1e-4)
    assert not torch.allclose(*answers, atol=1e-2)


def test_a_model_without_a_convolution_is_refused() -> None:
    def bare() -> nn.Module:
        model = deep()
        model.vit.embeddings.patch_embeddings.projection = nn.Identity()
        return model

    with pytest.raises(MethodError, match="no convolution that reads the picture"):
        stream(bare)
