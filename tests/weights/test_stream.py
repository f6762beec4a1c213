"""The engine: files in, checked files out, whatever the shards, threads, types and accidents."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tunewright.errors import FolderError, MethodError, ModelError, NonFiniteError, RecipeError
from tunewright.weights import engine, fast, names, settings, source, stream, write
from tunewright.weights.request import Part, Request
from tunewright.weights.stream import merge


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def models(tmp_path):
    """A base and three tunings of it as folders, in bfloat16."""
    made = []
    base = tiny.llama(layers=2).to(torch.bfloat16)
    for k in range(4):
        folder = tmp_path / ("base" if k == 0 else f"m{k}")
        g = torch.Generator().manual_seed(k)
        state = {
            n: (t.float() + 0.02 * bool(k) * torch.randn(t.shape, generator=g)).to(t.dtype)
            for n, t in base.state_dict().items()
            if n != "lm_head.weight"
        }
        base.config.save_pretrained(folder)
        save_file(
            {n: t.contiguous() for n, t in state.items()}, folder / "model.safetensors", metadata={"format": "pt"}
        )
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
        made.append(folder)
    return made


def request(models, out, method="ties", base=True, **more):
    parts = [m if isinstance(m, Part) else Part(str(m)) for m in models[1:]]
    return Request(method, parts, out, base=str(models[0]) if base else None, **more)


def run(models, out, method="ties", **more):
    merge(request(models, out, method, **more), forward=False)
    return {n: t for f in sorted(out.glob("*.safetensors")) for n, t in load_file(f).items()}


def shard(folder, many=3):
    """Split a folder's weights over several files."""
    state = load_file(folder / "model.safetensors")
    where = {n: f"model-{i % many}.safetensors" for i, n in enumerate(reversed(sorted(state)))}
    for file in set(where.values()):
        save_file({n: t for n, t in state.items() if where[n] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_bits_depend_neither_on_shards_nor_on_threads_nor_on_the_room(models, tmp_path, monkeypatch):
    first = run(models, tmp_path / "o1", threads=1)
    shard(models[2])
    assert equal(first, run(models, tmp_path / "o2", threads=3, shard_size=3000))
    assert (
        len(list((tmp_path / "o2").glob("model-*.safetensors"))) > 1
        and (tmp_path / "o2" / "model.safetensors.index.json").exists()
    )
    monkeypatch.setattr(fast, "BUDGET", 4 * 4 * 4096)
    monkeypatch.setattr(fast, "SMALL", 10)
    assert equal(first, run(models, tmp_path / "o3"))


def test_a_method_without_a_kernel_gives_the_kernels_bits(models, tmp_path, monkeypatch):
    first = run(models, tmp_path / "o1")
    monkeypatch.setattr(fast, "TABLE", {})
    assert equal(first, run(models, tmp_path / "o2"))


def test_a_model_with_itself_and_one_alone_are_that_model(models, tmp_path):
    whole = load_file(models[1] / "model.safetensors")
    assert equal(whole, run([models[0], models[1]], tmp_path / "a", "linear", base=False))
    assert equal(whole, run([models[0], models[1], models[1]], tmp_path / "b", "slerp", base=False))
    assert equal(whole, run([models[0], models[1], models[1]], tmp_path / "c", "ties", parameters={"density": 1.0}))
    assert equal(whole, run([models[0], models[1]], tmp_path / "d", "task-arithmetic"))


def test_the_result_is_a_folder_that_transformers_runs(models, tmp_path):
    done = merge(request(models, tmp_path / "o", dtype="float32"))
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert done.forward_seconds and config["dtype"] == "float32" and not list(tmp_path.glob(".o*"))
    card = (tmp_path / "o" / "README.md").read_text()
    from tunewright.files.hashing import hash_weights

    assert all(hash_weights(m) in card for m in models) and "merge_method: ties" in card


def test_gradients_filters_and_own_weights(models, tmp_path):
    depths = settings.Depths(["model.embed_tokens.weight", "model.layers.0.x", "model.layers.3.x", "lm_head.weight"])
    assert [
        depths.place(n) for n in ("model.embed_tokens.weight", "model.layers.0.x", "model.layers.3.x", "lm_head.weight")
    ] == [0, 0, 1, 1]
    assert settings.resolve([0, 1], "n", 0.25) == 0.25 and settings.resolve([0, 0.5, 0.3], "n", 0.75) == pytest.approx(
        0.4
    )
    assert settings.resolve([{"filter": "mlp", "value": [0, 1]}, {"value": 7}], "a.mlp.b", 0.5) == 0.5
    assert settings.resolve([{"filter": "mlp", "value": 1}], "attn", 0) is None
    parts = [
        models[0],
        Part(str(models[1]), {"weight": [{"filter": "self_attn", "value": 1.0}, {"value": 0.0}]}),
        Part(str(models[2]), {"weight": 1.0}),
    ]
    got = run(parts, tmp_path / "o", "linear", base=False, dtype="float32")
    a, b = (load_file(m / "model.safetensors") for m in models[1:3])
    for n, t in got.items():
        assert torch.equal(t, (a[n].float() + b[n].float()) / 2 if "self_attn" in n else b[n].float()), n


def test_a_stored_head_that_is_the_embedding_is_left_out(models, tmp_path):
    first = run(models, tmp_path / "o1")
    state = load_file(models[1] / "model.safetensors")
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}, models[1] / "model.safetensors")
    assert equal(first, run(models, tmp_path / "o2")) and "lm_head.weight" not in first


