"""Learning from folders and files, as `tunewright merge --data` does."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.small import write_inputs
from tunewright.errors import MethodError, ModelError
from tunewright.weights.blocks import merge_in_memory, state_of
from tunewright.weights.learning import copy_with, from_folders
from tunewright.weights.merge.atlas import Atlas
from tunewright.weights.merge.pleas import PLeaS


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


def test_models_and_rows_from_disk(tmp_path):
    write_inputs(tmp_path)
    for seed in (1, 2):
        tiny.llama(seed).save_pretrained(tmp_path / f"m{seed}")
        tiny.tokenizer().save_pretrained(tmp_path / f"m{seed}")
    learning = from_folders(
        [tmp_path / "m1", tmp_path / "m2"], tmp_path / "base", "text-generation", [tmp_path / "train.jsonl"]
    )
    one, again = ([b.row_ids for b in learning.batches(10)] for _ in range(2))
    assert one == again and sum(len(x) for x in one) == 10
    assert all("attention_mask" in b.inputs for b in learning.batches(10))
    merged, _ = merge_in_memory(Atlas(samples=10, epochs=1, learning_rate=0.01), learning)
    assert merged.keys() == state_of(learning.base).keys() and not all(
        torch.equal(t, merged[n]) for n, t in state_of(learning.base).items()
    )
    merged, config = merge_in_memory(PLeaS(samples=10, budget=0.5), learning)
    assert config == {"intermediate_size": 96} and merged["model.layers.0.mlp.down_proj.weight"].shape == (32, 96)


def test_what_is_missing_or_does_not_fit_is_said(tmp_path):
    with pytest.raises(MethodError, match="learns from rows"):
        from_folders(["a"], None, "text-generation", [])
    with pytest.raises(ModelError, match="does not fit"):
        copy_with(tiny.llama(), {"model.norm.weight": torch.ones(3)})
    held = copy_with(tiny.llama(), {"model.norm.weight": torch.zeros(32)})
    assert not held.model.norm.weight.any() and tiny.llama().model.norm.weight.any() and not held.training
