"""DER and DER++: each step matches the logits that kept rows had when they came, and trains on kept rows."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, text_rows
from tests.methods.rehearsing import SGD, TASKS, ByHand, trained
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Row
from tunewright.contract.combining import check_conflicts
from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.methods.continual.der import DER
from tunewright.tasks import get_task


@pytest.mark.parametrize(("task", "beta"), [(TASKS[0], 0.0), (TASKS[1], 0.5)])
def test_three_steps_are_those_of_the_formula(task, beta):
    """With a buffer and minibatches as large as the stream nothing is drawn: step t matches the logits that the rows of
    steps 1 .. t - 1 had before their own step, as models/derpp.py of aimagelab/mammoth does with that minibatch.
    """
    der = trained({"der": DER(alpha=0.7, beta=beta, buffer_size=50, minibatch_size=50)}, task)
    hand, kept, told = ByHand(task), [], []
    for rows in hand.batches:
        total = hand.loss(rows)
        if kept:
            outputs, batch = hand.outputs([row for row, _ in kept])
            wanted = torch.cat([z for _, z in kept])
            gap = ((outputs.logits - wanted) ** 2).mean()
            total = total + 0.7 * gap + beta * hand.loss([row for row, _ in kept])
            assert len(batch.labels) == len(wanted)
        told.append(total.item())
        new = [(row, hand.logits(row)) for row in rows]
        hand.step(hand.gradient(total))
        kept += new
    assert [r["loss"] for r in der.records] == pytest.approx(told, rel=1e-4)
    hand.check(der)


def test_logits_go_where_their_row_goes_and_into_the_next_stage():
    t = Tiny([("der", DER(buffer_size=3, beta=0.5))], task_name="text-classification", steps=6).run()
    method = t.loop.methods.one("step").method
    buffer = method._buffer(t.loop.methods.one("step").state)
    assert t.left[0].values["logits"].keys() == {"0", "1", "2"}
    assert buffer.nbytes() == sum(len(buffer.state.get(f"rows.{s}")) + 4 * 3 for s in range(3))
    told = buffer.found()
    assert told.values["bytes"] == buffer.nbytes() and sum(n for _, n in told.rows) == 3
    fresh = Tiny([("der", DER(buffer_size=50))], task_name="text-classification", steps=1)
    state = fresh.loop.methods.one("step").state
    before = {s: fresh.loop.methods.one("step").method._buffer(state).other("logits", s).clone() for s in range(2)}
    fresh.loop.one_step()
    first, last = (state.get(f"logits.{s}") for s in (0, len(state.data["memory"]["slots"]) - 1))
    assert torch.equal(first, before[0]) and not torch.equal(last, before[0])  # old ones stay, the new row has its own


def test_a_token_has_its_vocabularys_logits_and_what_changes_rows_is_refused():
    class Cut(Method):
        """Leave the last token out of every second step's rows."""

        def row(self, row: Row, step: int) -> Row | None:
            return row.replace(input_ids=row.input_ids[:-1], weights=row.weights[:-1]) if step % 2 else None

    run = Run({"der": DER(buffer_size=20), "cut": Cut()}, sources={"s": text_rows(8)}, steps=2, **SGD)
    with pytest.raises(MethodError, match="kept logits of"):
        run.train()
    row = text_rows(8)[0]
    assert run.state("der").get("logits.0").shape == (sum(w > 0 for w in row.weights), tiny.VOCABULARY)
    for task in ("reward-modeling", "sentence-similarity"):
        with pytest.raises(MethodError, match="does not serve the task"):
            check_conflicts([("der", DER())], stage="main", task=get_task(task))
