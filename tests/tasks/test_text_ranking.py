"""A query and a passage read together: rows, the two losses against torch's own, rankings by query, and whole runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, BertModel

from tests import tiny
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data import shapes
from tunewright.data.truncate import fit_length
from tunewright.data.view import token_view
from tunewright.errors import DataError, MethodError, RecipeError
from tunewright.finished.export import export
from tunewright.measure.target import evaluate, summary
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.tasks import get_task

TASK = get_task("text-ranking")
WARM, COLD = ("red", "orange", "amber"), ("blue", "green", "teal")


def encoded(reads: Any = None, **columns: Any) -> Row:
    values, _ = shapes.canonical(columns, {})
    record = Record(values, id=str(columns.get("id", "r")), source="s")
    return TASK.encode(record, reads or tokenizer(encoder=True), EncodeOptions())


def rows_of(*columns: dict[str, Any]) -> list[Row]:
    return [encoded(**{"id": f"r{i}", **c}) for i, c in enumerate(columns)]


def model(seed: int = 0, types: int = 2) -> Any:
    return tiny._make(BertForSequenceClassification, tiny._bert(2, 32, num_labels=1, type_vocab_size=types), seed)


def with_types() -> Any:
    """A tokenizer that tells query and passage apart, as BERT's does."""
    from tokenizers import processors

    fast = copy.deepcopy(tokenizer(encoder=True))
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    around = [("<cls>", fast.cls_token_id), ("<sep>", fast.sep_token_id)]
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=around
    )
    return fast


TABLE = (
    {"query": "red", "positive": "warm", "negatives": ["cold", "dog"]},
    {"query": "blue", "passage": "cold fox", "label": 1},
    {"query": "blue", "passage": "warm", "label": 0.25},
    {"query": "teal", "positive": "cold", "negative": "the quick brown fox"},
)


