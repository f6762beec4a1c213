"""A newcomer's first session, verb by verb, in a scratch folder with a local model and rows of their own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests import small, tiny
from tunewright.commands import cli


def tunewright(*args: str, says: str = "", code: int = 0, stdin: str | None = None) -> str:
    done = CliRunner().invoke(cli.app, list(args), input=stdin)
    assert done.exit_code == code, done.output
    assert says in done.output and "Traceback" not in done.output, done.output
    return done.stdout


def test_from_init_to_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.llama().save_pretrained("my-model"), tiny.tokenizer().save_pretrained("my-model")
    rng = random.Random(0)
    for name, n in (("tickets", 30), ("held", 6)):
        asked = [" ".join(rng.sample(small.WORDS, 4)) for _ in range(n)]
        rows = [
            {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": small.LABELS[i % 3]}]}
            for i, a in enumerate(asked)
        ]
        Path(f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows))

    tunewright("init", "my-model", "tickets.jsonl", "--out", "tickets.yaml", says="tunewright plan tickets.yaml")
    written = yaml.safe_load(Path("tickets.yaml").read_text())
    written["data"]["eval"] = "held.jsonl"
    written["train"] |= {"threads": 1, "batch_tokens": 256, "save_steps": 1}
    written["measurement"] = {
        "drift_sequences": 2,
        "drift_tokens": 4,
        "max_new_tokens": 3,
        "strengths": [1.0],
        "few_shot": 0,
    }
    Path("tickets.yaml").write_text(yaml.safe_dump(written))

    tunewright("check", "tickets.yaml", says="a run would take this data")
    foreseen = json.loads(tunewright("plan", "tickets.yaml", "--json"))
    assert not Path("runs").exists()
    tunewright("run", "tickets.yaml", says="report.html")
    report = json.loads(Path("runs/tickets/report.json").read_text())
    assert report["cost"]["tokens"] == foreseen["stages"][0]["tokens"]
    tunewright("resume", "runs/tickets", says="finished")
    tunewright("resume", "runs/tickets", "--verify", says="equal in every bit")
    tunewright("resume", ".", says="no run's folder", code=7)
    tunewright("run", "tickets.yaml", "--quiet")
    assert Path("runs/tickets-2/report.html").exists()

    tunewright("export", "runs/tickets", says="loaded anew")
    tunewright("export", "runs/tickets", says="exists already", code=7)
    text = tunewright("chat", "runs/tickets", stdin="/tokens 3\nlost card\n/quit\n")
    assert "> lost card" in text and "tuned" in text
    assert any(m["name"] == "lora" for m in json.loads(tunewright("methods", "--json")))
    assert "properties" in json.loads(tunewright("schema"))
    tunewright("doctor", says="cache folder")
