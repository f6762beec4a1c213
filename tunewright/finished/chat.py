"""The verb `chat`: base and tuned answer the same messages, side by side in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.contract.records import Record, RowProblem
from tunewright.errors import MethodError
from tunewright.finished.finished import Finished, open_run
from tunewright.loading.quiet import quiet
from tunewright.machine.terminal import AskedToEnd
from tunewright.measure.generate import greedy, stop_ids
from tunewright.models.context import following, rows_of_prompts
from tunewright.models.generators import seeded
from tunewright.report.terminal_cells import clean

HELP = """\
/temp T      0 answers greedily (the start), 0.7 draws at that temperature
/strength S  how far from base (0) to tuned (1), or past it, the right side is dialled
/tokens N    longest answer, in tokens
/new         forget the conversation
/quit        end"""

_MESSAGE = "message"  # what is wrong with a line that was typed, and not with the conversation
_IN_BYTES = ("\udc80", "\udcff")
"""What Python reads bytes as that are no UTF-8, from and to."""

EXAMPLES = {"temp": "/temp 0.7", "strength": "/strength 0.5", "tokens": "/tokens 128"}


@dataclass
class Chat:
    """A conversation with both sides of one run. Each side remembers its own answers; draws are seeded by the turn."""

    run: Finished
    temperature: float = 0.0
    strength: float = 1.0
    tokens: int = 128
    turns: dict[str, list[dict[str, str]]] = field(default_factory=lambda: {"base": [], "tuned": []})
    count: int = 0

    def answer(self, text: str, sides: Sequence[str] = ("base", "tuned")) -> dict[str, str]:
        """Each side's answer to a message, by side. RowProblem where the chat template refuses it, or the model has no
        room for it.
        """
        self.count += 1
        answers = {}
        for side in sides:
            strength = self.strength if side == "tuned" else 0.0
            prompt = self._fitting(side, text)
            most = self._most(prompt)
            with self.run.adapted.evaluating(), self.run.adapted.at_strength(strength) as model:
                ids = self._generate(
                    self.run.adapted.wrapper if side == "tuned" and self.run.adapted.wrapper is not None else model,
                    prompt,
                    most,
                )
            answers[side] = self.run.tokenizer.decode(ids, skip_special_tokens=True).strip()
        for side, said in answers.items():
            self.turns[side] += [
                {"role": "user", "content": self._wrapped(text)},
                {"role": "assistant", "content": said},
            ]
        return answers

    @property
    def talks(self) -> bool:
        """Whether messages go through a chat template, so that earlier turns can be shown to the model."""
        chat, options = bool(self.run.tokenizer.chat_template), self.run.options
        whole = bool(options.template and "{completion}" in options.template)
        return (chat if options.chat is None else options.chat) and not whole

    def _wrapped(self, text: str) -> str:
        """The message as training would have shown it: in the recipe's template, where it asks for nothing but the
        text.
        """
        try:
            return self.run.options.template.format(text=text, prompt=text) if self.run.options.template else text
        except (KeyError, IndexError):
            return text

    def _fitting(self, side: str, text: str) -> list[int]:
        """The prompt, with the oldest turns forgotten where the model has no room for all and an answer."""
        prompt = self._prompt(self.turns[side], text)
        while self._room and self.talks and self.turns[side] and len(prompt) + self.tokens > self._room:
            del self.turns[side][:2]
            prompt = self._prompt(self.turns[side], text)
        return prompt

    @property
    def _room(self) -> int | None:
        """Tokens that the model has places for, prompt and answer; None where nothing says so."""
        config: Any = self.run.loaded.model.config
        room: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
        return room if room is not None and room > 0 else None  # -1: as many as one likes

    def _most(self, prompt: list[int]) -> int:
        """The longest answer that has room behind a prompt. RowProblem where there is none."""
        if self._room is None or not self.run.task.continues:
            return self.tokens
        if len(prompt) >= self._room:
            what = (
                f"the message takes {len(prompt):,} tokens, and the model has room for {self._room:,} with the answer"
            )
            raise RowProblem(_MESSAGE, what, "shorten it")
        return min(self.tokens, self._room - len(prompt))

    def _prompt(self, turns: list[dict[str, str]], text: str) -> list[int]:
        """Token ids up to where the answer begins, encoded by the task as rows of the data are."""
        if self.talks:
            before = [
                {**t, "weight": 0.0} if t["role"] == "assistant" else t
                for t in turns
                if t["content"] or t["role"] == "user"
            ]
            values: dict[str, Any] = {
                "messages": [
                    *before,
                    {"role": "user", "content": self._wrapped(text)},
                    {"role": "assistant", "content": "-"},
                ]
            }
        else:
            values = {"prompt": text, "completion": "-"}
        row = self.run.task.encode(Record(values, id="chat"), self.run.tokenizer, self.run.options)
        return list(row.fields["prompt_ids"])

    def _generate(self, model: Any, prompt: list[int], most: int) -> list[int]:
        if not self.run.task.continues:
            drawn = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0, "num_beams": 1}
            with torch.no_grad(), seeded(self.count), quiet():
                how = drawn if self.temperature else {}
                return self.run.task.write(model, self.run.tokenizer, [prompt], most, **how)[0]
        if self.temperature == 0:
            return greedy(model, self.run.tokenizer, [prompt], most)[0]
        ends = stop_ids(model, self.run.tokenizer)
        inputs = torch.tensor([prompt], device=next(model.parameters()).device)
        with torch.no_grad(), seeded(self.count), quiet(), following(model, rows_of_prompts([len(prompt)])):
            out = model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=most,
                do_sample=True,
                temperature=self.temperature,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,
                eos_token_id=list(ends) or None,
                pad_token_id=self.run.tokenizer.pad_token_id,
            )
        return [t for t in out[0, len(prompt) :].tolist() if t not in ends]


def chat(
    run_dir: Path | str, *, lines: TextIO | None = None, console: Console | None = None, as_json: bool = False
) -> None:
    """Talk until /quit or the end of input. Reads `lines`, standard input by default (one message a line). `as_json`:
    answers go to standard output, a JSON object a line, and all else to standard error.

    FolderError for an unfinished run, MethodError for a model that writes no text.
    """
    run = open_run(run_dir)
    if not run.task.generates or run.task.reads_audio:
        why = "reads recordings and no text" if run.task.reads_audio else "writes no text"
        raise MethodError(
            f"a model of {run.task.name} {why}, so there is nothing to talk to",
            where=str(run_dir),
            remedy=f"its answers to the evaluated rows are in report.html; tunewright export {run_dir} writes a folder "
            "that its own library asks",
        )
    console = console or Console(highlight=False, emoji=False, stderr=as_json)
    talk = Chat(run)
    console.print(f"base: {run.loaded.name}; tuned: {run.folder}. /help lists the commands, /quit ends.", markup=False)
    if not talk.talks:
        console.print("(there is no chat template: each message is answered alone)", markup=False)
    for line in _messages(lines, console):
        if line in ("/quit", "/exit"):
            return
        if line.startswith("/"):
            console.print(_command(talk, line), markup=False)
        elif line:
            try:
                if any(_IN_BYTES[0] <= c <= _IN_BYTES[1] for c in line):
                    raise RowProblem(_MESSAGE, "the line is no UTF-8", "write it in UTF-8: nothing was answered")
                answers = talk.answer(line)
                if as_json:
                    told = {"prompt": line, **answers, "strength": talk.strength}
                    print(json.dumps(told, ensure_ascii=False), flush=True)
                else:
                    console.print(_side_by_side(talk, answers))
            except RowProblem as problem:
                again = "" if problem.field == _MESSAGE else "; /new begins again"
                console.print(f"{problem.reason} -> {problem.remedy}{again}", markup=False)
            except AskedToEnd:
                raise
            except KeyboardInterrupt:  # of one answer; at the prompt it ends the conversation
                console.print("(stopped)", markup=False)


def _messages(lines: TextIO | None, console: Console) -> Iterator[str]:
    source = lines or sys.stdin
    if source is not sys.stdin or not sys.stdin.isatty():
        for line in source:
            console.print(Text(f"> {clean(line.strip())}"), style="bold")
            yield line.strip()
        return
    with suppress(ImportError):  # Windows edits lines by itself
        import readline  # noqa: F401 - input() gets history and line editing by it

    while True:
        try:
            yield input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def _command(talk: Chat, line: str) -> str:
    """Obey a command; what it did, or what it takes."""
    name, _, value = line[1:].partition(" ")
    if name == "new":
        talk.turns = {"base": [], "tuned": []}
        return "a new conversation"
    if name not in ("temp", "strength", "tokens"):
        return HELP if name == "help" else f"there is no command /{name}\n{HELP}"
    try:
        number = float(value)
        if not 0 <= number < float("inf") or (name == "tokens" and (number < 1 or number != int(number))):
            raise ValueError(value)
    except ValueError:
        return (
            f"/{name} takes a number{' of at least 1' if name == 'tokens' else ' of at least 0'}, as in "
            f"{EXAMPLES[name]}"
        )
    if name == "temp":
        talk.temperature = number
        return f"temperature {number:g}" if number else "greedy"
    if name == "strength":
        talk.strength = number
        return f"strength {number:g}" + (", past the tuned model (1)" if number > 1 else "")
    talk.tokens = int(number)
    return f"at most {talk.tokens} tokens"


def _side_by_side(talk: Chat, answers: dict[str, str]) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("base", ratio=1, overflow="fold")
    table.add_column(
        "tuned" if talk.strength == 1 else f"tuned at strength {talk.strength:g}", ratio=1, overflow="fold"
    )
    table.add_row(
        *(Text(clean(answers[side]) or "(nothing)", style="" if answers[side] else "dim") for side in ("base", "tuned"))
    )
    return table
