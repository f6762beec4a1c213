"""Pictures without labels: rows, views, the loss, vectors of several families, what is measured, whole runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, pipeline

from tests import seeing_alone, tiny
from tests.loop import Loop, stage
from tests.seeing_alone import STILL, TASK, model, recipe_in, row, rows, write_place
from tests.tasks.test_sentence_similarity import Batches
from tunewright.conformance.bench import seeded
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.read import read_all
from tunewright.data.view import token_view
from tunewright.errors import ModelError, RecipeError, TunewrightError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.load import load
from tunewright.measure.drift import take_features
from tunewright.measure.ranked import losses
from tunewright.measure.target import evaluate, summary
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.paired.sides import _by_class
from tunewright.pieces.contrast import nt_xent
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe, Source
from tunewright.recipe.views import ViewSpec
from tunewright.report.schema import Report
from tunewright.runs.run import run
from tunewright.tasks._embedded import pooled, read
from tunewright.tasks._parts import VIEWS
from tunewright.tasks.image_feature_extraction import TEMPERATURE

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return write_place(tmp_path)


# -- rows and views ----------------------------------------------------------------------------------------------------


def test_a_label_is_kept_to_measure_by_and_is_no_target() -> None:
    plain, classed = row(), row(label="fox")
    assert plain.label is None and classed.label is None and plain.fields["key"] == classed.fields["key"]
    assert (plain.fields["kind"], classed.fields["kind"]) == ("picture", "classed-picture")
    assert classed.fields["reference"] == "fox" and row(label=3).fields["reference"] == "3"
    assert row(label=None).fields["kind"] == row(label=float("nan")).fields["kind"] == "picture"
    assert row(1).fields["key"] != plain.fields["key"]
    assert list(TASK.label_values(Record({"label": "fox"}, id="r"))) == []
    assert [w for _, w in token_view(plain, None)] == [1.0]
    assert token_view(classed, None)[1] == ("[fox: measured by, not learnt]", 0.0)
    with pytest.raises(RowProblem, match="no picture") as caught:
        TASK.encode(Record({"label": "fox"}, id="r"), None, EncodeOptions())
    assert caught.value.field == "image"


def test_training_sees_two_views_and_measuring_the_picture_and_one() -> None:
    given = rows(3)
    measured, trained = TASK.collate(given), TASK.collate(given, epochs=[0] * 3)
    pixels = torch.tensor(np.stack([r.fields["pixels"] for r in given])).float()
    plain = (pixels / 255 - 0.5) / 0.5
    torch.testing.assert_close(measured.inputs["pixel_values"][::2], plain)
    assert not torch.allclose(measured.inputs["pixel_values"][1::2], plain)
    assert not torch.allclose(trained.inputs["pixel_values"][::2], trained.inputs["pixel_values"][1::2])
    assert not torch.allclose(trained.inputs["pixel_values"][::2], plain)
    later = TASK.collate(given, epochs=[1] * 3)
    assert not torch.allclose(later.inputs["pixel_values"], trained.inputs["pixel_values"])
    seeded_otherwise = TASK.collate(given, epochs=[0] * 3, seed=1)
    assert not torch.allclose(seeded_otherwise.inputs["pixel_values"], trained.inputs["pixel_values"])
    alone = torch.cat([TASK.collate([r], epochs=[0]).inputs["pixel_values"] for r in given])
    assert torch.equal(alone, trained.inputs["pixel_values"])


@pytest.mark.parametrize("name", ["area", "mirror", "turn", "light", "colour", "grey"])
def test_every_change_of_views_can_be_asked_for_alone(name: str) -> None:
    more = {"area": (0.3, 0.5), "mirror": True, "turn": 40.0, "light": 0.5, "colour": 0.5, "grey": 1.0}
    assert VIEWS.keys() == STILL.keys() == more.keys() == ViewSpec.model_fields.keys()
    still = TASK.collate(rows(8, views=STILL), epochs=[0] * 8).inputs["pixel_values"].unflatten(0, (8, 2))
    torch.testing.assert_close(still[:, 0], still[:, 1], atol=1e-5, rtol=0)
    changed = TASK.collate(rows(8, views={**STILL, name: more[name]}), epochs=[0] * 8).inputs["pixel_values"]
    moved = (changed.unflatten(0, (8, 2)) - still).abs().amax((2, 3, 4))
    assert float(moved.max()) > 0.1
    if name == "mirror":
        assert 0 < int((moved > 1e-4).sum()) < 16
        flipped = still.flip(-1)
        assert all(
            torch.allclose(x, y, atol=1e-4) or torch.allclose(x, z, atol=1e-4)
            for x, y, z in zip(changed, still.flatten(0, 1), flipped.flatten(0, 1), strict=True)
        )
    if name == "grey":
        assert float((changed - changed.mean(1, keepdim=True)).abs().max()) < 1e-5


def test_views_stay_pictures_and_have_the_light_that_was_asked_for() -> None:
    given = rows(16, views={**STILL, "light": 0.9, "colour": 0.9})
    pixels = TASK.collate(given, epochs=[0] * 16).inputs["pixel_values"]
    assert float(pixels.min()) >= -1 - 1e-6 and float(pixels.max()) <= 1 + 1e-6


def test_brightness_and_contrast_change_each_by_themselves() -> None:
    """Brightness scales mean and deviation alike; contrast the deviation alone. No pixel reaches 0 or 1 here."""
    options = EncodeOptions(image=seeing_alone.image(views={**STILL, "light": 0.2}))
    pixels = np.random.default_rng(0).integers(100, 140, (8, 8, 3), dtype=np.uint8).tolist()
    given = [TASK.encode(Record({"image": pixels}, id=f"r{i}"), None, options) for i in range(32)]
    plain = torch.tensor(pixels) / 255
    seen = TASK.collate(given, epochs=[0] * 32).inputs["pixel_values"] * 0.5 + 0.5
    bright = seen.mean((1, 2, 3)) / plain.mean()
    contrast = seen.std((1, 2, 3)) / plain.std() / bright
    for scales in (bright, contrast):
        assert 0.8 <= float(scales.min()) < 0.85 and 1.15 < float(scales.max()) <= 1.2
    assert float(torch.corrcoef(torch.stack([bright, contrast]))[0, 1].abs()) < 0.4


def test_of_pictures_without_colours_light_changes() -> None:
    options = EncodeOptions(image=seeing_alone.image(channels=1, mean=[0.5], std=[0.5], views={**STILL, "light": 0.5}))
    grey = TASK.encode(Record({"image": [[10, 200], [90, 40]]}, id="g"), None, options)
    both = TASK.collate([grey], epochs=[0]).inputs["pixel_values"]
    assert both.shape[1] == 1 and not torch.allclose(both[0], both[1])


def test_a_recipe_says_how_far_views_lie_and_a_wrong_one_is_refused(place: Path) -> None:
    recipe = Recipe.load(recipe_in(place, data__views={"mirror": False, "area": [0.5, 1]}))
    first = check_recipe(recipe).report.datasets["train"][0].rows[0]
    assert first.fields["views"] == {**VIEWS, "mirror": False, "area": [0.5, 1.0]}
    with pytest.raises(RecipeError, match="least area 0.9 is above the largest"):
        Recipe.load(recipe_in(place, data__views={"area": [0.9, 0.2]}))
    recipe_in(place, data__views={"mirror": False})
    text = (place / "recipe.yaml").read_text().replace(TASK.name, "image-classification")
    (place / "other.yaml").write_text(text)
    with pytest.raises(RecipeError, match="views of pictures are learnt by image-feature-extraction"):
        plan(Recipe.load(place / "other.yaml"), quiet=True)


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_a_cross_entropy_over_all_other_views() -> None:
    z = torch.randn(10, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = normalize(z, dim=1)
    wanted = []
    for i in range(10):
        others = [k for k in range(10) if k != i]
        scores = (unit[i] @ unit[others].T / 0.2)[None]
        wanted.append(float(cross_entropy(scores, torch.tensor([others.index(i ^ 1)]))))
    found = nt_xent(z, torch.arange(5), 0.2)
    assert found.tolist() == pytest.approx(
        [(a + b) / 2 for a, b in zip(wanted[::2], wanted[1::2], strict=True)], rel=1e-4
    )
    assert nt_xent(z[:2], torch.arange(1), 0.2).tolist() == pytest.approx([0.0], abs=1e-6)


def test_the_same_picture_twice_is_no_negative() -> None:
    z = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    twice = nt_xent(z, torch.tensor([4, 4, 5]), 0.2)
    assert twice[0] == pytest.approx(float(nt_xent(z[[0, 1, 4, 5]], torch.arange(2), 0.2)[0]), rel=1e-5)
    assert twice[2] == pytest.approx(float(nt_xent(z, torch.arange(3), 0.2)[2]), rel=1e-5)


def test_a_step_is_the_same_however_it_is_split() -> None:
    found = []
    for micro in (None, 4, 1):
        given, _ = stage(
            FullFineTuning(), model=model(), task=TASK.name, rows=Batches(rows()), micro_tokens=micro, steps=1
        )
        loop = Loop(given)
        assert (len(loop.micro_batches(loop.take()[0])) > 1) == (micro is not None)
        found.append((loop.gradients(loop.take()[0]), loop.trained.gradients()))
    (first, wanted), *others = found
    assert first["loss"] > 0.1
    for record, gradients in others:
        assert record["loss"] == pytest.approx(first["loss"], rel=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4, msg=name)


# -- vectors -----------------------------------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", {**SMALL, "image_size": 8, "patch_size": 4}),
    "dinov2": ("Dinov2ForImageClassification", {**SMALL, "image_size": 8, "patch_size": 4}),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "convnext": ("ConvNextForImageClassification", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "swin": (
        "SwinForImageClassification",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_what_the_familys_classifier_reads(family: str) -> None:
    cls, sizes = FAMILIES[family]
    config = transformers.AutoConfig.for_model(family, num_labels=3, **sizes)
    whole = seeded(lambda: getattr(transformers, cls)(config), 0).eval()
    pixels = torch.randn(3, 3, *(2 * [sizes.get("image_size", 32)]), generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    whole.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        whole(pixel_values=pixels)
        found = pooled(whole.base_model, read(whole.base_model, pixels))
    wanted = seen[0].flatten(1)
    if family == "dinov2":  # its head reads the mean of the patches behind the class token's state
        wanted = wanted[:, : found.shape[1]]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_vitmae_reads_whole_pictures(tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(
        **SMALL, image_size=8, patch_size=2, decoder_num_attention_heads=4, decoder_hidden_size=16
    )
    seeded(lambda: transformers.ViTMAEForPreTraining(config), 0).save_pretrained(tmp_path)
    loaded = load(str(tmp_path), TASK.name)
    assert loaded.model.config.mask_ratio == 0 and any("masking" in n for n in loaded.notes)
    batch, state = TASK.collate(rows(2)), torch.get_rng_state()
    with torch.no_grad():
        one, again = (TASK.forward(loaded.model, batch) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.embeddings is not None and again.embeddings is not None and torch.equal(one.embeddings, again.embeddings)
    assert one.raw.last_hidden_state.shape == (4, 17, 32)


def test_a_classifiers_checkpoint_serves_and_models_of_texts_are_refused_by_name(tmp_path: Path) -> None:
    cls, sizes = FAMILIES["vit"]
    config = transformers.ViTConfig(num_labels=3, **sizes)
    seeded(lambda: getattr(transformers, cls)(config), 0).save_pretrained(tmp_path / "vit")
    loaded = load(str(tmp_path / "vit"), TASK.name)
    assert any("pooler is drawn afresh" in n for n in loaded.notes) and not loaded.new
    tiny.bert().save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="a bert model does not do image-feature-extraction") as caught:
        load(str(tmp_path / "bert"), TASK.name)
    assert "sentence-similarity" in (caught.value.remedy or "") and TASK.name not in (caught.value.remedy or "")
    with pytest.raises(ModelError, match="it does: .*image-feature-extraction"):
        load(str(tmp_path / "vit"), "text-generation")


# -- measured ----------------------------------------------------------------------------------------------------------


def test_neighbours_say_the_class_as_scikit_learn_has_it() -> None:
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    given, net = [row(i, f"r{i}", label=seeing_alone.NAMES[i % 3]) for i in range(12)], model(3)
    classes = [r.fields["reference"] for r in given]
    vectors = take_features(net, TASK, given).values.numpy()
    knn = KNeighborsClassifier(5, metric="cosine")
    wanted = cross_val_predict(knn, vectors, classes, cv=LeaveOneOut()).tolist()
    for size in (1, 4096):
        results = evaluate(net, None, TASK, given, "knn_accuracy", batch_tokens=size)
        assert [r.answer for r in results] == wanted and [r.reference for r in results] == classes
    share = np.mean([a == b for a, b in zip(wanted, classes, strict=True)])
    found = summary(results, "knn_accuracy")
    assert found.value == pytest.approx(share) and found.low < share < found.high
    beside = losses(net, TASK, given, batch_tokens=1)
    assert [r.score for r in beside] == pytest.approx([r.score for r in losses(net, TASK, given)], rel=1e-4)


def test_recall_is_the_share_of_pictures_whose_own_view_is_nearest() -> None:
    given, net = rows(9), model(3)
    with torch.no_grad():
        said = TASK.forward(net, TASK.collate(given)).embeddings
    assert said is not None
    near = (normalize(said[::2], dim=1) @ normalize(said[1::2], dim=1).T).argmax(1).tolist()
    results = evaluate(net, None, TASK, given, "recall@1")
    assert [r.answer for r in results] == [given[i].id for i in near]
    assert summary(results, "recall@1").value == pytest.approx(np.mean([i == k for k, i in enumerate(near)]))
    still = evaluate(net, None, TASK, rows(9, views=STILL), "recall@1")
    assert summary(still, "recall@1").value == 1.0


def test_the_headline_follows_from_the_labels() -> None:
    classed = [row(i, f"r{i}", label=seeing_alone.NAMES[i % 2]) for i in range(4)]
    assert TASK.default_metric(classed) == "knn_accuracy"
    assert TASK.default_metric(rows(3)) == TASK.default_metric([*classed, row(9)]) == "recall@1"
    assert TASK.default_metric([row(i, label="fox") for i in range(3)]) == "recall@1"
    with pytest.raises(RecipeError, match=r"(?s)r9 has no class.*recall@1"):
        evaluate(model(), None, TASK, [*classed, row(9, "r9")], "knn_accuracy")
    with pytest.raises(TunewrightError, match="both something right"):
        evaluate(model(), None, TASK, [row()], "recall@1")


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_what_is_learnt_goes_out_and_the_hubs_pipeline_gives_the_same_vectors(place: Path) -> None:
    folder = place / "out"
    run(recipe_in(place, steps=12), folder, quiet=True)
    report = Report.load(folder)
    assert report.target is not None and report.target.metric == "knn_accuracy" and report.target.n == 18
    assert report.drift is not None and 0 < report.drift.value.value < 1 and report.drift.measure == "1-cka"
    export(folder, place / "model", quiet=True)
    plain, finished = AutoModel.from_pretrained(place / "model").eval(), open_run(folder)
    records = list(read_all(Source(path="test"), place).records)[::5]
    given = [TASK.encode(r, finished.tokenizer, finished.options) for r in records]
    with torch.no_grad(), finished.adapted.at_strength(1.0) as tuned:
        ours = TASK.forward(tuned, TASK.collate(given)).features
        theirs = plain(pixel_values=TASK.collate(given).inputs["pixel_values"][::2]).last_hidden_state[:, 0]
    assert ours is not None
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    reads = pipeline("image-feature-extraction", model=str(place / "model"))
    vectors = torch.tensor([reads(str(Path(r.base) / r["image"]))[0][0] for r in records])
    torch.testing.assert_close(vectors, ours, rtol=1e-3, atol=1e-3)


def test_init_writes_a_recipe_that_is_checked(place: Path) -> None:
    unlabelled = place / "pictures"
    unlabelled.mkdir()
    for i, file in enumerate(sorted((place / "train").rglob("*.png"))):
        file.rename(unlabelled / f"{i}.png")
    text = starter(str(place / "base"), unlabelled)
    assert f"task: {TASK.name}" in text and "- simclr" in text and "max_length" not in text
    (place / "recipe.yaml").write_text(text)
    found = check_recipe(Recipe.load(place / "recipe.yaml"))
    assert not found.bad_rows and not found.report.errors
    text = starter(str(place / "base"), place / "test", task=TASK.name)
    assert f"task: {TASK.name}" in text and "- simclr" in text
    assert "task: image-classification" in starter(str(place / "base"), place / "test")


def test_a_step_of_one_picture_is_spoken_of_before_it_is_trained(place: Path) -> None:
    recipe_in(place, train__batch_tokens=1)
    notes = plan(Recipe.load(place / "recipe.yaml"), quiet=True)
    assert "a step holds one picture, which has nothing to be told from" in str(notes)
    recipe_in(place, methods=["full", "byol"], train__batch_tokens=1)
    assert "nothing to be told from" not in str(plan(Recipe.load(place / "recipe.yaml"), quiet=True))
    recipe_in(place, data__train={"path": "train", "limit": 1})
    assert "nothing to be told from" in str(plan(Recipe.load(place / "recipe.yaml"), quiet=True))


def test_two_folders_are_known_for_models_of_pictures(place: Path) -> None:
    side = SimpleNamespace(kind="model", base=None, name=str(place / "base"))
    assert _by_class(side) == TASK.name  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["mixup", "asft"])
def test_objectives_of_likelihoods_are_refused(place: Path, method: str) -> None:
    with pytest.raises(TunewrightError, match=f"'{method}' trains likelihoods, .* a vector a picture"):
        plan(Recipe.load(recipe_in(place, methods=["full", method])), quiet=True)


def test_the_temperature_is_the_tasks() -> None:
    batch = TASK.collate(rows(4))
    with torch.no_grad():
        out = TASK.forward(model(), batch)
    assert out.embeddings is not None and out.features is not None
    torch.testing.assert_close(TASK.loss(out, batch).value, nt_xent(out.embeddings, torch.arange(4), TEMPERATURE))
    assert torch.equal(out.features, out.embeddings[::2])


def test_check_plan_and_run_count_pictures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.load(recipe_in(place, methods=["full", "simclr"], steps=2))
    checked, planned = str(check_recipe(recipe)), str(plan(recipe, quiet=True))
    assert "36 images, 36 trained" in checked and "images of 36 rows" in planned and "images a second" in planned
    told, said = str(run(recipe, place / "counted")), capsys.readouterr().err
    assert "images/s" in said and "images trained on in 2 steps" in told
    assert not any("token" in text for text in (checked, planned, said, told))
