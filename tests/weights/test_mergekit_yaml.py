"""mergekit's files: slices, modules, several merges in a file, what is idle in them, how what is wrong is said."""

from __future__ import annotations

import json
import shutil
from functools import partial
from unittest.mock import patch

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from tests import tiny
from tunewright.catalogue import load_method
from tunewright.errors import MethodError, RecipeError, TunewrightError
from tunewright.weights import command, several, stream
from tunewright.weights.mergekit_parts import KNOWN, TAKES
from tunewright.weights.mergekit_yaml import read
from tunewright.weights.parameters import written
from tunewright.weights.settings import Depths
from tunewright.weights.stream import merge


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """a and b of three layers, d of two."""
    folder = tmp_path_factory.mktemp("two")
    for name, seed, layers in (("a", 0, 3), ("b", 1, 3), ("d", 2, 2)):
        tiny.llama(seed=seed, layers=layers).save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


def asked(folder, slices=None, out=None, **more):
    file = folder / "merge.yml"
    tree = {"merge_method": "slerp", "base_model": "a", "parameters": {"t": 0.25}, "slices": slices, **more}
    file.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}, sort_keys=False))
    return read(file, out or folder / "out")


def tensors(folder):
    return {n: t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


def made(folder, out, **more):
    """The result's tensors and config."""
    merge(asked(folder, out=out, **{"base_model": None, "parameters": None, **more}), forward=False)
    return tensors(out), json.loads((out / "config.json").read_text())


def sources(*names, layers=(0, 3), **more):
    return [{"sources": [{"model": n, "layer_range": list(layers)} for n in names], **more}]


def test_a_slice_of_all_layers_is_the_merge_of_the_models(two):
    plain = asked(two, models=[{"model": "a"}, {"model": "b"}])
    assert asked(two, sources("a", "b")) == plain
    assert asked(two, [{"sources": [{"model": "a"}, {"model": "b"}]}]) == plain
    t = [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]
    assert asked(two, sources("a", "b", parameters={"t": t})).parameters == {"t": t} != plain.parameters
    weighed = asked(
        two, [{"sources": [{"model": "a", "parameters": {"weight": 0.3}}, {"model": "b"}]}], merge_method="linear"
    )
    assert [p.parameters for p in weighed.models] == [{"weight": 0.3}, {}]


def test_slices_are_stacked_and_the_config_counts_them(two, tmp_path):
    scaled = sources("a", layers=(1, 3), parameters={"scale": [{"filter": "o_proj", "value": 0}, {"value": 1}]})
    slices = [*sources("d", layers=(0, 1)), *scaled, *sources("b", layers=(2, 3))]
    got, config = made(two, tmp_path / "o", slices=slices, merge_method="passthrough")
    a, b, d = (load_file(two / n / "model.safetensors") for n in "abd")
    assert config["num_hidden_layers"] == 4
    wanted = {n: t for n, t in d.items() if ".layers." not in n and "norm" not in n and "head" not in n}
    wanted |= {n: t for n, t in b.items() if n in ("model.norm.weight", "lm_head.weight")}
    for to, (model, layer) in enumerate(((d, 0), (a, 1), (a, 2), (b, 2))):
        for n, t in model.items():
            if n.startswith(f"model.layers.{layer}."):
                gone = model is a and "o_proj" in n
                wanted[n.replace(f".{layer}.", f".{to}.", 1)] = 0 * t if gone else t
    assert got.keys() == wanted.keys() and all(torch.equal(t, wanted[n]) for n, t in got.items())


@pytest.mark.slow
def test_a_stacked_model_runs_and_its_card_makes_it_again(two, tmp_path):
    slices = [*sources("a", layers=(0, 2)), *sources("b", layers=(1, 3))]
    done = merge(asked(two, slices, tmp_path / "o", merge_method="passthrough", base_model=None, parameters=None))
    assert done.forward_seconds is not None
    again = (tmp_path / "o" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "again.yml").write_text(again)
    merge(read(tmp_path / "again.yml", tmp_path / "o2"), forward=False)
    first, second = tensors(tmp_path / "o"), tensors(tmp_path / "o2")
    assert first.keys() == second.keys() and all(torch.equal(t, second[n]) for n, t in first.items())


def test_slices_of_several_models_have_gradients_and_parameters_of_their_own(two, tmp_path):
    """What a slice says stands before what the file says; where its filters fit nothing, the file's are tried."""
    slices = [
        *sources("a", "b", layers=(0, 2), parameters={"t": [{"filter": "mlp", "value": [0, 1]}]}),
        *sources("a", "b", layers=(2, 3)),
    ]
    more = {"base_model": "a", "parameters": {"t": [{"filter": "self_attn", "value": 1}, {"value": [0.0, 0.25]}]}}
    got, config = made(two, tmp_path / "o", slices=slices, merge_method="slerp", **more)
    a, b = (load_file(two / n / "model.safetensors") for n in "ab")
    assert config["num_hidden_layers"] == 3
    for part, name in (("self_attn.q_proj", b), ("mlp.up_proj", None)):
        n = f"model.layers.1.{part}.weight"
        assert torch.allclose(got[n], (name or b)[n], atol=1e-6)
    assert torch.allclose(got["model.layers.0.mlp.up_proj.weight"], a["model.layers.0.mlp.up_proj.weight"], atol=1e-6)
    norm = "model.layers.{}.input_layernorm.weight"
    near = [float((got[norm.format(i)] - a[norm.format(i)]).abs().max()) for i in range(3)]
    assert near[0] < 1e-6, "the gradient begins anew in every slice, at t = 0"
    norm = "model.norm.weight"
    assert torch.allclose(got[norm], a[norm], atol=1e-6), "behind the layers a gradient is at its start"


def test_modules_are_merged_by_their_own_models(tmp_path):
    for i, name in enumerate("ab"):
        torch.manual_seed(i)
        sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / name)
    modules = {
        "encoder": {"models": [{"model": "a"}]},
        "decoder": {
            "slices": [*sources("b", layers=(0, 1)), *sources("b", layers=(0, 1)), *sources("a", layers=(1, 2))]
        },
        "shared": {"models": [{"model": "b"}], "parameters": {"scale": 2.0}},
    }
    got, config = made(tmp_path, tmp_path / "o", modules=modules, merge_method="passthrough")
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
    assert (config["num_layers"], config["num_decoder_layers"]) == (2, 3)
    assert torch.equal(got["shared.weight"], 2 * b["shared.weight"])
    assert all(torch.equal(t, a[n]) for n, t in got.items() if n.startswith("encoder."))
    for to, (model, layer) in enumerate(((b, 0), (b, 0), (a, 1))):
        own = {n: t for n, t in model.items() if n.startswith(f"decoder.block.{layer}.")}
        assert own and all(torch.equal(got[n.replace(f".{layer}.", f".{to}.", 1)], t) for n, t in own.items())
    del modules["shared"]
    with pytest.raises(RecipeError, match=r"1 tensors belong to none of the modules: shared.weight"):
        made(tmp_path, tmp_path / "o2", modules=modules, merge_method="passthrough")


