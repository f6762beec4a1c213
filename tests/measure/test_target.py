from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tests import tiny
from tests.measure.making import LABELS, answer_rows, text_rows
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.errors import DataError, RecipeError
from tunewright.measure import _kv, text
from tunewright.measure.choose import choose_after, label_tokens
from tunewright.measure.generate import greedy
from tunewright.measure.rows import RowResult
from tunewright.measure.target import (
    answer_length,
    answers_and_choices,
    distinct_labels,
    evaluate,
    likelihood_choice,
    summary,
)
from tunewright.measure.text import macro_f1
from tunewright.tasks import get_task

CAUSAL = get_task("text-generation")


def test_exact_match_normalises_as_documented():
    assert text.exact_match("  card\n arrival ", "card arrival") == 1
    assert text.exact_match("ﬁne", "fine") == 1  # NFKC
    assert text.exact_match("Card arrival", "card arrival") == 0 == text.exact_match("card arrival.", "card arrival")


_TEXTS = st.text(st.sampled_from("ab \n\u00a0\u0301\u00a8\ufb01\ufffd\u1100\u1161."), max_size=8)


@given(_TEXTS, _TEXTS, _TEXTS)
def test_what_cannot_match_never_does(begun, more, reference):
    if text.cannot_match(begun, reference):
        assert not text.exact_match(begun + more, reference)


def test_a_word_that_is_whole_and_wrong_settles_an_answer():
    for begun in ("edit person", "card x y", "car d", "card arrival now"):
        assert text.cannot_match(begun, "card arrival"), begun
    for begun in ("", "x", "card", "card ", " card\narr", "card arrival", "card x"):
        assert not text.cannot_match(begun, "card arrival"), begun


def test_f1_counts_words_with_repeats():
    assert text.f1("a a b", "a b c") == pytest.approx(2 * 2 / 6)
    assert text.f1("", "") == 1 and text.f1("", "a") == 0 and text.f1("x", "y") == 0 and text.f1("A", "a") == 1


def test_generated_answers_are_the_models_own():
    model, tokenizer, rows = tiny.llama(), tiny.tokenizer(), answer_rows()
    got = evaluate(model, tokenizer, CAUSAL, rows, "exact_match")
    raw = greedy(model, tokenizer, [r.fields["prompt_ids"] for r in rows], answer_length(rows))
    assert [r.id for r in got] == [r.id for r in rows]
    assert [r.answer for r in got] == [tokenizer.decode(a, skip_special_tokens=True) for a in raw]
    assert (
        got[0].prompt == tokenizer.decode(rows[0].fields["prompt_ids"])
        and got[0].reference == rows[0].fields["reference"]
    )
    taught = [
        type(r)(r.id, r.source, r.input_ids, r.weights, fields={**r.fields, "reference": a.answer})
        for r, a in zip(rows, got, strict=True)
    ]
    assert summary(evaluate(model, tokenizer, CAUSAL, taught, "exact_match"), "exact_match").value == 1.0
    assert summary(got, "exact_match").method == "wilson"


@pytest.mark.parametrize("metric", ["exact_match", "f1"])
def test_scores_alone_are_those_of_whole_answers(metric, monkeypatch):
    model, tokenizer, rows = tiny.llama(seed=5), tiny.tokenizer(), answer_rows(23)
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **_: " ".join(f"w{i}" for i in ids))  # every token a word
    whole = evaluate(model, tokenizer, CAUSAL, rows, metric, max_new_tokens=12)
    for i, row in enumerate(rows[::2]):  # every fourth answer is right
        row.fields["reference"] = whole[2 * i].answer if i % 2 else row.fields["reference"]
    whole = evaluate(model, tokenizer, CAUSAL, rows, metric, max_new_tokens=12)
    some = evaluate(model, tokenizer, CAUSAL, rows, metric, max_new_tokens=12, scores_only=True)
    assert [r.score for r in some] == [r.score for r in whole] and {0.0, 1.0} <= {r.score for r in some}
    assert all(w.answer.startswith(s.answer) for s, w in zip(some, whole, strict=True))
    shorter = sum(len(s.answer) < len(w.answer) for s, w in zip(some, whole, strict=True))
    assert shorter > len(rows) // 2 if metric == "exact_match" else some == whole
    monkeypatch.setattr(tokenizer, "clean_up_tokenization_spaces", True, raising=False)
    assert evaluate(model, tokenizer, CAUSAL, rows, metric, max_new_tokens=12, scores_only=True) == whole


