"""`tunewright init`: for data at an address or built in, and only for a model that does what the rows are for."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import small, tiny
from tunewright.errors import DataError, ModelError
from tunewright.planning.init import starter, write_recipe
from tunewright.recipe import Recipe


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small.write_inputs(tmp_path, train=40, test=4)
    choices = [{"question": "card lost", "choices": ["cash", "fee"], "label": i % 2} for i in range(30)]
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, choices)))
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_data_at_an_address_is_measured_and_named_by_it(folder: Path, address: str) -> None:
    write_recipe(str(folder / "base"), f"{address}/train.jsonl", None, folder / "first.yaml")
    assert "# Measured: 40 rows" in (folder / "first.yaml").read_text()
    (source,) = Recipe.load(folder / "first.yaml").data.train
    assert source.path == f"{address}/train.jsonl"
    with pytest.raises(DataError, match="there is no such file"):
        starter(str(folder / "base"), f"{address}/trian.jsonl")


def test_built_in_data_keep_their_name(folder: Path) -> None:
    text = starter(str(folder / "base"), "quickstart:train", file=str(folder / "somewhere" / "first.yaml"))
    assert "  train: quickstart:train " in text and "# Measured: 1,020 rows" in text


def test_what_is_no_file_and_no_name_is_told_what_is_near(folder: Path) -> None:
    for wrong in (str(folder / "trian.jsonl"), str(folder / "rows")):
        with pytest.raises(DataError, match="no such file"):
            starter(str(folder / "base"), wrong)


def test_a_model_that_does_not_do_what_the_rows_are_for_gets_no_recipe(folder: Path) -> None:
    with pytest.raises(ModelError, match="a llama model does not do multiple-choice") as caught:
        write_recipe(str(folder / "base"), str(folder / "choices.jsonl"), None, folder / "first.yaml")
    assert "it does: " in str(caught.value) and not (folder / "first.yaml").exists()
    with pytest.raises(ModelError, match="no model 'minilm'"):
        starter("minilm", folder / "choices.jsonl")
    tiny.bert().save_pretrained(folder / "encoder"), tiny.tokenizer().save_pretrained(folder / "encoder")
    assert "task: multiple-choice" in starter(str(folder / "encoder"), folder / "choices.jsonl")
    assert "task: multiple-choice" in starter("./not-here", folder / "choices.jsonl")


def test_rows_that_two_tasks_read_name_both(folder: Path) -> None:
    rows = [{"query": "card", "positive": "cash", "negatives": ["fee", "top up"]} for _ in range(30)]
    (folder / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = starter("./not-here", folder / "lists.jsonl")
    assert "task: sentence-similarity" in text and "text-ranking reads them too" in text
