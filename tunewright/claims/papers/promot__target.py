"""A model that is tuned behind a prompt does its task about as well as one that is tuned without."""

from __future__ import annotations

from tunewright.claims.claim import Claim
from tunewright.claims.papers.promot import FULL, PROMOT

CLAIM = Claim(
    paper="promot",
    says="On the task itself, a model tuned behind its prompt is at most two points behind one that is tuned whole for "
    "as many tokens.",
    task="intents",
    method=PROMOT,
    baselines=[FULL],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    differs="topics of bank customers' messages in the place of language inference and translation; small causal "
    "models instead of mT5 XXL",
)
