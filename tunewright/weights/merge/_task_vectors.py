"""Task vectors and what merges do to them: named pieces on bare tensors, and the class that most merges here fill in.

A task vector is what a tuning changed: tau_t = theta_t - theta_0, one for each model t. A merge thins every one out,
may elect a sign for every entry, and adds them:

    theta = theta_0 + lambda / d * sum_t w_t m_t s_t(tau_t)

with s_t what thins out, m_t 1 where the entry's sign is the elected one (1 everywhere without an election), w_t the
model's weight, and d the sum of w_t m_t when `normalize` (1 otherwise, and where that sum is 0). All in fp32, added
over models in their order. A tensor's n entries are one vector whatever its shape.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import torch_generator
from tunewright.weights.merge._fields import TaskVectorFields
from tunewright.weights.operator import Merge, MergekitDefault, PerModel

HIGH, LOW = 1 << 16, 1 << 15
"""Counts of magnitudes: buckets by the upper 16 bits of an fp32 magnitude's 31, and by its lower 15 inside one of
them.
"""

Each = Sequence[Mapping[str, Any]]


def magnitude_bits(change: Tensor) -> Tensor:
    """The bits of |x| as int32, flat: their order is the order of magnitudes (x finite, fp32)."""
    return change.float().contiguous().view(-1).view(torch.int32) & 0x7FFFFFFF


def coarse_counts(bits: Tensor) -> Tensor:
    """How many magnitudes lie in each of the 2^16 coarse buckets, int64 [HIGH]. Counts of tensors may be added."""
    return torch.bincount(bits >> 15, minlength=HIGH)


def fine_counts(bits: Tensor, bucket: int) -> Tensor:
    """Of the magnitudes in one coarse bucket, how many have each lower half, int64 [LOW]."""
    return torch.bincount(bits[(bits >> 15) == bucket] & 0x7FFF, minlength=LOW)


def bucket_of(counts: Tensor, rank: int) -> tuple[int, int]:
    """(bucket that holds the rank-th largest, its rank inside that bucket), rank from 1 to counts.sum()."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    return len(counts) - 1 - place, rank - (int(above[place - 1]) if place else 0)


def kth_largest(bits: Tensor, rank: int) -> int:
    """The bits of the rank-th largest magnitude; rank from 1 to len(bits)."""
    return int(bits.kthvalue(len(bits) - rank + 1).values) if len(bits) < HIGH else kth_by_counts(bits, rank)


def kth_by_counts(bits: Tensor, rank: int) -> int:
    """The same by counting, exactly and without a sort: time linear in the entries, and two small tables."""
    bucket, inside = bucket_of(coarse_counts(bits), rank)
    return (bucket << 15) | bucket_of(fine_counts(bits, bucket), inside)[0]


def kept_of(density: float, count: int) -> int:
    """How many of `count` entries a density keeps: int(density count), at least 1 where the density is above 0."""
    return min(count, max(1, int(density * count))) if density > 0 else 0


def trim_at(change: Tensor, threshold: int) -> Tensor:
    """Keep what is at least as large as the magnitude with the bits `threshold`, all equal ones included."""
    return torch.where((magnitude_bits(change) >= threshold).view(change.shape), change, 0.0)


def trim(change: Tensor, density: float) -> Tensor:
    """Keep the int(density n) entries of largest magnitude (at least 1 where density > 0), zero the rest.

    Entries that equal the smallest one kept stay too, so that no order of entries decides.
    """
    count = kept_of(density, change.numel())
    if count == change.numel():
        return change
    return trim_at(change, kth_largest(magnitude_bits(change), count)) if count else torch.zeros_like(change)


def tails(density: float, gamma: float, count: int) -> tuple[int, int]:
    """(how many of the largest of `count` entries are dropped, how many of the next stay)."""
    kept = int(density * count)
    return min(int(gamma * count), count - kept), kept


def middle(change: Tensor, density: float, gamma: float) -> Tensor:
    """Drop the int(gamma n) largest magnitudes, keep the next int(density n), zero the rest.

    Where both together exceed n, fewer of the largest are dropped. Entries that equal an end of what is kept stay.
    """
    top, kept = tails(density, gamma, change.numel())
    if not kept:
        return torch.zeros_like(change)
    bits = magnitude_bits(change)
    mask = bits >= kth_largest(bits, top + kept)
    if top:
        mask &= bits <= kth_largest(bits, top + 1)
    return torch.where(mask.view(change.shape), change, 0.0)


def middle_of_rows(change: Tensor, density: float, gamma: float) -> Tensor:
    """`middle` of every row along the last axis."""
    n = change.shape[-1]
    top, kept = tails(density, gamma, n)
    if not kept:
        return torch.zeros_like(change)
    size = change.abs()
    low, high = (size.kthvalue(n - rank + 1, dim=-1, keepdim=True).values for rank in (top + kept, top + 1))
    return torch.where((size >= low) & (size <= high), change, 0.0)


