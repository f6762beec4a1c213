"""A run's folder, opened from Python: what it measured, and its models to work with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tunewright.errors import FolderError, MethodError
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs.folder import RECIPE, ROWS, RunFolder
from tunewright.runs.result import Result

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tunewright.finished.adapting import Adapting
    from tunewright.finished.chat import Chat
    from tunewright.finished.finished import Finished


class Run:
    """A run in a folder. Figures are read when they are asked for; weights are loaded by `model`, `base`, `tokenizer`,
    `generate` and `chat` alone. FolderError for a folder that is no run's, and for what an unfinished one lacks.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        if not (self.folder / RECIPE).exists():
            raise FolderError(
                "this is no run's folder", where=str(folder), remedy="name a folder that `tunewright run` made"
            )

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; `tunewright.resume` goes on with one that did not."""
        return (self.folder / "report.json").exists()

    @cached_property
    def recipe(self) -> Recipe:
        """The run's own recipe, with every default written out."""
        return Recipe.load(self.folder / RECIPE)

    @cached_property
    def report(self) -> Report:
        """What report.json holds: target, kept, drift, trade, cost, each with its intervals."""
        return Report.load(self.folder)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every logged step, in order: stage, step, loss (nats per token), learning_rate, tokens_per_second ..."""
        return RunFolder(self.folder).metrics()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every evaluated row: id, source, prompt, base, tuned, reference, base_score, tuned_score."""
        from tunewright.measure.rows import read_rows

        path = self.folder / ROWS
        return [row.model_dump() for row in read_rows(path)] if path.is_file() else []

    def model(self) -> PreTrainedModel:
        """The tuned model in evaluation mode, as it was trained: its change lies beside the base's weights (`export`
        writes plain ones). The same object each time.
        """
        adapted = self._loaded.adapted
        tuned: Any = adapted.wrapper if adapted.wrapper is not None else adapted.model
        return tuned  # type: ignore[no-any-return]

    def base(self) -> PreTrainedModel:
        """The untouched base in evaluation mode: a second model in memory, the same object each time."""
        return self._base

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What reads both models' text."""
        return self._loaded.tokenizer  # type: ignore[no-any-return]

    @overload
    def generate(
        self, prompts: str, *, max_new_tokens: int = ..., temperature: float = ..., strength: float = ...
    ) -> str: ...

    @overload
    def generate(
        self, prompts: list[str], *, max_new_tokens: int = ..., temperature: float = ..., strength: float = ...
    ) -> list[str]: ...

    def generate(
        self,
        prompts: str | dict[str, Any] | list[str] | list[dict[str, Any]],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        strength: float = 1.0,
    ) -> str | list[str]:
        """Answers to prompts, each alone, through the template that training used; of speech recognition the texts of
        recordings, given as paths, or as a mapping of the columns that a row has (`audio`, `language`); to pictures as
        such a mapping (`prompt` and `image`, or `messages` and `images`).

        `temperature`: 0 answers greedily; above it draws, the same ones each time. `strength`: 0 is the base, 1 the
        tuned model, between them the change dialled down. MethodError for a model that writes no text.
        """
        if hasattr(self._loaded.task, "heard"):
            from tunewright.finished.hearing import written_down

            several = [prompts] if isinstance(prompts, str | dict) else prompts
            texts = written_down(self._loaded, several, max_new_tokens, temperature, strength)
            return texts[0] if isinstance(prompts, str | dict) else texts
        if isinstance(prompts, dict) or any(isinstance(p, dict) for p in prompts):
            from tunewright.finished.seeing import answered

            rows = [prompts] if isinstance(prompts, dict) else prompts
            told = answered(self._loaded, rows, max_new_tokens, temperature, strength)
            return told[0] if isinstance(prompts, dict) else told
        if isinstance(prompts, str):
            return self._answer(prompts, max_new_tokens, temperature, strength)
        return [self._answer(str(p), max_new_tokens, temperature, strength) for p in prompts]

    def chat(self, *, max_new_tokens: int = 128, temperature: float = 0.0, strength: float = 1.0) -> Chat:
        """A new conversation with base and tuned side by side: `chat.answer(text)` gives {"base", "tuned"}.

        MethodError for a model that writes no text.
        """
        from tunewright.finished.chat import Chat

        if not self._loaded.task.generates or self._loaded.task.reads_audio:
            why = "reads recordings and no text" if self._loaded.task.reads_audio else "writes no text"
            raise MethodError(
                f"a model of {self._loaded.task.name} {why}",
                where=str(self.folder),
                remedy="call model() on inputs of your own",
            )
        return Chat(self._loaded, temperature=temperature, strength=strength, tokens=max_new_tokens)

    def adapting(self, method: str, *, reset: str | None = None, guard: float | None = 0.9, **params: Any) -> Adapting:
        """The tuned model on a stream of inputs, adapted by `method` while it answers: a context whose `answer(batch)`
        gives classes. `params` are the method's; `reset` and `guard` as in a recipe's `test_time`.

        MethodError for a model that has no classes, or a method that does not adapt.
        """
        from tunewright.finished.adapting import Adapting
        from tunewright.measure.adapting import Guard
        from tunewright.recipe import MethodUse

        return Adapting(self._loaded, MethodUse(name=method, params=params), reset, Guard(guard))

    def _answer(self, prompt: str, tokens: int, temperature: float, strength: float) -> str:
        talk = self.chat(max_new_tokens=tokens, temperature=temperature, strength=strength)
        return talk.answer(prompt, sides=("tuned",))["tuned"]

    @cached_property
    def _loaded(self) -> Finished:
        from tunewright.finished.finished import open_run

        return open_run(self.folder)

    @cached_property
    def _base(self) -> Any:
        from tunewright.finished.finished import load_base

        return load_base(self.recipe).model

    def __str__(self) -> str:
        return str(self._result()) if self.finished else repr(self)

    def __repr__(self) -> str:
        return f"<Run {self.folder}{'' if self.finished else ': not finished'}>"

    def _repr_html_(self) -> str | None:
        return self._result()._repr_html_() if self.finished else None

    def _result(self) -> Result:
        return Result(self.folder, self.report)
