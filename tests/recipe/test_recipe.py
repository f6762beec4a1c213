from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.errors import RecipeError
from tunewright.recipe import Budget, MethodUse, Recipe, yaml_text

LEAST = {"model": "smollm2-135m-instruct", "task": "text-generation", "data": {"train": "a.jsonl"}, "methods": ["lora"]}

words = st.text("abcxyz_-.0123456789 :#é%", min_size=1, max_size=8)
positive = st.integers(1, 10**9)
uses = st.builds(
    lambda name, params: {name: params} if params else name,
    st.sampled_from(["lora", "hft", "full"]),
    st.dictionaries(
        st.sampled_from(["rank", "alpha", "target_modules"]),
        st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), words, st.lists(words)),
        max_size=3,
    ),
)
sources = st.one_of(
    words,
    st.fixed_dictionaries(
        {"path": words},
        optional={
            "weight": st.floats(0.01, 9),
            "limit": positive,
            "columns": st.dictionaries(words, words, max_size=2),
        },
    ),
)
trains = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-7, 1),
        "batch_tokens": st.one_of(positive, st.sampled_from(["16k", "2M"])),
        "seed": st.integers(0, 2**31),
        "warmup_steps": st.one_of(st.integers(0, 99), st.floats(0, 0.99), st.just("3%")),
        "max_grad_norm": st.one_of(st.none(), st.floats(0.1, 9)),
        "optimizer": st.sampled_from(["adamw", "sgd"]),
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
        "save_steps": st.one_of(st.none(), positive),
    },
)
stages = st.lists(
    st.fixed_dictionaries(
        {"methods": st.lists(uses, min_size=1, max_size=2)},
        optional={
            "budget": st.dictionaries(st.sampled_from(["tokens", "steps", "epochs"]), positive, max_size=2),
            "train": trains,
            "data": st.fixed_dictionaries({}, optional={"max_length": positive.map(lambda n: n + 1), "train": sources}),
        },
    ),
    min_size=1,
    max_size=3,
).map(lambda found: [{"name": f"s{i}", **stage} for i, stage in enumerate(found)])
recipes = st.fixed_dictionaries(
    {
        "model": words,
        "task": st.just("text-generation"),
        "data": st.fixed_dictionaries({"train": st.one_of(sources, st.lists(sources, min_size=1, max_size=2))}),
        "stages": stages,
    },
    optional={
        "train": trains,
        "keep": st.lists(words.map(lambda w: {"data": w}), max_size=2, unique_by=lambda k: k["data"]),
        "after": st.lists(uses, max_size=1),
        "new_tokens": st.lists(words, max_size=2),
    },
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_a_dumped_recipe_reads_back_equal(tree):
    recipe = Recipe(**tree)
    again = Recipe(**yaml_text.read(recipe.dump()).tree)
    assert again == recipe
    assert again.dump() == recipe.dump()


def write(tmp_path, text, name="r.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


FILE = """\
model: smollm2-135m-instruct
task: text-generation
data: {train: a.jsonl, validation: 10%, cutoff_len: 2k}
train: {learning_rate: 2e-4, batch_tokens: 16k}
methods:
  - lora: {rank: 16}
budget: {tokens: 2M}
"""


def test_numbers_and_short_forms(tmp_path):
    recipe = Recipe.load(write(tmp_path, FILE))
    assert (recipe.train.learning_rate, recipe.train.batch_tokens) == (2e-4, 16_000)
    assert recipe.data.validation == 0.1 and recipe.data.max_length == 2000
    assert recipe.data.train[0].path == "a.jsonl" and recipe.model.name == "smollm2-135m-instruct"
    stage = recipe.stages[0]
    assert (stage.name, stage.start, stage.budget.tokens, stage.budget.epochs) == ("main", "base", 2_000_000, None)
    assert stage.methods == [MethodUse(name="lora", params={"rank": 16})]
    assert stage.methods[0].line == 6 and recipe.name == "r" and recipe.base == tmp_path.resolve()


def test_every_default_is_written_out(tmp_path):
    text = Recipe.load(write(tmp_path, FILE)).dump()
    for line in (
        "seed: 0",
        "lr_scheduler_type: linear",
        "truncation: auto",
        "start: base",
        "carry: fold",
        "drift_sequences: 64",
    ):
        assert line in text
    assert Recipe.load(write(tmp_path, text, "again.yaml")).dump() == text


def test_a_budget_without_a_limit_says_so():
    assert not Budget().limited and Budget().model_dump() == {}
    assert all(Budget(**{kind: 3}).limited for kind in Budget.model_fields)


def test_stage_overrides_lie_over_the_common_part():
    tree = {**LEAST, "train": {"seed": 3, "save_steps": 5}}
    tree.pop("methods")
    recipe = Recipe(
        **tree,
        stages=[
            {
                "name": "a",
                "methods": "lora",
                "train": {"learning_rate": 1, "save_steps": None},
                "data": {"max_length": 9},
            }
        ],
    )
    merged = recipe.train_for(recipe.stages[0])
    assert (merged.learning_rate, merged.seed, merged.save_steps) == (1.0, 3, None)
    assert (
        recipe.data_for(recipe.stages[0]).max_length == 9
        and recipe.data_for(recipe.stages[0]).train == recipe.data.train
    )
    assert "save_steps: null" in recipe.dump().split("stages:")[1]


def test_stages_start_from_the_one_before():
    tree = {k: v for k, v in LEAST.items() if k != "methods"}
    recipe = Recipe(
        **tree,
        stages=[
            {"name": "a", "methods": "lora"},
            {"name": "b", "methods": "full"},
            {"name": "c", "start": "./run", "methods": "full"},
        ],
    )
    assert [s.start for s in recipe.stages] == ["base", "stages.a", "./run"]


@pytest.mark.parametrize(
    ("flag", "read"),
    [
        ("train.seed=7", lambda r: r.train.seed == 7),
        (
            "stages.0.budget.steps=24",
            lambda r: r.stages[0].budget.steps == 24 and r.stages[0].budget.tokens == 2_000_000,
        ),
        ("budget.steps=24", lambda r: r.stages[0].budget.steps == 24),
        ("stages.0.methods.0.lora.rank=8", lambda r: r.stages[0].methods[0].params == {"rank": 8}),
        ("methods=[lora]", lambda r: r.stages[0].methods[0].params == {}),
        ("model.revision=abc", lambda r: (r.model.name, r.model.revision) == ("smollm2-135m-instruct", "abc")),
        ("data.train.limit=10", lambda r: r.data.train[0].limit == 10),
        ("measurement.strengths=[0.5,1]", lambda r: r.measurement.strengths == [0.5, 1.0]),
    ],
)
def test_flags_override_the_file(tmp_path, flag, read):
    assert read(Recipe.load(write(tmp_path, FILE), [flag]))


def test_paths_are_written_from_the_root_for_a_run_folder(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    tree = yaml_text.read(
        Recipe.load(write(tmp_path, FILE), ["stages.0.methods.0.lora.folder=./x"]).dump(absolute=True)
    ).tree
    assert tree["data"]["train"][0]["path"] == str(tmp_path.resolve() / "a.jsonl")
    assert tree["model"]["name"] == "smollm2-135m-instruct"
    assert tree["stages"][0]["methods"][0]["lora"]["folder"] == str(tmp_path.resolve() / "x")


def test_python_gets_the_same_errors():
    with pytest.raises(RecipeError, match="unknown key 'trian'") as caught:
        Recipe(**{**LEAST, "trian": {}})
    assert "did you mean 'train'" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"load_in_4bit": True}, "methods: [qlora]"),
        ({"learning_rate": 1e-3}, "write train: {learning_rate: 0.001}"),
        ({"max_length": 99}, "write data: {max_length: 99}"),
        ({"steps": 500}, "write budget: {steps: 500}"),
        ({"metric": "loss"}, "write measurement: {metric: loss}"),
        ({"strengths": None}, "write measurement: {strengths: [0.5, 1.0]}"),
        ({"train": {"max_length": 9}}, "write data: {max_length: 9}"),
        ({"train": {"keep": []}}, "keep stands at the top of the recipe"),
        ({"train": {"sed": 1}}, "did you mean 'seed'"),
    ],
)
def test_a_key_in_the_wrong_place_is_told_the_right_one(given, says):
    with pytest.raises(RecipeError) as caught:
        Recipe(**{**LEAST, **given})
    assert says in str(caught.value)


