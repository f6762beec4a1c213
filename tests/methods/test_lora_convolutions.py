"""Low-rank changes of convolutions: against whole kernels, on every kind of convolution, trained, folded and stored."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import Run, assert_resumes, changed, image_rows
from tests.methods.selecting import rows_for
from tests.methods.test_flora_tucker import CONVOLUTIONS, FLoRATucker, normal, said, still
from tunewright.errors import MethodError
from tunewright.methods.adapters.dora import DoRA
from tunewright.methods.adapters.eva import EVA
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.lora_fa import LoRAFA
from tunewright.methods.adapters.olora import OLoRA
from tunewright.methods.adapters.pissa import PiSSA
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.deltas import LowRank, LowRankConv, attach
from tunewright.models.peft_format import obstacle
from tunewright.models.sites import Site
from tunewright.weights.opening import open_source

TASK = "image-classification"


def run_of(method: str = "lora", cls: type = LoRA, make=still, **more) -> Run:
    fields = {"rank": 3, "target_modules": "all", **more.pop("fields", {})}
    return Run({method: cls(**fields)}, model=make(), task=TASK, sources={"new": rows_for(TASK)}, **more)


def own(run: Run) -> dict[str, LowRank]:
    return {n: next(iter(d.values())) for n, d in run.adapted.deltas().items()}


def fill(run: Run) -> Run:
    for i, d in enumerate(own(run).values()):
        d.lora_B.data = 0.1 * normal(*d.lora_B.shape, seed=i)
    return run


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_change_is_convolved_with_as_its_product_is(name, offset):
    module = copy.deepcopy(CONVOLUTIONS[name]).requires_grad_(False)
    site = Site("layer", "conv", "mlp", 0, module)
    A, B = normal(3, site.in_features), normal(site.out_features, 3, seed=1)
    delta = LowRankConv.on(site, LowRank(A, B, 1.5, offset=offset))
    delta.lora_B.data = B + normal(*B.shape, seed=2)
    delta.strength = 0.5
    wanted = 0.75 * ((delta.lora_B - B if offset else delta.lora_B) @ A).reshape(module.weight.shape).detach()
    torch.testing.assert_close(delta.change().reshape(module.weight.shape) * 0.5, wanted, atol=1e-5, rtol=1e-5)
    kernel = module.weight.shape[2:]
    x = normal(2, 6, *([9, 11][: len(kernel)]))
    plain = module(x)
    convolve = F.conv1d if len(kernel) == 1 else F.conv2d
    attach(site, "one", delta)
    torch.testing.assert_close(module(x) - plain, convolve(x, wanted, None, **delta.geometry), atol=1e-4, rtol=1e-4)
    thin = (A.numel() + B.numel()) * (2 if offset else 1)
    assert delta.entries == (len(B) * A.shape[1] if name in ("grouped", "depthwise") else thin)
    again = LowRankConv.rebuild(delta.settings(), site)
    again.load_state_dict(delta.state_dict())
    again.strength = 0.5
    assert torch.equal(again(x, plain), delta(x, plain))


def test_all_takes_convolutions_inside_the_blocks_and_all_linear_none():
    found = {s.name for s in LoRA(rank=2, target_modules="all").sites(Adapted(tiny.efficientnet()).structure)}
    assert found == {s.name for s in FLoRATucker().sites(Adapted(tiny.efficientnet()).structure)}
    with pytest.raises(MethodError, match="found no site to attach to") as none:
        LoRA(rank=2).sites(Adapted(tiny.efficientnet()).structure)
    assert "target_modules: all" in str(none.value.remedy)
    stem = "efficientnet.embeddings.convolution"
    assert [s.name for s in LoRA(target_modules=(stem,)).sites(Adapted(tiny.efficientnet()).structure)] == [stem]
    texts = Adapted(tiny.llama()).structure
    assert LoRA(target_modules="all").sites(texts) == LoRA().sites(texts)


@pytest.mark.parametrize("cls", [DoRA, EVA, LoRAFA])
def test_methods_of_linear_layers_say_that_a_convolution_is_none(cls):
    with pytest.raises(MethodError, match="which is a conv"):
        cls(target_modules=("project_conv",)).sites(Adapted(tiny.efficientnet()).structure)


@pytest.mark.parametrize("cls", [LoRA, PiSSA, OLoRA])
def test_it_starts_as_the_base_learns_folds_and_gives_the_base_back(cls):
    fields = {} if cls is LoRA else {"rank": 1}
    run = run_of(cls=cls, fields=fields, steps=3)
    base = said(run, still())
    torch.testing.assert_close(said(run, run.adapted.model), base, atol=1e-5, rtol=1e-4)
    run.train()
    tuned = said(run, run.adapted.model)
    assert all(bool(d.change().abs().max() > 0) for d in own(run).values())
    assert not agrees(tuned, base)
    with run.adapted.base() as model:
        assert torch.equal(said(run, model), base)
    run.adapted.fold()
    torch.testing.assert_close(said(run, run.adapted.model), tuned, atol=1e-4, rtol=1e-3)
    run.adapted.forget_changes()
    assert agrees(said(run, run.adapted.model), base)


def test_steps_are_those_of_convolutions_beside_untouched_layers():
    """Kernels made whole in a hook, B A, and the same optimizer over A and B."""
    run = run_of(steps=1, fields={"target_modules": ("project_conv", "depthwise_conv"), "dropout": 0.0})
    model, pairs = still().requires_grad_(False), {}

    def beside(layer, A, B, scale):
        def hook(_, given, y):
            change = (B @ A).reshape(layer.weight.shape) * scale
            return y + F.conv2d(given[0], change, None, layer.stride, layer.padding, layer.dilation, layer.groups)

        return hook

    for name, d in own(run).items():
        A, B = (t.detach().clone().requires_grad_() for t in (d.lora_A, d.lora_B))
        pairs[name] = A, B
        model.get_submodule(name).register_forward_hook(beside(model.get_submodule(name), A, B, d.scale))
    fill(run)
    for i, (_, B) in enumerate(pairs.values()):
        B.data = 0.1 * normal(*B.shape, seed=i)
    task = run.task
    batch = task.collate(rows_for(TASK)[:6])
    for one in (run.adapted.model, model):
        with run.adapted.evaluating():
            loss = task.loss(task.forward(one.eval(), batch), batch)
            ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
    for name, d in own(run).items():
        for got, wanted in zip((d.lora_A, d.lora_B), pairs[name], strict=True):
            assert wanted.grad is not None and wanted.grad.abs().max() > 0
            torch.testing.assert_close(got.grad, wanted.grad, atol=1e-5, rtol=1e-3)


def test_every_field_changes_what_is_trained_and_it_resumes():
    first = changed(run_of(steps=3).train())
    for field in ({"alpha": 9.0}, {"dropout": 0.3}, {"use_rslora": True}):
        other = changed(run_of(steps=3, fields=field).train())
        assert any(not torch.equal(first[n], t) for n, t in other.items()), field
    less = changed(run_of(steps=3, fields={"rank_pattern": {"project_conv": 1}}).train())
    assert sum(t.numel() for t in less.values()) < sum(t.numel() for t in first.values())
    assert_resumes(lambda listen: run_of(steps=4, listen=listen, fields={"dropout": 0.1}), 2)
    assert_resumes(
        lambda listen: Run(
            {"lora": LoRA(rank=2, target_modules="all")},
            model=tiny.efficientnet(),
            task=TASK,
            sources={"new": image_rows()},
            steps=4,
            listen=listen,
        ),
        2,
    )


@pytest.mark.parametrize("method", ["lora", "flora-tucker"])
def test_a_saved_change_is_read_back_onto_the_model_and_onto_its_files(method, tmp_path: Path):
    cls, fields = (LoRA, {}) if method == "lora" else (FLoRATucker, {"mode_ranks": (3, 3, 2, 2)})
    if method == "lora":
        run = fill(run_of(make=tiny.efficientnet))
    else:
        methods = {method: cls(**fields)}
        run = Run(methods, model=tiny.efficientnet(), task=TASK, sources={"new": rows_for(TASK)}, steps=3)
        run.train()
    tuned = said(run, run.adapted.model)
    delta_format.save_delta(run.adapted, tmp_path / "delta", "tiny")
    again = Adapted(tiny.efficientnet())
    delta_format.load_delta(again, tmp_path / "delta")
    assert torch.equal(said(run, again.model), tuned)
    tiny.efficientnet().save_pretrained(tmp_path / "base")
    source = open_source(str(tmp_path / "delta"), str(tmp_path / "base"))
    again.fold()
    state = again.model.state_dict()
    convolutions = [n for n in source.changes if state[n].dim() == 4]
    assert len(convolutions) == 14
    for name in source.changes:
        torch.testing.assert_close(torch.from_numpy(source.whole(name)), state[name], atol=1e-5, rtol=1e-4)


def test_groups_have_no_place_in_a_peft_adapter():
    assert "is a convolution with groups" in str(obstacle(run_of().adapted))
    assert obstacle(run_of(fields={"target_modules": ("project_conv",)}).adapted) is None
