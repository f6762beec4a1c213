"""Answers of an address that are no text, too long, or an error in another's clothes: none of them ends a run badly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.answering import Said, says, serving, went_on
from tests.writing.test_address import inputs, waits, writer
from tunewright.contract.writer import Continue, Journal
from tunewright.errors import ModelError
from tunewright.loading import address
from tunewright.loading.address import LONGEST_TOKEN
from tunewright.runs.run import run

__all__ = ["waits"]

HALF = "a half \ud800 of one"


def error(answered: int, **said: Any) -> Said:
    return answered, {}, {"error": said}


@pytest.mark.parametrize(
    ("said", "prompt", "words"),
    [
        (says(HALF), "x", "it is no text: half of a character"),
        (went_on(HALF), Continue("x"), "it is no text: half of a character"),
        (says(None, refusal=HALF), "x", "refused: a half of one"),
        (says("ok", reason="content_filter", refusal=HALF), "x", "refused: a half of one"),
        (says("fine", reasoning_content=HALF, reasoning=HALF), "x", ""),
    ],
)
def test_half_a_surrogate_pair_is_no_answer_and_the_journal_stays_whole(
    tmp_path: Path, said: Said, prompt: Any, words: str
) -> None:
    with serving(lambda *given: said) as server:
        first = writer(server.url, Journal(tmp_path / "j"))
        ((found,),) = first.generate([prompt])
        again = writer(server.url, Journal(tmp_path / "j"))
        assert again.generate([prompt]) == [[found]] and len(server.requests) == 1
    assert found.nothing[: len(words)] == words and bool(found.nothing) == bool(words)
    assert first.counts == again.counts and first.counts["refused"] == int(bool(words))
    (tmp_path / "j").read_text("utf-8")


def test_half_a_surrogate_pair_in_an_error_is_told_in_plain_letters() -> None:
    with serving(lambda *given: error(400, message=HALF + "\n\x1b[2Jred")) as server:
        with pytest.raises(ModelError, match=r"it answered 400: a half of one \[2Jred\n") as e:
            writer(server.url).generate(["x"])
    str(e.value).encode()


@pytest.mark.parametrize("prompt", ["x", Continue("x")])
def test_an_answer_beyond_what_was_asked_for_is_cut_and_counted(prompt: Any) -> None:
    fits, more = "y" * (8 * LONGEST_TOKEN), "y" * (8 * LONGEST_TOKEN + 1)
    ask = went_on if isinstance(prompt, Continue) else says
    for text, ended in ((fits, True), (more, False), (more * 300, False)):
        with serving(lambda *given, text=text: ask(text)) as server:  # type: ignore[misc]
            one = writer(server.url)
            ((found,),) = one.generate([prompt], max_new_tokens=8)
        assert (found.text, found.ended, one.counts["cut"]) == (fits, ended, int(not ended))
    with serving(lambda *given: says(None, refusal="n" * 10**6)) as server:
        assert len(writer(server.url).generate(["x"])[0][0].refused) < 300


LONG = "This model's maximum context length is 10 tokens"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (error(400, message="No.", code="context_length_exceeded"), "the prompt is too long: No."),
        (error(400, message=LONG, type="BadRequestError", code=400), f"the prompt is too long: {LONG}"),
        ((400, {}, {"object": "error", "message": LONG, "code": 400}), f"the prompt is too long: {LONG}"),
        (error(400, message="n", code=400, type="exceed_context_size_error"), "the prompt is too long: n"),
        ((400, {}, {"error": LONG}), f"the prompt is too long: {LONG}"),
        (error(413, message="n", code="context_length_exceeded"), "the prompt is too long: n"),
        (error(200, message="n", code="context_length_exceeded"), "the prompt is too long: n"),
        (error(400, message="Bad words", code="content_filter"), "refused: Bad words"),
        (error(403, message="Bad words", code="content_policy_violation"), "refused: Bad words"),
        (error(200, message="Bad words", code="content_filter"), "refused: Bad words"),
    ],
)
def test_an_error_about_one_prompt_is_its_alone(said: Said, words: str) -> None:
    with serving(lambda p, body, h: says("yes") if body["messages"][0]["content"] == "good" else said) as server:
        one = writer(server.url)
        (bad,), (good,) = one.generate(["bad", "good"])
    assert (bad.nothing, bad.text, good.text) == (words, "", "yes")
    assert one.counts["refused"] == 1 and one.counts["cut"] == 0 and len(server.requests) == 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (error(400, message="no such parameter", code="invalid_value"), "400: no such parameter"),
        (error(401, message="n", code="content_filter"), "401: n"),
        (error(200, message="who are you", code=401), "401: who are you\n  -> set the environment variable"),
        (error(200, message="no such model", code="404"), "404: no such model\n  -> see that url ends"),
        (error(200, message="odd", code="else"), "it answered an error: odd\n"),
        ((200, {}, {"error": "odd"}), "it answered an error: odd\n"),
    ],
)
def test_other_errors_end_with_what_they_say(said: Said, words: str) -> None:
    with serving(lambda *given: said) as server, pytest.raises(ModelError) as e:
        writer(server.url).generate(["x"])
    assert words in str(e.value) and len(server.requests) == 1, str(e.value)


@pytest.mark.parametrize(
    "fault",
    [
        {"code": 503},
        {"code": "429"},
        {"status": 529},
        {"code": None, "type": "overloaded_error"},
        {"code": "rate_limit_exceeded", "type": "requests"},
        {"type": "server_error", "code": None},
    ],
)
def test_an_error_in_an_answer_that_may_pass_is_tried_again(waits: list[float], fault: dict[str, Any]) -> None:
    said = [error(200, message="busy", **fault), says("at last")]
    said[0][1]["Retry-After"] = "3"
    with serving(lambda *given: said.pop(0)) as server:
        assert writer(server.url).generate(["x"])[0][0].text == "at last"
    assert waits == [3.0]


def test_an_answer_beside_an_empty_error_is_an_answer() -> None:
    faults = iter((None, {}, {"message": "a warning"}))
    status, headers, body = says("fine")
    with serving(lambda *given: (status, headers, {**body, "error": next(faults)})) as server:
        assert [w.text for (w,) in writer(server.url).generate(["x", "y", "z"])] == ["fine"] * 3


@pytest.mark.parametrize(
    "usage",
    [
        *(
            {"prompt_tokens": v, "completion_tokens": v}
            for v in ("many", "7", [1], {}, -3, True, None, math.inf, 1e300)
        ),
        [1],
        "none",
        7,
    ],
)
def test_a_usage_that_is_no_number_is_not_known(usage: Any) -> None:
    status, headers, body = says("three short words")
    with serving(lambda *given: (status, headers, {**body, "usage": usage})) as server:
        one = writer(server.url)
        ((found,),) = one.generate(["x"])
    assert found.text == "three short words" and found.tokens == 0
    assert (one.counts["read"], one.counts["written"], one.counts["uncounted"]) == (0, 0, 1)


def test_numbers_of_tokens_are_taken_as_they_are() -> None:
    with serving(lambda *given: says("three short words")) as server:
        one = writer(server.url)
        one.generate(["x"])
    assert (one.counts["read"], one.counts["written"], one.counts["uncounted"]) == (7, 3, 0)


def test_a_run_goes_on_past_all_of_them_and_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(address, "AT_ONCE", 1)
    odd = [says(HALF), error(400, message=LONG), says("card and fee " * 500)]
    odd[2][2]["usage"] = {"completion_tokens": "many"}

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
        if "List the entities" in body["messages"][-1]["content"]:
            return says('{"entities": ["card", "fee", "rate"]}')
        return odd.pop() if odd else says("the card and the fee")

    with serving(answer) as server:
        run(inputs(tmp_path, server.url), tmp_path / "out", quiet=True)
    head, *lines = map(json.loads, (tmp_path / "out/made/main.jsonl").read_text("utf-8").splitlines())
    assert head["thrown"] == {"it is no text": 1, "the prompt is too long": 1} and not odd
    assert {n: head["writers"]["teacher"][n] for n in ("refused", "cut", "uncounted")} == {
        "refused": 2,
        "cut": 1,
        "uncounted": 1,
    }
    assert max(len(line["text"]) for line in lines if "text" in line) == 16 * LONGEST_TOKEN
    notes = " ".join(json.loads((tmp_path / "out/report.json").read_text())["notes"])
    assert "2 refused, 1 cut, 1 whose tokens it did not count" in notes
