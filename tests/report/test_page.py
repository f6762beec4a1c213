from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.report.example import make_example, make_metrics, make_rows, of
from tunewright.errors import FolderError
from tunewright.report import page
from tunewright.report.schema import (
    Answer,
    Measured,
    MethodInfo,
    Probe,
    Report,
    RunInfo,
    SourceInfo,
    StageReport,
    Target,
)

VOID = {"meta", "br", "input", "link", "img", "hr"}
SECTIONS = ["changes", "trade", "answers", "training", "trained", "data", "probes", "cost", "environment", "recipe"]
HOSTILE = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*191}}&amp;"


class Tags(HTMLParser):
    """Collects tags, attributes, ids and visible text; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    @property
    def ids(self) -> list[str]:
        return [i for _, a in self.tags if (i := a.get("id"))]


def assert_safe(text: str) -> Tags:
    """Nothing is loaded from anywhere, no handler is inline, the only script is ours and allowed by its hash."""
    tags = Tags(text)
    for name, attributes in tags.tags:
        assert name not in {"iframe", "object", "embed", "link", "base", "form"}
        if name == "img":  # thumbnails of evaluated pictures, in the page itself
            assert re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*", attributes.pop("src") or "")
        assert not any(
            a.startswith("on") or a in {"src", "href", "srcset", "action", "xlink:href"} for a in attributes
        ), (name, attributes)
    assert not re.search(r"url\(|@import", text.split("</style>")[0].split("<style>")[1])
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.S)
    assert len(scripts) == 1
    policy = next(a["content"] for n, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy
    assert base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode() in policy
    return tags


def full() -> str:
    return page.html(make_example(), make_metrics(), make_rows(), "model: x\n")


def test_every_section_is_there_and_nothing_is_loaded() -> None:
    tags = assert_safe(full())
    assert tags.ids == SECTIONS
    assert "In this run exact match rose from 1.7\u00a0% to 75.8\u00a0%" in tags.text
    for said in (
        "68.6 to 79.6",
        "1 tuned",
        "3.11",
        "lora",
        "quickstart:train",
        "intruder-dimensions",
        "CC BY 4.0",
        "base shown 3 examples".capitalize(),
        "51ab",
    ):
        assert said in tags.text


def test_the_page_is_small() -> None:
    assert len(full().encode()) < 250_000


def test_nothing_measured_still_makes_a_page() -> None:
    tags = assert_safe(page.html(Report(run=RunInfo(name="bare"))))
    assert "Nothing was measured in this run." in tags.text
    assert tags.ids == ["changes", "trade", "training", "data", "cost", "environment"]


@pytest.mark.parametrize("seed", range(25))
def test_any_part_may_be_missing(seed: int) -> None:
    rng = random.Random(seed)

    def prune(value: Any, model: Any) -> Any:
        return {
            k: v
            for k, v in value.items()
            if k in ("name", "run", "metric", "value", "n", "id", "prompt", "strength", "path", "trained")
            or rng.random() < 0.6
        }

    whole = json.loads(make_example().dumps())
    some = prune(whole, Report)
    for key in ("run", "model", "data", "target", "drift", "cost", "trained"):
        if isinstance(some.get(key), dict):
            some[key] = prune(some[key], None)
    if "drift" in some and "value" not in some["drift"]:
        del some["drift"]
    some["trade"] = [prune(t, None) for t in some.get("trade", [])]
    report = Report.model_validate(some)
    metrics = [{k: v for k, v in m.items() if rng.random() < 0.5} for m in make_metrics(9)]
    tags = assert_safe(page.html(report, metrics, make_rows(rng.choice([0, 5]))))
    assert {"changes", "trade", "cost"} <= set(tags.ids)
    assert not re.search(r"\bnan\b|Undefined|None\b", tags.text)


def test_hostile_data_stays_text() -> None:
    answers = [
        {
            "id": HOSTILE,
            "source": HOSTILE,
            "prompt": HOSTILE,
            "base": HOSTILE,
            "tuned": HOSTILE,
            "reference": HOSTILE,
            "base_score": 0,
            "tuned_score": 1,
        }
    ]
    example = make_example()
    report = make_example(
        run=example.run.model_copy(update={"name": HOSTILE, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}),
        model=example.model and example.model.model_copy(update={"name": HOSTILE, "source": HOSTILE}),
        task=HOSTILE,
        data=example.data.model_copy(update={"sources": [SourceInfo(path=HOSTILE, role=HOSTILE, licence=HOSTILE)]}),
        target=Target(
            name=HOSTILE, metric=HOSTILE, unit=HOSTILE, before=of(1, 1), after=of(2, 1), difference=of(1, 0.1)
        ),
        kept=[
            Measured(name=HOSTILE, metric=HOSTILE, before=of(0.1, 0.1), after=of(0.2, 0.1), difference=of(0.1, 0.01))
        ],
        trained=example.trained.model_copy(
            update={"methods": [MethodInfo(name=HOSTILE, parameters={HOSTILE: HOSTILE})], "frozen": [HOSTILE]}
        ),
        stages=[StageReport(name=HOSTILE, methods=[HOSTILE], ended_by=HOSTILE)],
        tokens_view={HOSTILE: [(HOSTILE, 1.0), (HOSTILE, 0.5)]},
        probes={
            HOSTILE: Probe(
                title=HOSTILE, description=HOSTILE, values={HOSTILE: HOSTILE}, columns=[HOSTILE], rows=[[HOSTILE]]
            )
        },
        notes=[HOSTILE],
        files={HOSTILE: HOSTILE},
    )
    metrics = [{"step": i, "stage": HOSTILE * (i > 2), "loss": 1.0} for i in range(5)]
    text = page.html(report, metrics, answers, HOSTILE)
    tags = assert_safe(text)
    assert "<script>alert" not in text and "<img" not in text and "1337" not in text
    assert tags.text.count(HOSTILE) > 15
    styles = [a["style"] or "" for _, a in tags.tags if "style" in a]
    assert all(re.fullmatch(r"(width|flex): [\d.]+%?", s) for s in styles)


def test_rows_are_filtered_by_their_fate() -> None:
    rows = make_rows(50)
    tags = Tags(page.html(make_example(), (), rows))
    shown = [a.get("data-fate") for n, a in tags.tags if n == "tr" and "data-fate" in a]
    assert len(shown) == 50
    for fate in ("fixed", "broken", "both wrong", "both right"):
        n = sum(s == fate for s in shown)
        assert any(a.get("data-fate") == fate for name, a in tags.tags if name == "button") == (n > 0)
        assert not n or f"{fate} {n}" in tags.text


def test_too_many_rows_leave_out_the_unchanged_ones_first() -> None:
    def row(i: int, base: float, tuned: float) -> Answer:
        return Answer(id=str(i), prompt="p", base="a", tuned="b", base_score=base, tuned_score=tuned)

    rows = [row(i, 1, 1) for i in range(page.MOST_ROWS)] + [row(9_000, 1, 0), row(9_001, 0, 1)]
    text = Tags(page.html(make_example(), (), rows)).text
    assert "9000" in text and "9001" in text and f"{page.MOST_ROWS} of {len(rows):,} rows are shown" in text


def test_the_reports_own_answers_stand_in_for_missing_rows() -> None:
    assert make_example().answers[0].id in Tags(page.html(make_example())).text


def test_rows_without_answers_show_their_scores() -> None:
    target = Target(
        metric="loss",
        direction="lower",
        unit="nats per token",
        before=of(2.5, 0.1),
        after=of(2.0, 0.1),
        difference=of(-0.5, 0.1),
    )
    rows = [
        {"id": "a", "prompt": "text", "base": "", "tuned": "", "reference": "", "base_score": 2.51, "tuned_score": 1.98}
    ]
    text = Tags(page.html(make_example(target=target, kept=[]), (), rows)).text
    assert "loss 2.51" in text and "loss 1.98" in text and "better 1" in text


def test_the_token_view_tells_what_counts() -> None:
    tags = Tags(
        page.html(make_example(tokens_view={"a.jsonl": [("Hi\n", 0), (" half", 0.5), (" all", 1.0), ("", 2.0)]}))
    )
    levels = [a["class"] for n, a in tags.tags if n == "span" and a.get("class") in ("on", "off", "part")]
    assert levels[-4:] == ["off", "part", "on", "on"]
    assert "Hi↵" in tags.text


def test_no_trade_and_no_keep_are_explained() -> None:
    text = Tags(page.html(make_example(trade=[], kept=[]))).text
    assert "was not dialled down" in text and "names no data under" in text


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="cannot write the page"):
        page.render(make_example(), (), (), tmp_path / "missing")


def test_pictures_stand_in_the_page_and_nothing_else_can_take_their_place() -> None:
    import numpy as np

    from tunewright.contract.batch import Row
    from tunewright.runs.pictures import SIDE, thumbnails

    noise = np.random.default_rng(0).integers(0, 255, (3, 224, 200), dtype=np.uint8)
    flat = np.zeros((1, 28, 28), dtype=np.uint8)
    rows = [dict(r, prompt="") for r in make_rows(3)]
    shown = thumbnails(
        [Row(r["id"], "s", (), [1.0], 0, {"pixels": p}) for r, p in zip(rows, (noise, flat), strict=False)]
    )
    assert shown(rows[2]["id"]) == "" and all(len(shown(r["id"])) < 8000 for r in rows)
    import io

    from PIL import Image

    small = Image.open(io.BytesIO(base64.b64decode(shown(rows[0]["id"]).split(",")[1])))
    assert max(small.size) == SIDE and small.size[0] < small.size[1]
    tags = assert_safe(page.html(make_example(), rows=rows, picture=shown))
    assert sum(name == "img" for name, _ in tags.tags) == 2 and "Picture" in tags.text
    hostile = page.html(make_example(), rows=rows, picture=lambda row: 'data:image/png;base64,AA"onerror="x')
    assert not [1 for name, _ in assert_safe(hostile).tags if name == "img"]


def test_questions_come_without_markers_and_what_was_read_is_one_click_away() -> None:
    read = "<|im_start|>user\nWhere is my card?<|im_end|>\n<|im_start|>assistant\n"
    text = page.html(make_example(), rows=[dict(make_rows(1)[0], prompt=read)])
    assert "<div>Where is my card?</div>" in text and "as the model read it" in assert_safe(text).text
    plain = page.html(make_example(), rows=[dict(make_rows(1)[0], prompt="Where is it?")])
    assert "as the model read it" not in plain


def test_several_stages_have_a_table_of_stages_by_tasks() -> None:
    report = make_example()
    target = report.target
    assert target is not None
    target.tasks = {"a/rows.jsonl": of(0.1, 0.05), "b/rows.jsonl": of(0.2, 0.05)}
    stages = [
        StageReport(name="one", tasks={"a/rows.jsonl": of(0.81, 0.05), "b/rows.jsonl": of(0.21, 0.05)}),
        StageReport(name="two", tasks={"a/rows.jsonl": of(0.43, 0.05), "b/rows.jsonl": of(0.91, 0.05)}),
    ]
    both = make_example(target=target, stages=stages)
    text = assert_safe(page.html(both)).text
    assert "After each stage" in text and all(f in text for f in ("81.0", "21.0", "43.0", "91.0", "a/rows.jsonl"))
    assert "After each stage" not in assert_safe(page.html(make_example())).text
