"""Originals read back from the base's file are the base's bits, whatever happens to the name of the file."""

from __future__ import annotations

import os

import pytest
import torch

from tests import tiny
from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.models.originals import Files, InFile, Original


@pytest.fixture
def base(tmp_path):
    model = tiny.llama(tied=False)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    return Adapted(model.float()), tmp_path


def test_whole_tensors_come_back_bit_for_bit_without_a_copy_in_memory(base):
    adapted, folder = base
    adapted.files = Files(folder)
    first = {n: p.detach().clone() for n, p in adapted.base_parameters().items()}
    for n, p in adapted.base_parameters().items():
        adapted.remember(n)
        p.data.add_(1.0)
    assert all(type(o) is InFile and "values" not in vars(o) for o in adapted.originals.values())
    with adapted.base() as model:
        assert all(torch.equal(p, first[n]) for n, p in model.named_parameters())
    half = adapted.tuned_state(0.5)
    assert all(torch.equal(half[n], torch.lerp(first[n], first[n] + 1.0, 0.5)) for n in first)
    adapted.forget_changes()
    assert all(torch.equal(p, first[n]) for n, p in adapted.base_parameters().items())


def test_a_file_that_is_deleted_is_still_read(base):
    adapted, folder = base
    adapted.files = Files(folder)
    name, p = next(iter(adapted.base_parameters().items()))
    first = p.detach().clone()
    adapted.remember(name)
    (folder / "model.safetensors").unlink()
    assert torch.equal(adapted.originals[name].values, first)


def test_a_file_that_is_written_to_is_refused(base):
    adapted, folder = base
    adapted.files = Files(folder)
    name = next(iter(adapted.base_parameters()))
    adapted.remember(name)
    file = folder / "model.safetensors"
    os.utime(file, ns=(1, 1))
    with pytest.raises(ModelError, match="was changed"):
        _ = adapted.originals[name].values


def test_what_the_file_does_not_hold_is_copied(base):
    adapted, folder = base
    files = Files(folder)
    name, p = next(iter(adapted.base_parameters().items()))
    assert type(files.original(name, p.detach() + 1e-3)) is Original  # changed since it was loaded, or rounded
    assert type(files.original("another.name", p)) is Original
    assert type(files.original(name, torch.zeros(3, 5))) is Original
    assert type(files.original(name, p)) is InFile


def test_entries_of_a_tensor_stay_in_memory_and_grow_to_the_whole(base):
    adapted, folder = base
    adapted.files = Files(folder)
    name, p = next(iter(adapted.base_parameters().items()))
    first = p.detach().clone()
    adapted.remember(name, torch.tensor([1, 5]))
    p.data.view(-1)[[1, 5]] += 1.0
    adapted.remember(name)
    assert torch.equal(adapted.originals[name].values, first)
