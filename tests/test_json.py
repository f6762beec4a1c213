"""Every verb has `--json`, and what it prints is what its schema says: no field more, none less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from tests import small, tiny
from tests.shipping.models import MAKES, saved
from tests.test_cli import commands
from tunewright.commands import cli, json_types

QUICK = {
    "drift_sequences": 4, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 4, "few_shot": 0
}  # fmt: skip


def test_every_verb_has_json_and_a_schema_or_says_why_not() -> None:
    verbs = set(commands()) - {"runs", "papers"}
    assert verbs == set(json_types.TYPES) | set(json_types.WITHOUT)
    for words, verb in commands().items():
        options = {o for p in verb.params for o in getattr(p, "opts", ())}
        if words in json_types.TYPES:
            assert "--json" in options, words
        elif words not in ("runs", "papers"):
            assert "--json" not in options, words


def closed(schema: Any) -> Any:
    """A schema that takes no field beside those that it names; types that say themselves that they are open stay so."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: closed(v) for k, v in schema.items()}
    if "properties" in out and out.get("title") not in ("Card", "Verdict", "Checked"):
        out.setdefault("additionalProperties", False)
    return out


def holds(verb: str, text: str) -> Any:
    """What a verb printed, if its schema takes it."""
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.validate(found, closed(json_types.schema_of(verb)), jsonschema.Draft202012Validator)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("json")
    small.write_inputs(folder)
    small.write_recipe(folder, "lora", measurement=QUICK)
    saved(MAKES["llama"](), folder / "other")
    saved(tiny.llama(3), folder / "whole-2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        done = CliRunner().invoke(cli.app, ["run", "lora.yaml", "--out", "runs/lora", "--json"])
        assert done.exit_code == 0, done.stderr
        (folder / "run.json").write_text(done.stdout)
        yield folder


def test_run_prints_steps_and_then_its_report(place: Path) -> None:
    *steps, last = (place / "run.json").read_text().splitlines()
    assert steps and all("loss" in json.loads(step) for step in steps)
    found = holds("run", last)
    assert found == json.loads((place / "runs" / "lora" / "report.json").read_text())


CALLS: list[tuple[str, list[str]]] = [
    ("plan", ["lora.yaml"]),
    ("check", ["lora.yaml"]),
    ("suggest", ["lora.yaml"]),
    ("select", ["train.jsonl", "--with", "near-duplicate,length", "--out", "chosen"]),
    ("init", ["base", "train.jsonl", "--out", "begun.yaml"]),
    ("tune", ["lora.yaml", "--trials", "2", "--minutes", "0"]),
    ("measure", ["base", "runs/lora", "--data", "test.jsonl"]),
    ("gate", ["runs/lora", "--require", "drift <= 1000"]),
    ("export", ["runs/lora", "--out", "whole"]),
    ("export", ["runs/lora", "--to", "gguf"]),
    ("export", ["runs/lora", "--to", "vllm-adapter"]),
    ("fuse", ["base", "runs/lora", "--out", "fused"]),
    ("extract-lora", ["base", "whole-2", "--rank", "2", "--out", "extracted"]),
    ("push", ["runs/lora", "me/x", "--dry-run"]),
    ("merge", ["base", "other", "--method", "linear", "--out", "merged"]),
    ("methods", []),
    ("methods", ["lora"]),
    ("methods", ["gradient"]),
    ("doctor", []),
    ("runs list", ["runs"]),
    ("runs prune", ["runs"]),
    ("papers list", ["forget"]),
    ("papers show", ["hft"]),
    ("papers verdicts", ["hft"]),
    ("papers check", ["hft"]),
]


@pytest.mark.parametrize(("verb", "given"), CALLS, ids=[f"{v} {' '.join(g)}" for v, g in CALLS])
def test_a_verb_prints_what_its_schema_says(verb: str, given: list[str], place: Path) -> None:
    done = CliRunner().invoke(cli.app, [*verb.split(), *given, "--json"])
    assert done.exit_code == 0, done.stderr
    holds(verb, done.stdout)


def test_a_check_that_finds_something_and_a_gate_that_fails_print_it_too(place: Path) -> None:
    rows = (place / "train.jsonl").read_text()
    (place / "bad.jsonl").write_text(rows + "\n" + rows.splitlines()[0] + '\n{"prompt": "x"}\n{')
    small.write_recipe(place, "bad", data__train="bad.jsonl")
    done = CliRunner().invoke(cli.app, ["check", "bad.yaml", "--json"])
    found = holds("check", done.stdout)
    assert done.exit_code == 3 and found["problems"] and found["notices"] and not found["ok"]
    done = CliRunner().invoke(cli.app, ["gate", "runs/lora", "--require", "drift >= 1000", "--json"])
    assert done.exit_code == 10 and holds("gate", done.stdout)["verdict"] == "fails"


def test_chat_prints_a_line_for_each_message(place: Path) -> None:
    done = CliRunner().invoke(cli.app, ["chat", "runs/lora", "--json"], input="lost card\n/temp 0\nfee\n")
    assert done.exit_code == 0, done.stderr
    told = [holds("chat", line) for line in done.stdout.splitlines()]
    assert [t["prompt"] for t in told] == ["lost card", "fee"] and "greedy" in done.stderr


def test_board_says_where_it_serves(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewright.board.server import Board

    monkeypatch.setattr(Board, "serve_forever", lambda self, poll_interval: None)
    done = CliRunner().invoke(cli.app, ["board", "runs", "--port", "0", "--allow-run", "--json"])
    assert done.exit_code == 0, done.stderr
    assert holds("board", done.stdout)["address"].startswith("http://127.0.0.1:")


@pytest.mark.slow
def test_compare_prints_what_its_schema_says(place: Path) -> None:
    words = ["compare", "lora.yaml", "--methods", "lora:rank=2,lora:rank=4", "--seeds", "2", "--workers", "1", "--json"]
    done = CliRunner().invoke(cli.app, [*words, "--out", "compared"])
    assert done.exit_code == 0, done.stderr
    holds("compare", done.stdout)


def test_resume_prints_the_report_of_a_run_that_goes_on(place: Path) -> None:
    assert json_types.TYPES["resume"] == json_types.TYPES["run"]
    assert json_types.TYPES["papers run"] == json_types.TYPES["papers verdicts"]


def test_schemas_are_printed_by_verb(place: Path) -> None:
    for verb in ("runs list", "fuse", "run"):
        done = CliRunner().invoke(cli.app, ["schema", verb])
        assert json.loads(done.stdout) == json_types.schema_of(verb)
    done = CliRunner().invoke(cli.app, ["schema", "exprot"])
    assert done.exit_code == 2 and "export" in done.stderr
    assert "'runs list', 'runs prune'" in " ".join(CliRunner().invoke(cli.app, ["schema", "runs"]).stderr.split())
    assert "speaks" in CliRunner().invoke(cli.app, ["schema", "mcp"]).stderr


def test_a_schema_that_lacks_a_field_or_has_one_more_would_be_found() -> None:
    whole = {"name": "a", "status": "ok", "detail": "d", "remedy": None}
    holds("doctor", json.dumps([whole]))
    for wrong in ({**whole, "more": 1}, {k: v for k, v in whole.items() if k != "detail"}, {**whole, "name": 3}):
        with pytest.raises(jsonschema.ValidationError):
            holds("doctor", json.dumps([wrong]))
