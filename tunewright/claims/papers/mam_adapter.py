"""The MAM adapter does no worse than tuning every weight."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.ssf import FULL

CLAIM = Claim(
    paper="mam-adapter",
    says="A short prefix and a scaled parallel adapter together equal full tuning.",
    task="topics",
    method=Arm(
        name="mam",
        methods=[{"mam-adapter": {"prefix_length": 16, "width": 16, "scale": 2.0, "prefix_hidden": 64}}],
        rates=(1e-3, 3e-3, 1e-2),
    ),
    baselines=[FULL],
    metric="target",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="the authors' GLUE widths on a small encoder and one task of ten topics; a narrower network for the prefix",
)
