"""reward-modeling: what is read where, its losses by hand, the folder that transformers loads, and whole runs."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForSequenceClassification

from tests import tiny
from tests.small import write_recipe
from tunewright.contract.pairs import PairRows
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.truncate import fit_length
from tunewright.errors import MethodError, ModelError, RecipeError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.load import load
from tunewright.measure.target import evaluate
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.tasks import get_task

TASK = get_task("reward-modeling")


def scorer(seed: int = 0) -> LlamaForSequenceClassification:
    config = tiny.llama().config
    config.num_labels, config.pad_token_id = 1, tiny.PAD
    return tiny._make(LlamaForSequenceClassification, config, seed)


def encoded(**columns):
    tokenizer = columns.pop("tokenizer", None) or tiny.tokenizer(chat=columns.pop("chat", False))
    return TASK.encode(Record(columns, id="r:1", source="r"), tokenizer, EncodeOptions())


ROWS = [
    {"prompt": "Which topic?", "chosen": " the card", "rejected": " a river and a town"},
    {"prompt": "In 1999", "completion": " the town", "score": -0.5},
    {"prompt": "def add", "completions": ["(a, b):\n", "    return", " a + b\n"], "scores": [0.1, 0.2, 0.9]},
    {"text": "A user and an assistant talk.", "score": True},
]


def alone(model, ids) -> float:
    """The model's own number of one sequence, as transformers gives it."""
    with torch.no_grad():
        return float(model(torch.tensor([list(ids)])).logits[0, 0])


def test_each_score_is_what_transformers_gives_of_that_text_alone_and_the_losses_are_those_by_hand():
    model, rows = scorer(), [encoded(**r) for r in ROWS]
    for order in (rows, rows[::-1], PairRows(rows, some=True)[:]):
        batch = TASK.collate(list(order))
        with torch.no_grad():
            out = TASK.forward(model, batch)
        loss = TASK.loss(out, batch)
        expected, losses = [], []
        for row in order:
            if "rejected_ids" in row.fields:
                a, b = (alone(model, ids) for ids in (row.input_ids, row.fields["rejected_ids"]))
                expected += [a, b]
                losses += [math.log1p(math.exp(b - a)), 0.0]
                continue
            at = [i for i, w in enumerate(row.weights) if w > 0]
            values = [alone(model, row.input_ids[: i + 1]) for i in at]
            expected += values
            losses += [(v - s) ** 2 for v, s in zip(values, row.fields["scores"], strict=True)]
        assert out.scores.tolist() == pytest.approx(expected, abs=1e-4)
        assert loss.value.tolist() == pytest.approx(losses, abs=1e-4)
        assert batch.row_ids == [r.id for r in order] and out.features.shape == (len(order), 32)
        assert float(batch.weights.sum()) == 1 + 1 + 3 + 1, "a pair has one loss, a piece has its own"


@pytest.mark.parametrize("maker, name", [(tiny.gpt2, "GPT2"), (tiny.qwen3, "Qwen3")])
def test_other_decoders_score_partial_answers_alike(maker, name):
    config = maker().config
    config.num_labels, config.pad_token_id = 1, tiny.PAD
    model = tiny._make(getattr(transformers, f"{name}ForSequenceClassification"), config, 0)
    row = encoded(**ROWS[2])
    with torch.no_grad():
        scores = TASK.forward(model, TASK.collate([row, encoded(**ROWS[0])])).scores.tolist()
    at = [i for i, w in enumerate(row.weights) if w > 0]
    assert scores[:3] == pytest.approx([alone(model, row.input_ids[: i + 1]) for i in at], abs=1e-4)


def test_a_step_does_not_depend_on_what_lies_beside_a_row():
    model, rows = scorer(), [encoded(**r) for r in ROWS]
    together = TASK.collate(rows)
    whole = TASK.loss(TASK.forward(model, together), together).value
    parts = []
    for row in rows:
        batch = TASK.collate([row])
        parts.append(TASK.loss(TASK.forward(model, batch), batch).value)
    torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=1e-4)


