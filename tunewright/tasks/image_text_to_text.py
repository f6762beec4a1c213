"""image-text-to-text: a language model that sees pictures among the words it reads (LLaVA, SmolVLM, Qwen2-VL), and
writes text.

Rows: `messages` with parts `{"type": "image"}` and `{"type": "text", "text": ...}`, whose pictures are their own
(`{"type": "image", "path": "a.png"}`, OpenAI's `image_url` with a path or data:) or those of the column `images`, in
order; ShareGPT's and LLaVA's `conversations` with `<image>`; `prompt` and `completion` (or `chosen` and `rejected`)
beside pictures; `image` with `text` or `label`, asked by `data.template`. Rows without pictures are read as in
text-generation, so that text and pictures may be mixed, and kept text is text. A picture's tokens are what the model's
own processor makes of it; they are counted in `max_length` and `batch_tokens`, and no loss is ever put on them: of a
conversation only what the assistant says and its end count.

Errors: RowProblem for a picture that is missing, damaged or an address, for more or fewer pictures than places, and for
one in an answer; ModelError for a processor that says of no picture what it becomes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.pairs import Pair
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.models.arguments import takes
from tunewright.models.context import following, rows_of_prompts
from tunewright.tasks._causal import causal_outputs
from tunewright.tasks._chat import Segment, conversation
from tunewright.tasks._found import HOLE
from tunewright.tasks._placed import given, placed, shown_by
from tunewright.tasks._quietly import quietly
from tunewright.tasks._segments import encode_segments, first_token, last_token, spoken
from tunewright.tasks._shown import TOKENS, opened, packed, pixel_inputs, tokens_for
from tunewright.tasks._turns import parsed_tools
from tunewright.tasks.base import fill, in_type
from tunewright.tasks.text2text_generation import written
from tunewright.tasks.text_generation import TextGeneration, label_text, talk_of, text_of

KIND = "pictured"
"""The kind of a row with pictures: it is never cut."""
AT_ONCE = 8
"""Rows that are answered at once, at most."""


class ImageTextToText(TextGeneration):
    """`fields`: as in text-generation, and `pictures` (the files, `_shown.packed`), `picture_tokens` (how many of the
    row's tokens are pictures'), `shown` (how they are prepared; none without pictures).
    """

    name: ClassVar[str] = "image-text-to-text"
    auto_class: ClassVar[str] = "AutoModelForImageTextToText"
    packs: ClassVar[bool] = False
    reads_files: ClassVar[bool] = True

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode one record, its pictures expanded to the tokens that the model reads."""
        pictures = given(record)
        if "prompt" in record and "chosen" in record:
            return self._both(record, tokenizer, options)
        turns, kind = self._turns_of(record, options, bool(pictures))
        if turns is None:
            return _with_none(self._plain(record, tokenizer, options))
        turns, pictures = placed(turns, pictures)
        marker = (options.image or {}).get("marker", "")
        chat = kind == "chat" or (bool(tokenizer.chat_template) if options.chat is None else options.chat)
        if not chat:
            return self._bare_row(record, turns, pictures, kind, tokenizer, options)
        if not tokenizer.chat_template:
            what = "neither the model's processor nor its tokenizer has a chat template"
            raise RowProblem(
                "messages", what, "put chat_template.jinja into the folder, or write prompt and completion"
            )
        reads = shown_by(tokenizer, marker) if marker else tokenizer
        talk = conversation(reads, turns, tools=parsed_tools(record.get("tools")), system=options.system)
        segments, files, tokens = _expanded(record, talk.segments, pictures, tokenizer, options)
        ids, weights, start = encode_segments(tokenizer, segments)
        said = talk.answer
        if said is None:
            said = tokenizer.decode(spoken(ids, weights, start), skip_special_tokens=True)
        fields: dict[str, Any] = {"kind": kind, "prompt_ids": ids[:start], "reference": said.strip()}
        fields |= {k: n for k, n in (("untrained", talk.untrained), ("nameless", talk.nameless)) if n}
        return _row(record, ids, weights, fields, files, tokens, options)

    def encode_many(self, records: Sequence[Record], tokenizer: Any, options: EncodeOptions) -> list[Row | Exception]:
        """`encode` each record."""
        return Task.encode_many(self, records, tokenizer, options)

    def answer(self, record: Record, text: str, tokenizer: Any, options: EncodeOptions) -> Row:
        """The row of a record with another answer."""
        if "messages" not in record and "prompt" not in record and "label" not in record:
            return self.encode(record.replace(text=text), tokenizer, options)
        return super().answer(record, text, tokenizer, options)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded ids [R, L], which of them are pictures' [R, L], and what the model's processor makes of pictures."""
        batch = super().collate(rows, False, epochs=epochs, seed=seed)
        if rows and isinstance(rows[0], Pair):  # laid out side by side, pictures and all
            return batch
        return batch.replace(inputs={**batch.inputs, **_beside(batch.inputs["input_ids"], [r.fields for r in rows])})

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """Logits only at `batch.positions`, and only when asked for; hidden states are the language model's."""
        return causal_outputs(model, batch.replace(inputs=read_by(model, batch.inputs)), hidden=hidden)

    def asked(self, row: Row) -> Any:
        """The prompt's tokens, and its pictures."""
        ids = Task.asked(self, row)
        return {"prompt_ids": ids, **{k: row.fields[k] for k in ("pictures", "shown") if k in row.fields}}

    def write(
        self, model: nn.Module, tokenizer: Any, prompts: Sequence[Any], max_new_tokens: int, **how: Any
    ) -> list[list[int]]:
        """Answers by the model's own `generate`, to prompts (with pictures, or token ids alone) of like length at once:
        greedily, and without what a generation config says of penalties, unless `how` does.
        """
        asked = [p if isinstance(p, Mapping) else {"prompt_ids": p} for p in prompts]
        generate: Any = model.generate
        plain: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
        plain |= {"temperature": None, "top_p": None, "top_k": None, "pad_token_id": tokenizer.pad_token_id}
        device, answers = next(model.parameters()).device, [list[int]() for _ in prompts]
        for some in _alike([len(p["prompt_ids"]) for p in asked]):
            ids = torch.tensor([list(asked[i]["prompt_ids"]) for i in some])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            inputs |= _beside(ids, [asked[i] for i in some])
            inputs = {k: x.to(device) for k, x in read_by(model, inputs).items()}
            with quietly(), torch.no_grad(), following(model, rows_of_prompts([ids.shape[1]] * len(some))):
                out = generate(**inputs, **{**plain, **how, "max_new_tokens": max_new_tokens})
            for i, wrote in zip(some, out[:, ids.shape[1] :].tolist(), strict=True):
                answers[i] = written(wrote, model, tokenizer)
        return answers

    def _both(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """A pair: the row is the chosen answer's, and its pictures are those of both."""
        sides = []
        for side in ("chosen", "rejected"):
            one = {k: v for k, v in record.items() if k not in ("chosen", "rejected")}
            said = record[side] if side == "chosen" else record.get(side)
            if said is None or not isinstance(record["prompt"], list) and not isinstance(said, str):
                what = "the text is missing" if said is None else f"text is needed, not {type(said).__name__}"
                raise RowProblem(side, what, "write the answer as text, or the prompt as a list of turns, too")
            made = Record({**one, "completion": said}, id=record.id, source=record.source, base=record.base)
            try:
                sides.append(self.encode(made, tokenizer, options))
            except RowProblem as problem:
                field = side if problem.field == "completion" else problem.field
                raise RowProblem(field, problem.reason, problem.remedy) from None
        chosen, rejected = sides
        other = {"rejected_ids": list(rejected.input_ids), "rejected_weights": list(rejected.weights)}
        return chosen.replace(fields={**chosen.fields, **other})

    def _turns_of(self, record: Record, options: EncodeOptions, shown: bool) -> tuple[Any, str]:
        """A record's turns and kind; None for text alone."""
        if "messages" in record:
            return record["messages"], "chat"
        if isinstance(record.get("prompt"), list) and "completion" in record:
            return talk_of(record["prompt"], record["completion"]), "chat"
        if "prompt" in record:
            asked, said, kind = text_of(record, "prompt"), text_of(record, "completion"), "prompt"
        elif "label" in record:
            asked, said, kind = record.get("text") or "", label_text(record["label"], options.labels), "choice"
        elif shown and not options.kept:
            asked, said, kind = "", text_of(record, "text"), "prompt"
        else:
            return None, "plain"
        if options.template:
            if "{completion}" in options.template:
                what = "it holds {completion}, and what a picture is followed by is written by the chat template"
                raise RowProblem("template", what, "write the question alone: template: 'What is in the picture?'")
            if asked.strip() and not re.search(r"{\w+}", options.template):
                what = "it asks the same of every row, and this one has a text of its own"
                raise RowProblem("template", what, "write {prompt} or {text} into it, or leave it out")
            asked = fill(options.template, record, text=asked, prompt=asked)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        system = record.get("system")
        return [{"role": "system", "content": system}, *turns] if isinstance(system, str) and system else turns, kind

    def _bare_row(
        self, record: Record, turns: Any, pictures: Sequence[Any], kind: str, tokenizer: Any, options: EncodeOptions
    ) -> Row:
        """A prompt and its answer without a template: pictures, a line each, then the prompt."""
        *before, last = turns
        texts = ["".join(p["text"] if isinstance(p, Mapping) else p for p in _parts(turn)) for turn in before]
        prompt = "\n\n".join(texts).replace(HOLE, f"{HOLE}\n")
        segments = [(prompt, 0.0), (str(last["content"]), 1.0)]
        segments, files, tokens = _expanded(record, segments, pictures, tokenizer, options)
        ids, weights, start = encode_segments(tokenizer, segments, bos=first_token(tokenizer))
        fields = {"kind": kind, "prompt_ids": ids[:start], "reference": str(last["content"]).strip()}
        return _row(record, [*ids, last_token(tokenizer)], [*weights, 1.0], fields, files, tokens, options)


def _parts(turn: Mapping[str, Any]) -> Sequence[Any]:
    content = turn["content"]
    return [content] if isinstance(content, str) else content


def _expanded(
    record: Record,
    segments: Sequence[Segment],
    pictures: Sequence[Any],
    tokenizer: Any,
    options: EncodeOptions,
) -> tuple[list[Segment], list[bytes], list[str]]:
    """Segments with what stands for each picture, the files, and those texts; pictures that only turns after the last
    answer show are left out with these.
    """
    there, marker = sum(text.count(HOLE) for text, _ in segments), (options.image or {}).get("marker")
    if marker and any(marker in text for text, _ in segments):
        what = f"a text holds {marker}, which stands for a picture"
        if not pictures:
            what, remedy = (
                f"{what}, and the row has none",
                f"add a column images with the picture, or take {marker} out",
            )
            raise RowProblem("images", what, remedy)
        raise RowProblem("prompt", what, "take it out: <image> is the place of a picture")
    seen = []
    for k, picture in enumerate(pictures[:there]):
        try:
            seen.append(opened(picture, record.base))
        except RowProblem as problem:
            which = "image" if len(pictures) == 1 else f"images[{k}]"
            raise RowProblem(which, problem.reason, problem.remedy) from None
    told = tokens_for([p for _, p in seen], tokenizer, options.image or {})
    rest, out = iter(told), []
    for text, weight in segments:
        first, *more = text.split(HOLE)
        out.append((first + "".join(next(rest) + piece for piece in more), weight))
    return out, [file for file, _ in seen], told


def _row(
    record: Record,
    ids: list[int],
    weights: list[float],
    fields: dict[str, Any],
    files: Sequence[bytes],
    told: Sequence[str],
    options: EncodeOptions,
) -> Row:
    """The row, no loss on a picture's token."""
    if not files:
        return _with_none(Row(record.id, record.source, ids, weights, fields=fields))
    image = options.image or {}
    own = set(image["tokens"])
    weights = [0.0 if i in own else w for i, w in zip(ids, weights, strict=True)]
    shown = {k: image[k] for k in ("images", "names", "rowwise", "tokens")}
    count = sum(1 for i in ids if i in own)
    more = {"kind": KIND, "pictures": packed(files), "picture_tokens": count, "shown": shown}
    return Row(record.id, record.source, ids, weights, fields={**fields, **more})


def _with_none(row: Row) -> Row:
    return row.replace(fields={**row.fields, "pictures": packed([]), "picture_tokens": 0})


def _beside(ids: Tensor, fields: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """What a model reads beside token ids [R, L] of rows, by their fields; nothing where no row has a picture."""
    shown = next((f["shown"] for f in fields if "shown" in f), None)
    if shown is None:
        return {}
    none = packed([])
    places = torch.isin(ids, torch.tensor(shown["tokens"])).long()
    return {TOKENS: places, **pixel_inputs([f.get("pictures", none) for f in fields], shown)}


def read_by(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs by the names that a model takes, in its type: which tokens are a picture's is told in two ways, or not."""
    own = dict(inputs)
    if takes(model, TOKENS):  # some ask for it in training, pictures or not
        own.setdefault(TOKENS, torch.zeros_like(own["input_ids"]))
    elif TOKENS in own:
        places = own.pop(TOKENS)
        own |= {"token_type_ids": places} if takes(model, "token_type_ids") else {}
    return in_type(model, own)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in groups of equal length, AT_ONCE at most."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(length, []).append(i)
    return [some[k : k + AT_ONCE] for _, some in sorted(groups.items()) for k in range(0, len(some), AT_ONCE)]
