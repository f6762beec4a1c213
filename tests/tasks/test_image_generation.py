"""Pictures drawn from noise and of texts: rows, draws, the loss, what is measured, folders of diffusers, whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import drawing
from tunewright.conformance import task_drawing
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.view import token_view
from tunewright.errors import ModelError
from tunewright.files.hashing import files_beside, hash_weights
from tunewright.loading.load import load
from tunewright.measure.drift import feature_drift, take_features
from tunewright.measure.target import evaluate, summary
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


# -- the model and its loss --------------------------------------------------------------------------------------------


@both
def test_the_loss_is_that_of_diffusers_own_parts(place: Path, name: str) -> None:
    model, task = load(str(place / "base"), name).model, get_task(name)
    some = drawing.rows(place, name, model)
    batch = task.collate(some, epochs=[1] * 4, seed=3)
    with torch.no_grad():
        found = task.loss(task.forward(model, batch), batch).value
        pipe = diffusers.DiffusionPipeline.from_pretrained(place / "base", local_files_only=True)
        x, noise, steps = batch.inputs["pixel_values"], batch.inputs["noise"][:, 0], batch.inputs["timesteps"][:, 0]
        more: tuple[Any, ...] = ()
        if name == TO_IMAGE:
            said = pipe.vae.encode(x).latent_dist
            x = (said.mean + said.std * batch.inputs["spread"]) * pipe.vae.config.scaling_factor
            words = [task_drawing.COLOURS[i % 2] for i in range(4)]
            ids = pipe.tokenizer(words, padding="max_length", max_length=task_drawing.LONGEST, return_tensors="pt")
            more = (pipe.text_encoder(ids["input_ids"])[0],)
        said = pipe.unet(pipe.scheduler.add_noise(x, noise, steps), steps, *more).sample
    torch.testing.assert_close(found, (said - noise).square().mean((1, 2, 3)))
    assert batch.inputs["timesteps"].shape == (4, 1) and len(set(steps.tolist())) > 1


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
def test_what_is_predicted_is_what_the_scheduler_says(predicts: str, tmp_path: Path) -> None:
    schedule = task_drawing.schedule(prediction_type=predicts)
    folder = drawing.pipeline(tmp_path / "base", UNCONDITIONAL, scheduler=schedule)
    model = load(str(folder), UNCONDITIONAL).model
    x, noise, steps = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 1, 8, 8), torch.tensor([[3], [70]])
    with torch.no_grad():
        target = model(x, steps, noise).target.view(2, 1, 8, 8)
    velocity = schedule.get_velocity(x, noise[:, 0], steps[:, 0])
    torch.testing.assert_close(target, {"epsilon": noise[:, 0], "sample": x, "v_prediction": velocity}[predicts])


@both
def test_draws_are_new_each_epoch_and_fixed_where_a_row_is_measured(place: Path, name: str) -> None:
    model, task = load(str(place / "base"), name).model, get_task(name)
    some = drawing.rows(place, name, model)
    first, again, later, seeded = (
        task.collate(some, epochs=[e] * 4, seed=s).inputs["noise"] for e, s in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(first, again) and not torch.equal(first, later) and not torch.equal(first, seeded)
    measured, other = task.collate(some, seed=0), task.collate(some[::-1], seed=7)
    assert torch.equal(measured.inputs["noise"], other.inputs["noise"].flip(0))
    steps = measured.inputs["timesteps"]
    assert [int(t) // 25 for t in steps[0]] == [0, 1, 2, 3] and steps.shape == (4, 4)
    assert not torch.equal(measured.inputs["noise"][0], measured.inputs["noise"][1])


@both
def test_what_stands_around_the_denoiser_is_no_part_of_what_trains(place: Path, name: str) -> None:
    adapted = load(str(place / "base"), name).adapted()
    assert all(n.startswith("unet.") for n in adapted.base_parameters())
    ends = {s.name.rsplit(".", 1)[-1] for s in adapted.structure.linear_sites()}
    assert {"to_q", "to_k", "to_v", "0"} <= ends
    assert {s.role for s in adapted.structure.match(["to_q", "to_out.0"])} == {"attention"}
    frozen = adapted.model.around.frozen
    assert len(frozen) == (2 if name == TO_IMAGE else 0)
    assert not any(p.requires_grad for part in frozen for p in part.parameters())
    if frozen:
        adapted.model.to(torch.bfloat16)
        assert {p.dtype for part in frozen for p in part.parameters()} == {torch.bfloat16}


@both
def test_every_weight_of_the_denoiser_is_named_as_in_its_file(place: Path, name: str) -> None:
    from tunewright.models.originals import Files, InFile

    model, files = load(str(place / "base"), name).model, Files(place / "base")
    assert all(isinstance(files.original(n, p), InFile) for n, p in model.named_parameters())


@texts
def test_a_change_of_a_frozen_part_is_another_base(place: Path) -> None:
    before, weights = files_beside(place / "base"), hash_weights(place / "base")
    names = {n for n, _ in before}
    assert {"vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"} <= names
    assert {"scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "model_index.json"} <= names
    assert "unet/diffusion_pytorch_model.safetensors" not in names and "unet/config.json" in names
    other = place / "other"
    shutil.copytree(place / "base", other)
    drawing.pipeline(place / "again", TO_IMAGE, seed=1)
    shutil.copy(place / "again" / "vae" / "diffusion_pytorch_model.safetensors", other / "vae")
    assert files_beside(other) != before and hash_weights(other) == weights
    assert hash_weights(place / "again") != weights


# -- rows --------------------------------------------------------------------------------------------------------------


@texts
def test_rows_are_pictures_of_the_models_size_with_a_text(place: Path) -> None:
    model, task = load(str(place / "base"), TO_IMAGE).model, get_task(TO_IMAGE)
    row = drawing.rows(place, TO_IMAGE, model, 1)[0]
    assert row.fields["pixels"].shape == (3, 8, 8) and row.fields["text"] == "red"
    assert list(row.input_ids) == model.around.tokenizer("red")["input_ids"]
    batch = task.collate([row])
    assert batch.inputs["input_ids"].shape == (1, task_drawing.LONGEST)
    assert -1 <= float(batch.inputs["pixel_values"].min()) and float(batch.inputs["pixel_values"].max()) <= 1
    assert [w for _, w in token_view(row, model.around.tokenizer)][-1] == 1.0
    options = EncodeOptions(image=drawing.options_for(model.config), template="a {label}")
    classed = Record({"image": "pictures/0.png", "label": "red"}, id="r", base=str(place))
    assert task.encode(classed, model.around.tokenizer, options).fields["text"] == "a red"
    for wrong, field in (({"text": " "}, "text"), ({}, "text"), ({"label": 3}, "label"), ({"text": 5}, "text")):
        with pytest.raises(RowProblem) as caught:
            record = Record({"image": "pictures/0.png", **wrong}, id="r", base=str(place))
            task.encode(record, model.around.tokenizer, EncodeOptions(image=options.image))
        assert caught.value.field == field


@pixels
def test_a_picture_is_cropped_in_its_middle(place: Path) -> None:
    model, task = load(str(place / "base"), UNCONDITIONAL).model, get_task(UNCONDITIONAL)
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 255
    record = Record({"image": wide.tolist()}, id="r")
    row = task.encode(record, None, EncodeOptions(image=drawing.options_for(model.config)))
    assert row.fields["pixels"].shape == (1, 8, 8) and row.fields["pixels"].min() == 255
    with pytest.raises(RowProblem, match="no picture"):
        task.encode(Record({"text": "x"}, id="r"), None, EncodeOptions(image=drawing.options_for(model.config)))


# -- what is measured --------------------------------------------------------------------------------------------------


@both
def test_pictures_are_those_that_diffusers_draws(place: Path, name: str) -> None:
    model, task = load(str(place / "base"), name).model, get_task(name)
    some = drawing.rows(place, name, model, 2)
    for row in some:
        row.fields["drawing"] = {"num_inference_steps": 3, "guidance_scale": 3.0 if name == TO_IMAGE else 1.0}
    drawn = task.drawn(model, some)
    pipe = diffusers.DiffusionPipeline.from_pretrained(place / "base", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    noise = _noise(task, some)
    if name == TO_IMAGE:
        words = ["red", "blue"]
        seen = pipe(words, latents=noise, num_inference_steps=3, guidance_scale=3.0, output_type="np").images
        wanted = torch.from_numpy(seen).permute(0, 3, 1, 2)
    else:
        pipe.scheduler.set_timesteps(3)
        with torch.no_grad():
            for t in pipe.scheduler.timesteps:
                noise = pipe.scheduler.step(pipe.unet(noise, t).sample, t, noise).prev_sample
        wanted = (noise / 2 + 0.5).clamp(0, 1)
    assert (drawn.float() - wanted * 255).abs().max() <= 1
    assert drawn.float().std() > 5 and not torch.equal(drawn[0], drawn[1])
    some[0].fields["drawing"] = {"num_inference_steps": 1, "guidance_scale": 1.0}
    assert not torch.equal(task.drawn(model, some), drawn)


def _noise(task: Any, some: list[Any]) -> torch.Tensor:
    """The noise that rows' pictures are drawn from, as a model is given it."""
    seen: list[torch.Tensor] = []

    class Listening(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(1))

        def draw(self, noise: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.append(noise)
            return noise

    task.drawn(Listening(), some)
    return seen[0]


@pixels
def test_frechet_distance_is_that_of_the_definition(place: Path) -> None:
    from scipy.linalg import sqrtm

    from tunewright.measure.frechet import distance

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 5)), rng.normal(1, 2, size=(30, 5))
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert distance(a, b) == pytest.approx(wanted) and distance(a, a) == pytest.approx(0, abs=1e-9)
    few = rng.normal(size=(3, 5))
    assert distance(few, few) == pytest.approx(0, abs=1e-9) and np.isnan(distance(few[:1], b))


