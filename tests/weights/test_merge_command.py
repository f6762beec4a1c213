"""`tunewright merge` from end to end: merges that learn, edits of a merge, adapters in and out, accidents."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.small import write_inputs
from tests.weights.test_lines_and_soups import alpha_of_merge
from tunewright.errors import FolderError, MethodError, ModelError, RecipeError
from tunewright.files.hashing import hash_weights
from tunewright.models.adapted import Adapted
from tunewright.models.delta_format import save_delta
from tunewright.models.deltas import LowRank, Sparse, attach
from tunewright.weights import command, stream
from tunewright.weights.edit.lines import factor_at


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def three(tmp_path):
    """base, m1 and m2 (near the base) with tokenizer, and train.jsonl."""
    write_inputs(tmp_path)
    base = tiny.llama()
    for k in (1, 2):
        g = torch.Generator().manual_seed(k)
        made = tiny.llama()
        with torch.no_grad():
            for p, b in zip(made.parameters(), base.parameters(), strict=True):
                p.copy_(b + 0.02 * torch.randn(p.shape, generator=g))
        made.save_pretrained(tmp_path / f"m{k}")
        tiny.tokenizer().save_pretrained(tmp_path / f"m{k}")
    return tmp_path


def run(
    folder, models, method, *given, out="out", base="base", kind="model", data=False, then=(), file=None, forward=False
):
    more = {
        "shard_size": "5GB",
        "seed": 0,
        "threads": 1,
        "data": [folder / "train.jsonl"] if data else (),
        "task": "text-generation",
        "then": then,
        "allow_crimes": False,
    }
    refs = [file] if file else [str(folder / m) for m in models]
    with patch.object(command, "merge", partial(stream.merge, forward=forward)):
        command.run(
            refs, given, folder / out, method=method, base=base and str(folder / base), dtype=None, kind=kind, **more
        )
    name = "adapter_model" if kind == "adapter" else "delta" if kind == "delta" else "model"
    return load_file(folder / out / f"{name}.safetensors")


def lora(module, folder, seed, *, target_modules, rank=4, **more):
    """A PEFT adapter with random parts, saved; the adapted model."""
    made = get_peft_model(module, LoraConfig(r=rank, lora_alpha=6, target_modules=target_modules, **more))
    g = torch.Generator().manual_seed(seed)
    for n, p in made.named_parameters():
        if "lora_" in n:
            p.data = 0.1 * torch.randn(p.shape, generator=g)
    made.save_pretrained(folder)
    return made


LEARNED = {
    "pleas": ("--budget", "0.5", "--samples", "6"),
    "atlas": ("--samples", "6", "--epochs", "1", "--learning_rate", "0.05"),
    "regmean": ("--samples", "6"),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNED)
def test_merges_that_learn_write_folders_that_run(three, method):
    base = load_file(three / "base" / "model.safetensors")
    got = run(
        three,
        ["m1", "m2"],
        method,
        *LEARNED[method],
        data=True,
        base=None if method in ("pleas", "regmean") else "base",
        forward=method == "pleas",
    )
    assert got.keys() == base.keys() and any(not torch.equal(t, base[n]) for n, t in got.items())
    config = json.loads((three / "out" / "config.json").read_text())
    wide = {n: t.shape for n, t in got.items() if t.shape != base[n].shape}
    assert (config["intermediate_size"] == 96 and wide) if method == "pleas" else not wide
    with pytest.raises(MethodError, match="learns from rows"):
        run(three, ["m1", "m2"], method, out="o2", base=None if method in ("pleas", "regmean") else "base")


def test_a_merge_that_learns_takes_adapters_as_the_models_that_they_make(three):
    for k in (1, 2):
        whole = lora(tiny.llama(), three / f"a{k}", k, target_modules=["up_proj"]).merge_and_unload()
        whole.save_pretrained(three / f"w{k}")
        tiny.tokenizer().save_pretrained(three / f"w{k}")
    some = run(three, ["a1", "a2"], "regmean", *LEARNED["regmean"], data=True, out="o1")
    wanted = run(three, ["w1", "w2"], "regmean", *LEARNED["regmean"], data=True, out="o2")
    assert all(torch.allclose(some[n], t, atol=1e-5) for n, t in wanted.items())


def test_fusing_takes_its_defaults(three):
    a, b = (load_file(three / m / "model.safetensors") for m in ("m1", "m2"))
    got = run(three, ["m1", "m2"], "fusing-finetuned-models")
    assert all(torch.allclose(t, (a[n] + b[n]) / 2, atol=1e-6) for n, t in got.items())


def test_a_uniform_soup_is_the_mean_and_a_greedy_one_says_what_it_lacks(three):
    a, b = (load_file(three / m / "model.safetensors") for m in ("m1", "m2"))
    assert all(torch.equal(t, (a[n] + b[n]) / 2) for n, t in run(three, ["m1", "m2"], "model-soups", base=None).items())
    with pytest.raises(MethodError, match="held-out score"):
        run(three, ["m1", "m2"], "model-soups", "--recipe", "greedy", base=None, out="o2")


def test_lines_on_a_merge(three):
    base, a, b = (load_file(three / m / "model.safetensors") for m in ("base", "m1", "m2"))
    plain = run(three, ["m1", "m2"], "ties", "--density", "0.5")
    same = run(three, ["m1", "m2"], "ties", "--density", "0.5", out="same", then=["{lines: {alpha: 1, beta: 0}}"])
    assert all(torch.equal(t, plain[n]) for n, t in same.items())
    alpha = alpha_of_merge([[a[n] - t, b[n] - t] for n, t in base.items()], [plain[n] - t for n, t in base.items()])
    assert alpha != pytest.approx(0.5)
    file = three / "merge.yml"
    models = "\n".join(f"  - model: {three / m}" for m in ("m1", "m2"))
    text = (
        "merge_method: ties\nbase_model: base\nparameters: {density: 0.5}\ndefaults: papers\nafter: [{lines: "
        "{alpha: merge, beta: 0.4}}]\n"
    )
    file.write_text(f"models:\n{models}\n{text}")
    got = run(three, [], None, out="lines", base=None, file=str(file))
    for n, t in got.items():
        depth = float(n.split(".")[2]) if ".layers." in n else None  # of two layers
        assert torch.allclose(t, base[n] + factor_at(depth, alpha, 0.4) * (plain[n] - base[n]), atol=1e-5), n
    assert "alpha: merge" in (three / "lines" / "README.md").read_text()
    summed = run(three, ["m1", "m2"], "task-arithmetic", out="sum", then=["{lines: {alpha: merge, beta: 0}}"])
    assert all(torch.allclose(t, (a[n] + b[n]) / 2, atol=1e-5) for n, t in summed.items()), "a plain sum has alpha 1/T"


def test_edits_that_cannot_be_made_are_refused(three):
    for error, says, method, then in (
        (RecipeError, "no edit is named 'lins'", "ties", ["lins"]),
        (RecipeError, "is no step", "ties", ["[1]"]),
        (MethodError, "has no base", "linear", ["lines"]),
        (MethodError, "only the first", "ties", ["lines", "{lines: {alpha: merge}}"]),
    ):
        with pytest.raises(error, match=says):
            run(three, ["m1", "m2"], method, out="o2", then=then)
    assert not (three / "o2").exists()


def test_adapters_combine_exactly_into_an_adapter(three):
    lora(tiny.llama(), three / "a1", 1, target_modules=["up_proj", "q_proj"])
    lora(tiny.llama(), three / "a2", 2, target_modules=["up_proj"], rank=2, use_rslora=True)
    given = ("--weight", "0.3", "--weight", "0.7")
    run(three, ["a1", "a2"], "linear", *given, kind="adapter", out="sum")
    folded = run(three, ["a1", "a2"], "linear", *given, out="m")
    again = run(three, ["sum"], "task-arithmetic", out="back")
    assert all(torch.allclose(t, folded[n], atol=1e-5) for n, t in again.items())
    for error, says, models, method, more in (
        (MethodError, "no sum of them", ["a1", "a2"], "ties", ()),
        (MethodError, "no PEFT adapter", ["a1", "m1"], "linear", ()),
        (MethodError, "do not sum to 1", ["a1", "a2"], "linear", ("--normalize", "false")),
        (MethodError, "tensor to tensor", ["a1", "a2"], "linear", ("--weight", "[0, 1]")),
        (ModelError, "there already", ["a1", "a2"], "linear", ()),
    ):
        with pytest.raises(error, match=says):
            run(three, models, method, *more, kind="adapter", out="sum" if error is ModelError else "no")
    assert not (three / "no").exists()


def test_a_peft_adapter_of_a_model_that_stores_its_weights_transposed(tmp_path):
    write_inputs(tmp_path, model=tiny.gpt2())
    whole = (
        lora(tiny.gpt2(), tmp_path / "a", 3, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
        .merge_and_unload()
        .state_dict()
    )
    got = run(tmp_path, ["a"], "task-arithmetic")
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert all(torch.allclose(t, whole[n], atol=1e-5) for n, t in got.items())
    assert sum(not torch.equal(t, base[n]) for n, t in got.items()) == 4


def changed(folder):
    """A saved change with a low-rank and a sparse part; the tuned weights."""
    adapted = Adapted(tiny.llama(), base_hash=hash_weights(folder / "base"))
    g = torch.Generator().manual_seed(5)
    up, down = (adapted.structure.site(f"model.layers.1.mlp.{n}") for n in ("up_proj", "down_proj"))
    attach(
        up, "a", LowRank(torch.randn(3, up.in_features, generator=g), torch.randn(up.out_features, 3, generator=g), 0.5)
    )
    attach(
        down,
        "b",
        Sparse(torch.tensor([1, 7, 40]), torch.tensor([0.5, -1.0, 2.0]), (down.out_features, down.in_features)),
    )
    adapted.remember("model.norm.weight")
    adapted.base_parameters()["model.norm.weight"].data += 1
    return adapted


def test_saved_changes_and_runs_are_inputs(three):
    adapted = changed(three)
    save_delta(adapted, three / "change", str(three / "base"))
    (three / "run").mkdir()
    (three / "run" / "recipe.yaml").write_text("model: base\n")
    with pytest.raises(ModelError, match="neither an adapter nor a saved change"):
        run(three, ["run"], "task-arithmetic")
    save_delta(adapted, three / "run" / "adapter", str(three / "base"))
    (three / "whole").mkdir()
    (three / "whole" / "recipe.yaml").write_text("model: base\n")
    (three / "m1").rename(three / "whole" / "model")
    adapted.fold()
    wanted = {n: p.detach() for n, p in adapted.base_parameters().items()}
    for name in ("change", "run"):
        got = run(three, [name], "task-arithmetic", out=f"o-{name}")
        assert all(torch.allclose(t, wanted[n], atol=1e-6) for n, t in got.items())
    assert run(three, ["whole"], "linear", base=None, out="o2").keys() == got.keys()


KILLED = """
import os, signal, sys
from pathlib import Path
from tunewright.weights import command, engine
plain, calls = engine.Engine.tensor, []
def tensor(self, name, put):
    calls.append(name)
    if len(calls) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, name, put)
