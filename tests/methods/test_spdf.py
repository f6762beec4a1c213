"""SPDF: a plain loop with masked weights and gradients, zeros to the bit, and what a dense stage begins with."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, logits, text_rows
from tests.methods.selecting import BASES, EPS, gradient_numbers, rows_for, state_numbers
from tunewright.contract.left import Earlier, Left
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.parameter_selection.spdf import SPDF, drawn, masks
from tunewright.tasks import get_task


def begun(methods, **more) -> Run:
    run = Run(methods, **more)
    run.methods.event("begin_task", stage="main", adapted=run.adapted)
    return run


def test_steps_are_those_of_a_plain_loop_that_masks_weights_and_gradients():
    rows = text_rows()
    run = begun({"spdf": SPDF(sparsity=0.6)}, sources={"new": rows}, steps=3, eps=EPS)
    held = masks(run.state("spdf"))
    model, task, cursor = tiny.llama(), get_task("text-generation"), Cursor({"new": rows})
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for n, m in held.items():
            parameters[n].mul_(m)
    assert torch.equal(logits(run.adapted.model), logits(model)), "the start is the masked model"
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, eps=EPS, weight_decay=0.0)
    for _ in range(3):
        batch = task.collate([row for row, _ in cursor.next_batch()], False, seed=0)
        loss = task.loss(task.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        for n, m in held.items():
            parameters[n].grad *= m
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for n, m in held.items():
                parameters[n].mul_(m)
    run.train()
    torch.testing.assert_close(logits(run.adapted.model), logits(model), atol=1e-4, rtol=1e-4)
    assert (logits(model) - logits(tiny.llama())).abs().max() > 0.1


def test_places_are_drawn_evenly_and_as_many_in_every_layer():
    g = torch.Generator().manual_seed(0)
    total = sum(drawn(200, 0.75, g).float() for _ in range(400))
    assert float(total.min()) > 60 and float(total.max()) < 140, "100 expected at each place"
    assert int((~drawn(10, 0.75, g)).sum()) == 8 and bool(drawn(10, 0.0, g).all())
    first, again = (masks(Run({"spdf": SPDF()}).state("spdf")) for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first), "the same for a seed"
    assert len(first) == 14 and {round(float((~m).float().mean()), 2) for m in first.values()} == {0.75}
    q, k = (first[f"model.layers.{i}.self_attn.q_proj.weight"] for i in (0, 1))
    assert not torch.equal(q, k)


@pytest.mark.parametrize("kind", BASES)
def test_every_base_keeps_its_zeros_to_the_bit_and_pays_for_the_rest_alone(kind):
    make, task = BASES[kind]
    run = begun({"spdf": SPDF(sparsity=0.5)}, model=make(), task=task, steps=4, sources={"new": rows_for(task)})
    held = masks(run.state("spdf"))
    parameters = run.adapted.base_parameters()
    numbers = sum(p.numel() for p in parameters.values()) - sum(int((~m).sum()) for m in held.values())
    loop = run.train()
    for n, m in held.items():
        assert not parameters[n].detach()[~m].any(), n
        assert (~m).sum() == round(0.5 * m.numel())
        moved = parameters[n].detach() != dict(make().named_parameters())[n].detach()
        assert float(moved[m].float().mean()) > 0.9, "the others train"
    assert loop.trained.count() == numbers
    assert gradient_numbers(loop) <= numbers and state_numbers(loop) == 2 * numbers
    run.adapted.forget_changes()
    for n, p in make().named_parameters():
        if n not in run.adapted.new:
            assert torch.equal(parameters[n], p), "the base comes back whole"


def test_a_dense_stage_begins_where_the_sparse_one_ended_and_fills_the_zeros():
    run = begun({"spdf": SPDF()}, steps=3)
    held = masks(run.state("spdf"))
    run.train()
    sparse = logits(run.adapted.model)
    dense = Run({"full": FullFineTuning()}, model=run.adapted, steps=2)
    assert torch.equal(logits(dense.adapted.model), sparse)
    zeros = {n: run.adapted.base_parameters()[n].detach()[~m].clone() for n, m in held.items()}
    assert all(not z.any() for z in zeros.values())
    loop = dense.train()
    assert loop.trained.count() == sum(p.numel() for p in tiny.llama().parameters())
    for n, m in held.items():
        assert float((run.adapted.base_parameters()[n].detach()[~m] != 0).float().mean()) > 0.9, n


def test_a_second_sparse_stage_goes_on_with_the_same_places():
    run = begun({"spdf": SPDF()}, steps=2)
    held = masks(run.state("spdf"))
    run.train()
    sparse = logits(run.adapted.model)
    left = Left("first", "spdf", {"mask": dict(held)})
    second = begun({"spdf": SPDF(sparsity=0.1)}, model=run.adapted, steps=2, earlier=Earlier((left,)))
    again = masks(second.state("spdf"))
    assert all(torch.equal(again[n], m) for n, m in held.items())
    assert torch.equal(logits(second.adapted.model), sparse)
    second.train()
    assert all(not run.adapted.base_parameters()[n].detach()[~m].any() for n, m in held.items())


@pytest.mark.parametrize("change", [{"sparsity": 0.5}, {"target_modules": ("q_proj", "down_proj")}], ids=str)
def test_every_option_changes_the_run(change):
    def tuned(**fields):
        run = begun({"spdf": SPDF(**fields)}, steps=2)
        run.train()
        return logits(run.adapted.model), set(masks(run.state("spdf")))

    one, other = tuned(**change), tuned()
    assert not torch.equal(one[0], other[0])
    if "target_modules" in change:
        assert one[1] == {n for n in other[1] if n.split(".")[-2] in change["target_modules"]}


def test_beside_lora_both_train_and_what_is_found_is_counted():
    method = SPDF(sparsity=0.5)
    run = begun({"spdf": method, "lora": LoRA(rank=2)}, steps=3)
    loop = run.train()
    assert any(".delta.lora." in n for n in loop.trained.leaves)
    held = masks(run.state("spdf"))
    assert all(not run.adapted.base_parameters()[n].detach()[~m].any() for n, m in held.items())
    values = method.found(run.state("spdf")).values
    size = sum(m.numel() for m in held.values())
    assert values == {"zeros": size // 2, "weights": size, "share": 0.5}


def test_what_has_no_such_layer_is_refused():
    with pytest.raises(MethodError, match="no module"):
        Run({"spdf": SPDF(target_modules=("nothing",))})


def test_resumes():
    assert_resumes(lambda listen: begun({"spdf": SPDF()}, steps=4, listen=listen), 2)
