"""Adapters by name: found, loaded, dropped, kept to a limit of bytes, and never from outside their folder."""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve import serving
from tests.serve.test_same_answers import asked, ids, said
from tests.serve.test_staying_alive import until
from tunewright.errors import FolderError, ModelError
from tunewright.models import delta_format
from tunewright.models import deltas as forms
from tunewright.serve.adapters import Library, Variant
from tunewright.serve.errors import ApiError
from tunewright.serve.limits import Limits
from tunewright.serve.paging import Active
from tunewright.serve.requests import Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.server import Server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    serving.write_adapters(folder, ("a", "b", "c", "d"))
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A folder of adapters in a folder that holds one more, which is nobody's business."""
    shutil.copytree(made, tmp_path / "root")
    shutil.copytree(made / "a", tmp_path / "secret")
    return tmp_path / "root"


def library(root: Path | None, **how: Any) -> Library:
    return Library(serving.loaded().adapted(), serving.BASE, root, **how)


def test_folders_without_an_adapter_and_odd_names_are_no_models(root: Path) -> None:
    (root / "notes").mkdir()
    (root / "file").write_text("x")
    shutil.copytree(root / "a", root / "with space")
    shutil.copytree(root / "a", root / serving.BASE)
    os.symlink(root.parent / "secret", root / "linked")
    assert library(root).names() == ["a", "b", "c", "d"]
    for name in ("notes", "file", "with space", "linked", "none"):
        with pytest.raises(ApiError) as missing:
            library(root).find(name)
        assert missing.value.status == 404


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.text(max_size=30) | st.sampled_from(["../secret", "/etc", "a/../../secret", "a\0", "~", "linked", ".", "..", ""])
)
def test_names_and_paths_never_leave_the_folder(root: Path, text: str) -> None:
    if not (root / "linked").is_symlink():
        os.symlink(root.parent / "secret", root / "linked")
    held = library(root)
    for call in (lambda: held.find(text), lambda: held.load("new", text), lambda: held.load(text, "../secret")):
        try:
            call()
        except ApiError as error:
            assert error.status in (400, 404)
        else:
            assert text.partition("@")[0] in "abcd" or (root / text).resolve().is_relative_to(root.resolve())
    absolute = str(root.parent / "secret")
    with pytest.raises(ApiError):
        held.load("new", absolute)


def test_links_inside_an_adapter_are_not_followed_out(root: Path) -> None:
    (root / "b" / "adapter_model.safetensors").unlink()
    os.symlink(root.parent / "secret" / "adapter_model.safetensors", root / "b" / "adapter_model.safetensors")
    with pytest.raises(ApiError, match="a link that leaves"):
        library(root).find("b")


@pytest.mark.parametrize("how", ["pickle", "cut", "nan", "another base", "rank", "json"])
def test_broken_adapters_are_refused_in_one_sentence(root: Path, how: str) -> None:
    weights, config = root / "a" / "adapter_model.safetensors", root / "a" / "adapter_config.json"
    if how == "pickle":
        torch.save({}, root / "a" / "adapter_model.bin")
        weights.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    elif how == "json":
        config.write_text("{")
    elif how == "rank":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 7}))
    else:
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        if how == "nan":
            next(iter(tensors.values()))[0, 0] = float("nan")
        save_file(tensors, weights, {"format": "pt", "base_hash": "another" if how == "another base" else ""})
    held = library(root)
    held.adapted.base_hash = "mine" if how == "another base" else ""
    with pytest.raises(ApiError) as refused:
        held.find("a")
    assert refused.value.status == 400 and "'a' cannot be used" in refused.value.message
    assert str(root) not in refused.value.message
    assert held.find("b") is not None