@both
def test_frechet_distance_reads_drawn_pictures_beside_the_rows_own(place: Path, name: str) -> None:
    model, task = load(str(place / "base"), name).model, get_task(name)
    some = drawing.rows(place, name, model, 6)
    results = evaluate(model, model.around.tokenizer, task, some, "frechet_distance")
    figure = summary(results, "frechet_distance")
    assert figure.value > 0 and figure.low is not None and figure.low <= figure.value
    features = np.array([json.loads(r.reference) for r in results])
    assert features.shape == (6, 64) and len({r.reference for r in results}) == 6
    swapped = [r.model_copy(update={"answer": r.reference}) for r in results]
    assert summary(swapped, "frechet_distance").value == pytest.approx(0, abs=1e-6)


@pixels
def test_drift_is_the_mean_square_of_what_is_predicted(place: Path) -> None:
    model, task = load(str(place / "base"), UNCONDITIONAL).model, get_task(UNCONDITIONAL)
    some = drawing.rows(place, UNCONDITIONAL, model)
    before = take_features(model, task, some)
    with torch.no_grad():
        model.net.conv_out.bias.add_(0.5)
    drift = feature_drift(before, take_features(model, task, some))
    assert drift is not None and drift.measure == "denoising"
    assert drift.interval.value == pytest.approx(0.25, rel=1e-4)


