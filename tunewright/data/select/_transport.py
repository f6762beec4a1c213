"""Exact optimal transport between the equal masses of a group of records and those of target rows, kept optimal while
records of the group are exchanged.

For a group of k records and m target rows with costs c [k, m],

    OT = min_P <P, c>,  P 1 = 1/k,  P' 1 = 1/m,     its dual  max_(x, g)  mean x + mean g  with  x_i + g_j <= c_ij

All masses are whole numbers of a unit, 1 over the least common multiple of k and m, so that the plan is exact. A
record's mass goes along shortest paths: to target rows that lack mass, and over records that make way for it,

    w_ij = min over target rows t that j serves of c_it - c_jt      the cost of serving one of them by i instead of j

which leaves a plan optimal that was so without the record (Busacker & Gowen 1960). An exchange takes one record's mass
away and sends another's. Memory holds k (2 m + k) numbers a plan.
"""

from __future__ import annotations

import math

import numpy as np

STRICT = 1e-12
"""A path counts as shorter by more than this share of the largest cost: rounding alone would send mass in circles."""


class Plan:
    """The optimal plan of a group, in units: `flow` [k, m], at costs [k, m]."""

    def __init__(self, costs: np.ndarray):
        self.costs = np.array(costs, np.float64)
        k, m = self.costs.shape
        self.units = math.lcm(k, m)
        self.flow = np.zeros((k, m), np.int64)
        self.missing = np.full(m, self.units // m, np.int64)
        self.way = np.full((k, k), np.inf)
        self.strict = STRICT * float(np.abs(self.costs).max())
        for i in range(k):
            self._send(i)

    @property
    def value(self) -> float:
        """The distance OT, of the mass that was sent."""
        return float((self.flow * self.costs).sum()) / self.units

    def exchanged(self, place: int, costs: np.ndarray, below: float = math.inf) -> Plan | None:
        """The optimal plan with another record, of costs [m], in one place of the group; None as soon as it is known
        that its distance is not under `below`.
        """
        other: Plan = object.__new__(Plan)
        other.__dict__.update({n: v.copy() if isinstance(v, np.ndarray) else v for n, v in self.__dict__.items()})
        other.missing += other.flow[place]
        other.flow[place], other.costs[place] = 0, costs
        other.way[:, place] = np.inf
        other.way[place] = np.where(other.flow > 0, other.costs[place] - other.costs, np.inf).min(1)
        return other if other._send(place, below) else None

    def potentials(self) -> np.ndarray:
        """x [k] of an optimal dual; g_j is then min_i (c_ij - x_i)."""
        x = np.zeros(len(self.costs))
        while True:
            lower = (x + self.way).min(1)
            if not (lower < x - self.strict).any():
                return x
            x = np.minimum(x, lower)

    def _send(self, place: int, below: float = math.inf) -> bool:
        """Send a record's mass; False where it was given up, since the distance would not be under `below`."""
        left, spent = self.units // len(self.costs), self.value
        while left:
            lengths, before = self._lengths(place)
            lacking = np.flatnonzero(self.missing)
            ends = lengths[:, None] + self.costs[:, lacking]
            i, j = np.unravel_index(int(ends.argmin()), ends.shape)
            length = float(ends[i, j])
            if spent + left * length / self.units >= below:  # later paths are no shorter
                return False
            sent = self._shift(place, int(i), int(lacking[j]), before, left)
            left, spent = left - sent, spent + sent * length / self.units
        return True

    def _lengths(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """([k] cost of a unit from a record over others, until each makes way; [k] the one before it)."""
        lengths, before = self.way[place].copy(), np.full(len(self.costs), place)
        lengths[place] = 0.0
        new = np.flatnonzero(np.isfinite(lengths))
        while len(new):
            longer = lengths[new, None] + self.way[new]
            best = longer.argmin(0)
            found = longer[best, np.arange(len(lengths))]
            nearer = found < lengths - self.strict
            nearer[place] = False
            lengths[nearer], before[nearer] = found[nearer], new[best[nearer]]
            new = np.flatnonzero(nearer)
        return lengths, before

    def _shift(self, place: int, last: int, end: int, before: np.ndarray, most: int) -> int:
        """Send as many units as the path to a target row takes, at most so many; how many went."""
        steps, i = [(last, end)], last
        most = min(most, int(self.missing[end]))
        while i != place:
            j = int(before[i])
            served = np.flatnonzero(self.flow[i])
            row = int(served[(self.costs[j, served] - self.costs[i, served]).argmin()])
            most = min(most, int(self.flow[i, row]))
            steps.append((j, row))
            i = j
        for (i, row), (_, freed) in zip(steps, [*steps[1:], (-1, -1)], strict=True):
            self.flow[i, row] += most
            if freed >= 0:
                self.flow[i, freed] -= most
        self.missing[end] -= most
        for i, _ in steps:
            served = np.flatnonzero(self.flow[i])
            self.way[:, i] = (self.costs[:, served] - self.costs[i, served]).min(1)
        return most