def test_a_base_that_is_not_among_the_models_is_one_of_them_as_in_mergekit(two, tmp_path):
    more = {"models": [{"model": "b"}], "merge_method": "slerp", "base_model": "a", "parameters": {"t": 0.0}}
    got, _ = made(two, tmp_path / "o", **more)
    a = load_file(two / "a" / "model.safetensors")
    assert all(torch.allclose(t, a[n], atol=1e-6) for n, t in got.items())


def test_gradients_lie_where_mergekit_lays_them():
    """In its files: at their start outside layers, at their end in a layer that is alone. Else behind layers too."""
    found = ["model.embed_tokens.weight", "model.layers.0.x", "model.layers.2.x", "alone.0.x", "model.norm.weight"]
    assert [Depths(found, mergekit=True).place(n) for n in found] == [0, 0, 1, 1, 0]
    assert [Depths(found).place(n) for n in found] == [0, 0, 1, 0, 1]


def test_what_changes_nothing_is_said(two, tmp_path):
    more = {"models": ["a", "b"], "base_model": "d", "merge_method": "task_arithmetic"}
    more["parameters"] = {"int8_mask": True, "density": 0.3, "weight": 1.0}
    assert asked(two, **more).notes == (
        "'int8_mask' of 'task-arithmetic' was read and changes nothing",
        "'density' of 'task-arithmetic' was read and changes nothing",
    )
    assert asked(two, **{**more, "merge_method": "ties"}).parameters == {"density": 0.3, "weight": 1.0}


