"""Two towers learn more of pairs that preserve the covariance of pictures and texts than of as many random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus
from tunewright.claims.papers import _two_towers as lab
from tunewright.data.select.clipcov import ClipCov, picked

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

EACH, JUDGED, WRONG, KEPT = 60, 10, 0.3, 360
"""Pairs of each of 60 classes in the pool, pictures of each that are judged; the share of texts that tell of another
class; pairs that are kept, a tenth.
"""
STEPS, BATCH, RATE = 500, 64, 1e-3
CLASSES = [(c, d) for c in lab.COLOURS for d in lab.DIGITS]
WORDS = {w: i for i, w in enumerate(sorted({w for k in CLASSES for s in lab.SAID[:2] for w in s.format(*k).split()}))}

CLAIM = Claim(
    paper="clipcov",
    says="Fresh towers that learn a tenth of a noisy pool of pairs, chosen by ClipCov with a proxy that read all of "
    "it, tell the pictures of sixty classes better than those that learn as many pairs at random, and than those that "
    "learn the pairs whose picture and text are most alike, for as many steps.",
    task="digits",
    method=Arm(name="clipcov", methods=["full"], uses=["clipcov"]),
    baselines=[Arm(name="random", methods=["full"]), Arm(name="alike", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="coloured digits in words, of which three texts in ten tell of another class, and towers of the claim's "
    "own (a hidden layer over pixels, a mean over words), in the place of CLIP on 3M and 12M captioned pictures of the "
    "web; judged on the pool's own classes, without a shift; one size of subset; gains are made anew after each pick; "
    "the rate is not tuned",
)


class Towers(nn.Module):
    """Vectors [n, 32] of pictures [n, 2352] and of texts as counts of words [n, W]."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pictures = nn.Sequential(nn.Linear(28 * 28 * 3, 128), nn.ReLU(), nn.Linear(128, 32))
            self.texts = nn.Sequential(nn.Linear(len(WORDS), 64, bias=False), nn.ReLU(), nn.Linear(64, 32))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return normalize(self.pictures(x), dim=1), normalize(self.texts(words), dim=1)


def told(texts: list[str]) -> Tensor:
    """Counts of words, as shares, of texts."""
    out = torch.zeros(len(texts), len(WORDS))
    for i, text in enumerate(texts):
        for word in text.split():
            out[i, WORDS[word]] += 1 / len(text.split())
    return out


def pairs(part: str, count: int, rng: np.random.Generator, wrong: float) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures, words, true classes) of `count` pairs a class."""
    held = dict(np.load(corpus.data_folder() / "mnist" / f"{part}.npz"))
    pictures, texts = list[np.ndarray](), list[str]()
    for colour, digit in CLASSES:
        for at in rng.choice(np.flatnonzero(held["y"] == lab.DIGITS.index(digit)), count, replace=False):
            said = CLASSES[rng.integers(len(CLASSES))] if rng.random() < wrong else (colour, digit)
            texts.append(lab.SAID[rng.integers(2)].format(*said))
            pictures.append(held["x"][at][..., None] / 255 * np.array(lab.COLOURS[colour]))
    x = torch.tensor(np.stack(pictures), dtype=torch.float32).flatten(1)
    return x, told(texts), torch.arange(len(CLASSES)).repeat_interleave(count)


def learnt(x: Tensor, words: Tensor, seed: int) -> Towers:
    """Fresh towers after learning pairs by the contrastive loss of both sides."""
    model, generator = Towers(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            some = torch.randperm(len(x), generator=generator)[:BATCH]
            v, t = model(x[some], words[some])
            alike, own = model.scale.exp() * v @ t.T, torch.arange(len(some))
            optimizer.zero_grad()
            (cross_entropy(alike, own) + cross_entropy(alike.T, own)).backward()
            optimizer.step()
    return model


@torch.no_grad()
def right(model: Towers, x: Tensor, classes: Tensor) -> float:
    """Share of pictures whose class' text comes first among all."""
    v, t = model(x, told([lab.SAID[0].format(*k) for k in CLASSES]))
    return float(((v @ t.T).argmax(1) == classes).float().mean())


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of pictures that are told right; beside it by the proxy and by towers that learnt nothing."""
    rng, template = np.random.default_rng([seed, 20]), ClipCov().template
    x, words, _ = pairs("train", EACH, rng, WRONG)
    judged, _, classes = pairs("test", JUDGED, rng, 0.0)
    proxy = learnt(x, words, seed)
    with torch.no_grad():
        v, t = proxy(x, words)
        named = proxy(x, told([template.format(label=f"{c} {d}.") for c, d in CLASSES]))[1]
    fits, guessed = (t @ named.T).max(1)
    kept = {
        "clipcov": picked(v, t, guessed, fits, KEPT)[0],
        "random": rng.choice(len(x), KEPT, replace=False).tolist(),
        "alike": (v * t).sum(1).argsort(descending=True)[:KEPT].tolist(),
    }
    found = {arm: right(learnt(x[some], words[some], seed), judged, classes) for arm, some in kept.items()}
    return {**found, "proxy": right(proxy, judged, classes), "base": right(Towers(seed), judged, classes)}
