"""Rows that are made: the same for the same parameters, read like any others; networks leave structure in noise."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tests import small, tiny
from tunewright.contract.task import EncodeOptions
from tunewright.data import generators
from tunewright.data.dataset import build
from tunewright.data.generators import generator
from tunewright.data.generators.iterated_random_computation import SYMBOLS, Rows, network
from tunewright.data.read import read_all
from tunewright.errors import DataError, RecipeError
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.recipe.source import Source
from tunewright.runs.run import run
from tunewright.tasks import get_task
from tunewright.trials.trial_key import key_of

NAME = "make:iterated-random-computation"
FEW: dict[str, Any] = {
    "rows": 24,
    "length": 24,
    "alphabet": 20,
    "buffer": 24,
    "batch": 8,
    "rounds": 6,
    "width": 16,
    "heads": 2,
    "depth": 1,
}


def texts(**parameters: Any) -> list[str]:
    return [r["text"] for r in Rows(**{**FEW, **parameters}).make()]


def test_equal_parameters_make_equal_rows_and_each_of_them_decides():
    first = texts()
    assert first == texts() and len(first) == 24 and {len(t) for t in first} == {24}
    assert set("".join(first)) <= set(SYMBOLS[:20]) and all(t.strip() for t in first)
    for name, other in (
        ("seed", 1),
        ("length", 20),
        ("alphabet", 9),
        ("buffer", 16),
        ("batch", 4),
        ("rounds", 2),
        ("width", 8),
        ("heads", 4),
        ("depth", 2),
        ("temperature", 5.0),
        ("reset", 0.9),
        ("multiplier", 1.0),
        ("masked", 0.0),
    ):
        assert texts(**{name: other}) != first, name
    assert texts(rows=5) == first[:5], "rows come one after the other"


def test_the_network_is_causal_and_does_not_look_into_other_sequences():
    z = np.random.default_rng(0).integers(0, 20, (3, 12))

    def out(z):
        return network(z, 20, 16, 2, 2, 5.0, 0.7, np.random.default_rng(1))

    other = z.copy()
    other[1, 7:] = (other[1, 7:] + 1) % 20
    one, two = out(z), out(other)
    assert one.shape == (3, 12, 21)
    assert np.array_equal(one[1, :7], two[1, :7]) and not np.allclose(one[1, 7:], two[1, 7:])
    assert np.array_equal(one[[0, 2]], two[[0, 2]])


def test_the_network_is_transformers_own_arithmetic():
    """One block of ours against torch's layers with the same matrices."""
    drawn: list[Any] = []

    class Listening:
        def __init__(self):
            self.rng = np.random.default_rng(3)

        def __getattr__(self, name):
            return getattr(self.rng, name)

    z = np.random.default_rng(0).integers(0, 20, (2, 6))
    ours = network(z, 20, 16, 2, 1, 1.0, 0.0, Listening())  # type: ignore[arg-type]
    rng = np.random.default_rng(3)

    def matrix(rows, columns, embedding=False):
        values = rng.normal(size=(rows, columns)) if embedding else rng.uniform(-1, 1, (rows, columns)) / rows**0.5
        rng.random((rows, columns)), rng.random()
        drawn.append(torch.tensor(values * rng.random(), dtype=torch.float32))
        return drawn[-1]

    x = matrix(20, 16, True)[z] + matrix(6, 16, True)
    q, k, v = ((x @ matrix(16, 16)).view(2, 6, 2, 8).transpose(1, 2) for _ in range(3))
    seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    norm = torch.nn.LayerNorm(16, elementwise_affine=False)
    x = norm(x + seen.transpose(1, 2).reshape(2, 6, 16) @ matrix(16, 16))
    x = norm(x + (x @ matrix(16, 64)).relu() @ matrix(64, 16))
    assert torch.allclose(torch.tensor(ours), x @ matrix(16, 21), atol=1e-4)


