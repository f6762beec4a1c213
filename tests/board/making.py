"""Run folders as runs leave them, made without running; a server over them, asked over the wire."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.report.example import make_example, make_metrics, make_rows
from tunewright.board.server import Board
from tunewright.report import page

RECIPE = (
    "model: nano\ntask: text-generation\nstages:\n- name: main\n  methods:\n  - {methods}\n  budget: {{steps: 65}}\n"
)


def make_run(folder: Path, *, methods: Sequence[str] = ("lora",), seed: int = 0, html: bool = True) -> Path:
    """A finished run with figures of its own."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    report = make_example()
    told = json.loads(report.dumps())
    told["trained"]["methods"] = [{"name": name} for name in methods]
    told["run"]["name"] = "as it was called"
    for part, key in ((told["target"], "after"), (told["drift"], "value")):
        part[key]["value"] *= 0.5 + draw.random()
    (folder / "report.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in make_metrics()), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(methods=methods[0]), encoding="utf-8")
    (folder / "begun.json").write_text(json.dumps({"content": {"the eval rows": "abc"}}), encoding="utf-8")
    if html:
        page.render(report, make_metrics(), make_rows(), folder)
    return folder


def make_runs(place: Path, count: int) -> None:
    """Many finished runs: the first is made, the others are copies with figures and names of their own."""
    first = make_run(place / "run-0000", html=False)
    told = json.loads((first / "report.json").read_text(encoding="utf-8"))
    draw = random.Random(5)
    for i in range(1, count):
        folder = shutil.copytree(first, place / f"run-{i:04}")
        told["target"]["after"]["value"] = draw.random()
        told["drift"]["value"]["value"] = 2 * draw.random()
        told["trained"]["methods"] = [{"name": draw.choice(("lora", "hft", "full", "lift", "dora"))}]
        (folder / "report.json").write_text(json.dumps(told, indent=2), encoding="utf-8")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """Asks one board; `Host` is right unless another is given."""

    def __init__(self, board: Board):
        self.board = board

    def ask(
        self, path: str, method: str = "GET", body: str | bytes | None = None, host: str | None = None, **headers: str
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.board.server_port, timeout=120)
        try:
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", host if host is not None else f"127.0.0.1:{self.board.server_port}")
            data = body.encode() if isinstance(body, str) else body
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(data)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode("utf-8", "replace"))
        finally:
            connection.close()


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Client]:
    """A board over a folder, whose index is whole."""
    with Board(folder, 0, **options) as board:
        thread = threading.Thread(target=board.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        board.reading.join()
        try:
            yield Client(board)
        finally:
            board.shutdown()
            thread.join()
