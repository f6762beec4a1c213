"""automatic-speech-recognition: models hear a recording and write its text: Whisper, and CTC models (wav2vec 2.0,
HuBERT).

Rows have `audio` and `text` (`transcription` and `sentence` mean the same). Whisper's text is written behind the tokens
that its model is always given, `<|startoftranscript|>` and `<|notimestamps|>`, of a model of many languages also the
row's `language` and `<|transcribe|>`; these are not trained, the text and its end are. Texts are transcripts in the
language of the recording: translation and time stamps are not trained here. Answers are written by the model's own
`generate`, under its own generation config, several recordings at once.

A CTC model's text must be written in its alphabet. Its likelihood is the text's and not a token's (`_ctc`): methods
with an objective of likelihoods do not serve it.

Recordings are kept and counted as in audio-classification. Errors: RowProblem for a row without a recording that the
model reads, without a text, or in a language that is not told; ModelError for models of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import ModelError
from tunewright.tasks import _ctc
from tunewright.tasks._features import features, of_record
from tunewright.tasks._quietly import quietly
from tunewright.tasks.base import epochs_of, in_type, pad
from tunewright.tasks.text2text_generation import pad_floats, written

AT_ONCE = 8
"""Recordings that are written down at once, at most."""


class AutomaticSpeechRecognition(Task):
    """`fields`: `audio` the samples, `prompt_ids` what stands before the text, `reference` the text, `language`."""

    name: ClassVar[str] = "automatic-speech-recognition"
    auto_class: ClassVar[str] = "AutoModelForSpeechSeq2Seq"
    generates: ClassVar[bool] = True
    reads_files: ClassVar[bool] = True
    reads_audio: ClassVar[bool] = True

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Decode and resample the recording, and encode its text."""
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            what = "the text is missing" if text is None else "the text is empty, or no text"
            remedy = "write what is said, or name its column in the source: columns: {text: your_column}"
            raise RowProblem("text", what, remedy)
        if options.template:
            raise RowProblem("template", "a recording is not put into a text", "take data.template out")
        heard = self.heard(record, tokenizer, options)
        assert options.audio is not None
        if "convolutions" in heard:
            ids = _ctc.text_ids(text.strip(), tokenizer)
            _ctc.check_places(ids, len(heard["audio"]), heard["convolutions"])
            told = {"kind": _ctc.KIND, "targets": ids, "reference": text.strip()}
            return Row(record.id, record.source, ids, [1.0] * len(ids), fields={**told, **heard})
        prompt = heard["prompt_ids"]
        # texts are cut into pieces as they are read: a word inside a text has its space before it
        ids = list(tokenizer(" " + text.strip(), add_special_tokens=False, verbose=False)["input_ids"])
        ids = [*prompt, *ids, tokenizer.eos_token_id]
        if len(ids) > (most := options.audio["most"]):
            what = f"the text has {len(ids):,} tokens, and the model writes {most:,}"
            raise RowProblem("text", what, "cut the recording and its text into pieces")
        weights = [0.0] * len(prompt) + [1.0] * (len(ids) - len(prompt))
        fields = {"kind": "speech", "reference": text.strip(), **heard}
        return Row(record.id, record.source, ids, weights, fields=fields)

    def heard(self, record: Record, tokenizer: Any, options: EncodeOptions) -> dict[str, Any]:
        """What a row keeps of its recording, and of how its text begins: all that `asked` needs, without the text."""
        kept = of_record(record, options.audio)
        assert options.audio is not None
        if (convolutions := options.audio["convolutions"]) is not None:
            return {**kept, "convolutions": convolutions}
        several = options.audio["multilingual"]
        language = _language(record, tokenizer, several)
        return {**kept, "prompt_ids": _prompt(tokenizer, language if several else None), "language": language}

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """What the feature extractor makes [R, ...]; `fields["decoder_ids"]` [R, M] the text up to each token.
        Positions count in [R * M].
        """
        if rows[0].fields["kind"] == _ctc.KIND:
            return _ctc.collate(rows, epochs)
        ids, mask = pad([row.input_ids[:-1] for row in rows])
        following, _ = pad([row.input_ids[1:] for row in rows])
        weights, _ = pad_floats([row.weights[1:] for row in rows])
        owner, place = (weights > 0).nonzero(as_tuple=True)
        recordings = [r.fields["audio"] for r in rows]
        return Batch(
            inputs=features(recordings, rows[0].fields["extractor"]),
            labels=following[owner, place],
            weights=weights[owner, place],
            rows=owner,
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=sum(r.size for r in rows),
            positions=owner * ids.shape[1] + place,
            epochs=epochs_of(rows, epochs),
            fields={"decoder_ids": ids, "prompt_lengths": torch.tensor([len(r.fields["prompt_ids"]) for r in rows])},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V] at the decoder's places; `hidden` are the decoder's states [R, M, D]. Of a CTC model
        `log_probs` alone, and the encoder's states.
        """
        if "places" in batch.fields:
            return _ctc.forward(model, batch, hidden=hidden)
        assert batch.positions is not None
        inputs = {**in_type(model, batch.inputs), "decoder_input_ids": batch.fields["decoder_ids"], "use_cache": False}
        out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
        logits = out.logits.flatten(0, 1)[batch.positions]
        return Outputs(logits, batch.labels, hidden=out.decoder_hidden_states if hidden else None, raw=out)

    def loads_by(self, config: Any) -> str:
        """CTC's class for models that have one of it and none that writes."""
        return "AutoModelForCTC" if _is_ctc(config) else self.auto_class

    def compared(self, config: Any) -> Task:
        """Of a CTC model the task of its places: a text's tokens have no distributions."""
        return _ctc.Places() if _is_ctc(config) else self

    def asked(self, row: Row) -> Any:
        """The recording, and what stands before its text, and its language, where a model is given these."""
        names = ("audio", "extractor", "prompt_ids", "language", "convolutions")
        return {k: row.fields[k] for k in names if k in row.fields}

    def write(
        self, model: nn.Module, tokenizer: Any, prompts: Sequence[Any], max_new_tokens: int, **how: Any
    ) -> list[list[int]]:
        """Texts of recordings by the model's own `generate`, AT_ONCE of them at a time; of a CTC model as it is."""
        if prompts and "convolutions" in prompts[0]:
            return _ctc.said(model, prompts, AT_ONCE)
        generate: Any = model.generate
        config: Any = model.config
        if getattr(model.generation_config, "no_timestamps_token_id", None) is None:
            what = f"{type(model).__name__} does not say how its texts begin (no_timestamps_token_id)"
            raise ModelError(
                what, where="generation_config.json", remedy="copy the file from the model it was made from"
            )
        first = next(model.parameters())
        answers: list[list[int]] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            heard = in_type(model, features([p["audio"] for p in some], some[0]["extractor"]))
            room = config.max_target_positions - max(len(p["prompt_ids"]) for p in some)
            settings = {
                "do_sample": False,
                "return_timestamps": False,
                **how,
                "max_new_tokens": min(max_new_tokens, room),
            }
            if len(some[0]["prompt_ids"]) > 2:
                settings |= {"language": [p["language"] for p in some], "task": "transcribe"}
            with quietly():
                out = generate(**{k: x.to(first.device) for k, x in heard.items()}, **settings)
            before = [len(p["prompt_ids"]) for p in some]
            for asked, ids, n in zip(some, out.tolist(), before, strict=True):
                own = ids[n:] if ids[:n] == list(asked["prompt_ids"]) else ids
                answers.append(written(own, model, tokenizer))
        return answers

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`wer_english` where all rows are in English, else `wer`."""
        english = all(row.fields.get("language") == "en" for row in rows)
        return "wer_english" if english else "wer"


def _is_ctc(config: Any) -> bool:
    import transformers

    writes = type(config) in transformers.AutoModelForSpeechSeq2Seq._model_mapping
    return not writes and type(config) in transformers.AutoModelForCTC._model_mapping


@lru_cache(maxsize=1)
def _codes() -> dict[str, str]:
    """Names and codes of Whisper's languages -> their codes."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    return {**TO_LANGUAGE_CODE, **{code: code for code in LANGUAGES}}


