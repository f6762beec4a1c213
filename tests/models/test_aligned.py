"""What is read from files lies as torch's own tensors do, wherever the file puts it: the base says the same always."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.misalign import at, pad_header
from tests.models.making import save_folder
from tunewright.loading.load import load
from tunewright.measure.cache import BaseCache
from tunewright.methods.needs import _held
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import same_bits
from tunewright.models.aligned import ALIGNMENT, align, aligned
from tunewright.models.originals import Files, InFile
from tunewright.pieces.low_rank import kaiming

IDS = torch.arange(20, 50)[None]
POOLER = "bert.pooler.dense"


def offsets(tensors) -> set[int]:
    return {t.data_ptr() % ALIGNMENT for t in tensors}


def saved(folder: Path, words: int) -> Path:
    """A classifier's folder whose tensors lie 8 x `words` bytes further on than they would."""
    made = save_folder(folder, tiny.bert_classifier(), tiny.tokenizer(encoder=True, chat=False))
    pad_header(made / "model.safetensors", words)
    return made


def test_only_what_lies_askew_is_copied():
    there = torch.randn(4, 3)
    assert aligned(there) is there and offsets([there]) == {0}
    for offset in range(4, ALIGNMENT, 4):
        askew = at(there, offset)
        laid = aligned(askew)
        assert offsets([askew]) == {offset} and offsets([laid]) == {0} and same_bits(laid, there)
    half = at(there.bfloat16(), 2)
    assert aligned(half) is half


def test_tied_weights_stay_tied_and_modules_keep_their_parameters():
    model = tiny.llama()
    model.model.embed_tokens.weight.data = at(model.model.embed_tokens.weight.data, 8)
    parameter = model.model.embed_tokens.weight
    assert align(model) == 1 and align(model) == 0
    assert model.lm_head.weight is model.model.embed_tokens.weight is parameter and offsets([parameter]) == {0}


@pytest.mark.parametrize("words", range(8))
def test_a_loaded_model_says_the_same_bits_wherever_its_file_has_them(tmp_path, words):
    loaded = load(str(saved(tmp_path / "m", words)), "text-classification")
    mapped = load_file(loaded.folder / "model.safetensors")
    assert words % 8 == 0 or offsets(mapped.values()) != {0}, "nothing lay askew"
    assert offsets(loaded.model.parameters()) == {0}
    with torch.no_grad():
        assert same_bits(loaded.model(input_ids=IDS).logits, tiny.bert_classifier()(input_ids=IDS).logits)


@pytest.mark.parametrize("words", [0, 3])
def test_the_base_that_comes_back_says_the_same_bits_as_at_first(tmp_path, words):
    """Read back from its file, and after a fold that put a weight elsewhere: a resumed run must meet the same base."""
    loaded = load(str(saved(tmp_path / "m", words)), "text-classification")
    adapted = Adapted(loaded.model)
    adapted.files = Files(loaded.folder)

    def said() -> torch.Tensor:
        with torch.no_grad():
            return adapted.model(input_ids=IDS).logits

    first = said()
    for name in (f"{POOLER}.weight", "classifier.weight"):
        adapted.remember(name)
        assert isinstance(adapted.originals[name], InFile) and offsets([adapted.originals[name].values]) == {0}
    with adapted.base():
        assert same_bits(said(), first)
    site = adapted.structure.site(POOLER)
    A, B = kaiming(site, 2, torch.Generator().manual_seed(0))
    forms.attach(site, "x", forms.LowRank(A, B + 0.1, 1.0))
    adapted.fold()
    assert not same_bits(said(), first)
    adapted.forget_changes()
    assert same_bits(said(), first)


def test_what_caches_give_back_lies_as_it_did_when_it_was_made(tmp_path):
    values = {"features": torch.randn(5, 3), "odd": torch.randn(7)}
    cache = BaseCache(tmp_path)
    cache.put("k", {"a": 1}, values)
    _held.save(tmp_path / "need.safetensors", values)
    files = [tmp_path / "need.safetensors", tmp_path / "k" / "tensors.safetensors"]
    assert any(offsets(load_file(f).values()) != {0} for f in files), "nothing lay askew"
    for read in (cache.get("k")[1], _held.load(files[0], "cpu")):
        assert offsets(read.values()) == {0} and all(same_bits(read[n], t) for n, t in values.items())


def test_an_empty_tensor_and_one_number_are_read_back(tmp_path):
    save_file({"none": torch.zeros(0, 3), "one": torch.tensor(2.5)}, tmp_path / "model.safetensors")
    files = Files(tmp_path)
    for name, t in load_file(tmp_path / "model.safetensors").items():
        original = files.original(name, t)
        assert isinstance(original, InFile) and same_bits(original.values, t)
