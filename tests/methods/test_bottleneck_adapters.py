"""Bottleneck adapters: each configuration against plain hooks that compute what the library `adapters` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows, logits, text_rows
from tests.methods.reading import mask_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.bottleneck_adapters import CONFIGS, BottleneckAdapters
from tunewright.methods.adapters.lora import LoRA
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.bottlenecks import Inserted, Tap, _held
from tunewright.models.routing import routed
from tunewright.tasks import get_task

# of each model: block i, what gives the attention's and the feed-forward part's output, the norm before that part
# (pre-norm) or behind it (post-norm), and which it is
PLACES = {
    "llama": ("model.layers.{}", "self_attn.o_proj", "mlp.down_proj", "post_attention_layernorm", False),
    "gpt2": ("transformer.h.{}", "attn.c_proj", "mlp.c_proj", "ln_2", False),
    "bert": ("bert.encoder.layer.{}", "attention.output.dense", "output.dense", "output.LayerNorm", True),
    "vit": ("vit.{}", "", "", "", False),
}


def made(make, config: str, **fields) -> Run:
    more = {}
    if make is tiny.vit:
        more = {"task": "image-classification", "sources": {"new": image_rows()}}
    elif make is tiny.bert:
        more = {"task": "fill-mask", "sources": {"new": mask_rows()}}
    method = BottleneckAdapters(config=config, reduction_factor=4, **fields)
    run = Run({"adapters": method}, model=make(), steps=4, **more)
    for i, d in enumerate(inserted(run.adapted).values()):  # a start of zeros would hide where it stands
        g = torch.Generator().manual_seed(i)
        for p in d.parameters():
            p.data = torch.randn(p.shape, generator=g) * 0.3
    return run


def inserted(adapted: Adapted) -> dict[str, Inserted]:
    return {n: d for n, by in adapted.deltas().items() for d in by.values() if isinstance(d, Inserted)}


def bottleneck(d: Inserted, h: torch.Tensor, f) -> torch.Tensor:
    return d.factor * (f(h @ d.down.T + d.down_bias) @ d.up.T + d.up_bias)


def by_hand(fresh, place, deltas: dict[str, Inserted], config: str):
    """Hooks on an untouched model that compute what modeling.py of `adapters` says, block by block."""
    path, attention, last, norm, post = place
    for i in range(2):
        block = fresh.get_submodule(path.format(i))
        sub = block.get_submodule
        if config == "double_seq_bn":
            for name in (attention, last):
                d = deltas[f"{path.format(i)}.{name}"]
                sub(name).register_forward_hook(lambda _, x, y, d=d: y + bottleneck(d, y, F.silu))
        elif config == "par_bn":
            d, seen = deltas[f"{path.format(i)}.{last}"], {}
            if post:
                first = sub("intermediate.dense")
                first.register_forward_pre_hook(lambda _, x, seen=seen: seen.update(x=x[0]))
            else:
                sub(norm).register_forward_pre_hook(lambda _, x, seen=seen: seen.update(x=x[0]))
            sub(last).register_forward_hook(lambda _, x, y, d=d, seen=seen: y + bottleneck(d, seen["x"], F.relu))
        elif post:
            d, module = deltas[f"{path.format(i)}.{norm}"], sub(norm)

            def around(module, x, y, d=d):
                return F.layer_norm(
                    x[0] + bottleneck(d, y, F.relu), y.shape[-1:], module.weight, module.bias, module.eps
                )

            module.register_forward_hook(around)
        else:
            d = deltas[path.format(i)]

            def behind(_, x, y, d=d):
                h = y[0] if isinstance(y, tuple) else y
                h = h + bottleneck(d, h, F.relu)
                return (h, *y[1:]) if isinstance(y, tuple) else h

            block.register_forward_hook(behind)
    return fresh


@pytest.mark.parametrize("config", ["double_seq_bn", "seq_bn", "par_bn"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.bert])
def test_each_configuration_is_the_librarys(make, config):
    run = made(make, config)
    deltas = inserted(run.adapted)
    assert len(deltas) == 2 * len(CONFIGS[config]["at"])
    with torch.no_grad():
        expected = logits(by_hand(make(), PLACES[make.__name__], deltas, config))
        torch.testing.assert_close(logits(run.adapted.model), expected, atol=1e-5, rtol=1e-4)
    assert (expected - logits(make())).abs().max() > 0.05
    assert not _held(), "nothing is kept behind"


@pytest.mark.parametrize("config", ["double_seq_bn", "seq_bn", "par_bn"])
def test_a_vision_transformers_blocks_have_the_same_places(config):
    run = made(tiny.vit, config)
    names = set(run.adapted.deltas())
    ends = {n.split(".", 4)[-1] if config != "seq_bn" else "" for n in names}
    assert len(inserted(run.adapted)) == 2 * len(CONFIGS[config]["at"]), ends
    taps = {n for n, by in run.adapted.deltas().items() if any(isinstance(d, Tap) for d in by.values())}
    assert all("norm" in n and "after" in n for n in taps) and bool(taps) == (config == "par_bn")
    run.train()


def test_the_old_names_are_the_same_configurations():
    assert CONFIGS["houlsby"] is CONFIGS["double_seq_bn"] and CONFIGS["pfeiffer"] is CONFIGS["seq_bn"]


@pytest.mark.parametrize("config", ["double_seq_bn", "seq_bn", "par_bn"])
def test_defaults_starts_and_counts(config):
    run = Run({"adapters": BottleneckAdapters(config=config)}, steps=3)
    d, a = 32, {"par_bn": 16}.get(config, 2)
    deltas = list(inserted(run.adapted).values())
    assert {tuple(x.down.shape) for x in deltas} == {(a, d)} and {x.factor for x in deltas} == {
        4.0 if config == "par_bn" else 1.0
    }
    assert {x.activation for x in deltas} == {"silu" if config == "double_seq_bn" else "relu"}
    assert all(not x.down_bias.any() and not x.up_bias.any() for x in deltas)
    ups = torch.cat([x.up.detach().flatten() for x in deltas])
    if config == "par_bn":
        assert not ups.any() and torch.equal(logits(run.adapted.model), logits(tiny.llama()))
        assert all(float(x.down.detach().abs().max()) <= d**-0.5 for x in deltas)
    else:
        downs = torch.cat([x.down.detach().flatten() for x in deltas])
        assert 0.015 < float(ups.std()) < 0.025 and 0.015 < float(downs.std()) < 0.025
    loop = run.train()
    assert loop.trained.count() == len(deltas) * (2 * a * d + a + d)
    assert all(p.grad is None for p in run.adapted.base_parameters().values())


@pytest.mark.parametrize(("config", "residual"), [("double_seq_bn", False), ("seq_bn", False), ("par_bn", True)])
def test_a_residual_connection_is_left_away_or_given(config: str, residual: bool):
    """Each site by hand, from what the untouched layer is given and gives: h <- A(h), r <- A(r), h <- h + A(x) + x.

    Source: umbertocappellazzo/PETL_AST, src/AST_adapters.py, `APPLY_RESIDUAL` (which reads x behind the norm).
    """
    run = made(tiny.llama, config, residual=residual)
    f, seen = F.silu if config == "double_seq_bn" else F.relu, {}
    checked: list[str] = []
    hooks = []
    for name, d in inserted(run.adapted).items():
        module = run.adapted.model.get_submodule(name)
        own: Any = module.tunewright_base.forward
        source = run.adapted.model.get_submodule(d.source) if d.source else None
        if source is not None:
            source.register_forward_pre_hook(lambda _, args, n=name: seen.update({n: args[0]}))

        def check(_, args, given, out, d=d, name=name, own=own):
            out = out if isinstance(out, torch.Tensor) else out[0]
            with torch.no_grad():
                plain = own(_, *args, **given)
            plain = plain if isinstance(plain, torch.Tensor) else plain[0]
            x = seen.get(name)
            wanted = bottleneck(d, plain, f) if x is None else plain + bottleneck(d, x, f) + x
            torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
            checked.append(name)

        hooks.append(module.register_forward_hook(check, with_kwargs=True))
    logits(run.adapted.model)
    for hook in hooks:
        hook.remove()
    assert set(checked) == set(inserted(run.adapted)) and (len(seen) == 2) == (config == "par_bn")
    usual = made(tiny.llama, config, residual=not residual)
    assert torch.equal(logits(usual.adapted.model), logits(made(tiny.llama, config).adapted.model))
    with run.adapted.base() as model:
        assert torch.equal(logits(model), logits(tiny.llama())), "at strength 0 it is the base"


def test_strength_and_the_base():
    run = made(tiny.llama, "par_bn")
    tuned, base = logits(run.adapted.model), logits(tiny.llama())
    with run.adapted.base() as model:
        assert torch.equal(logits(model), base)
    with run.adapted.at_strength(0.5) as model:
        half = logits(model)
    assert torch.equal(logits(run.adapted.model), tuned) and not torch.allclose(half, tuned, atol=1e-3)
    for d in inserted(run.adapted).values():
        d.factor *= 0.5
    torch.testing.assert_close(logits(run.adapted.model), half, atol=1e-6, rtol=1e-5)


def test_rows_of_several_parallel_adapters_each_get_their_own():
    adapted, alone = made(tiny.llama, "par_bn").adapted, []
    other = made(tiny.llama, "par_bn").adapted
    for n, by in other.deltas().items():
        for d in by.values():
            for p in d.parameters():
                p.data = p.data * -0.7
            from tunewright.models.deltas import attach

            moved = type(d).rebuild(d.settings(), adapted.structure.site(n))
            moved.load_state_dict(d.state_dict())
            attach(adapted.structure.site(n), "second", moved)
    ids = torch.arange(10, 24)[None].repeat(3, 1)
    with torch.no_grad():
        with routed(adapted, ["second", None, "adapters"]):
            rows = adapted.model(ids).logits
        alone = [logits(other.model)[0], logits(tiny.llama())[0], logits(made(tiny.llama, "par_bn").adapted.model)[0]]
    for got, expected in zip(rows, alone, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", ["double_seq_bn", "seq_bn", "par_bn"])
def test_written_read_back_and_resumed(config, tmp_path: Path):
    run = made(tiny.bert, config)
    run.train()
    tuned = logits(run.adapted.model)
    delta_format.save_delta(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.bert())
    delta_format.load_delta(again, tmp_path)
    assert agrees(logits(again.model), tuned)

    def make(listen):
        methods = {"adapters": BottleneckAdapters(config=config, dropout=0.2), "lora": LoRA(rank=2)}
        return Run(methods, steps=4, listen=listen)

    assert_resumes(make, 2)


def test_blocks_that_are_computed_again_give_the_same_gradients():
    from tunewright.models.recompute import recomputing

    task, found = get_task("text-generation"), []
    for on in (False, True):
        run = made(tiny.llama, "par_bn")
        run.adapted.model.train()
        with recomputing(run.adapted.model, on):
            task.forward(run.adapted.model, task.collate(text_rows(4))).log_probs().sum().backward()
        found.append([p.grad.clone() for p in run.adapted.delta_parameters().values()])
    assert all(torch.allclose(a, b, atol=1e-6) and bool(a.any()) for a, b in zip(*found, strict=True))


def test_options_and_refusals():
    run = Run({"adapters": BottleneckAdapters(config="seq_bn", leave_out=(0,), non_linearity="swish", scaling=2.0)})
    (name,) = inserted(run.adapted)
    only = inserted(run.adapted)[name]
    assert ".1" in name and only.activation == "silu" and only.factor == 2.0
    with pytest.raises(MethodError, match="no block 7"):
        Run({"adapters": BottleneckAdapters(leave_out=(7,))})
    with pytest.raises(MethodError, match="feed-forward"):
        Run({"adapters": BottleneckAdapters()}, model=tiny.efficientnet(), task="image-classification")
    read = Inserted(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(2, 1), place="beside", source="elsewhere")
    home = read._home[0]
    home.delta = torch.nn.ModuleDict({"a": read})
    with pytest.raises(MethodError, match="elsewhere"):
        read(torch.zeros(1, 2), torch.zeros(1, 2))
