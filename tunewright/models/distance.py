"""How far a model's weights are from its base's: |theta - theta_0| / |theta_0|, over all of the base's weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted


def relative_distance(adapted: Adapted) -> float | None:
    """The distance of what changed, deltas folded in; None where a change cannot be folded, or the base is in few bits.

    Call it where the model trains, not inside `at_strength`.
    """
    if not adapted.foldable or adapted.quantised() or adapted.surgeries():
        return None
    now = adapted.base_parameters()
    moved = {n: o.restored(now[n]) for n, o in adapted.originals.items() if n not in adapted.added}
    folded: dict[str, Tensor] = {}
    for name, by_name in adapted.deltas().items():
        site = adapted.structure.site(name)
        live = [d for d in by_name.values() if d.active]
        if live:
            weight, _ = forms.fold_into(site, live, 1.0)
            folded[site.weight_name] = site.to_stored(weight)
    apart, whole = 0.0, 0.0
    with torch.no_grad():
        for name, p in now.items():
            first = moved.get(name, p).detach().double()
            whole += float(first.square().sum())
            if name in moved or name in folded:
                apart += float((folded.get(name, p).detach().double() - first).square().sum())
    return math.sqrt(apart / whole) if whole else None
