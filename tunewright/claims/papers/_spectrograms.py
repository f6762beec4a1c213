"""What claims about audio transformers share: a small ViT that reads spoken digits as pictures of their spectrum.

It was made on pictures of written digits, as the Audio Spectrogram Transformer begins with a ViT of photographs. A
recording is 28 frames of 28 mel bands, in decibels.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.lab import corpus
from tunewright.files.cache import cache_folder

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SIDE, FRAME, HOP, RATE = 28, 256, 200, 8_000
"""Bands and frames; samples of a frame and between two: 0.7 seconds."""
LEARNT, ASKED = 6, 20
"""Recordings of each digit that are learnt from, and that are judged."""
WORDS = "one two three four five six seven eight nine".split()
"""The digits from 1: nine classes ask for a new head, where ten would be taken for those that the model was made on."""


def bands() -> np.ndarray:
    """[SIDE, FRAME // 2 + 1] triangles of equal width on the mel scale."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), SIDE + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    at = np.linspace(0, RATE / 2, FRAME // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((at - low) / (middle - low), (high - at) / (high - middle)), 0, None)


def picture(sound: np.ndarray) -> np.ndarray:
    """[SIDE, SIDE] uint8: a recording's spectrum, low bands below, its loudest point white and 60 dB below it black."""
    length = FRAME + HOP * (SIDE - 1)
    samples = np.zeros(length)
    held = sound[:length].astype(np.float64)
    samples[: len(held)] = held
    frames = np.stack([samples[i * HOP : i * HOP + FRAME] for i in range(SIDE)]) * np.hanning(FRAME)
    power = bands() @ (np.abs(np.fft.rfft(frames)) ** 2).T
    decibels = 10 * np.log10(power + 1e-12)
    told = np.clip((decibels - decibels.max()) / 60 + 1, 0, 1)
    return np.asarray(255 * told[::-1], dtype=np.uint8)


def _file(part: str, each: int) -> str:
    """npz of the first `each` recordings of every digit, voices by turns."""
    with np.load(corpus.data_folder() / "fsdd" / f"{part}.npz", allow_pickle=False) as held:
        audio, ends, digits = held["audio"], held["offsets"], held["digit"]
        order = np.lexsort((held["speaker"], held["take"]))
    picked = [i for digit in range(1, 10) for i in [j for j in order if digits[j] == digit][:each]]
    x = np.stack([picture(audio[ends[i] : ends[i + 1]]) for i in picked])
    path = cache_folder() / "lab" / f"spectrograms-{hashlib.sha256(x.tobytes()).hexdigest()[:16]}" / f"{part}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{part}.{os.getpid()}.partial.npz")
        np.savez_compressed(aside, x=x, y=digits[picked].astype(np.int64) - 1, names=np.array(WORDS))
        aside.replace(path)
    return str(path)


@cache
def files() -> dict[str, Any]:
    """Spoken digits in the place of a task's rows."""
    return {
        "train": [{"path": _file("train", LEARNT), "name": "train"}],
        "eval": [{"path": _file("test", ASKED), "name": "eval"}],
        "validation": None,
    }


def accuracy(run: ClaimRun, arm: str, seed: int) -> float:
    """Share of new recordings whose digit is told, after an arm has learnt from few, its head from random numbers."""
    import torch

    from tunewright.runs.assemble import assemble
    from tunewright.training.setting_up import set_up
    from tunewright.training.train import train

    session = assemble(run.cut(run.recipe(arm, seed, data=files(), keep=[])))
    stage, provider = session.training_inputs(session.stages[0])
    set_up(session.adapted, stage.methods, stage.plan, session.task.name, provider.statistics)
    stage.methods.event("begin_task", stage="main", adapted=session.adapted)
    train(stage)
    assert session.eval is not None
    asked, right = list(session.eval.rows), 0
    with session.adapted.evaluating(), torch.no_grad():
        for i in range(0, len(asked), 50):
            batch = session.task.collate(asked[i : i + 50])
            said = session.task.forward(session.adapted.outer, batch).logits
            right += int((said.argmax(-1) == batch.labels).sum())
    return right / len(asked)
