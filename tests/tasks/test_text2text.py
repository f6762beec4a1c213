"""Encoder-decoder models: what is read, what is written, what counts, and whole runs with them."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel, T5Config
from transformers import T5ForConditionalGeneration as T5

from tests import tiny
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.truncate import fit_length, trained_tokens
from tunewright.errors import MethodError, MissingExtraError, ModelError, RecipeError
from tunewright.finished.export import export
from tunewright.finished.run import Run
from tunewright.measure.rows import RowResult, read_rows
from tunewright.measure.target import check_metric, evaluate, get_metric, summary
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.tasks import get_task
from tunewright.tasks._causal import evaluating

TASK = get_task("text2text-generation")
READS = tokenizer(end=True)
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
COLOURS = {"red": "warm", "orange": "warm", "amber": "warm", "blue": "cold", "green": "cold", "teal": "cold"}


def t5(seed: int = 0, **more: Any) -> Any:
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(vocab_size=61, initializer_factor=0.5, decoder_start_token_id=0, **sizes, **IDS, **more)
    return tiny._make(T5, config, seed)


def like_bart(cls: Any, config: Any, seed: int = 0, **more: Any) -> Any:
    sides = {f"{side}_{n}": v for side in ("encoder", "decoder") for n, v in (("layers", 2), ("attention_heads", 4))}
    sides |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0, "init_std": 0.2}
    made = config(vocab_size=61, d_model=32, max_position_embeddings=64, **sides, **IDS, **more)
    return tiny._make(cls, made, seed)


def bart(seed: int = 0) -> Any:
    return like_bart(BartForConditionalGeneration, BartConfig, seed, decoder_start_token_id=2, forced_eos_token_id=2)


def marian(seed: int = 0) -> Any:
    return like_bart(MarianMTModel, MarianConfig, seed, decoder_start_token_id=0, forced_eos_token_id=2)


MAKERS = {"t5": t5, "bart": bart, "marian": marian}


def encode(prompt: str, completion: str, **options: Any) -> Any:
    return TASK.encode(Record({"prompt": prompt, "completion": completion}, id="r"), READS, EncodeOptions(**options))


def test_a_row_is_its_source_and_its_target() -> None:
    row = encode("very red", "warm")
    source, target = READS("very red")["input_ids"], READS("warm")["input_ids"]
    assert row.input_ids == [*source, *target] and row.fields["prompt_ids"] == source and target[-1] == 2
    assert row.weights == [0.0] * len(source) + [1.0] * len(target) and trained_tokens(row) == len(target)
    assert encode("red", "warm", template="heat: {prompt}").fields["prompt_ids"] == READS("heat: red")["input_ids"]
    without = tokenizer()  # one that writes no end of text
    alone = TASK.encode(Record({"prompt": "red", "completion": "warm"}, id="r"), without, EncodeOptions())
    assert alone.input_ids[-1] == 2 and alone.fields["prompt_ids"] == without("red")["input_ids"]


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ({"prompt": "red"}, "completion", "has no 'completion' (it has: prompt)"),
        ({"prompt": " ", "completion": "a"}, "prompt", "empty"),
        ({"prompt": "a", "completion": ["a"]}, "completion", "not list"),
    ],
)
def test_bad_rows_are_named(row: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(RowProblem) as caught:
        TASK.encode(Record(row, id="r"), READS, EncodeOptions())
    assert caught.value.field == field and says in caught.value.reason
    with pytest.raises(RowProblem, match="read apart"):
        encode("red", "warm", template="{prompt} is {completion}")


def test_each_side_has_the_whole_length() -> None:
    row = encode("red", "the quick brown fox")
    source = len(row.fields["prompt_ids"])
    longer = len(row.input_ids) - source
    assert source < longer
    assert fit_length(row, longer, "auto") == [row]
    for policy in ("auto", "drop", "split"):
        assert fit_length(row, longer - 1, policy) == []  # never a piece of either
    with pytest.raises(RowProblem, match=f"{longer} tokens, and max_length is {longer - 1}"):
        fit_length(row, longer - 1, "fail")


@pytest.mark.parametrize("name", MAKERS)
def test_the_loss_is_the_models_own(name: str) -> None:
    """transformers computes the loss of `labels` itself: the same in total, and row by row."""
    model, rows = MAKERS[name](), [encode("very red", "warm"), encode("a blue", "cold as the fox")]
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
        values = TASK.loss(out, batch).value
        whole = model(**batch.inputs, labels=batch.fields["decoder_labels"])
    torch.testing.assert_close(values.mean(), whole.loss)
    assert (
        out.hidden is not None
        and len(out.hidden) == 3
        and out.hidden[0].shape[1] == batch.fields["decoder_labels"].shape[1]
    )
    flat = F.cross_entropy(whole.logits.flatten(0, 1), batch.fields["decoder_labels"].flatten(), reduction="none")
    for k, row in enumerate(rows):
        start = len(row.fields["prompt_ids"])
        alone = model(torch.tensor([row.input_ids[:start]]), labels=torch.tensor([row.input_ids[start:]])).loss
        torch.testing.assert_close(values[batch.rows == k].mean(), alone.detach())
    torch.testing.assert_close(flat[batch.positions], values)


def test_weights_of_target_tokens_are_kept() -> None:
    row = encode("red", "warm")
    start = len(row.fields["prompt_ids"])
    weights = [*row.weights[:start], 0.0, *[0.5] * (len(row.weights) - start - 1)]
    batch = TASK.collate([row.replace(weights=weights), encode("a very blue", "cold")])
    assert batch.weights[batch.rows == 0].tolist() == [0.5] * (len(row.weights) - start - 1)
    assert batch.labels[batch.rows == 0].tolist() == row.input_ids[start + 1 :]


def test_a_model_without_a_decoder_is_refused() -> None:
    with pytest.raises(ModelError, match="does not say how its decoder"):
        TASK.forward(tiny.bert(), TASK.collate([encode("red", "warm")]))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("beams", [None, 1, 2])
def test_answers_are_those_of_generate_row_by_row(name: str, beams: int | None) -> None:
    model = MAKERS[name](3)
    texts = ["red", "no other thing than a teal", "very blue", "a green fox"]
    rows = [encode(text, "warm cold") for text in texts]
    got = evaluate(model, READS, TASK, rows, "exact_match", max_new_tokens=7, num_beams=beams)
    how = {} if beams is None else {"num_beams": beams}
    with torch.no_grad(), evaluating(model):
        for text, result in zip(texts, got, strict=True):
            out = model.generate(
                **READS(text, return_tensors="pt", return_token_type_ids=False),
                max_new_tokens=7,
                do_sample=False,
                **how,
            )
            assert result.answer == READS.decode(out[0], skip_special_tokens=True) and result.prompt.startswith(text)


def test_the_generation_configs_beams_count_unless_the_recipe_says_others() -> None:
    model, rows = marian(3), [encode("very blue", "cold")]
    model.generation_config.num_beams = 3
    seen = list[Any]()
    real = model.generate
    model.generate = lambda **how: seen.append(how.get("num_beams", model.generation_config.num_beams)) or real(**how)
    for beams in (None, 2):
        evaluate(model, READS, TASK, rows, "exact_match", max_new_tokens=3, num_beams=beams)
    assert seen == [3, 2]


# -- metrics ---------------------------------------------------------------------------------------------------------

SAID = ["the cat sat on the mat", "a fox jumps over the lazy dog today", "no", "it is warm in here , is it not ?"]
RIGHT = ["the cat is on the mat", "the quick fox jumps over the lazy dog", "yes", "it is warm in here, is it not?"]


def results(metric: str) -> list[RowResult]:
    compare = get_metric(metric).compare
    assert compare is not None
    return [
        RowResult(id=str(i), source="s", answer=a, reference=b, score=compare(a, b))
        for i, (a, b) in enumerate(zip(SAID, RIGHT, strict=True))
    ]


def test_bleu_and_chrf_are_sacrebleus() -> None:
    rows = results("sacrebleu")
    assert summary(rows, "sacrebleu").value == pytest.approx(BLEU().corpus_score(SAID, [RIGHT]).score / 100)
    own = [BLEU(effective_order=True).sentence_score(a, [b]).score / 100 for a, b in zip(SAID, RIGHT, strict=True)]
    assert [r.score for r in rows] == pytest.approx(own)
    chrf = [CHRF().sentence_score(a, [b]).score / 100 for a, b in zip(SAID, RIGHT, strict=True)]
    assert summary(results("chrf"), "chrf").value == pytest.approx(sum(chrf) / len(chrf))


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_rouge_scores(name: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    own = [scorer.score(b, a)[name].fmeasure for a, b in zip(SAID, RIGHT, strict=True)]
    assert [r.score for r in results(name)] == pytest.approx(own) and 0 < summary(results(name), name).value < 1


@pytest.mark.parametrize(("metric", "library"), [("chrf", "sacrebleu"), ("rougeL", "rouge_score")])
def test_a_metric_without_its_library_says_what_to_install(metric: str, library: str, monkeypatch: Any) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == library else real(name, *a))
    with pytest.raises(MissingExtraError, match=rf"(?s)'{metric}' counts with {library}.*tunewright\[metrics\]"):
        check_metric(metric, TASK)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-texts")
    for name, make in MAKERS.items():
        make().save_pretrained(folder / name)
        READS.save_pretrained(folder / name)
    rng = random.Random(0)
    for name, count in (("train", 40), ("test", 8)):
        rows = [(rng.choice(["a ", "very ", ""]), rng.choice(sorted(COLOURS))) for _ in range(count)]
        lines = [json.dumps({"prompt": before + c, "completion": COLOURS[c]}) for before, c in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def recipe(folder: Path, model: Any = "t5", **changes: Any) -> Recipe:
    tree = {
        "model": str(folder / model) if isinstance(model, str) else model,
        "task": "text2text-generation",
        "data": {"train": str(folder / "train.jsonl"), "eval": str(folder / "test.jsonl"), "max_length": 32},
        "methods": [{"lora": {"rank": 4}}],
        "train": {"learning_rate": 0.02, "batch_tokens": 128, "precision": "float32", "threads": 1},
        "budget": {"steps": 12},
        "measurement": {"strengths": [1], "max_new_tokens": 6},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


@pytest.mark.parametrize("name", MAKERS)
def test_a_run_measures_learns_and_exports(name: str, inputs: Path) -> None:
    out = inputs / f"out-{name}"
    run(recipe(inputs, name), out, quiet=True)
    report = json.loads((out / "report.json").read_text())
    target, drift = report["target"], report["drift"]
    assert target["metric"] == "exact_match" and not target["fresh_head"] and target["few_shot"] is None
    assert drift["measure"] == "kl" and drift["value"]["value"] > 0 and drift["on"] == "evaluated rows"
    losses = [m["loss"] for m in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in m]
    assert losses[-1] < losses[0]
    trained = report["trained"]["roles"]
    assert any(c["trained"] for c in trained.values())
    export(out, inputs / f"model-{name}")
    again = type(MAKERS[name]()).from_pretrained(inputs / f"model-{name}").eval()
    texts = [json.loads(line)["prompt"] for line in (inputs / "test.jsonl").read_text().splitlines()]
    for row, text in zip(read_rows(out / "rows.jsonl"), texts, strict=True):
        asked = READS(text, return_tensors="pt", return_token_type_ids=False)
        said = again.generate(**asked, max_new_tokens=6, do_sample=False)[0]
        assert READS.decode(said, skip_special_tokens=True) == row.tuned


@pytest.mark.parametrize("name", MAKERS)
def test_lora_hangs_on_both_sides(name: str, inputs: Path) -> None:
    from tunewright.runs.assemble import assemble

    sites = [s.name for s in assemble(recipe(inputs, name)).adapted.structure.sites]
    for side, kinds in (("encoder", 6), ("decoder", 10)):
        assert sum(f"{side}." in s for s in sites) >= 2 * kinds, sites  # both blocks, cross attention too


def test_a_finished_run_answers_and_chats_alone(inputs: Path) -> None:
    if not (inputs / "out-t5" / "report.json").exists():
        run(recipe(inputs), inputs / "out-t5", quiet=True)
    finished = Run(inputs / "out-t5")
    wanted = [r.tuned for r in read_rows(inputs / "out-t5" / "rows.jsonl")]
    texts = [json.loads(line)["prompt"] for line in (inputs / "test.jsonl").read_text().splitlines()]
    assert finished.generate(texts[:3], max_new_tokens=6) == [w.strip() for w in wanted[:3]]
    drawn = [finished.generate(texts[0], max_new_tokens=6, temperature=5.0) for _ in range(2)]
    assert drawn[0] == drawn[1] and drawn[0] != wanted[0]
    base = [r.base for r in read_rows(inputs / "out-t5" / "rows.jsonl")]
    assert finished.generate(texts[0], max_new_tokens=6, strength=0.0) == base[0].strip()


def test_beams_are_read_and_refused_where_there_are_none(inputs: Path) -> None:
    run(recipe(inputs, "marian", measurement__num_beams=1, budget__steps=1), inputs / "greedy", quiet=True)
    run(recipe(inputs, "marian", measurement__num_beams=4, budget__steps=1), inputs / "beams", quiet=True)
    said = [[r.base for r in read_rows(inputs / n / "rows.jsonl")] for n in ("greedy", "beams")]
    assert said[0] != said[1]
    with pytest.raises(RecipeError, match="answers of text-classification are written without beams"):
        run(recipe(inputs, task="text-classification", measurement__num_beams=2), inputs / "no", quiet=True)


REFUSED = {
    "loreft": "'loreft' reads which token of a row it is given, and an encoder-decoder reads two texts a row",
    "sstoken": "'sstoken' does not serve the task text2text-generation",
    "dpo": "'dpo' does not serve the task text2text-generation",
    "meteora": "'meteora' reads which token of a row it is given",
    "core-tuning": "'core-tuning' does not serve the task text2text-generation",
}


@pytest.mark.parametrize("method", REFUSED)
def test_methods_that_cannot_serve_are_refused_by_name_everywhere(method: str, inputs: Path) -> None:
    asked, said = recipe(inputs, methods=[method]), []
    for verb in (lambda a: plan(a, quiet=True), lambda a: run(a, inputs / "no", quiet=True)):
        with pytest.raises(MethodError) as caught:
            verb(asked)
        said.append(str(caught.value))
    said.append(str(check_recipe(asked).report.errors[0]))
    assert len(set(said)) == 1 and REFUSED[method] in said[0]


def test_a_layer_that_is_asked_its_type_may_be_factored(inputs: Path) -> None:
    """T5 reads the type of a weight before it casts."""
    run(recipe(inputs, methods=["pela"], budget__steps=1), inputs / "thin", quiet=True)
    assert (inputs / "thin" / "report.json").exists()


FRESH: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2},
    "bart": {
        "d_model": 32,
        **{f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in (("layers", 1), ("ffn_dim", 32))},
    }
    | {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
}


@pytest.mark.parametrize("kind", FRESH)
def test_a_model_may_be_drawn(kind: str, inputs: Path) -> None:
    """What its decoder begins with is the token that its kind begins with, under the new tokenizer's ids."""
    model = {"config": {"model_type": kind, **FRESH[kind]}, "tokenizer": "train", "vocab_size": 300}
    out = inputs / f"fresh-{kind}"
    run(recipe(inputs, model=model, methods=["full"], budget__steps=1), out, quiet=True)
    config = json.loads((out / "base" / "config.json").read_text())
    assert config["decoder_start_token_id"] == config["pad_token_id" if kind == "t5" else "eos_token_id"]


def test_a_first_recipe_for_such_a_model_is_of_two_texts(inputs: Path) -> None:
    text = starter(str(inputs / "t5"), inputs / "train.jsonl")
    assert "task: text2text-generation" in text
