"""MAE: hidden patches are not read, what is said of them is judged by the formula; models that cannot are refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

from tests.methods.test_simclr import _losses
from tests.methods.test_simclr import place as place
from tests.seeing_alone import TASK, model, recipe_in, rows, write_place
from tests.tasks.test_image_feature_extraction import FAMILIES, SMALL
from tunewright.conformance.bench import seeded
from tunewright.contract.method import Plan, Setup
from tunewright.errors import MethodError
from tunewright.methods.objectives.mae import MAE
from tunewright.models.adapted import Adapted
from tunewright.pieces.patches import normalised, patches, positions
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.run import resume, run


def begun(method: MAE, net: Any = None) -> tuple[Any, Any]:
    adapted = Adapted(net if net is not None else model())
    steps = Plan(8, 64, "main", 0, 1e-3, warmup_steps=0)
    return method.setup(Setup(adapted, steps, TASK.name, random.Random(0))), adapted.model


def laid(method: MAE, state: Any, count: int = 4) -> Any:
    batch = TASK.collate(rows(count), epochs=[0] * count)
    return method.batch(batch, state, lambda i: random.Random(i))


def test_hidden_patches_are_not_read() -> None:
    state, net = begun(MAE())
    batch = laid(MAE(), state)
    assert batch.inputs["pixel_values"].shape == (4, 3, 8, 8) and batch.fields["visible"].shape == (4, 1)
    with torch.no_grad():
        out = TASK.forward(net, batch)
        pixels, at = batch.inputs["pixel_values"].clone(), int(batch.fields["visible"][0, 0])
        hidden = next(p for p in range(4) if p != at)
        pixels[0, :, 4 * (hidden // 2) : 4 * (hidden // 2) + 4, 4 * (hidden % 2) : 4 * (hidden % 2) + 4] += 3
        other = TASK.forward(net, batch.replace(inputs={"pixel_values": pixels}))
        pixels[0, :, 4 * (at // 2) : 4 * (at // 2) + 4, 4 * (at % 2) : 4 * (at % 2) + 4] += 3
        moved = TASK.forward(net, batch.replace(inputs={"pixel_values": pixels}))
    assert out.raw.last_hidden_state.shape == (4, 2, 32)
    assert torch.equal(out.raw.last_hidden_state, other.raw.last_hidden_state)
    assert not torch.allclose(out.raw.last_hidden_state, moved.raw.last_hidden_state)
    assert out.embeddings is not None and out.embeddings.shape == out.features.shape == (4, 32)


def test_what_is_left_out_and_made_again_is_what_transformers_has() -> None:
    """The states of the same visible patches by ViTMAE's own masking, and its own cut and normalised patches."""
    config = ViTMAEConfig(
        **SMALL, image_size=8, patch_size=2, mask_ratio=0.75, decoder_hidden_size=16, decoder_num_attention_heads=4
    )
    own = seeded(lambda: ViTMAEModel(config), 0).eval()
    noise = torch.rand(4, 16, generator=torch.Generator().manual_seed(1))
    visible = noise.argsort(1)[:, :4]
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = own(pixel_values=pixels, noise=noise).last_hidden_state
        own.config.mask_ratio = 0.0
        batch = TASK.collate(rows(4), epochs=[0] * 4)
        batch = batch.replace(inputs={"pixel_values": pixels}, fields={**batch.fields, "visible": visible})
        found = TASK.forward(own, batch.replace(fields={**batch.fields, "sequences": torch.arange(4)}))
    torch.testing.assert_close(found.raw.last_hidden_state, wanted, rtol=1e-4, atol=1e-5)
    config.norm_pix_loss = True
    whole = seeded(lambda: ViTMAEForPreTraining(config), 0)
    cut = patches(pixels, 2)
    torch.testing.assert_close(cut, whole.patchify(pixels))
    config.mask_ratio = 0.75
    with torch.no_grad():
        said = whole(pixel_values=pixels, noise=noise)
    hidden = torch.ones(4, 16).scatter(1, visible, 0.0)
    loss = ((normalised(cut) - said.logits).square().mean(2) * hidden).sum() / hidden.sum()
    torch.testing.assert_close(loss, said.loss, rtol=1e-4, atol=1e-5)


def test_only_hidden_patches_count_and_the_decoder_knows_where_they_are() -> None:
    method = MAE(depth=2, width=16, heads=2)
    state, net = begun(method)
    batch = laid(method, state)
    out = TASK.forward(net, batch)
    found = method.objective(out, batch, state).value
    told: list[torch.Tensor] = []
    state.decoder.leave.register_forward_hook(lambda m, a, o: told.append(o))
    method.objective(out, batch, state)
    target = normalised(patches(batch.inputs["pixel_values"], 4))
    apart = (told[0] - target).square().mean(2)
    for i in range(4):
        hidden = [p for p in range(4) if p != int(batch.fields["visible"][i, 0])]
        assert found[i].item() == pytest.approx(apart[i, hidden].mean().item(), rel=1e-5)
        assert not torch.allclose(told[0][i, hidden[0]], told[0][i, hidden[1]])
    found.sum().backward()
    assert all(p.grad is not None for p in state.parameters()) and len(state.decoder.blocks) == 2
    assert state.decoder.enter.weight.shape == (16, 32) and positions(2, 3, 8).shape == (6, 8)
    assert len({tuple(p) for p in positions(2, 3, 8).tolist()}) == 6


def test_the_share_is_that_of_hidden_patches() -> None:
    net = seeded(lambda: ViTMAEModel(ViTMAEConfig(**SMALL, image_size=8, patch_size=2)), 0)
    for share, shown in ((0.75, 4), (0.5, 8), (0.99, 1), (0.01, 15)):
        state, _ = begun(MAE(share=share), net)
        visible = laid(MAE(share=share), state).fields["visible"]
        assert visible.shape == (4, shown) and all(len(set(v)) == shown for v in visible.tolist())


def test_a_run_learns_and_resumes_in_every_bit(place: Path) -> None:
    recipe = Recipe.load(recipe_in(place, methods=["full", {"mae": {"width": 16}}], steps=12))
    run(recipe, place / "out", quiet=True)
    lines = _losses(place / "out")
    assert sum(lines[-4:]) < sum(lines[:4])
    resume(place / "out", verify=True, quiet=True)


def test_models_that_read_places_and_sizes_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch) -> None:
    import transformers

    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    cls, sizes = FAMILIES["swin"]
    net = seeded(lambda: getattr(transformers, cls)(transformers.SwinConfig(num_labels=2, **sizes)), 0)
    write_place(tmp_path, net)
    with pytest.raises(MethodError, match="SwinModel cannot leave patches out"):
        plan(Recipe.load(recipe_in(tmp_path, methods=["full", "mae"])), quiet=True)
    with pytest.raises(MethodError, match="width 20 has no 3 heads"):
        begun(MAE(width=20, heads=3))
    one = seeded(lambda: ViTMAEModel(ViTMAEConfig(**SMALL, image_size=8, patch_size=8)), 0)
    state, _ = begun(MAE(), one)
    with pytest.raises(MethodError, match="one patch"):
        laid(MAE(), state)


@pytest.mark.parametrize("other", ["simclr", "byol"])
def test_what_compares_two_views_does_not_stand_beside_it(place: Path, other: str) -> None:
    with pytest.raises(MethodError, match="'mae' shows the model a part of one"):
        plan(Recipe.load(recipe_in(place, methods=["full", "mae", other])), quiet=True)