def test_parameters_that_mergekit_takes_for_other_methods_are_said(two):
    """Files of the hub hold them: a weight for sce, a density for linear, a model's own share where there is one."""
    more = {"base_model": "d", "merge_method": "sce", "parameters": {"normalize": True, "select_topk": 0.5}}
    models = [{"model": "a", "parameters": {"weight": 0.3, "select_topk": 0.7}}, {"model": "b"}]
    request = asked(two, models=models, **more)
    assert request.notes == (
        "'weight' of 'sce' was read and changes nothing",
        "a model's own 'select_topk' of 'sce' was read and changes nothing",
        "'normalize' of 'sce' was read and changes nothing",
    )
    assert request.parameters == {"select_topk": 0.5} and not any(p.parameters for p in request.models)
    with pytest.raises(RecipeError, match="'sce' has no parameter 'select_top'"):
        merge(asked(two, models=models, **{**more, "parameters": {"select_top": 0.5}}), forward=False)
    with pytest.raises(RecipeError, match="no parameter 'density'"):
        command.run(
            [str(two / n) for n in "ab"],
            ["--density", "0.5"],
            two / "o",
            method="linear",
            base=None,
            dtype=None,
            kind="model",
            shard_size="5GB",
            threads=1,
            seed=0,
            then=(),
            data=(),
            task="",
            allow_crimes=False,
        )


def test_what_mergekits_methods_take_is_what_ours_do():
    for method, (shared, own) in TAKES.items():
        fields = load_method(method)
        assert {*shared, *own} <= written(fields).keys(), method
        assert {n for n, field in written(fields).items() if field in fields.per_model} >= set(own), method
        idle = KNOWN - {*shared, *own, *IDLE_HERE.get(method, ())}
        assert not idle & written(fields).keys(), f"a parameter of ours is passed over: {method}"
    takes = {m: {*s, *o} | {"int8_mask"} for m, (s, o) in TAKES.items()}
    for method, (shared, own, _) in MERGEKIT.items():
        assert {*shared, *own} <= takes[method] | set(IDLE_HERE.get(method, ())), method


IDLE_HERE = {"task_arithmetic": ("density", "rescale")}
"""Taken by mergekit's method and of no effect in it."""


def test_keys_that_hold_anchors_and_merge_keys(two):
    file = two / "anchors.yml"
    file.write_text(
        """
x-models: &all {parameters: &half {density: 0.5, weight: 0.3}}
.base: &base a
_unused: 3
merge_method: ties
base_model: *base
models:
- {model: a}
- model: b
  <<: *all
- model: e
  parameters:
    <<: *half
    weight: 1.0
"""
    )
    request = read(file, two / "out")
    assert [dict(p.parameters) for p in request.models] == [
        {},
        {"density": 0.5, "weight": 0.3},
        {"density": 0.5, "weight": 1.0},
    ]
    file.write_text(file.read_text() + "  model: d\n")
    with pytest.raises(RecipeError, match="not valid YAML|written twice") as caught:
        read(file, two / "out")
    assert "anchors.yml:" in caught.value.where


SEVERAL = """
merge_method: task_arithmetic
base_model: a
models: [{model: second, parameters: {weight: 0.5}}]
---
name: first
merge_method: linear
models: [a, b]
---
name: second
merge_method: slerp
base_model: first
parameters: {t: 0.5}
models: [first, b]
"""


