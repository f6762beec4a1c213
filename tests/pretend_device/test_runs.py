"""Whole runs on the pretended device: measured, trained, checkpointed, computed again, merged, talked to, exported."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from transformers import (
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests import drawing, seeing, small, tiny
from tests.tasks import hearing
from tunewright.conformance import task_regions
from tunewright.errors import Interrupted
from tunewright.finished.chat import Chat, chat
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs import stages
from tunewright.runs.run import resume, run
from tunewright.tasks._parts import TO_IMAGE

LORA = {"lora": {"rank": 2, "dropout": 0.2}}
QUICK = {
    "drift_sequences": 2,
    "drift_tokens": 4,
    "max_new_tokens": 3,
    "strengths": [0.5, 1.0],
    "few_shot": 1,
    "rows": 2,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def recipe(folder: Path, **changes: Any) -> Recipe:
    settings = {"train__device": "cuda", "train__save_steps": 1, "stages__0__methods": [LORA], "measurement": QUICK}
    return Recipe.load(small.write_recipe(folder, **{**settings, "stages__0__budget": {"steps": 3}, **changes}))


def ran(folder: Path, **changes: Any) -> Path:
    result = run(recipe(folder, **changes), folder / "out", quiet=True)
    assert result.report.run.hardware.device == "cuda"
    return result.folder


@pytest.mark.slow
def test_a_language_model_from_plan_to_chat(cuda, folder):
    small.write_inputs(folder, train=12, test=4)
    settings: dict[str, Any] = {"probes": ["intruder-dimensions"], "data__validation": 0.25}
    settings["train__eval_steps"] = 2
    recipe(folder, **settings)
    assert plan(folder / "r.yaml").device == "cuda"
    out = ran(folder, **settings)
    assert export(out).reloaded == 0
    said = io.StringIO()
    chat(out, lines=io.StringIO("/temperature 1\n/tokens 3\nlost card\n/quit\n"), console=Console(file=said))
    assert "tuned" in said.getvalue() and Chat(open_run(out), tokens=3).answer("lost card")


@pytest.mark.slow
def test_interrupted_gone_on_with_and_computed_again(cuda, folder, monkeypatch):
    small.write_inputs(folder, train=12, test=4)
    settings = {"stages__0__methods": [{"hft": {"round_steps": 1}}, LORA], "train__keep_best": "loss"}
    settings |= {"train__eval_steps": 1, "data__validation": 0.25}
    finished, calls = stages.TrainingCallback.__call__, []

    def stopping(self: Any, loop: Any, record: Any) -> None:
        calls.append(1)
        self.stop_requested = len(calls) == 2
        finished(self, loop, record)

    monkeypatch.setattr(stages.TrainingCallback, "__call__", stopping)
    with pytest.raises(Interrupted):
        run(recipe(folder, **settings), folder / "torn", quiet=True)
    assert (folder / "torn" / "checkpoint-2").exists()
    result = resume(folder / "torn", quiet=True)
    assert result is not None and result.report.stages[0].steps == 3
    resume(folder / "torn", verify=True, quiet=True)


@pytest.mark.slow
def test_stages_and_merges_that_learn(cuda, folder):
    small.write_inputs(folder, train=12, test=4)
    two = [
        {"name": "first", "methods": ["full"], "budget": {"steps": 1}},
        {"name": "second", "start": "stages.first", "carry": "fold", "methods": [LORA], "budget": {"steps": 3}},
    ]
    first = {"of": ["stages.first"]}
    after = [
        {"wise-ft": {"amount": 0.5}},
        {"ties": {**first, "over": "model"}},
        {"dare-linear": first},
        {"model-soups": first},
        {"atlas": {**first, "samples": 4, "epochs": 1}},
        {"regmean": {**first, "samples": 4}},
        {"pleas": {**first, "samples": 4}},
    ]
    ran(folder, stages=two, after=after, data__validation=0.25)


@pytest.mark.slow
def test_several_models_decode(cuda, folder):
    small.write_inputs(folder, train=12, test=4)
    tiny.llama(seed=5).save_pretrained(folder / "large"), tiny.tokenizer().save_pretrained(folder / "large")
    ran(folder, models={"large": "./large"}, after=[{"emulated-fine-tuning": {"large": "large"}}])


OTHER = {
    "text-classification": (lambda: tiny.bert_classifier(labels=2), {"text": "card {0}", "label": "{1}"}),
    "fill-mask": (tiny.bert, {"text": "lost card {0} {1} town"}),
    "image-classification": (lambda: tiny.vit(labels=2), {"image": "{2}", "label": "{1}"}),
}


def test_classes_of_words(cuda, folder):
    config = tiny._bert(2, 32, num_labels=2)
    tiny._make(BertForTokenClassification, config, 0).save_pretrained(folder / "base")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "base")
    rows = [{"tokens": ["lost", w, "card"], "tags": ["O", "B-W", "O"]} for w in small.WORDS]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    export(ran(folder, task="token-classification", keep=[], data={"train": "rows.jsonl", "eval": "rows.jsonl"}))


def test_classes_of_pixels(cuda, folder):
    example = task_regions.image_segmentation()
    example.model().save_pretrained(folder / "base"), example.reader.save_pretrained(folder / "base")
    example.files(folder)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in example.rows))
    data = {"train": "rows.jsonl", "eval": "rows.jsonl", "masks": {"weights": {"warm": 2}}, "labels": [*example.labels]}
    export(ran(folder, task="image-segmentation", keep=[], data=data))


def test_spans_that_answer(cuda, folder):
    config = tiny._bert(2, 32, num_labels=2)
    tiny._make(BertForQuestionAnswering, config, 0).save_pretrained(folder / "base")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "base")
    rows = [{"question": "which card", "context": f"lost {w} card", "answers": [w]} for w in small.WORDS]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    data = {"train": "rows.jsonl", "eval": "rows.jsonl", "max_length": 24}
    export(ran(folder, task="question-answering", keep=[], data=data))


@pytest.mark.slow
def test_vectors_of_texts(cuda, folder):
    tiny._make(BertModel, tiny._bert(2, 32), 0).save_pretrained(folder / "base")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "base")
    rows = [{"anchor": f"lost {w}", "positive": f"the {w} card", "negative": "town"} for w in small.WORDS]
    scored = [{"sentence1": r["anchor"], "sentence2": "card", "score": i / 9} for i, r in enumerate(rows)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in [*rows, *scored]))
    (folder / "asked.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    data = {"train": "rows.jsonl", "eval": "asked.jsonl"}
    export(ran(folder, task="sentence-similarity", keep=[], data=data, train__micro_tokens=30))


def test_queries_with_passages(cuda, folder):
    tiny._make(BertModel, tiny._bert(2, 32), 0).save_pretrained(folder / "base")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "base")
    rows = [{"query": f"lost {w}", "positive": f"the {w} card", "negative": "town"} for w in small.WORDS]
    judged = [{"query": "lost", "passage": w, "label": i % 2} for i, w in enumerate(small.WORDS)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in [*rows, *judged]))
    data = {"train": "rows.jsonl", "eval": "rows.jsonl"}
    export(ran(folder, task="text-ranking", keep=[], data=data))


def test_sources_and_targets(cuda, folder):
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(vocab_size=tiny.VOCABULARY, decoder_start_token_id=tiny.PAD, **sizes, **tiny._ids())
    tiny._make(T5ForConditionalGeneration, config, 0).save_pretrained(folder / "base")
    tiny.tokenizer(chat=False).save_pretrained(folder / "base")
    rows = [{"prompt": f"lost {w}", "completion": ["no", "yes"][i % 2]} for i, w in enumerate(small.WORDS)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    data = {"train": "rows.jsonl", "eval": "rows.jsonl"}
    export(ran(folder, task="text2text-generation", keep=["rows.jsonl"], data=data))


@pytest.mark.parametrize("kind", ["classes", "whisper", "ctc"])
def test_recordings(cuda, folder, kind):
    column, said = ("label", str) if kind == "classes" else ("text", str.upper if kind == "ctc" else str)
    hearing.rows(folder, column, said)
    (hearing.ctc_folder if kind == "ctc" else hearing.whisper_folder)(folder / "base")
    task = "audio-classification" if kind == "classes" else "automatic-speech-recognition"
    data = {"train": "train.jsonl", "eval": "test.jsonl"}
    export(ran(folder, task=task, keep=[] if kind == "classes" else ["test.jsonl"], data=data))


@pytest.mark.parametrize(
    "make", [seeing.write_llava, *(pytest.param(m, marks=pytest.mark.slow) for m in (seeing.idefics3, seeing.qwen2_vl))]
)
def test_pictures_among_words(cuda, folder, make):
    make(folder / "base")
    seeing.picture(0).save(folder / "a.png")
    rows = [
        {"prompt": f"fox {'<image>' * (i % 3)}", "completion": "warm", "images": ["a.png"] * (i % 3)} for i in range(9)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    data = {"train": "rows.jsonl", "eval": "rows.jsonl", "max_length": 512}
    export(ran(folder, task="image-text-to-text", keep=["rows.jsonl"], data=data))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "maps"])
def test_pictures_that_are_drawn(cuda, folder, kind):
    """A diffusion pipeline and a next-scale model of texts, guided, on the device with all that stands around them."""
    drawing.place(folder, TO_IMAGE, by=drawing.MAPS if kind == "maps" else drawing.WRITE)
    how = {"top_k": 8} if kind == "maps" else {"num_inference_steps": 2}
    measured = {"metric": "frechet_distance", "guidance_scale": 3.0, "strengths": [1.0], **how}
    data = {"train": "train.jsonl", "eval": "test.jsonl"}
    export(ran(folder, task=TO_IMAGE, keep=["test.jsonl"], data=data, measurement=measured))


@pytest.mark.parametrize("task", OTHER)
def test_other_tasks(cuda, folder, task):
    make, shape = OTHER[task]
    make().save_pretrained(folder / "base")
    if "image" in shape:
        size = {"height": 16, "width": 16}
        ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.2] * 3).save_pretrained(folder / "base")
    else:
        tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "base")
    Image.effect_noise((16, 16), 80).convert("RGB").save(folder / "a.png")
    words = enumerate(small.WORDS)
    rows = [{k: v.format(w, ["no", "yes"][i % 2], "a.png") for k, v in shape.items()} for i, w in words]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    data = {"train": "rows.jsonl", "eval": "rows.jsonl"}
    keep, probes = (["rows.jsonl"], []) if task == "fill-mask" else ([], ["calibration"])
    export(ran(folder, task=task, keep=keep, probes=probes, data=data))
