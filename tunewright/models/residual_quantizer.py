"""Pictures as maps of codes that grow: the residual quantiser over scales (Tian et al. 2024, arXiv:2404.02905, VAR).

Features f [R, C, S, S] of an encoder become codes of a book [V, C], map by map, from 1 x 1 up to S x S. With f_0 = 0,

    r_k = nearest code of down(f - f_(k-1)) to s_k x s_k,   f_k = f_(k-1) + phi_k(up(book[r_k]) to S x S)

(algorithms 1 and 2 there). down averages (area), up is bicubic, the last map is neither; phi_k(h) = (1 - ratio) h +
ratio conv(h) is one of a few 3 x 3 convolutions, by how far k / (K - 1) is along the scales. What a transformer is
given to predict map k + 1 of is down(f_k) to s_(k+1) x s_(k+1).

Checked against the paper's repository (FoundationVision/VAR at 78b9539, models/quant.py): the same codes, the same
inputs of a transformer in every bit, and which convolution serves which scale (`tests/models/test_next_scale.py`).
Differs in: squared distances alone, since its `using_znorm` is off wherever it is trained; convolutions that no two
scales share are as many as there are scales; one scale alone is refused, which its fractions k / (K - 1) do not allow.

Shapes: R rows, C width of a code, V codes, K scales of sides s_1 < ... < s_K = S, L = the sum of s_k^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAPERS = ("var",)
COMMITMENT = 0.25
"""How much the encoder is drawn to its codes (beta), beside the codes to it: the repository's."""


class ResidualQuantizer(nn.Module):
    """The convolutions phi, and what is done with a book of codes through them. It holds no book: an autoencoder
    does.
    """

    def __init__(self, scales: Sequence[int], width: int, convolutions: int = 4, ratio: float = 0.5):
        super().__init__()
        self.scales, self.width, self.ratio = tuple(scales), width, ratio
        self.phi = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(convolutions))

    @property
    def side(self) -> int:
        """Of the largest map, and of the features."""
        return self.scales[-1]

    @property
    def length(self) -> int:
        """L: codes of a picture, over all scales."""
        return sum(s * s for s in self.scales)

    def which(self, k: int) -> int:
        """The convolution of scale k, of those that stand evenly along the scales."""
        count = len(self.phi)
        edge = 1 / 3 / count if count == 4 else 1 / 2 / count
        ticks = torch.linspace(edge, 1 - edge, count, dtype=torch.float64)
        return int((ticks - k / (len(self.scales) - 1)).abs().argmin())

    def of_scales(self, x: Tensor) -> list[Tensor]:
        """[R, L, ...] cut into a map [R, s_k^2, ...] for each scale."""
        return list(x.split([s * s for s in self.scales], dim=1))

    def grown(self, k: int, embedded: Tensor) -> Tensor:
        """[R, C, S, S] that the map of scale k adds, of its codes' vectors [R, s_k^2, C]."""
        h = embedded.transpose(1, 2).unflatten(2, (self.scales[k], self.scales[k]))
        if k < len(self.scales) - 1:
            h = F.interpolate(h, size=(self.side, self.side), mode="bicubic")
        return h * (1 - self.ratio) + self.phi[self.which(k)](h) * self.ratio

    def shrunk(self, k: int, features: Tensor) -> Tensor:
        """[R, s_k^2, C] of features [R, C, S, S] at scale k."""
        if k < len(self.scales) - 1:
            features = F.interpolate(features, size=(self.scales[k], self.scales[k]), mode="area")
        return features.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def codes(self, features: Tensor, book: Tensor) -> Tensor:
        """int64 [R, L]: the codes of features [R, C, S, S], coarse maps first."""
        out, rest = list[Tensor](), features.clone()
        for k in range(len(self.scales)):
            out.append(nearest(self.shrunk(k, rest), book))
            rest = rest - self.grown(k, F.embedding(out[-1], book))
        return torch.cat(out, 1)

    @torch.no_grad()
    def inputs(self, codes: Tensor, book: Tensor) -> Tensor:
        """[R, L - s_1^2, C]: what a transformer is given of coarser maps to predict each later one (teacher forcing),
        of codes [R, L].
        """
        total, out = codes.new_zeros((len(codes), self.width, self.side, self.side), dtype=book.dtype), list[Tensor]()
        for k, some in enumerate(self.of_scales(codes)[:-1]):
            total = total + self.grown(k, F.embedding(some, book))
            out.append(self.shrunk(k + 1, total))
        return torch.cat(out, 1)

    @torch.no_grad()
    def features(self, codes: Tensor, book: Tensor) -> Tensor:
        """[R, C, S, S] that codes [R, L] stand for: what a decoder is given."""
        total = codes.new_zeros((len(codes), self.width, self.side, self.side), dtype=book.dtype)
        for k, some in enumerate(self.of_scales(codes)):
            total = total + self.grown(k, F.embedding(some, book))
        return total

    def learn(self, features: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """Features [R, C, S, S] through their codes, with gradients straight through, and the loss that draws codes and
        features together: the mean over scales of |f_k - sg(f)|^2 + beta |sg(f_k) - f|^2. To make a tokenizer with.
        """
        target = features.detach()
        total, rest, loss = torch.zeros_like(target), target.clone(), torch.zeros((), device=features.device)
        for k in range(len(self.scales)):
            added = self.grown(k, F.embedding(nearest(self.shrunk(k, rest), book), book))
            total, rest = total + added, rest - added.detach()
            loss = loss + F.mse_loss(total, target) + COMMITMENT * F.mse_loss(features, total.detach())
        return features + (total - features).detach(), loss / len(self.scales)


@torch.no_grad()
def nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """[...]: the code of `book` [V, C] that lies nearest to each vector [..., C], the first of equal ones."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    far = flat.square().sum(1, keepdim=True) + book.square().sum(1)
    return far.addmm(flat, book.T, alpha=-2).argmin(1).view(vectors.shape[:-1])