def test_types_may_differ_between_models(models, tmp_path):
    state = {n: t.float() for n, t in load_file(models[1] / "model.safetensors").items()}
    first = run(models, tmp_path / "o1")
    save_file(state, models[1] / "model.safetensors")
    assert equal(first, run(models, tmp_path / "o2"))


def test_a_killed_merge_goes_on_with_what_was_done(models, tmp_path, monkeypatch):
    out, calls = tmp_path / "o", []
    plain = engine.Engine.tensor

    def killed(self, name, put):
        calls.append(name)
        if len(calls) == 6:
            raise KeyboardInterrupt
        plain(self, name, put)

    monkeypatch.setattr(engine.Engine, "tensor", killed)
    wanted = request(models, out, shard_size=2000, threads=1)
    with pytest.raises(KeyboardInterrupt):
        merge(wanted, forward=False)
    assert not out.exists() and (tmp_path / ".o.merging").exists()
    monkeypatch.setattr(engine.Engine, "tensor", plain)
    again = merge(wanted, forward=False)
    assert again.reused > 0
    got = {n: t for f in out.glob("*.safetensors") for n, t in load_file(f).items()}
    assert equal(got, run(models, tmp_path / "fresh")) and not (tmp_path / ".o.merging").exists()


def test_a_delta_put_on_the_base_gives_the_merged_model(models, tmp_path):
    whole = run(models, tmp_path / "m")
    run(models, tmp_path / "d", kind="delta")
    assert equal(whole, run([models[0], tmp_path / "d"], tmp_path / "back", "linear", dtype="bfloat16"))


