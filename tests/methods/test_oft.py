"""OFT and BOFT: orthogonal blocks keep lengths and angles; parity with PEFT in tests/parity/test_peft_kinds.py."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.errors import MethodError
from tunewright.methods.adapters.boft import BOFT
from tunewright.methods.adapters.oft import OFT
from tunewright.models.adapted import Adapted


def deltas(run: Run):
    return {n: next(iter(d.values())) for n, d in run.adapted.deltas().items()}


def angles(W: torch.Tensor) -> torch.Tensor:
    return (W @ W.T).double()


def test_an_exact_rotation_keeps_every_length_and_angle_between_rows():
    r = Run({"oft": OFT(block_size=8, use_cayley_neumann=False)}, steps=8, learning_rate=5e-2)
    torch.testing.assert_close(logits(r.adapted.model), logits(tiny.llama()), atol=1e-5, rtol=1e-5)
    loop = r.train()
    sites = r.adapted.structure.linear_sites()
    assert loop.trained.count() == sum(s.in_features // 8 * 28 for s in sites)
    tuned = logits(r.adapted.model)
    names = list(deltas(r))
    r.adapted.fold()
    torch.testing.assert_close(logits(r.adapted.model), tuned, atol=2e-5, rtol=1e-4)
    for n in names:
        new, old = (m.get_submodule(n).weight.detach() for m in (r.adapted.model, tiny.llama()))
        assert float((new - old).abs().max()) > 1e-2, "turned"
        torch.testing.assert_close(angles(new), angles(old), atol=1e-4, rtol=1e-4)


def test_the_series_is_orthogonal_near_zero_alone():
    short, exact = (Run({"oft": OFT(block_size=8, use_cayley_neumann=n)}, steps=1) for n in (True, False))
    errors = {}
    for name, run in (("short", short), ("exact", exact)):
        d = next(iter(deltas(run).values()))
        for size in (0.01, 0.3):
            d.values.data = torch.randn(d.values.shape, generator=torch.Generator().manual_seed(0)) * size
            R = d.blocks(1.0)
            errors[name, size] = float((R @ R.transpose(1, 2) - torch.eye(8)).abs().max())
    assert errors["exact", 0.3] < 1e-5 and errors["exact", 0.01] < 1e-5
    assert errors["short", 0.01] < 1e-4 and errors["short", 0.3] > 0.1


def test_options():
    shared = deltas(Run({"oft": OFT(block_size=8, block_share=True)}, steps=1))
    assert {d.values.shape[0] for d in shared.values()} == {1}
    odd = deltas(Run({"oft": OFT(block_size=7)}, steps=1))
    for site in Adapted(tiny.llama()).structure.linear_sites():
        assert site.in_features % odd[site.name].block_size == 0
    long, short = (deltas(Run({"oft": OFT(block_size=8, num_cayley_neumann_terms=n)}, steps=1)) for n in (8, 2))
    assert {d.terms for d in long.values()} == {8} and {d.terms for d in short.values()} == {2}


def test_resumes():
    assert_resumes(lambda listen: Run({"oft": OFT(block_size=8)}, steps=5, listen=listen), 2)


def test_butterfly_factors_turn_more_places_together_and_keep_angles():
    reach = {}
    for factors in (1, 2, 3):
        r = Run({"boft": BOFT(block_size=4, n_butterfly_factor=factors)}, steps=6, learning_rate=5e-2)
        torch.testing.assert_close(logits(r.adapted.model), logits(tiny.llama()), atol=1e-5, rtol=1e-5)
        loop = r.train()
        sites = r.adapted.structure.linear_sites()
        assert loop.trained.count() == sum(factors * s.in_features * 4 + s.out_features for s in sites)
        name, d = next(iter(deltas(r).items()))
        R = d.turned(torch.eye(len(d.back[0])), d.rotations()).detach()
        torch.testing.assert_close(R @ R.T, torch.eye(len(R)), atol=1e-5, rtol=0)
        reach[factors] = int((R[0].abs() > 1e-9).sum())
        r.adapted.fold()
        new, old = (m.get_submodule(name).weight.detach() for m in (r.adapted.model, tiny.llama()))
        lengths = old.norm(dim=1) * (1 + d.scales.detach())
        torch.testing.assert_close(new.norm(dim=1), lengths.abs(), atol=1e-4, rtol=1e-4)
        cosines = [torch.nn.functional.normalize(w, dim=1) for w in (new, old)]
        torch.testing.assert_close(cosines[0] @ cosines[0].T, cosines[1] @ cosines[1].T, atol=1e-4, rtol=1e-3)
    assert reach == {1: 4, 2: 8, 3: 16}


def test_butterflies_that_do_not_fit_are_refused():
    with pytest.raises(MethodError, match="stretches of 5 do not divide"):
        Run({"boft": BOFT(block_size=5)})
    with pytest.raises(MethodError, match="blocks of 1 cannot be halved"):
        Run({"boft": BOFT(block_size=1, n_butterfly_factor=2)})


def test_butterflies_resume():
    assert_resumes(lambda listen: Run({"boft": BOFT(n_butterfly_factor=2)}, steps=5, listen=listen), 2)
