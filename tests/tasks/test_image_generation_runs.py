"""Runs of the tasks that draw pictures: to the same bits, out as pipelines, with methods of every room."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import drawing
from tests.drawing import recipe
from tunewright.errors import MethodError, RecipeError, TunewrightError
from tunewright.finished.export import export
from tunewright.loading.load import load
from tunewright.models.adapted import Adapted
from tunewright.report.schema import Report
from tunewright.runs.run import resume, run
from tunewright.tasks import get_task
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

BOTH = (UNCONDITIONAL, TO_IMAGE)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return drawing.place(tmp_path, request.param)


both = pytest.mark.parametrize(("place", "name"), [(n, n) for n in BOTH], indirect=["place"])
pixels = pytest.mark.parametrize("place", [UNCONDITIONAL], indirect=True)
texts = pytest.mark.parametrize("place", [TO_IMAGE], indirect=True)


@pytest.mark.slow
@both
def test_a_run_comes_to_the_same_bits_and_goes_out_as_a_pipeline(place: Path, name: str) -> None:
    kept = place / "kept.jsonl"
    shutil.copy(place / "train.jsonl", kept)
    made = run(recipe(place, name, keep=[str(kept)], measurement__metric="frechet_distance"), place / "out", quiet=True)
    report = made.report
    assert report.target is not None and report.target.metric == "frechet_distance"
    assert report.drift is not None and report.drift.measure == "denoising" and report.drift.value.value > 0
    assert report.kept[0].after is not None and report.cost.flops
    resume(place / "out", verify=True, quiet=True)
    page = (place / "out" / "report.html").read_text()
    assert page.count("data:image/") >= 4 and "What was to be drawn, base, tuned" in page
    with Image.open(place / "out" / "pictures.png") as grid:
        assert grid.size == (3 * 96 + 8, 4 * 96 + 3 * 4)
    export(place / "out", place / "model", quiet=True)
    pipe = diffusers.DiffusionPipeline.from_pretrained(place / "model", local_files_only=True)
    base = load_file(place / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    changed = [n for n, x in pipe.unet.state_dict().items() if not torch.equal(x, base[n])]
    assert any(".to_q." in n for n in changed) and not any("conv" in n or "norm" in n for n in changed)
    tuned = load(str(place / "model"), name).model
    rows = drawing.rows(place, name, tuned)
    assert not torch.equal(
        get_task(name).drawn(tuned, rows), get_task(name).drawn(load(str(place / "base"), name).model, rows)
    )


@pytest.mark.slow
@texts
def test_a_plain_lora_goes_out_as_diffusers_own_file(place: Path) -> None:
    run(recipe(place, TO_IMAGE, {"lora": {"rank": 2, "alpha": 6}}), place / "out", quiet=True)
    export(place / "out", place / "model", quiet=True)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(place / "base", local_files_only=True)
    whole = diffusers.StableDiffusionPipeline.from_pretrained(place / "model", local_files_only=True)
    x, t, states = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 12, 8)
    with torch.no_grad():
        plain = pipe.unet(x, t, states).sample
        pipe.load_lora_weights(place / "out" / "adapter", weight_name="pytorch_lora_weights.safetensors")
        tuned, wanted = pipe.unet(x, t, states).sample, whole.unet(x, t, states).sample
    torch.testing.assert_close(tuned, wanted, rtol=1e-4, atol=1e-5)
    assert (plain - wanted).abs().max() > 1e-3
    run(recipe(place, TO_IMAGE, "dora"), place / "dora", quiet=True)
    assert not (place / "dora" / "adapter" / "pytorch_lora_weights.safetensors").exists()


@pixels
@pytest.mark.parametrize(
    "method", ["full", "ia3", "dora", "bitfit", {"lora": {"target_modules": "all"}}], ids=lambda m: str(m)[:9]
)
def test_methods_change_a_denoiser_and_give_the_base_back(place: Path, method: Any) -> None:
    made = run(recipe(place, UNCONDITIONAL, method), place / "out", quiet=True)
    assert made.report.drift is not None and made.report.drift.value.value > 0
    assert made.report.target is not None and made.report.target.metric == "loss"
    export(place / "out", place / "model", quiet=True)


@pixels
def test_the_base_is_had_back_in_every_bit(place: Path) -> None:
    from tunewright.finished.finished import open_run

    run(recipe(place, UNCONDITIONAL, "full"), place / "out", quiet=True)
    opened = open_run(place / "out")
    base = load_file(place / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    with opened.adapted.base() as model:
        assert all(torch.equal(p, base[n.removeprefix("unet.")]) for n, p in model.named_parameters())
    moved = opened.adapted.base_parameters()
    assert not all(torch.equal(p, base[n.removeprefix("unet.")]) for n, p in moved.items())


@pixels
def test_how_pictures_are_drawn_is_the_recipes(place: Path) -> None:
    figures = [
        run(
            recipe(place, UNCONDITIONAL, measurement__metric="frechet_distance", measurement__num_inference_steps=n),
            place / f"out-{n}",
            quiet=True,
        ).report.target
        for n in (1, 3)
    ]
    assert figures[0] is not None and figures[1] is not None and figures[0].before != figures[1].before
    with pytest.raises(RecipeError, match="drawn of no text"):
        run(recipe(place, UNCONDITIONAL, measurement__guidance_scale=3.0), place / "no", quiet=True)
    with pytest.raises(RecipeError, match="draws no pictures"):
        run(recipe(place, "image-classification"), place / "no", quiet=True)
    with pytest.raises(TunewrightError, match="trains likelihoods"):
        run(recipe(place, UNCONDITIONAL, "dpo"), place / "no", quiet=True)


@texts
def test_guidance_changes_what_is_drawn(place: Path) -> None:
    figures = [
        run(
            recipe(
                place, TO_IMAGE, measurement__metric="frechet_distance", measurement__guidance_scale=g, budget__steps=1
            ),
            place / f"out-{g}",
            quiet=True,
        ).report.target
        for g in (1.0, 4.0)
    ]
    assert figures[0] is not None and figures[1] is not None and figures[0].before != figures[1].before


@pixels
def test_places_in_texts_are_refused(place: Path) -> None:
    with pytest.raises(MethodError):
        run(recipe(place, UNCONDITIONAL, "prompt-tuning"), place / "out", quiet=True)
    assert not (place / "out" / Report.file).exists()
    assert isinstance(load(str(place / "base"), UNCONDITIONAL).adapted(), Adapted)
