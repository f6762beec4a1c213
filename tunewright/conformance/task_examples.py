"""What each of Tunewright's own tasks is checked on: tiny models, a tokenizer of 61 tokens, rows that can be learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.conformance import (
    bench,
    task_boxes,
    task_drawing,
    task_episodes,
    task_regions,
    task_seeing,
    task_series,
    task_sounds,
    task_tables,
)
from tunewright.conformance.task_case import TaskExample
from tunewright.errors import MethodError
from tunewright.tasks._parts import (
    CLASSES_OF_TABLES,
    FEATURES,
    FORECASTING,
    NUMBERS_OF_TABLES,
    PLAYING,
    TO_IMAGE,
    UNCONDITIONAL,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>", "<cls>", "<sep>", "<unk>")
WARM, COLD = ("red", "orange", "amber"), ("blue", "green", "teal")
AROUND = ("a", "light or dark", "very", "no other thing than a")


@lru_cache
def tokenizer(encoder: bool = False, end: bool = False) -> Any:
    """Byte-level pairs learnt from a few words, so that words have several pieces. `encoder`: BERT's way, a class token
    before a text and a separator behind it. `end`: T5's way, the end of text behind it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=bench.VOCABULARY, special_tokens=list(SPECIAL), show_progress=False)
    inner.train_from_iterator(["the quick brown fox jumps over the lazy dog", *WARM, *COLD, "warm cold: "], trainer)
    if encoder:
        around = [("<cls>", SPECIAL.index("<cls>")), ("<sep>", SPECIAL.index("<sep>"))]
        inner.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>", pair="<cls> $A <sep> $B <sep>", special_tokens=around
        )
    if end:
        behind = [("</s>", SPECIAL.index("</s>"))]
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=behind
        )
    names = {f"{n}_token": f"<{n}>" for n in ("pad", "mask", "cls", "sep", "unk")}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=64, bos_token="<s>", eos_token="</s>", **names
    )


def _colours() -> list[tuple[str, str]]:
    """(a text, warm or cold): twelve, of four lengths."""
    pairs = zip(WARM, COLD, strict=True)
    colours = [(c, kind) for pair in pairs for c, kind in zip(pair, ("warm", "cold"), strict=True)]
    return [(f"{AROUND[(i + k) % 4]} {c}", kind) for k in range(2) for i, (c, kind) in enumerate(colours)]


def _equal(pairs: Sequence[tuple[str, str]]) -> float:
    return sum(a.strip() == b.strip() for a, b in pairs) / len(pairs)


def _text_generation() -> TaskExample:
    return TaskExample(
        model=bench.llama,
        reader=tokenizer(),
        rows=[{"prompt": f"{text}: ", "completion": kind} for text, kind in _colours()],
        bad={
            "an empty answer": ({"prompt": "red", "completion": " "}, "completion"),
            "a prompt that is a number": ({"prompt": 3, "completion": "warm"}, "prompt"),
        },
        right=lambda row: str(row["completion"]),
        figure=_equal,
    )


