"""What of config.json must agree before two models are merged: everything that is not known to decide nothing."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tunewright
from tests import tiny
from tunewright.commands.cli import app
from tunewright.errors import ModelError
from tunewright.weights import card, command, configs, stream
from tunewright.weights.engine import Engine
from tunewright.weights.mergekit_yaml import read
from tunewright.weights.opening import open_source
from tunewright.weights.request import Part, Request, Section

MAKES = {
    "llama": lambda: tiny.llama(tied=False),
    "tied llama": lambda: tiny.llama(tied=True),
    "gpt2": tiny.gpt2,
    "bert": tiny.bert_classifier,
    "vit": tiny.vit,
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each model's folder by its name."""
    folder = tmp_path_factory.mktemp("models")
    for name, make in MAKES.items():
        make().save_pretrained(folder / name)
    return {name: folder / name for name in MAKES}


def pair(folder, model, change, first=None):
    """Two copies of a model: the config of the first is changed by `first`, that of the second by `change`."""
    for name, changed in (("a", first or {}), ("b", change)):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(model, folder / name)
        file = folder / name / "config.json"
        config = json.loads(file.read_text())
        for key, value in changed.items():
            place, *inner = key.split(".")
            at, last = (config.setdefault(place, {}), inner[0]) if inner else (config, place)
            at.pop(last, None) if value is None else at.__setitem__(last, value)
        file.write_text(json.dumps(config))
    return folder


def engine(folder, **more):
    request = Request("linear", [Part(str(folder / n)) for n in "ab"], folder / "out", **more)
    return Engine(request)


DECIDES = [
    ("llama", "hidden_act", "gelu", "'gelu'"),
    ("llama", "rms_norm_eps", 1e-3, "0.001"),
    ("llama", "num_attention_heads", 2, "2"),
    ("llama", "rope_parameters.rope_theta", 500.0, "500.0"),
    ("llama", "rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}, "'linear'"),
    ("llama", "model_type", "mistral", "mistral"),
    ("llama", "attention_multiplier", 0.5, "0.5"),
    ("llama", "final_logit_softcapping", 30.0, "30.0"),
    ("llama", "some_key_of_tomorrow", 1, "1"),
    ("gpt2", "activation_function", "relu", "'relu'"),
    ("gpt2", "layer_norm_epsilon", 1e-2, "0.01"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True, "True"),
    ("bert", "hidden_act", "relu", "'relu'"),
    ("bert", "pad_token_id", 3, "3"),
    ("bert", "problem_type", "multi_label_classification", "multi_label"),
    ("vit", "image_size", 64, "64"),
    ("vit", "qkv_bias", False, "False"),
]


@pytest.mark.parametrize(("model", "key", "value", "shown"), DECIDES, ids=[f"{m} {k}" for m, k, *_ in DECIDES])
def test_what_decides_outputs_is_refused_and_can_be_allowed(model, key, value, shown, saved, tmp_path):
    folder = pair(tmp_path, saved[model], {key: value})
    with pytest.raises(ModelError) as caught:
        engine(folder)
    last = key.rpartition(".")[2]
    assert shown in str(caught.value) and (last in str(caught.value) or key == "model_type")
    assert str(folder / "a") in str(caught.value) and "allow_crimes: true" in caught.value.remedy
    notes = engine(folder, allow_crimes=True).notes
    if key != "model_type":
        assert any(last in n and shown in n and f"has that of '{folder / 'a'}'" in n for n in notes)


DECIDES_NOTHING = [
    ("llama", {"torch_dtype": "float16", "transformers_version": "4.9", "_name_or_path": "x/y", "use_cache": False}),
    ("llama", {"bos_token_id": 5, "eos_token_id": [3, 7], "pad_token_id": 0, "temperature": 0.2, "do_sample": True}),
    ("llama", {"attention_dropout": 0.5, "initializer_range": 1.0, "id2label": {"0": "x"}, "pretraining_tp": 2}),
    ("llama", {"max_position_embeddings": 4096}),
    ("llama", {"hidden_act": None}),  # left out: the class says silu
    ("llama", {"head_dim": None}),  # left out: worked out
    ("llama", {"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": None}),  # as older versions write it
    ("gpt2", {"resid_pdrop": 0.5, "embd_pdrop": 0.0, "layer_norm_epsilon": None, "n_ctx": 64}),
    ("bert", {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.9}),
    ("bert", {"id2label": None, "label2id": None}),
    ("vit", {"hidden_dropout_prob": 0.3, "initializer_range": 0.5}),
]


@pytest.mark.parametrize(("model", "change"), DECIDES_NOTHING, ids=[f"{m} {' '.join(c)}" for m, c in DECIDES_NOTHING])
def test_what_decides_nothing_is_passed_over(model, change, saved, tmp_path):
    folder = pair(tmp_path, saved[model], change)
    assert configs.check([open_source(str(folder / n)) for n in "ab"], allow=False, sliced=False) == []


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30, deadline=None
)
@given(st.sampled_from(sorted(MAKES)), st.data())
def test_every_key_of_a_config_counts_unless_it_is_listed(saved, tmp_path, model, data):
    """Whatever key of whatever model is changed: it is named, or it is one of those that decide nothing."""
    config = json.loads((saved[model] / "config.json").read_text())
    key = data.draw(st.sampled_from(sorted(config.keys() - {"architectures", "model_type"})))
    old = config[key]
    value = {bool: lambda: not old, int: lambda: old + 1, float: lambda: old * 2 + 1}.get(type(old), lambda: "other")()
    folder = pair(tmp_path, saved[model], {key: value})
    a, b = (open_source(str(folder / n)) for n in "ab")
    passed = configs._passed_over(a, b, False)
    told = configs.differing(a, b)
    dropped = configs._DROPPED.search(key)
    assert (any(k.partition(".")[0] == key for k in told) or bool(told)) != bool(key in passed or dropped)


