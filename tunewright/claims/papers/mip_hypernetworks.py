"""A hypernetwork learns from a small number as well as from a large one, where its magnitude does not count."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim

SMALL: dict[str, Any] = {"numbers": {"train": [0.1]}}
CLAIM = Claim(
    paper="mip-hypernetworks",
    says="From a source whose number is 0.1, a network that writes low-rank changes teaches an encoder a task by at "
    "least 2 points of accuracy better for as many tokens where numbers are read at constant length and what is "
    "written is added to a learnt change than a plain network does.",
    task="topics",
    method=Arm(name="mip", methods=[{"mip-hypernetworks": SMALL}]),
    baselines=[Arm(name="plain", methods=[{"mip-hypernetworks": {**SMALL, "encoding": "none", "additive": False}}])],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(3e-4, 1e-3, 3e-3),
    strengths=(1.0,),
    scales=("real",),
    differs="one number stands for one source of an encoder of 22M parameters, where the paper's networks learn a "
    "range of numbers, and low-rank changes are written, not all weights; accuracy after 20,000 tokens",
)
