"""LEVI: features and losses as by hand, what each view gives alone, and a frozen model that nothing reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows
from tests.methods.test_unipt import class_rows, kept_bytes
from tunewright.errors import MethodError
from tunewright.methods.adapters.levi import LEVI
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.pieces.two_views import small_model
from tunewright.training import carry
from tunewright.training.train import Loop

TEXT, PICTURES = "text-classification", "image-classification"
MODELS = {TEXT: lambda: tiny.bert_classifier(layers=3), PICTURES: lambda: tiny.vit(layers=3)}
ROWS = {TEXT: class_rows, PICTURES: image_rows}


def make(listen=None, task: str = TEXT, steps: int = 6, **fields: Any) -> Run:
    given = {"width": 16, **fields}
    run = Run(
        {"levi": LEVI(**given)},
        model=MODELS[task](),
        task=task,
        sources={"c": ROWS[task]()},
        steps=steps,
        listen=listen,
    )
    return run


def plain(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def by_hand(run: Run, batch: Any) -> list[Tensor]:
    """Each tap's features [R, D], row by row and without the wrapper."""
    side, model = run.adapted.wrapper.side, MODELS[run.task.name]()
    taps, out = run.state("levi").data["taps"], []
    mask = batch.inputs.get("attention_mask")
    with torch.no_grad():
        big = model.base_model(**batch.inputs, output_hidden_states=True)
        hidden = [*big.hidden_states[:-1], big.last_hidden_state]
        small = side.small(**batch.inputs).last_hidden_state
        for i, tap in enumerate(taps):
            first, _, last = side.adapting[i]
            rows = []
            for r in range(len(small)):
                real = slice(None) if mask is None else mask[r].bool()
                both = torch.cat([plain(hidden[tap][r][real].mean(0)), plain(small[r][real].mean(0))])
                inner = (first.weight @ both + first.bias).clamp(min=0)
                rows.append(last.weight @ inner + last.bias)
            out.append(torch.stack(rows))
    return out


@pytest.mark.parametrize("task", MODELS)
def test_each_tap_reads_both_views_and_the_answer_is_the_mean_of_the_taps(task):
    run = make(task=task)
    batch = run.task.collate(ROWS[task](6))
    with run.adapted.evaluating(), torch.no_grad():
        got = run.task.forward(run.adapted.outer, batch)
        features = by_hand(run, batch)
        head = run.adapted.model.classifier
        each = torch.stack([head(f) for f in features])
    assert len(features) == 3
    torch.testing.assert_close(got.logits, each.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got.features, torch.stack(features).mean(0), atol=1e-5, rtol=1e-4)
    assert (each[0] - each[2]).abs().max() > 1e-3, "layers are read"


def test_the_loss_is_the_mean_of_the_taps_losses_and_not_that_of_their_mean():
    run = make()
    run.adapted.wrapper.side.small.eval()
    for m in run.adapted.wrapper.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    loop = Loop(run.stage)
    rows, _ = loop.take()
    batch = run.task.collate([r for r, _ in rows])
    with torch.no_grad():
        each = torch.stack([run.adapted.model.classifier(f) for f in by_hand(run, batch)])
        wanted = torch.stack([cross_entropy(z, batch.labels) for z in each]).mean()
    got = loop.gradients(rows)["loss"]
    assert got == pytest.approx(float(wanted), rel=1e-4)
    assert got > float(cross_entropy(each.mean(0), batch.labels)) + 1e-4


def test_without_one_views_columns_the_other_stands_alone():
    run, some = make(), class_rows(6)
    batch, side = run.task.collate(some), run.adapted.wrapper.side

    def said() -> Tensor:
        with run.adapted.evaluating(), torch.no_grad():
            return run.task.forward(run.adapted.outer, batch).logits

    whole = said()
    kept = [a[0].weight.detach().clone() for a in side.adapting]
    for a in side.adapting:
        a[0].weight.data[:, 32:] = 0
    probe = said()
    side.small.embeddings.word_embeddings.weight.data.mul_(-3)
    assert torch.equal(said(), probe) and not agrees(whole, probe), "layers of the frozen model alone"
    for a, w in zip(side.adapting, kept, strict=True):
        a[0].weight.data.copy_(w)
        a[0].weight.data[:, :32] = 0
    small = said()
    run.adapted.model.bert.embeddings.word_embeddings.weight.data.mul_(-3)
    assert torch.equal(said(), small) and not agrees(small, probe), "the small model alone"


def test_nothing_of_the_frozen_model_has_a_gradient_or_is_kept():
    run = make()
    before = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
    backbone = {n: p for n, p in run.adapted.base_parameters().items() if not n.startswith("classifier")}
    storages = {p.untyped_storage().data_ptr() for p in backbone.values()}
    batch = run.task.collate(class_rows(8))
    run.adapted.wrapper.train()
    assert run.adapted.wrapper.side.small.training and not run.adapted.model.training
    _, kept = kept_bytes(lambda: run.task.forward(run.adapted.wrapper, batch).logits)
    assert not kept & storages
    run = make(steps=30)
    backbone = {n: p for n, p in run.adapted.base_parameters().items() if not n.startswith("classifier")}
    loop = run.train()
    assert {n.split(".")[0] for n in loop.trained.leaves} == {"levi", "classifier"}
    assert any(".small." in n for n in loop.trained.leaves) and any(".adapting." in n for n in loop.trained.leaves)
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in backbone.items())
    losses = [r["loss"] for r in run.records]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_small_model_is_narrow_drawn_afresh_and_the_same_for_a_seed():
    side = make().adapted.wrapper.side
    assert side.small.config.hidden_size == 8 and len(side.small.encoder.layer) == 2
    assert side.small.embeddings.word_embeddings.weight.shape == (tiny.VOCABULARY, 8) and side.small.pooler is None
    again = make().adapted.wrapper.side
    assert all(torch.equal(a, b) for a, b in zip(side.parameters(), again.parameters(), strict=True))
    wide = make(reduction=2, blocks=1, layers=(0, 2)).adapted.wrapper.side
    assert wide.small.config.hidden_size == 16 and len(wide.small.encoder.layer) == 1
    assert [tuple(a[0].weight.shape) for a in wide.adapting] == [(16, 48), (16, 48)]
    plain_model = LEVI()
    assert (plain_model.blocks, plain_model.reduction, plain_model.width) == (2, 4, 64)
    llama = small_model(tiny.llama(), 1, 2, "levi")
    with torch.no_grad():
        assert llama(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.shape == (1, 3, 16)


def test_it_resumes_and_comes_back_from_its_files(tmp_path):
    assert_resumes(make, 3)
    run = make()
    run.train()
    batch = run.task.collate(class_rows(5))
    with torch.no_grad():
        tuned = run.task.forward(run.adapted.wrapper.eval(), batch).logits
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(MODELS[TEXT]())
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    with torch.no_grad():
        assert agrees(run.task.forward(again.wrapper.eval(), batch).logits, tuned)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"layers": (4,)}, "has no layers"),
        ({"layers": ()}, "has no layers"),
        ({"reduction": 32}, "no width that could be divided"),
    ],
)
def test_what_cannot_be_read_is_refused(fields, says):
    with pytest.raises(MethodError, match=says) as caught:
        make(**fields)
    assert caught.value.remedy


def test_a_model_without_a_width_is_refused():
    with pytest.raises(MethodError, match="says no width"):
        Run({"levi": LEVI()}, model=tiny.efficientnet(), task=PICTURES)
