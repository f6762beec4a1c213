"""Examples of the tasks that hear: tones of two pitches in files, tiny models, and an extractor of one second."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.conformance.task_case import TaskExample

RATE = 8_000
"""Samples a second of the files; the models' is twice as much."""
WORDS = ("low", "high")
MARKS = ("<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>")


def tone(pitch: float, seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """A tone of `pitch` Hz with a little noise, float32 [n]."""
    at = np.arange(round(seconds * rate)) / rate
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(at))
    return (0.5 * np.sin(2 * np.pi * pitch * at) + noise).astype(np.float32)


def clips(folder: Path) -> None:
    """Twelve WAV files of tones, low and high by turns, of 0.2 to 0.31 seconds."""
    from scipy.io import wavfile

    (folder / "clips").mkdir()
    for i in range(12):
        sound = tone((300, 1500)[i % 2], 0.2 + 0.01 * i, i)
        wavfile.write(folder / "clips" / f"{i}.wav", RATE, (32767 * sound).astype(np.int16))


def _bad(column: str, value: Any, wrong: Any) -> dict[str, Any]:
    return {
        "no such recording": ({"audio": "clips/none.wav", column: value}, "audio"),
        f"a wrong {column}": ({"audio": "clips/0.wav", column: wrong}, column),
        "samples without a rate": ({"audio": [0.0, 0.5], column: value}, "sampling_rate"),
    }


def audio_classification() -> TaskExample:
    """wav2vec 2.0 with group norms, whose padding counts as sound."""
    from transformers import Wav2Vec2FeatureExtractor

    return TaskExample(
        model=lambda: wav2vec2("Wav2Vec2ForSequenceClassification", labels=2),
        reader=Wav2Vec2FeatureExtractor(return_attention_mask=False),
        rows=[{"audio": f"clips/{i}.wav", "label": WORDS[i % 2]} for i in range(12)],
        bad=_bad("label", "low", "loud"),
        labels=WORDS,
        right=lambda row: str(row["label"]),
        figure=lambda pairs: sum(a == b for a, b in pairs) / len(pairs),
        files=clips,
    )


def automatic_speech_recognition() -> TaskExample:
    """A Whisper that hears one second."""
    from transformers import WhisperProcessor

    extractor, tokenizer = hearing(), whisper_tokenizer()
    return TaskExample(
        model=whisper,
        reader=WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer),
        rows=[{"audio": f"clips/{i}.wav", "text": WORDS[i % 2]} for i in range(12)],
        bad=_bad("text", "low", " "),
        right=lambda row: str(row["text"]),
        figure=_errors,
        files=clips,
        steps=16,
    )


def _errors(pairs: Sequence[tuple[str, str]]) -> float:
    import jiwer

    plain = [[" ".join(text.lower().split()) for text in pair] for pair in pairs]
    return float(jiwer.wer([reference for _, reference in plain], [answer for answer, _ in plain]))


def wav2vec2(kind: str, *, labels: int = 2, norm: str = "group", **more: Any) -> Any:
    """A freshly drawn wav2vec 2.0 (or HuBERT) of two blocks, without dropout: a place for each 20 samples."""
    import transformers

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (5, 4)}
    sizes |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    sizes |= {"classifier_proj_size": 16, "num_labels": labels, "feat_extract_norm": norm}
    drops = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    still = {**dict.fromkeys(drops, 0.0), "layerdrop": 0.0, "apply_spec_augment": False}
    name = "HubertConfig" if kind.startswith("Hubert") else "Wav2Vec2Config"
    return getattr(transformers, kind)(getattr(transformers, name)(**sizes, **still, **more))


def hearing() -> Any:
    """Whisper's extractor, for recordings of up to a second in 16 bands."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=16, chunk_length=1)


def whisper(kind: str = "WhisperForConditionalGeneration", *, labels: int = 2) -> Any:
    """A freshly drawn Whisper of two blocks on each side, whose tokenizer is `whisper_tokenizer`."""
    import transformers

    tokenizer = whisper_tokenizer()
    sides: dict[str, Any] = {
        f"{s}_{n}": v
        for s in ("encoder", "decoder")
        for n, v in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
    }
    end, start = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(MARKS[0])
    ids: dict[str, Any] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }
    make: Any = transformers.WhisperConfig  # its signature leaves out what every config takes
    config = make(
        vocab_size=len(tokenizer),
        d_model=32,
        num_mel_bins=16,
        max_source_positions=50,
        max_target_positions=32,
        init_std=0.1,
        begin_suppress_tokens=None,
        classifier_proj_size=16,
        num_labels=labels,
        **sides,
        **ids,
    )
    model = getattr(transformers, kind)(config)
    if kind.endswith("Generation"):
        told = {"no_timestamps_token_id": tokenizer.convert_tokens_to_ids(MARKS[-1]), "is_multilingual": False}
        more = {"return_timestamps": False, "max_length": 32}
        model.generation_config = transformers.GenerationConfig(**ids, **told, **more)
    return model


@lru_cache
def whisper_tokenizer() -> Any:
    """Whisper's tokenizer over a few pairs of bytes, with the marks of its texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import WhisperTokenizer

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    inner.train_from_iterator([" low high the slower lower higher"], trainer)
    import json

    told = json.loads(inner.to_str())["model"]
    made = WhisperTokenizer(vocab=told["vocab"], merges=[tuple(m) for m in told["merges"]], pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": list(MARKS)})
    made.set_prefix_tokens(predict_timestamps=False)
    return made