def test_several_merges_in_a_file_run_in_the_order_of_their_needs(two, tmp_path):
    file, more = (
        two / "several.yml",
        {"shard_size": "5GB", "seed": 0, "threads": 1, "data": (), "task": "", "then": (), "allow_crimes": False},
    )
    file.write_text(SEVERAL)

    def run(out):
        with patch.object(command, "merge", partial(stream.merge, forward=False)) as merged:
            done = command.run([str(file)], (), out, method=None, base=None, dtype=None, kind="model", **more)
        return done, merged

    done, _ = run(tmp_path / "o")
    a, b = (load_file(two / n / "model.safetensors") for n in "ab")
    steps = tmp_path / "o.steps"
    first, second = tensors(steps / "first"), tensors(steps / "second")
    n = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(first[n], (a[n] + b[n]) / 2) and not torch.equal(second[n], b[n])
    assert torch.allclose(tensors(tmp_path / "o")[n], a[n] + 0.5 * (second[n] - a[n]), atol=1e-6)
    assert [str(steps / s) in note for s, note in zip(("first", "second"), done.notes, strict=True)] == [True, True]
    before = {f: f.stat().st_mtime_ns for f in steps.rglob("*.safetensors")}
    (tmp_path / "o").rename(tmp_path / "moved")
    done, _ = run(tmp_path / "o")
    assert all("from an earlier try" in note for note in done.notes)
    assert before == {f: f.stat().st_mtime_ns for f in steps.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SEVERAL.replace("name: second", "name: first"), "two merges are named 'first'"),
        (SEVERAL.replace("name: first", "name: ../first"), "no name of a merge"),
        (SEVERAL.replace("name: first\n", ""), "two merges have no name"),
        (SEVERAL.replace("models: [a, b]", "models: [second, b]"), "need each other: 'first', 'second'"),
        (SEVERAL.replace("models: [a, b]", "models: [first, b]"), "'first' names itself"),
        (SEVERAL.replace("linear", "liner"), "no merge is named 'liner'"),
        (SEVERAL + "---\n- 3\n", "a merge is a mapping"),
        (SEVERAL + "---\nmodels: [a", "not valid YAML"),
    ],
)
def test_files_of_several_merges_that_cannot_be_run(two, tmp_path, text, words):
    file = two / "several.yml"
    file.write_text(text)
    with pytest.raises(TunewrightError, match=words) as e:
        several.merge_all(file, tmp_path / "o", partial(merge, forward=False))
    assert "several.yml" in str(e.value) and not (tmp_path / "o").exists()


T0 = {"merge_method": "passthrough", "base_model": None, "parameters": None}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({**T0, "slices": sources("a", layers=(0, 4))}, r"takes layers \[0, 4\] of .*a', which has 3"),
        ({**T0, "slices": sources("a", layers=(2, 2))}, r"layer_range \[2, 2\] is no range"),
        ({**T0, "slices": sources("a", layers=(-1, 2))}, "is no range"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": 3}]}]}, "layer_range 3 is no range"),
        ({**T0, "slices": sources("a", "b", layers=(0, 2))}, "takes exactly 1 models"),
        (
            {"slices": sources("b", layers=(0, 2)), "merge_method": "ties", "parameters": {}},
            "'.*a' is not among the sources",
        ),
        ({"slices": sources("a", "b"), "models": ["a"]}, "both 'models' and 'slices'"),
        ({"slices": []}, "the list of slices is empty"),
        ({"slices": [{"source": []}]}, "unknown key 'source'"),
        ({"slices": sources("a", "b", residual_scale=1)}, "unknown key 'residual_scale'"),
        ({"slices": [{"sources": ["a"]}]}, "names no model"),
        ({"slices": [{"sources": []}]}, "the list of sources of a slice is empty"),
        ({"slices": sources("a", "b", parameters=3)}, "parameters are a mapping"),
        ({**T0, "slices": [*sources("a"), {"sources": [{"model": "b"}]}]}, "take no layers"),
        ({**T0, "modules": {"default": {}}}, "has not one of 'models' and 'slices'"),
        ({**T0, "modules": {"text_decodr": {"models": ["a"]}}}, "no module 'text_decodr'"),
        ({**T0, "modules": {"encoder": {"models": ["a"]}}}, "no module 'encoder'"),
        ({**T0, "modules": {"model.layers": {"models": ["a"]}}}, "belong to none of the modules"),
        ({"models": None}, "the list of models is empty"),
        ({"models": ["a", "b"], "seed": "x"}, "'x' is no seed"),
        ({"models": ["a", "b"], "dtype": "int4"}, "'int4' is no type"),
        ({"models": ["a", "b"], "chat_template": "chatmll"}, "'chatmll' is no chat template"),
        ({"models": ["a", "b"], "chat_template": "{% for %}"}, "the chat template is not readable"),
        ({"models": ["a", "b"], "defaults": "ours"}, "'ours' are no defaults"),
        ({"models": [{"model": {"model": {"path": 3}}}]}, "is no model"),
        ({"models": [{"model": {"model": "a", "override_architecture": "X"}}]}, "override_architecture"),
        ({"models": ["a", "b"], "tokenizer": {"source": 3}}, "3 is no model"),
        ({"models": ["a", "b"], "tokenizer": {"tokens": {"x": {"source": {"kind": "one"}}}}}, "no kind of row"),
        ({"models": ["a", "b"], "tokenizer": {"pad_to_multiple_of": 0}}, "no number of rows"),
        ({"models": ["a", "b"], "tokenizer": {}, "tokenizer_source": "base"}, "both 'tokenizer' and"),
    ],
)
def test_what_is_wrong_is_said(two, tmp_path, more, words):
    with pytest.raises((RecipeError, MethodError), match=words) as e:
        merge(asked(two, out=tmp_path / "o", **more), forward=False)
    assert "merge.yml" in str(e.value) and "->" in str(e.value) and not (tmp_path / "o").exists()


