"""What is seen of a stage whose mixture changes: its looks, what they say of each domain, and what a step was worth.

A trajectory is JSON, so that it is kept in a method's state and left to whoever reads the run's folder:

    domains   names of the sources that are mixed
    old       those of the source field, of which nothing should be lost
    start     [K] shares that the stage began with
    own       [K] the place in a look's losses of the held-out text that is called like the domain; -1: none is
    texts     [M] whether each held-out text belongs to the source field
    count     looks that the stage was to have, the first at no step
    looks     [{losses: [M], shares: [K], from that look on}, ...]
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.files import checkpoint
from tunewright.files.regular import regular

WINDOW = 4
"""Looks of which an agent sees shares and losses."""
LEAST = 1e-6
"""Below which a loss counts as this much, so that its logarithm is finite."""

BEHAVIOURS = ("random", "anneal", "losses", "kept")

Trajectory = dict[str, Any]


def begun(shares: Mapping[str, float], losses: Mapping[str, float], old: Sequence[str], count: int) -> Trajectory:
    """A trajectory without looks. `losses`: of the held-out texts, by name; `old`: names of the source field's."""
    domains, texts = sorted(shares), sorted(losses)
    total = sum(shares.values())
    return {
        "domains": domains,
        "old": [n for n in domains if n in old],
        "start": [shares[n] / total for n in domains],
        "own": [texts.index(n) if n in texts else -1 for n in domains],
        "texts": [n in old for n in texts],
        "count": count,
        "looks": [],
    }


def gains(t: Trajectory, k: int) -> list[float]:
    """[M] logarithm of each held-out text's loss at look k over that at the first: below 0 where it has fallen."""
    first, now = t["looks"][0]["losses"], t["looks"][max(k, 0)]["losses"]
    return [math.log(max(b, LEAST) / max(a, LEAST)) for a, b in zip(first, now, strict=True)]


def fields(t: Trajectory, each: Sequence[float]) -> tuple[float, float]:
    """Means of `each` [M] over the held-out texts of the target field and of the source field; 0 for one of none."""
    new, old = ([g for g, o in zip(each, t["texts"], strict=True) if o is is_old] for is_old in (False, True))
    return sum(new) / max(len(new), 1), sum(old) / max(len(old), 1)


def worth(t: Trajectory, k: int, balance: float) -> float:
    """By how much the losses fell from look k to the next, in logarithms: `balance` of the target field's mean and the
    rest of the source field's. Where one field is not followed, the other's alone.
    """
    (new, old), (new_then, old_then) = (fields(t, gains(t, i)) for i in (k, k + 1))
    if not any(t["texts"]):
        balance = 1.0
    elif all(t["texts"]):
        balance = 0.0
    return balance * (new - new_then) + (1 - balance) * (old - old_then)


def seen(t: Trajectory, k: int) -> Tensor:
    """[K, F] what look k says of each domain: its shares before the last looks and its losses at them, beside what is
    the same for all: how far the stage is, and the means of both fields. No name is in it, so that domains of another
    stage are read alike. A domain without a held-out text of its own has its field's mean.
    """
    looks, old = t["looks"], set(t["old"])
    at = [gains(t, k - lag) for lag in range(WINDOW)]
    means = [fields(t, each) for each in at]
    shares = [looks[k - 1 - lag]["shares"] if k - 1 - lag >= 0 else t["start"] for lag in range(WINDOW)]
    replayed = sum(s for n, s in zip(t["domains"], shares[0], strict=True) if n in old)
    rows = []
    for i, name in enumerate(t["domains"]):
        own, is_old = t["own"][i], name in old
        losses = [each[own] if own >= 0 else mean[is_old] for each, mean in zip(at, means, strict=True)]
        level = math.log(max(looks[0]["losses"][own], LEAST)) if own >= 0 else 0.0
        alike = [k / max(t["count"] - 1, 1), *means[0], replayed, 1 / len(t["domains"])]
        rows.append([*(s[i] for s in shares), *losses, level, float(is_old), float(own >= 0), *alike])
    return torch.tensor(rows, dtype=torch.float32)


def drawn(t: Trajectory, behaviour: str, rng: random.Random) -> list[float]:
    """[K] shares from the latest look on, by a behaviour that a stage of exploring keeps to:

    random: now and then all are drawn anew, evenly over all mixtures; anneal: from the source field to the target field
    or back, in equal steps; losses: more of what has risen or stayed behind; kept: as the stage began.
    """
    looks, start, old = t["looks"], t["start"], set(t["old"])
    before = looks[-2]["shares"] if len(looks) > 1 else None
    if behaviour == "kept":
        return list(start)
    if behaviour == "random":
        return list(before) if before is not None and rng.random() < 0.7 else _anywhere(len(start), rng)
    if behaviour == "losses":
        each = gains(t, len(looks) - 1)
        behind = [each[i] if i >= 0 else 0.0 for i in t["own"]]
        return _scaled([s * math.exp(4 * b) for s, b in zip(start, behind, strict=True)])
    if before is None:  # anneal: both ends are drawn at the first look and found again in it
        t["ends"] = [rng.random(), rng.random(), _anywhere(len(start), rng)]
    first, last, inside = t["ends"]
    share = first + (last - first) * min((len(looks) - 1) / max(t["count"] - 2, 1), 1.0)  # the end's look moves no more
    by_field = {f: sum(x for x, n in zip(inside, t["domains"], strict=True) if (n in old) is f) for f in (True, False)}
    if not all(by_field.values()):
        return list(inside)
    return [
        x / by_field[n in old] * (share if n in old else 1 - share) for x, n in zip(inside, t["domains"], strict=True)
    ]


def _anywhere(count: int, rng: random.Random) -> list[float]:
    return _scaled([rng.expovariate(1.0) for _ in range(count)])


def _scaled(values: Sequence[float]) -> list[float]:
    return [v / sum(values) for v in values]


def of_runs(folder: str, method: str, where: str) -> list[Trajectory]:
    """Trajectories that stages with `method` left in a finished run's folder, or in a folder of such, in their order.

    MethodError where there is none, and for a file that is damaged. No weights are read.
    """
    there = Path(folder)
    stages = sorted(p for depth in ("", "*/") for p in there.glob(f"{depth}stages/*/{checkpoint.MANIFEST}"))
    found = [t for manifest in stages if (t := _left(manifest, method, where)) is not None]
    if not found:
        raise MethodError(
            f"no finished run with '{method}' is in {folder}",
            where=where,
            remedy=f"run the recipe with {method}: {{policy: any}} first, and name the folders of these runs",
        )
    return found


def _left(manifest: Path, method: str, where: str) -> Trajectory | None:
    """What the stage beside a manifest left; none: another method's, or too short for a step between two looks."""
    state = manifest.with_name(checkpoint.STATE)
    try:
        noted = json.loads(regular(manifest).read_text(encoding="utf-8"))[checkpoint.STATE]
        if checkpoint.sha256_of(regular(state)) != noted:
            raise ValueError(f"it differs from its hash in {checkpoint.MANIFEST}")
        left = json.loads(state.read_text(encoding="utf-8")).get("left", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise MethodError(f"a run cannot be read: {e}", where=f"{where}: {state}", remedy="leave this run out") from e
    found: Trajectory | None = left.get(method, {}).get("trajectory")
    return found if found is not None and len(found["looks"]) > 1 else None