def test_answer_length_is_enough_for_the_longest_reference():
    rows = answer_rows()
    assert answer_length(rows) == 2 + max(len(r.input_ids) - len(r.fields["prompt_ids"]) for r in rows)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_loss_is_the_librarys(name):
    model, rows = tiny.MAKERS[name](), text_rows()
    got = evaluate(model, tiny.tokenizer(), CAUSAL, rows, "loss", batch_tokens=40)
    for row, r in zip(rows, got, strict=True):
        ids = torch.tensor([list(row.input_ids)])
        assert (
            r.score == pytest.approx(model(ids, labels=ids).loss.item(), abs=1e-5)
            and r.weight == len(row.input_ids) - 1
        )
    mean = summary(got, "loss")
    assert (
        mean.value == pytest.approx(sum(r.score * r.weight for r in got) / sum(r.weight for r in got))
        and mean.low < mean.value < mean.high
    )
    hits = evaluate(model, tiny.tokenizer(), CAUSAL, rows, "mean_token_accuracy")
    ids = torch.tensor([list(rows[0].input_ids)])
    assert hits[0].score == pytest.approx((model(ids).logits[0, :-1].argmax(-1) == ids[0, 1:]).float().mean().item())


def test_classification_accuracy_and_macro_f1():
    model, tokenizer, task = tiny.bert_classifier(), tiny.tokenizer(encoder=True), get_task("text-classification")
    names = tuple(model.config.id2label[i] for i in range(3))
    texts = ["card", "the river rose", "a b c", "town", "shop at", "x"]
    records = [Record({"text": t, "label": names[i % 3]}, id=f"c:{i}", source="c") for i, t in enumerate(texts)]
    rows = [task.encode(r, tokenizer, EncodeOptions(labels=names)) for r in records]
    got = evaluate(model, tokenizer, task, rows, "accuracy", batch_tokens=12)
    for row, r in zip(rows, got, strict=True):
        share = model(torch.tensor([row.input_ids])).logits[0].softmax(-1)
        assert r.answer == names[int(share.argmax())] and r.confidence == pytest.approx(share.max().item(), abs=1e-5)
    assert macro_f1(got) == pytest.approx(
        f1_score([r.reference for r in got], [r.answer for r in got], average="macro", zero_division=0)
    )
    assert summary(evaluate(model, tokenizer, task, rows, "f1_macro"), "f1_macro").value == pytest.approx(macro_f1(got))


def test_masked_loss_and_training_mode_comes_back():
    model, task = tiny.bert(), get_task("fill-mask")
    rows = [
        task.encode(Record({"text": t}, id=f"m:{i}"), tiny.tokenizer(encoder=True), EncodeOptions())
        for i, t in enumerate(tiny.TEXT)
    ]
    model.train()
    assert (
        all(r.score > 0 for r in evaluate(model, tiny.tokenizer(encoder=True), task, rows, "loss")) and model.training
    )


NEAR = ["card to", "card at", "shop a", "river", "who is", "bank at", "town"]


def _brute(model, rows, labels, tokens, mean):
    out = []
    for row in rows:
        scores = []
        for t in tokens:
            ids = torch.tensor([[*row.fields["prompt_ids"], *t]])
            logp = (
                model(ids).logits[0, -len(t) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(t)[:, None]).sum().item()
            )
            scores.append(logp / (len(t) if mean else 1))
        out.append(scores)
    return torch.tensor(out)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("mean", [False, True])
def test_choice_by_likelihood_is_the_brute_force_one(name, mean):
    model, tokenizer, rows = tiny.MAKERS[name](seed=5), tiny.tokenizer(), answer_rows(23)
    tokens = label_tokens(tokenizer, rows, NEAR)
    want = _brute(model, rows, NEAR, tokens, mean)
    got = likelihood_choice(model, tokenizer, rows, NEAR, mean=mean)
    full = likelihood_choice(model, tokenizer, rows, NEAR, mean=mean, full=True, batch_tokens=60)
    assert [r.answer for r in got] == [NEAR[i] for i in want.argmax(-1).tolist()] == [r.answer for r in full]
    assert len({r.answer for r in got}) > 1
    assert [r.confidence for r in full] == pytest.approx(want.double().softmax(-1).amax(-1).tolist(), abs=1e-4)
    assert got[0].confidence is None and all(r.score == float(r.answer == r.reference) for r in got)


