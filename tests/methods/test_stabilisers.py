"""Ways to steady fine-tuning: frozen lower blocks, fresh upper blocks, and both beside layer-wise rates."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run
from tunewright.conformance.bench import Tiny
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.optimization.layerwise_decay import LayerwiseDecay
from tunewright.methods.parameter_selection.freeze_lower import FreezeLower
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.surgery.reinit_top import ReinitTop
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import differing


def values(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_what_lies_below_stays_in_every_bit_and_what_lies_above_moves(blocks):
    run = Run({"freeze-lower": FreezeLower(blocks=blocks)}, model=tiny.llama(layers=3, tied=False), steps=2)
    before = values(run.adapted.model)
    run.train()
    moved = {n for n, p in run.adapted.model.named_parameters() if not torch.equal(p, before[n])}
    above = {n for n in before if any(f".layers.{i}." in n for i in range(blocks, 3))}
    assert moved == above | {"model.norm.weight", "lm_head.weight"}


def test_deltas_below_do_not_train():
    run = Run({"lora": LoRA(rank=2), "freeze-lower": FreezeLower(blocks=1)}, steps=2)
    run.train()
    moved = {n for n, p in run.adapted.delta_parameters().items() if "lora_B" in n and p.any()}
    assert moved and all(".layers.1." in n for n in moved)


def test_too_many_blocks_are_refused_before_training():
    for method, words in ((FreezeLower(blocks=2), "no block would train"), (ReinitTop(blocks=3), "the model has 2")):
        with pytest.raises(MethodError, match=words):
            Run({"m": method}, steps=1)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.bert_classifier])
@pytest.mark.parametrize("blocks", [1, 2])
def test_upper_blocks_are_what_the_class_draws_and_the_base_stays_the_base(make, blocks):
    model = make()
    base, adapted = values(model), Adapted(model)
    method = ReinitTop(blocks=blocks)
    top = [n for b in adapted.structure.blocks[-blocks:] for n in b.parameter_names]
    import random

    method.begin_task(adapted, random.Random(5))
    drawn = values(model)
    changed = {n for n in base if not torch.equal(drawn[n], base[n])}
    fresh = {*top, *(n for n in base if "pooler" in n)}
    assert changed and changed <= fresh
    for name in fresh:
        if "norm" in name.lower() or "ln_" in name:
            assert set(drawn[name].flatten().tolist()) <= {float("bias" not in name)}
        elif name.endswith("bias"):
            assert not drawn[name].any()
        else:
            assert float(drawn[name].std()) == pytest.approx(model.config.initializer_range, rel=0.6)
            assert name in changed
    with adapted.base():
        assert not differing(values(model), base)
    with adapted.at_strength(0.0) as weak:
        assert not differing({n: p for n, p in weak.named_parameters() if n in base}, base)
    again = Adapted(make())
    method.begin_task(again, random.Random(5))
    assert not differing(values(again.model), drawn)
    method.begin_task(again, random.Random(6))
    assert differing(values(again.model), drawn)


def test_all_three_stand_together_and_resume():
    methods = [
        ("freeze-lower", FreezeLower(blocks=1)),
        ("layerwise-decay", LayerwiseDecay()),
        ("reinit-top", ReinitTop()),
    ]
    whole = Tiny(methods, steps=3, keep=(1, 2)).run()
    for saved in whole.saved.values():
        assert not differing(whole.tensors(), whole.resumed(saved).tensors())
    with whole.adapted.base() as model:
        assert not differing(model.state_dict(), whole.base)


def test_fresh_blocks_beside_lora_are_part_of_the_change():
    t = Tiny([("lora", LoRA(rank=2)), ("reinit-top", ReinitTop())], steps=2).run()
    top = [n for n in t.base if ".layers.1." in n]
    assert set(t.adapted.originals) >= set(top)
    plain = Tiny([("full", FullFineTuning()), ("reinit-top", ReinitTop())], steps=2)
    assert plain.adapted.originals.keys() == plain.adapted.base_parameters().keys()
