"""FLoRA: changes in Tucker's form against whole tensors, on linear layers and every kind of convolution, on text and
pictures."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, changed, image_rows, logits
from tests.methods.selecting import BASES, EPS, rows_for, stayed
from tunewright.errors import MethodError
from tunewright.methods.adapters.flora_tucker import FLoRATucker
from tunewright.methods.adapters.lora import LoRA
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.deltas import attach
from tunewright.models.nf4 import quantise_sites
from tunewright.models.sites import Site
from tunewright.models.tucker import Tucker, axes_of, geometry_of
from tunewright.tasks import get_task


def still():
    """The convolutional model without its stochastic depth."""
    model = tiny.efficientnet()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


CONVOLUTIONAL = {**BASES, "convolutional": (still, "image-classification")}
CONVOLUTIONS = {
    "plain": nn.Conv2d(6, 10, 3),
    "strided": nn.Conv2d(6, 10, (3, 5), stride=2, padding=(1, 2)),
    "same": nn.Conv2d(6, 10, 3, padding="same", dilation=2),
    "grouped": nn.Conv2d(6, 10, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(6, 6, 3, stride=2, groups=6),
    "points": nn.Conv2d(6, 10, 1),
    "sound": nn.Conv1d(6, 10, 5, stride=2, padding=2),
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run_of(make, task: str, *, rows=None, **more) -> Run:
    fields = {"mode_ranks": (3, 4, 2, 2), **more.pop("fields", {})}
    rows = rows_for(task) if rows is None else rows
    return Run({"flora-tucker": FLoRATucker(**fields)}, model=make(), task=task, sources={"new": rows}, **more)


def own(run: Run) -> dict[str, Tucker]:
    return {n: d["flora-tucker"] for n, d in run.adapted.deltas().items()}


def fill(run: Run) -> Run:
    """Cores that are not zero, as after training."""
    for i, d in enumerate(own(run).values()):
        d.core.data = 0.3 * normal(*d.core.shape, seed=i)
    return run


def whole(core: torch.Tensor, factors, scale: float) -> torch.Tensor:
    """The authors' update, [out, in, kernel ...]: one product with the core for each axis, then the first two
    exchanged.
    """
    update = core
    for U in factors:
        update = torch.tensordot(update, U, dims=[[0], [1]])
    return scale * update.transpose(0, 1)


def said(run: Run, model) -> torch.Tensor:
    task = get_task(run.task.name)
    with torch.no_grad(), run.adapted.evaluating():
        return task.forward(model, task.collate(rows_for(run.task.name)[:4])).logits


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolutions_change_is_the_sum_over_its_axes_and_is_convolved_with_alike(name):
    module = copy.deepcopy(CONVOLUTIONS[name]).requires_grad_(False)
    site = Site("layer", "conv", "mlp", 0, module)
    axes = axes_of(site)
    kernel = module.weight.shape[2:]
    assert axes == [module.weight.shape[1], module.weight.shape[0], *kernel]
    ranks = [min(r, d) for r, d in zip((3, 4, 2, 2), axes, strict=False)]
    core, factors = normal(*ranks), [normal(d, r, seed=i) for i, (d, r) in enumerate(zip(axes, ranks, strict=True))]
    delta = Tucker(core, factors, 1.5, geometry=geometry_of(site))
    letters = "abcd"[: len(axes)], "iokl"[: len(axes)]
    terms = ",".join([letters[0], *(f"{to}{of}" for of, to in zip(*letters, strict=True))])
    arrays = [t.double().numpy() for t in (core, *factors)]
    wanted = torch.from_numpy(1.5 * np.einsum(f"{terms}->oi{letters[1][2:]}", *arrays)).float()
    torch.testing.assert_close(delta.whole().detach(), wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(delta.change(), delta.whole().flatten(1))
    x = normal(2, 6, *([9, 11][: len(kernel)]))
    changed_layer = type(module)(6, module.out_channels, kernel, **geometry_of(site)).requires_grad_(False)
    changed_layer.weight.copy_(module.weight + 0.5 * wanted)
    changed_layer.bias.copy_(module.bias)
    attach(site, "one", delta)
    delta.strength = 0.5
    torch.testing.assert_close(module(x), changed_layer(x), atol=1e-4, rtol=1e-4)
    for i in range(len(axes)):
        assert int(torch.linalg.matrix_rank(delta.whole().transpose(0, 1).movedim(i, 0).flatten(1))) <= ranks[i]


def test_a_linear_layers_change_is_three_thin_products():
    core, first, last = normal(2, 3), normal(7, 2, seed=1), normal(5, 3, seed=2)
    delta = Tucker(core, [first, last], 2.0)
    torch.testing.assert_close(delta.change(), 2 * (first @ core @ last.T).T)
    x, y = normal(4, 6, 7, seed=3), normal(4, 6, 5, seed=4)
    torch.testing.assert_close(delta(x, y), y + x @ delta.change().T)
    assert delta.entries == sum(p.numel() for p in delta.parameters()) == 6 + 14 + 15


@pytest.mark.parametrize("base", CONVOLUTIONAL)
def test_its_steps_are_those_of_the_authors_layer(base):
    """The update made whole in a hook beside each untouched layer, and AdamW over cores and factors."""
    make, task = CONVOLUTIONAL[base]
    rows = rows_for(task)
    run = run_of(make, task, rows=rows, steps=3, eps=EPS, fields={"scale": 1.5})
    before = [d.core.detach().clone() for d in own(run).values()]
    model, parts = make().requires_grad_(False), {}

    def beside(layer, part):
        def hook(_, given, y):
            update = whole(part[0], part[1:], 1.5)
            if isinstance(layer, nn.Conv2d):
                return y + F.conv2d(given[0], update, None, layer.stride, layer.padding, layer.dilation, layer.groups)
            return y + F.linear(given[0], update)

        return hook

    for name, d in own(run).items():
        parts[name] = [t.detach().clone().requires_grad_() for t in (d.core, *d.factors)]
        layer = model.get_submodule(name)
        layer.register_forward_hook(beside(layer, parts[name]))
    convolutions = [n for n, p in parts.items() if len(p) == 5]
    assert len(convolutions) == (14 if base == "convolutional" else 0)
    served, cursor, trained = get_task(task), Cursor({"new": rows}), [t for p in parts.values() for t in p]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=EPS, weight_decay=0.0)
    for _ in range(3):
        batch = served.collate([r for r, _ in cursor.next_batch()], False, seed=0)
        loss = served.loss(served.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    run.train()
    assert max(float((d.core.detach() - b).abs().max()) for d, b in zip(own(run).values(), before, strict=True)) > 0.01
    for name, d in own(run).items():
        for got, wanted in zip((d.core, *d.factors), parts[name], strict=True):
            torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-3)
    assert all(bool(same.all()) for same in stayed(run.adapted.model, make()).values())


@pytest.mark.parametrize("make", [tiny.llama, tiny.efficientnet])
def test_it_starts_as_the_base_and_the_first_step_moves_cores_alone(make):
    task = "image-classification" if make is tiny.efficientnet else "text-generation"
    run = run_of(make, task, steps=1)
    assert torch.equal(said(run, run.adapted.model), said(run, make()))
    before = {n: p.detach().clone() for n, p in run.adapted.trainable_deltas().items()}
    run.train()
    moved = {n for n, p in run.adapted.trainable_deltas().items() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if n.endswith(".core")}


def test_factors_start_with_half_of_one_over_their_rank_for_a_variance():
    run = Run({"flora-tucker": FLoRATucker(mode_ranks=(8, 2, 1, 1))})
    for axis, r in ((0, 8), (1, 2)):
        drawn = torch.cat([d.factors[axis].detach().flatten() for d in own(run).values()])
        assert float(drawn.std()) == pytest.approx((2 * r) ** -0.5, rel=0.08)
        assert abs(float(drawn.mean())) < 0.05
    assert not any(d.core.any() for d in own(run).values())


def test_as_many_numbers_train_as_core_and_factors_have_and_no_axis_more_than_its_length():
    run = run_of(tiny.efficientnet, "image-classification", steps=1, fields={"mode_ranks": (8, 16, 2, 2)})
    loop = run.train()
    total = 0
    for name, d in own(run).items():
        out, inputs, *kernel = run.adapted.structure.site(name).weight.shape
        axes = [inputs, out, *kernel]
        ranks = [min(r, a) for r, a in zip((8, 16, 2, 2), axes, strict=True)]
        assert list(d.core.shape) == ranks
        total += math.prod(ranks) + sum(r * a for r, a in zip(ranks, axes, strict=True))
    assert loop.trained.count() == total
    depthwise = own(run)["efficientnet.encoder.blocks.0.depthwise_conv.depthwise_conv"]
    assert list(depthwise.core.shape) == [1, 16, 2, 2] and depthwise.entries == 32 * 9


def test_all_are_the_layers_inside_blocks_and_others_are_taken_where_they_are_named():
    def targets(make, **fields):
        return {s.name for s in FLoRATucker(**fields).sites(Adapted(make()).structure)}

    found = targets(tiny.efficientnet)
    assert found and all(".blocks." in n and "norm" not in n and not n.endswith("bn") for n in found)
    stem = "efficientnet.embeddings.convolution"
    assert stem not in found and targets(tiny.efficientnet, target_modules=(stem,)) == {stem}
    assert len(targets(tiny.llama)) == 14 == len(targets(tiny.llama, target_modules="all-linear"))


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.vit, tiny.efficientnet])
def test_it_folds_dials_and_gives_the_base_back(make):
    run = fill(run_of(make, "text-generation" if make is tiny.gpt2 else "image-classification"))
    base, tuned = said(run, make()), said(run, run.adapted.model)
    assert float((tuned - base).abs().max()) > 1e-2
    with run.adapted.base() as model:
        assert torch.equal(said(run, model), base)
    with run.adapted.at_strength(0.5) as model:
        assert not agrees(said(run, model), base) and not agrees(said(run, model), tuned)
    run.adapted.fold()
    assert not run.adapted.deltas()
    torch.testing.assert_close(said(run, run.adapted.model), tuned, atol=1e-4, rtol=1e-3)
    run.adapted.forget_changes()
    assert agrees(said(run, run.adapted.model), base)


def test_every_field_changes_what_is_trained():
    def after(**fields):
        return changed(run_of(tiny.efficientnet, "image-classification", steps=3, fields=fields).train())

    first = after()
    for ranks in ((2, 4, 2, 2), (3, 2, 2, 2), (3, 4, 1, 2), (3, 4, 2, 1)):
        assert [t.shape for t in after(mode_ranks=ranks).values()] != [t.shape for t in first.values()], ranks
    for field in ({"scale": 4.0}, {"dropout": 0.3}):
        assert any(not torch.equal(first[n], t) for n, t in after(**field).items()), field
    assert {*after(target_modules=("project_conv",))} < {*first}


def test_it_resumes_beside_lora_and_is_read_back_from_a_file(tmp_path: Path):
    def make(listen):
        methods = {"flora-tucker": FLoRATucker(mode_ranks=(3, 3, 2, 2), dropout=0.1), "lora": LoRA(rank=2)}
        return Run(methods, steps=4, listen=listen)

    assert_resumes(make, 2)
    assert_resumes(
        lambda listen: run_of(tiny.efficientnet, "image-classification", steps=4, listen=listen, rows=image_rows()), 2
    )
    run = run_of(tiny.efficientnet, "image-classification", steps=3)
    run.train()
    tuned = said(run, run.adapted.model)
    delta_format.save_delta(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.efficientnet())
    delta_format.load_delta(again, tmp_path)
    assert torch.equal(said(run, again.model), tuned)


def test_a_base_in_4_bits_is_changed_beside_its_codes():
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), False)
    adapted.rediscover()
    run = fill(Run({"flora-tucker": FLoRATucker(mode_ranks=(3, 3, 1, 1))}, model=adapted))
    tuned = logits(run.adapted.model)
    with run.adapted.at_strength(1.0) as model:
        torch.testing.assert_close(logits(model), tuned, atol=1e-4, rtol=1e-3)


def test_what_it_cannot_change_is_refused():
    with pytest.raises(MethodError, match="norm"):
        Run({"flora-tucker": FLoRATucker(target_modules=("input_layernorm",))})
    with pytest.raises(MethodError, match="no module"):
        Run({"flora-tucker": FLoRATucker(target_modules=("no_such",))})
    model = tiny.efficientnet()
    model.efficientnet.encoder.blocks[0].projection.project_conv.padding_mode = "reflect"
    with pytest.raises(MethodError, match="pads with 'reflect'"):
        run_of(lambda: model, "image-classification")
    with pytest.raises(MethodError, match="a core"):
        Tucker(torch.zeros(2, 2), [torch.zeros(4, 2), torch.zeros(4, 3)], 1.0)
    site = Adapted(tiny.llama()).structure.linear_sites()[0]
    settings = Tucker(torch.zeros(2, 2), [torch.zeros(4, 2), torch.zeros(4, 2)], 1.0).settings()
    with pytest.raises(MethodError, match="does not fit"):
        Tucker.rebuild(settings, site)
