from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests import architectures, small
from tunewright.planning import measuring_time, plan_page
from tunewright.planning.estimate import STEPS, estimate, untouched
from tunewright.planning.plan import RunPlan, look, plan
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run
from tunewright.runs.session import Session


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("plan")
    small.write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder


def session_of(folder: Path, **changes: Any) -> Session:
    return assemble(Recipe.load(small.write_recipe(folder, **changes)))


@pytest.fixture(scope="module")
def made(inputs: Path) -> RunPlan:
    return look(session_of(inputs), load=1.0)


def state_of(session: Session) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in session.adapted.model.state_dict().items()}


TWO = [
    {"name": "first", "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 2}},
    {"name": "second", "start": "stages.first", "carry": "frozen", "methods": ["ist"], "budget": {"steps": 2}},
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stages__0__methods": ["full"], "train__activation_checkpointing": True},
        {"stages__0__methods": ["lora", {"masked-thought": {"mask": "<hidden>"}}]},
        {"stages": [{**TWO[0]}, {**TWO[1], "carry": "fold", "methods": ["lora"]}]},
    ],
    ids=["lora", "full", "new-token", "two-stages"],
)
def test_an_estimate_leaves_the_session_as_it_was(inputs: Path, changes: dict[str, Any]) -> None:
    session = session_of(inputs, **changes)
    before, random, size = state_of(session), torch.get_rng_state(), len(session.tokenizer)
    found = estimate(session)
    after = state_of(session)
    assert before.keys() == after.keys() and all(torch.equal(t, after[n]) for n, t in before.items())
    assert torch.equal(torch.get_rng_state(), random) and len(session.tokenizer) == size
    assert not session.adapted.originals and not session.adapted.deltas()
    assert not any(p.requires_grad or p.grad is not None for p in session.adapted.model.parameters())
    assert not any(m.training for m in session.adapted.model.modules())
    assert [s.name for s in found.stages] == [s["name"] for s in changes.get("stages", [{"name": "main"}])]
    assert found.train > 0 and found.disk > 0 and found.peak_memory > 50_000_000


def test_the_probe_does_the_runs_own_steps(inputs: Path, tmp_path: Path) -> None:
    probed = estimate(session_of(inputs)).stages[0]
    result = run(small.write_recipe(inputs), out=tmp_path / "out", quiet=True)
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert probed.losses == [r["loss"] for r in records][: STEPS + 1]
    assert (probed.steps, probed.tokens) == (result.report.cost.steps, result.report.cost.tokens)
    assert probed.result.trainable == result.report.cost.trainable_parameters


def test_a_changed_model_is_no_base_to_estimate_from(inputs: Path) -> None:
    session = session_of(inputs)
    session.adapted.remember("model.norm.weight")
    with pytest.raises(ValueError, match="untouched"), untouched(session):
        pass


def test_the_disk_that_is_foreseen_is_what_a_run_takes(inputs: Path, tmp_path: Path) -> None:
    changes = {"stages__0__methods": ["full"], "train__save_steps": 1}
    foreseen = estimate(session_of(inputs, **changes)).disk
    run(small.write_recipe(inputs, **changes), out=tmp_path / "out", quiet=True)
    taken = sum(f.stat().st_size for f in (tmp_path / "out").rglob("*.safetensors"))
    assert 0.9 * taken < foreseen < 1.1 * taken


def test_a_base_that_was_measured_is_not_counted_again(inputs: Path, tmp_path: Path) -> None:
    changes = {"measurement__drift_tokens": 9}
    first = estimate(session_of(inputs, **changes))
    run(small.write_recipe(inputs, **changes), out=tmp_path / "out", quiet=True)
    second = estimate(session_of(inputs, **changes))
    assert (first.cached, first.base > 0) == (False, True) and (second.cached, second.base) == (True, 0.0)


def test_what_is_trained_and_what_counts(made: RunPlan) -> None:
    (stage,) = made.stages
    assert (
        stage.methods[0]["name"] == "lora"
        and stage.methods[0]["slots"] == ["attach"]
        and stage.methods[0]["parameters"]["rank"] == 4
    )
    assert (
        stage.roles["embedding"][0] == stage.roles["norm"][0] == 0
        and sum(t for t, _ in stage.roles.values()) == stage.trainable == 4096
    )
    assert [(s.role, s.rows) for s in made.sources] == [("train", 40), ("eval", 8), ("keep", 5)]
    assert made.ends is not None and made.ends.rows == made.ends.one_bos == made.ends.end_trained == 40
    assert made.packed and made.leak is not None and made.leak < made.leak_limit
    (view,) = made.view.values()
    assert "".join(t for t, w in view if w > 0).removesuffix("<|im_end|>") in small.LABELS


def test_rows_that_are_left_out_are_counted(inputs: Path) -> None:
    (inputs / "long.jsonl").write_text("\n".join(json.dumps({"text": "card lost " * n}) for n in (3, 4, 60)))
    made = look(session_of(inputs, data__train="long.jsonl", data__max_length=40, data__truncation="drop"))
    assert (made.sources[0].read, made.sources[0].rows, made.sources[0].too_long) == (3, 2, 1)
    assert "too long" in text_of(made)


def test_padded_rows_are_said_to_be(inputs: Path) -> None:
    made = look(session_of(inputs, data__packing=False))
    assert not made.packed and made.leak is None and "rows padded" in text_of(made)


@pytest.mark.parametrize("split", ["validation", "eval"])
def test_held_out_rows_that_a_recipe_measures_on_are_rows_that_measure(split: str, inputs: Path) -> None:
    made = look(session_of(inputs, data__eval=None, data__validation="25%", measurement__split=split))
    assert bool(made.measured) == (split == "validation") == ("no rows measure" not in text_of(made))