def test_hopeless_labels_are_not_read_to_their_end():
    model, rows = tiny.llama(seed=5), answer_rows(23)
    with torch.inference_mode():
        (part,) = _kv.read(model, [r.fields["prompt_ids"] for r in rows], room=8)
        order = part.logits[0].argsort(descending=True).tolist()
        labels = [(order[0],), (order[200], 9, 10), (order[300], 9, 10)]
        some, whole = choose_after(model, part, labels), choose_after(model, part, labels, full=True)
    assert torch.isinf(some[0]).tolist() == [False, True, True] and not torch.isinf(whole).any()
    assert torch.equal(some.argmax(-1), whole.argmax(-1))


def test_a_label_is_left_at_the_token_that_puts_it_behind(monkeypatch):
    model, prompt, ours, read = tiny.llama(seed=5), list(answer_rows(1)[0].fields["prompt_ids"]), _kv.log_probs_at, []

    def after(*more):
        return model(torch.tensor([[*prompt, *more]])).logits[0, -1].argsort(descending=True).tolist()

    def counted(model, tokens, *more):
        read.append(tuple(tokens.shape))
        return ours(model, tokens, *more)

    monkeypatch.setattr(_kv, "log_probs_at", counted)
    with torch.inference_mode():
        (part,) = _kv.read(model, [prompt, prompt], room=8)
        one, two, three = after()[:3]
        likely, worst = after(one)[0], after(two)[-1]
        labels = [(one, likely), (two, worst, 9, 10, 11), (three, after(three)[-1], 9)]
        some, full = choose_after(model, part, labels), choose_after(model, part, labels, full=True)
    assert read[:2] == [(2, 1), (4, 1)] and len(read) == 3, "the leaders, one token of the others; then all of all"
    assert torch.isinf(some).tolist() == [[False, True, True]] * 2 and torch.equal(some.argmax(-1), full.argmax(-1))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_labels_are_read_with_logits_at_their_own_places_only(name, monkeypatch):
    model, tokenizer, rows = tiny.MAKERS[name](seed=5), tiny.tokenizer(), answer_rows(9)
    tokens, at = label_tokens(tokenizer, rows, NEAR), list[int]()
    ours = _kv.head_log_probs
    monkeypatch.setattr(_kv, "head_log_probs", lambda h, *more: at.append(len(h)) or ours(h, *more))
    with torch.inference_mode():
        (part,) = _kv.read(model, [r.fields["prompt_ids"] for r in rows], room=8)
        few = choose_after(model, part, tokens, full=True)
        assert sum(at) == len(rows) * sum(len(x) - 1 for x in tokens)
        monkeypatch.setattr(_kv, "has_plain_head", lambda *_: False)
        assert torch.allclose(few, choose_after(model, part, tokens, full=True), atol=1e-5)
    brute = _brute(model, [rows[i] for i in part.indices], NEAR, tokens, False)
    assert torch.allclose(few, brute, atol=1e-4)


def test_labels_end_as_the_rows_answers_do():
    rows, tokenizer = answer_rows(), tiny.tokenizer()
    tokens = label_tokens(tokenizer, rows, [*LABELS, "new one"])
    assert all(tiny.EOS in t for t in tokens) and tokens[-1] == (*tokenizer("new one")["input_ids"], tiny.EOS)
    with pytest.raises(DataError, match="same tokens"):
        label_tokens(tokenizer, rows, ["river", "river"])


def test_one_reading_gives_both():
    model, tokenizer, rows = tiny.llama(seed=5), tiny.tokenizer(), answer_rows(23)
    answers, choices = answers_and_choices(model, tokenizer, rows, LABELS, batch_tokens=90)
    assert answers == evaluate(model, tokenizer, CAUSAL, rows, "exact_match") and choices == likelihood_choice(
        model, tokenizer, rows, LABELS
    )


def test_another_kind_of_cache_gives_the_same_choice(monkeypatch):
    model, tokenizer, rows = tiny.llama(seed=5), tiny.tokenizer(), answer_rows(9)
    want = [r.answer for r in likelihood_choice(model, tokenizer, rows, LABELS)]
    monkeypatch.setattr(_kv, "caches_plainly", lambda model: False)
    assert [r.answer for r in likelihood_choice(model, tokenizer, rows, LABELS)] == want
    assert [r.answer for r in likelihood_choice(model, tokenizer, rows, LABELS, mean=True)] != []


