"""A small diffusion model of vectors (DDPM, Ho et al. 2020, arXiv:2006.11239): fitted to a few, it draws more of them.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,   a_t = prod (1 - b_s),   min over w of E |e - f_w(x_t, t)|^2

b rises linearly as there, from 1e-4 to 0.02 times 1000 / T for T steps, so that x_T is noise whatever T is. f is a
network of three hidden layers that reads x_t [c] and sines of t. Drawing goes back from noise, step by step:

    x_0' = (x_t - sqrt(1 - a_t) f(x_t, t)) / sqrt(a_t), held in the range that the vectors fitted to span
    x_(t-1) = (sqrt(a_(t-1)) b_t x_0' + sqrt(1 - b_t) (1 - a_(t-1)) x_t) / (1 - a_t) + s_t z
    s_t^2   = b_t (1 - a_(t-1)) / (1 - a_t)

As there, x_0' is held in the data's range: a draw that leaves it once would be led further and further away.

Everything is drawn from a generator that is given, on the CPU, in single precision: equal seeds give equal bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tunewright.errors import NonFiniteError

TINY = 1e-6
"""Share of the largest singular value under which a direction is rounding."""
WAVES, BATCH, RATE = 16, 128, 2e-3
"""Sines (and cosines) of t; vectors of a step; Adam's rate, which falls to 0 as a cosine."""


def whitened(vectors: Tensor, components: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(z [J, c], back [c, m], mean [m]) of vectors [J, m]: z back + mean are the vectors, where no component is left
    out, and each column of z has mean 0 and mean square 1.

    A denoiser errs by some share of the unit in every direction: in directions along which the vectors hardly differ
    that would be far more than they do, were they not stretched first. c is at most `components`, and 0 where all
    vectors are the same.
    """
    mean = vectors.mean(0)
    U, S, V = torch.linalg.svd(vectors - mean, full_matrices=False)
    count = int((S > TINY * max(float(S[0]), 1e-300)).sum())
    count = min(count, components or count)
    size = math.sqrt(len(vectors))
    return U[:, :count] * size, V[:count] * (S[:count] / size)[:, None], mean


class Denoiser(nn.Module):
    """f(x [N, c], t [N]) -> the noise in x [N, c]."""

    def __init__(self, width: int, hidden: int, timesteps: int, generator: torch.Generator):
        super().__init__()
        self.timesteps = timesteps
        sizes = [width + 2 * WAVES, hidden, hidden, hidden, width]
        with torch.device("meta"):  # torch's own start would draw from the global generator
            layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.layers = nn.ModuleList(layers).to_empty(device="cpu")
        with torch.no_grad():
            for layer, fan in zip(self.layers, sizes, strict=False):
                for p in layer.parameters():
                    p.uniform_(-(fan**-0.5), fan**-0.5, generator=generator)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = torch.logspace(0, 2, WAVES)  # of t / T in radians: from one slow slope to a radian a step of 100
        angles = (t / self.timesteps)[:, None] * waves
        h = torch.cat([x, angles.sin(), angles.cos()], dim=1)
        for layer in list(self.layers)[:-1]:
            h = nn.functional.silu(layer(h))
        out: Tensor = self.layers[-1](h)
        return out


class Diffusion:
    """A distribution over vectors [c] of about unit size. `fit`, then `draw`."""

    def __init__(self, width: int, *, hidden: int, timesteps: int, generator: torch.Generator):
        self.generator, self.width = generator, width
        shorter = 1000 / timesteps
        self.betas = torch.linspace(1e-4 * shorter, min(0.02 * shorter, 0.999), timesteps)
        self.kept = torch.cumprod(1 - self.betas, 0)
        self.denoiser = Denoiser(width, hidden, timesteps, generator)
        self.low, self.high = torch.full((width,), -math.inf), torch.full((width,), math.inf)

    @torch.enable_grad()
    def fit(self, vectors: Tensor, steps: int) -> float:
        """Fit to vectors [J, c]; give the mean loss of the last tenth of the steps. NonFiniteError if it diverges."""
        parameters = list(self.denoiser.parameters())
        self.low, self.high = vectors.amin(0), vectors.amax(0)
        optimizer = torch.optim.Adam(parameters, lr=RATE)
        losses: list[float] = []
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            x = vectors[torch.randint(len(vectors), (BATCH,), generator=self.generator)]
            t = torch.randint(len(self.betas), (BATCH,), generator=self.generator)
            noise = torch.randn(x.shape, generator=self.generator)
            kept = self.kept[t][:, None]
            loss = (noise - self.denoiser(kept.sqrt() * x + (1 - kept).sqrt() * noise, t)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        last = losses[-max(1, steps // 10) :]
        return _finite(sum(last) / len(last))

    @torch.no_grad()
    def draw(self, count: int) -> Tensor:
        """`count` vectors [count, c]. NonFiniteError where one is not finite."""
        x = torch.randn(count, self.width, generator=self.generator)
        for t in reversed(range(len(self.betas))):
            beta, kept = float(self.betas[t]), float(self.kept[t])
            noise = self.denoiser(x, torch.full((count,), t))
            before = float(self.kept[t - 1]) if t else 1.0
            start = ((x - math.sqrt(1 - kept) * noise) / math.sqrt(kept)).clamp(self.low, self.high)
            x = (math.sqrt(before) * beta * start + math.sqrt(1 - beta) * (1 - before) * x) / (1 - kept)
            if t:
                variance = beta * (1 - before) / (1 - kept)
                x = x + math.sqrt(variance) * torch.randn(x.shape, generator=self.generator)
        _finite(float(x.abs().max()))
        return x


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise NonFiniteError(
            "the diffusion model over the vectors diverged",
            where="the fit",
            remedy="look at the vectors: one may be far larger than the others; or fit fewer steps",
        )
    return value