def t5() -> Any:
    """An encoder-decoder of two blocks each, without dropout; ids as the other tiny models have them."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {
        "d_model": bench.WIDTH,
        "d_ff": 2 * bench.WIDTH,
        "d_kv": bench.WIDTH // 4,
        "num_layers": 2,
        "num_heads": 4,
    }
    ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=bench.VOCABULARY, dropout_rate=0.0, initializer_factor=0.5, **sizes, **ids)
    return T5ForConditionalGeneration(config)


def _text2text_generation() -> TaskExample:
    return TaskExample(
        model=t5,
        reader=tokenizer(end=True),
        rows=[{"prompt": text, "completion": kind} for text, kind in _colours()],
        bad={
            "an empty target": ({"prompt": "red", "completion": " "}, "completion"),
            "a source that is a number": ({"prompt": 3, "completion": "warm"}, "prompt"),
            "no target": ({"prompt": "red", "text": "warm"}, "completion"),
        },
        right=lambda row: str(row["completion"]),
        figure=_equal,
        steps=16,
    )


_BAD_TEXTS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "no known label": ({"text": "red", "label": "hot"}, "label"),
    "no label": ({"text": "red", "label": None}, "label"),
    "an empty text": ({"text": " ", "label": "warm"}, "text"),
}


def _text_classification() -> TaskExample:
    return TaskExample(
        model=lambda: bench.bert("BertForSequenceClassification", labels=2),
        reader=tokenizer(encoder=True),
        rows=[{"text": text, "label": kind} for text, kind in _colours()],
        bad=_BAD_TEXTS,
        labels=("cold", "warm"),
        right=lambda row: str(row["label"]),
        figure=_equal,
    )


def _fill_mask() -> TaskExample:
    return TaskExample(
        model=lambda: bench.bert("BertForMaskedLM"),
        reader=tokenizer(encoder=True),
        rows=[{"text": f"{text} is {kind}"} for text, kind in _colours()],
        bad={"an empty text": ({"text": " "}, "text")},
    )


def _reward_modeling() -> TaskExample:
    other = {"warm": "cold", "cold": "warm"}
    return TaskExample(
        model=bench.scorer,
        reader=tokenizer(),
        rows=[{"prompt": f"{t}: ", "chosen": kind, "rejected": other[kind]} for t, kind in _colours()],
        bad={
            "neither two answers nor a score": ({"prompt": "red", "completion": "warm"}, "score"),
            "a score that is no number": ({"text": "red", "score": "high"}, "score"),
        },
        right=lambda row: str(row["chosen"]),
        figure=_equal,
    )


def _pictures(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 40, (9 + i, 10, 3)) + np.array([[[180 * (i % 2), 20, 180 * (1 - i % 2)]]])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / f"{i}.png")


def _image_classification() -> TaskExample:
    from transformers import ViTImageProcessorPil

    return TaskExample(
        model=bench.vit,
        reader=ViTImageProcessorPil(size={"height": 8, "width": 8}),
        rows=[{"image": f"pictures/{i}.png", "label": ("cold", "warm")[i % 2]} for i in range(12)],
        bad={
            "no such picture": ({"image": "pictures/none.png", "label": "warm"}, "image"),
            "no known label": ({"image": "pictures/0.png", "label": "hot"}, "label"),
        },
        labels=("cold", "warm", "mild"),
        right=lambda row: str(row["label"]),
        figure=_equal,
        files=_pictures,
    )


def vit_without_head() -> Any:
    """The tiny classifier's body, with no pooler."""
    from transformers import ViTModel

    config: Any = bench.vit().config
    return ViTModel(config, add_pooling_layer=False)


def _image_feature_extraction() -> TaskExample:
    from transformers import ViTImageProcessorPil

    return TaskExample(
        model=vit_without_head,
        reader=ViTImageProcessorPil(size={"height": 8, "width": 8}),
        rows=[{"image": f"pictures/{i}.png"} for i in range(12)],
        bad={
            "no such picture": ({"image": "pictures/none.png"}, "image"),
            "a picture of text": ({"image": "bad.txt"}, "image"),
        },
        files=_pictures,
        steps=16,
    )


def clip() -> Any:
    """Two towers of two blocks each, of pictures [3, 8, 8] and texts of up to 64 tokens."""
    from transformers import CLIPConfig, CLIPModel

    sizes: dict[str, Any] = {
        "hidden_size": bench.WIDTH,
        "intermediate_size": 2 * bench.WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": bench.WIDTH,
    }
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = {**sizes, **ids, "vocab_size": bench.VOCABULARY, "max_position_embeddings": 64}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=bench.WIDTH, initializer_factor=5.0)
    return CLIPModel(config)


class _Readers:
    """What a model of pictures and texts is saved with."""

    def __init__(self, *readers: Any):
        self.readers = readers

    def save_pretrained(self, folder: Path) -> None:
        for reader in self.readers:
            reader.save_pretrained(folder)


