"""SSF: every operation scaled and shifted as the authors do, folded without a rest, on text and pictures."""

from __future__ import annotations

from functools import wraps
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows, logits, text_rows
from tests.methods.reading import mask_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.ssf import SSF
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.nf4 import quantise_sites
from tunewright.models.scale_shift import CONV_AXIS, LAST, ScaleShift, channel_axis
from tunewright.tasks import get_task


def filled(make):
    """The model with biases and norms that are not the fresh ones: a bias of zero hides what becomes of it."""

    @wraps(make)
    def made():
        model = make()
        for i, p in enumerate(p for p in model.parameters() if p.dim() == 1):
            p.data += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        return model

    return made


MAKERS = [filled(m) for m in (tiny.llama, tiny.gpt2, tiny.qwen3, tiny.bert, tiny.vit, tiny.efficientnet)]


def run_of(make, method: SSF, **more) -> Run:
    model = make()
    kind = type(model).__name__
    if "Image" in kind:
        more |= {"task": "image-classification", "sources": {"new": image_rows()}}
    elif kind == "BertForMaskedLM":
        more |= {"task": "fill-mask", "sources": {"new": mask_rows()}}
    return Run({"ssf": method}, model=model, **more)


def said(run: Run, model) -> torch.Tensor:
    task = get_task(run.task.name)
    makers = {"image-classification": image_rows, "fill-mask": mask_rows}
    rows = makers.get(run.task.name, text_rows)(4)
    with torch.no_grad(), run.adapted.evaluating():
        return task.forward(model, task.collate(rows)).logits


def scaled(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The authors' rule: the last axis where its size fits, else the second of four."""
    if x.dim() == 4 and x.shape[1] == len(scale):
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    return x * scale + shift


@pytest.mark.parametrize("make", MAKERS)
def test_every_operation_is_scaled_as_by_hooks_on_the_untouched_model(make):
    run = run_of(make, SSF(std=0.3))
    fresh = make()
    expected = {
        n
        for n, m in fresh.named_modules()
        if isinstance(m, nn.Conv2d)
        or (m._parameters.get("weight") is not None and m.weight.dim() == 1)
        or ((isinstance(m, nn.Linear) or "Conv1D" in type(m).__name__) and any(part.isdigit() for part in n.split(".")))
    }
    deltas = {n: d["ssf"] for n, d in run.adapted.deltas().items()}
    assert set(deltas) == expected and expected
    for n, d in deltas.items():
        shift = torch.zeros_like(d.scale) if d.shift is None else d.shift
        fresh.get_submodule(n).register_forward_hook(
            lambda _, given, y, d=d, shift=shift: scaled(y, d.scale.detach(), shift.detach())
        )
    torch.testing.assert_close(said(run, run.adapted.model), said(run, fresh), atol=2e-5, rtol=1e-4)
    base = said(run, make())
    assert not torch.allclose(said(run, run.adapted.model), base, atol=1e-2)


@pytest.mark.parametrize("make", MAKERS)
def test_it_folds_dials_and_gives_the_base_back(make):
    run = run_of(make, SSF(std=0.3))
    base, tuned = said(run, make()), said(run, run.adapted.model)
    with run.adapted.base() as model:
        assert torch.equal(said(run, model), base)
    with run.adapted.at_strength(0.5) as model:
        half = said(run, model)
    with run.adapted.at_strength(1.0) as model:
        torch.testing.assert_close(said(run, model), tuned, atol=1e-4, rtol=1e-3)
    assert (half - base).abs().max() > 1e-3 and (half - tuned).abs().max() > 1e-3
    run.adapted.fold()
    assert not run.adapted.deltas()
    torch.testing.assert_close(said(run, run.adapted.model), tuned, atol=1e-4, rtol=1e-3)
    run.adapted.forget_changes()
    assert agrees(said(run, run.adapted.model), base)
    assert {*run.adapted.model.state_dict()} == {*make().state_dict()}


def test_strength_scales_the_change_and_not_the_output():
    delta = ScaleShift(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0]))
    y = torch.tensor([[4.0, 4.0]])
    delta.strength = 0.5
    assert torch.equal(delta(y, y), torch.tensor([[4 * 1.5 + 0.5, 4 * 0.75 - 0.5]]))
    weight, bias = delta.folded(torch.ones(2, 3), None, 0.5)
    assert torch.equal(weight, torch.tensor([[1.5] * 3, [0.75] * 3])) and torch.equal(bias, torch.tensor([0.5, -0.5]))
    _, bias = delta.folded(torch.ones(2, 3), torch.tensor([2.0, 2.0]), 1.0)
    assert torch.equal(bias, torch.tensor([5.0, 0.0])), "g b + shift"


