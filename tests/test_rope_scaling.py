"""Positions scaled by a recipe: as transformers scales them, in every verb, and refused where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests import small, tiny
from tunewright.errors import ModelError, RecipeError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.finished.servability import servability
from tunewright.loading.load import load
from tunewright.loading.positions import beyond
from tunewright.planning.check import check_recipe
from tunewright.recipe import ModelSpec, Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run

TASK = "text-generation"
YARN = {"rope_type": "yarn", "factor": 4.0}  # 256 positions become 1,024
TYPES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 2.5},
    YARN,
    {**YARN, "beta_fast": 8.0, "attention_factor": 1.3, "truncate": False},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0},
]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    return tmp_path


def spec(folder: Path, **rope: Any) -> ModelSpec:
    return ModelSpec(name=str(folder / "base"), rope_scaling=rope or None)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(8, 308)[None] % tiny.VOCABULARY
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("rope", TYPES, ids=lambda r: f"{r['rope_type']}{len(r)}")
def test_a_model_answers_as_transformers_own_with_the_same_keys(inputs: Path, rope: dict[str, Any]) -> None:
    loaded, plain = load(spec(inputs, **rope), TASK), load(spec(inputs), TASK)
    config = transformers.AutoConfig.from_pretrained(inputs / "base")
    known = config.max_position_embeddings
    config.rope_parameters = {"rope_theta": config.rope_parameters["rope_theta"], **rope}
    if rope["rope_type"] != "linear":
        config.rope_parameters["original_max_position_embeddings"] = known
    config.max_position_embeddings = int(known * rope["factor"])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(inputs / "base", config=config).eval()
    assert torch.equal(logits(loaded.model), logits(theirs))
    assert not torch.allclose(logits(loaded.model), logits(plain.model), atol=1e-2)
    assert loaded.model.config.max_position_embeddings == int(known * rope["factor"]) > known
    assert loaded.hash != plain.hash and loaded.hash == loaded.hash_now(afresh=True)
    assert loaded.tokenizer.model_max_length >= loaded.model.config.max_position_embeddings


def test_fewer_positions_may_be_named_as_those_it_learnt_with(inputs: Path) -> None:
    fewer = load(spec(inputs, **YARN, original_max_position_embeddings=100), TASK)
    assert fewer.hash != load(spec(inputs, **YARN), TASK).hash
    config: Any = fewer.model.config
    assert config.max_position_embeddings == 400
    assert config.rope_parameters["original_max_position_embeddings"] == 100


def test_a_run_its_resume_and_its_export_have_the_same_positions(inputs: Path) -> None:
    base = {"name": "./base", "rope_scaling": YARN}
    recipe = small.write_recipe(inputs, model=base, stages__0__methods=["lora"])
    plain = run(small.write_recipe(inputs, "plain"), inputs / "plain", quiet=True)
    done = run(recipe, inputs / "out", quiet=True)
    told = (done.folder / "report.json").read_text()
    assert "positions are scaled (yarn, factor 4)" in told
    assert "positions are scaled" not in (plain.folder / "report.json").read_text()
    figures = [json.loads((x.folder / "report.json").read_text())["kept"] for x in (done, plain)]
    assert figures[0] != figures[1]
    beside = [[r for r in servability(x.folder) if "positions are scaled" in r] for x in (done, plain)]
    assert len(beside[0]) == 1 and beside[1] == []
    finished = open_run(done.folder)
    assert finished.adapted.model.config.rope_parameters["rope_type"] == "yarn"
    export(done.folder, inputs / "whole")
    alone = transformers.AutoModelForCausalLM.from_pretrained(inputs / "whole").eval()
    assert alone.config.rope_parameters["factor"] == 4.0 and alone.config.max_position_embeddings == 1024
    torch.testing.assert_close(logits(alone), logits(finished.adapted.model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("rope", "says"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "longest row read so far"),
        ({"rope_type": "longrope", "factor": 2.0}, "longest row read so far"),
        ({"rope_type": "linear", "factor": 1.0}, "greater than 1"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3.0}, "'beta_fast' is of rope_type: yarn"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": 2.0, "beta_slow": 3.0}, "beta_slow"),
        ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0}, "low_freq_factor"),
    ],
)
def test_a_recipe_shows_what_cannot_be(inputs: Path, rope: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Recipe.load(small.write_recipe(inputs, model={"name": "./base", "rope_scaling": rope}))


def test_it_is_of_a_model_that_is_there_and_here() -> None:
    with pytest.raises(ValueError, match="positions are its config's"):
        ModelSpec(config={"model_type": "llama"}, rope_scaling=YARN)  # type: ignore[call-arg, arg-type]
    with pytest.raises(ValueError, match="address"):
        ModelSpec(name="a", url="http://localhost:1/v1", rope_scaling=YARN)  # type: ignore[arg-type]


def test_a_model_whose_positions_are_no_rope_is_refused_before_its_weights(inputs: Path) -> None:
    tiny.gpt2().save_pretrained(inputs / "gpt2")
    tiny.tokenizer().save_pretrained(inputs / "gpt2")
    recipe = small.write_recipe(inputs, model={"name": "./gpt2", "rope_scaling": YARN})
    (inputs / "gpt2" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no rotary positions"):
        check_recipe(recipe)


def test_positions_that_are_scaled_already_are_refused(inputs: Path) -> None:
    load(spec(inputs, **YARN), TASK).model.save_pretrained(inputs / "scaled")
    tiny.tokenizer().save_pretrained(inputs / "scaled")
    with pytest.raises(ModelError, match="scaled already"):
        load(ModelSpec(name=str(inputs / "scaled"), rope_scaling={"rope_type": "linear", "factor": 2.0}), TASK)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="original_max_position_embeddings is 999"):
        load(spec(inputs, **YARN, original_max_position_embeddings=999), TASK)


def test_of_kinds_of_layers_the_whole_ones_are_scaled_alone(tmp_path: Path) -> None:
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8)
    config = transformers.Gemma3TextConfig(
        vocab_size=tiny.VOCABULARY,
        num_key_value_heads=2,
        max_position_embeddings=64,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
        **sizes,
    )
    transformers.Gemma3ForCausalLM(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    rope = load(ModelSpec(name=str(tmp_path), rope_scaling=YARN), TASK).model.config.rope_parameters  # type: ignore[arg-type]
    assert rope["full_attention"]["rope_type"] == "yarn" and rope["sliding_attention"]["rope_type"] == "default"


@pytest.mark.parametrize(("takes", "says"), [(256, "not read whole"), (4096, "rows have up to")])
def test_rows_beyond_the_positions_are_said_with_what_to_write(inputs: Path, takes: int, says: str) -> None:
    file = inputs / "base" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": takes}))
    rows = (inputs / "train.jsonl").read_text()
    long = json.dumps({"prompt": "card lost fee " * 120, "completion": "cash fee"})
    (inputs / "train.jsonl").write_text(f"{rows}\n{long}")
    changes = {"data__max_length": 2000, "stages__0__budget": {"steps": 1}}
    plain = small.write_recipe(inputs, **changes)
    for notes in (check_recipe(plain).report.cautions, assemble(Recipe.load(plain)).notes):
        (found,) = [n for n in notes if "256 positions" in n]
        assert says in found and "model.rope_scaling: {rope_type: yarn, factor: " in found
    enough = {"name": "./base", "rope_scaling": {**YARN, "factor": 8.0}}
    scaled = small.write_recipe(inputs, "s", model=enough, **changes)
    assert not [n for n in check_recipe(scaled).report.cautions if "learnt with" in n]


def test_nothing_is_said_of_rows_that_fit() -> None:
    config = tiny.llama().config
    assert beyond(config, [], 10_000, 10_000) == [] and beyond(tiny.gpt2().config, [], 10_000, 10_000) == []


KEYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (YARN, {"factor": 3.0}),
    (YARN, {"original_max_position_embeddings": 32}),
    (YARN, {"attention_factor": 1.5}),
    (YARN, {"beta_fast": 4.0}),
    (YARN, {"beta_slow": 8.0}),
    ({**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, {"mscale": 0.7}),
    ({**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, {"mscale_all_dim": 0.7}),
    (YARN, {"truncate": False}),
    ({"rope_type": "llama3", "factor": 4.0}, {"low_freq_factor": 0.2}),
    ({"rope_type": "llama3", "factor": 4.0}, {"high_freq_factor": 20.0}),
]


@pytest.mark.parametrize(("plain", "changed"), KEYS, ids=lambda k: "-".join(k))
def test_every_key_changes_what_positions_turn_by(inputs: Path, plain: dict[str, Any], changed: dict[str, Any]) -> None:
    turns = []
    for rope in (plain, {**plain, **changed}):
        turning = load(spec(inputs, **rope), TASK).model.get_submodule("model.rotary_emb")
        turns.append((turning.inv_freq.tolist(), turning.attention_scaling))
    assert turns[0] != turns[1]
