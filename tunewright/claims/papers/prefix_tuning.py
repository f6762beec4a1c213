"""A prefix does little worse than tuning every weight."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.ssf import FULL

CLAIM = Claim(
    paper="prefix-tuning",
    says="Trained keys and values before every row come within two points of full tuning.",
    task="topics",
    method=Arm(
        name="prefix",
        methods=[{"prefix-tuning": {"num_virtual_tokens": 10, "prefix_projection": True, "encoder_hidden_size": 64}}],
        rates=(1e-3, 3e-3, 1e-2),
    ),
    baselines=[FULL],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="an encoder that tells ten topics apart in the place of generation from tables; ten tokens, as there",
)