def test_lengths_count_where_the_scaling_of_positions_asks_for_them(saved, tmp_path):
    yarn = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    folder = pair(
        tmp_path, saved["llama"], {"rope_parameters": yarn, "max_position_embeddings": 4096}, {"rope_parameters": yarn}
    )
    with pytest.raises(ModelError, match="max_position_embeddings is 4096"):
        engine(folder)


def test_labels_of_classifiers_must_agree_and_placeholders_are_said(saved, tmp_path):
    names = {"0": "no", "1": "yes", "2": "perhaps"}
    first = {"id2label": names, "label2id": {v: int(k) for k, v in names.items()}}
    other = {"id2label": {"0": "yes", "1": "no", "2": "perhaps"}, "label2id": {"yes": 0, "no": 1, "perhaps": 2}}
    with pytest.raises(ModelError, match=r"id2label.0 is 'yes', in '.*a' 'no'"):
        engine(pair(tmp_path, saved["bert"], other, first))
    bare = {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}, "label2id": {f"LABEL_{i}": i for i in range(3)}}
    for change, given_first in ((bare, first), (first, bare)):
        notes = engine(pair(tmp_path, saved["bert"], change, given_first)).notes
        unnamed = tmp_path / ("b" if change is bare else "a")
        assert any(f"'{unnamed}' does not name its labels" in n for n in notes)
    assert not any("name its labels" in n for n in engine(pair(tmp_path, saved["bert"], first, first)).notes)


def test_tied_heads_are_compared_by_value_instead(saved, tmp_path):
    """A config that ties and one that does not: the heads' values decide, and the result says so."""
    folder = pair(tmp_path, saved["llama"], {"tie_word_embeddings": True})
    own = load_file(folder / "b" / "model.safetensors")
    save_file(own | {"lm_head.weight": own["model.embed_tokens.weight"].clone()}, folder / "b" / "model.safetensors")
    made = engine(folder)
    assert "lm_head.weight" in made.entries and made.config["tie_word_embeddings"] is False
    folder = pair(tmp_path, saved["tied llama"], {"tie_word_embeddings": False})  # whose head is nowhere
    with pytest.raises(ModelError, match="tie_word_embeddings"):
        engine(folder)


def test_slices_may_be_of_models_of_other_depths_but_not_of_other_activations(saved, tmp_path):
    def sliced(**more):
        sections = [Section([Part(str(folder / n), {}, (0, 1))]) for n in "ab"]
        parts = [Part(str(folder / n)) for n in "ab"]
        return Engine(Request("passthrough", parts, folder / "out", sections=sections, mergekit=True, **more))

    change = {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    folder = pair(tmp_path, saved["llama"], change, {"layer_types": ["full_attention"] * 2})
    assert sliced().config["num_hidden_layers"] == 2
    folder = pair(tmp_path, saved["llama"], {**change, "hidden_act": "gelu"})
    with pytest.raises(ModelError, match="hidden_act is 'gelu'"):
        sliced()


def test_a_model_type_that_transformers_does_not_know_is_compared_as_written(saved, tmp_path):
    own = {"model_type": "ours"}
    folder = pair(tmp_path, saved["llama"], {**own, "hidden_act": None}, own)
    a, b = (open_source(str(folder / n)) for n in "ab")
    assert configs.differing(a, b) == {"hidden_act": ("silu", configs.MISSING)}


def test_crimes_are_allowed_by_the_file_by_python_and_by_the_flag(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "merge", partial(stream.merge, forward=False))
    folder = pair(tmp_path, saved["llama"], {"hidden_act": "gelu"})
    models = [str(folder / n) for n in "ab"]
    text = {"merge_method": "linear", "models": [{"model": m} for m in models], "parameters": {"weight": 0.5}}
    file = folder / "merge.yaml"
    for allowed in (False, True):
        file.write_text(yaml.safe_dump({**text, "allow_crimes": allowed}))
        asked = read(file, folder / "out")
        assert asked.allow_crimes is allowed and card.recipe_of(asked).get("allow_crimes", False) is allowed
    file.write_text(yaml.safe_dump(text))

    def by_flag(out, *given):
        return CliRunner().invoke(app, ["merge", *given, "--out", str(folder / out)])

    by_python = partial(tunewright.merge, models, method="linear", out=folder / "python")
    with pytest.raises(ModelError, match="hidden_act"):
        by_python()
    notes = by_python(allow_crimes=True).notes
    for words in ([*models, "--method", "linear"], [str(file)]):
        refused = by_flag("flag", *words)
        assert refused.exit_code != 0 and not (folder / "flag").exists()
    for out, words in (("flag", [*models, "--method", "linear"]), ("file", [str(file)])):
        assert by_flag(out, *words, "--allow-crimes").exit_code == 0
    for out in ("python", "flag", "file"):
        assert json.loads((folder / out / "config.json").read_text())["hidden_act"] == "silu"
        assert "hidden_act is 'gelu'" in (folder / out / "README.md").read_text()
    assert any("hidden_act is 'gelu'" in n for n in notes)
