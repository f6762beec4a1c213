"""`board --allow-run`: who may start a run, what may be started, and that it is the ordinary run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.board.making import Client, served
from tunewright.board import starting

RECIPE = {"recipe": "small.yaml", "name": "first"}


@pytest.fixture
def client(tmp_path: Path):
    (tmp_path / "small.yaml").write_text("model: nano\n")
    with served(tmp_path, allow_run=True) as client:
        yield client


def start(client: Client, body: Any = RECIPE, **changes: str):
    server = client.board
    headers = {
        "X-Tunewright-Token": server.starter.token if server.starter else "",
        "Content-Type": "application/json",
        "Origin": server.address.rstrip("/"),
        **changes,
    }
    return client.ask("/start", "POST", body if isinstance(body, bytes) else json.dumps(body), **headers)


class Fake:
    """In the place of a process."""

    calls: list[list[str]] = []

    def __init__(self, command: list[str], **options: Any):
        Fake.calls.append(command)
        self.options, self.code = options, None
        options["stdout"].write(b"loading\n")

    def poll(self):
        return self.code


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    Fake.calls = []
    monkeypatch.setattr(starting.subprocess, "Popen", Fake)
    return Fake


def test_a_run_is_the_ordinary_command_below_the_folder(client: Client, fake):
    answer = start(client)
    assert answer.status == 202 and answer.json == {"name": "first", "url": "/run/first"}
    root = client.board.index.root
    command = [sys.executable, "-P", "-m", "tunewright", "run", str(root / "small.yaml"), "--out", str(root / "first")]
    assert fake.calls == [command]
    told = client.ask("/data/started").json
    assert told[0]["said"] == "loading\n" and told[0]["code"] is None
    assert "loading" in client.ask("/start").text
    assert start(client, {**RECIPE, "name": "second"}).status == 409, "one at a time"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"X-Tunewright-Token": ""}, 403),
        ({"X-Tunewright-Token": "wrong"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_who_has_no_token_or_comes_from_elsewhere_starts_nothing(client: Client, fake, changes: dict, status: int):
    assert start(client, **changes).status == status and not fake.calls


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"[" * 9999,
        {"recipe": "small.yaml"},
        {"recipe": "../small.yaml", "name": "a"},
        {"recipe": "/etc/passwd", "name": "a"},
        {"recipe": ["small.yaml"], "name": "a"},
        {"recipe": "small.yaml", "name": "../a"},
        {"recipe": "small.yaml", "name": "--set"},
        {"recipe": "small.yaml", "name": ""},
        {"recipe": "small.yaml", "name": "a/b"},
        {"recipe": "small.yaml", "name": ".hidden"},
        {"recipe": "small.yaml", "name": 5},
        {"recipe": "small.yaml", "name": "a\n"},
    ],
)
def test_what_is_no_recipe_or_no_name_is_refused(client: Client, fake, body: Any):
    assert start(client, body).status == 400 and not fake.calls


def test_a_folder_that_is_there_is_not_written_into(client: Client, fake):
    (client.board.index.root / "first").mkdir()
    assert start(client).status == 409 and not fake.calls


def test_long_bodies_and_those_of_no_length_are_not_read(client: Client, fake):
    assert start(client, b"x" * 20_000).status == 413
    assert client.ask("/start", "POST").status == 413 and not fake.calls


def test_without_the_flag_there_is_no_page_and_no_token(tmp_path: Path):
    with served(tmp_path) as client:
        assert client.board.starter is None and client.ask("/start").status == 404
        assert start(client).status == 405 and "Start</a>" not in client.ask("/").text


def test_recipes_of_runs_and_links_that_lead_out_are_not_offered(client: Client, tmp_path_factory):
    root = client.board.index.root
    (root / "run").mkdir()
    (root / "run" / "recipe.yaml").write_text("")
    (root / "run" / "mine.yaml").write_text("")
    outside = tmp_path_factory.mktemp("outside") / "x.yaml"
    outside.write_text("")
    (root / "linked.yaml").symlink_to(outside)
    assert client.board.starter.recipes() == ["quickstart", "run/mine.yaml", "small.yaml"]


@pytest.mark.slow
def test_a_real_run_is_started_and_shown(tmp_path: Path):
    """The verb in a process of its own; the run that is started goes to its end and is in the list."""
    small.write_inputs(tmp_path)
    small.write_recipe(tmp_path, "small", stages__0__budget={"steps": 2})
    with served(tmp_path, allow_run=True) as client:
        assert start(client).status == 202
        ends = time.monotonic() + 180
        while client.ask("/data/started").json[0]["code"] is None and time.monotonic() < ends:
            time.sleep(0.5)
        told = client.ask("/data/started").json[0]
        assert told["code"] == 0, told["said"]
        time.sleep(2.1)
        assert 'href="/run/first"' in client.ask("/").text


def test_the_verb_serves_until_it_is_interrupted(tmp_path: Path):
    command = [sys.executable, "-m", "tunewright", "board", str(tmp_path), "--port", "0", "--json", "--allow-run"]
    # of a shell's background jobs the interrupt may be ignored, and children take that over
    heard: dict[str, Any] = (
        {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **heard)
    try:
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended"
        told = json.loads("".join(lines))
        assert told["folder"] == str(tmp_path.resolve()) and len(told["token"]) > 20
        import urllib.request

        with urllib.request.urlopen(told["address"], timeout=120) as answer:
            assert answer.status == 200
        process.send_signal(2)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
