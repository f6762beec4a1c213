"""bert2BERT through the slot that the loop calls: exact growth, maps that are drawn, knowledge from above, training."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.contract.combining import check_conflicts
from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.qlora import QLoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.surgery.bert2bert import Bert2Bert, drawn, stacked
from tunewright.models.agreement import differing
from tunewright.models.widening import Shape


@pytest.mark.parametrize("width", [2.0, 4.0])
def test_growth_that_keeps_the_function_keeps_it_for_every_draw(width):
    for seed in range(3):
        before = logits(tiny.llama(seed))
        run = Run({"g": Bert2Bert(width=width, knowledge="fpi")}, model=tiny.llama(seed))
        assert float((logits(run.adapted.model) - before).abs().max()) < 2e-5 * float(before.abs().max())


def test_advanced_knowledge_is_another_function_and_breaks_the_symmetry_of_copies():
    """Copies that are read alike get equal gradients: after training, fpi's are still equal, and aki's never were."""
    twins = {}
    for knowledge in ("fpi", "aki"):
        run = Run({"g": Bert2Bert(knowledge=knowledge), "full": FullFineTuning()}, steps=4)
        before = logits(tiny.llama())
        gap = float((logits(run.adapted.model) - before).abs().max())
        assert (gap > 0.05) == (knowledge == "aki")
        run.train()
        g, rows = run.adapted.operated[0].surgery.neurons[0], Shape.of(tiny.llama()).neurons
        weight = dict(run.adapted.model.named_parameters())["model.layers.0.mlp.up_proj.weight"]
        twins[knowledge] = float((weight[rows:] - weight[g[rows:]]).abs().max().detach())
    assert twins["fpi"] < 1e-5 < 1e-2 < twins["aki"]


def test_maps_are_drawn_anew_for_every_block_and_kept_in_the_record():
    run = Run({"g": Bert2Bert()})
    surgery = run.adapted.operated[0].surgery
    shape = Shape.of(tiny.llama())
    assert surgery.neurons[0] != surgery.neurons[1]
    assert surgery.channels == [*range(shape.channels)] * 2
    assert all(m[: shape.neurons] == list(range(shape.neurons)) for m in surgery.neurons)
    assert drawn(3, 5, random.Random(1))[:3] == [0, 1, 2] and set(drawn(3, 50, random.Random(1))) == {0, 1, 2}


def test_depth_stacks_whole_copies_and_then_the_top_blocks():
    assert stacked(3, 2.0) == [0, 1, 2, 0, 1, 2]
    assert stacked(3, 2.34) == [0, 1, 2, 0, 1, 2, 2]
    assert stacked(4, 1.5) == [0, 1, 2, 3, 2, 3]
    run = Run({"g": Bert2Bert(width=1, depth=1.5)})
    (only,) = run.adapted.operated
    assert only.surgery.order == [0, 1, 1] and run.adapted.model.config.num_hidden_layers == 3


def test_width_comes_before_depth_and_all_of_it_trains():
    run = Run({"g": Bert2Bert(depth=1.5)}, steps=4)
    assert [o.surgery.form for o in run.adapted.operated] == ["widened", "blocks"]
    start = {n: p.clone() for n, p in run.adapted.model.named_parameters()}
    loop = run.train()
    moved = {n for n, p in run.adapted.model.named_parameters() if not torch.equal(p, start[n])}
    assert moved == set(loop.trained.leaves) == set(start) and run.records[-1]["loss"] < run.records[0]["loss"]
    assert not differing(dict(tiny.llama().state_dict()), run.adapted.tuned_state(0.0))


@pytest.mark.parametrize("beside", [{}, {"lora": LoRA(rank=2)}], ids=["alone", "lora"])
def test_resumes_bit_for_bit(beside):
    assert_resumes(lambda listen: Run({"g": Bert2Bert(depth=1.5), **beside}, listen=listen), 3)


def test_a_low_rank_change_hangs_on_the_new_shape():
    run = Run({"g": Bert2Bert(), "lora": LoRA(rank=2)})
    loop = run.train()
    assert all(".delta.lora." in n for n in loop.trained.leaves)
    (a,) = (x.parameter for n, x in loop.trained.leaves.items() if "0.mlp.down_proj" in n and "lora_A" in n)
    assert a.shape == (2, 2 * Shape.of(tiny.llama()).neurons)


def test_a_surgery_that_is_not_declared_is_refused():
    class Silent(Bert2Bert):
        reshapes = False

    with pytest.raises(MethodError, match="'g'.* gives a surgery and does not declare it"):
        Run({"g": Silent()})


def test_edits_of_the_model_come_before_its_growth_however_methods_are_named():
    """A token that another method adds is the base's too, as it is when a finished run is read."""
    seen = []

    class Edit(Method):
        """Looks at the model that it would edit."""

        def prepare(self, model: Any) -> None:
            seen.append(model.config.hidden_size)

    Run({"g": Bert2Bert(), "edit": Edit()})
    assert seen == [Shape.of(tiny.llama()).channels]


def test_what_does_not_grow_and_a_base_in_few_bits_are_refused():
    with pytest.raises(MethodError, match="neither width 1 nor depth 1 makes 2 blocks grow"):
        Run({"g": Bert2Bert(width=1)})
    with pytest.raises(MethodError, match="'g', width: 1.1 times"):
        Run({"g": Bert2Bert(width=1.1)})
    with pytest.raises(MethodError, match="'g' needs the base's weights, and 'qlora' holds them in 4 bits"):
        check_conflicts([("g", Bert2Bert()), ("qlora", QLoRA())], stage="main")


def test_a_run_that_grows_in_another_way_does_not_go_on_from_the_checkpoint():
    from tests.methods.driving import snapshot
    from tunewright.errors import CheckpointError

    kept = []
    Run({"g": Bert2Bert()}, listen=lambda loop: kept.append(snapshot(loop)), steps=2).train()
    with pytest.raises(CheckpointError, match="the model's shape was changed in another way"):
        Run({"g": Bert2Bert(depth=1.5)}, steps=2).train(kept[0])