def test_reading_a_recipe_imports_no_torch(tmp_path):
    path = write(tmp_path, FILE)
    code = (
        f"import sys; from tunewright import Recipe; Recipe.load({str(path)!r}); print(sorted({{'torch', "
        f"'transformers', 'numpy'}} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_schema_accepts_what_the_types_accept():
    schema = Recipe.json_schema()
    assert "stages" not in schema["required"] and {"methods", "budget"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
    rank = [c for c in schema["$defs"]["method"]["anyOf"] if "lora" in c.get("properties", {})]
    assert rank and "rank" in rank[0]["properties"]["lora"]["properties"]


def test_keys_that_had_another_name_are_read_and_said(tmp_path):
    old = FILE + "\nmeasure: [intruder-dimensions]\nevaluation: {rows: 7}\n"
    recipe = Recipe.load(write(tmp_path, old), ["evaluation.few_shot=1"])
    assert [u.name for u in recipe.probes] == ["intruder-dimensions"]
    assert (recipe.measurement.rows, recipe.measurement.few_shot) == (7, 1)
    assert len(recipe.notes) == 2 and "'measure' is called 'probes' today" in recipe.notes[0]
    assert "probes:" in recipe.dump() and "\nmeasure:" not in recipe.dump()
    assert Recipe.load(write(tmp_path, recipe.dump())).notes == []


def test_an_old_and_a_new_key_together_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="mean the same"):
        Recipe.load(write(tmp_path, FILE + "\nmeasure: [calibration]\nprobes: [calibration]\n"))


@pytest.mark.parametrize("train", ["{path: a.jsonl}", "a.jsonl", "[a.jsonl]", "[{path: a.jsonl}]"])
@pytest.mark.parametrize("key", ["data.train.0.path", "data.train.0", "data.train.path", "data.train"])
def test_a_flag_reaches_a_source_however_it_is_written(tmp_path, train, key):
    text = f"model: nano\ntask: text-generation\ndata: {{train: {train}}}\nmethods: [lora]\nbudget: {{steps: 1}}\n"
    (tmp_path / "r.yaml").write_text(text)
    assert [s.path for s in Recipe.load(tmp_path / "r.yaml", [f"{key}=b.jsonl"]).data.train] == ["b.jsonl"]


@pytest.mark.parametrize(("given", "got"), [("induktor", "'induktor'"), (None, "null"), (3, "3")])
def test_choices_and_what_was_given_are_told_as_yaml_writes_them(given, got):
    tree = {"model": "./m", "task": "text-generation", "data": {"train": "t"}, "methods": ["full"]}
    with pytest.raises(RecipeError) as refused:
        Recipe.model_validate({**tree, "budget": {"steps": 1}, "train": {"compile": given}})
    told = str(refused.value)
    assert f"must be false, true, 'inductor', 'aot_eager' or 'eager', got {got}" in told
    assert "True" not in told and "False" not in told and "None" not in told


@pytest.mark.parametrize(
    ("flag", "reads", "value"),
    [
        ("data.replay.general.jsonl=0.1", lambda r: r.data.replay, {"general.jsonl": 0.1}),
        ("data.replay={a.txt: 0.2}", lambda r: r.data.replay, {"a.txt": 0.2}),
        ("stages.0.data.replay.b.txt=0.3", lambda r: r.stages[0].data.replay, {"b.txt": 0.3}),
        ("gate.kept.general=no worse by 0.05", lambda r: r.gate, {"kept.general": "no worse by 0.05"}),
    ],
)
def test_a_flag_reaches_a_name_with_points_in_it(tmp_path, flag, reads, value):
    text = "model: m\ntask: text-generation\ndata: {train: a.jsonl}\nkeep: [general.txt]\nmethods: [lora]\n"
    assert reads(Recipe.load(write(tmp_path, text), [flag])) == value
