"""The toxicity filter: probabilities against transformers' own, words as whole words, what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from tests import tiny
from tests.small import write_inputs, write_recipe
from tunewright.catalogue import build
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select import toxicity
from tunewright.data.select.toxicity import Classifier, Toxicity, found_in, listed
from tunewright.errors import DataError, ModelError, RecipeError
from tunewright.planning.check import check_recipe
from tunewright.recipe import MethodUse
from tunewright.runs.run import run

TEXTS = ["The card was declined", "the river rose and the water fell " * 90, "", "In 1999", "a town", "half \ud800"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    def made(**changes):
        model = tiny.bert_classifier(labels=3)
        model.config.id2label = {0: "fine", 1: "Toxic", 2: "rude"}
        model.config.label2id = {n: i for i, n in model.config.id2label.items()}
        for name, value in changes.items():
            setattr(model.config, name, value)
        model.save_pretrained(tmp_path / "judge")
        tiny.tokenizer(encoder=True, chat=False).save_pretrained(tmp_path / "judge")
        return tmp_path / "judge"

    return made


def judged(method, *texts):
    rows = [Record({"text": t}, id=f"r:{i}") for i, t in enumerate(texts)]
    return call(method, "select", records=rows)


def own(texts, kind):
    """transformers' probability of the second label, of one text at a time."""
    tokenizer, model = tiny.tokenizer(encoder=True, chat=False), tiny.bert_classifier(labels=3).eval()
    out = []
    for text in texts:
        given = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[0]
        out.append(float(logits.sigmoid()[1] if kind == "sigmoid" else logits.softmax(-1)[1]))
    return out


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_are_transformers_own_and_rows_above_the_bound_go(folder, kind):
    place = folder(**({"problem_type": "multi_label_classification"} if kind == "sigmoid" else {}))
    expected = own([*TEXTS[:2], *TEXTS[3:5]], kind)
    most = sorted(expected)[1]
    found = judged(Toxicity(model=str(place), label="toxic", most=most + 1e-4), *TEXTS)
    scores = list(found.scores["probability"])
    assert [*scores[:2], *scores[3:5]] == pytest.approx(expected, abs=1e-5) and scores[2] == 0
    assert [bool(r) for r in found.reasons] == [s > most + 1e-4 for s in scores]
    assert {r for r in found.reasons if r} == {f"toxic above {most + 1e-4:g}"} and 2 in found.indices
    other = judged(Toxicity(model=str(place), label="rude", most=1), *TEXTS)
    assert list(other.scores["probability"]) != scores and len(other.indices) == 6


def test_scores_are_read_once_for_the_same_weights_label_and_texts(folder, monkeypatch):
    place, reads = folder(), []
    whole = Classifier._read
    monkeypatch.setattr(Classifier, "_read", lambda self, texts: reads.append(len(texts)) or whole(self, texts))
    first = judged(Toxicity(model=str(place)), *TEXTS).scores
    assert judged(Toxicity(model=str(place), most=0.9), *TEXTS).scores == first and reads == [6]
    judged(Toxicity(model=str(place), label="rude"), *TEXTS)
    judged(Toxicity(model=str(place)), *TEXTS[:5])
    assert reads == [6, 6, 5]


def test_a_score_that_is_no_number_names_the_row(folder, monkeypatch):
    monkeypatch.setattr(Classifier, "_read", lambda self, texts: [0.1, float("nan")])
    with pytest.raises(DataError, match="r:1: the classifier gives nan"):
        judged(Toxicity(model=str(folder())), "a", "b")


def test_listed_words_are_whole_words_in_any_case():
    texts = ["Darn it", "darning", "a DARN, darn day", "what the heck is", "the, heck", "heck the"]
    wanted = listed(["darn", "The heck"])
    assert found_in(texts, wanted).tolist() == [1, 0, 2, 1, 1, 0]
    found = judged(Toxicity(words=["darn", "The heck"]), *texts)
    assert list(found.indices) == [1, 5] and list(found.scores["words"]) == [1, 0, 2, 1, 1, 0]
    assert set(found.scores) == {"words"} and found.reasons[0] == "holds a listed word"