def _zero_shot_image_classification() -> TaskExample:
    from transformers import CLIPImageProcessorPil

    size = {"height": 8, "width": 8}
    texts = [f"{around} {kind} picture" for around in ("a", "light or dark", "very") for kind in ("cold", "warm")]
    return TaskExample(
        model=clip,
        reader=_Readers(tokenizer(end=True), CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)),
        rows=[{"image": f"pictures/{i}.png", "text": texts[i % 6]} for i in range(12)],
        bad={
            "no such picture": ({"image": "pictures/none.png", "text": "warm"}, "image"),
            "an empty text": ({"image": "pictures/0.png", "text": " "}, "text"),
            "a class that is a number": ({"image": "pictures/0.png", "label": 3}, "label"),
        },
        right=lambda row: str(row["text"]),
        files=_pictures,
    )


def _image_text_to_text() -> TaskExample:
    rows, bad = task_seeing.rows()
    return TaskExample(
        model=task_seeing.llava,
        reader=task_seeing.processor(tokenizer()),
        rows=rows,
        bad=bad,
        right=lambda row: str(row["messages"][1]["content"]),
        figure=_equal,
        files=_pictures,
    )


def _token_classification() -> TaskExample:
    people, places = ("ada", "alan fox", "grace b hopper"), ("rome", "new york", "oxford", "the quick hills")
    rows = []
    for person in people:
        for place in places:
            names = ((person.split(), "PER"), (place.split(), "LOC"))
            tags = [[f"{'I' if i else 'B'}-{kind}" for i in range(len(words))] for words, kind in names]
            tokens = [*names[0][0], "is", "over", *names[1][0]]
            rows.append({"tokens": tokens, "ner_tags": [*tags[0], "O", "O", *tags[1]]})
    return TaskExample(
        model=lambda: bench.bert("BertForTokenClassification", labels=5),
        reader=tokenizer(encoder=True),
        rows=rows,
        bad={
            "fewer tags": ({"tokens": ["ada", "is"], "tags": ["B-PER"]}, "tags"),
            "no list of words": ({"tokens": "ada is", "tags": ["B-PER", "O"]}, "tokens"),
            "no known tag": ({"tokens": ["ada"], "tags": ["B-CAT"]}, "tags"),
        },
        labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
        right=lambda row: " ".join(row["ner_tags"]),
        figure=_seqeval,
    )


def _question_answering() -> TaskExample:
    people, places = ("ada", "alan fox", "grace b hopper"), ("rome", "new york", "oxford", "the quick hills")
    rows: list[dict[str, Any]] = []
    for person in people:
        for place in places:
            context = f"{person} is over {place}"
            answers = {"text": [place], "answer_start": [len(context) - len(place)]}
            rows.append({"question": f"over what is {person}", "context": context, "answers": answers})
    rows.append({"question": "what is red", "context": "the fox", "answers": {"text": [], "answer_start": []}})
    wrong = {"text": ["rome"], "answer_start": [3]}
    return TaskExample(
        model=lambda: bench.bert("BertForQuestionAnswering", labels=2),
        reader=tokenizer(encoder=True),
        rows=[*rows[-1:], *rows[:-1]],
        bad={
            "an answer that is not there": ({**rows[0], "context": "rome over rome", "answers": wrong}, "answers"),
            "no context": ({**rows[0], "context": " "}, "context"),
            "a question that leaves no room": ({**rows[0], "question": "over what " * 30}, "question"),
        },
        right=lambda row: "\n".join(row["answers"]["text"]),
        figure=_words_f1,
        steps=16,
    )


def _multiple_choice() -> TaskExample:
    rows = []
    for k, (text, kind) in enumerate(_colours()):
        choices = ["cold", "warm", "the fox"][: 2 + k % 2]
        rows.append({"question": text, "choices": choices, "label": choices.index(kind)})
    return TaskExample(
        model=lambda: bench.bert("BertForMultipleChoice", labels=1),
        reader=tokenizer(encoder=True),
        rows=rows,
        bad={
            "one choice": ({"question": "red", "choices": ["warm"], "label": 0}, "choices"),
            "no known answer": ({"question": "red", "choices": ["warm", "cold"], "label": 2}, "label"),
            "no question": ({"question": " ", "choices": ["warm", "cold"], "label": 0}, "question"),
        },
        right=lambda row: str(row["choices"][row["label"]]),
        figure=_equal,
        steps=16,
    )


