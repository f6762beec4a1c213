"""MAM and the space around it: LoRA, adapters and a prefix are settings, each beside its own implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows, logits, text_rows
from tests.methods.reading import mask_rows
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.bottleneck_adapters import BottleneckAdapters
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.mam_adapter import MAMAdapter
from tunewright.methods.adapters.prefix_tuning import PrefixTuning
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.bottlenecks import Inserted
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")


def rows_for(task: str) -> list[Row]:
    return mask_rows() if task == "fill-mask" else text_rows()


def inserted(run: Run) -> dict[str, Inserted]:
    return {n: d for n, by in run.adapted.deltas().items() for d in by.values() if isinstance(d, Inserted)}


def filled(run: Run, seed: int = 0) -> Run:
    for i, (_, p) in enumerate(sorted(run.adapted.delta_parameters().items())):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i)) * 0.3
    return run


def mam(make=tiny.llama, task: str = "text-generation", **fields) -> Run:
    fields = {"prefix_length": 0, "width": 4, **fields}
    sources = {"new": image_rows() if task == "image-classification" else rows_for(task)}
    return Run({"m": MAMAdapter(**fields)}, model=make(), task=task, sources=sources, steps=4)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_lora_is_a_setting(make):
    """y + s U D x at the projections: LoRA of rank a whose scale is alpha / a."""
    names = ("q_proj", "v_proj") if make is tiny.llama else ("c_attn",)
    setting = {"non_linearity": "identity", "bias": False, "scale": 2.0, "target_modules": names}
    ours = filled(mam(make, **setting))
    theirs = Run({"lora": LoRA(rank=4, alpha=8.0, target_modules=names)}, model=make())
    for n, by in theirs.adapted.deltas().items():
        by["lora"].lora_A.data = inserted(ours)[n].down.detach().clone()
        by["lora"].lora_B.data = inserted(ours)[n].up.detach().clone()
    assert set(theirs.adapted.deltas()) == set(inserted(ours))
    torch.testing.assert_close(logits(ours.adapted.model), logits(theirs.adapted.model), atol=1e-5, rtol=1e-4)
    rows = text_rows(4)
    found = []
    for run in (ours, theirs):
        run.adapted.model.train()
        TASK.forward(run.adapted.model, TASK.collate(rows)).log_probs().sum().backward()
        parts = [p.grad for _, p in sorted(run.adapted.delta_parameters().items())]
        found.append(parts)
    assert all(torch.allclose(a, b, atol=1e-4) and bool(a.any()) for a, b in zip(*found, strict=True))
    assert ours.train().trained.count() == theirs.train().trained.count()


@pytest.mark.parametrize(
    "setting, config, more",
    [
        ({"at": "both", "insertion": "sequential", "non_linearity": "silu", "composition": "add"}, "houlsby", {}),
        ({"at": "mlp", "insertion": "parallel", "non_linearity": "relu", "scale": 4.0}, "par_bn", {}),
        ({"composition": "add"}, "par_bn", {"scaling": 1.0}),
    ],
    ids=["houlsby", "scaled parallel", "parallel"],
)
@pytest.mark.parametrize("make", [tiny.llama, tiny.bert])
def test_adapters_are_settings(make, setting, config, more):
    task = "fill-mask" if make is tiny.bert else "text-generation"
    ours = filled(mam(make, task, **setting))
    other = {"m": BottleneckAdapters(config=config, reduction_factor=8, **more)}
    theirs = filled(Run(other, model=make(), task=task, sources={"new": rows_for(task)}))
    torch.testing.assert_close(logits(ours.adapted.model), logits(theirs.adapted.model), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(logits(ours.adapted.model), logits(make()), atol=1e-2)


def test_a_prefix_is_a_setting():
    ours = Run({"m": MAMAdapter(at="mlp", width=4, prefix_length=3, prefix_hidden=5)}, steps=2)
    theirs = Run({"p": PrefixTuning(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=5)})
    theirs.state("p").encoder.load_state_dict(ours.state("m").encoder.state_dict())
    batch = TASK.collate(text_rows(4))
    with torch.no_grad():  # the wide half starts at zero
        a, b = (TASK.forward(r.adapted.wrapper.eval(), batch).logits for r in (ours, theirs))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_default_is_the_papers_mix_and_both_halves_train():
    default = MAMAdapter()
    assert (default.at, default.insertion, default.composition, default.scale) == ("mlp", "parallel", "scaled", 4.0)
    assert (default.prefix_length, default.prefix_hidden, default.non_linearity) == (30, 800, "relu")
    run = Run({"m": MAMAdapter()}, steps=5, learning_rate=1e-3)
    assert {tuple(d.down.shape) for d in inserted(run).values()} == {(16, 32)}, "half of the width"
    start = {n: p.detach().clone() for n, p in run.state("m").named_parameters()}
    loop = run.train()
    assert all(bool(d.up.any()) for d in inserted(run).values())
    assert any(not torch.equal(p, start[n]) for n, p in run.state("m").named_parameters())
    encoder = sum(p.numel() for p in run.state("m").parameters())
    assert loop.trained.count() == encoder + 2 * (2 * 16 * 32 + 16 + 32)
    assert run.records[-1]["loss"] < run.records[0]["loss"]


def test_gates_are_a_number_a_token():
    run = filled(mam(composition="gated"))
    d = next(iter(inserted(run).values()))
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain = torch.relu(x @ d.down.T + d.down_bias) @ d.up.T + d.up_bias
        expected = plain * torch.sigmoid((x * d.gate[0]).sum(-1, keepdim=True) + d.gate_bias)
        torch.testing.assert_close(d.of(x), expected, atol=1e-5, rtol=1e-5)
    assert d.factor == 1.0


def test_attention_reads_what_the_part_reads_and_changes_what_it_gives():
    run = filled(mam(at="attention"))
    assert {n.rsplit(".", 1)[-1] for n in inserted(run)} == {"o_proj"}
    fresh, deltas = tiny.llama(), inserted(run)
    for i in range(2):
        layer, seen = fresh.model.layers[i], {}
        d = deltas[f"model.layers.{i}.self_attn.o_proj"]
        layer.input_layernorm.register_forward_pre_hook(lambda _, x, seen=seen: seen.update(x=x[0]))
        layer.self_attn.o_proj.register_forward_hook(
            lambda _, x, y, d=d, seen=seen: (
                y + 4.0 * (torch.relu(seen["x"] @ d.down.T + d.down_bias) @ d.up.T + d.up_bias)
            )
        )
    torch.testing.assert_close(logits(run.adapted.model), logits(fresh).detach(), atol=1e-4, rtol=1e-4)


def test_pictures_take_all_but_the_prefix():
    run = mam(tiny.vit, "image-classification")
    assert len(inserted(run)) == 2
    run.train()
    with pytest.raises(MethodError, match="keys and values"):
        mam(tiny.vit, "image-classification", prefix_length=2)
    with pytest.raises(MethodError, match="feed-forward"):
        mam(tiny.efficientnet, "image-classification")


def test_it_resumes_and_comes_back_with_its_stage(tmp_path: Path):
    def make(listen=None):
        return Run({"mam-adapter": MAMAdapter(width=4, prefix_length=3, prefix_hidden=5)}, steps=4, listen=listen)

    assert_resumes(make, 2)
    run = make()
    run.train()
    batch = TASK.collate(text_rows(3))
    with torch.no_grad():
        tuned = TASK.forward(run.adapted.wrapper.eval(), batch).logits
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    with torch.no_grad():
        assert agrees(TASK.forward(again.wrapper.eval(), batch).logits, tuned)
    with again.base() as model:
        assert torch.equal(logits(model), logits(tiny.llama()))
    alone = filled(mam())
    delta_format.save_delta(alone.adapted, tmp_path / "delta", "tiny")
    read = Adapted(tiny.llama())
    delta_format.load_delta(read, tmp_path / "delta")
    assert agrees(logits(read.model), logits(alone.adapted.model))
