"""What claims about models that see pictures share: drawn scenes with annotations, and a small model that tells in a
flat caption what it sees.

A scene is 24 x 24 pixels in nine cells; in two to four of them lies a thing, of one of four shapes and four colours.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.contract.records import Record
from tunewright.data.synthesize.rs_gpt4v import RSGPT4V
from tunewright.files.cache import cache_folder

CELL = 8
"""Pixels on a side of a cell, and of a patch that the model reads."""
_Y, _X = np.mgrid[:CELL, :CELL]
COLOURS = {"red": (255, 40, 40), "green": (40, 255, 40), "blue": (60, 60, 255), "yellow": (255, 255, 40)}
SHAPES: dict[str, np.ndarray] = {
    "square": (_X >= 1) & (_X <= 6) & (_Y >= 1) & (_Y <= 6),
    "circle": (_X - 3.5) ** 2 + (_Y - 3.5) ** 2 <= 10,
    "triangle": np.abs(_X - 3.5) <= (_Y + 1) / 2,
    "cross": (np.abs(_X - 3.5) < 1) | (np.abs(_Y - 3.5) < 1),
}
PICTURES, STEPS, ROWS, RATE = 2500, 1200, 32, 2e-3
"""What the model learns from before a claim: pictures, and steps of so many rows at a rate that falls to a tenth."""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in "
    "m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
ASKED = "What is there to see?"
Row = dict[str, Any]


def scenes(count: int, seed: int) -> list[Row]:
    """`count` rows of pictures as files, the same for a seed: `text` names the things in reading order, `objects` says
    what they are like and where they lie.
    """
    rng, rows = random.Random(seed), list[Row]()
    folder = Path(cache_folder()) / "lab" / "scenes"
    for _ in range(count):
        cells = sorted(rng.sample(range(9), rng.randint(2, 4)))
        things = [(cell, rng.choice([*COLOURS]), rng.choice([*SHAPES])) for cell in cells]
        objects = {
            "bbox": [[cell % 3 * CELL, cell // 3 * CELL, CELL, CELL] for cell, _, _ in things],
            "category": [shape for _, _, shape in things],
            "attributes": [colour for _, colour, _ in things],
        }
        told = " and ".join(f"a {colour} {shape}" for _, colour, shape in things)
        size = {"width": 3 * CELL, "height": 3 * CELL}
        rows.append({"image": _drawn(things, folder), "text": told, "objects": objects, **size})
    return rows


def flat(row: Row, question: str = ASKED, answer: str | None = None) -> Row:
    """A picture with one question and its answer, the caption where none is given."""
    shown = [{"type": "image"}, {"type": "text", "text": question}]
    told = row["text"] if answer is None else answer
    return {
        "messages": [{"role": "user", "content": shown}, {"role": "assistant", "content": told}],
        "image": row["image"],
    }


def said(rows: Sequence[Row], seed: int, **settings: Any) -> list[Row]:
    """Rows of questions, descriptions and conversations on scenes, by rules."""
    records = [Record(row, id=str(i), where=f"scene {i}") for i, row in enumerate(rows)]
    return [dict(m.values) for m in RSGPT4V.model_validate(settings).synthesize(records, {}, random.Random(seed))]


def _drawn(things: Sequence[tuple[int, str, str]], folder: Path) -> str:
    """The file of a picture, named by what is on it."""
    from PIL import Image

    pixels = np.zeros((3 * CELL, 3 * CELL, 3), np.uint8)
    for cell, colour, shape in things:
        top, left = cell // 3 * CELL, cell % 3 * CELL
        pixels[top : top + CELL, left : left + CELL][SHAPES[shape]] = COLOURS[colour]
    path = folder / f"{hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}.png"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{path.name}.{os.getpid()}.partial"
        Image.fromarray(pixels).save(aside, format="png")
        aside.replace(path)
    return str(path)


def model(seed: int = 0, width: int = 64) -> str:
    """The folder of a LLaVA of 0.3M parameters that has learnt flat captions of scenes.

    A tower of two blocks reads a patch a cell, a language model has three, and the tokenizer is learnt from what is
    said of both kinds of scenes. Made once, in some minutes, and kept in the cache.
    """
    import transformers as t

    from tunewright.models.generators import seeded

    folder = Path(cache_folder()) / "lab" / f"sees-scenes-{width}-{STEPS}-{seed}"
    if (folder / "processor_config.json").is_file():
        return str(folder)
    rows = [flat(row) for row in scenes(PICTURES, seed)]
    processor = _processor([*rows, *said(scenes(PICTURES, seed), seed)])
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": 4}
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    words = t.LlamaConfig(
        **sizes, **ids, num_hidden_layers=3, vocab_size=512, max_position_embeddings=512, tie_word_embeddings=True
    )
    sees = t.CLIPVisionConfig(
        **sizes, num_hidden_layers=2, image_size=3 * CELL, patch_size=CELL, projection_dim=width, initializer_factor=5.0
    )
    config = t.LlavaConfig(text_config=words, vision_config=sees, image_token_index=3, vision_feature_layer=-1)
    with seeded(seed):
        made = t.LlavaForConditionalGeneration(config)
    _learn(made, processor, rows, seed)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _processor(rows: Sequence[Row]) -> Any:
    """A byte-level tokenizer of what rows say, and pictures as they are."""
    import transformers as t
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    reads = Tokenizer(models.BPE())
    reads.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    reads.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    texts = [f"{turn['role']}: {_text(turn)}" for row in rows for turn in row["messages"]]
    how = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reads.train_from_iterator(texts, how)
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=reads, model_max_length=512, **marks)
    tokenizer.chat_template = TEMPLATE
    size = {"height": 3 * CELL, "width": 3 * CELL}
    pictures = t.CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    told: dict[str, Any] = {"patch_size": CELL, "vision_feature_select_strategy": "default"}
    return t.LlavaProcessor(pictures, tokenizer, num_additional_image_tokens=1, chat_template=TEMPLATE, **told)


def _text(turn: Row) -> str:
    content = turn["content"]
    return content if isinstance(content, str) else str(content[-1]["text"])


def _encoded(tokenizer: Any, row: Row) -> tuple[list[int], list[int]]:
    """A conversation's tokens, and those that the loss is on (else -100)."""
    ids, labels = list[int](), list[int]()
    for i, turn in enumerate(row["messages"]):
        answers = turn["role"] == "assistant"
        before = tokenizer(f"{turn['role']}: {'' if i else '<image>' * 9}", add_special_tokens=False).input_ids
        some = tokenizer(f"{_text(turn)}{'</s>' if answers else ''}", add_special_tokens=False).input_ids
        end = tokenizer("\n", add_special_tokens=False).input_ids
        ids += [*before, *some, *end]
        labels += [*[-100] * len(before), *(some if answers else [-100] * len(some)), *[-100] * len(end)]
    return ids, labels


def _learn(model: Any, processor: Any, rows: Sequence[Row], seed: int) -> None:
    """Plain training of everything on rows."""
    import torch
    from PIL import Image

    files = list(dict.fromkeys(row["image"] for row in rows))
    pixels = processor.image_processor([Image.open(f) for f in files], return_tensors="pt")["pixel_values"]
    at, encoded = {f: i for i, f in enumerate(files)}, [_encoded(processor.tokenizer, row) for row in rows]
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0), np.random.default_rng(seed)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (1 - 0.9 * step / STEPS)
        drawn = [int(i) for i in rng.choice(len(rows), ROWS, replace=False)]
        longest = max(len(encoded[i][0]) for i in drawn)
        ids, labels = (torch.full((ROWS, longest), empty) for empty in (0, -100))
        for k, i in enumerate(drawn):
            for into, some in zip((ids, labels), encoded[i], strict=True):
                into[k, : len(some)] = torch.tensor(some)
        shown = pixels[[at[rows[i]["image"]] for i in drawn]]
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), pixel_values=shown, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