def test_starts_are_the_authors_and_std_0_is_the_base():
    run = run_of(tiny.gpt2, SSF())
    scales = torch.cat([d["ssf"].scale.detach() for d in run.adapted.deltas().values()])
    shifts = torch.cat([d["ssf"].shift.detach() for d in run.adapted.deltas().values()])
    assert abs(float(scales.mean()) - 1) < 3e-3 and abs(float(shifts.mean())) < 3e-3
    assert 0.018 < float(scales.std()) < 0.022 and 0.018 < float(shifts.std()) < 0.022
    still = run_of(tiny.gpt2, SSF(std=0.0))
    assert torch.equal(logits(still.adapted.model), logits(tiny.gpt2()))


def test_two_numbers_a_channel_train_and_the_optimizer_keeps_no_more():
    run = run_of(tiny.vit, SSF(), steps=3)
    loop = run.train()
    channels = sum(d["ssf"].scale.numel() for d in run.adapted.deltas().values())
    model = run.adapted.model
    assert loop.trained.count() == 2 * channels < 0.1 * sum(p.numel() for p in model.parameters())
    loop.gradients(loop.take()[0])
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    states = [s for o in loop.optimizers.optimizers for s in o.state.values()]
    moments = sum(t.nbytes for s in states for t in s.values() if torch.is_tensor(t) and t.dim())
    assert gradients == 4 * 2 * channels and moments == 2 * 4 * 2 * channels
    assert all(p.grad is None for n, p in run.adapted.base_parameters().items())


def test_layers_without_a_bias_get_one_only_where_that_is_wanted():
    new, none = (run_of(tiny.llama, SSF(std=0.3, new_biases=b)) for b in (True, False))
    for run, wanted in ((new, True), (none, False)):
        tuned = logits(run.adapted.model)
        run.adapted.fold()
        assert bool(run.adapted.added) == wanted
        assert not any("norm" in n for n in run.adapted.added), "RMS norms hold no bias"
        torch.testing.assert_close(logits(run.adapted.model), tuned, atol=1e-4, rtol=1e-3)
    assert {*none.adapted.model.state_dict()} == {*tiny.llama().state_dict()}


def test_a_norm_whose_weight_is_no_plain_factor_is_left_as_it_is():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Gemma2Config(vocab_size=64, num_key_value_heads=2, head_dim=8, initializer_range=0.1, **sizes)
    with torch.random.fork_rng(devices=[]):
        model = Gemma2ForCausalLM(config).eval()
    adapted = Adapted(model)
    assert {channel_axis(s) for s in adapted.structure.sites if s.kind == "norm"} == {None}
    run = Run({"ssf": SSF(std=0.3)}, model=adapted)
    assert not any("norm" in n for n in run.adapted.deltas())
    with pytest.raises(MethodError, match="cannot scale"):
        SSF(target_modules=("input_layernorm",))._targets(adapted.structure)


def test_axes_are_found_by_trying():
    kinds = {}
    for make in (tiny.efficientnet, tiny.vit, tiny.llama):
        for s in Adapted(make()).structure.sites:
            kinds.setdefault((make.__name__, s.kind), set()).add(channel_axis(s))
    assert kinds["efficientnet", "conv"] == kinds["efficientnet", "norm"] == {CONV_AXIS}
    assert kinds["vit", "norm"] == kinds["llama", "norm"] == {LAST} == kinds["llama", "linear"]
    gate = nn.Module()
    gate.weight = nn.Parameter(torch.ones(4))
    gate.forward = lambda x, gate=None: x * gate.weight  # type: ignore[method-assign]
    from tunewright.models.sites import Site

    assert channel_axis(Site("n", "norm", "norm", 0, gate)) is None
    assert channel_axis(Site("n", "norm", "norm", 0, nn.PReLU(4))) is None


def test_named_targets_alone_and_what_is_none_is_refused():
    run = Run({"ssf": SSF(target_modules=("o_proj", "norm"))})
    assert {n.rsplit(".", 1)[-1] for n in run.adapted.deltas()} == {"o_proj", "norm"}
    with pytest.raises(MethodError, match="embed_tokens"):
        Run({"ssf": SSF(target_modules=("embed_tokens",))})
    with pytest.raises(MethodError, match="no module"):
        Run({"ssf": SSF(target_modules=("no_such",))})


def test_a_base_in_4_bits_is_scaled_beside_its_codes():
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), False)
    adapted.rediscover()
    run = Run({"ssf": SSF(std=0.3)}, model=adapted)
    tuned = logits(run.adapted.model)
    with run.adapted.at_strength(1.0) as model:
        torch.testing.assert_close(logits(model), tuned, atol=1e-4, rtol=1e-3)


def test_it_resumes_beside_lora_and_is_read_back_from_a_file(tmp_path: Path):
    def make(listen):
        return Run({"ssf": SSF(), "lora": LoRA(rank=2)}, steps=4, listen=listen)

    assert_resumes(make, 2)
    run = run_of(tiny.efficientnet, SSF(std=0.3), steps=2)
    run.train()
    tuned = said(run, run.adapted.model)
    delta_format.save_delta(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.efficientnet())
    delta_format.load_delta(again, tmp_path)
    assert agrees(said(run, again.model), tuned)