@pytest.mark.parametrize("kind", ["adapter", "delta"])
def test_slices_make_no_adapter_and_no_change_of_a_base(two, tmp_path, kind):
    file = two / "merge.yml"
    file.write_text(yaml.safe_dump({"merge_method": "passthrough", "slices": sources("a", layers=(0, 2))}))
    more = {"shard_size": "5GB", "seed": 0, "threads": 1, "data": (), "task": "", "then": (), "allow_crimes": False}
    with pytest.raises(RecipeError, match="slices"):
        command.run([str(file)], (), tmp_path / "o", method=None, base=None, dtype=None, kind=kind, **more)


MERGEKIT = {
    "multislerp": (["normalize_weights", "eps"], ["weight"], 2),
    "nearswap": (["t"], [], 1),
    "ram": (["epsilon"], [], 2),
    "ramplus_tl": (["r", "alpha", "epsilon"], [], 2),
    "sce": (["int8_mask", "select_topk"], [], 2),
    "linear": (["normalize"], ["weight"], 2),
    "slerp": (["t"], [], 1),
    "nuslerp": (["nuslerp_row_wise", "nuslerp_flatten"], ["weight"], 2),
    "passthrough": ([], ["scale"], 1),
    "model_stock": (["filter_wise"], [], 2),
    "arcee_fusion": ([], [], 1),
    "karcher": (["max_iter", "tol"], [], 2),
    "task_arithmetic": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density"], 2),
    "ties": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density"], 2),
    "dare_ties": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density"], 2),
    "dare_linear": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density"], 2),
    "breadcrumbs": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density", "gamma"], 2),
    "breadcrumbs_ties": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density", "gamma"], 2),
    "della": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density", "epsilon"], 2),
    "della_linear": (["int8_mask", "normalize", "rescale", "lambda"], ["weight", "density", "epsilon"], 2),
}
"""mergekit 0.1.5's methods: their parameters for all models and for each, and how many models beside the base."""
VALUES = {
    "int8_mask": True,
    "normalize": True,
    "rescale": False,
    "lambda": 0.5,
    "weight": 0.5,
    "density": 0.5,
    "gamma": 0.1,
    "epsilon": 0.1,
    "t": 0.5,
    "eps": 1e-06,
    "normalize_weights": True,
    "r": 0.1,
    "alpha": 0.2,
    "select_topk": 0.5,
    "max_iter": 5,
    "tol": 0.0001,
    "filter_wise": True,
    "nuslerp_row_wise": True,
    "nuslerp_flatten": False,
    "scale": 0.5,
}


@pytest.mark.parametrize("method", MERGEKIT)
def test_every_method_of_mergekit_is_read_with_all_its_parameters(two, tmp_path, method):
    shared, own, count = MERGEKIT[method]
    models = [{"model": m, "parameters": {n: VALUES[n] for n in own}} for m in ("a", "b")[:count]]
    base = None if method in ("passthrough", "linear", "karcher") else "e"
    shutil.copytree(two / "a", two / "e", dirs_exist_ok=True)
    more = {"merge_method": method, "models": models, "base_model": base, "parameters": {n: VALUES[n] for n in shared}}
    got, _ = made(two, tmp_path / "o", **more)
    assert got.keys() == load_file(two / "a" / "model.safetensors").keys()
    assert len(MERGEKIT) == 20
