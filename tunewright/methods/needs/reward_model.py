"""reward_model: one of the recipe's `models` as a judge of samples."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from tunewright.contract.method import Need


class RewardModel(Need):
    """A `training.judging.Judge`: `scores(samples)` gives what the frozen reward model says of each.

    The model is loaded when the stage is checked: one that is not named, that is no reward model, or that cannot read
    the prompts of the training rows is refused before training.
    """

    name: ClassVar[str] = "reward_model"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"
    of_models: ClassVar[bool] = True

    models: tuple[str, ...] = Field(description="which of the recipe's `models`")
    each: bool = Field(False, description="whether it is asked after each token")

    def check(self, run: Any) -> None:
        for name in self.models:
            judge = run.judge(name)
            for row in run.rows.get("train", ())[:1]:
                if judge is not None:
                    judge.check(row, each=self.each)

    def compute(self, run: Any, batch: Any = None) -> Any:
        return {name: run.judge(name) for name in self.models}