def test_load_and_unload_by_vllms_names(root: Path) -> None:
    os.rename(root / "d", root / "hidden.d")
    with serving.served(root) as (server, address):

        def post(what: str, **body: Any) -> httpx.Response:
            return httpx.post(f"{address}/v1/{what}_lora_adapter", json=body)

        def names() -> list[str]:
            return [m["id"] for m in httpx.get(f"{address}/v1/models").json()["data"]]

        got = post("load", lora_name="mine", lora_path="hidden.d")
        assert got.status_code == 200 and "'mine' added" in got.text and "mine" in names()
        assert post("load", lora_name="mine", lora_path="hidden.d").status_code == 400
        assert post("load", lora_name="more", lora_path=str(root / "b")).status_code == 200
        before = said(asked(server, "mine", "the river"), server.ends)
        assert before == serving.alone("hidden.d", root, ids("the river"), 12)
        assert post("unload", lora_name="mine").status_code == 200 and "mine" not in names()
        assert post("unload", lora_name="mine").json()["error"]["type"] == "not_found_error"
        assert post("unload", lora_name="a").status_code == 200 and "a" not in names()
        with pytest.raises(ApiError, match="does not exist"):
            server.library.find("a")
        # a name that is loaded again from other files is another adapter, prefixes and all
        assert post("load", lora_name="mine", lora_path="c").status_code == 200
        assert said(asked(server, "mine", "the river"), server.ends) == serving.alone("c", root, ids("the river"), 12)
        assert post("load", lora_name="tiny", lora_path="c").status_code == 400
        assert post("load", lora_name="x", lora_path="../secret").status_code == 404
        assert post("load", lora_name="x", lora_path=str(root.parent / "secret")).status_code == 404


@pytest.mark.parametrize("other", [False, True])
def test_what_a_name_means_after_it_changed_while_its_files_were_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """A request for 'a' reads its files; meanwhile 'a' is unloaded, or then is to be another adapter."""
    held, begun, go = library(root), threading.Event(), threading.Event()
    read = held._read

    def slowly(folder: Path) -> Any:
        begun.set()
        assert go.wait(60)
        return read(folder)

    monkeypatch.setattr(held, "_read", slowly)
    found: list[Variant | None] = []
    asks = threading.Thread(target=lambda: found.append(held.find("a")))
    asks.start()
    assert begun.wait(60)
    held.unload("a")
    loads = threading.Thread(target=lambda: held.load("a", "b"))
    if other:
        loads.start()
        until(lambda: held._paths.get("a") is not None)
    go.set()
    asks.join(60)
    assert found and found[0] is not None, "who asked before has what was there"
    if not other:
        with pytest.raises(ApiError, match="does not exist"):
            held.find("a")
        return
    loads.join(60)
    now, b = held.find("a"), library(root).find("b")
    assert now is not None and b is not None
    for site, delta in b.adapter.deltas.items():
        assert all(torch.equal(t, now.adapter.deltas[site].state_dict()[n]) for n, t in delta.state_dict().items())


@pytest.mark.parametrize("dial", ["", "x", "-1", "5", "nan", "1e1", "0.5@0.5", "١"])
def test_strengths_that_are_none_are_refused(root: Path, dial: str) -> None:
    with pytest.raises(ApiError, match="A strength is a number"):
        library(root).find(f"a@{dial}")


def test_memory_is_held_to_a_limit(root: Path) -> None:
    one = library(root).find("a")
    assert one is not None
    limit = one.adapter.bytes * 4
    held = library(root, limit=limit)
    for name in "abcdabdc":
        found = held.find(name)
        assert found is not None and found.adapter.name == name
        assert held.held <= max(limit, found.adapter.bytes)
    assert held.held and len([n for n in "abcd" if n in held._there]) < 4


def test_the_model_holds_no_more_adapters_than_its_limits(root: Path) -> None:
    adapted = serving.loaded().adapted()
    held = Library(adapted, serving.BASE, root)
    found = [held.find(n) for n in "abcd"]
    active = Active(adapted, 2, 1 << 30)
    for variant in found[:2]:
        active.take(variant)
    assert not active.fits(found[2]) and active.fits(found[0])
    active.release(found[0])
    assert active.fits(found[2])
    active.take(found[2])
    assert found[0].key not in active.lanes and found[1].key in active.lanes  # type: ignore[union-attr]
    small = Active(serving.loaded().adapted(), 9, found[0].adapter.bytes)  # type: ignore[union-attr]
    assert small.fits(found[3])  # one that is alone always can be
    small.take(found[3])
    assert not small.fits(found[0])


