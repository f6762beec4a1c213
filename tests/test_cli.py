from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tunewright import errors
from tunewright.commands import cli
from tunewright.recipe import Recipe


def invoke(*args: str):
    return CliRunner().invoke(cli.app, list(args))


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom tunewright.commands.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit as e:\n  "
        "  assert e.code in (0, None), e.code\n"
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy', 'yaml', 'jinja2', 'datasets'} & "
        "sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for verb in ("methods", "init", "schema", "doctor"):
        assert verb in done.stdout
    assert "75 interrupted" in " ".join(done.stdout.split())


ORDER = (
    "run resume plan check suggest select tune compare fit-laws measure gate chat serve export board fuse extract-lora "
    "push methods merge init mcp schema doctor runs papers".split()
)


def commands() -> dict[str, Any]:
    """Every verb by the words that call it."""
    found = dict(get_command(cli.app).commands)  # type: ignore[attr-defined]
    return found | {
        f"{group} {name}": verb for group in ("runs", "papers") for name, verb in found[group].commands.items()
    }


def test_verbs_stand_in_this_order():
    shown = [line.split()[1] for line in invoke("--help").stdout.splitlines() if re.match(r"│ [a-z][a-z-]* ", line)]
    assert shown == ORDER


@pytest.mark.parametrize("words", sorted(set(commands()) - {"runs", "papers"}))
def test_every_verbs_help_has_examples_that_it_takes(words):
    verb = commands()[words]
    title, *examples = verb.epilog.split("\n\n")
    assert title == "Examples:" and examples
    for example in examples:
        program, *given = shlex.split(example.split(" > ")[0])
        assert program == "tunewright"
        called = [w for w in words.split() if w in given]
        assert called[:1] == words.split()[:1], f"an example of another verb: {example}"
        with verb.make_context(words, given[len(called) :]):
            pass
        assert " ".join(example.split()) in " ".join(invoke(*words.split(), "--help").stdout.split())


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (errors.DataError("bad row", where="a.jsonl:3", remedy="fix it"), 3, "error: a.jsonl:3: bad row\n  -> fix it"),
        (errors.NonFiniteError("nan"), 8, "error: nan"),
        (KeyboardInterrupt(), 75, "error: interrupted\n  -> nothing was left half-done"),
    ],
)
def test_what_a_verb_raises_becomes_a_message_and_a_code(monkeypatch, raised, code, says):
    def broken() -> list[object]:
        raise raised

    from tunewright.commands import doctor

    monkeypatch.setattr(doctor, "examine", broken)
    done = invoke("doctor")
    assert done.exit_code == code
    assert says in done.stderr and "Traceback" not in done.output


def test_a_defect_keeps_its_traceback(monkeypatch):
    from tunewright.commands import doctor

    monkeypatch.setattr(doctor, "examine", lambda: 1 / 0)
    done = invoke("doctor")
    assert isinstance(done.exception, ZeroDivisionError)


def test_sigterm_is_an_interruption(tmp_path):
    code = (
        "import os, signal, sys, tunewright.commands.doctor as d, tunewright.commands.cli as c\n"
        "d.examine = lambda: os.kill(os.getpid(), signal.SIGTERM)\nsys.argv = ['tunewright', 'doctor']\nc.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == errors.INTERRUPTED and "Traceback" not in done.stderr


def test_codes_are_all_different_and_every_error_has_one():
    codes = [code for code, _ in cli.CODES]
    assert len(set(codes)) == len(codes)
    assert {e.code for e in errors.TunewrightError.__subclasses__()} <= set(codes)


def test_who_asks_for_nothing_is_shown_what_there_is(monkeypatch):
    bare = invoke()
    assert bare.exit_code == 0 and bare.output == invoke("--help").output and "compare" in bare.stdout
    monkeypatch.setattr(sys, "argv", ["tunewright"])
    with pytest.raises(SystemExit) as ended:
        cli.app()
    assert ended.value.code in (0, None)


def test_version():
    assert invoke("--version").stdout.strip() == f"tunewright {cli.__version__}"


def test_methods_as_json_says_everything():
    found = json.loads(invoke("methods", "lora", "--json").stdout)
    assert {"name", "room", "slots", "parameters", "needs", "papers"} <= found.keys()
    assert found["slots"] == ["attach"] and found["parameters"]["rank"]["description"]


def test_methods_lists_rooms_without_importing_them():
    text = invoke("methods").stdout
    assert "methods/adapters" in text and "weights/edit" in text and "  lora " in text


def test_methods_says_what_a_slot_offers():
    assert "gradient" in invoke("methods", "--slots").stdout
    found = json.loads(invoke("methods", "gradient", "--json").stdout)
    assert found["name"] == "gradient" and "gradients" in found["arguments"]
    assert found["does"] in invoke("methods", "gradient").stdout
    assert invoke("methods", "gradeint").exit_code == errors.RecipeError.code


def test_doctor_names_what_is_here():
    found = {f["name"]: f for f in json.loads(invoke("doctor", "--json").stdout)}
    assert found["torch"]["status"] == "ok" and "bfloat16" in found and "cache folder" in found


def test_doctor_says_when_the_cache_cannot_be_written(monkeypatch, tmp_path):
    from tunewright.commands import doctor

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = doctor._writable("cache folder", tmp_path / "cache")
    assert (
        finding.status == "missing" and "Read-only" in finding.detail and "TUNEWRIGHT_CACHE" in (finding.remedy or "")
    )


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"prompt": "a", "completion": "b"}, "text-generation"),
        ({"text": "a", "label": 1}, "text-classification"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "text-generation"),
    ],
)
def test_init_writes_a_recipe_that_loads(tmp_path, row, task):
    (tmp_path / "my rows.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "r.yaml"
    done = invoke("init", "some/model", str(tmp_path / "my rows.jsonl"), "--out", str(out))
    assert done.exit_code == 0, done.stderr
    recipe = Recipe.load(out)
    assert recipe.task == task and recipe.model.name == "some/model"
    assert (recipe.base / recipe.data.train[0].path).is_file()
    assert "# rows of shape" in out.read_text()


def test_init_overwrites_nothing(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "r.yaml").write_text("mine")
    done = invoke("init", "m", str(tmp_path / "d.jsonl"), "--out", str(tmp_path / "r.yaml"))
    assert done.exit_code == errors.FolderError.code and (tmp_path / "r.yaml").read_text() == "mine"


def test_the_packaged_quickstart_loads():
    recipe = Recipe.load("quickstart")
    assert recipe.name == "quickstart" and recipe.stages[0].budget.tokens


def test_the_table_of_methods_fits_a_terminal():
    from tunewright.catalogue import listing

    wide, narrow = listing.table(), listing.table(80)
    assert max(map(len, wide.splitlines())) > 120
    assert max(len(line) for line in narrow.splitlines()[:-1]) <= 80
    assert " ".join(narrow.split()) == " ".join(wide.split())
    assert listing.table(40) == wide, "no room beside the names: the terminal breaks lines itself"
