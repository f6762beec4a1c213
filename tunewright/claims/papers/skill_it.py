"""Shares that follow the losses of skills along a measured graph learn four of them better than even shares."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD = "skill-it"
LANGUAGES = {"german": "de", "swedish": "sv", "finnish": "fi"}
SKILLS = ("law", *LANGUAGES)
ASKED, LOOK, TOKENS = 60, 1500, 16_000
"""Lines of each skill that are judged, tokens of a run on one skill alone, and of the runs that are compared."""
HOW: dict[str, Any] = {"eta": 0.5, "update_steps": 4, "rows": 16}

CLAIM = Claim(
    paper=METHOD,
    says="With a graph that short runs on one skill at a time measure, sampling by the losses of skills along it ends "
    "with a lower mean loss over four skills than even sampling does, for as many tokens.",
    task="domain",
    method=Arm(name=METHOD, methods=["full", {METHOD: HOW}]),
    baselines=[Arm(name="even", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="German law and Genesis in three languages that the base hardly knows, in the place of LEGO's chains, "
    "tasks and domains of text; a base of 3.4M parameters and 16,000 tokens; the tokens of the four short runs that "
    "the graph takes are not counted, as in the paper; eta (0.5) from the range that it searches, not tuned",
)


@cache
def files() -> dict[str, str]:
    """Of each skill lines to learn (its name), to look at while learning (-held) and to judge by (-judged)."""
    parts: dict[str, rows.Rows] = {}
    law = rows.sentences([r["text"] for r in corpus.rows("german-laws/train.jsonl.gz")])
    verses = corpus.rows("genesis-multilingual/train.jsonl.gz")
    told = {name: [str(r["text"]) for r in verses if r["lang"] == code] for name, code in LANGUAGES.items()}
    for name, found in {"law": law, **told}.items():
        lines = [{"text": t} for t in rows.shuffled(list(dict.fromkeys(found)))]
        cut = rows.cut(lines, judged=ASKED, held=ASKED, train=min(600, len(lines) - 2 * ASKED))
        parts |= {name: cut["train"], f"{name}-held": cut["held"], f"{name}-judged": cut["judged"]}
    return rows.written("skills-of-text", parts)


def losses(run: ClaimRun, arm: str, seed: int, skills: tuple[str, ...], tokens: int, **more: Any) -> Any:
    """(losses of each skill before, after) training on some of them in even parts."""
    data = {
        "train": [{"path": files()[s], "name": s, "weight": 1.0} for s in skills],
        "validation": [{"path": files()[f"{s}-held"], "name": s} for s in SKILLS],
    }
    keep = [{"data": files()[f"{s}-judged"], "name": s} for s in SKILLS]
    record = run.trial(arm, seed, data=data, keep=keep, budget={"tokens": tokens}, **more)
    return record.base.kept, record.tuned.kept


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean loss over the skills, nats a token; beside it that of the untouched base."""
    edges: dict[str, dict[str, float]] = {}
    for skill in SKILLS:
        before, after = losses(run, "even", seed, (skill,), LOOK)
        edges[skill] = {s: max(0.0, 1 - after[s] / before[s]) for s in SKILLS}
    before, even = losses(run, "even", seed, SKILLS, TOKENS)
    followed = {"methods": ["full", {METHOD: {**HOW, "edges": edges}}]}
    _, moved = losses(run, METHOD, seed, SKILLS, TOKENS, **followed)
    mean = {"base": before, "even": even, METHOD: moved}
    return {arm: sum(found[s] for s in SKILLS) / len(SKILLS) for arm, found in mean.items()}
