"""Hidden states where a task predicts, and how far a student's features are from a teacher's. N places, D features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Outputs
from tunewright.errors import MethodError
from tunewright.pieces.means import row_means, token_means


def states_at(outputs: Outputs, batch: Batch, layer: int) -> Tensor:
    """[N, D] of one layer (0: embeddings, negative: from the end): at the positions that predict labels, N = S; where
    a task has one target per row, each row's mean over its real tokens, N = R; where rows are read as several
    sequences, the mean over a target's own sequence or over all of the row's; where each pixel is a target, the mean of
    its picture. MethodError when states were not kept.
    """
    if outputs.hidden is None:
        raise MethodError(
            "the hidden states were not kept",
            remedy="an objective on hidden states cannot stand beside one that couples the whole batch",
        )
    states = outputs.hidden[layer]
    if batch.positions is not None:
        return states.flatten(0, 1)[batch.positions]
    states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states  # a convolution's channels first
    mask = batch.inputs.get("attention_mask")
    means = states.mean(1) if mask is None else token_means(states, mask)
    targets = len(batch.labels)
    if "pixels" in batch.fields and len(means) == len(batch.row_ids):
        return means[batch.rows]
    if len(means) == targets or "sequences" not in batch.fields:
        return means
    if targets % len(means) == 0:
        return means.repeat_interleave(targets // len(means), 0)
    return row_means(means, batch.fields["sequences"], len(batch.row_ids))


def feature_loss(student: Tensor, teacher: Tensor, cosine: float) -> Tensor:
    """[N] from projected student and teacher features [N, D], in fp32; no gradient flows to the teacher.

    `cosine` x (1 - cosine similarity) + (1 - `cosine`) x mean over features of smooth L1.
    """
    s, t = student.float(), teacher.detach().float()
    return cosine * (1 - F.cosine_similarity(s, t, dim=-1)) + (1 - cosine) * F.smooth_l1_loss(
        s, t, reduction="none"
    ).mean(-1)
