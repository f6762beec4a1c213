"""SLERP: two models' tensors interpolated along the arc between them (Shoemake 1985; papers: slerp,
cpt-sft-dpo-merging).

Each tensor is one vector. With the angle Omega between a and b: s = (sin((1 - t) Omega) a + sin(t Omega) b) / sin
Omega, on a and b as they are (no normalisation), so that t = 0 is a, t = 1 is b, and vectors of one length keep it and
turn at a constant speed in t. Where |cos Omega| > 0.9995 it is (1 - t) a + t b. The first model is a: in mergekit's
terms the `base_model`. No common parent is needed, but units must be in the same order. Two tunings of one parent
mostly lie within the linear case: their tensors differ by under 3 %.

Continued pre-training, tuning and merging (arXiv:2409.03444) merges its tuned model with the instruct model (a) so,
with t by depth: filters [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7, 0.3,
0]}, {value: 0.5}], norms and embeddings included in the last: a setting of this merge, no further maths.

Differs from mergekit in: nothing but rounding; the angle comes from fp64 sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from tunewright.weights.merge._fields import SlerpFields
from tunewright.weights.operator import Merge

COLINEAR = 0.9995
"""|cos| above which the arc is taken for the chord."""


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors as vectors, from fp64 sums, in -1..1; a vector shorter than 1e-8
    counts as of length 1.
    """
    x, y = a.reshape(-1).double(), b.reshape(-1).double()
    lengths = [n if n > 1e-8 else 1.0 for n in (math.sqrt(float(x @ x)), math.sqrt(float(y @ y)))]
    return max(-1.0, min(1.0, float(x @ y) / (lengths[0] * lengths[1])))


def shares(t: float, cos: float) -> tuple[float, float]:
    """Factors of a and b at t for an angle with that cosine."""
    if abs(cos) > COLINEAR:
        return 1 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The point at t of the arc from a to b, in fp32 and of their shape."""
    first, second = shares(t, cosine(a, b))
    return first * a.float() + second * b.float()


class Slerp(SlerpFields, Merge):
    """Interpolate two models along the arc between them."""

    papers: ClassVar[tuple[str, ...]] = ("slerp", "cpt-sft-dpo-merging")

    def merge(self, tensors: Sequence[Tensor]) -> Tensor:
        return slerp(tensors[0], tensors[1], self.t).to(tensors[0].dtype)
