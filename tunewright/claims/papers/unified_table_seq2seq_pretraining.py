"""A T5 that goes on with tables and the words around them learns three tasks on tables better than without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _chosen, _small_tables
from tunewright.claims.papers import _encoder_decoders as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

READ, TASKS, ROWS, JUDGED = 80_000, 30_000, 300, 150
RATES = (1e-3, 3e-3)

CLAIM = Claim(
    paper="unified-table-seq2seq-pretraining",
    says="A T5 of English that goes on with span corruption over tables and what stands around them, and then learns "
    "three tasks on tables together from 300 rows, has a lower loss of the answers, by 0.05 nats a token or more, than "
    "one that learns the tasks alone, whether for as many tokens of them or for as many in all.",
    task="domain",
    method=Arm(name="tables-first", methods=["full"], uses=["span-corruption"]),
    baselines=[Arm(name="tasks-alone", methods=["full"]), Arm(name="tasks-alone-longer", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a T5 of 0.3M parameters instead of 770M to 11B; tables of three made people and sentences by rule; "
    "questions about cells, statements to be judged and questions to be parsed for the paper's sets; the tasks' rate "
    "is one of two, chosen on other rows",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the answers to other tables, nats a token."""
    english, tables = lab.english(), _small_tables.texts(1000, 1)
    judged = _chosen.in_turn(_small_tables.tasks(JUDGED, 2), _small_tables.tasks(JUDGED, 3))
    fresh = lab.drawn("t5", [*english, *tables], seed)

    def after(model: str, stage: dict[str, Any]) -> Any:
        return lab.recipe(run, "tables-first", seed, model, [stage], judged)

    model = lab.folder(run, after(fresh, lab.reading("english", english, READ, "span-corruption")))
    read = lab.folder(run, after(model, lab.reading("tables", tables, READ, "span-corruption")))
    arms = {"tables-first": (read, TASKS), "tasks-alone": (model, TASKS), "tasks-alone-longer": (model, READ + TASKS)}
    out = {}
    for arm, (start, tokens) in arms.items():
        stages = [lab.learning("tasks", _small_tables.tasks(ROWS, 0), tokens, rate) for rate in RATES]
        out[arm] = _chosen.lowest(_chosen.finished(run, after(start, s)) for s in stages)
    return out
