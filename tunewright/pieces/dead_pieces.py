"""Rank-one pieces that their gates have switched off: cut out of a change, so that what is left is its rank."""

from __future__ import annotations

from tunewright.models.deltas import GatedLowRank


def cut_dead_pieces(delta: GatedLowRank) -> int:
    """Take pieces with gate 0 out of a delta (one is left if all are); return the rank that remains."""
    alive = delta.gate.detach() != 0
    alive[0] |= not bool(alive.any())
    delta.lora_A.data, delta.lora_B.data, delta.gate.data = (
        delta.lora_A.data[alive],
        delta.lora_B.data[:, alive],
        delta.gate.data[alive],
    )
    return delta.rank
