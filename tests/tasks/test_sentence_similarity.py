"""Vectors of texts: rows, how states are pooled, steps that do not hang on how they are split, rankings, whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score
from transformers import AutoModel, AutoTokenizer, BertModel

from tests import tiny
from tests.loop import Loop, stage, train
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data import shapes
from tunewright.data.truncate import fit_length
from tunewright.data.view import token_view
from tunewright.errors import DataError, MethodError, ModelError, RecipeError
from tunewright.finished.export import export
from tunewright.finished.run import Run
from tunewright.loading.load import load
from tunewright.loading.sentence_modules import note_pooling
from tunewright.measure.metrics import METRICS
from tunewright.measure.ranked import losses
from tunewright.measure.rows import read_rows
from tunewright.measure.target import difference, evaluate, figure_of, summary
from tunewright.methods.objectives.similarity import Similarity
from tunewright.models.pooling import pooled
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run
from tunewright.tasks import get_task

TASK = get_task("sentence-similarity")
WARM, COLD = ("red", "orange", "amber"), ("blue", "green", "teal")


def encoded(kept: bool = False, **columns: Any) -> Row:
    values, _ = shapes.canonical(columns, {})
    record = Record(values, id=str(columns.get("id", "r")), source="s")
    return TASK.encode(record, tokenizer(encoder=True), EncodeOptions(kept=kept))


def rows_of(*columns: dict[str, Any]) -> list[Row]:
    return [encoded(**{"id": f"r{i}", **c}) for i, c in enumerate(columns)]


def pairs(count: int = 6) -> list[Row]:
    words = [w for pair in zip(WARM, COLD, strict=True) for w in pair]
    return rows_of(
        *({"anchor": f"a very {w}" if i % 2 else w, "positive": f"{w} the dog"} for i, w in enumerate(words[:count]))
    )


def model(seed: int = 0) -> Any:
    return tiny._make(BertModel, tiny._bert(2, 32), seed)


# -- rows ------------------------------------------------------------------------------------------------------------


def test_names_of_sentence_transformers_columns_are_read() -> None:
    triplet = encoded(anchor="red", positive="warm", negative="cold", negative_1="teal", negative_2=None)
    assert len(triplet.fields["lengths"]) == 4 and triplet.fields["kind"] == "positive-pair"
    assert len(encoded(anchor="red", positive="warm", negative=None).fields["lengths"]) == 2  # an empty cell
    asked = encoded(query="red", positive="warm", negatives=["cold", "blue"])
    assert len(asked.fields["lengths"]) == 4 and asked.fields["text"] == "red"
    scored = encoded(sentence1="red", sentence2="warm", score="0.5")
    assert scored.fields["target"] == 0.5 and scored.fields["kind"] == "scored-pair"
    assert sum(triplet.fields["lengths"]) == len(triplet.input_ids) == triplet.size


@pytest.mark.parametrize(
    "columns, field, says",
    [
        ({"anchor": "red"}, "positive", "neither an anchor with its positive"),
        ({"anchor": "red", "positive": 3}, "positive", "it is no text"),
        ({"anchor": "red", "positive": "a", "negatives": "b"}, "negatives", "no list of texts"),
        ({"anchor": "red", "positive": "a", "negatives": [""]}, "negatives", "it is empty"),
        ({"anchor": "red", "positive": "A", "negative": "a"}, "negative", "positive once more"),
        ({"sentence1": "a", "sentence2": "b", "score": float("nan")}, "score", "no number"),
        ({"sentence1": "a", "score": 1}, "sentence2", "it is missing"),
        ({"text": "red"}, "anchor", "neither"),
    ],
)
def test_rows_that_cannot_be_used_say_why(columns: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(RowProblem, match=says) as caught:
        TASK.encode(Record(columns, id="r", source="s"), tokenizer(encoder=True), EncodeOptions())
    assert caught.value.field == field and caught.value.remedy


def test_each_text_is_cut_as_the_tokenizer_itself_would_cut_it() -> None:
    texts = ["the quick brown fox jumps over the lazy dog", "red"]
    row = encoded(anchor=texts[0], positive=texts[1])
    (cut,) = fit_length(row, 9, "auto")
    reads = tokenizer(encoder=True)
    wanted = [reads(t, truncation=True, max_length=9)["input_ids"] for t in texts]
    assert cut.input_ids == [t for ids in wanted for t in ids] and cut.fields["lengths"] == [len(w) for w in wanted]
    assert fit_length(row, 9, "drop") == [] and fit_length(row, max(row.fields["lengths"]), "drop") == [row]
    with pytest.raises(RowProblem):
        fit_length(row, 9, "fail")


# -- vectors -----------------------------------------------------------------------------------------------------------


def test_vectors_are_pooled_as_the_config_says() -> None:
    states, mask = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4, dtype=torch.long)
    mask[1, 2:] = 0
    for mode, wanted in (
        ("mean", [states[0].mean(0), states[1, :2].mean(0)]),
        ("cls", [states[0, 0], states[1, 0]]),
        ("max", [states[0].amax(0), states[1, :2].amax(0)]),
        ("lasttoken", [states[0, 3], states[1, 1]]),
    ):
        plain = pooled(states, mask, {"pooling": mode, "normalize": False})
        torch.testing.assert_close(plain, torch.stack(wanted))
        unit = pooled(states, mask, {"pooling": mode, "normalize": True})
        torch.testing.assert_close(unit, torch.nn.functional.normalize(plain, dim=-1))


def test_short_and_long_texts_read_apart_are_as_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewright.tasks import sentence_similarity

    rows = rows_of(
        {"anchor": "red", "positive": "the quick brown fox jumps over the lazy dog"}, {"anchor": "a", "positive": "b"}
    )
    batch, net = TASK.collate(rows), model().eval()
    calls = []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        apart = TASK.forward(net, batch).embeddings
        monkeypatch.setattr(sentence_similarity, "WASTE", 0.0)
        together = TASK.forward(net, batch).embeddings
    assert len(calls) == 3 and apart is not None and together is not None
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "modules, pooling, wanted",
    [
        (["Transformer", "Pooling", "Normalize"], {"pooling_mode_cls_token": True}, ("cls", True)),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}, ("lasttoken", False)),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False},
            ("max", False),
        ),
        (["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"}, "its steps are Transformer, Pooling, Dense"),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls", "mean"]}, "pools by cls and mean"),
        (["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True}, "pools by weightedmean_tokens"),
        (["Transformer", "Pooling"], {}, "pools by nothing"),
    ],
)
def test_a_folder_says_how_it_pools(tmp_path: Path, modules: list[str], pooling: dict[str, Any], wanted: Any) -> None:
    steps = [{"idx": i, "path": f"{i}_{m}" if i else "", "type": f"a.b.{m}"} for i, m in enumerate(modules)]
    (tmp_path / "modules.json").write_text(json.dumps(steps))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    config = tiny._bert(1, 32)
    if isinstance(wanted, str):
        with pytest.raises(ModelError, match=wanted):
            note_pooling(config, tmp_path)
    else:
        note_pooling(config, tmp_path)
        assert (config.sentence_embedding["pooling"], config.sentence_embedding["normalize"]) == wanted


def test_a_folder_that_says_nothing_takes_the_mean_and_says_so(tmp_path: Path) -> None:
    tiny.bert().save_pretrained(tmp_path)
    tokenizer(encoder=True).save_pretrained(tmp_path)
    loaded = load(str(tmp_path), "sentence-similarity")
    assert any("the mean of its tokens' states" in n for n in loaded.notes) and not loaded.new
    assert any("drawn afresh, and nothing reads it" in n for n in loaded.notes)
    assert loaded.model.config.sentence_embedding == {"pooling": "mean", "normalize": True}  # type: ignore[union-attr]


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from tunewright.conformance.task_examples import t5

    t5().save_pretrained(tmp_path)
    tokenizer(end=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="an encoder-decoder reads two texts"):
        load(str(tmp_path), "sentence-similarity")


# -- steps -------------------------------------------------------------------------------------------------------------


class Batches:
    """All rows, each step."""

    def __init__(self, rows: list[Row]):
        self.rows, self.weights = rows, {"s": 1.0}

    def next_batch(self) -> list[tuple[Row, int]]:
        return [(row, 0) for row in self.rows]

    def state(self) -> dict[str, Any]:
        return {}


def trained(*methods: Any, rows: list[Row] | None = None, micro: int | None = None) -> tuple[list[float], Any]:
    given, records = stage(
        *methods,
        model=model(),
        steps=3,
        task="sentence-similarity",
        rows=Batches(rows or pairs()),
        micro_tokens=micro,
    )
    train(given)
    return [r["loss"] for r in records], given.adapted.model


def test_a_step_is_the_same_however_it_is_split() -> None:
    found = []
    for micro in (None, 12, 1):
        given, _ = stage(model=model(), task="sentence-similarity", rows=Batches(pairs()), micro_tokens=micro, steps=1)
        loop = Loop(given)
        assert len(loop.micro_batches(loop.take()[0])) == {None: 1, 12: 6, 1: 6}[micro]
        found.append((loop.gradients(loop.take()[0]), loop.trained.gradients()))
    (first, wanted), *others = found
    assert first["labels"] == 6 and first["loss"] > 0.1
    for record, gradients in others:
        assert record["loss"] == pytest.approx(first["loss"], rel=1e-5) and gradients.keys() == wanted.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-5, msg=name)
    alone = [trained(rows=[row])[0][0] for row in pairs()]
    assert alone == pytest.approx([0.0] * 6, abs=1e-6)  # a row alone has no negatives


def test_the_method_trains_as_the_task_does_and_each_option_changes_the_run() -> None:
    plain, same = trained()[0], trained(Similarity())[0]
    assert plain == pytest.approx(same, rel=1e-6)
    assert trained(Similarity(scale=5.0))[0] != pytest.approx(plain, rel=1e-3)
    assert trained(Similarity(weight=0.5))[0][0] == pytest.approx(plain[0] / 2, rel=1e-5)
    scored = rows_of(*({"sentence1": w, "sentence2": f"{w} dog", "score": i / 6} for i, w in enumerate(WARM + COLD)))
    order, cosine = trained(rows=scored)[0], trained(Similarity(scored="cosine"), rows=scored)[0]
    assert order[0] > 1 > cosine[0] and trained(Similarity(scale=5.0), rows=scored)[0][0] < order[0]
    split = trained(rows=scored, micro=12)[0]
    assert split == pytest.approx(order, rel=1e-4)


def test_scores_beyond_a_cosine_are_refused_where_they_are_to_be_cosines() -> None:
    with pytest.raises(RowProblem, match="4.5 is no cosine"):
        Similarity(scored="cosine").example(Record({"sentence1": "a", "sentence2": "b", "score": 4.5}, id="r"))
    assert Similarity().example(Record({"score": 4.5}, id="r")) is None


def test_kept_text_is_not_trained_on() -> None:
    with pytest.raises(DataError, match="a text alone"):
        trained(rows=[*pairs(2), encoded(kept=True, text="red")])


# -- rankings ----------------------------------------------------------------------------------------------------------


def plainly(rows: list[Row], net: Any) -> tuple[np.ndarray, list[str], list[str], dict[str, set[str]]]:
    """Cosines [queries, documents] by one text at a time through the plain model; the texts, and what is right."""
    reads = tokenizer(encoder=True)
    texts = [[reads.decode(i, skip_special_tokens=True) for i in _ids(row)] for row in rows]
    queries = list(dict.fromkeys(t[0] for t in texts))
    documents = list(dict.fromkeys(d for t in texts for d in t[1:]))
    right = {q: {t[1] for t in texts if t[0] == q} for q in queries}

    def vector(text: str) -> np.ndarray:
        with torch.no_grad():
            state = net(**reads(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0].mean(0)
        return np.asarray(state / state.norm())

    cosines = np.array([vector(q) for q in queries]) @ np.array([vector(d) for d in documents]).T
    return cosines, queries, documents, right


def _ids(row: Row) -> list[Any]:
    from tunewright.tasks._texts import texts_of

    return texts_of(row)


def ranked_rows() -> list[Row]:
    """Two queries with two right texts each, texts that come twice, and hard negatives."""
    table = [("red", "warm red"), ("blue", "cold blue"), ("red", "amber"), ("teal", "cold blue"), ("green", "cold")]
    more = {0: {"negatives": ["dog", "amber fox"]}, 3: {"negative": "dog"}}
    return rows_of(*({"anchor": a, "positive": p, **more.get(i, {})} for i, (a, p) in enumerate(table)))


def test_rankings_are_what_is_counted_one_text_at_a_time() -> None:
    rows, net = ranked_rows(), model(3).eval()
    cosines, queries, documents, right = plainly(rows, net)
    relevant = np.array([[d in right[q] for d in documents] for q in queries], dtype=float)
    order = np.argsort(-cosines, axis=1)
    sorted_relevance = np.take_along_axis(relevant, order, 1)
    wanted = {
        "ndcg@10": ndcg_score(relevant, cosines, k=10),
        "mrr": np.mean([1 / (1 + np.flatnonzero(r)[0]) for r in sorted_relevance]),
        "recall@1": np.mean([r[:1].sum() / r.sum() for r in sorted_relevance]),
        "recall@5": np.mean([r[:5].sum() / r.sum() for r in sorted_relevance]),
    }
    for metric, value in wanted.items():
        for size in (1, 4096):
            results = evaluate(net, tokenizer(encoder=True), TASK, rows, metric, batch_tokens=size)
            found = summary(results, metric)
            assert found.value == pytest.approx(value, abs=1e-6), metric
            assert found.n == len(queries) == 4 and figure_of(results, metric) == pytest.approx(value, abs=1e-6)
    assert [r.weight for r in results] == [1, 1, 0, 1, 1] and [r.id for r in results] == [r.id for r in rows]
    assert difference(results, results, "mrr").value == 0.0


def test_a_model_that_tells_nothing_apart_is_not_right_by_the_rows_order() -> None:
    from tunewright.contract.metric import Ranking

    ranking = Ranking(np.ones(10), np.eye(10)[0])
    assert {n: METRICS[n].of_ranking(ranking) for n in ("mrr", "recall@1", "recall@10")} == {  # type: ignore[misc]
        "mrr": 0.1,
        "recall@1": 0.0,
        "recall@10": 1.0,
    }


def test_scores_are_correlated_by_scipy() -> None:
    scores = [0.1, 0.9, 0.4, 0.4, 0.7]
    rows = rows_of(
        *({"sentence1": w, "sentence2": f"the {w}", "score": s} for w, s in zip(WARM + COLD, scores, strict=False))
    )
    net = model(1).eval()
    results = evaluate(net, tokenizer(encoder=True), TASK, rows, "spearman")
    said = [float(r.answer) for r in results]
    assert summary(results, "spearman").value == pytest.approx(spearmanr(said, scores).statistic)
    assert summary(results, "pearson").value == pytest.approx(np.corrcoef(said, scores)[0, 1])
    worst = [r.model_copy(update={"answer": str(-float(r.reference))}) for r in results]
    assert summary(worst, "spearman").value == pytest.approx(-1.0) and TASK.default_metric(rows) == "spearman"


def test_the_loss_of_a_row_is_beside_all_rows_however_they_are_batched() -> None:
    rows, net = pairs(), model(2).eval()
    with torch.no_grad():
        batch = TASK.collate(rows)
        wanted = TASK.loss(TASK.forward(net, batch), batch).value.tolist()
    for size in (1, 4096):
        assert [r.score for r in losses(net, TASK, rows, size)] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("similar")
    model().save_pretrained(folder / "base")
    tokenizer(encoder=True).save_pretrained(folder / "base")
    words = [f"{a} {w}" for a in ("the", "a", "very", "lazy") for w in WARM + COLD]
    train = [{"anchor": w, "positive": f"{'warm' if w.split()[1] in WARM else 'cold'} {w.split()[1]}"} for w in words]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, train)))
    (folder / "test.jsonl").write_text(
        "\n".join(json.dumps({**r, "anchor": f"quick {r['anchor']}"}) for r in train[:8])
    )
    (folder / "scored.jsonl").write_text(
        "\n".join(json.dumps({"sentence1": w, "sentence2": "fox", "score": i % 5}) for i, w in enumerate(words))
    )
    (folder / "kept.jsonl").write_text("\n".join(json.dumps({"text": f"the {w} fox jumps"}) for w in words))
    return folder


def recipe(folder: Path, **changes: Any) -> Recipe:
    tree = {
        "model": str(folder / "base"),
        "task": "sentence-similarity",
        "data": {"train": str(folder / "train.jsonl"), "eval": str(folder / "test.jsonl"), "max_length": 32},
        "methods": [{"lora": {"rank": 4}}],
        "train": {"learning_rate": 0.005, "batch_tokens": 200, "precision": "float32", "threads": 1},
        "budget": {"steps": 12},
        "measurement": {"strengths": [1]},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


@pytest.fixture(scope="module")
def ran(inputs: Path) -> Path:
    keep = [{"name": "texts", "data": str(inputs / "kept.jsonl")}]
    run(recipe(inputs, keep=keep), inputs / "out", quiet=True)
    return inputs / "out"


def test_a_run_gains_and_tells_drift_on_kept_text(ran: Path) -> None:
    report = json.loads((ran / "report.json").read_text())
    target, drift = report["target"], report["drift"]
    assert target["metric"] == "ndcg@10" and target["n"] == 8
    assert target["after"]["value"] > target["before"]["value"]
    assert drift["measure"] == "1-cka" and drift["on"] == "kept rows" and drift["sequences"] == 24
    assert 0 < drift["value"]["value"] < 1 and not report["kept"]


def test_what_goes_out_is_read_by_auto_model_and_says_how_it_pools(ran: Path, inputs: Path) -> None:
    export(ran, inputs / "model")
    net, reads = AutoModel.from_pretrained(inputs / "model"), AutoTokenizer.from_pretrained(inputs / "model")
    steps = json.loads((inputs / "model" / "modules.json").read_text())
    assert [s["type"].rsplit(".")[-1] for s in steps] == ["Transformer", "Pooling", "Normalize"]
    pooling = json.loads((inputs / "model" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True and pooling["word_embedding_dimension"] == 32
    again = load(str(inputs / "model"), "sentence-similarity")
    assert not any("does not say" in n for n in again.notes)
    texts = [r.prompt for r in read_rows(ran / "rows.jsonl")]
    batch = reads(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.no_grad():
        vectors = pooled(net.eval()(**batch).last_hidden_state, batch["attention_mask"], net.config.sentence_embedding)
        rows = [encoded(kept=True, text=t) for t in texts]
        own = TASK.forward(again.model, TASK.collate(rows)).embeddings
    assert own is not None
    torch.testing.assert_close(vectors, own, rtol=1e-5, atol=1e-6)


def test_it_writes_no_text(ran: Path) -> None:
    with pytest.raises(MethodError, match="writes no text"):
        Run(ran).chat()


def test_what_does_not_fit_is_refused_by_all_three(inputs: Path) -> None:
    scored, kept = str(inputs / "scored.jsonl"), [{"name": "texts", "data": str(inputs / "kept.jsonl")}]
    for changes, says in (
        ({"measurement__metric": "spearman"}, "'spearman' cannot be read of all rows"),
        ({"measurement__metric": "mrr", "data__eval": scored}, "'mrr' cannot be read of all rows"),
        ({"measurement__metric": "accuracy"}, "needs a class a row"),
        ({"measurement__metric": "mean_token_accuracy"}, "reads tokens"),
        ({"methods": ["asft"]}, "trains likelihoods, and sentence-similarity gives a vector a text"),
        ({"methods": ["lora", "e2wm"], "keep": kept}, "reads the loss of each row by itself"),
        ({"methods": ["adept"], "keep": kept}, "in sentence-similarity a text alone has none"),
    ):
        asked = recipe(inputs, **changes)
        said = [str(check_recipe(asked).report.errors[0])]
        for verb in (lambda a=asked: plan(a, quiet=True), lambda a=asked: run(a, inputs / "no", quiet=True)):
            with pytest.raises((RecipeError, MethodError), match=says) as caught:
                verb()
            said.append(str(caught.value))
        assert len(set(said)) == 1, said
    assert not (inputs / "no").exists()


def test_scored_rows_run_beside_a_penalty_and_the_whole_model(inputs: Path) -> None:
    scored = str(inputs / "scored.jsonl")
    asked = recipe(
        inputs,
        data__train=scored,
        data__eval=scored,
        methods=["full", "similarity", "layerwise-decay"],
        after=["wise-ft"],
    )
    run(asked, inputs / "scored", quiet=True)
    target = json.loads((inputs / "scored" / "report.json").read_text())["target"]
    assert target["metric"] == "spearman" and target["after"]["value"] > target["before"]["value"]


def test_a_first_recipe_is_for_vectors(inputs: Path) -> None:
    text = starter(str(inputs / "base"), inputs / "train.jsonl")
    assert "task: sentence-similarity" in text and "rows of shape positive-pair: anchor, positive" in text
    assert "task: sentence-similarity" in starter(str(inputs / "base"), inputs / "scored.jsonl")


def test_a_plan_shows_what_should_be_near_and_says_when_a_step_holds_one_row(inputs: Path) -> None:
    view = plan(recipe(inputs), quiet=True).view
    assert [t for t, _ in next(iter(view.values()))] == ["the red", "\nwarm red"]
    row = encoded(anchor="red", positive="warm", negative="cold")
    assert token_view(row, tokenizer(encoder=True)) == [("red", 0.0), ("\nwarm", 1.0), ("\nnot: cold", 0.0)]
    scored = encoded(sentence1="red", sentence2="warm", score=0.5)
    assert token_view(scored, tokenizer(encoder=True))[-1] == ("[0.5]", 1.0)
    said = "holds about one row"
    assert not any(said in n for n in plan(recipe(inputs), quiet=True).notes)
    assert any(said in n for n in plan(recipe(inputs, train__batch_tokens=10), quiet=True).notes)


def test_left_out_the_batch_is_of_many_rows(inputs: Path) -> None:
    asked = recipe(inputs)
    asked.train.batch_tokens = None
    session = assemble(asked, weights=False)
    rows = session.stages[0].rows
    assert session.stages[0].train.batch_tokens >= rows.counts["tokens"] and len(rows.rows) == 24
