"""text-to-image: pictures drawn of texts.

A UNet of diffusers that reads a text's states, in a `StableDiffusionPipeline` folder: it denoises a VAE's latents
(Rombach et al. 2022, arXiv:2112.10752). Text encoder and VAE are frozen. Or a next-scale model, which draws map by map
(Tian et al. 2024, arXiv:2404.02905; `loading.next_scale`), told of the text's pooled state. Rows are pictures with
their texts, `{"image": "a.png", "text": "a red square"}`, or with a class in words, which `data.template` puts into a
text ("a photo of a {label}"; without one, the class is the text). Rows, draws and the loss: `tasks._drawing`.

Errors: RowProblem for a row without a picture or a text; MethodError for objectives of likelihoods.
Differs from diffusers' training script in: texts are never left out (no caption dropout), so that what a text brings
under guidance is the base's.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.tasks._drawing import Drawing
from tunewright.tasks._parts import TO_IMAGE
from tunewright.tasks.base import fill, is_missing


class TextToImage(Drawing):
    """`input_ids` are the text's, with its beginning and end; `fields` also `pad`, `longest` and `text`."""

    name: ClassVar[str] = TO_IMAGE

    def text_of(self, record: Record, tokenizer: Any, options: EncodeOptions) -> tuple[list[int], dict[str, Any]]:
        """The ids of a row's text. RowProblem where it has none, or one that is too long and may not be cut."""
        text, longest = _text(record, options), int((options.image or {})["longest"])
        ids = list(tokenizer(text, verbose=False, truncation=False)["input_ids"])
        fields = {
            "text": text,
            "pad": int(tokenizer.pad_token_id),
            "longest": longest,
        }
        return ids, fields


def _text(record: Record, options: EncodeOptions) -> str:
    """The text of a record: its own, or its class, in the template where there is one."""
    column = "label" if is_missing(record.get("text")) else "text"
    value = record.get(column)
    if is_missing(value):
        raise RowProblem(
            "text",
            "the row has neither a text nor a class",
            "name the column in the source: columns: {text: your_column}, or {label: your_column}",
        )
    if not isinstance(value, str) or not value.strip():
        raise RowProblem(column, f"{value!r:.40} is no text", 'write words, such as "a red square"')
    return value if options.template is None else fill(options.template, record)
