"""With few rows an encoder of base size does best with its lower blocks frozen."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="biomedical-stability",
    says="Tuned on few rows, a small encoder whose lower blocks stay is more accurate than one that is tuned whole, "
    "with smaller rates for lower blocks, or with its top block drawn again.",
    task="topics",
    method=Arm(name="frozen", methods=[{"freeze-lower": {"blocks": 2}}]),
    baselines=[
        Arm(name="plain", methods=["full"]),
        Arm(name="decay", methods=["full", "layerwise-decay"]),
        Arm(name="fresh", methods=["full", "reinit-top"]),
    ],
    metric="target",
    direction="higher",
    smallest=0.01,
    strengths=(1.0,),
    budget={"tokens": 6_000},
    scales=("nano",),
    differs="short queries of ten domains and a small general encoder instead of biomedical texts and BERT; a short "
    "budget stands for few rows; spread over seeds and failed runs, which the paper reports too, are not judged",
)
