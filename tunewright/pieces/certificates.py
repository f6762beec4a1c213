"""What can be said of a classifier's error on new rows when it was picked, by n rows, out of K that were there before.

Each bound holds with probability 1 - d over the n rows (independent, from one distribution), for all K at once, so that
picking among them by the very same rows costs log K and nothing else. e errors of n, r = e / n, L = ln(K / d):

- `hoeffding`: r + sqrt(L / 2n) (Hoeffding and a union bound);
- `chernoff`: the largest p with kl(r || p) <= L / n, kl of two coins;
- `binomial`: the largest p with P(Bin(n, p) <= e) >= d / K (Langford 2005, JMLR 6). No other is ever tighter than it:
  binomial <= chernoff <= hoeffding for all e, n, K and d.

`continuous` is what a search over numbers pays instead, at best (Lotfi et al. 2024, arXiv:2312.17173: a bit for each).
"""

from __future__ import annotations

import math

from scipy.special import betainccinv


def _checked(errors: int, n: int, hypotheses: int, failure: float) -> None:
    if not (0 <= errors <= n and n >= 1 and hypotheses >= 1 and 0 < failure < 1):
        raise ValueError(f"no bound for {errors} errors of {n}, {hypotheses} hypotheses, failure {failure}")


def hoeffding(errors: int, n: int, hypotheses: int, failure: float) -> float:
    """r + sqrt(ln(K / d) / 2n), at most 1."""
    _checked(errors, n, hypotheses, failure)
    return min(1.0, errors / n + math.sqrt(math.log(hypotheses / failure) / (2 * n)))


def kl(r: float, p: float) -> float:
    """kl(r || p) in nats, of two coins; p strictly between 0 and 1."""
    first = r * math.log(r / p) if r > 0 else 0.0
    return first + ((1 - r) * math.log((1 - r) / (1 - p)) if r < 1 else 0.0)


def chernoff(errors: int, n: int, hypotheses: int, failure: float) -> float:
    """The largest p with kl(r || p) <= ln(K / d) / n."""
    _checked(errors, n, hypotheses, failure)
    if errors == n:
        return 1.0
    r, limit = errors / n, math.log(hypotheses / failure) / n
    low, high = r, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if middle == 0 or kl(r, middle) <= limit else (low, middle)
    return high  # rounded away from the safe side it would be no bound


def binomial(errors: int, n: int, hypotheses: int, failure: float) -> float:
    """The largest p under which so few errors are as likely as d / K: the upper end of Clopper and Pearson's interval,
    at d / K."""
    _checked(errors, n, hypotheses, failure)
    if errors == n:
        return 1.0
    return float(betainccinv(errors + 1, n - errors, failure / hypotheses))


def continuous(n: int, parameters: int, failure: float) -> float:
    """sqrt((m + 2 ln m + ln(1 / d)) / 2n): what is added to the training error where m numbers were searched, were a
    bit enough for each. Above 1 it says nothing."""
    _checked(0, n, 1, failure)
    return math.sqrt((parameters + 2 * math.log(parameters) + math.log(1 / failure)) / (2 * n))
