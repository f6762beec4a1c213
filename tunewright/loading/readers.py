"""What makes a model's inputs: its tokenizer, what prepares pictures, what makes features of recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.errors import ModelError
from tunewright.loading.guard import (
    check_ids,
    said,
)
from tunewright.loading.locate import Located
from tunewright.loading.picture_reader import picture_reader
from tunewright.loading.pipeline_parts import tokenizer_of
from tunewright.loading.quiet import quiet
from tunewright.loading.sentence_modules import longest as sentence_length
from tunewright.loading.sentence_modules import pools_texts
from tunewright.tasks._parts import FORECASTING, PLAYING
from tunewright.tasks._pictures import sees_alone
from tunewright.tasks._render import dated

if TYPE_CHECKING:
    from tunewright.contract.task import Task


def readers(located: Located, task: Task, config: Any = None) -> tuple[Any, Any]:
    """Tokenizer and image processor or feature extractor, as the task needs; of pictures in texts a `PictureReader`.
    ModelError when a text model has no tokenizer, or a model of recordings no feature extractor.
    """
    import transformers

    with quiet():
        extractor = _extractor(located) if task.reads_audio else None
        if task.reads_audio and not task.generates:
            return None, extractor
        if task.is_a(FORECASTING) or task.is_a(PLAYING):
            return None, None
        if task.draws:
            return tokenizer_of(located, config), None
        pictures = _pictures(located) if task.reads_files and not task.reads_audio else None
        if sees_alone(task):
            return None, pictures
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                located.folder, trust_remote_code=False, local_files_only=True
            )
        except Exception as e:  # tokenizers raises bare Exception for a damaged tokenizer.json
            files = [
                n
                for n in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
                if (located.folder / n).exists()
            ]
            absent = "there is no tokenizer (tokenizer.json and tokenizer_config.json)"
            what = f"the tokenizer cannot be read from {files[0]}: {said(e)}" if files else absent
            raise ModelError(
                what, where=str(located.folder), remedy="copy the tokenizer files of the model that it was made from"
            ) from e
        check_ids(tokenizer, located.folder)
        if task.generates and (note := dated(tokenizer)):
            located.notes.append(note)
        longest = tokenizer.model_max_length
        if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest > 0:
            raise ModelError(
                f"model_max_length is {longest!r:.60}, no number of tokens",
                where=str(located.folder / "tokenizer_config.json"),
                remedy="write the longest text in tokens, or take the line out",
            )
        if pools_texts(task) and (most := sentence_length(located.folder)):
            tokenizer.model_max_length = min(most, int(min(longest, 1 << 30)))
        if task.auto_class == "AutoModelForImageTextToText":
            return tokenizer, picture_reader(located, config, tokenizer, pictures)
        return tokenizer, extractor or pictures


def _pictures(located: Located) -> Any:
    """What prepares pictures; None, with a note, where the model says nothing of it. ModelError where it cannot be
    read.
    """
    import transformers

    told = [n for n in ("preprocessor_config.json", "processor_config.json") if (located.folder / n).exists()]
    if not told:
        located.notes.append("no preprocessor_config.json: images are scaled as the task's defaults say")
        return None
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            located.folder, trust_remote_code=False, local_files_only=True, backend="pil"
        )
    except Exception as e:
        raise ModelError(
            f"the image processor cannot be read: {said(e)}",
            where=str(located.folder / told[0]),
            remedy="download the model again, or remove the file: images are then scaled as the task's defaults say",
        ) from e


def _extractor(located: Located) -> Any:
    """What makes features of recordings. ModelError where there is none, or it cannot be read."""
    import transformers

    told = [n for n in ("preprocessor_config.json", "processor_config.json") if (located.folder / n).exists()]
    if not told:
        raise ModelError(
            "there is no preprocessor_config.json, which says how recordings are made into features",
            where=str(located.folder),
            remedy="copy it from the model that this one was made from",
        )
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(
            located.folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as e:
        raise ModelError(
            f"the feature extractor cannot be read: {said(e)}",
            where=str(located.folder / told[0]),
            remedy="download the model again",
        ) from e
