"""A merge's parameters are described by its fields alone: a third party's merge is read, checked and run by them."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import yaml
from pydantic import Field
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests import tiny
from tunewright import catalogue
from tunewright.catalogue import listing
from tunewright.commands.cli import app
from tunewright.errors import MethodError, RecipeError
from tunewright.weights import command, fast, parameters, stream
from tunewright.weights.mergekit_yaml import read
from tunewright.weights.operator import Merge, PerModel
from tunewright.weights.request import Part, Request
from tunewright.weights.resolving import Operator

TOY = '''
"""Sum: the sum of what each model adds, each with a push of its own."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tunewright.weights.operator import Merge, MergekitDefault, PerModel


class PushedSum(Merge):
    """Add changes, each with a push."""

    push: Annotated[PerModel[float], MergekitDefault(2.0)] = Field(1.0, ge=0, le=10, description="factor of a change")
    in_: PerModel[float] = Field(0.0, alias="in", description="what is added to a model's change", examples=[0.5])
    factor: float = Field(alias="lambda", description="factor of the sum")
    left_out: tuple[str, ...] = Field((), description="tensors, by a part of their names, that stay the base's")

    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    models: ClassVar[tuple[int, int | None]] = (1, 3)

    def merge(self, name, base, tensors, each):
        if any(part in name for part in self.left_out):
            return base.clone()
        changes = [e["push"] * (t - base) + e["in_"] for t, e in zip(tensors, each, strict=True)]
        return base + self.factor * sum(changes)