def rescaled(kept: Tensor, before: Tensor) -> Tensor:
    """What was kept, times one factor that gives it the sum of magnitudes from before (unchanged where either is 0)."""
    size_before, size_kept = float(before.abs().sum(dtype=torch.float64)), float(kept.abs().sum(dtype=torch.float64))
    return kept * (size_before / size_kept) if min(size_before, size_kept) > 1e-7 else kept


def drop(change: Tensor, keep: float | Tensor, uniform: Tensor, rescale: bool) -> Tensor:
    """Keep an entry where its uniform number in [0, 1) is below its probability `keep`; divide by that when `rescale`.

    With `rescale` and keep > 0 the expectation is `change` itself; a keep of 1 gives it back.
    """
    kept = change * (uniform < keep)
    if not rescale:
        return kept
    return kept / (keep.clamp_min(1e-30) if isinstance(keep, Tensor) else keep or 1.0)


def keep_by_rank(change: Tensor, density: float, epsilon: float) -> Tensor:
    """Probabilities to keep, of the shape of `change`: from density - epsilon for the smallest magnitude of a row to
    density + epsilon for the largest, evenly by rank. Rows are all axes but the first together; a vector is one row,
    and a row of one entry has the density itself. Of equal magnitudes those that come first rank lower."""
    rows = change.abs().reshape(1, -1) if change.ndim < 2 else change.abs().flatten(1)
    order = rows.argsort(dim=1, stable=True)
    count = torch.arange(rows.shape[1], dtype=rows.dtype, device=rows.device)
    ranks = torch.empty_like(rows).scatter_(1, order, count.expand_as(rows))
    width = rows.shape[1] - 1
    share = ranks / width if width else torch.full_like(rows, 0.5)
    return (density + epsilon * (2 * share - 1)).reshape(change.shape)


def combine(changes: Sequence[Tensor], weights: Sequence[float], election: bool, normalize: bool) -> Tensor:
    """The weighted sum of thinned changes; of those with the elected sign alone with `election`; a mean with
    `normalize`.

    The elected sign is that of the weighted sum over models, plus where it is 0; entries that are 0 take no part. Where
    the weights that a mean divides by sum to 0, it is the sum.
    """
    weighted = [w * c for c, w in zip(changes, weights, strict=True)]
    total = weighted[0]
    for v in weighted[1:]:
        total = total + v
    if not election:
        divisor = single_sum(weights)
        return total / divisor if normalize and abs(divisor) >= 1e-8 else total
    plus = total >= 0
    mixed, parts = torch.zeros_like(total), torch.zeros_like(total)
    for v, w in zip(weighted, weights, strict=True):
        agrees = torch.where(plus, v > 0, v < 0)
        mixed = mixed + torch.where(agrees, v, 0.0)
        parts = parts + torch.where(agrees, w, 0.0)
    return mixed / torch.where(parts.abs() < 1e-8, 1.0, parts) if normalize else mixed


def single_sum(numbers: Sequence[float]) -> float:
    """The sum in order, every number and every partial sum rounded to fp32."""
    total = torch.zeros((), dtype=torch.float32)
    for x in numbers:
        total = total + torch.tensor(x, dtype=torch.float32)
    return float(total)


class TaskVectors(TaskVectorFields, Merge):
    """A merge of task vectors: subclasses say how one is thinned out, whether signs are elected, and their defaults."""

    def merged(
        self, base: Tensor, tensors: Sequence[Tensor], each: Each, thin: Callable[[Tensor, Mapping[str, Any]], Tensor]
    ) -> Tensor:
        """theta_0 plus the combined changes; `thin(change, own)` is asked model by model, `own` the model's
        parameters.
        """
        origin = base.float()
        changes = [thin(t.float() - origin, own) for t, own in zip(tensors, each, strict=True)]
        mixed = combine(changes, [own["weight"] for own in each], self.election, self.normalize)
        return (origin + (mixed if self.lambda_ == 1 else self.lambda_ * mixed)).to(tensors[0].dtype)


class RandomDrops(TaskVectors):
    """A merge whose changes lose entries at random: the masks of the models are drawn one after the other from
    `rng`.
    """

    symmetric: ClassVar[bool] = False

    density: Annotated[PerModel[float], MergekitDefault(1.0)] = Field(
        0.5, ge=0, le=1, description="probability that an entry of a change stays (1 - the paper's p)"
    )
    rescale: bool = Field(
        True, description="divide what stays by its probability, so that the expectation is the change itself"
    )

    def keep(self, change: Tensor, own: Mapping[str, Any]) -> float | Tensor:
        """Probability of every entry to stay: one number, or a tensor of the change's shape."""
        return own["density"]

    def merge(self, base: Tensor, tensors: Sequence[Tensor], each: Each, rng: random.Random) -> Tensor:
        generator = torch_generator(rng)

        def thin(change: Tensor, own: Mapping[str, Any]) -> Tensor:
            uniform = torch.rand(change.shape, generator=generator).to(change.device)
            return change if own["density"] == 1 else drop(change, self.keep(change, own), uniform, self.rescale)

        return self.merged(base, tensors, each, thin)
