"""How large a claim at scale nano is."""

SEEDS = 8
"""Seeds of such a claim, unless it says otherwise."""
