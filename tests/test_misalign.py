"""What `--misalign` does: other addresses, other rounding where operands lie askew, and nothing else."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tests.misalign import ALIGNED, VARIABLE, Askew, at, lies_askew, odd_allocations, pad_header
from tunewright.files.hashing import hash_weights
from tunewright.models.agreement import agrees, differing, same_bits

VALUES = {"w": torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), "b": torch.ones(5)}


def header(file: Path) -> int:
    """Bytes of a safetensors file's header."""
    return int(struct.unpack("<Q", file.read_bytes()[:8])[0])


@pytest.fixture
def under(request):
    if request.config.getoption("--misalign") is not None:
        pytest.skip("the suite's own is in force")
    askew = Askew("a seed").begin()
    yield askew
    askew.end()


def test_it_is_in_force_where_it_was_asked_for(request):
    asked = request.config.getoption("--misalign")
    wrapped = F.linear.__module__ == Askew.__module__
    assert wrapped is (asked is not None) and os.environ.get(VARIABLE) == asked


def test_a_padded_file_holds_the_same_tensors_elsewhere(tmp_path):
    (tmp_path / "padded").mkdir()
    for folder in (tmp_path, tmp_path / "padded"):
        save_file(VALUES, folder / "model.safetensors")
    before = header(tmp_path / "padded/model.safetensors")
    pad_header(tmp_path / "padded/model.safetensors", 3)
    assert header(tmp_path / "padded/model.safetensors") == before + 24
    assert not differing(VALUES, load_file(tmp_path / "padded/model.safetensors"))
    assert hash_weights(tmp_path) == hash_weights(tmp_path / "padded")


def test_files_written_under_it_map_to_other_addresses_by_the_tests_name(tmp_path, under):
    def headers(name: str) -> list[int]:
        under.draw(name)
        files = [tmp_path / f"{i}.safetensors" for i in range(8)]
        for i, file in enumerate(files):
            values = {n: t + i for n, t in VALUES.items()}
            save_file(values, file)
            assert not differing(values, load_file(file))
            again = file.with_suffix(".again")
            save_file(values, again)
            assert again.read_bytes() == file.read_bytes()  # equal contents stay equal files
        return [header(f) for f in files]

    first = headers("one")
    assert len(set(first)) > 2 and headers("one") == first and headers("two") != first


def test_products_round_by_where_their_operands_lie_and_are_themselves_afterwards():
    x, w, b = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)), VALUES["w"], VALUES["b"]
    products = [
        lambda w, b: F.linear(x, w, b),
        lambda w, b: torch.addmm(b, x, w.t()),
        lambda w, b: torch.matmul(x, w.t()),
        lambda w, b: x @ w.t(),
    ]
    plain = [f(w, b) for f in products]
    askew = Askew("s").begin()
    try:
        for f, before in zip(products, plain, strict=True):
            assert same_bits(f(w, b), before) and same_bits(f(w[:], b), before)
            assert not same_bits(f(at(w, 8), b), before) and agrees(f(at(w, 8), b), before)
        assert same_bits(F.linear(x.bfloat16(), at(w.bfloat16(), 8)), F.linear(x.bfloat16(), w.bfloat16()))
    finally:
        askew.end()
    assert all(same_bits(f(w, b), before) for f, before in zip(products, plain, strict=True))


def test_places_and_holes():
    assert not lies_askew(VALUES["w"]) and not lies_askew(VALUES["w"][1:]) and not lies_askew(at(VALUES["b"], 0))
    for offset in range(4, ALIGNED, 4):
        assert lies_askew(at(VALUES["b"], offset)) and same_bits(at(VALUES["b"], offset), VALUES["b"])
    sizes = [len(a) for a in odd_allocations(random.Random(0))]
    assert len(sizes) == 20 and all(n % 2 for n in sizes)
