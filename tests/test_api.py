"""The package's own functions: what Python and a notebook are offered."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tunewright
from tests import small, tiny
from tests.running import HERE

FUNCTIONS = (
    "check",
    "compare",
    "fit_laws",
    "load_adapters",
    "load_recipe",
    "merge",
    "methods",
    "open_run",
    "plan",
    "resume",
    "resume_adapters",
    "run",
    "run_adapters",
    "select",
    "suggest",
    "tune",
)
SETS = ["stages.0.budget.steps=2", "measurement.strengths=[1]"]
TAG = "<script>alert(1)</script>"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("api")
    small.write_inputs(folder)
    rows = [{"prompt": f"{TAG} card", "completion": TAG} for _ in range(3)]
    (folder / "test.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def result(inputs: Path) -> tunewright.Result:
    return tunewright.run(small.write_recipe(inputs), out=inputs / "out", sets=SETS, quiet=True)


def test_importing_is_light_and_quick() -> None:
    code = (
        "import time; began = time.process_time(); import tunewright; took = time.process_time() - began\n"
        "import sys; assert not {'torch', 'transformers', 'pydantic', 'yaml', 'numpy', 'rich'} & sys.modules.keys()\n"
        "print(took)"
    )
    assert min(float(python(code)) for _ in range(5)) < 0.1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_is_a_function_that_says_what_it_takes(name: str) -> None:
    function = getattr(tunewright, name)
    assert inspect.isfunction(function) and name in tunewright.__all__
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    assert len(inspect.getdoc(function) or "") > 100


def test_the_names_are_all_there_and_nothing_else_is_promised() -> None:
    classes = {
        "CheckResult",
        "Comparison",
        "Laws",
        "Merged",
        "RunPlan",
        "Recipe",
        "Result",
        "Run",
        "Subset",
        "Suggestion",
    }
    classes |= {"AdaptersRecipe", "AdaptersResult", "TuneResult", "TunewrightError"}
    assert set(tunewright.__all__) == {*FUNCTIONS, *classes, "__version__"}
    assert all(getattr(tunewright, n) is not None for n in tunewright.__all__) and set(tunewright.__all__) <= {
        *dir(tunewright)
    }
    with pytest.raises(AttributeError, match="nothing"):
        tunewright.nothing  # noqa: B018


def test_a_room_does_not_take_the_place_of_the_function_of_its_name() -> None:
    code = (
        "import inspect, tunewright, tunewright.compare.arms, tunewright.methods.adapters.lora as lora\n"
        "assert inspect.isfunction(tunewright.compare) and inspect.isfunction(tunewright.methods)\n"
        "assert tunewright.methods.adapters.lora is lora and tunewright.compare.arms.ComparedArm\n"
        "from tunewright.methods.parameter_selection import hft\n"
        "from tunewright import methods\n"
        "print(methods('lora')['slots'], inspect.signature(methods))"
    )
    assert python(code) == "['attach'] (name: 'str | None' = None) -> 'dict[str, Any]'\n"


def test_a_recipe_is_taken_in_every_form(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    file = tunewright.load_recipe(small.write_recipe(inputs), sets=["train.seed=3"])
    values = tunewright.load_recipe(small.RECIPE, sets=["train.seed=3"])
    made = tunewright.load_recipe(tunewright.Recipe(**small.RECIPE), sets=["train.seed=3"])
    assert file.train.seed == values.train.seed == made.train.seed == 3
    assert values.dump() == made.dump() == file.dump().replace(f"name: {file.name}", "name: run")
    assert values.base == made.base == Path.cwd() and file.base == inputs
    assert small.RECIPE["train"].get("seed") is None, "the values given stay as they were"
    with pytest.raises(tunewright.TunewrightError, match="did you mean 'lora'"):
        tunewright.load_recipe(small.RECIPE, sets=["methods=lorra"])
    with pytest.raises(tunewright.TunewrightError, match="no method is named 'lorra'"):
        tunewright.load_recipe(
            {"model": "m", "task": "text-generation", "data": {"train": "a.jsonl"}, "methods": ["lorra"]}
        )


def test_a_run_prints_as_the_command_line_does_and_nothing_by_itself(
    result: tunewright.Result, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunewright.report import terminal

    assert str(result) + "\n" == terminal.text(result.report, inputs / "out")
    assert repr(result) == f"<Result of {inputs / 'out'}: exact match 0 % -> 0 %>"
    tunewright.run(small.write_recipe(inputs), out=inputs / "silent", sets=SETS, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_finished_run_is_given_back(result: tunewright.Result) -> None:
    again = tunewright.resume(result.folder, quiet=True)
    assert again.report == result.report and again.earlier and not result.earlier


def escaped(html: str, *said: str) -> None:
    assert TAG not in html and "alert(1)" in html and all(s in html for s in said)


def test_what_a_notebook_shows_is_escaped(result: tunewright.Result, inputs: Path) -> None:
    html = result._repr_html_()
    escaped(html, "measured", "exact match", "The whole report", 'sandbox="allow-scripts"')
    frame = html[html.index("<iframe") : html.index("</iframe>")]
    inside = frame[frame.index('srcdoc="') + 8 : frame.index('" sandbox=')]
    assert '"' not in inside and "<" not in inside and "&lt;html" in inside
    plan = tunewright.plan(small.write_recipe(inputs), quiet=True)
    escaped(plan._repr_html_().replace("card", "alert(1)"), "Estimate")
    assert "Estimate" in str(plan) and "<Plan of" in repr(plan) and "\x1b" not in str(plan)
    named = inputs / f"{TAG.replace('/', '')}.jsonl"
    named.write_text('{"prompt": "a"}\n')
    checked = tunewright.check(small.write_recipe(inputs, data__train=named.name))
    assert not checked.ok and "&lt;script&gt;" in checked._repr_html_() and "<script>" not in checked._repr_html_()


def test_a_runs_folder_is_opened(result: tunewright.Result, inputs: Path) -> None:
    run = tunewright.open_run(result.folder)
    assert run.finished and run.report == result.report and str(run) == str(result)
    assert [r["step"] for r in run.metrics if "loss" in r] == [1, 2]
    assert [r["reference"] for r in run.rows] == [TAG] * 3 and run.recipe.stages[0].budget.steps == 2
    assert "_loaded" not in vars(run), "figures need no weights"
    ids = run.tokenizer("card lost", return_tensors="pt")["input_ids"]
    before = run.base()(input_ids=ids).logits
    tuned = run.model()(input_ids=ids).logits
    fresh = tiny.llama()(input_ids=ids).logits
    assert torch.allclose(before, fresh, atol=1e-5) and not torch.allclose(tuned, fresh, atol=1e-4)
    assert run.model() is run.model() and run.base() is run.base() and run.base() is not run.model()


def test_a_run_answers(result: tunewright.Result) -> None:
    run = tunewright.open_run(result.folder)
    said = run.chat(max_new_tokens=4).answer("card lost")
    assert run.generate("card lost", max_new_tokens=4) == said["tuned"]
    assert run.generate(["card lost"], max_new_tokens=4, strength=0.0) == [said["base"]]
    drawn = [run.generate("card lost", max_new_tokens=8, temperature=5.0) for _ in range(2)]
    assert drawn[0] == drawn[1] != run.generate("card lost", max_new_tokens=8)


def test_a_folder_that_is_no_runs_is_refused(tmp_path: Path, inputs: Path) -> None:
    with pytest.raises(tunewright.TunewrightError, match="no run's folder"):
        tunewright.open_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text(small.write_recipe(inputs).read_text())
    run = tunewright.open_run(tmp_path)
    assert not run.finished and "not finished" in repr(run) and run._repr_html_() is None
    assert run.metrics == [] and run.rows == []


@pytest.mark.parametrize(
    "methods",
    [
        ["lora", {"lora": {"rank": 8}}, ["lora", {"asft": {}}]],
        "lora,lora:rank=8,lora+asft",
    ],
)
def test_methods_are_compared_as_a_recipe_or_the_command_line_writes_them(methods: Any) -> None:
    from tunewright.compare.arms import given_arms

    arms = given_arms(methods)
    assert [a.name for a in arms] == ["lora", "lora:rank=8", "lora+asft"]
    assert [[u.params for u in a.methods] for a in arms] == [[{}], [{"rank": 8}], [{}, {}]]


def test_what_cannot_be_compared_is_said() -> None:
    from tunewright.compare.arms import given_arms, given_budget

    recipe = tunewright.Recipe(**small.RECIPE)
    for methods in (["lora"], ["lora", "lora"], ["lora", {"lora": {}, "hft": {}}], ["lora", {"lorra": {}}]):
        with pytest.raises(tunewright.TunewrightError):
            given_arms(methods)
    assert given_budget({"tokens": "200k"}, recipe) == given_budget("tokens=200k", recipe)
    assert given_budget(None, recipe) == recipe.stages[0].budget
    with pytest.raises(tunewright.TunewrightError, match="kinds: "):
        given_budget({"hours": 3}, recipe)


@pytest.mark.slow
def test_a_merge_takes_parameters_of_each_model(tmp_path: Path) -> None:
    for seed in (1, 2):
        tiny.llama(seed).save_pretrained(tmp_path / str(seed))
        tiny.tokenizer().save_pretrained(tmp_path / str(seed))
    merged = tunewright.merge(
        [(tmp_path / "1", {"weight": 1.0}), (tmp_path / "2", {"weight": 3.0})], method="linear", out=tmp_path / "out"
    )
    assert merged.folder == tmp_path / "out" and merged.tensors
    from safetensors.torch import load_file

    parts = [load_file(tmp_path / n / "model.safetensors") for n in ("1", "2", "out")]
    for name, value in parts[2].items():
        assert torch.allclose(value, 0.25 * parts[0][name] + 0.75 * parts[1][name], atol=1e-6)
    with pytest.raises(tunewright.TunewrightError, match="densty"):
        tunewright.merge(["1", "2"], method="linear", out=tmp_path / "no", densty=0.2)
    with pytest.raises(tunewright.TunewrightError, match="kind=model"):
        tunewright.merge(["1", "2"], method="linear", out=tmp_path / "no", kind="whole")  # type: ignore[arg-type]


def test_progress_in_a_notebook_is_one_output_that_is_drawn_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import ModuleType, SimpleNamespace

    from tunewright.runs import progress

    drawn: list[str] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    display.HTML = lambda text: text  # type: ignore[attr-defined]
    handle = SimpleNamespace(update=drawn.append)
    display.display = lambda html, display_id: (drawn.append(html), handle)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    screen = progress.Screen()
    screen.say("measuring the base")
    with screen.training("main", SimpleNamespace(steps=3)) as show:
        for step in (1, 2, 3):
            show({"step": step, "loss": 2.5, "tokens_per_second": 100.0})
    assert len(drawn) >= 2 and all(d.startswith("<pre") for d in drawn)
    assert "3/3" in drawn[-1] and "loss 2.500, 100 tok/s" in drawn[-1]
    said = capsys.readouterr()
    assert said.out == "measuring the base\n" and said.err == ""
