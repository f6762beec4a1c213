"""The board's server: what it shows, what it refuses, and that nothing in a folder can break or leave it."""

from __future__ import annotations

import html
import json
import os
import socket
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.board.making import Client, make_run, make_runs, served
from tests.test_cli import invoke
from tunewright.board import index, library, metrics, runs
from tunewright.board.server import STATIC
from tunewright.errors import FolderError, RecipeError
from tunewright.finished import folders
from tunewright.machine import host
from tunewright.report.terminal_cells import clean

NASTY: tuple[str, ...] = (
    "<script>alert(1)<x>",
    "\"quotes' & <b>",
    "\u202eevil\u2066 name",
    "été-模型-🙂",
    "100% sure? #1",
    "a b",
    "evil..",
)
if sys.platform == "win32":  # its file systems take no other of these names
    NASTY = NASTY[3:4] + NASTY[5:6]
VIEWS = ("/", "/compare", "/papers", "/papers/hft", "/methods", "/benchmarks", "/run/plain")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, one of them with the nastiest names that a file system takes."""
    place = tmp_path_factory.mktemp("board")
    make_run(place / "plain")
    make_run(place / "deeper" / "hft", methods=("hft",), seed=1)
    for name in NASTY:
        make_run(place / name, html=False)
    return place


@pytest.fixture(scope="module")
def asked(place: Path):
    with served(place) as client:
        yield client


def test_every_view_is_a_page_that_may_load_the_boards_files_alone(asked: Client):
    for path in VIEWS:
        answer = asked.ask(path)
        assert answer.status == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8", path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "<script>" not in answer.text and " style=" not in answer.text and "onclick" not in answer.text, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_list_says_what_runs_says(asked: Client, place: Path):
    page = html.unescape(asked.ask("/").text)
    told = json.loads(invoke("runs", str(place), "--json").stdout)
    assert len(told) == 2 + len(NASTY)
    for run in told:
        assert clean(Path(run["folder"]).relative_to(place).as_posix()) in page
    assert page.count('state finished">') == len(told)


@pytest.mark.parametrize("name", NASTY)
def test_names_are_escaped_and_found_again(asked: Client, name: str):
    listed = asked.ask("/").text
    assert f"<bdi>{clean(name)}</bdi>" in html.unescape(listed) and "<script>alert" not in listed
    address = f"/run/{quote(name)}"
    assert f'href="{address}"' in listed
    page = asked.ask(address)
    assert page.status == 200 and "<script>alert" not in page.text and clean(name) in html.unescape(page.text)
    assert "\u202e" not in listed + page.text, "no name turns the text around it"
    assert asked.ask(f"/data/metrics/{quote(name)}").json["step"]
    assert clean(name) in {p["name"] for p in asked.ask("/data/points").json["points"]}


def test_a_name_that_is_no_text_is_shown_and_found(tmp_path: Path):
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    try:
        os.mkdir(raw)
    except OSError:
        pytest.skip("this file system takes no such name")
    os.rmdir(raw)
    make_run(Path(os.fsdecode(raw)), html=False)
    with served(tmp_path) as client:
        assert "/run/caf%E9" in client.ask("/").text
        assert client.ask("/run/caf%E9").status == 200
        assert client.ask("/data/points").json["points"][0]["url"] == "/run/caf%E9"


@pytest.mark.parametrize(
    "path",
    [
        "/run/../../etc/passwd",
        "/run/..%2f..%2fetc%2fpasswd",
        "/data/recipe/..",
        "/data/recipe/deeper/../plain/../../x",
        "/data/report//etc",
        "/static/../server.py",
        "/static/..%2f__init__.py",
        "/static/board.css%00",
        "/run/%00",
        "/report/",
        "/run/",
        "/data/",
        "/data/nothing/plain",
        "/papers/..%2fcards",
        "/methods/os",
        "/comparison/plain",
        "/start",
        "//evil.example/",
        "/nothing",
    ],
)
def test_what_is_not_there_is_not_found(asked: Client, path: str):
    answer = asked.ask(path)
    assert answer.status == 404 and "root:" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:80"])
def test_another_host_is_refused(asked: Client, host: str):
    """A name that an attacker points at this machine would make its pages read ours."""
    assert asked.ask("/", host=host).status == 421
    assert asked.ask("/data/points", host=host).status == 421
    assert asked.ask("/", host=f"localhost:{asked.board.server_port}").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_only_get_and_head_are_answered(asked: Client, method: str):
    for path in ("/", "/start", "/run/plain"):
        answer = asked.ask(path, method, b"{}")
        assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD"


def test_head_is_get_without_a_body(asked: Client):
    assert asked.ask("/papers", "HEAD").text == ""
    assert asked.ask("/papers", "HEAD").headers["Content-Length"] == str(len(asked.ask("/papers").text.encode()))


def test_what_is_no_http_ends_quietly(asked: Client):
    for said in (b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", asked.board.server_port), timeout=120) as s:
            s.sendall(said)
            s.shutdown(socket.SHUT_WR)
            got = b""
            while more := s.recv(4096):
                got += more
            assert b"Traceback" not in got and got.split(b"\n")[0].split(b" ")[-1] != b"OK\r", got
    assert asked.ask("/").status == 200


def test_a_report_is_in_a_sandbox_and_says_nothing_else_may_run(asked: Client):
    answer = asked.ask("/report/plain")
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status == 200 and policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy and "script-src 'sha256-" in policy
    inner = html.unescape(answer.text.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0])
    assert inner in policy, "the report's own script is let through"
    around = asked.ask("/report/plain", Sec_Fetch_Dest="document")
    assert (
        'sandbox="allow-scripts" src="/report/plain"' in around.text
        and "frame-src 'self'" in (around.headers["Content-Security-Policy"])
    )


def test_a_folder_that_goes_meanwhile_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_run(tmp_path / "here", html=False)
    monkeypatch.setattr(index, "FRESH", 0.0)
    monkeypatch.setattr(index, "SHARE", 0.0)
    with served(tmp_path) as client:
        assert client.ask("/run/here").status == 200
        (tmp_path / "here").rename(tmp_path / "there")
        assert client.ask("/run/here").status == 404 and client.ask("/run/there").status == 200


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_runs(tmp_path, 3)
    (tmp_path / "run-0002" / "report.json").unlink()
    read: list[str] = []
    monkeypatch.setattr(index, "FRESH", 0.0)
    monkeypatch.setattr(index, "SHARE", 0.0)
    monkeypatch.setattr(index, "held", lambda folder: read.append(folder.name) or folders.held(folder))
    known = index.Index(tmp_path)
    known.refresh()
    assert sorted(read) == ["run-0000", "run-0001", "run-0002"] and known.reading() == (3, 3)
    read.clear()
    known.refresh()
    assert not read and known.runs()["run-0002"].state == "interrupted"
    with open(tmp_path / "run-0002" / "metrics.jsonl", "a") as f:
        f.write('{"step": 99, "loss": 1.0}\n')
    known.refresh()
    assert read == ["run-0002"]
    lock = host.Lock(tmp_path / "run-0002" / ".lock")
    try:
        known.refresh()
        assert known.runs()["run-0002"].state == "running"
    finally:
        lock.release()
    known.refresh()
    assert known.runs()["run-0002"].state == "interrupted"


def test_a_look_leaves_a_lock_as_it_was(tmp_path: Path):
    file = tmp_path / ".lock"
    file.write_text("12345")
    assert not host.is_locked(file) and file.read_text() == "12345"
    assert not host.is_locked(tmp_path / "none") and not (tmp_path / "none").exists()


def test_folders_are_left_alone_for_much_longer_than_a_look_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now, looks = [0.0], []
    known = index.Index(tmp_path)
    monkeypatch.setattr(index.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(known, "_look", lambda: (looks.append(now[0]), now.__setitem__(0, now[0] + 3.0)))
    known.refresh()
    for later in (10.0, 62.0, 64.0):
        now[0] = later
        known.refresh()
    assert looks == [0.0, 64.0]


def test_a_folder_that_may_not_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_run(tmp_path / "ok", html=False)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refused(place):
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", refused)
    assert [f.name for f in folders.found([tmp_path])] == ["ok"]
    with served(tmp_path) as client:
        assert 'href="/run/ok"' in client.ask("/").text


def test_what_goes_while_a_page_is_made_is_not_found(asked: Client, monkeypatch: pytest.MonkeyPatch):
    def gone(*given):
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(runs, "one", gone)
    assert asked.ask("/run/plain").status == 404


def test_a_runs_page_leads_to_what_was_found_on_such_models(asked: Client):
    page = html.unescape(asked.ask("/run/plain").text)
    assert "/papers?base=causal+language+models" in page or "/papers?base=causal%20language%20models" in page


def test_curves_grow_and_are_sent_when_they_did(tmp_path: Path):
    folder = make_run(tmp_path / "run", html=False)
    (folder / "report.json").unlink()
    with served(tmp_path) as client:
        first = client.ask("/data/metrics/run").json
        assert client.ask(f"/data/metrics/run?since={first['mark']}").json == {
            "mark": first["mark"],
            "state": "interrupted",
        }
        with open(folder / "metrics.jsonl", "a") as f:
            f.write('{"stage": "main", "step": 66, "loss": 0.125}\n{"step": 67, "lo')
        then = client.ask(f"/data/metrics/run?since={first['mark']}").json
        assert then["step"][-1] == 66 and then["columns"]["loss"][-1] == 0.125
        assert len(then["step"]) == len(first["step"]) + 1


def test_long_curves_keep_every_evaluation():
    records = [{"step": i, "loss": 1.0, **({"eval_loss": 2.0} if i % 1000 == 7 else {})} for i in range(20_000)]
    told = metrics.columns(records)
    assert len(told["step"]) <= metrics.MOST + 21 and told["step"][-1] == 19_999
    assert sum(v is not None for v in told["columns"]["eval_loss"]) == 20


def test_the_list_is_searched_sorted_and_paged(tmp_path: Path):
    make_runs(tmp_path, 130)
    with served(tmp_path) as client:
        first = client.ask("/?sort=name").text
        assert first.count('href="/run/') == 100 and "page 1 of 2" in first
        assert client.ask("/?sort=name&page=2").text.count('href="/run/') == 30
        assert client.ask("/?sort=name&page=99").text.count('href="/run/') == 30
        assert client.ask("/?q=run-0012").text.count('href="/run/') == 1
        assert "No run fits" in client.ask("/?state=running").text
        assert client.ask("/?sort=nothing&page=x&q=%ff").status == 200
        best = client.ask("/?sort=target").text.split('href="/run/')[1].split('"')[0]
        gains = {p["name"]: p["figures"]["gain"] for p in client.ask("/data/points").json["points"]}
        assert gains[best] == max(gains.values())


def test_points_have_the_figures_and_groups_of_the_runs(asked: Client, place: Path):
    told = asked.ask("/data/points").json
    assert len(told["groups"]) == 1 and told["groups"][0].endswith(f"{2 + len(NASTY)} runs")
    by_name = {p["name"]: p for p in told["points"]}
    held = folders.held(place / "deeper" / "hft")
    point = by_name["deeper/hft"]
    assert point["figures"]["gain"] == held.gain and point["figures"]["drift"] == held.drift
    assert point["said"]["methods"] == "hft" and "hft" in asked.ask(point["recipe"]).text


def test_what_is_shipped_is_there_with_its_licence(asked: Client):
    for name in STATIC:
        answer = asked.ask(f"/static/{name}")
        assert answer.status == 200 and answer.text
    assert "MIT License" in asked.ask("/static/uplot.LICENSE.txt").text
    assert "http" not in asked.ask("/static/board.js").text
    for name in ("board.js", "curves.js", "scatter.js"):
        assert "innerHTML = " not in asked.ask(f"/static/{name}").text


def test_a_defect_is_one_page_and_the_server_goes_on(asked: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "benchmarks", lambda: 1 / 0)
    answer = asked.ask("/benchmarks")
    assert answer.status == 500 and "ZeroDivisionError" in answer.text and "Traceback" not in answer.text
    assert asked.ask("/").status == 200


def test_a_folder_and_a_port_that_cannot_be_had(tmp_path: Path, asked: Client):
    assert invoke("board", str(tmp_path / "none")).exit_code == FolderError.code
    (tmp_path / "runs").mkdir()
    taken = invoke("board", str(tmp_path / "runs"), "--port", str(asked.board.server_port))
    assert taken.exit_code == RecipeError.code and "--port" in taken.output
