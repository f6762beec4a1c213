"""Statistics on disk: paid once for equal weights, rows and settings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tunewright.contract.method import Need
from tunewright.files.tensors import save_tensors
from tunewright.models.aligned import aligned
from tunewright.models.delta_names import is_delta
from tunewright.models.sites import Site

log = logging.getLogger(__name__)


def cache_file(need: Need, run: Any, source: str) -> Path | None:
    """Where a statistic is kept: named by the present weights, the rows, the draw of them and the need's settings.

    None when the run keeps no cache, or when the base or the rows have no hash to name them by.
    """
    data, base = run.data_hashes.get(source), run.adapted.base_hash
    if run.cache is None or not data or not base:
        return None
    digest = hashlib.sha256(f"{base}/{run.adapted.beside}/{data}/{run.seed}/{need.model_dump_json()}".encode())
    if run.adapted.operated:
        digest.update(json.dumps(run.adapted.surgeries()).encode())
    changed = run.adapted.originals
    for name, t in run.adapted.model.state_dict().items():
        # what an earlier stage changed or attached is not in the base's hash
        if name in changed or is_delta(name):
            digest.update(name.encode())
            digest.update((t.float() if t.is_floating_point() else t).detach().cpu().numpy().tobytes())
    return Path(run.cache) / f"{need.name}-{digest.hexdigest()[:32]}.safetensors"


def kept(need: Any, run: Any, make: Callable[[list[Site]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The statistic of `need.source` at `need.target_modules`: read back, or made by `make(sites)` and kept."""
    file = cache_file(need, run, need.source)
    statistic = load(file, run.device)
    if statistic is None:
        statistic = make(run.adapted.structure.match(need.target_modules))
        save(file, statistic)
    return statistic


def load(file: Path | None, device: str) -> dict[str, Tensor] | None:
    """The statistic by site name, None when it is not kept, or cannot be read any more."""
    if file is None:
        return None
    try:
        # they give what they gave when made
        return {n: aligned(t) for n, t in load_file(file, device=device).items()} if file.exists() else None
    except (OSError, SafetensorError) as e:
        log.warning("the kept statistic %s cannot be used (%s); it is made again", file, e)
        return None


def save(file: Path | None, values: dict[str, Tensor]) -> None:
    """Keep a statistic: written aside and renamed, so that a reader never sees half of one.

    A cache that cannot be written is no error: it is said, and that is all.
    """
    if file is None:
        return
    aside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # tensors that several sites share are written for each
        save_tensors({n: t.contiguous().clone() for n, t in values.items()}, aside)
        os.replace(aside, file)
    except OSError as e:
        log.warning("the statistic was not kept: %s", e)
        with suppress(OSError):
            aside.unlink()