def _language(record: Record, tokenizer: Any, multilingual: bool) -> str:
    """The code of a row's language; "en" for a model that knows English alone."""
    told = record.get("language", getattr(tokenizer, "language", None) if multilingual else "en")
    code = _codes().get(told.strip().lower()) if isinstance(told, str) else None
    if told is None:
        what = "the model writes many languages, and the row does not name its own"
        raise RowProblem("language", what, "add a column language: en, de, french ...")
    if code is None or not multilingual and code != "en":
        known = (
            "Whisper knows codes and names such as de and german" if multilingual else "the model writes English alone"
        )
        raise RowProblem("language", f"{told!r:.40} is no language that the model writes", known)
    return code


def _prompt(tokenizer: Any, language: str | None) -> list[int]:
    """The tokens before a text. RowProblem where the tokenizer has no such tokens."""
    names = ["<|startoftranscript|>", "<|notimestamps|>"]
    if language is not None:
        names[1:1] = [f"<|{language}|>", "<|transcribe|>"]
    ids = [tokenizer.convert_tokens_to_ids(name) for name in names]
    for name, i in zip(names, ids, strict=True):
        if i is None or i == tokenizer.unk_token_id and name != tokenizer.unk_token:
            what = f"the tokenizer has no {name}"
            raise RowProblem("text", what, "use a Whisper model with its own tokenizer")
    return ids
