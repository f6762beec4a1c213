"""`push` to a hub on loopback: what goes, what never goes, the card, who sees it, and what a hub may answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests import small
from tests.shipping.fake_hub import TOKEN, FakeHub
from tests.shipping.models import MAKES, saved
from tunewright.commands import cli
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs.run import run
from tunewright.shipping import card, push

QUICK = {
    "drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 4, "few_shot": 0
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("push")
    small.write_inputs(folder)
    (folder / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def lora(inputs: Path) -> Path:
    recipe = small.write_recipe(inputs, "lora", measurement=QUICK, train__save_steps=2)
    return run(recipe, out=inputs / "lora", quiet=True).folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    made = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield made
    made.close()


def asked(*words: Any) -> Any:
    return CliRunner().invoke(cli.app, ["push", *map(str, words)])


def test_a_runs_adapter_goes_with_its_card_and_nothing_else(lora: Path, inputs: Path, hub: FakeHub) -> None:
    said = asked(lora, "me/tickets", "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"} == set(found["files"])
    assert hub.files["adapter_model.safetensors"] == (lora / "adapter" / "adapter_model.safetensors").read_bytes()
    assert hub.repos == {"me/tickets": True} and found["private"] and found["url"].endswith("c" * 40)
    text = hub.files["README.md"].decode()
    header = yaml.safe_load(text.split("---")[1])
    assert header["library_name"] == "peft" and header["license"] == "apache-2.0" and "lora" in header["tags"]
    report = Report.load(lora)
    assert report.target is not None and report.target.difference is not None
    for part in ("exact match", "loss on keep", "train.jsonl", "rank: 4", "tunewright", "## Data", "95 %"):
        assert part in text, part
    sent = b"".join(hub.files.values())
    assert str(inputs).encode() not in sent  # no path of this machine
    for row in (json.loads(line) for line in (inputs / "test.jsonl").read_text().splitlines()):
        assert row["prompt"].encode() not in sent  # and no row
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "base"
    assert any("push it too" in n for n in found["notes"])


def test_a_whole_model_goes_and_transformers_loads_it(lora: Path, hub: FakeHub, tmp_path: Path) -> None:
    said = asked(lora, "me/whole", "--as", "model", "--public")
    assert said.exit_code == 0, said.stderr
    assert hub.repos == {"me/whole": False} and "(public)" in said.stdout
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "finetune" not in hub.files["README.md"].decode() and "transformers" in hub.files["README.md"].decode()


def test_a_dry_run_shows_all_and_sends_nothing(lora: Path, hub: FakeHub) -> None:
    said = asked(lora, "me/tickets", "--dry-run")
    assert said.exit_code == 0 and "adapter_model.safetensors" in said.stdout and "## Recipe" in said.stdout
    assert "would push" in said.stdout and not hub.calls


def test_a_folder_goes_without_states_rows_logs_and_links(hub: FakeHub, tmp_path: Path) -> None:
    folder = saved(MAKES["llama"](), tmp_path / "m")
    (folder / "README.md").write_text("---\ntags: [x]\n---\n# mine\n")
    kept = {p.name for p in folder.iterdir()}
    for name in ("optimizer.pt", "rows.jsonl", "metrics.jsonl", ".env", "train.csv", "report.json", "scheduler.bin"):
        (folder / name).write_text("secret")
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "optimizer.safetensors").write_text("x")
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to("/etc/hostname")
    said = asked(folder, "me/m", "--json")
    assert said.exit_code == 0, said.stderr
    assert set(hub.files) == kept - {"generation_config.json"}
    found = json.loads(said.stdout)
    assert {"optimizer.pt", "rows.jsonl", ".env", "checkpoint-2/optimizer.safetensors"} <= set(found["left_out"])
    assert (folder / "optimizer.pt").exists()  # only the copy was cleared


@pytest.mark.parametrize(
    "secret",
    ["hf_" + "a" * 34, "sk-" + "b" * 30, "AKIA" + "C" * 16, "https://me:pw@host/x", "-----BEGIN RSA PRIVATE KEY-----"],
)
def test_what_looks_like_a_secret_stops_it(secret: str, hub: FakeHub, tmp_path: Path) -> None:
    folder = saved(MAKES["llama"](), tmp_path / "m")
    (folder / "README.md").write_text(f"# mine\n{secret}\n")
    said = asked(folder, "me/m")
    assert said.exit_code == 5 and "secret" in said.stderr and not hub.calls
    assert secret not in said.stderr


def test_a_repository_that_everybody_sees_is_not_pushed_to_in_private(lora: Path, hub: FakeHub) -> None:
    hub.repos["me/open"] = False
    said = asked(lora, "me/open")
    assert said.exit_code == 9 and "--public" in said.stderr and not hub.files
    assert asked(lora, "me/open", "--public").exit_code == 0 and hub.files


@pytest.mark.parametrize(("status", "says"), [(401, "hf auth login"), (403, "may write"), (500, "try again")])
def test_what_a_hub_refuses_is_one_message(
    status: int, says: str, lora: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refuse = status
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said = asked(lora, "me/x")
    assert said.exit_code == 9 and says in said.stderr and "Traceback" not in said.output and not hub.files


def test_a_hub_out_of_reach_is_one_message(lora: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said = asked(lora, "me/x")
    assert said.exit_code == 9 and "out of reach" in said.stderr and "Traceback" not in said.output


def test_names_kinds_and_folders_that_are_none_are_refused(lora: Path, hub: FakeHub, tmp_path: Path) -> None:
    for words, code, says in (
        ((lora, "tickets"), 2, "owner/name"),
        ((lora, "me/../x"), 2, "owner/name"),
        ((lora, "me/x", "--as", "gguf"), 2, "adapter or model"),
        ((tmp_path / "none", "me/x"), 7, "no such folder"),
        ((saved(MAKES["llama"](), tmp_path / "m"), "me/x"), 7, "no card"),
        ((tmp_path / "m", "me/x", "--as", "model"), 2, "as it is"),
    ):
        said = asked(*words)
        assert said.exit_code == code and says in said.stderr, said.stderr
    assert not hub.calls


def test_a_full_change_goes_as_a_model_and_has_no_adapter(inputs: Path, hub: FakeHub, tmp_path: Path) -> None:
    recipe = small.write_recipe(inputs, "full", measurement=QUICK, stages__0__methods=["full"])
    made = run(recipe, out=tmp_path / "full", quiet=True).folder
    assert asked(made, "me/full", "--as", "adapter").exit_code == 5
    said = asked(made, "me/full", "--dry-run", "--json")
    assert json.loads(said.stdout)["kind"] == "model" and not hub.calls


def test_a_run_that_added_tokens_is_whole_as_a_model_alone(inputs: Path, hub: FakeHub, tmp_path: Path) -> None:
    recipe = small.write_recipe(inputs, "tokens", measurement=QUICK, new_tokens=["<tool>"])
    made = run(recipe, out=tmp_path / "tokens", quiet=True).folder
    said = asked(made, "me/t", "--as", "adapter")
    assert said.exit_code == 5 and "tokens" in said.stderr
    assert json.loads(asked(made, "me/t", "--dry-run", "--json").stdout)["kind"] == "model" and not hub.calls
    for change in (made, made / "adapter"):
        fused = CliRunner().invoke(cli.app, ["fuse", str(inputs / "base"), str(change), "--out", str(tmp_path / "f")])
        assert fused.exit_code == 5 and "tunewright export" in fused.stderr and not (tmp_path / "f").exists()


def test_a_changed_run_is_not_pushed(lora: Path, hub: FakeHub, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(lora, copy)
    weights = copy / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    said = asked(copy, "me/x")
    assert said.exit_code == 6 and not hub.calls


def test_a_base_of_the_hub_is_named_as_others_find_it() -> None:
    for name, hub in (
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("./base", None),
        ("/m/base", None),
    ):
        recipe = Recipe(model=name, task="text-generation", data={"train": "a"}, methods=["lora"], budget={"steps": 1})
        assert card.base_of(recipe) == hub
    recipe = Recipe(
        model="smollm2-135m-instruct",
        task="text-generation",
        data={"train": "a"},
        methods=["lora"],
        budget={"steps": 1},
    )
    assert card.base_of(recipe) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    report = Report.model_validate({"run": {"name": "x"}, "model": {"name": "x", "licence": "mit"}})
    assert card.header(recipe, report, "adapter")["base_model_relation"] == "adapter"


@pytest.mark.slow
def test_the_command_line_finds_the_hub_by_its_environment(lora: Path, hub: FakeHub) -> None:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "tunewright", "push", str(lora), "me/cli"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "adapter_model.safetensors" in hub.files and hub.url in done.stdout


def test_every_name_that_may_go_is_of_a_model() -> None:
    for name in ("model-00001-of-00003.safetensors", "tokenizer.json", "chat_template.jinja", "model-q8_0.gguf"):
        assert push.NAMES.fullmatch(name), name
    for name in ("optimizer.safetensors", "rows.jsonl", "pytorch_model.bin", "training_args.bin", "x.py", "data.json"):
        assert not push.NAMES.fullmatch(name), name
