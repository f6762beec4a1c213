"""Files at addresses: brought once, anew when their server says so, one at a time where they are streamed."""

from __future__ import annotations

import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from tests import tiny
from tunewright.contract.task import EncodeOptions
from tunewright.data import remote
from tunewright.data.dataset import build, cursor
from tunewright.data.read import read_all
from tunewright.errors import DataError, MissingExtraError
from tunewright.recipe import Source
from tunewright.tasks import get_task


class Counting(SimpleHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "web").mkdir()
    Counting.asked.clear()
    running = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Counting, directory=str(tmp_path / "web")))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", tmp_path / "web"
    running.shutdown()
    running.server_close()


class Bucket(MemoryFileSystem):
    """A store in memory under the name of one that needs a library and an account."""

    protocol = "s3"
    store: dict = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("s3://") if isinstance(path, str) else path)


@pytest.fixture
def bucket():
    before = _registry.get("s3")
    fsspec.register_implementation("s3", Bucket, clobber=True)
    Bucket.store.clear()
    yield Bucket()
    Bucket.store.clear()
    if before is None:
        _registry.pop("s3")
    else:
        fsspec.register_implementation("s3", before, clobber=True)


@pytest.fixture(autouse=True)
def asked_anew():
    remote.listed.cache_clear()
    yield
    remote.listed.cache_clear()


def rows(count: int, start: int = 0) -> bytes:
    return b"".join(json.dumps({"text": f"light {start + i}"}).encode() + b"\n" for i in range(count))


def texts(path: str) -> list[str]:
    return [r["text"] for r in read_all(Source(path=path)).records]


def test_a_file_is_brought_once_and_anew_when_it_changes(server):
    address, folder = server
    (folder / "a.jsonl").write_bytes(rows(3))
    assert texts(f"{address}/a.jsonl") == ["light 0", "light 1", "light 2"]
    assert texts(f"{address}/a.jsonl") == ["light 0", "light 1", "light 2"]
    assert Counting.asked.count("/a.jsonl") <= 2  # one may be fsspec's look at the size
    (folder / "a.jsonl").write_bytes(rows(2))
    remote.listed.cache_clear()
    assert texts(f"{address}/a.jsonl") == ["light 0", "light 1"]


def test_folders_and_patterns_of_a_store(bucket):
    for name, start in (("data/b.jsonl", 10), ("data/a.jsonl", 0), ("data/notes.pdf", 0), ("other/c.jsonl", 20)):
        bucket.pipe_file(name, rows(2, start))
    assert texts("s3://data") == ["light 0", "light 1", "light 10", "light 11"]
    assert texts("s3://data/b*.jsonl") == ["light 10", "light 11"]
    assert texts("s3://other/c.jsonl") == ["light 20", "light 21"]
    with pytest.raises(DataError, match="no file that can be read"):
        texts("s3://data/*.pdf")


def test_a_streamed_source_is_brought_a_file_at_a_time_and_leaves_nothing(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr("tunewright.data.dataset.HEAD", 2)
    held: list[int] = []
    bring = remote._bring

    def bringing(file, to):
        held.append(1)
        bring(file, to)

    monkeypatch.setattr(remote, "_bring", bringing)
    for k in range(3):
        bucket.pipe_file(f"data/{k}.jsonl", rows(5, 5 * k))
    source = Source(path="s3://data", streaming=True)
    data = build([source], get_task("text-generation"), tiny.tokenizer(), EncodeOptions(), tmp_path / "rows", window=4)
    assert len(held) == 1  # the first rows are in the first file
    at = cursor(data, seed=0, batch_tokens=20)
    seen = []
    while at.read < 15:
        seen += [r.id for r, _ in at.next_batch()]
    assert len(set(seen[:15])) == 15 and not (tmp_path / "cache" / "remote").exists()
    other = cursor(data, seed=0, batch_tokens=20)
    other.restore(at.state())
    assert [r.id for r, _ in other.next_batch()] == [r.id for r, _ in at.next_batch()]


def test_a_break_while_it_is_brought_leaves_no_half_file(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "cache_folder", lambda: tmp_path / "cache")
    bucket.pipe_file("data/a.jsonl", rows(3))

    def breaks(self, path, to, **more):
        Path(to).write_bytes(b"half")
        raise ConnectionResetError("the line went dead")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "get_file", breaks)
        with pytest.raises(MissingExtraError, match="the line went dead"):
            texts("s3://data/a.jsonl")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    assert len(texts("s3://data/a.jsonl")) == 3


@pytest.mark.parametrize(
    "path, kind, says",
    [
        ("gopher://x/a.jsonl", DataError, "gopher:// are not read"),
        ("simplecache::https://x/a.jsonl", DataError, "are not read"),
        ("file:///etc/passwd.txt", DataError, "are not read"),
        ("http://127.0.0.1:9/a.jsonl", MissingExtraError, "cannot be read"),
    ],
)
def test_what_is_no_address_of_ours_is_refused(path, kind, says):
    with pytest.raises(kind, match=says):
        texts(path)


def test_a_missing_file_and_a_split_are_said(server):
    address, _ = server
    with pytest.raises(DataError, match="no such file"):
        texts(f"{address}/none.jsonl")
    with pytest.raises(DataError, match="no split"):
        read_all(Source(path=f"{address}/a.jsonl", split="train"))


def test_a_missing_library_is_named_with_what_to_install(monkeypatch):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError, match="s3fs") as caught:
        texts("s3://bucket/a.jsonl")
    assert "tunewright[remote]" in caught.value.remedy