def test_a_list_may_lie_in_a_file(tmp_path):
    (tmp_path / "list.txt").write_text("the heck\n\n darn \n", encoding="utf-8")
    found = judged(Toxicity(words="hell", file=str(tmp_path / "list.txt")), "the heck", "heck", "darn", "hell")
    assert list(found.indices) == [1]


def test_a_listed_word_is_the_reason_before_the_classifier(folder):
    found = judged(Toxicity(model=str(folder()), words=["card"], most=0), *TEXTS[:2])
    assert found.reasons == ["holds a listed word", "toxic above 0"] and set(found.scores) == {"words", "probability"}


def test_what_cannot_be_read_is_one_message(folder, tmp_path):
    with pytest.raises(RecipeError, match="write model: FOLDER"):
        build(MethodUse(name="toxicity"))
    with pytest.raises(ModelError, match="no model in this folder"):
        judged(Toxicity(model=str(tmp_path / "none")), "a")
    with pytest.raises(RecipeError, match="no label 'toxi'.*\n?.*toxic"):
        judged(Toxicity(model=str(folder()), label="toxi"), "a")
    with pytest.raises(RecipeError, match="holds no word"):
        judged(Toxicity(words=["..."]), "a")
    with pytest.raises(RecipeError, match="the list cannot be read"):
        judged(Toxicity(file=str(tmp_path / "none.txt")), "a")
    place = folder()
    torch.save({}, place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickle"):
        judged(Toxicity(model=str(place)), "a")


def test_a_model_without_its_head_is_refused(tmp_path):
    tiny.bert().save_pretrained(tmp_path / "masked")
    tiny.tokenizer(encoder=True).save_pretrained(tmp_path / "masked")
    with pytest.raises(ModelError, match="classifier.* is not among its weights"):
        judged(Toxicity(model=str(tmp_path / "masked"), label="label_1"), "a")
    (tmp_path / "masked" / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(ModelError, match="cannot be read as a text classifier"):
        judged(Toxicity(model=str(tmp_path / "masked")), "a")


def test_a_model_that_knows_no_padding_reads_rows_one_by_one(folder):
    padded = list(judged(Toxicity(model=str(folder())), *TEXTS[:5]).scores["probability"])
    place = folder(pad_token_id=None)
    assert Classifier(place, "toxic").batch == 1
    alone = list(judged(Toxicity(model=str(place)), *TEXTS[:5]).scores["probability"])
    assert alone == pytest.approx(padded, abs=1e-5)


def test_rows_are_read_side_by_side_in_any_number(folder, monkeypatch):
    place = folder()
    whole = Classifier(place, "toxic")._read(TEXTS)
    monkeypatch.setattr(toxicity, "BATCH", 2)
    assert Classifier(place, "toxic")._read(TEXTS) == pytest.approx(whole, abs=1e-5)


def test_a_check_asks_no_classifier_and_says_what_a_run_will_have_it_read(folder, tmp_path, monkeypatch, capsys):
    place = folder()
    write_inputs(tmp_path, train=6, test=3)
    asked = []
    monkeypatch.setattr(Classifier, "_read", lambda self, texts: asked.append(len(texts)) or [0.1] * len(texts))
    uses = [{"toxicity": {"model": str(place)}}]
    found = check_recipe(write_recipe(tmp_path, "toxic", data__select=uses))
    assert found.ok and not asked
    assert "toxicity will choose among 6 rows when it begins, reading their" in found.report.announced[0]
    assert f"tokens with {place}" in found.to_json()["announced"][0] and "will choose among 6 rows" in str(found)
    run(write_recipe(tmp_path, "toxic", data__select=uses), tmp_path / "out", quiet=True)
    assert asked == [6]
    wrong = [{"toxicity": {"model": str(place), "label": "toxix"}}]
    (told,) = check_recipe(write_recipe(tmp_path, "wrong", data__select=wrong)).report.errors
    assert "the model has no label 'toxix'" in str(told)
