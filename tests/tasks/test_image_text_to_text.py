"""Pictures among words: rows as people write them, what of them counts, tensors as the model's own processor makes
them, and whole runs.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tunewright
from tests import seeing
from tests.seeing import picture
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.shapes import canonical
from tunewright.data.truncate import fit_length
from tunewright.data.view import token_view
from tunewright.errors import MethodError, ModelError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.load import load
from tunewright.loading.options import options_of
from tunewright.models.adapted import Adapted
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import DataSpec, Recipe
from tunewright.report.schema import Report
from tunewright.runs.run import run
from tunewright.serve.opening import open_server
from tunewright.tasks import get_task

TASK = get_task("image-text-to-text")
ASKED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "fox"}]}
SAID = {"role": "assistant", "content": "warm"}


class Reads:
    """A folder's model, and how rows are encoded for it."""

    def __init__(self, folder: Path):
        self.loaded = load(str(folder), TASK.name)
        self.options = options_of(DataSpec(train="rows.jsonl", max_length=2048), None, self.loaded)

    def row(self, options: EncodeOptions | None = None, base: str = ".", **columns: Any) -> Row:
        values, _ = canonical(columns, {})
        return TASK.encode(Record(values, id="r", base=base), self.loaded.tokenizer, options or self.options)

    def text(self, row: Row) -> str:
        return str(self.loaded.tokenizer.decode(row.input_ids))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA in base/, and pictures that are bright in the first or the last channel."""
    place = tmp_path_factory.mktemp("seeing")
    seeing.write_llava(place / "base")
    rng = np.random.default_rng(0)
    for i in range(16):
        pixels = rng.integers(0, 60, (10, 9, 3))
        pixels[..., 2 * (i % 2)] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def reads(folder: Path) -> Reads:
    return Reads(folder / "base")


def turns(*said: Any) -> list[dict[str, Any]]:
    """Turns of user and assistant by turns; None inside a list is a picture."""
    parts = [[{"type": "image"} if p is None else {"type": "text", "text": p} for p in s] for s in said]
    return [{"role": ("user", "assistant")[i % 2], "content": p} for i, p in enumerate(parts)]


# -- rows --------------------------------------------------------------------------------------------------------------


def test_every_way_to_write_a_picture_gives_the_same_row(folder: Path, reads: Reads) -> None:
    data = base64.b64encode((folder / "1.png").read_bytes()).decode()
    bare = [{"type": "text", "text": "fox"}]
    wanted = reads.row(base=str(folder), messages=[ASKED, SAID], images=["1.png"])
    seen = [
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "1.png"}, *bare]}, SAID]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "1.png"}, *bare]}, SAID]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}],
                },
                SAID,
            ]
        },
        {"messages": [{"role": "user", "content": "<image>\nfox"}, SAID], "image": "1.png"},
        {"messages": [{"role": "user", "content": "fox"}, SAID], "images": [(folder / "1.png").read_bytes()]},
        {
            "conversations": [{"from": "human", "value": "<image>\nfox"}, {"from": "gpt", "value": "warm"}],
            "image": "1.png",
        },
        {"prompt": "fox", "completion": "warm", "image": {"bytes": None, "path": "1.png"}},
        {"prompt": [{"role": "user", "content": "fox"}], "completion": [SAID], "images": ["1.png"]},
    ]
    seen[2]["messages"][0]["content"] += bare  # type: ignore[index]
    for columns in seen:
        row = reads.row(base=str(folder), **columns)
        assert (list(row.input_ids), list(row.weights)) == (list(wanted.input_ids), list(wanted.weights)), columns
        assert np.array_equal(row.fields["pictures"], wanted.fields["pictures"])
    assert wanted.fields["kind"] == "pictured" and wanted.fields["picture_tokens"] == 4
    assert list(wanted.fields["prompt_ids"]) == list(wanted.input_ids[: len(wanted.fields["prompt_ids"])])


def test_pictures_without_a_place_come_first_in_their_order(reads: Reads) -> None:
    shown = [picture(0), picture(1)]
    row = reads.row(prompt="fox", completion="warm", images=shown)
    wanted = reads.row(prompt="<image><image>fox", completion="warm", images=shown)
    assert list(row.input_ids) == list(wanted.input_ids)
    assert np.array_equal(row.fields["pictures"], wanted.fields["pictures"])


def test_captions_and_classes_are_asked_by_the_template(reads: Reads) -> None:
    asking = EncodeOptions(image=reads.options.image, template="fox", labels=("cold", "warm"))
    caption = reads.row(asking, image=picture(0), text="warm")
    named = reads.row(asking, image=picture(0), label=1)
    wanted = reads.row(prompt="fox", completion="warm", image=picture(0))
    assert list(caption.input_ids) == list(named.input_ids) == list(wanted.input_ids)
    alone = reads.row(image=picture(0), text="warm")
    assert len(alone.input_ids) < len(caption.input_ids) and alone.fields["reference"] == "warm"


def test_text_alone_is_read_as_it_is_by_text_generation(reads: Reads) -> None:
    own = get_task("text-generation")
    for columns in (
        {"text": "the quick fox"},
        {"prompt": "fox", "completion": "warm"},
        {"messages": turns(["a"], ["b"])},
    ):
        theirs = own.encode(Record(canonical(columns, {})[0], id="r"), reads.loaded.tokenizer, reads.options)
        row = reads.row(**columns)
        assert (list(row.input_ids), list(row.weights)) == (list(theirs.input_ids), list(theirs.weights))
        assert row.fields["picture_tokens"] == 0 and "shown" not in row.fields


def test_what_counts_is_what_the_assistant_says_and_its_end(reads: Reads) -> None:
    """By the positions of characters in the text that the processor writes."""
    said = turns(["red ", None, " fox"], ["warm"], [None, "dog"], ["cold"])
    row = reads.row(messages=said, images=[picture(0), picture(1)])
    text = "user: red <image> fox assistant: warm</s> user: <image>dog assistant: cold</s> "
    text = text.replace("<image>", "<image>" * 4)
    spans = [(text.index(a), text.index(a) + len(a)) for a in ("warm</s>", "cold</s>")]
    told = reads.loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    wanted = [float(any(a <= s and e <= b for a, b in spans)) for s, e in told["offset_mapping"]]
    count = len(row.input_ids)
    assert list(row.input_ids) == told["input_ids"][:count] and list(row.weights) == wanted[:count]
    assert not any(wanted[count:]) and row.fields["picture_tokens"] == 8 and row.fields["reference"] == "cold"
    view = token_view(row, reads.loaded.tokenizer)
    assert sum(t == "[picture: 4 tokens]" for t, _ in view) == 2 and len(view) == count - 6
    first = said[:2]
    first[1] = {**first[1], "weight": 1.0}
    cut = reads.row(messages=[*first, *said[2:3], {**SAID, "weight": 0}], images=[picture(0), picture(1)])
    assert cut.fields["picture_tokens"] == 4  # the second picture comes after all that counts


@pytest.mark.parametrize(
    ("columns", "field", "says"),
    [
        ({"messages": [ASKED, SAID]}, "images", "no pictures, and 1 place"),
        ({"messages": [ASKED, SAID], "images": [picture(0), picture(1)]}, "images", "2 pictures, and 1 place"),
        ({"messages": [ASKED, SAID], "images": ["none.png"]}, "image", "no file"),
        ({"messages": [ASKED, SAID], "images": [b"no picture"]}, "image", "as a picture: cannot identify image file$"),
        ({"messages": [ASKED, SAID], "images": ["https://a.b/c.png"]}, "images", "none is fetched"),
        ({"messages": [ASKED, {**ASKED, "role": "assistant"}]}, "messages[1].content", "stands in the assistant"),
        ({"prompt": "<image><image>", "completion": "a", "images": [picture(0)]}, "images", "2 places"),
        ({"prompt": "a", "completion": " ", "image": picture(0)}, "completion", "empty"),
        ({"prompt": "an <image> of it", "completion": "a"}, "messages", "of no pictures the chat template writes 1"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "https://a.b/c.png"}]}, SAID]},
         "messages[0].content[0]", "none is fetched"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}, SAID]}, "messages[0].content[0]", "no text"),
        ({"prompt": "a", "chosen": "b", "rejected": " ", "image": picture(0)}, "rejected", "empty"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_say_why(reads: Reads, columns: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(RowProblem, match=says) as caught:
        reads.row(**columns)
    assert caught.value.field == field and caught.value.remedy


def test_a_question_for_all_rows_does_not_replace_that_of_one(reads: Reads) -> None:
    asks = replace(reads.options, template="what fox")
    assert "what fox" in reads.text(reads.row(asks, image=picture(0), label="warm"))
    with pytest.raises(RowProblem, match="has a text of its own"):
        reads.row(asks, prompt="red", completion="warm", image=picture(0))


def test_a_place_for_a_picture_in_a_row_without_one_asks_for_the_picture(tmp_path: Path) -> None:
    for template in (seeing.TURNS, None):
        own = Reads(seeing.write_llava(tmp_path / str(template is None), template))
        with pytest.raises(RowProblem) as caught:
            own.row(prompt="an <image> of it", completion="a")
        assert caught.value.remedy.startswith("add a column images with the picture, or take <image> out")


def test_a_row_with_pictures_is_never_cut(reads: Reads) -> None:
    row = reads.row(prompt="fox", completion="warm " * 20, image=picture(0))
    assert fit_length(row, 20, "auto") == fit_length(row, 20, "split") == []
    with pytest.raises(RowProblem, match=r"tokens \(4 of them of pictures\), and max_length is 20"):
        fit_length(row, 20, "fail")
    assert len(fit_length(reads.row(text="the quick fox " * 9), 20, "auto")) > 1


def test_a_template_that_knows_no_parts_has_the_picture_in_its_text(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}</s>{% endfor %}assistant: "
    own = Reads(seeing.write_llava(tmp_path / "text", plain))
    row = own.row(messages=turns(["red", None, "fox"], ["warm"]), images=[picture(0)])
    assert "user: red" + "<image>" * 4 in own.text(row) and row.fields["reference"] == "warm"
    bare = Reads(seeing.write_llava(tmp_path / "bare", None))
    row = bare.row(prompt="fox", completion="warm", image=picture(0))
    assert bare.text(row).startswith("<image>" * 4) and list(row.weights)[:4] == [0.0] * 4
    with pytest.raises(RowProblem, match="has a chat template"):
        bare.row(messages=[ASKED, SAID], images=[picture(0)])


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_models_own(reads: Reads) -> None:
    rows = [reads.row(prompt="fox", completion=w, image=picture(i)) for i, w in enumerate(("warm", "cold", "a dog"))]
    batch = TASK.collate(rows)
    labels = torch.full_like(batch.inputs["input_ids"], -100).flatten()
    labels[batch.positions + 1] = batch.labels  # type: ignore[operator]
    given = {k: batch.inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        own = reads.loaded.model(**given, labels=labels.view_as(batch.inputs["input_ids"])).loss
        ours = TASK.loss(TASK.forward(reads.loaded.model, batch), batch).value.mean()
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-6)


def test_parts_of_the_model_are_named_as_targets(reads: Reads) -> None:
    structure = Adapted(reads.loaded.model).structure
    named = {part: structure.match([part]) for part in ("language_model", "vision_tower", "projector")}
    assert {p: len(s) for p, s in named.items()} == {"language_model": 14, "vision_tower": 12, "projector": 2}
    assert structure.match("all-linear") == named["language_model"]
    assert all("multi_modal_projector" in s.name and s.role == "other" for s in named["projector"])
    assert any("[language_model, vision_tower, projector] takes them in" in said for said in structure.left_out())


# -- whole runs --------------------------------------------------------------------------------------------------------


def written(folder: Path, **more: Any) -> Path:
    """A recipe, and rows that ask of pictures whether they are warm or cold."""
    rows = [{"prompt": ("fox", "a dog")[i % 3 == 0], "completion": ("warm", "cold")[i % 2]} for i in range(16)]
    rows = [{**row, "image": f"{i}.png"} for i, row in enumerate(rows)]
    for name, some in (("train", rows[:10]), ("test", rows[10:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (folder / "kept.txt").write_text("the quick brown fox jumps over the lazy dog\n")
    tree = {
        "model": "./base",
        "task": TASK.name,
        "data": {"train": "train.jsonl", "eval": "test.jsonl", "max_length": 128, **more},
        "keep": [{"data": "kept.txt"}],
        "methods": [{"lora": {"rank": 4, "target_modules": ["language_model", "projector"]}}],
        "train": {"learning_rate": 0.01, "batch_tokens": 120, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 30},
        "measurement": {"strengths": [1], "max_new_tokens": 6},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def ran(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        return run(written(folder), out=folder / "out", quiet=True).folder


def test_what_is_seen_is_learnt_and_kept_text_and_drift_are_measured(ran: Path) -> None:
    report = Report.load(ran)
    assert report.target is not None and report.target.metric == "exact_match"
    assert report.target.after.value == 1.0 > report.target.before.value + 0.4
    assert report.kept and report.drift is not None and report.drift.on == "evaluated rows"
    assert report.drift.value.value > 0 and not any("trained on" in note for note in report.notes)
    kept = [json.loads(line) for line in (ran / "rows.jsonl").read_text().splitlines()]
    assert all("[picture: 4 tokens]" in row["prompt"] for row in kept)
    assert "data:image/" in (ran / "report.html").read_text()


def test_the_adapter_and_the_export_are_the_run_by_plain_peft_and_transformers(ran: Path, folder: Path) -> None:
    import peft
    import transformers

    finished = open_run(ran)
    rows = [TASK.encode(r, finished.tokenizer, finished.options) for r in _records(folder)]
    batch = TASK.collate(rows)
    base = transformers.AutoModelForImageTextToText.from_pretrained(folder / "base")
    beside = peft.PeftModel.from_pretrained(base, ran / "adapter").eval()
    export(ran, folder / "model", quiet=True)
    whole = transformers.AutoModelForImageTextToText.from_pretrained(folder / "model").eval()
    given = {k: batch.inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad(), finished.adapted.at_strength(1.0) as tuned:
        ours, untuned = tuned(**given).logits, load(str(folder / "base"), TASK.name).model(**given).logits
        torch.testing.assert_close(ours, whole(**given).logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours, beside(**given).logits, rtol=1e-4, atol=1e-5)
    assert (ours - untuned).abs().max() > 0.1
    assert json.loads((ran / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    reader = transformers.AutoProcessor.from_pretrained(folder / "model", backend="pil")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "fox"}]}]
    text = reader.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    with Image.open(folder / "11.png") as seen:
        inputs = reader(text=[text], images=[seen], add_special_tokens=False, return_tensors="pt")
    wrote = whole.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    said = reader.tokenizer.decode(wrote, skip_special_tokens=True).strip()
    opened = tunewright.open_run(ran)
    columns = {"prompt": "fox", "image": str(folder / "11.png")}
    assert opened.generate(columns, max_new_tokens=6) == said == "cold"
    shown = {"messages": [ASKED], "images": [str(folder / "10.png")]}
    assert opened.generate([shown], max_new_tokens=6) == ["warm"]
    assert opened.generate("fox", max_new_tokens=6) == opened.generate({"prompt": "fox"}, max_new_tokens=6)


def _records(folder: Path) -> list[Record]:
    lines = (folder / "test.jsonl").read_text().splitlines()
    return [Record(json.loads(line), id=str(i), base=str(folder)) for i, line in enumerate(lines)]


def test_plan_and_check_say_how_many_tokens_are_of_pictures(ran: Path, folder: Path) -> None:
    planned = plan(Recipe.load(folder / "recipe.yaml"), quiet=True)
    train = next(s for s in planned.sources if s.role == "train")
    assert (train.rows, train.picture_tokens) == (10, 40) and 0 < train.trained_tokens < train.tokens - 40
    assert "of pictures" in str(planned) and "[picture: 4 tokens]" in str(planned)
    found = check_recipe(Recipe.load(folder / "recipe.yaml")).report
    assert not found.errors and not [n for n in found.notices if n.kind in ("duplicate", "overlap")]


def test_a_picture_asked_twice_in_the_same_words_is_a_repeat(ran: Path, folder: Path) -> None:
    rows = [{"prompt": "fox", "completion": "warm", "image": f"{i}.png"} for i in (0, 2, 0)]
    (folder / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.load(folder / "recipe.yaml", ['data.train="twice.jsonl"'])
    found = [n for n in check_recipe(recipe).report.notices if n.kind == "duplicate"]
    assert [n.where for n in found] == [("twice.jsonl:3",)]


def test_init_knows_rows_with_pictures_and_models_that_see(ran: Path, folder: Path) -> None:
    own = [{"type": "image", "path": "1.png"}, {"type": "text", "text": "fox"}]
    kinds = {
        "columns": {"prompt": "fox", "completion": "warm", "image": "1.png"},
        "parts": {"messages": [{"role": "user", "content": own}, SAID]},
        "captions": {"image": "1.png", "text": "warm"},
        "texts": {"prompt": "fox", "completion": "warm"},
    }
    for name, row in kinds.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({**row, "n": i}) + "\n" for i in range(3)))
        text = starter(str(folder / "base"), folder / f"{name}.jsonl")
        assert f"task: {TASK.name}\n" in text, name
        assert ("  template: What is in the picture?" in text) == (name == "captions")


def test_what_is_not_served_or_cannot_be_read_says_so(ran: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="a model of image-text-to-text is not served"):
        open_server(str(ran))
    bad = seeing.write_llava(tmp_path / "bad")
    told = json.loads((bad / "processor_config.json").read_text())
    (bad / "processor_config.json").write_text(json.dumps({**told, "processor_class": "OwnProcessor"}))
    with pytest.raises(ModelError, match="none of transformers' own"):
        load(str(bad), TASK.name)
    (bad / "processor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json"):
        load(str(bad), TASK.name)
    other = seeing.write_llava(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "image_token_id": 5, "image_token_index": 5}))
    with pytest.raises(ModelError, match="the model's config puts pictures at token 5"):
        Reads(other)
    with pytest.raises(ModelError, match="it does: .*image-text-to-text"):
        load(str(folder / "base"), "fill-mask")


def test_pictures_in_memory_are_kept_as_files(reads: Reads) -> None:
    from tunewright.tasks._shown import packed, unpacked

    file = io.BytesIO()
    picture(3).save(file, "PNG")
    row = reads.row(prompt="fox", completion="warm", image=picture(3))
    (kept,) = unpacked(row.fields["pictures"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), np.asarray(picture(3)))
    assert unpacked(packed([b"a", b"", b"bcd"])) == [b"a", b"", b"bcd"] and unpacked(packed([])) == []
