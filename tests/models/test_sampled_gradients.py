"""Gradients of few entries are those of the whole product at their places, and only these are computed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tunewright.models import sampled_gradients
from tunewright.models.flops import counting
from tunewright.models.sampled_gradients import MOST, Places, sampling, serves


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.data())
def test_the_entries_of_a_gradient_are_those_of_the_whole(rows, columns, positions, data):
    g = torch.Generator().manual_seed(rows * 100 + columns)
    count = data.draw(st.integers(1, rows * columns))
    indices = torch.randperm(rows * columns, generator=g)[:count]  # in no order
    left, right = torch.randn(positions, rows, generator=g), torch.randn(positions, columns, generator=g)
    places, whole = Places(indices, torch.Size((rows, columns))), left.T @ right
    torch.testing.assert_close(places.of(places.product(left, right)), whole.reshape(-1)[indices])
    assert torch.equal(places.of(whole), whole.reshape(-1)[indices])
    assert places.count == count


def gradients(layer: nn.Linear, x: torch.Tensor, places: dict[nn.Parameter, Places]):
    layer.zero_grad()
    x = x.clone().requires_grad_()
    with sampling(places):
        (F.gelu(layer(x)).square().sum() + layer(2 * x).sin().sum()).backward()
    return x.grad, layer.weight.grad, None if layer.bias is None else layer.bias.grad


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_s_other_gradients_stay_and_its_weight_s_is_sparse(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 6, bias=bias), torch.randn(2, 5, 8)
    places = Places(torch.tensor([40, 3, 17]), layer.weight.shape)
    x_whole, whole, b_whole = gradients(layer, x, {})
    x_few, few, b_few = gradients(layer, x, {layer.weight: places})
    assert few.is_sparse and not whole.is_sparse and few.shape == whole.shape
    torch.testing.assert_close(places.of(few), whole.reshape(-1)[[40, 3, 17]])  # the layer was used twice
    torch.testing.assert_close(x_few, x_whole)
    assert (b_few is None) == (not bias) and (b_few is None or torch.allclose(b_few, b_whole))


def test_other_layers_and_frozen_weights_are_left_alone():
    torch.manual_seed(0)
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    with sampling({one.weight: Places(torch.tensor([1]), one.weight.shape)}):
        other(torch.randn(2, 4)).sum().backward()
        one.weight.requires_grad_(False)
        one(torch.randn(2, 4)).sum().backward()
    assert not other.weight.grad.is_sparse and one.weight.grad is None and one.bias.grad is not None


def test_only_what_is_computed_counts():
    layer = nn.Linear(10, 10, bias=False)
    places = {layer.weight: Places(torch.arange(5), layer.weight.shape)}
    spent = []
    for some in ({}, places):
        with counting() as counter, sampling(some):
            layer(torch.randn(3, 10)).sum().backward()
        spent.append(counter.total)
    assert spent == [2 * 3 * 100 * 2, 2 * 3 * 100 + 2 * 3 * 5]


def test_few_entries_of_matrices_in_float32_serve():
    matrix, few, many = torch.zeros(20, 10), torch.arange(int(200 * MOST)), torch.arange(int(200 * MOST) + 1)
    assert serves(matrix, few) and not serves(matrix, many) and not serves(matrix, few[:0])
    assert not serves(matrix.double(), few) and not serves(torch.zeros(20, 5, 2), few)
    assert sampled_gradients.computed(matrix) == 200


@pytest.mark.slow
def test_nothing_of_torchs_own_affairs_is_told(tmp_path):
    code = (
        "import torch, warnings; warnings.simplefilter('error');"
        "from tunewright.models.sampled_gradients import Places;"
        "p = Places(torch.tensor([3]), torch.Size((2, 2))); print(p.of(p.product(torch.ones(1, 2), torch.ones(1, 2))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and done.stdout == "tensor([1.])\n" and not done.stderr