# -- folders -----------------------------------------------------------------------------------------------------------


def _changed(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pixels
def test_a_folder_that_is_not_read_says_why(place: Path) -> None:
    base, other = place / "base", place / "other"
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FluxPipeline is none that is read"),
        ("model_index.json", {"unet": ["diffusers", "VQModel"]}, "its unet is a VQModel"),
        ("model_index.json", {"unet": ["my_code", "UNet2DModel"]}, "my_code"),
        ("unet/config.json", {"_class_name": "Elsewhere"}, "the config of a Elsewhere"),
        ("unet/config.json", {"num_class_embeds": 3}, "num_class_embeds: 3"),
        ("unet/config.json", {"sample_size": None}, "sample_size is None"),
        ("unet/config.json", {"out_channels": 2}, "reads 1 channels and gives 2"),
        ("unet/config.json", {"block_out_channels": [8, 24]}, "unet"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "'flow' is predicted"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": -1}, "num_train_timesteps is -1"),
    ]
    for file, values, words in cases:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(base, other)
        _changed(other, file, **values)
        with pytest.raises(ModelError, match=words) as caught:
            load(str(other), UNCONDITIONAL)
        assert caught.value.remedy, file
    for gone, words in (("unet/config.json", "missing"), ("unet/diffusion_pytorch_model.safetensors", "no weights")):
        shutil.rmtree(other)
        shutil.copytree(base, other)
        (other / gone).unlink()
        with pytest.raises(ModelError, match=words):
            load(str(other), UNCONDITIONAL)
    with pytest.raises(ModelError, match=f"it does: {UNCONDITIONAL}"):
        load(str(base), TO_IMAGE)
    with pytest.raises(ModelError, match=f"it does: {UNCONDITIONAL}"):
        load(str(base), "text-generation")
    with pytest.raises(ModelError, match="no pipeline of diffusers"):
        load("nano-vit", UNCONDITIONAL)


@texts
def test_parts_that_are_not_read_are_said_and_left_out(place: Path) -> None:
    _changed(place / "base", "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    loaded = load(str(place / "base"), TO_IMAGE)
    assert any("safety_checker" in note for note in loaded.notes)
    loaded.model.save_pretrained(place / "saved")
    index = json.loads((place / "saved" / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    diffusers.DiffusionPipeline.from_pretrained(place / "saved", local_files_only=True)


@texts
def test_a_frozen_part_that_is_not_finite_is_refused(place: Path) -> None:
    from safetensors.torch import save_file

    file = place / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_in.bias"][0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"decoder\.conv_in\.bias"):
        load(str(place / "base"), TO_IMAGE)
