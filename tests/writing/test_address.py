"""An OpenAI-compatible address as a writer: what it is asked, what of its answers is taken, and how it may fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.answering import Said, says, serving, went_on
from tunewright.contract.records import Record
from tunewright.contract.writer import Continue, Journal
from tunewright.errors import ModelError, RecipeError
from tunewright.loading import address
from tunewright.loading.address import RemoteWriter
from tunewright.planning.check import check_recipe
from tunewright.recipe import ModelSpec, Recipe
from tunewright.runs.run import resume, run
from tunewright.trials.trial_key import key_of


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, which are not waited for."""
    found: list[float] = []
    monkeypatch.setattr(address, "_wait", lambda stop, seconds: found.append(seconds))
    return found


def writer(url: str, journal: Journal | None = None, **more: Any) -> RemoteWriter:
    spec = ModelSpec(name="big", url=url, **more)
    return RemoteWriter("teacher", spec=spec, stage="s", journal=journal or Journal())


def test_what_is_asked_and_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sesame")

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
        return went_on("and on") if path.endswith("/completions") and "prompt" in body else says("two words")

    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    row = Record({"prompt": "What?", "completion": "gold", "system": "S"}, id="r:1")
    talk = Record({"messages": [*chat, {"role": "assistant", "content": "gold"}]}, id="r:2")
    with serving(answer) as server:
        one = writer(server.url, api_key_env="A_KEY")
        found = one.generate(["Hello", chat, row, talk, Continue("Once")], max_new_tokens=9, temperature=0.5)
    by = {json.dumps(b.get("messages", b.get("prompt"))): (p, b, h) for p, b, h in server.requests}
    assert set(by) == {
        json.dumps([{"role": "user", "content": "Hello"}]),
        json.dumps(chat),
        json.dumps([{"role": "system", "content": "S"}, {"role": "user", "content": "What?"}]),
        '"Once"',
    }
    assert len(server.requests) == 5
    for path, body, headers in server.requests:
        assert path == ("/v1/completions" if "prompt" in body else "/v1/chat/completions")
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("big", 9, 0.5)
        assert headers["Authorization"] == "Bearer sesame"
    assert len({b["seed"] for _, b, _ in server.requests}) == 5, "each draw has a seed of its own"
    assert [w.text for (w,) in found] == ["two words"] * 4 + ["and on"]
    assert all(w.ended and w.tokens == 2 and w.log_prob is None and w.writer == "teacher" for (w,) in found)
    assert one.counts["read"] == 4 * 7 and one.counts["replies"] == 5
    assert "sesame" not in json.dumps(list(one.journal.entries.values()))


def test_answers_that_are_none_say_so() -> None:
    said = {"empty": says(None), "blank": says("  "), "long": says("so much", reason="length")}
    said |= {"kept": says("", reason="content_filter"), "no": says(None, refusal="I will not")}
    with serving(lambda path, body, headers: said[body["messages"][0]["content"]]) as server:
        one = writer(server.url)
        found = {name: one.generate([name])[0][0] for name in said}
    assert found["empty"].nothing == found["blank"].nothing == "the writer gave nothing"
    assert not found["long"].ended and not found["long"].nothing
    assert found["kept"].nothing == "refused: the address's filter kept it back"
    assert found["no"].nothing == "refused: I will not"
    assert (one.counts["empty"], one.counts["refused"], one.counts["cut"]) == (2, 2, 1)


