"""`tunewright select`: rows and scores on disk without a run; what was asked wrongly is one message."""

from __future__ import annotations

import json
import random
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tunewright
from tunewright.commands import cli
from tunewright.contract.records import Record
from tunewright.data.pool import Pool
from tunewright.data.read import read_all
from tunewright.data.select.dsir import DSIR
from tunewright.data.select.length import Length
from tunewright.errors import DataError, FolderError, RecipeError, TunewrightError
from tunewright.pieces import each_row
from tunewright.pieces.each_row import EachRow
from tunewright.recipe import Source

WORDS = "card lost fee river boat bank pin cash rate spring water hills".split()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    rows = [
        {"id": 100 - i, "prompt": " ".join(rng.choices(WORDS[i % 2 :: 2], k=6)), "completion": "ja", "meta": {"é": [i]}}
        for i in range(30)
    ]
    rows[7]["prompt"] = rows[3]["prompt"]
    (tmp_path / "pool.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    (tmp_path / "like.jsonl").write_text('{"text": "lost river bank cash spring hills"}\n' * 3)
    yield tmp_path


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_judged_as_they_are_read_keep_their_columns_and_order(place: Path) -> None:
    found = tunewright.select("pool.jsonl", using="near-duplicate,length:least=1", out="out")
    rows = lines(place / "pool.jsonl")
    assert lines(place / "out" / "kept.jsonl") == [r for i, r in enumerate(rows) if i != 7]
    scores = lines(place / "out" / "scores.jsonl")
    assert [s["id"] for s in scores] == [f"pool.jsonl:{i}" for i in range(1, 31)]
    assert scores[7] == {
        "id": "pool.jsonl:8",
        "kept": False,
        "by": "near-duplicate",
        "reason": "says almost what an earlier record says",
        "scores": {"near-duplicate.overlap": 1.0},
    }
    assert scores[0]["scores"] == {"near-duplicate.overlap": 0.0, "length.words": 1} and scores[0]["kept"]
    first, second = found.selectors
    assert (first.offered, first.kept, second.offered, second.kept) == (30, 29, 29, 29)
    assert first.reasons == {"says almost what an earlier record says": 1} and found.kept == 29
    assert json.loads((place / "out" / "selected.json").read_text()) == found.to_json()


def test_a_source_of_which_nothing_is_kept_is_told(place: Path) -> None:
    (place / "short.jsonl").write_text(json.dumps({"text": "a river too long"}) + "\n")
    found = tunewright.select(["pool.jsonl", "short.jsonl"], using="length:most=1", out="out")
    (note,) = found.notes
    assert note.startswith("no row of short.jsonl is kept: kept-short.jsonl is empty")
    assert (place / "out" / "kept-short.jsonl").read_text() == "" and found.kept == 30
    other = tunewright.select(["short.jsonl", "pool.jsonl"], using="length:most=1", out="other")
    assert len(other.notes) == 1 and other.notes[0].startswith("no row of short.jsonl is kept")


@pytest.mark.parametrize("using", ["random:keep=100%", "near-duplicate", "length:least=1"])
def test_rows_that_say_nothing_are_offered_to_no_selector(place: Path, using: str) -> None:
    silent = ['{"text": ""}', '{"text": " \\n", "id": 3}', '{"prompt": "", "completion": " "}', '{"messages": []}']
    (place / "some.jsonl").write_text('{"text": "a boat"}\n' + "\n".join(silent) + '\n{"text": "", "image": "a.png"}\n')
    found = tunewright.select("some.jsonl", using=using, out="out")
    assert lines(place / "out" / "kept.jsonl")[0] == {"text": "a boat"}
    assert (found.rows, found.left_out, found.selectors[0].offered) == (6, 4, 2)
    told = {"id": "some.jsonl:2", "kept": False, "reason": "all of its texts are blank", "scores": {}}
    assert lines(place / "out" / "scores.jsonl")[1] == told
    (place / "none.jsonl").write_text("\n".join(silent))
    with pytest.raises(DataError, match="all of their texts are blank"):
        tunewright.select("none.jsonl", using=using, out="other")
    assert not (place / "other").exists()


def test_files_that_rows_name_are_found_from_the_new_folder(place: Path) -> None:
    (place / "in" / "pics").mkdir(parents=True)
    for name in ("a.png", "b.JPEG", "c.wav"):
        (place / "in" / "pics" / name).write_bytes(b"x")
    turn = {"role": "user", "content": [{"type": "image", "path": "pics/b.JPEG"}, {"type": "text", "text": "a.png?"}]}
    rows = [
        {"image": "pics/a.png", "text": "pics/none.png", "label": 1},
        {"messages": [turn], "audio": "pics/c.wav"},
        {"text": f"{place}/in/pics/a.png", "n": [1, 2]},
    ]
    (place / "in" / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tunewright.select("in/some.jsonl", using="random:keep=100%", out="out")
    kept, home = lines(place / "out" / "kept.jsonl"), str(place / "in" / "pics")
    assert kept[0] == {**rows[0], "image": f"{home}/a.png"} and kept[2] == rows[2]
    parts = kept[1]["messages"][0]["content"]
    assert (parts[0]["path"], parts[1]["text"], kept[1]["audio"]) == (f"{home}/b.JPEG", "a.png?", f"{home}/c.wav")


def test_a_window_that_an_earlier_selector_emptied_goes_to_no_later_one(place: Path) -> None:
    (place / "short.jsonl").write_text('{"text": "a"}\n' * 3)
    (place / "two.jsonl").write_text('{"text": "a lost bank card and a boat"}\n')
    found = tunewright.select(["short.jsonl", "two.jsonl"], using="length:least=3,near-duplicate", out="out")
    assert (found.rows, found.kept) == (4, 1)


def test_filters_of_large_pools_say_which_rule_a_row_broke(place: Path) -> None:
    using = "quality-rules:rules=gopher-top-2-words,toxicity:words=hills,quality-classifier"
    found = tunewright.select("pool.jsonl", using=using, target="like.jsonl", keep=5, out="out")
    rules, words, last = found.selectors
    scores = lines(place / "out" / "scores.jsonl")
    assert rules.offered == 30 and last.kept == 5 == found.kept and words.kept == last.offered
    for name, figures in (("quality-rules", rules), ("toxicity", words), ("quality-classifier", last)):
        gone = [s["reason"] for s in scores if s.get("by") == name]
        assert len(gone) == figures.offered - figures.kept > 0
        assert {why: gone.count(why) for why in gone} == figures.reasons
    assert set(rules.reasons) == {"gopher-top-2-words: share of characters in the commonest 2 words in a row above 0.2"}
    kept = [s["scores"] for s in scores if s["kept"]]
    assert all(
        set(s) == {"quality-rules.gopher-top-2-words", "toxicity.words", "quality-classifier.quality"} for s in kept
    )


def test_they_are_read_once_and_none_is_held(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Record]] = []
    most, judge = [0], Length.judge

    def watched(self: Length) -> Any:
        judged = judge(self)

        def watching(some: Sequence[Record]) -> Any:
            seen.extend(map(weakref.ref, some))
            most[0] = max(most[0], sum(r() is not None for r in seen))
            return judged(some)

        return watching

    assert issubclass(Length, EachRow)
    monkeypatch.setattr(Length, "judge", watched)
    monkeypatch.setattr(each_row, "WINDOW", 4)
    tunewright.select("pool.jsonl", using="length", out="out")
    assert len(seen) == 30 and most[0] <= 9


def test_selectors_that_see_the_whole_pool_keep_what_they_keep_of_a_list(place: Path) -> None:
    found = tunewright.select("pool.jsonl", using="dsir,near-duplicate", target="like.jsonl", keep="50%", out="out")
    records, target = (read_all(Source(path=f)).records for f in ("pool.jsonl", "like.jsonl"))
    by_hand = DSIR(keep=0.5).select(list(records), list(target), random.Random("0/select/main/dsir"))
    rows = lines(place / "pool.jsonl")
    kept = [i for i in by_hand.indices if i != 7 or 3 not in by_hand.indices]
    assert lines(place / "out" / "kept.jsonl") == [rows[i] for i in kept] and len(by_hand.indices) == 15
    scores = lines(place / "out" / "scores.jsonl")
    assert [s["scores"]["dsir.weight"] for s in scores] == pytest.approx(list(by_hand.scores["weight"]))
    assert [s.get("by") == "dsir" for s in scores] == [i not in by_hand.indices for i in range(30)]
    assert [s["rank"] for s in scores if s["kept"]] == list(range(len(kept))) and found.target == 3
    other = tunewright.select("pool.jsonl", using="dsir", target="like.jsonl", keep=15, out="other", seed=1)
    assert other.kept == 15 and lines(place / "other" / "kept.jsonl") != lines(place / "out" / "kept.jsonl")


def test_a_pool_is_read_anew_and_held_only_where_somebody_goes_back() -> None:
    passes = [0]

    def read() -> Iterator[Record]:
        passes[0] += 1
        yield from (Record({"text": str(i)}, id=str(i)) for i in range(10))

    pool = Pool(read, 10)
    assert [r["text"] for r in pool] == [r["text"] for r in pool] and passes == [2]
    odd = pool.at([1, 3, 5]).at([0, 2])  # type: ignore[attr-defined]
    assert [r.id for r in odd] == ["1", "5"] and odd[1].id == "5" and len(odd) == 2
    passes[0] = 0
    assert [pool[i].id for i in (0, 4, 9)] == ["0", "4", "9"] and passes == [1]
    assert pool[2].id == "2" and pool[9].id == "9" and pool[0].id == "0" and passes == [2]
    assert [r.id for r in pool.at([4, 2])] == ["4", "2"] and [r.id for r in pool[7:]] == ["7", "8", "9"]


REFUSED: list[tuple[dict[str, Any], type[TunewrightError], str]] = [
    ({"using": "dsir"}, RecipeError, "--target: dsir aims at rows"),
    ({"using": "length", "target": "like.jsonl"}, RecipeError, "no selector aims at a target"),
    ({"using": "perplexity"}, RecipeError, "--model: 'perplexity' reads rows with a model"),
    ({"using": "length", "model": "nano"}, RecipeError, "none of the selectors reads with a model"),
    ({"using": "length", "keep": "10%"}, RecipeError, "none of the selectors would take it"),
    ({"using": "grape", "model": "nano", "task": "fill-mask"}, TunewrightError, "--with: 'grape' does not serve"),
    ({"using": "quality-classifier"}, RecipeError, "--target: quality-classifier aims at rows"),
    ({"using": "quality-rules"}, DataError, "none of 30 rows is left: 'quality-rules' kept 0 of 30"),
    ({"using": "threshold:column=zz"}, DataError, "no column 'zz'"),
    ({"using": "toxicity"}, RecipeError, "write model: FOLDER"),
    ({"using": "toxicity:model=nowhere"}, TunewrightError, "no model in this folder"),
    ({"using": "lora"}, TunewrightError, "'lora' selects no rows"),
    ({"using": "lenght"}, RecipeError, "did you mean 'length'"),
    ({"using": "length:5"}, RecipeError, "'5' is no parameter"),
    ({"using": "length:least=99"}, DataError, "none of 30 rows is left"),
    ({"using": "dsir", "target": "strange.jsonl"}, DataError, "nothing in common"),
    ({"rows": "empty.jsonl", "using": "length"}, DataError, "empty"),
    ({"rows": ["pool.jsonl", "pool.jsonl"], "using": "length"}, DataError, "the same ids"),
    ({}, RecipeError, "rows, and no selector is named"),
]


@pytest.mark.parametrize(("asked", "kind", "says"), REFUSED, ids=[says for _, _, says in REFUSED])
def test_what_cannot_be_done_is_one_message_and_leaves_nothing(
    place: Path, asked: dict[str, Any], kind: type[TunewrightError], says: str
) -> None:
    (place / "empty.jsonl").write_text("")
    (place / "strange.jsonl").write_text('{"text": "xyzzy plugh frotz"}\n')
    before = sorted(place.iterdir())
    with pytest.raises(kind, match=says):
        tunewright.select(**{"rows": "pool.jsonl", "out": "out", **asked})
    assert sorted(place.iterdir()) == before


def test_a_judge_s_score_that_is_not_finite_names_its_row(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Length, "judge", lambda self: lambda some: [({"words": float("nan")}, "")] * len(some))
    with pytest.raises(TunewrightError, match="pool.jsonl:1: 'length' gives a score that is no finite number"):
        tunewright.select("pool.jsonl", using="length", out="out")
    assert not (place / "out").exists()


def test_what_is_there_stays(place: Path) -> None:
    tunewright.select("pool.jsonl", using="length", out="out")
    before = (place / "out" / "scores.jsonl").read_bytes()
    with pytest.raises(FolderError, match="exists already"):
        tunewright.select("pool.jsonl", using="length:least=2", out="out")
    assert (place / "out" / "scores.jsonl").read_bytes() == before


def test_the_command_line_says_what_was_kept_and_why_the_rest_goes(place: Path) -> None:
    words = ["select", "pool.jsonl", "--with", "dsir,near-duplicate", "--target", "like.jsonl", "--keep", "20"]
    done = CliRunner().invoke(cli.app, [*words, "--out", "out"])
    assert done.exit_code == 0, done.stderr
    assert "of 30 rows kept, aiming at 3" in done.stdout and "10 not drawn" in done.stdout
    done = CliRunner().invoke(cli.app, ["select", "pool.jsonl", "--keep", "20", "--out", "two"])
    assert done.exit_code == 2 and "--keep" in done.stderr and "--with" in done.stderr


def test_columns_of_files_are_asked_for_by_the_flag_that_names_them(place: Path) -> None:
    (place / "odd.csv").write_text("Message Body,Topic\nlost card,a\nfee,b\n")
    done = CliRunner().invoke(cli.app, ["select", "odd.csv", "--with", "length", "--out", "out"])
    assert done.exit_code == DataError.code, done.output
    assert "--column prompt=COLUMN" in done.output and "columns: {" not in done.output


def test_rows_that_cannot_be_used_are_counted_and_its_own_remedy_is_named(place: Path) -> None:
    (place / "blank.jsonl").write_text('{"text": " "}\n' * 5)
    words = ["select", "blank.jsonl", "--with", "perplexity:high=0.5", "--model", "nano", "--out", "out"]
    done = CliRunner().invoke(cli.app, words)
    assert "5 of 5 rows cannot be used" in done.stderr and "and 2 more" in done.stderr
    assert "-> mend them, or give other files" in done.stderr and "--data" not in done.stderr
