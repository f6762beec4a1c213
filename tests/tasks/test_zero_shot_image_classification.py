"""Pictures and texts in one space: rows, the loss of CLIP, steps that do not hang on how they are split, whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, CLIPImageProcessorPil, SiglipConfig, SiglipModel

from tests.loop import Loop, stage
from tests.tasks.test_sentence_similarity import Batches
from tunewright.conformance.bench import seeded
from tunewright.conformance.task_examples import clip, tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.read import read_all
from tunewright.data.shapes import canonical
from tunewright.errors import MethodError, ModelError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.load import load
from tunewright.measure.ranked import losses
from tunewright.measure.target import evaluate, summary
from tunewright.methods.adapters.loreft import LoReFT
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.recipe import Recipe, Source
from tunewright.report.schema import Report
from tunewright.runs.run import run
from tunewright.serve.opening import open_server
from tunewright.tasks import get_task
from tunewright.tasks.zero_shot_image_classification import LARGEST_SCALE, contrastive

TASK = get_task("zero-shot-image-classification")
IMAGE = {
    "height": 8,
    "width": 8,
    "shortest": None,
    "channels": 3,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "scale": 1 / 255,
    "resample": 2,
}
OPTIONS = EncodeOptions(image=IMAGE)
WORDS = ("red", "a very blue dog", "green", "amber fox", "teal", "orange")


def picture(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8).tolist()


def encoded(options: EncodeOptions = OPTIONS, **columns: Any) -> Row:
    values, _ = canonical({"image": picture(0), **columns}, {})
    return TASK.encode(Record(values, id=str(columns.get("id", "r")), source="s"), tokenizer(end=True), options)


def rows_of(*pairs: tuple[int, str]) -> list[Row]:
    return [encoded(image=picture(seed), text=text, id=f"r{i}") for i, (seed, text) in enumerate(pairs)]


def pairs(count: int = 6) -> list[Row]:
    return rows_of(*enumerate(WORDS[:count]))


def model(seed: int = 0) -> Any:
    return seeded(clip, seed).eval()


# -- rows --------------------------------------------------------------------------------------------------------------


def test_texts_captions_and_classes_in_words_are_read() -> None:
    assert encoded(text="red").fields["reference"] == encoded(caption="red").fields["reference"] == "red"
    assert encoded(label="tabby cat").fields["reference"] == "a photo of a tabby cat"
    other = EncodeOptions(image=IMAGE, template="{label}, drawn")
    assert encoded(other, label="fox").fields["reference"] == "fox, drawn"
    red, same, other_text = encoded(text="red"), encoded(text=" RED"), encoded(text="blue")
    assert red.fields["keys"] == same.fields["keys"] and red.fields["keys"][0] == other_text.fields["keys"][0]
    assert encoded(image=picture(1), text="red").fields["keys"][0] != red.fields["keys"][0]


@pytest.mark.parametrize(
    ("columns", "field", "says"),
    [
        ({}, "text", "neither a text nor a class"),
        ({"text": ""}, "text", "it is empty"),
        ({"label": 3}, "label", "no class in words"),
        ({"label": " "}, "label", "no class in words"),
        ({"image": "none.png", "text": "red"}, "image", "."),
    ],
)
def test_rows_that_cannot_be_used_say_why(columns: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(RowProblem, match=says) as caught:
        TASK.encode(Record({"image": picture(0), **columns}, id="r"), tokenizer(end=True), OPTIONS)
    assert caught.value.field == field and caught.value.remedy
    with pytest.raises(RowProblem) as caught:
        TASK.encode(Record({"text": "red"}, id="r"), tokenizer(end=True), OPTIONS)
    assert caught.value.field == "image"


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_what_transformers_own_class_says() -> None:
    rows, net = pairs(), model()
    batch = TASK.collate(rows)
    with torch.no_grad():
        outputs = TASK.forward(net, batch)
        own = net(**{**batch.inputs, "return_loss": True})
    torch.testing.assert_close(TASK.loss(outputs, batch).value.mean(), own.loss, rtol=1e-5, atol=1e-6)
    assert outputs.embeddings is not None and len(outputs.embeddings) == 12
    torch.testing.assert_close(outputs.embeddings[::2].norm(dim=1), net.logit_scale.exp().expand(6))
    torch.testing.assert_close(normalize(outputs.embeddings[::2], dim=1), own.image_embeds)


def test_the_scale_is_at_most_a_hundred() -> None:
    net, batch = model(), TASK.collate(pairs())
    with torch.no_grad():
        net.logit_scale.fill_(9.0)
        found = TASK.forward(net, batch).embeddings
    assert found is not None and found[0].norm() == pytest.approx(LARGEST_SCALE, rel=1e-5)


def test_the_same_text_or_picture_is_nobodys_negative() -> None:
    rows, net = rows_of((0, "red"), (1, "red"), (2, "teal"), (2, "green")), model()
    batch = TASK.collate(rows)
    with torch.no_grad():
        outputs = TASK.forward(net, batch)
        values = TASK.loss(outputs, batch).value
    assert outputs.embeddings is not None
    scores = outputs.embeddings[::2] @ outputs.embeddings[1::2].T
    rivals = {0: [0, 2, 3], 1: [1, 2, 3], 2: [0, 1, 2], 3: [0, 1, 3]}
    for i, others in rivals.items():
        at = torch.tensor([others.index(i)])
        wanted = cross_entropy(scores[i, others][None], at) + cross_entropy(scores[others, i][None], at)
        assert values[i] == pytest.approx(float(wanted) / 2, rel=1e-5)
    alone = contrastive(outputs.embeddings[:2], batch.fields["keys"][:2])
    assert alone.item() == pytest.approx(0.0, abs=1e-6)


def test_a_step_is_the_same_however_it_is_split() -> None:
    found = []
    for micro in (None, 12, 1):
        given, _ = stage(
            FullFineTuning(), model=model(), task=TASK.name, rows=Batches(pairs()), micro_tokens=micro, steps=1
        )
        loop = Loop(given)
        assert (len(loop.micro_batches(loop.take()[0])) > 1) == (micro is not None)
        found.append((loop.gradients(loop.take()[0]), loop.trained.gradients()))
    (first, wanted), *others = found
    assert first["loss"] > 0.1 and any(n.endswith("logit_scale") and g.abs().sum() > 0 for n, g in wanted.items())
    for record, gradients in others:
        assert record["loss"] == pytest.approx(first["loss"], rel=1e-4) and gradients.keys() == wanted.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4, msg=name)


def test_siglips_texts_are_padded_to_their_whole_length() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 61, "max_position_embeddings": 16, "pad_token_id": 0, "projection_size": 32}
    config = SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 8, "patch_size": 4})
    net = seeded(lambda: SiglipModel(config), 0).eval()
    rows = pairs(4)
    ids = torch.zeros(4, 16, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
    batch = TASK.collate(rows)
    with torch.no_grad():
        found = TASK.forward(net, batch).embeddings
        wanted = net(input_ids=ids, pixel_values=batch.inputs["pixel_values"])
    assert found is not None
    torch.testing.assert_close(found[1::2], wanted.text_embeds, rtol=1e-5, atol=1e-6)


def test_a_change_that_reads_places_in_a_text_is_refused() -> None:
    with pytest.raises(MethodError, match="read apart here"):
        given, _ = stage(LoReFT(rank=2), model=model(), task=TASK.name, rows=Batches(pairs()), steps=1)
        Loop(given).gradients(Batches(pairs()).next_batch())


# -- rankings ----------------------------------------------------------------------------------------------------------


def test_recall_is_the_accuracy_of_picking_the_class_in_words() -> None:
    names = ("red", "teal", "green")
    rows, net = rows_of(*((seed, names[seed % 3]) for seed in range(9))), model(3)
    with torch.no_grad():
        texts = net.get_text_features(**tokenizer(end=True)(list(names), return_tensors="pt", padding=True))
        own = TASK.collate(rows).inputs["pixel_values"]
        pictures = net.get_image_features(pixel_values=own)
    texts, pictures = (getattr(t, "pooler_output", t) for t in (texts, pictures))
    said = (normalize(pictures, dim=-1) @ normalize(texts, dim=-1).T).argmax(1).tolist()
    wanted = np.mean([s == seed % 3 for seed, s in enumerate(said)])
    assert 0 < wanted < 1
    for size in (1, 4096):
        results = evaluate(net, tokenizer(end=True), TASK, rows, "recall@1", batch_tokens=size)
        assert summary(results, "recall@1").value == pytest.approx(wanted)
        assert [r.answer for r in results] == [names[s] for s in said]
        assert [r.reference for r in results] == [names[seed % 3] for seed in range(9)]
    beside = losses(net, TASK, rows, batch_tokens=1)
    together = losses(net, TASK, rows, batch_tokens=4096)
    assert [r.score for r in beside] == pytest.approx([r.score for r in together], rel=1e-4)


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and pictures in folders by class: bright in one channel each, so that they can be learnt."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    seeded(clip).save_pretrained(tmp_path / "base")
    tokenizer(end=True).save_pretrained(tmp_path / "base")
    size = {"height": 8, "width": 8}
    CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False).save_pretrained(tmp_path / "base")
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 8)):
        for channel, name in enumerate(("red fox", "green frog", "blue whale")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (10, 9, 3))
                pixels[..., channel] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path


def recipe_in(place: Path, **more: Any) -> Path:
    tree = {
        "model": "./base",
        "task": TASK.name,
        "data": {"train": "train", "eval": "test", **more},
        "methods": [{"lora": {"rank": 4}}],
        "train": {"learning_rate": 0.01, "batch_tokens": 400, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 12},
        "measurement": {"strengths": [1]},
    }
    (place / "recipe.yaml").write_text(json.dumps(tree))
    return place / "recipe.yaml"


def test_classes_from_folders_are_learnt_in_words_and_what_goes_out_comes_back(place: Path) -> None:
    folder = place / "out"
    run(recipe_in(place), folder, quiet=True)
    report = Report.load(folder)
    assert report.target is not None and report.target.metric == "recall@1"
    assert report.target.after.value > 0.9 > report.target.before.value + 0.2 and report.target.after.n == 24
    assert report.drift is not None and report.drift.measure
    assert (folder / "adapter" / "adapter_config.json").exists()
    export(folder, place / "model")
    plain = AutoModel.from_pretrained(place / "model").eval()
    finished = open_run(folder)
    rows = [TASK.encode(r, finished.tokenizer, finished.options) for r in read_all(Source(path="test"), place).records]
    batch = TASK.collate(rows[::5])
    with torch.no_grad(), finished.adapted.at_strength(1.0) as tuned:
        ours, theirs = (TASK.forward(m, batch).embeddings for m in (tuned, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_template_changes_what_is_learnt_and_check_and_init_know_the_task(place: Path) -> None:
    recipe_in(place, template="{label}!")
    found = check_recipe(Recipe.load(place / "recipe.yaml"))
    assert not found.bad_rows and not found.report.errors
    assert found.report.datasets["train"][0].rows[0].fields["reference"] == "blue whale!"
    captions = [{"image": f"test/red fox/{i}.png", "caption": f"a {w}"} for i, w in enumerate(WORDS)]
    (place / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    assert f"task: {TASK.name}" in starter(str(place / "base"), place / "captions.jsonl")
    assert f"task: {TASK.name}" in starter(str(place / "base"), place / "train", task=TASK.name)


def test_models_of_one_tower_are_refused_by_name(place: Path) -> None:
    from tests import tiny

    tiny.bert().save_pretrained(place / "bert")
    tokenizer(encoder=True).save_pretrained(place / "bert")
    with pytest.raises(ModelError, match="does not do zero-shot-image-classification"):
        load(str(place / "bert"), TASK.name)
    with pytest.raises(ModelError, match="it does: .*zero-shot-image-classification"):
        load(str(place / "base"), "text-generation")


def test_a_run_is_not_served_and_says_so(place: Path) -> None:
    folder = place / "out"
    run(recipe_in(place), folder, quiet=True)
    with pytest.raises(MethodError, match="a model of zero-shot-image-classification is not served"):
        open_server(str(folder))


def test_captions_may_be_longer_than_a_file_may_be_called(place: Path) -> None:
    rows = [{"image": f"test/red fox/{i}.png", "text": "a very red fox " * (20 if i % 2 else 1)} for i in range(4)]
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe_in(place, train="long.jsonl")
    found = check_recipe(Recipe.load(place / "recipe.yaml"))
    assert not found.bad_rows and not found.report.errors and len(found.report.datasets["train"][0].rows) == 4
