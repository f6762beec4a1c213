"""A small transformer of spectrograms that knows spoken digits, and a new task for it: who speaks?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.lab import corpus, rows
from tunewright.claims.merging import finished, folder_of
from tunewright.claims.papers._tuned import rate

if TYPE_CHECKING:
    from tunewright.claims.claim import Claim
    from tunewright.claims.claim_run import ClaimRun

HZ, WINDOW, HOP, BANDS, FRAMES = 8000, 256, 160, 28, 28
"""Spectrograms of 28 mel bands and 28 frames of 20 ms: as large as the pictures that nano-vit knows."""
FLOOR = 80.0
"""Decibels below a clip's loudest place that count as silence."""
PARTS = {"digits": range(5, 15), "train": range(15, 20), "validation": range(20, 25), "eval": range(0, 5)}
"""Takes of each part: what a speaker said of a digit, one after the other. `eval` is the data set's own test part."""
SHARED: dict[str, Any] = {
    "task": "digits",
    "metric": "measured",
    "direction": "higher",
    "seeds": 5,
    "rates": (),
    "strengths": (1.0,),
    "budget": {"epochs": 3},
    # none of the lab task's own rows, and nothing kept
    "extra": {"data": {"train": None, "eval": None, "validation": None}, "keep": [], "evaluation": {"rows": 300}},
    "scales": ("nano",),
}
DIFFERS = (
    "a ViT of six blocks that knew digits in pictures and learnt spoken ones from 600 clips, and six speakers of 300 "
    "other clips, instead of AST and four benchmarks; each arm's rate is the better of two on 300 clips"
)


@cache
def _filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(WINDOW // 2 + 1, BANDS, 50.0, HZ / 2, HZ)


def spectrogram(audio: np.ndarray) -> np.ndarray:
    """uint8 [bands, frames] of 16-bit samples: log mel energies, the loudest at 255; cut, or filled with silence."""
    x = np.pad(audio[: WINDOW + HOP * (FRAMES - 1)].astype(np.float64), (0, WINDOW + HOP * FRAMES))
    windows = np.stack([x[t * HOP : t * HOP + WINDOW] * np.hanning(WINDOW) for t in range(FRAMES)])
    energies = np.abs(np.fft.rfft(windows)) ** 2 @ _filters()
    loud = 10 * np.log10(np.maximum(energies / max(energies.max(), 1e-9), 1e-12))
    return (255 * (1 + np.maximum(loud, -FLOOR) / FLOOR)).astype(np.uint8).T


@cache
def files() -> dict[str, str]:
    """Part -> its pictures: of digits with the digit as class, of the others with the speaker."""
    out = {}
    for part, takes in PARTS.items():
        held = dict(np.load(corpus.data_folder() / "fsdd" / ("test.npz" if part == "eval" else "train.npz")))
        those = [i for i, take in enumerate(held["take"]) if take in takes]
        ends = held["offsets"]
        x = np.stack([spectrogram(held["audio"][ends[i] : ends[i + 1]]) for i in those])
        out[part] = rows.pictures("spoken", part, x, held["digit" if part == "digits" else "speaker"][those])
    return out


def base(run: ClaimRun, arm: str) -> str:
    """The folder of a model that learnt spoken digits: the same for all arms and seeds."""
    data = {part: [{"path": files()["digits"], "name": part}] for part in ("train", "eval")}
    stage = {"name": "spoken", "methods": ["full"], "budget": {"epochs": 5}, "train": {"learning_rate": 1e-3}}
    record = finished(run, run.recipe(arm, run.first, data=data, stages=[stage]))
    return folder_of(record.folder)


def accuracies(run: ClaimRun, seed: int, claim: Claim, rates: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Each arm's accuracy on the speakers of the judged clips; beside it the untouched base's."""
    found: dict[str, float] = {}
    for arm in claim.arms:

        def trial(number: int, judged: str, at: float, arm: Any = arm) -> Any:
            data = {"train": [{"path": files()["train"]}], "eval": [{"path": files()[judged]}]}
            train = {"learning_rate": at, "head": "random"}
            return run.trial(arm.name, number, model=base(run, claim.baselines[0].name), data=data, train=train)

        record = trial(seed, "eval", rate(rates[arm.name], lambda at: trial(run.first, "validation", at)))  # noqa: B023
        found |= {arm.name: float(record.tuned.target), "base": float(record.base.target)}
    return found
