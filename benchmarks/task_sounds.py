"""The real runs of tasks that hear: digits of the Free Spoken Digit Dataset (Jackson et al.), by Whisper tiny.en.

Its recordings are of 8 kHz and of 2.3 seconds at most, and Whisper hears every one as 30 seconds: what is recognised is
few rows. Classes are read by its encoder with the first three seconds of its places and all its weights otherwise, at a
tenth of the cost. One speaker is never learnt from: part of the rows asked are other takes of the voices learnt, part
are that voice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE = 8_000
WORDS = "zero one two three four five six seven eight nine".split()
UNHEARD = "theo"
SECONDS = 3
ROWS = {"audio-classification": (12, 20), "automatic-speech-recognition": (6, 8)}
"""Rows of each digit: to learn from, and to measure on (up to half of them by the speaker not learnt from)."""


def clips(path: Path, *, each: int, speaker: str | None) -> Iterator[tuple[np.ndarray, int, str]]:
    """(samples, digit, speaker): the first `each` of every digit, voices by turns; `speaker`: that one alone, else all
    others.
    """
    with np.load(path, allow_pickle=False) as data:
        audio, ends, digits = data["audio"], data["offsets"], data["digit"]
        voices = [str(data["speaker_names"][i]) for i in data["speaker"]]
        takes = data["take"]
    for digit in range(10):
        at = [
            i
            for i, d in enumerate(digits)
            if d == digit and (voices[i] == speaker if speaker else voices[i] != UNHEARD)
        ]
        at.sort(key=lambda i: (takes[i], voices[i]))
        for i in at[:each]:
            yield audio[ends[i] : ends[i + 1]], digit, voices[i]


def write(folder: Path, name: str, found: Iterator[tuple[np.ndarray, int, str]], task: str) -> str:
    """An npz file of recordings with their labels or their words."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(found)
    ends = np.cumsum([0, *(len(sound) for sound, _, _ in rows)])
    told = [WORDS[digit] for _, digit, _ in rows]
    column = "label" if task == "audio-classification" else "text"
    path = folder / f"{name}-{column}.npz"
    values: dict[str, Any] = {column: np.array(told), "speaker": np.array([voice for _, _, voice in rows])}
    np.savez_compressed(
        path, audio=np.concatenate([s for s, _, _ in rows]), offsets=ends, sampling_rate=np.array(RATE), **values
    )
    return str(path)


def files(data: Path, out: Path, task: str) -> tuple[str, str]:
    """(to learn from, to measure on): the latter half by voices that were learnt, half by the one that was not."""
    folder, (learnt, asked_of) = data / "fsdd", ROWS[task]

    def asked() -> Iterator[tuple[np.ndarray, int, str]]:
        yield from clips(folder / "test.npz", each=asked_of // 2, speaker=None)
        yield from clips(folder / "test.npz", each=asked_of // 2, speaker=UNHEARD)

    train = clips(folder / "train.npz", each=learnt, speaker=None)
    return write(out / "rows", "train", train, task), write(out / "rows", "test", asked(), task)


def short(out: Path) -> str:
    """A folder of Whisper tiny.en that hears SECONDS, made once."""
    from transformers import AutoTokenizer, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    from tunewright.loading import builtin

    folder, whole = out / "whisper-tiny.en-3s", builtin.ensure("whisper-tiny.en")
    if not folder.exists():
        given = WhisperForConditionalGeneration.from_pretrained(whole)
        state = given.state_dict()
        name = "model.encoder.embed_positions.weight"
        state[name] = state[name][: 50 * SECONDS].clone()
        config = WhisperConfig.from_pretrained(whole, max_source_positions=50 * SECONDS)
        model = WhisperForConditionalGeneration(config)
        model.load_state_dict(state)
        model.generation_config = given.generation_config
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS).save_pretrained(folder)
    return str(folder)


def classification(data: Path, out: Path) -> dict[str, Any]:
    """Which digit is said, by Whisper's encoder with a new head."""
    train, test = files(data, out, "audio-classification")
    return {
        "model": short(out),
        "task": "audio-classification",
        "data": {"train": train, "eval": test},
        "methods": [{"lora": {"rank": 8}}],
        "train": {"precision": "float32", "seed": 0, "learning_rate": 1e-3, "batch_tokens": 800},
        "budget": {"epochs": 1},
        "measurement": {"strengths": [1]},
    }


def recognition(data: Path, out: Path) -> dict[str, Any]:
    """What is said, by Whisper: the digit's word."""
    train, test = files(data, out, "automatic-speech-recognition")
    return {
        "model": "whisper-tiny.en",
        "task": "automatic-speech-recognition",
        "data": {"train": train, "eval": test},
        "methods": [{"lora": {"rank": 8}}],
        "train": {"precision": "float32", "seed": 0, "learning_rate": 1e-3, "batch_tokens": 6_100},
        "budget": {"epochs": 1},
        "measurement": {"strengths": [1], "drift_sequences": 16},
    }
