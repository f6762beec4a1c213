"""Behind prompts that are drawn from a domain's distribution a model learns more from few rows than without one."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

SHOTS = [{"path": "quickstart:train", "name": "few", "limit": 48}]
FEW = {"name": "few", "data": {"train": SHOTS}, "budget": {"epochs": 20}}
DOMAIN = {
    "name": "domain",
    "methods": [{"bayesprompt": {"domain": True, "components": 12}}],
    "budget": {"epochs": 1},
}
DRAWN = Arm(
    name="bayesprompt",
    methods=[{"bayesprompt": {"components": 12, "drawn": 12}}],
    extra={"stages": [DOMAIN, {**FEW, "start": "base"}]},
)
CLAIM = Claim(
    paper="bayesprompt",
    says="After 48 rows of twelve topics a model that was tuned behind prompts from the distribution of all texts "
    "names the right topic at least two points more often than one that was tuned without a prompt.",
    task="intents",
    method=DRAWN,
    baselines=[Arm(name="full", methods=["full"], extra={"stages": [FEW]})],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    scales=("nano",),
    differs="topics of a bank's customers, written out, in the place of relations between marked entities; a small "
    "causal model, where it has RoBERTa-large; four rows a topic",
)
