"""mergekit's slices of whole models are the same merge as the models by name; other slices are refused by what is
wrong.
"""

from __future__ import annotations

import pytest
import yaml

from tests import tiny
from tunewright.errors import RecipeError
from tunewright.weights.mergekit_yaml import read


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for i, name in enumerate("ab"):
        tiny.llama(seed=i, layers=3).save_pretrained(folder / name)
    return folder


def asked(folder, slices, **more):
    file = folder / "merge.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "merge_method": "slerp",
                "base_model": "a",
                "parameters": {"t": 0.25},
                **({"slices": slices} if slices is not None else {}),
                **more,
            }
        )
    )
    return read(file, folder / "out")


def sources(*names, layers=(0, 3), **more):
    return [{"sources": [{"model": n, "layer_range": list(layers)} for n in names], **more}]


def test_a_slice_of_all_layers_is_the_merge_of_the_models(two):
    plain = asked(two, None, models=[{"model": "a"}, {"model": "b"}])
    assert asked(two, sources("a", "b")) == plain
    assert asked(two, [{"sources": [{"model": "a"}, {"model": "b"}]}]) == plain
    t = [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]
    assert asked(two, sources("a", "b", parameters={"t": t})).parameters == {"t": t} != plain.parameters
    weighed = asked(
        two, [{"sources": [{"model": "a", "parameters": {"weight": 0.3}}, {"model": "b"}]}], merge_method="linear"
    )
    assert [p.parameters for p in weighed.models] == [{"weight": 0.3}, {}]


@pytest.mark.parametrize(
    ("slices", "more", "words"),
    [
        (sources("a", "b", layers=(0, 2)), {}, r"takes layers \[0, 2\] of .*a', which has 3"),
        (sources("a", "b", layers=(1, 3)), {}, "which has 3"),
        ([{"sources": [{"model": "a", "layer_range": 3}]}], {}, "takes layers 3"),
        (sources("a") + sources("b"), {}, "put together from 2 slices"),
        (sources("a", "b"), {"models": ["a"]}, "both 'models' and 'slices'"),
        ([], {}, "a list of sources"),
        ([{"source": []}], {}, "a list of sources"),
        (sources("a", "b", residual_scale=1), {}, "unknown key 'residual_scale'"),
        ([{"sources": ["a"]}], {}, "names no model"),
        ([{"sources": []}], {}, "list of models is empty"),
        (sources("a", "b", parameters=3), {}, "parameters are a mapping"),
    ],
)
def test_other_slices_are_refused(two, slices, more, words):
    with pytest.raises(RecipeError, match=words) as e:
        asked(two, slices, **more)
    assert "merge.yml" in str(e.value)
