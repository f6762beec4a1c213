"""The board in headless Chromium: every view in light, dark and on a phone; keyboard; what grows; what it may load."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.board import browser
from tests.board.making import Client, make_run, served
from tests.board.test_board import NASTY
from tunewright.machine import host

VIEWS = {
    "runs": "/",
    "run": "/run/plain",
    "report": "/report/plain",
    "live": "/run/live",
    "broken": "/run/broken",
    "compare": "/compare",
    "papers": "/papers",
    "paper": "/papers/hft",
    "judged": "/papers?base=vision+models",
    "methods": "/methods",
    "method": "/methods/lora",
    "benchmarks": "/benchmarks",
    "start": "/start",
    "nothing": "/papers?q=zzzz",
}


HOSTILE = """<title>x</title><script>document.title = "ran"</script><img src="http://127.0.0.1:9/x" onerror="alert(1)">
<iframe src="/"></iframe><meta http-equiv="refresh" content="0;url=http://127.0.0.1:9/elsewhere">"""


@pytest.fixture(scope="module")
def chromium():
    with browser.opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("browsed")
    make_run(place / "plain")
    make_run(place / "hft", methods=("hft",), seed=1)
    make_run(place / "a-name-that-is-much-longer-than-a-phone-is-wide-and-has-no-place-to-break-in-it", seed=2)
    for i, name in enumerate(NASTY):
        make_run(place / name, seed=3 + i, html=False)
    (make_run(place / "hostile", html=False) / "report.html").write_text(HOSTILE)
    (make_run(place / "broken", html=False) / "report.json").write_text("{")
    live = make_run(place / "live", html=False)
    (live / "report.json").unlink()
    lock = host.Lock(live / ".lock")
    with served(place, allow_run=True) as client:
        yield client
    lock.release()


def go(page, client: Client, path: str) -> None:
    page.goto(client.board.address.rstrip("/") + path)
    page.wait_for_load_state("networkidle") if "live" not in path and path != "/" else page.wait_for_timeout(500)


def says(page, selector: str, text: str) -> None:
    """Wait until a part of the page says it (the page's policy lets playwright's own waiting evaluate nothing)."""
    ends = time.monotonic() + 120
    while text not in page.text_content(selector):
        assert time.monotonic() < ends, page.text_content(selector)
        page.wait_for_timeout(100)


QUICK = {("runs", "light"), ("run", "phone"), ("compare", "dark"), ("papers", "light"), ("broken", "light")}
CASES = [
    pytest.param(view, look, marks=() if (view, look) in QUICK else pytest.mark.slow, id=f"{view}-{look}")
    for view in VIEWS
    for look in browser.SIZES
]


@pytest.mark.parametrize(("view", "look"), CASES)
def test_every_view_is_whole(chromium, client: Client, view: str, look: str):
    with browser.page(chromium, look) as page:
        go(page, client, VIEWS[view])
        assert page.locator("h1").count() == 1
        assert browser.overflow(page) <= 0, "the page is wider than its window"
        assert browser.violations(page) == []


@pytest.mark.parametrize("look", ["light", pytest.param("phone", marks=pytest.mark.slow)])
def test_the_runs_own_report_is_shown_and_works(chromium, client: Client, look: str):
    with browser.page(chromium, look) as page:
        go(page, client, "/run/plain")
        page.get_by_text("The whole report").click()
        frame = page.frame_locator("iframe")
        frame.locator(".filter button").first.wait_for()  # the report's own script runs
        assert browser.overflow(page) <= 0 and page.locator("h1").count() == 1
        inner = page.frames[1]
        assert inner.evaluate("self.origin") == "null", "it has no origin: it can read nothing of the board's"


def test_a_report_that_means_no_good_leads_nowhere_and_reads_nothing(chromium, client: Client):
    context = chromium.new_context()
    try:
        page = context.new_page()
        went, dialogs = [], []
        page.on("framenavigated", lambda frame: went.append(frame.url))
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        page.goto(client.board.address)
        page.goto(client.board.address + "report/hostile")
        page.wait_for_timeout(1500)
        assert page.url.endswith("/report/hostile") and not dialogs
        assert not any("elsewhere" in url for url in went)
        assert page.frames[1].title() != "ran"
    finally:
        context.close()


def test_curves_grow_and_the_end_is_seen(chromium, tmp_path: Path):
    folder = make_run(tmp_path / "live", html=False)
    report = (folder / "report.json").read_text()
    (folder / "report.json").unlink()
    lock = host.Lock(folder / ".lock")
    with served(tmp_path) as client, browser.page(chromium) as page:
        go(page, client, "/run/live")
        page.wait_for_selector(".uplot canvas")
        assert "running" in page.inner_text("[data-refresh=head]")
        with open(folder / "metrics.jsonl", "a") as f:
            f.write(json.dumps({"stage": "main", "step": 4321, "loss": 0.25, "eval_target": 0.5}) + "\n")
        says(page, "[data-last]", "step 4321")
        assert "4321 steps" in page.locator(".curves figure").first.get_attribute("aria-label")
        (folder / "report.json").write_text(report)
        lock.release()
        says(page, "[data-refresh=head]", "finished")


def test_a_new_run_appears_in_the_list(chromium, tmp_path: Path):
    with served(tmp_path) as client, browser.page(chromium) as page:
        go(page, client, "/")
        assert "There is no run here" in page.inner_text("main")
        make_run(tmp_path / "<b>new</b>", html=False)
        says(page, "main", "<b>new</b>")


def test_the_scatter_is_walked_by_keys_and_shows_recipes(chromium, client: Client):
    with browser.page(chromium) as page:
        go(page, client, "/compare")
        page.locator("#scatter svg").focus()
        first = page.inner_text("#picked h2")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#picked h2") != first
        page.wait_for_selector("#picked pre")
        assert "model: nano" in page.inner_text("#picked pre")
        page.select_option("[name=x]", "seconds")
        page.select_option("[name=group]", "")
        page.locator("#scatter .dot").last.hover()
        page.wait_for_selector("#picked pre")
        page.keyboard.press("Tab")
        page.locator("#scatter svg").focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        page.wait_for_url("**/run/**")


def test_the_keyboard_reaches_what_the_page_shows_first(chromium, client: Client):
    with browser.page(chromium) as page:
        go(page, client, "/papers")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == "q"
        page.keyboard.type("forget less")
        page.keyboard.press("Enter")
        page.wait_for_url("**/papers?q=forget*")
        assert "papers" in page.inner_text(".count")


def test_without_scripts_the_figures_are_there(chromium, client: Client):
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(client.board.address + "run/plain")
        assert page.locator(".curves svg").count() >= 2 and page.locator("table.changes tbody tr").count() >= 3
    finally:
        context.close()


def test_another_sites_page_starts_nothing_and_reads_nothing(chromium, client: Client):
    """A page of another origin tries to start a run and to read the runs: both are refused, by browser or server."""
    context = chromium.new_context()
    try:
        page = context.new_page()
        page.goto("data:text/html,<title>elsewhere</title>")
        tried = """async (address) => {
          const out = [];
          for (const options of [{}, {method: "POST", body: "{}"}, {method: "POST", body: "{}", mode: "no-cors"},
                                 {method: "POST", headers: {"X-Tunewright-Token": "x"}, body: "{}"}]) {
            try {
              const a = await fetch(address + "start", options);
              out.push(a.type === "opaque" ? "opaque" : a.status);
            } catch (e) { out.push("refused"); }
          }
          return out;
        }"""
        assert set(page.evaluate(tried, client.board.address)) <= {"refused", "opaque"}
        assert client.board.starter is not None and client.board.starter.told() == []
    finally:
        context.close()


def test_the_form_starts_with_the_token_of_the_address(chromium, client: Client, monkeypatch: pytest.MonkeyPatch):
    starter = client.board.starter
    assert starter is not None
    asked = []
    monkeypatch.setattr(
        starter, "_start", lambda recipe, name: (asked.append((recipe, name)), (202, {"name": name}))[1]
    )
    with browser.page(chromium) as page:
        go(page, client, f"/start#token={starter.token}")
        assert page.input_value("[name=token]") == starter.token and "token" not in page.url
        page.fill("[name=name]", "first")
        page.click("button")
        says(page, "[data-said]", "Started: first")
        assert asked == [("quickstart", "first")]