def _words_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """F1 over words but articles, a mean over rows; words are counted one by one."""
    total = 0.0
    for pair in pairs:
        said, right = ([w for w in text.split() if w not in ("a", "an", "the")] for text in pair)
        left, hits = list(right), 0
        for word in said:
            if word in left:
                left.remove(word)
                hits += 1
        total += 2 * hits / (len(said) + len(right)) if said or right else 1.0
    return total / len(pairs)


def _seqeval(pairs: Sequence[tuple[str, str]]) -> float:
    from seqeval.metrics import f1_score

    said, right = ([pair[k].split() for pair in pairs] for k in (0, 1))
    return float(f1_score(right, said, zero_division=1))


def _sentence_similarity() -> TaskExample:
    def pair(text: str, kind: str) -> dict[str, str]:
        return {"anchor": text, "positive": f"{kind} {text.rpartition(' ')[2]}"}

    return TaskExample(
        model=lambda: bench.bert("BertModel"),
        reader=tokenizer(encoder=True),
        rows=[pair(text, kind) for text, kind in _colours()],
        bad={
            "no positive": ({"anchor": "red", "positive": None}, "positive"),
            "an empty anchor": ({"anchor": " ", "positive": "warm"}, "anchor"),
            "a negative that is the positive": ({"anchor": "a", "positive": "b", "negatives": ["B "]}, "negative"),
            "a score that is no number": ({"sentence1": "a", "sentence2": "b", "score": "near"}, "score"),
            "a text alone": ({"text": "red"}, "anchor"),
        },
        right=lambda row: str(row["positive"]),
        learning_rate=0.005,
    )


def _text_ranking() -> TaskExample:
    other = {"warm": "cold", "cold": "warm"}
    return TaskExample(
        model=lambda: bench.bert("BertForSequenceClassification", labels=1),
        reader=tokenizer(encoder=True),
        rows=[{"query": t, "positive": kind, "negatives": [other[kind], "dog"]} for t, kind in _colours()],
        bad={
            "a list of one": ({"query": "red", "positive": "warm"}, "negatives"),
            "an empty query": ({"query": "", "positive": "warm", "negative": "cold"}, "query"),
            "no grade": ({"query": "red", "passage": "warm", "label": 3}, "label"),
            "no passage": ({"query": "red", "passage": None, "label": 1}, "passage"),
        },
        right=lambda row: str(row["positive"]),
    )


EXAMPLES: dict[str, Callable[[], TaskExample]] = {
    "audio-classification": task_sounds.audio_classification,
    "automatic-speech-recognition": task_sounds.automatic_speech_recognition,
    "text-generation": _text_generation,
    "text-classification": _text_classification,
    "text2text-generation": _text2text_generation,
    "fill-mask": _fill_mask,
    "reward-modeling": _reward_modeling,
    "sentence-similarity": _sentence_similarity,
    "image-classification": _image_classification,
    FEATURES: _image_feature_extraction,
    "image-segmentation": task_regions.image_segmentation,
    "image-text-to-text": _image_text_to_text,
    "multiple-choice": _multiple_choice,
    "object-detection": task_boxes.object_detection,
    "question-answering": _question_answering,
    "text-ranking": _text_ranking,
    UNCONDITIONAL: task_drawing.unconditional_image_generation,
    TO_IMAGE: task_drawing.text_to_image,
    FORECASTING: task_series.time_series_forecasting,
    PLAYING: task_episodes.reinforcement_learning,
    CLASSES_OF_TABLES: lambda: task_tables.tabular_classification(_colours(), tokenizer(encoder=True)),
    NUMBERS_OF_TABLES: lambda: task_tables.tabular_regression(_colours(), tokenizer(encoder=True)),
    "token-classification": _token_classification,
    "zero-shot-image-classification": _zero_shot_image_classification,
}


def example_of(name: str) -> TaskExample:
    """The example of a built-in task. MethodError where there is none: another package's task brings its own."""
    if name not in EXAMPLES:
        raise MethodError(
            f"there is no example for the task '{name}'",
            where="check_task",
            remedy="give one: check_task(name, TaskExample(model=..., reader=..., rows=[...]))",
        )
    return EXAMPLES[name]()