def test_noise_stays_noise_without_weights_and_structure_gathers_with_rounds():
    noise = texts(multiplier=0.0, rows=400, length=50, buffer=400, batch=400, rounds=0)
    counts = Counter("".join(noise))
    assert len(counts) == 20 and all(800 < n < 1200 for n in counts.values())

    def distinct(**parameters: Any) -> float:
        return float(np.mean([len(set(t)) for t in texts(rows=48, length=40, **parameters)]))

    assert distinct(multiplier=0.0) > 16.5 and distinct(rounds=60, reset=0.0) < distinct(rounds=0) - 1
    assert distinct(rounds=60, reset=1.0) > distinct(rounds=60, reset=0.0) + 0.5


def source(**more: Any) -> Source:
    return Source(path=NAME, parameters=FEW, **more)


def test_rows_are_read_like_any_others():
    read = read_all(source(limit=7, name="made"))
    assert [r["text"] for r in read.records] == texts()[:7]
    assert [r.id for r in read.records] == [f"made:{i}" for i in range(1, 8)] and not read.problems


def test_rows_are_made_once_and_found_again_by_what_decides_them(tmp_path, monkeypatch):
    made = []
    whole = Rows.make
    monkeypatch.setattr(Rows, "make", lambda self: made.append(self.seed) or whole(self))

    def rows(**parameters: Any):
        some = Source(path=NAME, name="made", parameters={**FEW, **parameters})
        options = EncodeOptions(max_length=64)
        return build([some], get_task("text-generation"), tiny.tokenizer(), options, tmp_path).rows

    first = rows()
    assert [list(r.input_ids) for r in rows()] == [list(r.input_ids) for r in first] and made == [0]
    rows(seed=5)
    assert made == [0, 5]


@pytest.mark.slow
def test_a_run_learns_from_rows_that_no_file_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    threads = torch.get_num_threads()

    def recipe(**parameters: Any) -> Recipe:
        data = {"path": NAME, "parameters": {**FEW, **parameters}}
        methods = {"stages": [{"name": "main", "methods": ["full"], "budget": {"steps": 2}}]}
        return Recipe.load(small.write_recipe(tmp_path, data__train=[data], data__eval=None, keep=[], **methods))

    assert check_recipe(recipe()).report.ok
    first, again = (run(recipe(), tmp_path / name, quiet=True).folder for name in ("one", "two"))
    assert (first / "delta.safetensors").read_bytes() == (again / "delta.safetensors").read_bytes()
    begun = json.loads((first / "begun.json").read_text())["content"]
    assert begun["the rows of stages.main"]
    assert key_of(recipe()) != key_of(recipe(seed=1)) and key_of(recipe()) == key_of(recipe())
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("path", "parameters", "words"),
    [
        ("make:iterated-random", {}, "did you mean 'make:iterated-random-computation'"),
        (NAME, {"lenght": 3}, "no parameter 'lenght'"),
        (NAME, {"length": 0}, "length: Input should be greater than 0"),
        (NAME, {"width": 16, "heads": 3}, "3 heads do not divide a width of 16"),
        (NAME, {"alphabet": 96}, "alphabet"),
    ],
)
def test_what_is_wrong_is_named(path, parameters, words):
    with pytest.raises(DataError) as refused:
        read_all(Source(path=path, parameters=parameters))
    assert words in str(refused.value)


def test_files_take_no_parameters():
    with pytest.raises(RecipeError, match="takes no parameters"):
        Recipe(
            model="nano",
            task="text-generation",
            data={"train": {"path": "a.jsonl", "parameters": {"rows": 3}}},
            methods=["full"],
        )


@pytest.mark.slow
def test_every_generator_is_whole():
    for name in generators.names():
        kind = type(generator(f"make:{name}", None))
        assert kind.__doc__ and all(f.description for f in kind.model_fields.values())
        some = list(itertools.islice(generator(f"make:{name}", {"rows": 2}).make(), 3))
        assert len(some) == 2
