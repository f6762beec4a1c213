"""Matrices in 4 bits, NF4: quantiles of a normal distribution, one scale a block of 64 weights (QLoRA,
arXiv:2305.14314).

Our own storage in plain torch (no CUDA, no extra): 0.5 byte a weight and a 4-byte scale for each 64 weights, 0.5625
bytes a weight; with double quantisation the scales are held in 8 bits about their mean, 256 to a scale of their own:
0.516. The second level is linear here (the paper: 8-bit floats), so files of other tools are not read. A matrix is made
whole again for each product, and again for the backward pass: no whole matrix is kept in between.

The weights before quantisation go to an unnamed temporary file that is read only when the base is asked for, so that it
comes back bit for bit without being held in memory.

Shapes: W [out, in]; N weights in blocks of 64, the last one filled up with zeros; codes two to a byte, the first in the
upper half.
"""

from __future__ import annotations

import copy
import math
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.sites import Site

BLOCK, GROUP = 64, 256
CODES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The 16 values of NF4, of a block whose largest weight is 1 in size. Zero is exact."""


def quantise(w: Tensor) -> tuple[Tensor, Tensor]:
    """(codes uint8 [ceil(N / 64) x 32], scales fp32 [ceil(N / 64)]): the nearest code of each weight in its block."""
    flat = nn.functional.pad(w.detach().float().reshape(-1), (0, -w.numel() % BLOCK)).view(-1, BLOCK)
    scales = flat.abs().amax(1)
    table = torch.tensor(CODES, device=w.device)
    nearest = (
        torch.bucketize(flat / scales.clamp(min=1e-38)[:, None], (table[1:] + table[:-1]) / 2)
        .to(torch.uint8)
        .view(-1, 2)
    )
    return nearest[:, 0] << 4 | nearest[:, 1], scales


def dequantise(packed: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The [out, in] matrix that codes and scales stand for."""
    table = torch.tensor(CODES, device=packed.device)
    codes = torch.stack([packed >> 4, packed & 15], 1).view(-1, BLOCK).int()
    return (table[codes] * scales[:, None]).view(-1)[: math.prod(shape)].view(shape).to(dtype)


def compress(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales in 8 bits: (int8 [n], fp32 scale of each 256 [ceil(n / 256)], their mean, 0-d)."""
    mean = scales.mean()
    rest = nn.functional.pad(scales - mean, (0, -len(scales) % GROUP)).view(-1, GROUP)
    steps = rest.abs().amax(1) / 127
    return (rest / steps.clamp(min=1e-38)[:, None]).round().to(torch.int8).view(-1)[: len(scales)], steps, mean


def expand(small: Tensor, steps: Tensor, mean: Tensor) -> Tensor:
    """Scales [n] from what `compress` gave."""
    return (small.float() * steps.repeat_interleave(GROUP)[: len(small)] + mean).clamp(min=0)


def mapped(weight: Tensor) -> Tensor:
    """The same values, read from an unnamed file where they are asked for instead of held in memory; on the CPU."""
    weight = weight.cpu().contiguous()
    with tempfile.NamedTemporaryFile() as file:
        file.write(weight.view(torch.uint8).numpy().tobytes())
        file.flush()
        return torch.from_file(file.name, shared=False, size=weight.numel(), dtype=weight.dtype).view(weight.shape)


class _Product(torch.autograd.Function):
    """x W^T with W made from its codes in both passes, so that only the codes are kept between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: NF4Linear) -> Tensor:
        ctx.module = module
        return x @ module.matrix(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (g,) = gradients
        return g @ ctx.module.matrix(g.dtype), None


class NF4Linear(nn.Module):
    """A frozen linear layer in 4 bits, in the place of `layer` (nn.Linear, or GPT-2's transposed one)."""

    tunewright_kind = "linear"
    tunewright_quantised = True

    def __init__(self, site: Site, double: bool):
        super().__init__()
        layer: Any = site.module
        self.transposed, self.twice, self.dtype = site.kind == "conv1d", double, layer.weight.dtype
        self.out_features, self.in_features = site.matrix().shape
        packed, scales = quantise(site.matrix())
        self.register_buffer("packed", packed, persistent=False)
        for name, t in zip(("small", "steps", "mean"), compress(scales) if double else (scales,), strict=False):
            self.register_buffer(name, t, persistent=False)
        self.bias = layer.bias
        layer.weight = nn.Parameter(mapped(layer.weight.detach()), requires_grad=False)
        self._plain: list[nn.Module] = [layer]  # in a list: no child of this module

    packed: Tensor
    small: Tensor
    steps: Tensor
    mean: Tensor

    def matrix(self, dtype: torch.dtype | None = None) -> Tensor:
        """The [out, in] matrix that the codes stand for."""
        scales = expand(self.small, self.steps, self.mean) if self.twice else self.small
        return dequantise(self.packed, scales, (self.out_features, self.in_features), dtype or self.dtype)

    @property
    def weight(self) -> Tensor:
        """The matrix, made anew at each reading: what initialisations look at."""
        return self.matrix()

    @property
    def original(self) -> Tensor:
        """The weight before quantisation, in the layer's own layout; read from the disk."""
        weight: Tensor = self._plain[0].weight.detach()  # type: ignore[operator]
        return weight

    def plain(self, matrix: Tensor | None = None) -> nn.Module:
        """The layer as it was before, with its own weight or with `matrix` [out, in], on this module's device."""
        layer: Any = copy.copy(self._plain[0])
        weight = (
            self.original if matrix is None else (matrix.t() if self.transposed else matrix).to(self.dtype).contiguous()
        )
        layer.__dict__["_parameters"] = {
            **layer._parameters,
            "weight": nn.Parameter(weight.to(self.packed.device), requires_grad=False),
        }
        return layer  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias


def quantise_sites(model: nn.Module, sites: list[Site], double: bool) -> int:
    """Put linear layers into 4 bits, each in its place; those that are already are left. Returns how many were."""
    count = 0
    for site in sites:
        if site.kind not in ("linear", "conv1d"):
            raise MethodError(
                f"'{site.name}' is a {site.kind}: only linear layers are put into 4 bits", where=site.name
            )
        if not hasattr(site.module, "tunewright_quantised"):
            put(model, site.name, NF4Linear(site, double))
            count += 1
    return count


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set a submodule by its dotted name."""
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path)._modules[leaf] = module
