"""Drawing tasks on models of next-scale prediction: rows, what is measured, folders, whole runs, the other verbs."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import drawing
from tests.drawing import recipe
from tunewright.conformance import task_next_scale
from tunewright.data.view import token_view
from tunewright.errors import MethodError, ModelError, RecipeError, TunewrightError
from tunewright.files.hashing import files_beside, hash_weights
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.load import load
from tunewright.loading.next_scale import fresh
from tunewright.loading.pipelines import patterns
from tunewright.measure.drift import kl_by_row, take_reference
from tunewright.measure.target import evaluate, summary
from tunewright.models.next_scale import Sampling
from tunewright.models.residual_quantizer import ResidualQuantizer
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.paired.shown import text
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.run import resume, run
from tunewright.shipping.opened import plain
from tunewright.tasks import get_task
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

FILE = "next_scale/diffusion_pytorch_model.safetensors"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return drawing.place(tmp_path, request.param, by=drawing.MAPS)


both = pytest.mark.parametrize(
    ("place", "name"), [(n, n) for n in (UNCONDITIONAL, TO_IMAGE)], indirect=["place"], ids=["plain", "texts"]
)
pixels = pytest.mark.parametrize("place", [UNCONDITIONAL], indirect=True)
texts = pytest.mark.parametrize("place", [TO_IMAGE], indirect=True)


# -- rows and figures --------------------------------------------------------------------------------------------------


@both
def test_the_loss_is_the_cross_entropy_of_the_pictures_own_codes(place: Path, name: str) -> None:
    model, task = load(str(place / "base"), name).model, get_task(name)
    rows = drawing.rows(place, name, model)
    batch = task.collate(rows, epochs=[1] * 4, seed=3)
    assert "noise" not in batch.inputs and task.unit_of(model.config) == "nats per code"
    outputs = task.forward(model, batch)
    codes = model.codes(batch.inputs["pixel_values"])
    by_hand = -torch.log_softmax(outputs.logits, -1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(task.loss(outputs, batch).value, by_hand.mean(1))
    assert outputs.features is not None and outputs.features.shape == (4, 16) and outputs.present is None
    assert [w for _, w in token_view(rows[0], model.around.tokenizer)][-1] == 1.0
    if name == TO_IMAGE:  # red and blue: what is told of a row counts
        swapped = batch.replace(inputs={**batch.inputs, "input_ids": batch.inputs["input_ids"].flip(0)})
        assert not torch.equal(task.forward(model, swapped).logits, outputs.logits)


@pixels
def test_each_rows_losses_by_map_are_noted_where_it_is_measured(place: Path) -> None:
    loaded, task = load(str(place / "base"), UNCONDITIONAL), get_task(UNCONDITIONAL)
    results = evaluate(loaded.model, None, task, drawing.rows(place, UNCONDITIONAL, loaded.model), "loss")
    for r in results:
        assert list(r.notes) == ["scale 1", "scale 2", "scale 4"]
        assert (r.notes["scale 1"] + 4 * r.notes["scale 2"] + 16 * r.notes["scale 4"]) / 21 == pytest.approx(r.score)


@pixels
def test_pictures_hang_on_the_row_and_on_how_codes_are_drawn(place: Path) -> None:
    model, task = load(str(place / "base"), UNCONDITIONAL).model, get_task(UNCONDITIONAL)
    rows = drawing.rows(place, UNCONDITIONAL, model)
    drawn = task.drawn(model, rows)
    assert torch.equal(task.drawn(model, rows[1:2])[0], drawn[1]) and not torch.equal(drawn[0], drawn[1])
    for how in ({"temperature": 0.2}, {"top_k": 1}, {"top_p": 0.1}):
        again = [r.replace(fields={**r.fields, "drawing": how}) for r in rows]
        assert not torch.equal(task.drawn(model, again), drawn), how
    figure = summary(evaluate(model, None, task, rows, "frechet_distance"), "frechet_distance")
    assert figure.value > 0


@pixels
def test_drift_is_the_divergence_of_the_codes_distributions(place: Path) -> None:
    model, task = load(str(place / "base"), UNCONDITIONAL).model, get_task(UNCONDITIONAL)
    rng = np.random.default_rng(0)
    rows = drawing.rows(place, UNCONDITIONAL, model)
    rows = [r.replace(fields={**r.fields, "pixels": rng.integers(0, 256, (1, 8, 8), np.uint8)}) for r in rows]
    compared = task.compared(model.config)
    base = take_reference(model, compared, rows)
    with torch.no_grad():
        before = torch.log_softmax(task.forward(model, task.collate(rows)).logits, -1)
        model.net.word_embed.weight.mul_(4)
        after = torch.log_softmax(task.forward(model, task.collate(rows)).logits, -1)
    wanted = (before.exp() * (before - after)).sum(-1).mean(1)
    assert kl_by_row(base, model) == pytest.approx(wanted.tolist(), rel=1e-4) and wanted.min() > 1e-4
    assert len({round(x, 6) for x in wanted.tolist()}) > 2  # each row's own


# -- whole runs --------------------------------------------------------------------------------------------------------


@both
def test_a_run_comes_to_the_same_bits_and_goes_out_as_its_folder(place: Path, name: str) -> None:
    kept = place / "kept.jsonl"
    shutil.copy(place / "train.jsonl", kept)
    how: dict[str, Any] = {"measurement__metric": "frechet_distance", "measurement__top_k": 8}
    made = run(recipe(place, name, keep=[str(kept)], probes=["scale-losses"], **how), place / "out", quiet=True)
    report = made.report
    assert report.drift is not None and report.drift.measure == "kl" and report.drift.value.value > 0
    assert report.kept[0].after is not None and report.cost.flops
    maps = report.probes["scale-losses"]
    assert [row[:2] for row in maps.rows] == [["1 x 1", 1], ["2 x 2", 4], ["4 x 4", 16]]
    for (_, side, before, after, change), told in zip(maps.rows, maps.values.values(), strict=True):
        assert change == pytest.approx(after - before) and told.value == change and change != 0, side
    resume(place / "out", verify=True, quiet=True)
    page = (place / "out" / "report.html").read_text()
    assert "nats per code" in page and "What was to be drawn, base, tuned" in page
    with Image.open(place / "out" / "pictures.png") as grid:
        assert grid.size == (3 * 96 + 8, 4 * 96 + 3 * 4)
    export(place / "out", place / "model", quiet=True)
    assert "library_name: tunewright" in (place / "model" / "README.md").read_text()
    base, tuned = load_file(place / "base" / FILE), load_file(place / "model" / FILE)
    changed = {n for n in base if not torch.equal(base[n], tuned[n])}
    assert changed == {n for n in base if n.startswith("blocks.") and n.endswith(".weight")}
    for part in ("quantizer", "vqvae"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        one, other = load_file(place / "base" / file), load_file(place / "model" / file)
        assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    again = load(str(place / "model"), name).model
    opened = open_run(place / "out")
    with opened.adapted.at_strength(1.0) as live:
        assert all(torch.equal(p, dict(live.named_parameters())[n]) for n, p in again.named_parameters())
        rows = drawing.rows(place, name, again)
        assert torch.equal(get_task(name).drawn(again, rows), get_task(name).drawn(live, rows))


@pixels
@pytest.mark.parametrize(
    "method", ["full", "ia3", "dora", "bitfit", {"lora": {"target_modules": "all"}}], ids=lambda m: str(m)[:9]
)
def test_methods_change_the_transformer_and_give_the_base_back(place: Path, method: Any) -> None:
    made = run(recipe(place, UNCONDITIONAL, method), place / "out", quiet=True)
    assert made.report.drift is not None and made.report.drift.value.value > 0
    assert made.report.target is not None and made.report.target.unit == "nats per code"
    base = load_file(place / "base" / FILE)
    opened = open_run(place / "out")
    with opened.adapted.base() as model:
        own = {n: p for n, p in model.named_parameters() if ".delta." not in n}
        assert len(own) == len(base) and all(
            torch.equal(p, base[n.removeprefix("next_scale.")]) for n, p in own.items()
        )


@pixels
def test_what_does_not_belong_to_such_a_model_is_refused_with_the_reason(place: Path) -> None:
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({"measurement__num_inference_steps": 3}, RecipeError, "draws codes, map by map"),
        ({"measurement__guidance_scale": 2.0}, RecipeError, "drawn of no text"),
        ({"train__offload_param": "disk"}, TunewrightError, r"offload_param|not read from disk"),
    ]
    for changes, error, words in cases:
        with pytest.raises(error, match=words):
            run(recipe(place, UNCONDITIONAL, **changes), place / "no", quiet=True)
    for method, words in (
        ("dpo", "one loss a picture"),
        ("prompt-tuning", "does not serve the task"),
        ("reinit-top", "draws this model"),
    ):
        with pytest.raises(TunewrightError, match=words):
            run(recipe(place, UNCONDITIONAL, method), place / "no", quiet=True)
    other = drawing.place(place / "diffusion", UNCONDITIONAL)
    with pytest.raises(RecipeError, match="draws no codes") as caught:
        run(recipe(other, UNCONDITIONAL, measurement__top_p=0.5), place / "no", quiet=True)
    assert "num_inference_steps" in str(caught.value) and not (place / "no" / "report.json").exists()


@texts
def test_guidance_is_the_recipes(place: Path) -> None:
    figures = [
        run(
            recipe(
                place, TO_IMAGE, budget__steps=1, measurement__metric="frechet_distance", measurement__guidance_scale=g
            ),
            place / f"out-{g}",
            quiet=True,
        ).report.target
        for g in (1.0, 40.0)
    ]
    assert figures[0] is not None and figures[1] is not None and figures[0].before != figures[1].before


# -- folders and verbs -------------------------------------------------------------------------------------------------


@texts
def test_a_change_of_a_frozen_part_is_another_base(place: Path) -> None:
    before, weights = files_beside(place / "base"), hash_weights(place / "base")
    names = {n for n, _ in before}
    assert {f"{n}/diffusion_pytorch_model.safetensors" for n in ("vqvae", "quantizer")} <= names and FILE not in names
    file = place / "base" / "quantizer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["phi.0.bias"][0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert files_beside(place / "base") != before and hash_weights(place / "base") == weights


def _changed(folder: Path, file: str, values: dict[str, Any]) -> None:
    path = folder / file
    told = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in told.items() if v is not None}))


NET, MAPS, INDEX = "next_scale/config.json", "quantizer/config.json", "model_index.json"
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    (NET, {"width": None}, "width is not there"),
    (NET, {"colour": 3}, "colour is no setting of it"),
    (NET, {"depth": 0}, "depth is 0"),
    (NET, {"heads": True}, "heads is True"),
    (NET, {"heads": 3}, "not divided by 3 heads"),
    (NET, {"scales": [4]}, r"scales is \[4\]"),
    (NET, {"scales": [1, 4, 2]}, "scales is"),
    (NET, {"unit_length": 1}, "unit_length is 1"),
    (NET, {"scales": [1, 2, 3, 4]}, "quantizer/config.json says"),
    (NET, {"codes": 17}, "ask for 17, and vqvae/config.json says 16"),
    (NET, {"condition": 8}, "width 8, and the text encoder gives none"),
    (NET, {"hidden": 63}, r"fc1\.\w+ of the next_scale is"),
    (NET, {"depth": 3}, r"the next_scale lacks blocks\.2"),
    (NET, {"depth": 1}, r"does not ask for: blocks\.1"),
    (MAPS, {"ratio": 2}, "ratio is 2"),
    (MAPS, {"width": 5}, "ask for 4, and quantizer/config.json says 5"),
    (INDEX, {"vqvae": ["diffusers", "AutoencoderKL"]}, "its vqvae is a AutoencoderKL"),
    (INDEX, {"quantizer": ["my_code", "ResidualQuantizer"]}, "my_code"),
    ("vqvae/config.json", {"sample_size": 16}, "says 16"),
]


@pixels
def test_a_folder_that_is_not_read_says_why(place: Path) -> None:
    base, other = place / "base", place / "other"
    for file, values, words in FAULTS:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(base, other)
        _changed(other, file, values)
        with pytest.raises(ModelError, match=words) as caught:
            load(str(other), UNCONDITIONAL)
        assert caught.value.remedy and caught.value.where, file
    for gone, words in (
        (NET, "missing"),
        (FILE, "no weights"),
        ("quantizer/diffusion_pytorch_model.safetensors", "no weights"),
    ):
        shutil.rmtree(other)
        shutil.copytree(base, other)
        (other / gone).unlink()
        with pytest.raises(ModelError, match=words):
            load(str(other), UNCONDITIONAL)
    shutil.rmtree(other)
    shutil.copytree(base, other)
    file = other / "quantizer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ModelError, match="cut off"):
        load(str(other), UNCONDITIONAL)
    with pytest.raises(ModelError, match=f"it does: {UNCONDITIONAL}"):
        load(str(base), TO_IMAGE)


@pixels
def test_a_model_of_ones_own_is_written_around_a_tokenizer(place: Path) -> None:
    coder, maps = task_next_scale.autoencoder(), ResidualQuantizer((1, 2, 4), 4, 1)
    state = torch.get_rng_state()
    one, other = (fresh(place / n, coder, maps, width=8, depth=1, heads=2, seed=5) for n in ("one", "other"))
    assert torch.equal(torch.get_rng_state(), state) and hash_weights(one) == hash_weights(other)
    third = fresh(place / "third", coder, maps, width=8, depth=1, heads=2, seed=6, unit_length=False)
    fourth = fresh(place / "fourth", coder, maps, width=8, depth=1, heads=2, seed=6)
    assert hash_weights(fourth) != hash_weights(one)
    model = load(str(third), UNCONDITIONAL).model
    assert model.net.settings["unit_length"] is False and model.net.blocks[0].attn.sharpness is None
    uniform = torch.rand(1, 21)
    assert model.draw(uniform, None, Sampling()).shape == (1, 1, 8, 8)
    with pytest.raises(ModelError, match="ask for 16, and vqvae/config.json says 8"):
        fresh(place / "wrong", coder, ResidualQuantizer((1, 2, 8), 4, 1), width=8, depth=1, heads=2)


@pixels
def test_the_other_verbs_take_it_or_say_why_not(place: Path) -> None:
    assert f"task: {UNCONDITIONAL}" in starter(str(place / "base"), place / "train.jsonl")
    (place / "bad.jsonl").write_text((place / "train.jsonl").read_text() + json.dumps({"image": "none.png"}) + "\n")
    found = check_recipe(recipe(place, UNCONDITIONAL, data__train="bad.jsonl"))
    assert [p.where for p in found.bad_rows] == ["bad.jsonl:9"]
    refused = check_recipe(recipe(place, UNCONDITIONAL, measurement__num_inference_steps=3)).report.refusals
    assert len(refused) == 1 and "draws codes, map by map" in str(refused[0])
    planned = plan(recipe(place, UNCONDITIONAL), quiet=True)
    assert planned.stages[0].steps == 4
    drawing.pipeline(place / "second", UNCONDITIONAL, seed=1, by=drawing.MAPS)
    sides = (str(place / "base"),), (str(place / "second"),)
    alone = measure(Request(*sides, data=(str(place / "test.jsonl"),)))
    assert alone.drift is None and any("code pictures otherwise" in note for note in alone.notes)
    for frozen in ("vqvae", "quantizer"):  # the same codes, so that their distributions can be compared
        shutil.rmtree(place / "second" / frozen)
        shutil.copytree(place / "base" / frozen, place / "second" / frozen)
    seen = text(measure(Request(*sides, data=(str(place / "test.jsonl"),))))
    assert "drift: KL from the first, nats/code" in seen and "loss, nats/code" in seen
    weights = (FILE, "quantizer/diffusion_pytorch_model.safetensors", "vqvae/diffusion_pytorch_model.safetensors")
    assert all(any(fnmatch(name, pattern) for pattern in patterns()) for name in (*weights, NET, MAPS, INDEX))
    with pytest.raises(MethodError, match="holds its own parts"), plain(place / "base", place / "other"):
        pass


@texts
def test_the_papers_recipe_trains_a_model_from_classes(place: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "recipes" / "papers" / "var.yaml", place / "var.yaml")
    shutil.copytree(place / "base", place / "model")
    for part in ("train", "test"):
        rows = [json.loads(line) for line in (place / f"{part}.jsonl").read_text().splitlines()]
        named = [json.dumps({"image": row["image"], "label": row["text"]}) + "\n" for row in rows]
        (place / f"{part}.jsonl").write_text("".join(named))
    sets = ["budget={steps: 2}", "train.threads=1", "train.precision=float32", "train.batch_tokens=16"]
    made = run(Recipe.load(place / "var.yaml", sets), place / "out", quiet=True).report
    assert made.target is not None and made.target.metric == "frechet_distance" and "scale-losses" in made.probes
    assert made.cost.steps == 2 and made.drift is not None and made.drift.value.value > 0