def test_adapters_that_left_are_in_memory_no_more(root: Path) -> None:
    limits = Limits(adapter_bytes=1, active_bytes=1, prefix_bytes=1 << 20)
    with Server(serving.loaded(), serving.BASE, root, limits) as server:
        gone = []
        for name in "abcd":
            variant = server.library.find(name)
            assert variant is not None
            gone.append(weakref.ref(variant.adapter))
            request = Request(ids("the river"), Sampling(3, temperature=0.0), variant)
            server.engine.submit(request).result()
            del variant, request
        asked(server, serving.BASE, "the river").result()
        until(lambda: gc.collect() >= 0 and [r() for r in gone[:3]] == [None] * 3)


def test_when_all_leave_the_model_is_the_base_again(root: Path) -> None:
    adapted = serving.loaded().adapted()
    classes = {n: type(m) for n, m in adapted.model.named_modules()}
    active = Active(adapted, 8, 1 << 30)
    variants = [Variant(a.adapter, s) for a in map(Library(adapted, "x", root).find, "abcd") if a for s in (1.0, 0.5)]
    for variant in variants:
        active.take(variant)
    for variant in variants:
        active.release(variant)
        active.lanes.remove(variant.key)
    assert {n: type(m) for n, m in adapted.model.named_modules()} == classes and not active.lanes._buckets


def test_small_limits_serve_all_the_same(root: Path) -> None:
    limits = Limits(adapter_bytes=1, active_bytes=1, max_batch=4)
    with Server(serving.loaded(), serving.BASE, root, limits) as server:
        handles = [(n, asked(server, n, p)) for p in serving.PROMPTS for n in "abcd"]
        got = [(n, said(h, server.ends)) for n, h in handles]
        assert server.library.held <= max(d.adapter.bytes for d in map(server.library.find, "abcd") if d)
    for i, (name, tokens) in enumerate(got):
        assert tokens == serving.alone(name, root, ids(serving.PROMPTS[i // 4]), 12)


def test_a_saved_change_of_another_form_is_a_model(root: Path) -> None:
    adapted = serving.loaded().adapted()
    for site in adapted.structure.linear_sites():
        forms.attach(site, "x", forms.Bias(torch.linspace(-0.5, 0.5, site.out_features)))
    (root / "biases").mkdir()
    delta_format.save_delta(adapted, root / "biases", serving.BASE)
    expected = adapted.model.generate(  # type: ignore[operator]
        torch.tensor([ids("the river")]), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    with Server(serving.loaded(), serving.BASE, root) as server:
        got = said(asked(server, "biases", "the river"), server.ends)
    assert got == [t for t in expected[0, len(ids("the river")) :].tolist() if t not in server.ends]


def test_a_change_of_the_base_itself_is_refused(root: Path) -> None:
    adapted = serving.loaded().adapted()
    name = next(iter(adapted.base_parameters()))
    adapted.remember(name)
    adapted.base_parameters()[name].data += 1
    (root / "full").mkdir()
    delta_format.save_delta(adapted, root / "full", serving.BASE)
    with pytest.raises(ApiError, match="more than deltas beside the base(.|\n)*tunewright serve full"):
        library(root).find("full")


def test_a_folder_that_is_an_adapter_is_no_folder_of_adapters(root: Path) -> None:
    with pytest.raises(FolderError, match="an adapter itself"):
        library(root / "a")
    with pytest.raises(FolderError, match="no such folder"):
        library(root / "none")


def test_deltas_from_memory_are_models_too(root: Path) -> None:
    with Server(serving.loaded(), serving.BASE, root, Limits(adapter_bytes=1)) as server:
        deltas = serving.low_rank(server.engine.model, 2, 3)  # as adapter b was drawn
        server.library.add("made", deltas)
        server.library.find("a")
        assert "made" in server.library.names()
        assert said(asked(server, "made", "the river"), server.ends) == serving.alone("b", root, ids("the river"), 12)
        with pytest.raises(ModelError, match="no name"):
            server.library.add("../x", deltas)