def test_what_may_pass_is_tried_again(waits: list[float]) -> None:
    calls = [0]

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
        calls[0] += 1
        if calls[0] == 1:
            return 429, {"Retry-After": "17"}, {"error": "slow down"}
        if calls[0] == 2:
            return 503, {}, b"busy"
        if calls[0] == 3:
            raise ConnectionError
        return says("at last")

    with serving(answer) as server:
        assert writer(server.url).generate(["x"])[0][0].text == "at last"
    assert waits == [17.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, {}, {"error": "no luck"}), ("500", "no luck", "5 times in a row", "tunewright resume")),
        ((401, {}, {"error": "who?"}), ("401", "who?", "api_key_env")),
        ((404, {}, b"nothing here"), ("404", "nothing here", "/v1")),
        ((400, {}, {"error": "bad seed"}), ("400", "bad seed")),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""), ("302", "none that it leads to is followed")),
        ((200, {}, b"<html>"), ("no JSON",)),
        ((200, {}, {"answer": "x"}), ("another shape", "OpenAI-compatible")),
        ((200, {}, {"choices": []}), ("another shape",)),
        ((200, {}, {"choices": [{"message": {"content": [1]}}]}), ("another shape", "list")),
        ((200, {}, [1]), ("another shape",)),
        ((200, {}, b"[" * 100_000), ("no JSON",)),
        ((200, {}, says("x" * 2**14)[2]), ("larger than", "max_new_tokens 128", "heeds max_tokens")),
    ],
)
def test_what_does_not_pass_ends_with_one_message(
    monkeypatch: pytest.MonkeyPatch, answer: Said, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(address, "LARGEST", 2**13 if "larger than" in words else address.LARGEST)
    with serving(lambda *given: answer) as server, pytest.raises(ModelError) as e:
        writer(server.url).generate(["x"])
    assert all(word in str(e.value) for word in words), str(e.value)
    assert len(server.requests) == (5 if answer[0] == 500 else 1)


def test_an_address_that_is_slow_or_not_there(waits: list[float]) -> None:
    def slow(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
        time.sleep(0.3)
        return says("late")

    with serving(slow) as server, pytest.raises(ModelError, match=r"no answer within 0.05 s \(5 times"):
        writer(server.url, timeout=0.05).generate(["x"])
    with pytest.raises(ModelError, match="no connection"):
        writer("http://127.0.0.1:9/v1").generate(["x"])
    assert len(waits) == 8


def test_an_answer_that_breaks_off_may_be_whole_the_next_time(waits: list[float]) -> None:
    whole = says("whole")
    said = [(200, {"Content-Length": "9999"}, json.dumps(whole[2]).encode()), whole]
    with serving(lambda *given: said.pop(0)) as server:
        assert writer(server.url).generate(["x"])[0][0].text == "whole"
    assert waits == [1.0]


def test_an_answer_that_trickles_in_runs_into_the_limit() -> None:
    def drops() -> Iterator[bytes]:
        for byte in json.dumps(says("late" * 100)[2]).encode():
            time.sleep(0.01)
            yield bytes([byte])

    with serving(lambda *given: (200, {}, drops())) as server:
        with pytest.raises(ModelError, match=r"no answer within 0.1 s \(5 times"):
            writer(server.url, timeout=0.1).generate(["x"])


def test_what_was_written_before_a_failure_is_not_asked_again(tmp_path: Path) -> None:
    broken, beside, others = [True], {"8", "10", "11"}, threading.Event()

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
        asked = body["messages"][0]["content"]
        if asked == "9" and broken[0]:
            assert others.wait(120)  # those beside it are asked by now
            return 400, {}, b""
        beside.discard(asked)
        if not beside:
            others.set()
        return says(f"to {asked}")

    prompts = [str(i) for i in range(12)]
    with serving(answer) as server:
        with pytest.raises(ModelError):
            writer(server.url, Journal(tmp_path / "j")).generate(prompts)
        before, broken[0] = len(server.requests), False
        found = writer(server.url, Journal(tmp_path / "j")).generate(prompts)
    assert [w.text for (w,) in found] == [f"to {p}" for p in prompts]
    assert {b["messages"][0]["content"] for _, b, _ in server.requests[before:]} == {"9"}


# -- in a recipe -------------------------------------------------------------------------------------------------------

RELATE = {"entigraph": {"model": "teacher", "most_pairs": 2, "most_triples": 0, "max_new_tokens": 16}}


def _teacher(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
    asked = body["messages"][-1]["content"]
    if "List the entities" in asked:
        return says('{"entities": ["card", "fee", "rate"]}')
    return says("the card and the fee " + str(body["seed"]))


def inputs(folder: Path, url: str, **spec: Any) -> Path:
    small.write_inputs(folder, train=8)
    (folder / "docs.txt").write_text("card lost fee\n\nrate cash pin")
    models = {"teacher": {"name": "big", "url": url, **spec}}
    return small.write_recipe(
        folder, models=models, data__synthesize=[RELATE], data__train="docs.txt", measurement__strengths=[1.0]
    )


def test_a_run_asks_an_address_and_goes_on_after_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("A_KEY", "sesame")
    broken = [True]

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
        relating = "List the entities" not in body["messages"][-1]["content"]
        return (401, {}, b"") if relating and broken[0] else _teacher(path, body, headers)

    with serving(answer) as server:
        file = inputs(tmp_path, server.url, api_key_env="A_KEY")
        assert check_recipe(file).ok and not server.requests, "a check asks nothing"
        with pytest.raises(ModelError, match="401"):
            run(file, tmp_path / "out", quiet=True)
        broken[0] = False
        before = len(server.requests)
        resume(tmp_path / "out", quiet=True)
        assert len(server.requests) - before == 4, "entities that were named are asked for again"
    head, *lines = map(json.loads, (tmp_path / "out/made/main.jsonl").read_text().splitlines())
    assert head["kept"] == 4 and head["writers"]["teacher"]["url"] == server.url and head["flops"] == 0
    assert {line["of"] for line in lines} == {"docs.txt:1", "docs.txt:3"}
    report = (tmp_path / "out/report.json").read_text()
    assert json.loads(report)["cost"]["seconds"]["generation"] > 0
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or b"sesame" not in file.read_bytes(), f"the key is in {file}"


def test_what_is_refused_of_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    file = inputs(tmp_path, "http://127.0.0.1:9/v1", api_key_env="A_KEY")
    assert any("the environment has no A_KEY" in text for text in check_recipe(file).report.refusals)
    with pytest.raises(ModelError, match="the environment has no A_KEY"):
        run(file, tmp_path / "out", quiet=True)
    tree: dict[str, Any] = {"task": "text-generation", "data": {"train": "docs.txt"}, "methods": ["lora"]}
    with pytest.raises(RecipeError, match="an address gives answers, not weights"):
        Recipe(model={"name": "x", "url": "http://here"}, **tree)
    with pytest.raises(RecipeError, match="'api_key_env' is of an address"):
        Recipe(model="nano", models={"t": {"name": "x", "api_key_env": "K"}}, **tree)
    for url in ("ftp://here", "http://", "http://user:key@host/v1", "http://host/a b"):
        with pytest.raises(RecipeError, match="url"):
            Recipe(model="nano", models={"t": {"name": "x", "url": url}}, **tree)
    taught = small.write_recipe(
        tmp_path, "t", models={"teacher": {"name": "x", "url": "http://h/v1"}}, stages__0__methods=["unic", "lora"]
    )
    with pytest.raises(Exception, match="models.teacher is an address"):
        run(taught, tmp_path / "taught", quiet=True)
    assert any("models.teacher is an address" in text for text in check_recipe(taught).report.refusals)


def test_trials_of_different_addresses_are_different_trials(tmp_path: Path) -> None:
    def key(url: str, name: str) -> str:
        return key_of(Recipe.load(inputs(tmp_path, url).parent / "r.yaml", [f"models.teacher.name={name}"]))

    keys = {key(url, name) for url in ("http://a/v1", "http://b/v1") for name in ("big", "nano")}
    assert len(keys) == 4