def test_distinct_labels_only_where_answers_are_classes():
    assert distinct_labels(answer_rows(40)) == sorted(LABELS)
    assert distinct_labels(answer_rows(4)[:2]) is None


def pair_rows(tokenizer) -> list:
    asked = [
        ("Which? card", "card to", "the river at the town who"),
        ("Which? town", "a town who is at the shop", "river"),
        ("x", "a", "who is"),
    ]
    values = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in asked * 3]
    values += [{**v, "chosen": v["rejected"], "rejected": v["chosen"]} for v in values]
    return [CAUSAL.encode(Record(v, id=f"p:{i}", source="p"), tokenizer, EncodeOptions()) for i, v in enumerate(values)]


@pytest.mark.parametrize("metric", ["pair_accuracy", "pair_accuracy_norm"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_likelier_answer_of_a_pair_is_the_brute_force_one(metric, packed):
    from tunewright.models.attention import prepare_attention

    model, tokenizer = tiny.llama(seed=5), tiny.tokenizer()
    rows = pair_rows(tokenizer)
    want = []
    for row in rows:
        said = []
        for ids in (list(row.input_ids), row.fields["rejected_ids"]):
            answer = ids[len(row.fields["prompt_ids"]) :]
            logp = (
                model(torch.tensor([ids]))
                .logits[0, -len(answer) - 1 : -1]
                .log_softmax(-1)
                .gather(-1, torch.tensor(answer)[:, None])
            )
            said.append((logp.mean() if metric.endswith("norm") else logp.sum()).item())
        want.append(float(said[0] > said[1]))
    if packed:
        assert prepare_attention(model)
    got = evaluate(model, tokenizer, CAUSAL, rows, metric, batch_tokens=70, packed=packed)
    assert [r.score for r in got] == want and [r.id for r in got] == [r.id for r in rows]
    assert want[:9] == [1 - w for w in want[9:]]  # the sides changed places
    for row, r in zip(rows, got, strict=True):
        assert r.reference == row.fields["reference"] and (r.answer == r.reference) == bool(r.score)
    assert summary(got, metric).value == 0.5 and summary(got, metric).method == "wilson"


def test_the_sum_favours_short_answers_and_the_mean_does_not():
    model, tokenizer = tiny.llama(seed=5), tiny.tokenizer()
    by_sum, by_mean = (
        [r.score for r in evaluate(model, tokenizer, CAUSAL, pair_rows(tokenizer), m)]
        for m in ("pair_accuracy", "pair_accuracy_norm")
    )
    assert by_sum[0] == 1 and by_sum[1] == 0 and by_sum != by_mean


def test_an_answer_equal_to_the_rejected_one_is_no_hit():
    tokenizer = tiny.tokenizer()
    row = CAUSAL.encode(
        Record({"prompt": "x", "chosen": "a", "rejected": "a"}, id="p:1", source="p"), tokenizer, EncodeOptions()
    )
    assert evaluate(tiny.llama(), tokenizer, CAUSAL, [row], "pair_accuracy")[0].score == 0


def test_impossible_metrics_are_refused():
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    with pytest.raises(RecipeError, match="exact_match"):
        evaluate(model, tokenizer, CAUSAL, answer_rows(2), "exactmatch")
    with pytest.raises(RecipeError, match="needs a class"):
        evaluate(model, tokenizer, CAUSAL, answer_rows(2), "accuracy")
    with pytest.raises(RecipeError, match="has one answer"):
        evaluate(model, tokenizer, CAUSAL, answer_rows(2), "pair_accuracy")
    with pytest.raises(RecipeError, match="generates none"):
        evaluate(model, tokenizer, get_task("fill-mask"), answer_rows(2), "f1")
    with pytest.raises(DataError, match="no prompt"):
        evaluate(model, tokenizer, CAUSAL, text_rows(2), "exact_match")


def test_a_loss_row_without_targets_counts_nothing():
    results = [
        RowResult(id="a", score=2.0, weight=3.0),
        RowResult(id="b", score=0.0, weight=0.0),
        RowResult(id="c", score=1.0, weight=1.0),
    ]
    assert summary(results, "loss").value == pytest.approx(7 / 4)
