"""Folders and addresses that mean no good, or are half written: nothing breaks the board or leads out of its folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.board.making import Client, make_run, served

PARTS = "run data metrics .. %2e%2e %2f plain %00 %ff ?q= & static recipe report papers methods # ; //".split()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("fuzzed")
    make_run(place / "plain")
    with served(place) as client:
        yield client


@given(
    st.one_of(
        st.text(st.characters(codec="ascii", exclude_characters="\x7f", min_codepoint=33)),
        st.lists(st.sampled_from(PARTS)).map("/".join),
    )
)
@settings(max_examples=150, deadline=None)
def test_no_address_is_a_defect(asked: Client, path: str):
    answer = asked.ask("/" + path)
    assert answer.status in (200, 400, 404, 422) and "root:" not in answer.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes, and links for administrators alone")
def test_links_that_lead_out_and_pipes_are_no_files(tmp_path: Path):
    secret = tmp_path / "secret"
    make_run(secret / "run")
    (secret / "run" / "recipe.yaml").write_text("token: hidden-token")
    runs = tmp_path / "runs"
    make_run(runs / "ok")
    for name in ("report.json", "recipe.yaml", "metrics.jsonl", "report.html"):
        folder = make_run(runs / f"link-{name}")
        (folder / name).unlink()
        (folder / name).symlink_to(secret / "run" / name)
    (runs / "linked").symlink_to(secret / "run")
    circle = make_run(runs / "circle", html=False) / "report.json"
    circle.unlink()
    circle.symlink_to(circle)
    os.mkfifo(make_run(runs / "pipe", html=False) / "rows.jsonl")
    pipe = make_run(runs / "pipes", html=False) / "metrics.jsonl"
    pipe.unlink()
    os.mkfifo(pipe)
    with served(runs) as client:
        listed = client.ask("/").text
        assert "linked" not in listed and "hidden-token" not in listed
        states = {p["name"]: p["said"]["state"] for p in client.ask("/data/points").json["points"]}
        assert states["ok"] == states["pipe"] == "finished"
        assert {states[n] for n in states if n not in ("ok", "pipe", "link-report.html")} == {"unreadable"}
        for name in states:
            page = client.ask(f"/run/{name}")
            assert page.status == 200 and "hidden-token" not in page.text
        assert client.ask("/data/recipe/link-recipe.yaml").status == 404
        assert client.ask("/report/link-report.html").status == 404


BROKEN = {
    "report.json": [
        "",
        "{",
        "[]",
        "5",
        "null",
        '{"run": 5}',
        '{"run": {"status": "finished"}}',
        "[" * 100_000,
        '"\\ud800"',
        "\xff",
        '{"version": 1, "run": {"name": "x", "status": "finished"}, "trained": {"methods": []}}',
    ],
    "metrics.jsonl": ["", "{", "5\n[]\n", '{"step": "x", "loss": "y"}\n', '{"step": 1e999, "loss": NaN}\n', "[" * 9999],
    "recipe.yaml": ["", "{", "- : :", "a: &a [*a]", "\x00", "!!python/object:os.system {}"],
    "begun.json": ["", "[]", '{"content": 5}', '{"content": {"the eval rows": {}}}'],
    "progress.json": ["", "[]"],
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("ended", [True, False])
def test_half_written_folders_are_shown_as_such(tmp_path: Path, name: str, ended: bool):
    for i, text in enumerate(BROKEN[name]):
        folder = make_run(tmp_path / f"run-{i}", html=False)
        if not ended and name != "report.json":
            (folder / "report.json").unlink()
        (folder / name).write_bytes(text.encode("latin-1"))
    with served(tmp_path) as client:
        for i in range(len(BROKEN[name])):
            for path in (f"/run/run-{i}", f"/data/metrics/run-{i}", "/", "/data/points", f"/data/recipe/run-{i}"):
                answer = client.ask(path)
                assert answer.status == 200 and "Traceback" not in answer.text, (path, answer.text[-300:])
