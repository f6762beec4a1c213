"""A change of any kind, saved and applied to a fresh base: the tuned weights bit for bit, or a reason."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunewright.catalogue import load_method
from tunewright.conformance.bench import Tiny, llama
from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, differing
from tunewright.models.delta_format import load_delta, save_delta
from tunewright.models.peft_format import save_adapter

USES = {"full": {}, "hft": {}, "lift": {"rank": 2, "filter_rank": 4}, "lora": {"rank": 2}, "corda": {"rank": 3}}


def trained(*names: str) -> Tiny:
    return Tiny([(n, load_method(n)(**USES[n])) for n in names]).run()


@pytest.mark.parametrize(
    "names", [("full",), ("hft",), ("lift",), ("lora",), ("corda",), ("lora", "lift")], ids=" and ".join
)
def test_saved_and_applied_gives_the_tuned_weights(names, tmp_path):
    t = trained(*names)
    count = save_delta(t.adapted, tmp_path, "tiny")
    other = Adapted(llama(), base_hash="tiny")
    assert load_delta(other, tmp_path) == count == len(load_file(tmp_path / "delta.safetensors"))
    assert not differing(other.model.state_dict(), t.adapted.model.state_dict()), "the same weights, bit for bit"
    assert agrees(t.logits(other.model), t.logits())
    with other.base() as base:
        assert agrees(t.logits(base), t.logits(llama()))


def test_sparse_changes_are_stored_sparsely(tmp_path):
    save_delta(trained("lift").adapted, tmp_path, "tiny")
    kinds = {k.split(":")[0] for k in load_file(tmp_path / "delta.safetensors")}
    assert kinds == {"places", "entries"}
    with pytest.raises(ModelError, match="cannot be a PEFT adapter"):
        save_adapter(trained("lift").adapted, tmp_path / "x", "tiny")


def edit_how(folder, **changes):
    how = json.loads((folder / "delta.json").read_text())
    (folder / "delta.json").write_text(json.dumps({**how, **changes}))


def edit_tensors(folder, change):
    tensors = load_file(folder / "delta.safetensors")
    change(tensors)
    save_file(tensors, folder / "delta.safetensors")


def rename_first(tensors):
    tensors["value:nothing"] = tensors.pop(next(iter(tensors)))


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda f: edit_how(f, base={"name": "other", "hash": "ffff"}), "another base"),
        (lambda f: edit_tensors(f, lambda t: t.pop(next(iter(t)))), "counts"),
        (lambda f: edit_tensors(f, rename_first), "missing or unknown"),
        (lambda f: edit_how(f, version=9), "format"),
        (lambda f: (f / "delta.json").unlink(), "no delta.json"),
        (lambda f: (f / "delta.safetensors").write_bytes(b"x" * 40), "not readable"),
    ],
    ids=["base", "count", "name", "version", "no json", "damaged"],
)
def test_what_cannot_be_applied_says_why_and_changes_nothing(spoil, says, tmp_path):
    save_delta(trained("full").adapted, tmp_path, "tiny")
    spoil(tmp_path)
    other = Adapted(llama(), base_hash="tiny")
    with pytest.raises(ModelError, match=says):
        load_delta(other, tmp_path)
    assert not other.originals and not differing(other.model.state_dict(), llama().state_dict())


def test_nothing_changed_is_refused(tmp_path):
    with pytest.raises(ModelError, match="nothing differs"):
        save_delta(Adapted(llama()), tmp_path, "tiny")


def test_another_size_is_named(tmp_path):
    t = trained("full")
    save_delta(t.adapted, tmp_path, "tiny")
    other = Adapted(llama())
    name = "model.layers.0.mlp.up_proj"
    other.structure.site(name).module.weight = torch.nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(ModelError, match=f"'{name}.weight' is"):
        load_delta(other, tmp_path)
