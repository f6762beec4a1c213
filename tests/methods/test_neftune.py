"""NEFTune: noise of transformers' size on a row's embeddings while it is trained on, and never elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.neftune import neftune_post_forward_hook

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tests.methods.reading import mask_rows
from tunewright.conformance.task_regions import segformer
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.inputs.neftune import HELD, NEFTune, noise
from tunewright.models import context
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def begun(alpha: float = 5.0, make=tiny.llama, task: str = "text-generation") -> Run:
    rows = mask_rows() if task == "fill-mask" else text_rows()
    methods = {"neftune": NEFTune(alpha=alpha), "lora": LoRA(rank=2)}
    run = Run(methods, model=make(), task=task, sources={"new": rows}, steps=4)
    run.methods.event("begin_task", stage="main", adapted=run.adapted)
    return run


def added(run: Run, rows, packed: bool = False) -> list[torch.Tensor]:
    """The noise on each row's embeddings, through the model's own embedding layer in training."""
    batch = TASK.collate(rows, packed)
    layer, ids = run.adapted.model.get_input_embeddings(), batch.inputs["input_ids"]
    layer.train()
    with torch.no_grad(), context.reading(context.of_batch(batch)):
        found = layer(ids) - torch.nn.functional.embedding(ids, layer.weight)
    now = context.of_batch(batch)
    row, place = now.at(found)
    assert not found[place < 0].any(), "padding stays"
    return [found[(row == i) & (place >= 0)] for i in range(len(rows))]


def test_the_scale_is_transformers():
    """Its hook and ours on rows of one length: the same bound, which both reach, uniform in it."""
    rows = [Row(f"r:{i}", "r", [9 + i + j for j in range(12)], [1.0] * 12) for i in range(64)]
    run = begun(alpha=5.0)
    ours = torch.cat(added(run, rows)).flatten()
    layer = tiny.llama().get_input_embeddings().train()
    layer.neftune_noise_alpha = 5.0
    ids = TASK.collate(rows).inputs["input_ids"]
    with torch.no_grad():
        theirs = (neftune_post_forward_hook(layer, None, layer(ids)) - layer(ids)).flatten()
    bound = 5.0 / (12 * 32) ** 0.5
    for x in (ours, theirs):
        assert 0.999 * bound < float(x.abs().max()) <= bound + 1e-6
        assert abs(float(x.var()) / (bound**2 / 3) - 1) < 0.03 and abs(float(x.mean())) < 0.01 * bound


def test_a_rows_noise_has_the_papers_length_whatever_its_own_is():
    for length in (4, 40, 400):
        drawn = noise(length, 64, 5.0, f"key {length}")
        assert abs(float(drawn.norm()) / (5.0 / 3**0.5) - 1) < 0.15
    assert torch.equal(noise(4, 8, 5.0, "a"), noise(4, 8, 5.0, "a"))
    assert not torch.equal(noise(4, 8, 5.0, "a"), noise(4, 8, 5.0, "b"))


def test_packing_and_splitting_change_no_draw_and_steps_do():
    run, rows = begun(), text_rows(5)
    padded, packed = added(run, rows), added(run, rows, True)
    split = [n for r in rows for n in added(run, [r])]
    for a, b, c in zip(padded, packed, split, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
    run.methods.event("after_step", step=1, plan=run.plan, adapted=run.adapted, parameters={})
    later = added(run, rows)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(padded, later, strict=True))


def test_nothing_is_added_where_nobody_trains():
    run = begun(20.0)
    assert torch.equal(logits(run.adapted.model), logits(tiny.llama()))
    with run.adapted.evaluating():
        batch = TASK.collate(text_rows(3))
        with torch.no_grad():
            assert torch.equal(TASK.forward(run.adapted.model, batch).logits, TASK.forward(tiny.llama(), batch).logits)
    layer = run.adapted.model.get_input_embeddings()
    assert HELD in layer.__dict__
    run.methods.event("begin_task", stage="main", adapted=run.adapted)
    assert len(layer._forward_hooks) == 1, "begun twice, heard once"
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    assert not layer._forward_hooks and HELD not in layer.__dict__


def test_alpha_0_is_plain_training_and_another_alpha_is_not():
    def losses(**methods) -> list[float]:
        run = Run({**methods, "lora": LoRA(rank=2)}, steps=4)
        run.methods.event("begin_task", stage="main", adapted=run.adapted)
        run.train()
        return [r["loss"] for r in run.records]

    plain = losses()
    assert losses(neftune=NEFTune(alpha=0.0)) == plain
    assert losses(neftune=NEFTune(alpha=5.0)) != plain != losses(neftune=NEFTune(alpha=20.0))
    assert NEFTune(neftune_noise_alpha=7.0).alpha == 7.0  # type: ignore[call-arg]
    assert NEFTune().alpha == 5.0


def test_it_resumes_bit_for_bit():
    def make(listen):
        run = Run({"neftune": NEFTune(), "lora": LoRA(rank=2)}, steps=5, listen=listen)
        run.methods.event("begin_task", stage="main", adapted=run.adapted)
        return run

    assert_resumes(make, 2)


def test_models_without_tokens_are_refused():
    with pytest.raises(MethodError, match="reads none"):
        begun(make=tiny.vit, task="image-classification")
    with pytest.raises(MethodError, match="reads none"):  # transformers does not say what embeds there
        NEFTune().setup(SimpleNamespace(adapted=SimpleNamespace(model=segformer())))
    begun(make=tiny.bert, task="fill-mask")