def text_of(made: RunPlan, **options: Any) -> str:
    out = io.StringIO()
    plan_page.show(made, Path("r.yaml"), Console(file=out, width=100, highlight=False, **options))
    return out.getvalue()


def test_the_page(made: RunPlan) -> None:
    text = text_of(made)
    for said in (
        "lora (attach): rank 4",
        "4 steps",
        "4,096",
        "rows packed without padding",
        "[[",
        "memory",
        "disk",
        "was within",
        "tunewright run r.yaml",
    ):
        assert said in text, said
    assert "\x1b[" in text_of(made, force_terminal=True, color_system="standard") and "[[" not in text_of(
        made, force_terminal=True, color_system="standard"
    )


def test_a_plan_is_data_and_nothing_is_printed_or_written(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = small.write_recipe(inputs)
    monkeypatch.chdir(tmp_path)
    found = json.loads(json.dumps(plan(file, sets=["train.seed=3"], quiet=True).to_json()))
    assert capsys.readouterr() == ("", "")
    assert found["estimate"]["total"] > found["estimate"]["train"] > 0 and found["stages"][0]["tokens"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "method, said",
    [
        ("lora", True),
        ({"qlora": {"rank": 2}}, True),
        ({"lora": {"target_modules": ["q_proj"]}}, False),
        ("full", False),
    ],
    ids=str,
)
def test_a_plan_and_a_run_say_what_all_linear_leaves_out(method: Any, said: bool, tmp_path: Path, inputs: Path) -> None:
    small.write_inputs(tmp_path, model=architectures.make("llama4_text", "text-generation"))
    recipe = small.write_recipe(tmp_path, stages__0__methods=[method], stages__0__budget={"steps": 1}, keep=[])
    planned = plan(recipe, quiet=True)
    done = run(recipe, out=tmp_path / "out", quiet=True)
    for notes in (planned.notes, done.report.notes):
        left = [n for n in notes if n.startswith("left out of all-linear")]
        assert len(left) == (2 if said else 0)
        assert not said or ("feed_forward.router (it gives a tuple" in left[0] and "experts" in left[1])
    assert ("left out of all-linear" in str(planned)) == said


@pytest.mark.parametrize(("rank", "told"), [(32, False), (33, True)])
def test_a_rank_above_a_layers_narrower_side_is_told(rank: int, told: bool, inputs: Path, tmp_path: Path) -> None:
    method = {"lora": {"rank": rank, "target_modules": ["q_proj"]}}
    recipe = small.write_recipe(inputs, stages__0__methods=[method], stages__0__budget={"steps": 1}, keep=[])
    said = "lora: rank 33 is above the narrower side of 2 of 2 layers"
    for notes in (plan(recipe, quiet=True).notes, run(recipe, out=tmp_path / "out", quiet=True).report.notes):
        assert any(n.startswith(said) for n in notes) == told == any(n.startswith("lora: ") for n in notes)


def test_a_method_that_cannot_act_in_the_steps_is_marked_and_the_report_says_so(inputs: Path, tmp_path: Path) -> None:
    methods = [{"lift": {"rank": 2, "filter_rank": 2}}]
    said = "lift: the mask is drawn once: 3 steps do not reach refresh_steps 400; write fewer, or none to say so"
    session = session_of(inputs, stages__0__methods=methods, stages__0__budget={"steps": 3})
    made = look(session)
    assert made.stages[0].cautions == [said] == made.to_json()["stages"][0]["cautions"]
    assert f"look  {said}" in str(made)
    idle = session_of(inputs, stages__0__methods=["lora"], stages__0__budget={"steps": 3})
    assert look(idle).stages[0].cautions == []
    recipe = small.write_recipe(inputs, stages__0__methods=methods, stages__0__budget={"steps": 3})
    assert said in run(recipe, out=tmp_path / "out", quiet=True).report.notes


def test_the_dial_is_estimated_by_its_rows_and_without_the_base(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_time, "_seconds", lambda work: 1.0)

    def dial(**changes: Any) -> float:
        return estimate(session_of(inputs, **changes)).dial

    whole = dial()
    assert whole > 0 and dial(measurement__strengths=[0, 0.5, 1]) == whole
    assert dial(measurement__dial_rows=2) == pytest.approx(whole * 2 / 8) and dial(measurement__dial_rows=9) == whole


def test_measuring_after_each_task_is_counted(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_time, "_seconds", lambda work: 1.0)
    one = {"methods": ["lora"], "budget": {"steps": 1}}

    def between(stages: int, **changes: Any) -> float:
        named = [{**one, "name": f"s{i}"} for i in range(stages)]
        found = estimate(session_of(inputs, stages=named, **changes))
        assert found.total > found.between
        return found.between

    assert between(1) == 0
    assert between(3) == 2 * between(2) > 0


def test_a_loop_over_its_samples_is_timed_by_whole_sets_of_them(inputs: Path) -> None:
    """Of five steps a set only the first reads rows: a probe of some of them would know no time a token."""
    methods = ["lora", {"ppo": {"reuse": 5, "max_new_tokens": 3}}, "exact-answer"]
    probed = estimate(session_of(inputs, stages__0__methods=methods, stages__0__budget={"steps": 20})).stages[0]
    assert len(probed.losses) == 5 and 0 < probed.train < 3600


def test_a_stage_knows_what_is_kept_and_what_is_measured(inputs: Path) -> None:
    session = session_of(inputs)
    planned = session.plan(session.stages[0])
    assert session.eval is not None and session.keep
    assert planned.kept == tuple(d.name for k in session.keep.values() for d in k.sources)
    assert planned.measured == tuple(d.name for d in session.eval.sources) and not set(planned.sources) & {
        *planned.kept
    }
    assert all(r.source in planned.kept for k in session.keep.values() for r in k.rows)
