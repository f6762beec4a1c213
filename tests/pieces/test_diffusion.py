"""The diffusion model of vectors: moments of a mixture that is known, single steps by hand, equal bits."""

from __future__ import annotations

import math

import pytest
import torch

from tunewright.errors import NonFiniteError
from tunewright.pieces.diffusion import Diffusion, whitened


def model(width: int = 2, seed: int = 1, **sizes: int) -> Diffusion:
    return Diffusion(width, **{"hidden": 64, "timesteps": 50, **sizes}, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_it_draws_a_mixture_of_two_gaussians_with_its_weights_means_and_spreads():
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(3000, generator=generator) < 0.3
    means = torch.where(right[:, None], torch.tensor([[1.5, 0.0]]), torch.tensor([[-0.6, 0.4]]))
    x = means + torch.randn(3000, 2, generator=generator) * torch.tensor([[0.2, 0.4]])
    diffusion = model(hidden=128, timesteps=100)  # the method's defaults
    loss = diffusion.fit(x, 2000)
    y = diffusion.draw(4000)
    assert loss < 0.5, "the noise is not told from the signal"
    there = y[:, 0] > 0.5
    assert float(there.float().mean()) == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(y[there].mean(0), torch.tensor([1.5, 0.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(y[~there].mean(0), torch.tensor([-0.6, 0.4]), atol=0.1, rtol=0)
    torch.testing.assert_close(y[there].std(0), torch.tensor([0.2, 0.4]), atol=0.12, rtol=0)
    torch.testing.assert_close(y[~there].std(0), torch.tensor([0.2, 0.4]), atol=0.12, rtol=0)


def test_with_the_exact_denoiser_it_draws_the_gaussian_itself():
    """Of x_0 ~ N(m, v) the noise in x_t is known: sqrt(1 - a) (x_t - sqrt(a) m) / (a v + 1 - a)."""
    m, v = torch.tensor([0.7, -1.0]), torch.tensor([0.04, 1.0])
    diffusion = model(timesteps=400)
    kept = torch.tensor([1 - 2.5 * (1e-4 + i / 399 * (0.02 - 1e-4)) for i in range(400)]).cumprod(0)

    def exact(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = kept[t][:, None]
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * v + 1 - a)

    diffusion.denoiser.forward = exact  # type: ignore[method-assign]
    y = diffusion.draw(4000)
    torch.testing.assert_close(y.mean(0), m, atol=0.05, rtol=0)
    torch.testing.assert_close(y.var(0), v, atol=0.06, rtol=0.06)


def test_noise_is_nearly_all_that_is_left_at_the_last_step_whatever_their_number():
    for timesteps in (20, 50, 1000):
        assert float(model(timesteps=timesteps).kept[-1]) < 1e-3
    assert float(model(timesteps=1000).betas[0]) == pytest.approx(1e-4)
    assert float(model(timesteps=1000).betas[-1]) == pytest.approx(0.02)


def test_equal_seeds_give_equal_bits_and_leave_the_global_generator_alone():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        diffusion = model(3, seed)
        diffusion.fit(x, 20)
        drawn.append(diffusion.draw(7))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_stay_in_the_range_of_the_vectors_whatever_the_denoiser_says():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(2))
    diffusion = model(3)
    diffusion.fit(x, 1)
    wild = torch.full((3,), 1e3)
    diffusion.denoiser.forward = lambda x, t: wild * x  # type: ignore[method-assign]
    y = diffusion.draw(50)
    assert bool((y >= x.amin(0) - 1e-4).all()) and bool((y <= x.amax(0) + 1e-4).all())


def test_whitened_vectors_are_stretched_to_one_size_and_come_back():
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = x * torch.logspace(0, -3, 9) + 5
    z, back, mean = whitened(x)
    assert z.shape == (6, 5) and back.shape == (5, 9)
    torch.testing.assert_close(z.T @ z / 6, torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z @ back + mean, x, atol=1e-9, rtol=0)
    first = whitened(x, 2)[0]
    torch.testing.assert_close(first, z[:, :2])
    assert whitened(x[:1].expand(4, 9))[0].shape == (4, 0)


def test_what_is_not_finite_is_refused():
    with pytest.raises(NonFiniteError, match="diverged"):
        model().fit(torch.tensor([[math.inf, 0.0], [0.0, 1.0]]), 3)
    broken = model()
    with torch.no_grad():
        broken.denoiser.layers[-1].bias.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match="diverged"):
        broken.draw(3)
