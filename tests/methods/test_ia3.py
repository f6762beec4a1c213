"""(IA)^3: which layers, which side of them, how few numbers; parity with PEFT in tests/parity/test_peft_kinds.py."""

from __future__ import annotations

import pytest
import torch

from tests import architectures, tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.errors import MethodError
from tunewright.methods.adapters.ia3 import IA3
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import InputScale, OutputScale

ENDS = {
    "llama": ({"k_proj", "v_proj"}, {"down_proj"}),
    "gpt2": ({"c_attn"}, {"c_proj"}),
    "bert": ({"key", "value"}, {"dense"}),
}


@pytest.mark.parametrize("name", ENDS)
def test_keys_and_values_are_scaled_behind_and_the_inner_units_before(name):
    task = {"bert": "fill-mask"}.get(name, "text-generation")
    adapted = Adapted(architectures.make(name, task))
    sites = IA3().sites(adapted.structure)
    sides: dict[type, set[str]] = {InputScale: set(), OutputScale: set()}
    for site in sites:
        delta = IA3().start(site, None, None)  # type: ignore[arg-type]
        sides[type(delta)].add(site.name.rpartition(".")[2])
        assert not delta.values.any()
        if isinstance(delta, InputScale):
            assert site.role == "mlp" and site.in_features > site.out_features
    assert (sides[OutputScale], sides[InputScale]) == ENDS[name]
    per_block = {"llama": 3, "gpt2": 2, "bert": 3}.get(name)
    assert per_block is None or len(sites) == per_block * len(adapted.structure.blocks)


def test_few_numbers_train_and_what_they_say_is_a_factor():
    r = Run({"ia3": IA3()}, steps=5)
    assert torch.equal(logits(r.adapted.model), logits(tiny.llama()))
    loop = r.train()
    model = tiny.llama()
    layer = model.model.layers[0]
    sizes = layer.self_attn.k_proj.out_features + layer.self_attn.v_proj.out_features + layer.mlp.down_proj.in_features
    assert loop.trained.count() == sizes * len(model.model.layers)
    tuned = logits(r.adapted.model)
    with torch.no_grad():
        for name, by_name in r.adapted.deltas().items():
            v = by_name["ia3"].values
            assert float(v.abs().max()) > 1e-3
            weight = model.get_submodule(name).weight
            weight *= 1 + (v[None] if "down_proj" in name else v[:, None])
    torch.testing.assert_close(logits(model), tuned, atol=1e-5, rtol=1e-5)


def test_what_is_named_is_taken():
    adapted = Adapted(tiny.llama())
    method = IA3(target_modules=["q_proj", "up_proj"], feedforward_modules=["up_proj"])
    kinds = {s.name.rpartition(".")[2]: type(method.start(s, None, None)) for s in method.sites(adapted.structure)}
    assert kinds == {"q_proj": OutputScale, "up_proj": InputScale}
    with pytest.raises(MethodError, match="feedforward_modules: the feed-forward module 'fc2' is none of the targets"):
        Run({"ia3": IA3(feedforward_modules="fc2")})
    with pytest.raises(MethodError, match="'k_prj' is no module"):
        Run({"ia3": IA3(target_modules="k_prj")})


def test_a_model_whose_layers_have_other_names_is_refused(monkeypatch):
    monkeypatch.setattr("tunewright.methods.adapters.ia3.KEYS_AND_VALUES", frozenset())
    monkeypatch.setattr("tunewright.methods.adapters.ia3.FEED_FORWARD", frozenset())
    with pytest.raises(MethodError, match="no layer is named as keys, values"):
        Run({"ia3": IA3()})


def test_resumes():
    assert_resumes(lambda listen: Run({"ia3": IA3()}, steps=5, listen=listen), 2)


def test_decay_draws_factors_to_one():
    r = Run({"ia3": IA3()}, steps=4, weight_decay=0.5, learning_rate=0.1)
    plain = Run({"ia3": IA3()}, steps=4, weight_decay=0.0, learning_rate=0.1)
    for run in (r, plain):
        run.train()
    size = [sum(float(p.detach().abs().sum()) for p in x.adapted.delta_parameters().values()) for x in (r, plain)]
    assert size[0] < size[1]
