"""Prompts that differ from row to row enter an encoder: states by hand, row by row, without masks or hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.class_tasks import PICTURES, TASKS, TEXT, made, model, rows
from tests.methods.prompt_tasks import embedded, encoded, features
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.attention import NAME
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.tasks import get_task


@pytest.mark.parametrize("task", [TEXT, PICTURES])
@torch.no_grad()
def test_keys_and_values_stand_before_each_rows_own_beside_virtual_tokens(task):
    adapted, given = model(task), rows(TASKS[0], task, 4)
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 2, 32, generator=g)
    pairs = {1: (torch.randn(4, 3, 32, generator=g), torch.randn(4, 3, 32, generator=g))}
    places, before = PromptPlaces(adapted.model, adapted.structure, "x"), adapted.model.config._attn_implementation
    batch, net = get_task(task).collate(given), adapted.model
    plain = net(**batch.inputs).logits
    with places.inserting(Inserted(tokens, pairs)):
        said = net(**batch.inputs).logits
    for i, row in enumerate(given):
        own = {b: (k[i], v[i]) for b, (k, v) in pairs.items()}
        states = encoded(net, torch.cat([tokens[i], embedded(net, row, task)]), task, own)
        torch.testing.assert_close(said[i], net.classifier(features(net, states[2], task)), atol=2e-5, rtol=1e-4)
    assert torch.equal(net(**batch.inputs).logits, plain) and (plain - said).abs().max() > 1e-3
    assert net.config._attn_implementation == before != NAME


def test_other_models_are_refused_and_so_is_an_attention_that_never_asks():
    for adapted, why in (
        (made("Llama"), "a decoder, which sees earlier tokens alone"),
        (Adapted(tiny.efficientnet(labels=6)), "no encoder of equal blocks"),
    ):
        with pytest.raises(MethodError, match=why):
            PromptPlaces(adapted.model, adapted.structure, "x")
    adapted = model(PICTURES)
    places = PromptPlaces(adapted.model, adapted.structure, "x")
    adapted.model.vit.layers[1].attention.forward = lambda states, *_, **__: (states, None)
    assert isinstance(places.last, nn.LayerNorm)
    pairs = {1: (torch.zeros(1, 1, 32), torch.zeros(1, 1, 32))}
    with pytest.raises(MethodError, match="before block 1 were never read"), places.inserting(Inserted(pairs=pairs)):
        adapted.model(**get_task(PICTURES).collate(rows(TASKS[0], PICTURES, 1)).inputs)
