"""Random numbers of the pretended device: a generator of its own, that can be seeded, saved and restored."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def drawn(device: str = "cuda") -> torch.Tensor:
    return torch.rand(5, device=device).cpu()


DRAWS = {
    "rand": lambda g: torch.rand(4, device="cuda", generator=g),
    "randint": lambda g: torch.randint(0, 9, (4,), device="cuda", generator=g),
    "randperm": lambda g: torch.randperm(4, device="cuda", generator=g),
    "uniform_": lambda g: torch.zeros(4, device="cuda").uniform_(generator=g),
    "normal_": lambda g: nn.init.normal_(torch.zeros(4, device="cuda"), generator=g),
    "bernoulli": lambda g: torch.bernoulli(torch.full((4,), 0.5, device="cuda"), generator=g),
    "multinomial": lambda g: torch.multinomial(torch.ones(4, device="cuda"), 2, generator=g),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_generator_draws_on_its_own_device_only(cuda, draw):
    with pytest.raises(RuntimeError, match="device type for generator"):
        draw(torch.Generator().manual_seed(0))
    a, b = (draw(torch.Generator(device="cuda").manual_seed(0)) for _ in range(2))
    assert a.is_cuda and torch.equal(a, b)


def test_a_generator_of_the_device_draws_nothing_on_the_cpu(cuda):
    g = torch.Generator("cuda")
    assert (
        g.device.type == "cuda"
        and isinstance(torch.default_generator, torch.Generator)
        and isinstance(g, torch.Generator)
    )
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.rand(4, generator=g)


def test_the_device_draws_from_its_own_default(cuda):
    torch.manual_seed(1)
    a, before = drawn(), torch.get_rng_state()
    assert not torch.equal(a, drawn()) and torch.equal(before, torch.get_rng_state()), (
        "the CPU's generator did not move"
    )
    torch.manual_seed(1)
    assert torch.equal(a, drawn()), "manual_seed seeds the device too"
    assert not torch.equal(a, torch.rand(5)), "one seed, other numbers"
    torch.cuda.manual_seed(1)
    assert torch.equal(a, drawn())


def test_dropout_draws_from_the_device(cuda):
    x, layer = torch.ones(64, device="cuda"), nn.Dropout(0.5)
    state = torch.cuda.get_rng_state()
    torch.manual_seed(0)
    torch.cuda.set_rng_state(state)
    first = layer(x)
    torch.default_generator.manual_seed(99)
    torch.cuda.set_rng_state(state)
    assert torch.equal(first, layer(x)) and not torch.equal(first, layer(x))


def test_fork_rng_leaves_the_devices_it_is_told_of(cuda):
    torch.manual_seed(3)
    state = torch.cuda.get_rng_state()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        drawn()
    assert torch.equal(state, torch.cuda.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
    assert not torch.equal(state, torch.cuda.get_rng_state()), "without devices, the GPU's generator stays seeded"
