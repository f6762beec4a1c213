"""A regularised group of low-rank changes keeps more of what the model knew than one LoRA of as many numbers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

STRENGTH = 0.07
"""lambda: the paper's 1e-3 by the entries that are summed, 768^2 a product in 12 blocks there and 128^2 in 6 here."""
QUERY_AND_VALUE = ["q_proj", "v_proj"]
REGULARISED = Arm(
    name="pego",
    methods=[{"pego": {"rank": 4, "members": 4, "preserve": STRENGTH, "diversify": STRENGTH}}],
)
CLAIM = Claim(
    paper="pego",
    says="Where both are as right on pictures of a new domain, the loss on pictures of another domain is at least 5 % "
    "lower with a regularised group of four than with one LoRA of the same number of weights on the same layers.",
    task="digits",
    method=REGULARISED,
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16, "alpha": 16, "target_modules": QUERY_AND_VALUE}}])],
    metric="kept at matched target",
    direction="lower",
    relative=True,
    smallest=0.05,
    seeds=5,
    rates=(1e-3, 3e-3, 1e-2),
    scales=("nano",),
    differs="one domain (turned digits) is learnt and the one that is kept (upright digits) is what the base knew; the "
    "paper trains on three domains and judges a fourth that CLIP has seen the like of",
)
