"""MSGCoOp: several contexts in the place of a prompt's words, near to what is known of each class and apart from one
another (papers: msgcoop).

A model of two towers (CLIP and its kin) stays as it is. Contexts V_p [n, W], p = 1 .. P, shared by all classes, are
read before each text, behind its beginning token; t_pc [D] is what the text tower gives of class c behind V_p, x [D] a
picture, both hats of length 1, s the model's scale:

    logits [R, C]   mean over p of s <x^, t^_pc>
    semantic        1 - mean over c of cos(mean over p of t_pc, d_c)
    diversity       mean over c and p < q of cos(t_pc, t_qc)^2
    loss            cross-entropy of a picture among all C texts of the stage's rows + w semantic + v diversity    [R]

d_c is what the model, as the stage finds it, gives of "a photo of {class}, {description}": the mean of the vectors of
length 1 of all of the class's `descriptions`. Without any it is the vector of the words before the class ("a photo of
a cat."), so that P = 1 and v = 0 is KgCoOp. Rows of any classes are answered behind the contexts, others than those of
training too; the mean of the cosines is one product of vectors P D long, so that every metric reads it. Let texts be
the classes alone: `data: {template: "{label}."}`. A step reads P texts a class.

Start: each context at the embeddings of `words`, and normal noise on it: copies that are alike have the same gradient
and stay alike, since cos^2 is flat where vectors agree. Defaults: P 4, "a photo of a", w 8, v 1 (the authors' scripts
and paper); noise 0.02, the deviation of their random start, is ours, and so is the rate: 2e-3, theirs under SGD. The
change does not fold.
Raises MethodError for words that are no token or leave texts no place, texts that begin with them already, fewer than
two texts, and classes that `descriptions` does not name.
Differs from the paper in: the noise (there copies start alike, and rounding alone parts them); descriptions are the
user's (there GPT-4.1's); other families of two towers.
Source: Rain-Bus/MSGCoOp, MSGCoOp/trainers/msgcoop.py, train.py and scripts (read, not run).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup, State, torch_generator
from tunewright.errors import MethodError, did_you_mean
from tunewright.methods.needs.row_texts import RowTexts, Text
from tunewright.models.adapted import Adapted
from tunewright.models.modes import evaluating
from tunewright.models.text_contexts import InContexts, padded, side_by_side, text_features
from tunewright.pieces.class_texts import check_several, check_words, own_text, words_at

NAME = "msgcoop"
DESCRIBED = "a photo of {}, {}"
"""What is made of a class and a description of it."""


def alike(features: Tensor) -> Tensor:
    """[] mean over classes and pairs of contexts of the squared cosine of features [P, C, D]; 0 for one context."""
    unit = normalize(features, dim=-1)
    pairs = [(a * b).sum(-1).square().mean() for a, b in itertools.combinations(unit, 2)]
    return torch.stack(pairs).mean() if pairs else features.new_zeros(())


def away(features: Tensor, targets: Tensor) -> Tensor:
    """[] 1 - the mean over classes of the cosine of the contexts' mean, of features [P, C, D], and targets [C, D]."""
    return 1 - cosine_similarity(features.mean(0), targets, dim=-1).mean()


class MSGCoOp(Method):
    """Several learnt contexts before each class's name, held to descriptions and apart."""

    contexts: PositiveInt = Field(4, description="P, contexts whose logits are averaged", examples=[2])
    words: str = Field(
        "a photo of a",
        description="words that each context stands for and starts at, a vector a token",
        examples=["red"],
    )
    noise: PositiveFloat = Field(0.02, description="deviation of the noise on each context's start", examples=[0.5])
    semantic: NonNegativeFloat = Field(8.0, description="w, weight of the distance from the targets", examples=[0.0])
    diversity: NonNegativeFloat = Field(1.0, description="v, weight of the contexts' likeness", examples=[9.0])
    descriptions: dict[str, tuple[str, ...]] | None = Field(
        None,
        description="what is known of each class, by its text without a stop at its end; none: the words alone",
        examples=[{"red": ["warm", "like blood"]}],
    )

    category: ClassVar[str] = "prompt"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 2e-3}
    tasks: ClassVar[tuple[str, ...] | None] = ("zero-shot-image-classification",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)

    def needs(self) -> tuple[Need, ...]:
        return (RowTexts(),)

    def setup(self, run: Setup) -> State:
        words, after = words_at(self.words, run.adapted, f"{NAME}.words")
        start = words.expand(self.contexts, -1, -1)
        drawn = torch.randn(start.shape, generator=torch_generator(run.rng)).to(start.device)
        state = State(after=after, classes=[], keys=[])
        state.register_parameter("contexts", nn.Parameter(start + self.noise * drawn))
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return InContexts(
            model, lambda: state.get_parameter("contexts"), lambda: state.data["classes"], state.data["after"]
        )

    def begin_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        texts: list[Text] = needs.row_texts
        check_several(texts)
        check_words([t.words for t in texts], self.words)
        state.data |= {"classes": [list(t.ids) for t in texts], "keys": [t.key for t in texts]}
        with torch.no_grad(), evaluating(adapted.model):
            targets = [self._known(t.words, adapted) for t in texts]
        state.set_buffer("targets", torch.stack(targets))

    def _known(self, words: str, adapted: Adapted) -> Tensor:
        """[D] what a class's contexts are held to."""
        said = [f"{self.words} {words}"]
        if self.descriptions is not None:
            name = words.rstrip(" .")
            if not self.descriptions.get(name):
                raise MethodError(
                    f"'{name}' has no description",
                    where=f"{NAME}.descriptions",
                    remedy=did_you_mean(name, self.descriptions),
                )
            said = [DESCRIBED.format(name, one) for one in self.descriptions[name]]
        model: Any = adapted.model
        longest = int(model.config.get_text_config().max_position_embeddings)
        ids = adapted.tokenizer(said, truncation=True, max_length=longest)["input_ids"]
        return normalize(text_features(model, padded(model.config, ids, adapted.device)).float(), dim=-1).mean(0)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        features = outputs.raw.class_features.float()
        assert outputs.features is not None
        wanted = own_text(batch, state.data["keys"])
        own = cross_entropy(outputs.features @ side_by_side(features).T, wanted, reduction="none")
        distance, likeness = away(features, state.get_buffer("targets")), alike(features)
        logs = {"semantic": distance.expand_as(own), "diversity": likeness.expand_as(own)}
        return Loss(own + self.semantic * distance + self.diversity * likeness, logs=logs)
