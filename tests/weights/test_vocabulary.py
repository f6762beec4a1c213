"""Models of several vocabularies: the result's rows, token by token, its tokenizer, config and chat template."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests import tiny
from tunewright.errors import ModelError, RecipeError
from tunewright.weights.chat_templates import NAMED, template_in
from tunewright.weights.mergekit_yaml import read
from tunewright.weights.stream import merge

EMBED = "model.embed_tokens.weight"
ADDED = {"base": ["<b>"], "m1": ["<one>", "<both>"], "m2": ["<both>", "<two>", "<b>"]}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def models(tmp_path):
    for seed, (name, added) in enumerate(ADDED.items()):
        tokenizer = tiny.tokenizer()
        tokenizer.add_tokens(added)
        if name != "base":
            tokenizer.chat_template = "{{ 'tuned' }}"
        tiny.llama(seed=seed, tied=False, vocabulary=len(tokenizer)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


def asked(folder, **more):
    tree = {"merge_method": "linear", "base_model": "base", "models": ["base", "m1", "m2"], "parameters": {"weight": 1}}
    tree = {k: v for k, v in {**tree, **more}.items() if v is not None}
    (folder / "merge.yml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return read(folder / "merge.yml", folder / "out")


def made(folder, **more):
    """(the result's rows, the models' rows), by token."""
    merge(asked(folder, **more), forward=False)
    return rows(folder / "out"), {n: rows(folder / n) for n in ADDED}


def rows(folder, name=EMBED):
    tensor = load_file(folder / "model.safetensors")[name]
    return {t: tensor[i] for t, i in AutoTokenizer.from_pretrained(folder).get_vocab().items()}


def mean(*vectors):
    return torch.stack(vectors).mean(0)


def test_a_union_has_every_token_and_rows_come_from_those_who_have_them(models):
    got, own = made(models, tokenizer={"source": "union"})
    common = set(own["base"]) & set(own["m1"]) & set(own["m2"])
    assert set(got) == set(own["base"]) | set(own["m1"]) | set(own["m2"])
    assert all(torch.allclose(got[t], mean(*(own[n][t] for n in ADDED)), atol=1e-6) for t in common)
    assert torch.allclose(got["<one>"], own["m1"]["<one>"], atol=1e-6), "of the only model that has it"
    assert torch.allclose(got["<b>"], mean(own["base"]["<b>"], own["base"]["<b>"], own["m2"]["<b>"]), atol=1e-6)
    both = mean(own["m1"]["<both>"], own["m2"]["<both>"])
    assert torch.allclose(got["<both>"], both, atol=1e-6), "the base takes the mean of those who have it"
    config = json.loads((models / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(got) == len(load_file(models / "out" / "model.safetensors")[EMBED])
    head = rows(models / "out", "lm_head.weight")
    assert torch.allclose(head["<one>"], rows(models / "m1", "lm_head.weight")["<one>"], atol=1e-6)


def test_without_a_base_nobody_stands_for_the_others(models):
    got, own = made(models, models=["m1", "m2"], base_model=None, tokenizer_source="union")
    assert torch.allclose(got["<b>"], own["m2"]["<b>"], atol=1e-6) and "<one>" in got


def test_the_tokenizer_of_the_base_or_of_a_model(models):
    got, own = made(models, tokenizer_source="base")
    assert set(got) == set(own["base"]) and torch.allclose(
        got["<b>"], mean(own["base"]["<b>"], own["base"]["<b>"], own["m2"]["<b>"]), atol=1e-6
    )
    (models / "out").rename(models / "first")
    got, own = made(models, tokenizer={"source": "m2"})
    assert set(got) == set(own["m2"]) and "<one>" not in got
    assert torch.allclose(got["<two>"], own["m2"]["<two>"], atol=1e-6)


def test_rows_are_chosen_by_token(models):
    tokens = {
        "<both>": {"source": "m2"},
        "<two>": {"source": {"kind": "zero"}},
        "<b>": {"source": {"kind": "model_token", "model": "m1", "token": "<one>"}, "force": True},
        "<new>": {"source": {"kind": "model_token", "model": "m1", "token_id": 5}},
        "<as others>": None,
    }
    got, own = made(models, tokenizer={"source": "union", "tokens": tokens, "pad_to_multiple_of": 32})
    third = torch.zeros_like(own["m2"]["<two>"])
    assert torch.allclose(got["<both>"], mean(own["m2"]["<both>"], own["m1"]["<both>"], own["m2"]["<both>"]), atol=1e-6)
    assert torch.allclose(got["<two>"], mean(third, third, own["m2"]["<two>"]), atol=1e-6), "not forced on its owner"
    assert torch.allclose(got["<b>"], own["m1"]["<one>"], atol=1e-6), "forced on those who know it"
    fifth = load_file(models / "m1" / "model.safetensors")[EMBED][5]
    assert torch.allclose(got["<new>"], fifth, atol=1e-6)
    assert not got["<as others>"].any(), "nobody knows it"
    whole = load_file(models / "out" / "model.safetensors")[EMBED]
    assert len(whole) % 32 == 0 and len(whole) > len(got)
    assert torch.allclose(whole[-1], torch.stack(list(got.values())).mean(0), atol=1e-6)


def test_special_tokens_keep_their_meaning_under_another_models_ids(models):
    """A config that names tokens by id follows them to their new ids."""
    file = models / "m2" / "tokenizer.json"
    tree = json.loads(file.read_text())
    vocabulary = tree["model"]["vocab"]
    special = {t["content"] for t in tree["added_tokens"]}
    plain = [t for t in vocabulary if t not in special][:2]
    vocabulary[plain[0]], vocabulary[plain[1]] = vocabulary[plain[1]], vocabulary[plain[0]]
    file.write_text(json.dumps(tree))
    before = AutoTokenizer.from_pretrained(models / "base").get_vocab()
    for name in ADDED:
        config = json.loads((models / name / "config.json").read_text())
        own = AutoTokenizer.from_pretrained(models / name).get_vocab()
        (models / name / "config.json").write_text(
            json.dumps(config | {"eos_token_id": [own[plain[0]]], "pad_token_id": own[plain[1]]})
        )
    got, own = made(models, tokenizer_source="m2")
    after = AutoTokenizer.from_pretrained(models / "out").get_vocab()
    config = json.loads((models / "out" / "config.json").read_text())
    assert (
        config["eos_token_id"] == [after[plain[0]]] != [before[plain[0]]] and config["pad_token_id"] == after[plain[1]]
    )
    assert torch.allclose(got[plain[0]], mean(*(own[n][plain[0]] for n in ADDED)), atol=1e-6)


@pytest.mark.slow
def test_the_result_runs(models):
    done = merge(asked(models, tokenizer={"source": "union"}, chat_template="chatml"))
    assert done.forward_seconds and template_in(models / "out") == NAMED["chatml"]


def test_chat_templates(models):
    base = template_in(models / "base")
    for asked_for, wanted in (("auto", "{{ 'tuned' }}"), ("{{ messages }}", "{{ messages }}"), (None, base)):
        merge(asked(models, tokenizer={"source": "union"}, chat_template=asked_for), forward=False)
        assert template_in(models / "out") == wanted
        (models / "out").rename(models / f"was {wanted[:8]}")


def test_a_template_for_models_of_one_vocabulary(models):
    merge(asked(models, models=["m1"], base_model=None, chat_template="llama3"), forward=False)
    assert template_in(models / "out") == NAMED["llama3"]
    assert AutoTokenizer.from_pretrained(models / "out").chat_template == NAMED["llama3"]
    assert template_in(models / "m1") == "{{ 'tuned' }}", "the inputs stay"


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({"<b>": {"source": {"kind": "model_token", "model": "m1", "token": "<oen>"}}}, "has no token '<oen>'"),
        ({"<b>": {"source": {"kind": "model_token", "model": "m1", "token_id": 10**6}}}, "has no row 1000000"),
        ({"<one>": {"source": "m2"}}, "has no token '<one>'"),
        ({"<one>": {"source": "m3"}}, "none of the models"),
    ],
)
def test_rows_that_are_not_there(models, tokens, words):
    with pytest.raises(RecipeError, match=words) as e:
        merge(asked(models, tokenizer={"source": "union", "tokens": tokens}), forward=False)
    assert "tokens: <" in str(e.value)


def test_without_one_tokenizer_vocabularies_must_agree_and_the_message_says_what_to_write(models):
    with pytest.raises(ModelError, match="ids mean other tokens|other ids"):
        merge(asked(models), forward=False)
    (models / "m1" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="its tokenizer cannot be read"):
        merge(asked(models, tokenizer_source="base"), forward=False)
