"""The cache's argument is found whatever the version of transformers calls it."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from tests import tiny
from tunewright.models.arguments import cache_argument


def test_the_models_of_this_transformers():
    name = cache_argument(tiny.llama())
    assert name in ("cache", "past_key_values") and name in inspect.signature(tiny.llama().forward).parameters
    assert cache_argument(tiny.vit()) is None


def test_either_name_and_the_newer_first():
    class New(nn.Module):
        def forward(self, x: torch.Tensor, cache: object = None, past_key_values: object = None) -> torch.Tensor:
            return x

    class Old(nn.Module):
        def forward(self, x: torch.Tensor, past_key_values: object = None) -> torch.Tensor:
            return x

    assert [cache_argument(m) for m in (New(), Old(), nn.Linear(1, 1))] == ["cache", "past_key_values", None]