'''
NORM = "model.norm.weight"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A third party's package with one merge, found through its entry point."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "someones_merge.py").write_text(TOY)
    info = package / "someones-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tunewright.methods]\npushed-sum = someones_merge\n")
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "merge", partial(stream.merge, forward=False))
    catalogue.entries.cache_clear()
    yield "pushed-sum"
    catalogue.entries.cache_clear()
    sys.modules.pop("someones_merge", None)


@pytest.fixture
def models(tmp_path):
    """base, m1 and m2 as folders: the tunings differ from the base by 1 and by 2 everywhere."""
    for k, name in enumerate(("base", "m1", "m2")):
        model = tiny.llama(layers=2)
        for p in model.parameters():
            p.data += k
        model.save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
    return tmp_path


def merged(folder, *given):
    """The change of the norm, of the first and of the last block after `tunewright merge`; or what it printed."""
    args = ["merge", str(folder / "m1"), str(folder / "m2"), "--out", str(folder / "out"), *given]
    done = CliRunner().invoke(app, args)
    if done.exit_code:
        return done.exit_code, done.output
    base, got = (load_file(folder / f / "model.safetensors") for f in ("base", "out"))
    names = (NORM, *(f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1)))
    return [round(float((got[n] - base[n]).mean()), 4) for n in names]


def options(folder, *more):
    return ("--method", "pushed-sum", "--base", str(folder / "base"), *more)


def test_a_new_parameter_is_a_flag_once_or_once_a_model(toy, models):
    assert merged(models, *options(models, "--push", "0.5", "--lambda", "2")) == [3.0] * 3
    (models / "out").rename(models / "first")
    own = ("--push", "1", "--push", "[0, 1]", "--in", "0.5", "--in", "0", "--lambda", "100%", "--left_out", "[norm]")
    assert merged(models, *options(models, *own)) == [0.0, 1.5, 3.5]


def test_a_new_parameter_is_read_from_mergekits_yaml(toy, models):
    file = models / "merge.yml"
    own = {"push": [{"filter": "mlp", "value": 3}, {"value": 1}], "in": "1e-1"}
    parts = [{"model": "m1", "parameters": own}, {"model": "m2"}]
    asked = {"merge_method": "pushed_sum", "base_model": "base", "models": parts, "parameters": {"lambda": 1}}
    file.write_text(yaml.safe_dump(asked))
    stream.merge(read(file, models / "out"), forward=False)
    base, got = (load_file(models / f / "model.safetensors") for f in ("base", "out"))
    changes = {n: float((got[n] - base[n]).mean()) for n in base}
    assert changes[NORM] == pytest.approx(1 + 0.1 + 2 * 2, abs=1e-5), "what is left out is 2 in mergekit's files"
    assert changes["model.layers.0.mlp.up_proj.weight"] == pytest.approx(3 + 0.1 + 2 * 2, abs=1e-5)
    file.write_text(yaml.safe_dump({**asked, "parameters": {"lambda": 1, "psuh": 2}}))
    with pytest.raises(RecipeError, match=r"merge.yml: psuh: 'pushed-sum' has no parameter 'psuh'\n.*'push'"):
        stream.merge(read(file, models / "out2"), forward=False)
    asked["models"][0]["parameters"]["push"][1]["value"] = 11
    file.write_text(yaml.safe_dump(asked))
    with pytest.raises(RecipeError, match=r"merge.yml: push: pushed-sum.push: .*, got 11\n.*>= 0, <= 10"):
        stream.merge(read(file, models / "out2"), forward=False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--psuh", "1", "--lambda", "1"), ["no parameter 'psuh'", "did you mean 'push'"]),
        (("--factor", "1"), ["no parameter 'factor'"]),
        (
            ("--push", "-1", "--lambda", "1"),
            ["merge: push", "pushed-sum.push", "got -1", ">= 0, <= 10"],
        ),
        (("--push", "true", "--lambda", "1"), ["pushed-sum.push", "got True", "allowed: float"]),
        (("--push", ".inf", "--lambda", "1"), ["pushed-sum.push", "finite", "got inf"]),
        (("--in", "much", "--lambda", "1"), ["pushed-sum.in:", "got 'much'", "allowed: float; its default is 0.0"]),
        (("--push", "1"), ["'pushed-sum' needs 'lambda': factor of the sum", "allowed: float"]),
        (("--lambda", "1", "--lambda", "2"), ["'lambda' of 'pushed-sum' is one for all", "a model's own: push, in"]),
        (("--in", "[{filter: mlp, value: 1}]", "--lambda", "[]"), ["lambda", "an empty list"]),
    ],
)
def test_what_a_field_refuses_is_said_with_the_nearest_name_type_range_and_default(toy, models, given, says):
    code, output = merged(models, *options(models, *given))
    assert code == RecipeError.code and all(s in output for s in says), output
    assert not (models / "out").exists()


def test_a_page_says_what_may_differ_from_model_to_model(toy):
    page = listing.page(listing.one(toy))
    assert "push: float, default 1.0, >= 0, <= 10" in page and "  lambda: float, required" in page
    assert "factor of a change; each model may have its own; 2.0 where a file in mergekit's form leaves it out" in page


def test_a_required_parameter_may_be_each_models_own(tmp_path, monkeypatch):
    class Own(Merge):
        """Each with a weight that has no default."""

        weight: PerModel[float] = Field(description="a model's weight")

        def merge(self, tensors, each):
            return sum(e["weight"] * t for t, e in zip(tensors, each, strict=True))

    def asked(*weights):
        parts = [Part(f"m{i}", {} if w is None else {"weight": w}) for i, w in enumerate(weights)]
        return Operator(Request("model-stock", parts, tmp_path / "out"))

    monkeypatch.setattr(catalogue, "load_method", lambda name, where: Own)
    operator = asked(1, [{"filter": "a", "value": 2}])
    own, each = operator.at("a", 0.0, operator.parts)
    assert each == [{"weight": 1.0}, {"weight": 2.0}] and operator.method(own, each).weight == 1.0
    with pytest.raises(RecipeError, match="no filter of 'weight' fits 'b'"):
        operator.at("b", 0.0, operator.parts)
    with pytest.raises(RecipeError, match="needs 'weight'"):
        asked(1, None)


def test_fields_are_the_one_place_that_says_what_models_may_have_of_their_own():
    with pytest.raises(MethodError, match="mark the fields"):

        class Twice(Merge):
            per_model = ("weight",)


@pytest.mark.parametrize("method", sorted(n for n, e in catalogue.entries().items() if e.room == "weights/merge"))
def test_every_merge_is_refused_a_wrong_name_by_its_own(method, tmp_path):
    fields = fast.TABLE[method].fields if method in fast.TABLE else catalogue.load_method(method)
    for name in parameters.written(fields):
        with pytest.raises(RecipeError, match=f"no parameter '{name}x'\n.*'{name}'"):
            Operator(Request(method, [Part("a"), Part("b")], tmp_path / "out", parameters={f"{name}x": 1}))
