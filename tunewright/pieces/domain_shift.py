"""How features differ between two domains: in where they lie (diversity shift), or in what they say (correlation
shift).

With densities p, q of features z in two domains, S where p < e or q < e, T the rest:

    diversity   = 1/2 int_S |p - q| dz                                         in 0..1: features that one domain lacks
    correlation = 1/2 int_T sqrt(p q) sum_y |p(y|z) - q(y|z)| dz               in 0..1: the same features, other labels

(Ye et al. 2022, OoD-Bench, arXiv:2106.03721, the first of its two forms.) Densities are Gaussian kernel estimates of
each class, classes counted equally, so that label shift is left out; the integrals are means over points drawn from
both. A kernel estimate is poor in many dimensions: reduce features to at most 8 first.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import gaussian_kde
from torch import Tensor

from tunewright.errors import MethodError


def shifts(
    first: Tensor,
    first_labels: Tensor,
    second: Tensor,
    second_labels: Tensor,
    *,
    draws: int = 2000,
    seed: int = 0,
    least: float = 1e-6,
) -> tuple[float, float]:
    """(diversity, correlation) of features [n, d] and [m, d] with labels [n] and [m]; `least` is e, relative to the
    largest density met. MethodError when a class lacks rows (more than d + 1 are needed) or d > 8."""
    x, y = first.double().numpy(), second.double().numpy()
    if x.shape[1] > 8:
        raise MethodError(
            f"densities of {x.shape[1]} dimensions cannot be estimated from rows",
            remedy="reduce the features to at most 8 (PCA)",
        )
    both = np.concatenate([x, y])
    mean, scale = both.mean(0), both.std(0).clip(1e-12)
    labels = sorted(set(first_labels.tolist()) | set(second_labels.tolist()))
    p = [_density((x - mean) / scale, first_labels.numpy(), c) for c in labels]
    q = [_density((y - mean) / scale, second_labels.numpy(), c) for c in labels]
    rng = np.random.default_rng(seed)
    each = -(-draws // (2 * len(labels)))
    points = np.concatenate([k.resample(each, seed=rng) for k in (*p, *q)], 1)
    at_p, at_q = (np.stack([k(points) for k in side]) for side in (p, q))  # [C, points]
    total_p, total_q = at_p.mean(0), at_q.mean(0)
    mixture = (total_p + total_q) / 2
    floor = least * mixture.max()
    apart = (total_p < floor) | (total_q < floor)
    diversity = 0.5 * (np.abs(total_p - total_q) / mixture * apart).mean()
    label_gap = np.abs(at_p / total_p.clip(1e-300) - at_q / total_q.clip(1e-300)).sum(0) / len(labels)
    correlation = 0.5 * (np.sqrt(total_p * total_q) / mixture * label_gap * ~apart).mean()
    return float(diversity), float(correlation)


def _density(x: np.ndarray, labels: np.ndarray, label: int) -> gaussian_kde:
    rows = x[labels == label]
    if len(rows) < x.shape[1] + 2:
        raise MethodError(
            f"class {label} has {len(rows)} rows in a domain, too few for a density",
            remedy="give more rows, or fewer dimensions",
        )
    return gaussian_kde(rows.T)