def test_an_adapter_is_put_on_its_base_tensor_by_tensor(models, tmp_path):
    adapter, g = tmp_path / "adapter", torch.Generator().manual_seed(0)
    adapter.mkdir()
    base = load_file(models[0] / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    out, width = base[f"{name}.weight"].shape
    A, B = torch.randn(4, width, generator=g), torch.randn(out, 4, generator=g)
    save_file(
        {f"base_model.model.{name}.lora_A.weight": A, f"base_model.model.{name}.lora_B.weight": B},
        adapter / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": True,
        "target_modules": ["up_proj"],
        "base_model_name_or_path": str(models[0]),
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    got = run([models[0], adapter], tmp_path / "o", "task-arithmetic", dtype="float32", parameters={"weight": 0.5})
    wanted = base[f"{name}.weight"].float() + 0.5 * (6 / 2) * (B @ A)
    assert torch.allclose(got[f"{name}.weight"], wanted, atol=1e-5)
    assert all(torch.equal(t, base[n].float()) for n, t in got.items() if n != f"{name}.weight")
    assert set(run([models[0], adapter], tmp_path / "d", kind="delta")) == {f"value:{name}.weight"}


def refused(error, match, *args, **more):
    with pytest.raises(error, match=match):
        run(*args, **more)


def test_bad_requests_are_refused_before_anything_is_written(models, tmp_path):
    out = tmp_path / "o"
    refused(RecipeError, "no merge is named 'tees'", models, out, "tees")
    refused(RecipeError, "no parameter 'densty'", models, out, parameters={"densty": 0.1})
    refused(RecipeError, "got 1.5\n.*>= 0, <= 1; its default is 0.2", models, out, parameters={"density": [0.1, 1.5]})
    refused(RecipeError, "empty list", models, out, parameters={"density": []})
    refused(RecipeError, "for all models", [models[0], Part(str(models[1]), {"lambda": 1.0})], out)
    refused(MethodError, "exactly 2", models, out, "slerp", base=False)
    refused(MethodError, "common base", models, out, base=False)
    refused(RecipeError, "no model", models[:1], out)
    refused(FolderError, "input", models, models[1])
    refused(FolderError, "input", models, models[1] / "out")
    refused(RecipeError, "no type", models, out, dtype="int4")
    assert not out.exists() and not list(tmp_path.glob(".*merging"))


def test_bad_models_are_refused_and_inputs_stay(models, tmp_path):
    out, file = tmp_path / "o", models[2] / "model.safetensors"
    state, raw = load_file(file), file.read_bytes()
    name = "model.layers.0.mlp.up_proj.weight"

    def with_state(changed):
        save_file(changed, file)

    with_state({n: t for n, t in state.items() if n != name})
    refused(ModelError, f"1 tensors .* missing: {name}", models, out)
    with_state({**state, "extra": torch.zeros(2)})
    refused(ModelError, "extra", models, out)
    with_state({**state, name: state[name][:, :-1].contiguous()})
    refused(ModelError, "differ in shape", models, out)
    with_state({**state, "model.embed_tokens.weight": torch.cat([state["model.embed_tokens.weight"]] * 2)})
    with pytest.raises(ModelError) as caught:
        run(models, out)
    assert "vocabularies" in str(caught.value)
    nan = state[name].clone()
    nan[0, 0] = float("nan")
    with_state({**state, name: nan})
    refused(NonFiniteError, name, models, out)
    file.write_bytes(raw[:-10])
    refused(ModelError, "cut off", models, out)
    file.write_bytes(b"\x80\x04 pickle")
    refused(ModelError, "not a readable safetensors", models, out)
    file.unlink()
    (models[2] / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused(ModelError, "pickle", models, out)
    assert not out.exists() and not list(tmp_path.glob(".*merging"))


def test_token_ids_must_agree(models, tmp_path):
    def tokenizer(folder, vocabulary):
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))

    for m in models:
        tokenizer(m, {"a": 0, "b": 1})
    run(models, tmp_path / "fine")
    assert (tmp_path / "fine" / "tokenizer.json").exists()
    tokenizer(models[2], {"a": 1, "b": 0})
    with pytest.raises(ModelError) as caught:
        run(models, tmp_path / "o")
    assert "'a' (0 and 1)" in str(caught.value)
    tokenizer(models[2], {"a": 0, "c": 1})
    refused(ModelError, "1 is 'b' there and 'c' here", models, tmp_path / "o")
    assert names.tokens_of(tmp_path) is None


def test_an_adapter_of_another_base_is_refused(models, tmp_path):
    run(models, tmp_path / "d", kind="delta")
    refused(ModelError, "another base", [models[1], tmp_path / "d"], tmp_path / "o", "task-arithmetic")


def test_a_full_disk_and_a_taken_name(models, tmp_path, monkeypatch):
    out = tmp_path / "o"
    monkeypatch.setattr(write.shutil, "disk_usage", lambda p: os.terminal_size((0, 0)) and type("D", (), {"free": 10}))
    refused(FolderError, "free", models, out)
    monkeypatch.undo()
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))

    def full(*a):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "pwrite", full)
    refused(FolderError, "disk is full", models, out)
    monkeypatch.undo()
    assert not out.exists() and not list(tmp_path.glob(".o*"))
    out.mkdir()
    (out / "mine").touch()
    refused(FolderError, "exists already", models, out)
    shutil.rmtree(out)


def test_layout_keeps_every_tensor_once_and_aligned():
    entries = {f"t{i}": source.Entry(d, (3, i + 1)) for i, d in enumerate(["BF16", "F32", "F16", "F32"])}
    places, headers = write.lay_out(entries, 40)
    assert set(places) == set(entries) and len(headers) > 1
    assert all(
        p.size == entries[n].count * source.SIZES[entries[n].dtype] and p.start % source.SIZES[entries[n].dtype] == 0
        for n, p in places.items()
    )
    assert write.size_of("5GB") == 5_000_000_000 and write.size_of("1KiB") == 1024
    with pytest.raises(RecipeError):
        write.size_of("many")


def test_of_equally_common_types_the_first_is_that_of_the_model():
    types = [f"F{i}" for i in range(12)]
    assert stream._commonest(types) == "F0" and stream._commonest([*types, "F7"]) == "F7"