engine.Engine.tensor = tensor
more = dict(shard_size="6KB", seed=0, threads=1, data=(), task="text-generation", then=(), allow_crimes=False)
command.run(sys.argv[2:], (), Path(sys.argv[1]), method="linear", base=None, dtype=None, kind="model", **more)
"""


@pytest.mark.slow
def test_sigkill_leaves_nothing_and_the_next_try_gives_the_same_bits(three):
    inputs = [str(three / m) for m in ("m1", "m2")]
    before = {f: f.read_bytes() for m in ("m1", "m2") for f in (three / m).iterdir()}
    wanted = run(three, ["m1", "m2"], "linear", base=None, out="fresh")
    done = subprocess.run([sys.executable, "-c", KILLED, str(three / "out"), *inputs], capture_output=True)
    assert done.returncode == -signal.SIGKILL and not (three / "out").exists()
    more = {
        "shard_size": "6KB",
        "seed": 0,
        "threads": 1,
        "data": (),
        "task": "text-generation",
        "then": (),
        "allow_crimes": False,
    }
    with patch.object(command, "merge", partial(stream.merge, forward=False)):
        again = command.run(inputs, (), three / "out", method="linear", base=None, dtype=None, kind="model", **more)
    got = {n: t for f in (three / "out").glob("*.safetensors") for n, t in load_file(f).items()}
    assert again.reused and got.keys() == wanted.keys() and all(torch.equal(t, wanted[n]) for n, t in got.items())
    assert before == {f: f.read_bytes() for m in ("m1", "m2") for f in (three / m).iterdir()}


@pytest.mark.slow
def test_a_damaged_shard_a_broken_result_and_mixed_bases(three, monkeypatch):
    file = three / "m1" / "model.safetensors"
    state = load_file(file)
    half = dict(list(state.items())[:3])
    save_file(half, three / "m1" / "model-00001-of-00002.safetensors")
    (three / "m1" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {n: "model-00001-of-00002.safetensors" for n in half}})
    )
    raw, damaged = file.read_bytes(), three / "m1" / "model-00001-of-00002.safetensors"
    file.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(ModelError, match="cut off"):
        run(three, ["m1", "m2"], "linear", base=None)
    damaged.unlink()
    (three / "m1" / "model.safetensors.index.json").unlink()
    file.write_bytes(raw)
    with pytest.raises(FolderError, match="input"):
        run(three, ["m1", "m2"], "linear", base=None, out="m2")
    adapted = changed(three)
    save_delta(adapted, three / "change", str(three / "base"))
    with pytest.raises(ModelError, match="another base"):
        run(three, ["change"], "task-arithmetic", base="m1")
    monkeypatch.setattr(
        stream.card, "write_beside", lambda folder, *a: (folder / "config.json").write_text('{"model_type": "none"}')
    )
    with pytest.raises(ModelError, match="the result does not work|cannot be run"):
        run(three, ["m1", "m2"], "linear", base=None, forward=True)
    assert not (three / "out").exists()
