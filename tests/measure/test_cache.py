from __future__ import annotations

import logging

import pytest
import torch

from tests.measure.making import answer_rows
from tunewright.contract.batch import Row
from tunewright.measure import generate, kept
from tunewright.measure.cache import BaseCache, code_hash, rows_hash


def _compute(calls):
    def compute():
        calls.append(1)
        return {"rows": [{"score": 0.1 + len(calls)}], "n": 2}, {"states": torch.arange(6.0).view(2, 3)}

    return compute


def test_computed_once_and_read_back_equal(tmp_path):
    cache, calls = BaseCache(tmp_path), []
    key = cache.key("base", "rows", {"metric": "loss"})
    (values, tensors), hit = cache.cached(key, _compute(calls))
    (again, states), second = BaseCache(tmp_path).cached(key, _compute(calls))
    assert (
        (hit, second, len(calls)) == (False, True, 1)
        and again == values
        and torch.equal(states["states"], tensors["states"])
    )
    assert [p.name for p in tmp_path.iterdir()] == [key]


def test_everything_that_changes_numbers_changes_the_key(tmp_path):
    cache = BaseCache(tmp_path)
    keys = [cache.key(b, r, {"a": 1}) for b, r in (("b", "r"), ("c", "r"), ("b", "s"))]
    keys += [cache.key("b", "r", {"a": 2}), cache.key("b", "r", {"a": 1}, "code")]
    assert len(set(keys)) == 5 and cache.key("b", "r", {"x": 1, "y": 2}) == cache.key("b", "r", {"y": 2, "x": 1})
    assert code_hash((generate,)) != code_hash((kept,)) and code_hash() == code_hash()
    rows = answer_rows(4)
    assert rows_hash(rows) == rows_hash(answer_rows(4)) != rows_hash(rows[:3])
    a, b = (
        rows_hash([Row("i", "s", label=1, weights=[1.0], fields={"pixel_values": torch.full((1, 2), v)})])
        for v in (0.0, 1.0)
    )
    assert a != b


@pytest.mark.parametrize("name", ["values.json", "tensors.safetensors"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_entry_is_made_again(tmp_path, name, how, caplog):
    cache, calls = BaseCache(tmp_path), []
    cache.cached("k", _compute(calls))
    path = tmp_path / "k" / name
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        at = data.index(b"0.1") if b"0.1" in data else len(data) - 3
        data[at] ^= 1
        path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    with caplog.at_level(logging.WARNING):
        (values, _), hit = cache.cached("k", _compute(calls))
    assert not hit and len(calls) == 2 and (how == "gone" or "made again" in caplog.text)
    assert cache.cached("k", _compute(calls))[1] and len(calls) == 2


def test_a_cache_that_cannot_be_written_is_said_and_no_error(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        (values, _), hit = BaseCache(tmp_path / "file").cached("k", _compute([]))
    assert values["n"] == 2 and not hit and "not cached" in caplog.text


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path))
    assert BaseCache().folder == tmp_path / "measure"