def test_a_text_ends_before_what_the_model_takes_for_padding():
    plain = encoded(prompt="a", completion=" b", score=1)
    assert plain.input_ids[-1] == tiny.EOS, "the end is read where it is no padding"
    padding = tiny.tokenizer(chat=False)
    padding.pad_token = padding.eos_token
    cut = encoded(prompt="a", completion=" b", score=1, tokenizer=padding)
    assert cut.input_ids == plain.input_ids[:-1]
    chat = encoded(prompt="a", completion="b", score=1, chat=True)
    assert chat.input_ids[-1] == tiny.EOS and chat.weights == [0.0] * (len(chat.input_ids) - 1) + [1.0]
    newline = tiny.tokenizer()("\n", add_special_tokens=False)["input_ids"]
    assert chat.input_ids[-len(newline) :] != newline, "what a template writes after the end of turn is left out"


def test_pieces_end_where_their_text_does():
    row, tokenizer = encoded(**ROWS[2]), tiny.tokenizer(chat=False)
    at = [i for i, w in enumerate(row.weights) if w > 0]
    said = [tokenizer.decode(row.input_ids[: i + 1], skip_special_tokens=True) for i in at]
    assert said == ["def add(a, b):\n", "def add(a, b):\n    return", "def add(a, b):\n    return a + b\n"]
    assert row.fields["scores"] == [0.1, 0.2, 0.9] and at[-1] == len(row.input_ids) - 1
    assert fit_length(row, 5, "split") == [], "scores of pieces of a row would belong to nothing"


def test_a_score_may_be_a_cell_of_a_table():
    assert encoded(prompt="a", completion="b", score="0.25").fields["scores"] == [0.25]


@pytest.mark.parametrize(
    "columns, says",
    [
        ({"prompt": "a", "completion": "b"}, "neither two answers nor a score"),
        ({"prompt": "a", "completion": "b", "score": "much"}, "'much' is no number"),
        ({"prompt": "a", "completion": "b", "score": float("nan")}, "nan is no number"),
        ({"prompt": "a", "completions": ["b", "c"], "scores": [1]}, "2 pieces need as many scores"),
        ({"prompt": "a", "completions": "b", "scores": [1]}, "no list of texts"),
        ({"prompt": "a", "completions": ["b", "c"], "scores": [1, 2], "tokenizer": "encoder"}, "reads a whole text"),
        ({"prompt": "a", "chosen": "b"}, "no 'completion'"),
    ],
)
def test_rows_that_cannot_be_used_say_why(columns, says):
    if columns.get("tokenizer") == "encoder":
        columns = {**columns, "tokenizer": tiny.tokenizer(encoder=True, chat=False)}
    with pytest.raises(RowProblem, match=says) as error:
        encoded(**columns)
    assert error.value.remedy


def test_an_encoder_reads_prompt_and_answer_as_two_texts():
    tokenizer, model = tiny.tokenizer(encoder=True, chat=False), tiny.bert_classifier(labels=1)
    row = encoded(**ROWS[0], tokenizer=tokenizer)
    assert row.input_ids == tokenizer("Which topic?", " the card")["input_ids"]
    batch = TASK.collate([row, encoded(**ROWS[3], tokenizer=tokenizer)])
    with torch.no_grad():
        scores = TASK.forward(model, batch).scores.tolist()
    assert scores[:2] == pytest.approx(
        [alone(model, row.input_ids), alone(model, row.fields["rejected_ids"])], abs=1e-4
    )
    some = TASK.ends("r", row.input_ids[:3], row.input_ids[3:], tokenizer, each=True)
    with pytest.raises(ModelError, match="cannot score partial answers"):
        TASK.forward(model, TASK.collate([some]))


def test_metrics_read_scores_and_the_others_are_refused():
    model, tokenizer = scorer(), tiny.tokenizer(chat=False)
    rows = [encoded(**{**ROWS[0], "chosen": c, "rejected": r}) for c, r in ((" the", " a"), (" a", " the"))]
    hits = [r.score for r in evaluate(model, tokenizer, TASK, rows, "pair_accuracy")]
    first = alone(model, rows[0].input_ids) > alone(model, rows[0].fields["rejected_ids"])
    assert hits == [float(first), float(not first)]
    (scored,) = evaluate(model, tokenizer, TASK, [encoded(**ROWS[1])], "loss")
    assert scored.score == pytest.approx((alone(model, encoded(**ROWS[1]).input_ids) + 0.5) ** 2, abs=1e-4)
    assert TASK.default_metric(rows) == "pair_accuracy" and TASK.default_metric([encoded(**ROWS[1])]) == "loss"
    for metric in ("exact_match", "accuracy", "mean_token_accuracy", "pair_accuracy_norm"):
        with pytest.raises(RecipeError, match=metric) as error:
            evaluate(model, tokenizer, TASK, rows, metric)
        assert "pair_accuracy" in error.value.remedy


