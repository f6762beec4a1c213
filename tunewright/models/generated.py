"""Changes that a network makes, a set for each task: live while it trains, plain deltas once it is frozen.

`PerTask` hangs on a site under one name and holds, for each task, a delta of any form. While a stage trains, its
tensors are made anew in every forward by a function `make(task)` of the method's own module, so that gradients reach
it; `freeze` keeps what it makes as plain deltas, which files, later stages and exports see, and lets go of the network.
A row's task is its source (`models/context.py`); a row of none of the tasks gets the change of the task `others`, or is
left as the base where there is none.
"""

from __future__ import annotations

from tunewright.errors import MethodError, did_you_mean
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.per_task import PerTask


def freeze(adapted: Adapted, name: str) -> None:
    """Turn what a network makes for the deltas called `name` into plain ones; they do not train any more by it."""
    for site in adapted.structure.every_site:
        delta = forms.deltas_of(site).get(name)
        if isinstance(delta, PerTask) and delta.made:
            plain = [delta.frozen(task, site) for task in delta.tasks]
            delta.plain.extend(plain)
            delta.make = None
            delta.requires_grad_(False)


def settle(adapted: Adapted, task: str) -> int:
    """Leave one task's deltas in the place of all tasks', under the same names; return how many.

    Then they fold and are exported as their own form is. MethodError for a task that none of them knows.
    """
    count, known = 0, set[str]()
    for site in adapted.structure.every_site:
        for name, delta in forms.deltas_of(site).items():
            if not isinstance(delta, PerTask):
                continue
            known |= set(delta.tasks)
            if task in delta.tasks:
                plain = delta.frozen(task, site)
                plain.strength = delta.strength
                forms.detach(site, name)
                forms.attach(site, name, plain)
                count += 1
    if not count:
        what = f"no change was made for a task '{task}'" if known else "no change here is one of several tasks"
        raise MethodError(what, where="task", remedy=did_you_mean(task, known) if known else "leave the task out")
    return count
