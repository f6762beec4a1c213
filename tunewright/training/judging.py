"""A reward model at work: what samples of the trained model are worth, in batches, each different one read once.

A judge of the same vocabulary reads the very tokens that were sampled. Another reads the text: the prompt and the
answer, encoded as its own rows were (`task: reward-modeling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.errors import MethodError
from tunewright.measure._kv import batches_by_length
from tunewright.measure._mode import device_of, measuring
from tunewright.models.adapted import Adapted
from tunewright.tasks.reward_modeling import RewardModeling
from tunewright.training.rollouts import Sample

BATCH_TOKENS = 2048
BATCH_ROWS = 64


@dataclass
class Judge:
    """A frozen reward model. `tokenizer` is that of the model whose samples it reads; `options` say how it was taught
    to read. `read` counts the sequences that it has read.
    """

    name: str
    adapted: Adapted
    tokenizer: Any
    options: EncodeOptions = field(default_factory=EncodeOptions)
    read: int = 0

    @property
    def same_tokens(self) -> bool:
        """Whether it has the vocabulary of the model that it judges."""
        own = self.adapted.tokenizer
        return own is None or self.tokenizer is None or own.get_vocab() == self.tokenizer.get_vocab()

    def check(self, row: Row, *, each: bool) -> None:
        """MethodError where answers to such a row cannot be read by it."""
        if self.same_tokens:
            return
        if each:
            raise MethodError(
                f"'{self.name}' has another tokenizer, so that it has no score after each sampled token",
                where=f"models.{self.name}",
                remedy="write partial: none, or take a reward model with the tokenizer of the trained model",
            )
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        if special & set(row.fields.get("prompt_ids", ())[1:]):
            raise MethodError(
                f"'{self.name}' has another tokenizer, and the prompt went through a chat template, which is no text "
                "that it knows",
                where=f"models.{self.name}",
                remedy="write data.chat: false, or take a reward model with the tokenizer of the trained model",
            )

    def scores(self, samples: Sequence[Sample], *, each: bool = False) -> list[list[float]]:
        """The score of each sample [1] or, with `each`, of its prompt and after each of its tokens [1 + tokens].

        Equal samples are read once. Batches are formed of the samples alone, so that a resumed run gets the same bits.
        """
        keys = [(tuple(s.prompt.fields["prompt_ids"]), s.ids) for s in samples]
        first = {key: s for key, s in zip(reversed(keys), reversed(samples), strict=True)}
        distinct = list(dict.fromkeys(keys))
        rows = [self._row(first[key], each) for key in distinct]
        found: list[list[float]] = [[] for _ in rows]
        task, model = RewardModeling(), self.adapted.outer
        with measuring(model):
            for indices in batches_by_length([row.size for row in rows], BATCH_TOKENS, BATCH_ROWS):
                batch = task.collate([rows[i] for i in indices]).to(device_of(model))
                scores = task.forward(model, batch).scores
                assert scores is not None
                for k, score in zip(batch.rows.tolist(), scores.tolist(), strict=True):
                    found[indices[k]].append(score)
        self.read += len(rows)
        by_key = dict(zip(distinct, found, strict=True))
        return [self._whole(by_key[key], len(key[1]), each) for key in keys]

    @staticmethod
    def _whole(scores: list[float], tokens: int, each: bool) -> list[float]:
        """As many scores as there are tokens: an end that the judge takes for padding changes nothing."""
        return [*scores, *[scores[-1]] * (1 + tokens - len(scores))] if each else scores

    def _row(self, sample: Sample, each: bool) -> Row:
        prompt = sample.prompt.fields["prompt_ids"]
        if self.same_tokens:
            row_id = f"{sample.prompt.id}#{sample.number}"
            own, ids = self.adapted.tokenizer, list(sample.ids)
            if not sample.log_probs and own is not None and own.eos_token_id is not None:
                ids.append(own.eos_token_id)  # a text that was not drawn here comes without its end
            return RewardModeling().ends(row_id, prompt, ids, own, each=each)
        self.check(sample.prompt, each=each)
        asked = self.tokenizer.decode(prompt, skip_special_tokens=True)
        said = {"prompt": asked, "completion": sample.text or " ", "score": 0.0}
        try:
            return RewardModeling().encode(Record(said, id=sample.prompt.id), self.adapted.tokenizer, self.options)
        except RowProblem:  # nothing that it can read was said: it is read as an empty answer
            ids = self.adapted.tokenizer(asked, verbose=False)["input_ids"]
            return RewardModeling().ends(sample.prompt.id, ids, (), self.adapted.tokenizer, each=False)