def test_there_is_no_likelihood_to_train():
    batch = TASK.collate([encoded(**ROWS[1])])
    with pytest.raises(MethodError, match="no likelihoods"):
        TASK.forward(scorer(), batch).log_probs()


def test_the_suites_bench_trains_a_reward_model_with_any_method_that_serves_it():
    from tunewright.conformance.bench import Tiny
    from tunewright.methods.adapters.lora import LoRA

    tiny_run = Tiny([("lora", LoRA(rank=4))], task_name="reward-modeling", steps=24).run()
    losses = [r["loss"] for r in tiny_run.records]
    assert losses[0] == pytest.approx(math.log(2), abs=0.5) and sum(losses[-6:]) < 0.7 * sum(losses[:6])


# -- whole runs --------------------------------------------------------------------------------------------------------


def write_pairs(folder, count: int = 60) -> None:
    """Answers that begin with 'card' are preferred to those that begin with 'fee', whatever follows."""
    tiny.llama().save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    rng = random.Random(0)
    words = ("lost", "top", "up", "cash", "abroad", "pin", "rate")
    for name, n in (("train", count), ("test", 20)):
        rows = []
        for _ in range(n):
            prompt, tail = (" ".join(rng.choices(words, k=3)) for _ in range(2))
            rows.append({"prompt": prompt, "chosen": f"card {tail}", "rejected": f"fee {tail}"})
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def recipe_of(folder, **changes):
    given = {"task": "reward-modeling", "keep": [], "stages__0__budget": {"steps": 15}, **changes}
    given.setdefault("measurement", {"strengths": [0.5, 1.0]})
    return write_recipe(folder, **given)


def test_a_reward_model_is_trained_measured_read_back_and_exported(tmp_path):
    write_pairs(tmp_path)
    report = run(Recipe.load(recipe_of(tmp_path)), tmp_path / "out").report
    assert report.target.metric == "pair_accuracy" and report.target.fresh_head
    assert report.target.before.value < 0.9 < report.target.after.value, report.target
    assert report.drift is not None and report.drift.measure == "1-cka", "KL of one class would be 0"
    finished = open_run(tmp_path / "out")
    export(tmp_path / "out", tmp_path / "plain")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    assert model.config.num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    row = encoded(prompt="lost pin", chosen="card up", rejected="fee up", tokenizer=tokenizer)
    with torch.no_grad():
        ours = TASK.forward(finished.adapted.outer, TASK.collate([row])).scores.tolist()
    theirs = [alone(model, ids) for ids in (row.input_ids, row.fields["rejected_ids"])]
    assert ours == pytest.approx(theirs, abs=1e-4) and ours[0] > ours[1]


def test_a_pairs_tokens_count_both_answers(tmp_path):
    write_pairs(tmp_path)
    report = run(Recipe.load(recipe_of(tmp_path, stages__0__budget={"epochs": 1})), tmp_path / "out").report
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    rows = [encoded(**json.loads(line), chat=True) for line in lines]
    assert report.cost.tokens == sum(len(r.input_ids) + len(r.fields["rejected_ids"]) for r in rows)


def test_an_objective_of_likelihoods_is_refused_before_anything_is_loaded(tmp_path):
    write_pairs(tmp_path)
    file = recipe_of(tmp_path, stages__0__methods=["full", "asft"])
    with pytest.raises(MethodError, match="'asft' trains likelihoods"):
        run(Recipe.load(file), tmp_path / "out")


@pytest.mark.parametrize("weights", [True, False])
def test_what_has_no_such_head_is_no_reward_model(tmp_path, weights):
    tiny.llama().save_pretrained(tmp_path / "causal")
    tiny.tokenizer().save_pretrained(tmp_path / "causal")
    tiny.bert_classifier(labels=3).save_pretrained(tmp_path / "classes")
    tiny.tokenizer(encoder=True).save_pretrained(tmp_path / "classes")
    for name, says in (("causal", "LlamaForCausalLM"), ("classes", "of 3 labels")):
        with pytest.raises(ModelError, match=says):
            load(str(tmp_path / name), TASK, weights=weights)
        assert load(str(tmp_path / name), TASK, labels=["reward"], weights=weights).model.config.num_labels == 1
