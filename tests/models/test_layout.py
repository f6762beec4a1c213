"""Pictures are laid channels last for networks of convolutions, and what comes out is the same."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tests import tiny
from tunewright.models.layout import FEWEST, lay_channels_last
from tunewright.recipe import ModelSpec


class Net(nn.Module):
    """Convolutions that note the layout of what reaches the last of them."""

    def __init__(self, count: int = FEWEST):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(count)))
        self.seen: list[bool] = []

    def forward(self, pixel_values, scale=None):
        out = self.layers(pixel_values)
        self.seen.append(out.is_contiguous(memory_format=torch.channels_last))
        return out if scale is None else out * scale


def test_what_a_network_computes_is_the_same_in_the_other_layout():
    torch.manual_seed(0)
    plain, x = Net(), torch.randn(2, 3, 9, 8)
    laid = copy.deepcopy(plain)
    assert lay_channels_last(laid)
    for call in (lambda m: m(x), lambda m: m(pixel_values=x, scale=torch.tensor(2.0))):
        torch.testing.assert_close(call(laid), call(plain))
    assert laid.seen == [True, True] and plain.seen == [False, False]
    assert all(p.is_contiguous() for p in laid.parameters())  # what is saved or changed is as it was
    laid(x).sum().backward()
    plain(x).sum().backward()
    for a, b in zip(laid.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
        assert a.grad.is_contiguous()


def test_a_model_of_few_convolutions_is_left_alone():
    net = Net(FEWEST - 1)
    assert not lay_channels_last(net)
    net(torch.randn(1, 3, 8, 8))
    assert net.seen == [False]


def test_a_loaded_network_reads_pictures_so(tmp_path):
    from tunewright.loading.load import load

    tiny.efficientnet().save_pretrained(tmp_path)
    model = load(ModelSpec(name=str(tmp_path)), "image-classification").model
    seen = []
    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    model(pixel_values=torch.randn(2, 3, 32, 32))
    assert seen == [True]
