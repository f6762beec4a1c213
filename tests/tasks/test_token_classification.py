"""Classes of words: which piece carries which class, what counts, how spans are counted, and whole runs with them."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import BILOU
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertForTokenClassification, pipeline
from transformers import PreTrainedTokenizerFast as Fast

from tests import tiny
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data import shapes
from tunewright.data.columnar import _named
from tunewright.errors import MethodError, MissingExtraError, RecipeError
from tunewright.finished.export import export
from tunewright.measure.rows import RowResult, read_rows
from tunewright.measure.spans import f1_by_type, span_f1, spans
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.tasks import get_task

TASK = get_task("token-classification")
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
OPTIONS = EncodeOptions(labels=LABELS)
PEOPLE, PLACES = ("Ada", "Alan", "Grace Hopper"), ("London", "New York", "Rome")


def record(tokens: list[str], tags: list[Any], column: str = "tags") -> Record:
    return Record({"tokens": tokens, column: tags}, id="r", source="s")


def word_pieces() -> Fast:
    """BERT's kind of tokenizer: words split at white space and punctuation, pieces with ##, accents gone."""
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", ".", ",", "'", "-", *alphabet, *(f"##{a}" for a in alphabet), "the"]
    inner = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return Fast(tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


def by_word_ids(tokenizer: Fast, tokens: list[str], classes: list[int]) -> list[int]:
    """The usual way: words as they are, the first piece of each by word_ids, -100 elsewhere."""
    last, out = None, []
    for word in tokenizer(tokens, is_split_into_words=True).word_ids():
        out.append(classes[word] if word is not None and word != last else -100)
        last = word
    return out


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_laid_to_words_as_word_ids_lay_them(seed: int) -> None:
    rng, tokenizer = random.Random(seed), word_pieces()
    tokens = ["".join(rng.choices("abcdé.,'-X", k=rng.randrange(1, 7))) for _ in range(rng.randrange(1, 9))]
    tags = [rng.choice(LABELS) for _ in tokens]
    row = TASK.encode(record(tokens, tags), tokenizer, OPTIONS)
    wanted = by_word_ids(tokenizer, tokens, [LABELS.index(t) for t in tags])
    assert row.fields["targets"] == wanted
    assert list(row.weights) == [float(t != -100) for t in wanted]
    assert list(row.input_ids) == tokenizer(tokens, is_split_into_words=True)["input_ids"]


def test_pieces_of_bytes_see_the_space_before_a_word() -> None:
    tokenizer = tiny.tokenizer(encoder=True, chat=False)
    tokens = ["The", "bank's", "card", "Überweg"]
    row = TASK.encode(record(tokens, ["O", "B-LOC", "O", "B-PER"]), tokenizer, OPTIONS)
    assert row.input_ids == tokenizer("The bank's card Überweg")["input_ids"]
    firsts = [i for i, w in enumerate(row.weights) if w > 0]
    ends = [*firsts[1:], len(row.input_ids) - 1]
    said = [tokenizer.decode(row.input_ids[a:b]).strip() for a, b in zip(firsts, ends, strict=True)]
    assert said == tokens and [row.fields["targets"][i] for i in firsts] == [0, 3, 0, 1]


@pytest.mark.parametrize("column", ["tags", "ner_tags", "labels"])
def test_tags_are_read_by_name_and_by_id(column: str) -> None:
    tokenizer = word_pieces()
    named = TASK.encode(record(["ada", "of", "rome"], ["B-PER", "O", "B-LOC"], column), tokenizer, OPTIONS)
    by_id = TASK.encode(record(["ada", "of", "rome"], [1, 0, 3], column), tokenizer, OPTIONS)
    assert named == by_id and named.fields["reference"] == "B-PER O B-LOC"
    assert list(TASK.label_values(record(["ada"], ["B-PER"], column))) == ["B-PER"]
    with pytest.raises(RowProblem) as caught:
        TASK.encode(record(["ada"], [7], column), tokenizer, OPTIONS)
    assert caught.value.field == column


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "fewer tags": ({"tokens": ["a", "b"], "tags": ["O"]}, "tags", "2 words need as many tags, and there are 1"),
    "a text": ({"tokens": "a b", "tags": ["O", "O"]}, "tokens", "no list of words"),
    "an empty word": ({"tokens": ["a", " "], "tags": ["O", "O"]}, "tokens", "no list of words"),
    "no tags": ({"tokens": ["a"]}, "tags", "has no tags"),
    "no known tag": ({"tokens": ["a"], "tags": ["B-CAT"]}, "tags", "no known label"),
    "a word of nothing": ({"tokens": ["a", "\u00ad\u200b"], "tags": ["O", "O"]}, "tokens", "no piece of its own"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_say_what_is_wrong(case: str) -> None:
    row, field, reason = BAD[case]
    good = record(["ada"], ["B-PER"])
    first, bad, last = TASK.encode_many([good, Record(row, id="b"), good], word_pieces(), OPTIONS)
    assert first == last == TASK.encode(good, word_pieces(), OPTIONS)
    assert isinstance(bad, RowProblem) and bad.field == field and reason in bad.reason and bad.remedy


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow = type("Slow", (), {"is_fast": False})()
    with pytest.raises(RowProblem, match="Slow does not say which characters") as caught:
        TASK.encode(record(["a"], ["O"]), slow, OPTIONS)
    assert "fast tokenizer" in caught.value.remedy


# -- spans -----------------------------------------------------------------------------------------------------------


def rows_of(pairs: list[tuple[list[str], list[str]]]) -> list[RowResult]:
    return [
        RowResult(id=str(i), source="s", answer=" ".join(a), reference=" ".join(b), score=0.0)
        for i, (a, b) in enumerate(pairs)
    ]


@pytest.mark.parametrize("prefixes", ["BI", "I", "BIES"], ids=["IOB2", "IOB", "IOBES"])
def test_spans_are_counted_as_seqeval_counts_them(prefixes: str) -> None:
    rng = random.Random(prefixes)
    tags = ["O", *(f"{p}-{kind}" for p in prefixes for kind in ("PER", "LOC", "A-B"))]
    for _ in range(60):
        lengths = [rng.randrange(1, 9) for _ in range(rng.randrange(1, 6))]
        said, right = ([[rng.choice(tags) for _ in range(n)] for n in lengths] for _ in range(2))
        rows = rows_of(list(zip(said, right, strict=True)))
        assert span_f1(rows) == pytest.approx(float(f1_score(right, said, zero_division=1)))
        report = classification_report(right, said, output_dict=True, zero_division=0)
        there = {k: v["f1-score"] for k, v in report.items() if " avg" not in k and v["support"]}
        assert f1_by_type(rows) == pytest.approx({k: float(v) for k, v in there.items()})


def test_bilou_is_counted_as_its_scheme_says() -> None:
    rng = random.Random(0)
    pieces = [["O"], ["U-PER"], ["B-LOC", "L-LOC"], ["B-PER", "I-PER", "L-PER"]]
    for _ in range(40):
        said, right = ([t for _ in range(5) for t in rng.choice(pieces)] for _ in range(2))
        n = min(len(said), len(right))
        said, right = [*said[:n]], [*right[:n]]
        if any(t[0] in "BI" for t in (said[-1], right[-1])):
            continue  # cut within a span
        wanted = f1_score([right], [said], mode="strict", scheme=BILOU, zero_division=1)
        assert span_f1(rows_of([(said, right)])) == pytest.approx(float(wanted))
    assert spans(["B-A", "M-A", "E-A", "S-A"]) == {("A", 0, 2), ("A", 3, 3)}  # BMES


def test_without_spans_the_figure_is_whole() -> None:
    assert span_f1(rows_of([(["O"], ["O"])])) == 1.0 and f1_by_type(rows_of([(["B-A"], ["O"])])) == {}


# -- runs ------------------------------------------------------------------------------------------------------------


def sentence(rng: random.Random) -> dict[str, list[str]]:
    tokens, tags = list[str](), list[str]()
    for names, kind, said in ((PEOPLE, "PER", ("lives", "in")), (PLACES, "LOC", ("today",))):
        words = rng.choice(names).split()
        tokens += [*words, *said]
        tags += [f"{'I' if i else 'B'}-{kind}" for i in range(len(words))] + ["O"] * len(said)
    return {"tokens": tokens, "ner_tags": tags}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tags")
    tiny.bert().save_pretrained(folder / "base")
    word_pieces().save_pretrained(folder / "base")
    rng = random.Random(0)
    for name, count in (("train", 32), ("test", 12)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(sentence(rng)) for _ in range(count)))
    return folder


def recipe(folder: Path, **changes: Any) -> Recipe:
    tree = {
        "model": str(folder / "base"),
        "task": "token-classification",
        "data": {"train": str(folder / "train.jsonl"), "eval": str(folder / "test.jsonl"), "max_length": 64},
        "methods": [{"lora": {"rank": 4}}],
        "train": {"learning_rate": 0.02, "batch_tokens": 128, "precision": "float32", "threads": 1},
        "budget": {"steps": 10},
        "measurement": {"strengths": [1]},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


@pytest.fixture(scope="module")
def ran(inputs: Path) -> Path:
    run(recipe(inputs), inputs / "out", quiet=True)
    return inputs / "out"


def test_a_run_shows_types_and_the_commonest_tag(ran: Path, inputs: Path) -> None:
    report = json.loads((ran / "report.json").read_text())
    target = report["target"]
    assert target["metric"] == "span_f1" and target["fresh_head"] and report["drift"]["measure"] == "1-cka"
    assert target["after"]["value"] > target["before"]["value"] + 0.2
    rows = list(read_rows(ran / "rows.jsonl"))
    said, right = ([getattr(r, name).split() for r in rows] for name in ("tuned", "reference"))
    assert target["after"]["value"] == pytest.approx(float(f1_score(right, said)))
    by_type = classification_report(right, said, output_dict=True, zero_division=0)
    assert [o["name"] for o in target["others"]] == ["LOC", "PER"]
    for part in target["others"]:
        assert part["after"]["value"] == pytest.approx(float(by_type[part["name"]]["f1-score"]))
        assert part["difference"]["value"] == pytest.approx(part["after"]["value"] - part["before"]["value"])
    assert target["commonest"]["value"] == 0.0  # O, always: no span is found
    page = (ran / "report.html").read_text()
    assert "span F1 on PER" in page and "always the commonest class" in page


def test_words_alone_are_counted_beside_the_share_of_the_commonest(inputs: Path) -> None:
    run(recipe(inputs, measurement__metric="mean_token_accuracy", budget__steps=1), inputs / "words", quiet=True)
    target = json.loads((inputs / "words" / "report.json").read_text())["target"]
    tags = [t for line in (inputs / "test.jsonl").read_text().splitlines() for t in json.loads(line)["ner_tags"]]
    assert target["commonest"]["value"] == pytest.approx(tags.count("O") / len(tags)) and not target["others"]


def test_the_exported_model_names_the_same_spans_in_a_pipeline(ran: Path, inputs: Path) -> None:
    export(ran, inputs / "model")
    model = AutoModelForTokenClassification.from_pretrained(inputs / "model")
    assert isinstance(model, BertForTokenClassification)
    reads = AutoTokenizer.from_pretrained(inputs / "model")
    tags = pipeline("token-classification", model=model, tokenizer=reads, aggregation_strategy="first", device="cpu")
    for row in read_rows(ran / "rows.jsonl"):
        words = row.prompt.lower().split()
        wanted = {(kind, " ".join(words[a : b + 1])) for kind, a, b in spans(row.tuned.split())}
        assert {(e["entity_group"], e["word"].strip()) for e in tags(row.prompt)} == wanted


def test_tags_that_name_no_spans_are_counted_one_by_one(inputs: Path) -> None:
    options = EncodeOptions(labels=("DET", "NOUN"))
    row = TASK.encode(record(["the", "ada"], [0, 1]), word_pieces(), options)
    assert TASK.default_metric([row]) == "mean_token_accuracy"
    assert TASK.default_metric([TASK.encode(record(["a"], ["O"]), word_pieces(), OPTIONS)]) == "span_f1"


def test_without_seqeval_all_three_say_what_to_install(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "seqeval" else real(name, *a))
    for sets in ({}, {"measurement__metric": "span_f1"}):
        asked, said = recipe(inputs, **sets), []
        for verb in (lambda a: plan(a, quiet=True), lambda a: run(a, inputs / "refused", quiet=True)):
            with pytest.raises(MissingExtraError, match="counts with seqeval, which is not installed") as caught:
                verb(asked)
            said.append(str(caught.value))
        said.append(str(check_recipe(asked).report.errors[0]))
        assert len(set(said)) == 1 and "pip install 'tunewright[metrics]'" in said[0]
    assert not (inputs / "refused").exists()
    assert check_recipe(recipe(inputs, measurement__metric="mean_token_accuracy")).ok


def test_what_does_not_fit_is_refused_by_name(inputs: Path) -> None:
    with pytest.raises(RecipeError, match="needs a class a row"):
        run(recipe(inputs, measurement__metric="accuracy"), inputs / "no", quiet=True)
    with pytest.raises(MethodError, match="'core-tuning' does not serve the task token-classification"):
        run(recipe(inputs, methods=["core-tuning"]), inputs / "no", quiet=True)


def test_rows_with_a_long_text_are_left_out_and_counted(inputs: Path) -> None:
    (train,) = [
        s for s in check_recipe(recipe(inputs, data__max_length=16)).report.sources if s.role.startswith("train")
    ]
    assert train.counts["left_out"] == train.counts["too_long"] > 0 and train.counts["pieces"] == 0


def test_a_first_recipe_is_for_tags(inputs: Path) -> None:
    text = starter(str(inputs / "base"), inputs / "train.jsonl")
    assert "task: token-classification" in text and "rows of shape tagged: tokens, tags" in text


def test_shapes_of_tags_come_last() -> None:
    row = {"tokens": ["a"], "ner_tags": ["O"], "id": 3}
    assert shapes.canonical(row, {}) == ({"tokens": ["a"], "tags": ["O"], "id": 3}, "tagged")
    assert shapes.canonical({**row, "text": "a"}, {})[1] == "text"
    assert shapes.canonical({"tokens": ["a"], "labels": ["O"]}, {})[1] == "tagged"


def test_ids_of_a_data_set_are_read_by_their_names() -> None:
    import datasets

    named = _named(datasets.List(datasets.ClassLabel(names=["O", "B-PER"])))
    assert named is not None and named([0, 1, -1]) == ["O", "B-PER", None]


def test_features_are_means_over_words_first_pieces() -> None:
    model = tiny._make(BertForTokenClassification, tiny._bert(2, 32, num_labels=5), 0)
    rows = [TASK.encode(record(["ada", "of", "x"][:n], ["O"] * n), word_pieces(), OPTIONS) for n in (1, 3)]
    with torch.no_grad():
        out = TASK.forward(model, TASK.collate(rows), hidden=True)
    assert out.hidden is not None and out.features is not None
    for k, row in enumerate(rows):
        firsts = np.flatnonzero(row.weights)
        torch.testing.assert_close(out.features[k], out.hidden[-1][k, firsts].mean(0))
