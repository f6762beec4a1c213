"""An adapter that is trained as sparse experts does better than the same adapter trained whole."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

WHOLE = Arm(name="whole", methods=[{"mosa": {"experts": 1, "consistency": 0.0}}])
"""The same adapter with one expert and one pass: AdaptFormer's."""

CLAIM = Claim(
    paper="mosa",
    says="Four sparse experts, drawn in two passes that are held to agree and merged at the end, are right at least "
    "half a point more often than the same adapter trained whole.",
    task="topics",
    method=Arm(name="mosa", methods=["mosa"]),
    baselines=[WHOLE],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="a text classifier of ten topics in the place of 27 visual tasks; as many steps for both, of which MoSA's "
    "cost two passes each; no norm of the adapter's own",
)
