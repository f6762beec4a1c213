"""What a method keeps: tensors by name, read back with a default, saved and restored with the run."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.combining import bind, restore_states, states_of
from tunewright.contract.method import Method, State


class Slow(Method):
    """Keeps the last gradient of each parameter."""

    share: float = Field(0.5, description="share")

    def gradient(self, gradients: dict[str, Tensor], state: State) -> dict[str, Tensor]:
        out = {n: g + self.share * state.get(n, torch.zeros_like(g)) for n, g in gradients.items()}
        for n, g in gradients.items():
            state.set_buffer(n, g)
        return out


def test_a_tensor_is_read_back_or_the_default_is_given():
    state = State()
    assert state.get("a.weight") is None and state.get("a.weight", torch.ones(1)) == 1
    state.set_buffer("a.weight", torch.zeros(3))
    state.set_buffer("a.weight", torch.full((2,), 7.0))
    assert state.get("a.weight", torch.ones(1)).tolist() == [7.0, 7.0] and state.get("a/weight") is state.get(
        "a.weight"
    )


def test_tensors_under_names_of_parameters_are_saved_and_restored():
    name = "model.layers.0.mlp.weight"
    methods, again = bind([("slow", Slow())], 0, "main"), bind([("slow", Slow())], 0, "main")
    first = methods.chain("gradient", "gradients", {name: torch.ones(2)}, step=0)
    assert first[name].tolist() == [1.0, 1.0]
    data, tensors = states_of(methods)
    assert list(tensors) == ["slow.model/layers/0/mlp/weight"]
    restore_states(again, data, tensors)
    for chain in (methods, again):
        assert chain.chain("gradient", "gradients", {name: torch.ones(2)}, step=1)[name].tolist() == [1.5, 1.5]
