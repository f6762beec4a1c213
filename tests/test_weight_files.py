"""Files of weights are read as the format's own library reads them, and an index names files of its folder alone."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tunewright.errors import ModelError
from tunewright.files.hashing import hash_weights, read_header, weight_files


def entry(start: int, stop: int, shape: object = (2,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def written(file: Path, header: dict[str, object] | bytes, size: int) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(range(size)))
    return file


BAD = {
    "two tensors that overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12),
    "a tensor inside another": ({"a": entry(0, 16, (4,)), "b": entry(4, 12)}, 16),
    "a tensor that begins in the header": ({"a": entry(-8, 0), "b": entry(0, 8)}, 8),
    "a tensor that ends before it begins": ({"a": entry(8, 0)}, 8),
    "a hole between two": ({"a": entry(0, 8), "b": entry(12, 20)}, 20),
    "a hole in front": ({"a": entry(8, 16)}, 16),
    "bytes behind the last": ({"a": entry(0, 8)}, 16),
    "fewer bytes than the shape has": ({"a": entry(0, 8, (3,))}, 8),
    "a shape that overflows": ({"a": entry(0, 8, (2**63, 2**63))}, 8),
    "a shape of fractions": ({"a": entry(0, 8, (2.0,))}, 8),
    "offsets as text": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}}, 8),
    "an unknown type": ({"a": entry(0, 8, (2,), "F33")}, 8),
    "a list for a header": (b"[]", 8),
    "a header that nests for ever": (b'{"a":' + b"[" * 100_000, 8),
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_format_forbids_is_refused(name, tmp_path):
    file = written(tmp_path / "model.safetensors", *BAD[name])
    with pytest.raises(ModelError, match="safetensors file") as e:
        read_header(file)
    assert str(file) in str(e.value)
    with pytest.raises(ModelError):
        hash_weights(tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    cuts=st.lists(st.integers(-2, 6), min_size=1, max_size=4).map(lambda c: [4 * x for x in c]),
    lengths=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    size=st.integers(0, 8),
)
def test_what_is_read_is_what_the_library_reads(tmp_path_factory, cuts, lengths, size):
    """Whatever offsets a header states: they are refused, or every tensor has the bytes that the library gives it."""
    header = {f"t{i}": entry(c, c + 4 * n, (n,)) for i, (c, n) in enumerate(zip(cuts, lengths, strict=False))}
    file = written(tmp_path_factory.mktemp("f") / "model.safetensors", header, 4 * size)
    try:
        stored = read_header(file)
    except ModelError:
        return
    raw, tensors = file.read_bytes(), load_file(file)
    assert {t.name: raw[t.start : t.stop] for t in stored} == {n: t.tobytes() for n, t in tensors.items()}


ELSEWHERE = ["../other/model.safetensors", "/etc/model.safetensors", "a/../../b.safetensors", "..\\b.safetensors"]


@pytest.mark.parametrize("name", [*ELSEWHERE, "C:\\b.safetensors", "c:b.safetensors", "config.json", "x\0.safetensors"])
def test_an_index_that_names_a_file_elsewhere_is_refused(name, tmp_path):
    folder, other = tmp_path / "model", tmp_path / "other"
    for at in (folder, other):
        at.mkdir()
        save_file({"a": np.zeros(2, np.float32)}, at / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="which is no safetensors file of this folder"):
        weight_files(folder)


@pytest.mark.parametrize("index", ['{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": []}}', "[]"])
def test_an_index_of_another_form_is_refused(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match="the index of the weights"):
        hash_weights(tmp_path)


def test_a_shard_in_a_folder_below_and_a_link_are_read(tmp_path):
    """As the hub's cache lays them: links out of the folder are the user's own, names out of it are the file's."""
    (tmp_path / "blobs").mkdir()
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "blobs" / "x")
    (tmp_path / "model" / "shards").mkdir(parents=True)
    (tmp_path / "model" / "shards" / "1.safetensors").symlink_to(tmp_path / "blobs" / "x")
    index = {"weight_map": {"a": "shards/1.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [t.name for f in weight_files(tmp_path / "model") for t in read_header(f)] == ["a"]


STARTS = """
import json, subprocess, sys
from tunewright.loading import fetch
from tunewright.trials.pool import Workers
from tunewright.weights import checks
started = []
class Stop(Exception): pass
def popen(command, **_):
    started.append(command)
    raise Stop
subprocess.Popen = popen
class Model: package, version = "a", "1"
import pathlib, tempfile
for start in (
    lambda: fetch.fetch(Model, pathlib.Path(tempfile.mkdtemp())),
    lambda: checks.Checker(1, []),
    lambda: Workers._start(type("W", (), {"threads": 1, "module": "m"})()),
):
    try:
        start()
    except Stop:
        pass
print(json.dumps(started))
"""


def test_no_process_that_is_started_looks_for_modules_in_the_working_folder():
    """A numpy.py that lies where the user happens to stand is never run: Python is started with -P, always."""
    done = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, check=True)
    started = json.loads(done.stdout)
    assert len(started) == 3 and all(c[:2] == [sys.executable, "-P"] for c in started), started
    package = Path(__file__).parent.parent / "tunewright"
    for file in package.rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert "sys.executable" not in line or '[sys.executable, "-P", ' in line, f"{file}: {line}"