def test_rows_are_read_with_their_query() -> None:
    listed, judged, *_ = rows_of(*TABLE)
    reads = tokenizer(encoder=True)
    assert listed.input_ids == [t for p in ("warm", "cold", "dog") for t in reads("red", p)["input_ids"]]
    assert listed.fields["labels"] == [1.0, 0.0, 0.0] and judged.fields["labels"] == [1.0]
    assert encoded(anchor="red", positive="a", negative_1="b", negative_2="c").fields["passages"] == ["a", "b", "c"]
    assert [weight for _, weight in token_view(listed, reads)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "columns, field, says",
    [
        ({"query": "red", "positive": "warm"}, "negatives", "one passage has nothing to be ranked"),
        ({"query": "red", "positive": "warm", "negative": "Warm"}, "negative", "positive once more"),
        ({"query": "red", "passage": "warm", "label": 2}, "label", "no grade from 0 to 1"),
        ({"query": "red", "passage": "warm", "label": None}, "label", "no grade"),
        ({"query": " ", "passage": "warm", "label": 1}, "query", "it is empty"),
        ({"query": "red"}, "passage", "neither a query with its positive"),
        ({"text": "red"}, "query", "neither"),
    ],
)
def test_rows_that_cannot_be_used_say_why(columns: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(RowProblem, match=says) as caught:
        TASK.encode(Record(columns, id="r", source="s"), tokenizer(encoder=True), EncodeOptions())
    assert caught.value.field == field and caught.value.remedy


def test_long_passages_are_cut_as_the_tokenizer_itself_would_cut_them() -> None:
    reads, long = with_types(), "the quick brown fox jumps over the lazy dog"
    row = encoded(reads, query="red", positive=long, negative="dog")
    (cut,) = fit_length(row, 14, "auto")
    wanted = [reads("red", p, truncation=True, max_length=14) for p in (long, "dog")]
    assert cut.input_ids == [t for w in wanted for t in w["input_ids"]]
    assert cut.fields["types"] == [t for w in wanted for t in w["token_type_ids"]] and 1 in cut.fields["types"]
    assert fit_length(row, 14, "drop") == []


@pytest.mark.parametrize("types", [1, 2])
def test_scores_are_the_models_own_whatever_lies_beside(types: int) -> None:
    """Beside transformers' own reading of each pair alone, with token types where the model has them."""
    net, reads = model(types=types).eval(), with_types()
    rows = [encoded(reads, **c) for c in TABLE]
    with torch.no_grad():
        out = TASK.forward(net, TASK.collate(rows))
        pairs = [(r.fields["text"], p) for r in rows for p in r.fields["passages"]]
        given = [reads(*pair, return_tensors="pt") for pair in pairs]
        keys = ("input_ids", "attention_mask", *(["token_type_ids"] if types > 1 else []))
        wanted = torch.stack([net(**{k: g[k] for k in keys}).logits[0, 0] for g in given])
    assert out.scores is not None and out.features is not None
    torch.testing.assert_close(out.scores, wanted, rtol=1e-4, atol=1e-5)
    assert out.features.shape == (4, 32) and out.logits.shape == (7, 1)


def test_losses_are_torchs_own() -> None:
    rows, net = rows_of(*TABLE), model().eval()
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(net, batch)
        value = TASK.loss(out, batch).value
    assert out.scores is not None
    a, b, c, d = out.scores.split([3, 1, 1, 2])
    cross, binary = torch.nn.functional.cross_entropy, torch.nn.functional.binary_cross_entropy_with_logits
    wanted = [
        *(cross(a[None], torch.tensor([0])), 0, 0),
        binary(b, torch.tensor([1.0])),
        binary(c, torch.tensor([0.25])),
        *(cross(d[None], torch.tensor([0])), 0),
    ]
    assert value.tolist() == pytest.approx([float(w) for w in wanted], abs=1e-5)
    assert batch.weights.tolist() == [1, 0, 0, 1, 1, 1, 0] and batch.rows.tolist() == [0, 0, 0, 1, 2, 3, 3]


def test_rankings_are_of_all_passages_that_a_query_has() -> None:
    rows, net = rows_of(*TABLE, {"query": "green", "passage": "cold", "label": 1}), model(2).eval()
    with torch.no_grad():
        scores = TASK.forward(net, TASK.collate(rows)).scores
    assert scores is not None
    groups = ((scores[:3], [1.0, 0, 0]), (scores[3:5], [1.0, 0.25]), (scores[5:7], [1.0, 0]))
    for metric, count in (
        ("ndcg@10", lambda s, y: ndcg_score([y], [s.numpy()], k=10)),
        ("mrr", lambda s, y: 1 / (1 + min(np.flatnonzero(np.array(y)[np.argsort(-s.numpy())] > 0)))),
        ("recall@1", lambda s, y: (np.array(y)[s.argmax()] > 0) / np.sum(np.array(y) > 0)),
    ):
        for size in (1, 4096):
            results = evaluate(net, tokenizer(encoder=True), TASK, rows, metric, batch_tokens=size)
            assert summary(results, metric).value == pytest.approx(np.mean([count(s, y) for s, y in groups]), abs=1e-6)
            assert summary(results, metric).n == 3 and [r.weight for r in results] == [1, 1, 0, 1, 0]
    assert results[0].reference == "warm" and results[1].reference == "cold fox"
    with pytest.raises(DataError, match="no query of the evaluated rows has both"):
        evaluate(net, tokenizer(encoder=True), TASK, rows[4:], "mrr")
    assert TASK.default_metric(rows) == "ndcg@10" and TASK.default_metric(rows[4:]) == "loss"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked")
    tiny._make(BertModel, tiny._bert(2, 32), 0).save_pretrained(folder / "base")
    with_types().save_pretrained(folder / "base")
    words = [(f"{a} {w}", w in WARM) for a in ("the", "a", "very", "lazy") for w in WARM + COLD]
    kinds = {True: ("warm", "cold"), False: ("cold", "warm")}
    lists = [{"query": w, "positive": kinds[k][0], "negatives": [kinds[k][1], "dog"]} for w, k in words]
    judged = [{"query": w, "passage": p, "label": float(i == 0)} for w, k in words for i, p in enumerate(kinds[k])]
    for name, rows in (("lists", lists), ("judged", judged), ("test", lists[:6])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def recipe(folder: Path, **changes: Any) -> Recipe:
    tree = {
        "model": str(folder / "base"),
        "task": "text-ranking",
        "data": {"train": str(folder / "lists.jsonl"), "eval": str(folder / "test.jsonl"), "max_length": 32},
        "methods": ["full"],
        "train": {"learning_rate": 0.005, "batch_tokens": 200, "precision": "float32", "threads": 1},
        "budget": {"steps": 20},
        "measurement": {"strengths": [1]},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


@pytest.mark.parametrize("rows, methods", [("judged", ["full"]), ("lists", [{"lora": {"rank": 4}}, "lora-plus"])])
def test_a_run_gains_and_what_goes_out_scores_as_it_did(
    inputs: Path, tmp_path: Path, rows: str, methods: list[Any]
) -> None:
    changes: dict[str, Any] = {"methods": methods, "budget__steps": 160, "train__learning_rate": 0.001}
    run(recipe(inputs, data__train=f"{rows}.jsonl", **changes), tmp_path / "out", quiet=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    target = report["target"]
    assert target["metric"] == "ndcg@10" and target["n"] == 6 and target["fresh_head"]
    assert target["after"]["value"] > target["before"]["value"] + 0.1 and report["drift"]["measure"] == "1-cka"
    export(tmp_path / "out", tmp_path / "model")
    net = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    reads = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert net.config.num_labels == 1
    said = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    for row, line in zip(said, (inputs / "test.jsonl").read_text().splitlines(), strict=True):
        asked = json.loads(line)
        passages = [asked["positive"], *asked["negatives"]]
        with torch.no_grad():
            scores = net(**reads([asked["query"]] * 3, passages, padding=True, return_tensors="pt")).logits[:, 0]
        assert passages[int(scores.argmax())] == row["tuned"] and row["reference"] == asked["positive"]


def test_what_does_not_fit_is_refused_by_all_three(inputs: Path) -> None:
    for changes, says in (
        ({"measurement__metric": "spearman"}, "reads rows with a number"),
        ({"measurement__metric": "pair_accuracy"}, "compares two answers to a prompt"),
        ({"methods": ["asft"]}, "trains likelihoods, and text-ranking gives one number a text"),
    ):
        asked = recipe(inputs, **changes)
        said = [str(check_recipe(asked).report.errors[0])]
        for verb in (lambda a=asked: plan(a, quiet=True), lambda a=asked: run(a, inputs / "no", quiet=True)):
            with pytest.raises((RecipeError, MethodError), match=says) as caught:
                verb()
            said.append(str(caught.value))
        assert len(set(said)) == 1, said


def test_a_first_recipe_is_for_ranking(inputs: Path) -> None:
    text = starter(str(inputs / "base"), inputs / "judged.jsonl")
    assert "task: text-ranking" in text and "rows of shape judged-passage: query, passage, label" in text
    assert "task: text-ranking" in starter(str(inputs / "base"), inputs / "lists.jsonl", "text-ranking")


def test_a_share_that_is_held_out_holds_whole_queries(inputs: Path) -> None:
    from tunewright.runs.assemble import assemble

    made = assemble(recipe(inputs, data__train=str(inputs / "judged.jsonl"), data__validation=0.2), weights=False)
    assert made.validation is not None
    held, left = ({r.fields["query"] for r in d.rows} for d in (made.validation, made.stages[0].rows))
    assert held and not held & left
    lists = assemble(recipe(inputs, data__validation=0.2), weights=False)
    assert lists.validation is not None and 0 < len(lists.validation.rows) < len(lists.stages[0].rows.rows)
