"""What decides the numbers of an untouched base, beside its weights: the name under which they are kept.

`meter` is the run's `Meter`, which asks here.
"""

from __future__ import annotations

from typing import Any

import torch

from tunewright.measure.cache import rows_hash


def rows_of(meter: Any) -> str:
    """The hashes of all rows that a meter reads the base on."""
    s = meter.session
    # training rows: only the few shots and the probe see them
    shown = [meter.shots().hash] if meter.spec.few_shot else []
    shown += [d.hash for d in meter.learnt()] if meter.probed or meter.guessed else []
    parts = [
        rows_hash(meter.rows),
        *(f"{o.key}={rows_hash(o.rows)}" for o in meter.others),
        *shown,
        *(f"{n}={d.hash}" for n, d in s.keep.items()),
        *(f"{n}={asked.hash}" for n, asked in s.packs.items()),
        rows_hash(meter.drift_rows),
    ]
    return "/".join(parts)


def settings_of(meter: Any) -> dict[str, Any]:
    """What is measured and how, as JSON values."""
    s, processes = meter.session, meter.sharing.group.size
    fixed = meter.spec.model_dump(exclude={"strengths", "split", "dial_rows", "along"})
    return {
        **fixed,
        "metric": meter.metric,
        "precision": s.precision,
        "device": s.device,
        "packed": s.packed,
        "seed": s.seed if meter.spec.few_shot else None,
        "choices": (meter.choices, meter.full),
        "probed": meter.probed or meter.guessed,
        "vocabulary": s.recipe.new_tokens,
        "threads": torch.get_num_threads(),
        "task": s.task.called,
        # rows are read beside others in each, and round otherwise
        **({"processes": processes} if processes > 1 else {}),
    }
