"""Keys and values of the rows that are being written: a seat for each, in slabs of seats of one size.

A row that may hold up to N tokens gets a seat in the slab of the next power of two. A slab's seats lie behind each
other, so that the attention of a step reads them where they are, without gathering pages, and over no more positions
than its longest row has. What is lost is at most half a seat.

Shapes: S seats of a slab, H key-value heads, C its capacity in tokens, D head size; a layer's keys [S, H, C, D].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

SMALLEST = 64
"""Tokens of the smallest seat."""

Parts = list[tuple[int, Tensor, Tensor]]
"""(layer, keys [H, n, D], values) of some of a row's tokens."""


@dataclass(eq=False)
class Seat:
    """A row's place: its slab, its number there (it changes when another row leaves), and how many tokens are read."""

    slab: Slab
    number: int
    used: int = 0


@dataclass(eq=False)
class Slab:
    """At most `most` seats of one capacity. A layer's tensors are made when it first writes, grow by doubling, and go
    with the last seat.
    """

    capacity: int
    most: int
    seats: list[Seat] = field(default_factory=list)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    made: int = 0

    def add(self) -> Seat:
        """A new seat, at the end."""
        seat = Seat(self, len(self.seats))
        self.seats.append(seat)
        if len(self.seats) > self.made:
            self.made = max(len(self.seats), min(2 * self.made, self.most))
            for held in (self.keys, self.values):
                for layer, old in held.items():
                    new = old.new_zeros(self.made, *old.shape[1:])
                    new[: len(old)] = old
                    held[layer] = new
        return seat

    def leave(self, seat: Seat) -> None:
        """Give a seat up; the last one moves into its place."""
        last = self.seats.pop()
        if last is not seat:
            for held in (self.keys, self.values):
                for t in held.values():
                    t[seat.number, :, : last.used] = t[last.number, :, : last.used]
            last.number = seat.number
            self.seats[seat.number] = last
        if not self.seats:
            self.keys.clear()
            self.values.clear()
            self.made = 0

    def layer(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's (keys [S, H, C, D], values); made like `key` and `value` [T, H, D] where they are not there."""
        if number not in self.keys:
            # zeros: what is masked is multiplied by 0, and what was in memory might not be finite
            for held, like in ((self.keys, key), (self.values, value)):
                held[number] = like.new_zeros(self.made, like.shape[1], self.capacity, like.shape[2])
        return self.keys[number], self.values[number]


class Cache:
    """All slabs. `limit`: most tokens that all seats together may hold."""

    def __init__(self, limit: int):
        self.limit, self.slabs = limit, dict[int, Slab]()

    @staticmethod
    def capacity(tokens: int) -> int:
        """Tokens of the seat that a row of so many gets."""
        return max(SMALLEST, 1 << (tokens - 1).bit_length())

    @property
    def taken(self) -> int:
        """Tokens that the seats which are taken may hold."""
        return sum(s.capacity * len(s.seats) for s in self.slabs.values())

    def fits(self, tokens: int, seats: int = 1) -> bool:
        """Whether there is room for so many more seats of so many tokens."""
        return self.taken + seats * self.capacity(tokens) <= self.limit

    def seat(self, tokens: int) -> Seat:
        """A seat for a row of at most so many tokens."""
        capacity = self.capacity(tokens)
        return self.slabs.setdefault(capacity, Slab(capacity, self.limit // capacity)).add()

    def leave(self, seat: Seat) -> None:
        """Give a seat up."""
        seat.slab.leave(seat)

    @staticmethod
    def copy(source: Seat, to: Seat) -> None:
        """What one seat has read, into another."""
        n = source.used
        for held, other in ((source.slab.keys, to.slab.keys), (source.slab.values, to.slab.values)):
            for layer, t in held.items():
                if layer not in other:
                    other[layer] = t.new_zeros(to.slab.made, t.shape[1], to.slab.capacity, t.shape[3])
                other[layer][to.number, :, :n] = t[source.number, :, :n]
        to.used = n

    @staticmethod
    def read(seat: Seat, start: int, end: int) -> Parts:
        """Copies of some of a seat's tokens."""
        slab, n = seat.slab, seat.number
        return [(i, k[n, :, start:end].clone(), slab.values[i][n, :, start:end].clone()) for i, k in slab.keys.items()]

    @staticmethod
    def write(seat: Seat, start: int, parts: Parts) -> None:
        """Put what `read` gave at a place of a seat."""
        for layer, k, v in parts:
            keys, values = seat.slab.layer(layer, k.transpose(0, 1), v.transpose(0, 1))
            keys[seat.number, :, start : start + k.shape[1]] = k
            values[seat.number, :, start : start + v.shape[1]] = v


def grown(rows: torch.Tensor, longest: int) -> Tensor:
    """[S, longest] whether a position is read by a row that stands at `rows` [S]: its own and those before."""
    return torch.arange(longest, device=rows.device) <= rows[:, None]
