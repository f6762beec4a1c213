"""PEFT's types beside plain LoRA: equal starts, logits and gradients, and each loads what the other saved."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from tests import architectures, tiny
from tunewright.catalogue import load_method
from tunewright.conformance.bench import token_rows
from tunewright.contract.method import Needs, Setup
from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, attach
from tunewright.models.peft_format import load_adapter, obstacle, save_adapter
from tunewright.models.peft_kinds import kind_of_forms
from tunewright.tasks import get_task
from tunewright.training import carry
from tunewright.weights.opening import open_source

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity

BATCH = get_task("text-generation").collate(token_rows("kinds", 3))
TARGETS = {tiny.llama: ["q_proj", "v_proj", "down_proj"], tiny.gpt2: ["c_attn", "mlp.c_proj"]}
INNER = {tiny.llama: ["down_proj"], tiny.gpt2: ["mlp.c_proj"]}
LORA = {"r": 4, "lora_alpha": 8}
# method, ours, PEFT's configuration, what of it is asked for by the model
CASES = {
    "dora": ("dora", {"rank": 4, "alpha": 8}, "LoraConfig", {**LORA, "use_dora": True}),
    "dora-rslora": (
        "dora", {"rank": 4, "alpha": 8, "use_rslora": True}, "LoraConfig",
        {**LORA, "use_dora": True, "use_rslora": True},
    ),
    "ia3": ("ia3", {}, "IA3Config", {}),
    "vera": ("vera", {"rank": 6, "d_initial": 0.3, "projection_prng_key": 3}, "VeraConfig",
             {"r": 6, "d_initial": 0.3, "projection_prng_key": 3}),
    "loha": ("loha", {"rank": 3, "alpha": 5}, "LoHaConfig", {"r": 3, "alpha": 5}),
    "lokr": ("lokr", {"rank": 2, "alpha": 5}, "LoKrConfig", {"r": 2, "alpha": 5}),
    "lokr-whole": ("lokr", {"rank": 30, "alpha": 5}, "LoKrConfig", {"r": 30, "alpha": 5}),
    "lokr-both": ("lokr", {"rank": 1, "alpha": 5, "decompose_both": True, "decompose_factor": 4}, "LoKrConfig",
                  {"r": 1, "alpha": 5, "decompose_both": True, "decompose_factor": 4}),
    "oft": ("oft", {"block_size": 8}, "OFTConfig", {"oft_block_size": 8}),
    "oft-odd": ("oft", {"block_size": 7, "num_cayley_neumann_terms": 3}, "OFTConfig",
                {"oft_block_size": 7, "num_cayley_neumann_terms": 3}),
    "oft-exact": ("oft", {"block_size": 8, "use_cayley_neumann": False}, "OFTConfig",
                  {"oft_block_size": 8, "use_cayley_neumann": False}),
    "oft-share": ("oft", {"block_size": 4, "block_share": True}, "OFTConfig",
                  {"oft_block_size": 4, "block_share": True}),
    "boft": ("boft", {"block_size": 8}, "BOFTConfig", {"boft_block_size": 8}),
}  # fmt: skip
PLAIN = ("loha", "lokr", "oft", "boft")  # PEFT hangs them on no transposed layer
BOTH = [(make, case) for make in TARGETS for case in CASES if make is tiny.llama or not case.startswith(PLAIN)]
IDS = [f"{make.__name__}-{case}" for make, case in BOTH]


def ours(make, case: str, moved: float = 0.1) -> Adapted:
    """A model with the method's deltas; what trains is moved from its start by that much."""
    name, fields, _, _ = CASES[case]
    adapted, rng = Adapted(make(), base_hash="abc"), random.Random(0)
    more = {"feedforward_modules": INNER[make]} if name == "ia3" else {}
    method = load_method(name)(target_modules=TARGETS[make], **fields, **more)
    state = method.setup(Setup(adapted, None, "text-generation", rng))
    given = {"state": state, "rng": rng, **({"needs": Needs({})} if name == "dora" else {})}
    for site in adapted.structure.sites:
        delta = method.attach(site, **given)
        if delta is not None:
            for p in delta.parameters():
                p.data += torch.randn(p.shape, generator=torch.Generator().manual_seed(len(site.name))) * moved
            attach(site, name, delta)
    return adapted


def theirs(make, case: str):
    _, _, config, fields = CASES[case]
    more = {"feedforward_modules": INNER[make]} if config == "IA3Config" else {}
    if not case.startswith(PLAIN):
        more["fan_in_fan_out"] = make is tiny.gpt2
    made = getattr(peft, config)(target_modules=TARGETS[make], task_type="CAUSAL_LM", **fields, **more)
    return peft.get_peft_model(make(), made)


def paired(adapted: Adapted, model) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(our parameter, what PEFT holds of it, PEFT's parameter) by PEFT's name."""
    kind = kind_of_forms(adapted.deltas())
    named, found = dict(model.named_parameters()), {}
    for site, by_name in adapted.deltas().items():
        (delta,) = by_name.values()
        for part, value in kind.write(delta).items():
            part = part + ".weight" if part == "lora_magnitude_vector" else part
            first, _, rest = part.partition(".")
            name = f"base_model.model.{site}.{first}.default" + (f".{rest}" if rest else "")
            found[name] = value, named[name]
    assert len(found) == sum(p.requires_grad for p in named.values())
    return found


def logits(model) -> torch.Tensor:
    return model(**BATCH.inputs).logits[BATCH.inputs["attention_mask"].bool()]


@pytest.mark.parametrize("make, case", BOTH, ids=IDS)
def test_three_steps_go_as_pefts(make, case):
    adapted, model = ours(make, case), theirs(make, case)
    with torch.no_grad():
        for value, p in paired(adapted, model).values():
            p.copy_(value)
    mine = [p for p in adapted.delta_parameters().values()]
    for step in range(3):
        a, b = logits(adapted.model), logits(model)
        assert torch.allclose(a, b, atol=2e-5), (step, float((a - b).abs().max()))
        for out, params in ((a, mine), (b, [p for p in model.parameters() if p.requires_grad])):
            for p in params:
                p.grad = None
            (out.logsumexp(-1).mean() + out[:, 3].mean()).backward()
            with torch.no_grad():
                for p in params:
                    p -= 0.3 * p.grad
        for name, (value, p) in paired(adapted, model).items():
            assert float(p.grad.abs().max()) > 0, name
            torch.testing.assert_close(value.detach(), p.detach(), rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("make, case", BOTH, ids=IDS)
def test_each_reads_what_the_other_saved(make, case, tmp_path):
    adapted = ours(make, case)
    make().save_pretrained(tmp_path / "base")
    with torch.no_grad():
        base, wanted = logits(make().eval()), logits(adapted.model.eval())
        assert float((base - wanted).abs().max()) > 1e-2
        assert obstacle(adapted) is None
        count = save_adapter(adapted, tmp_path / "ours", "tiny")
        other = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
        assert torch.allclose(logits(other), wanted, atol=2e-5)
        again = Adapted(make(), base_hash="abc")
        load_adapter(again, tmp_path / "ours")
        assert kind_of_forms(again.deltas()) is kind_of_forms(adapted.deltas())
        assert torch.allclose(logits(again.model.eval()), wanted, atol=1e-6)
        assert save_adapter(again, tmp_path / "again", "tiny") == count
        other.save_pretrained(tmp_path / "theirs")
        loaded = Adapted(make())
        load_adapter(loaded, tmp_path / "theirs")
        assert torch.allclose(logits(loaded.model.eval()), wanted, atol=2e-5)
        source = open_source(str(tmp_path / "theirs"), str(tmp_path / "base"))
        tuned = adapted.tuned_state()
        for name in source.changes:
            assert torch.allclose(torch.from_numpy(source.whole(name)), tuned[name], atol=1e-5), name
        moved = {n for n, t in tuned.items() if not torch.equal(t, make().state_dict()[n])}
        assert moved == {n for n in source.changes if source.whole(n).any()}, "the same tensors are another"


@pytest.mark.parametrize("case", CASES)
def test_a_stage_starts_from_an_adapter_that_peft_wrote(case, tmp_path):
    model = theirs(tiny.llama, case)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.1
        wanted = logits(model.eval())
    model.save_pretrained(tmp_path)
    for way in ("fold", "training", "frozen"):
        adapted = Adapted(tiny.llama())
        carry.begin(adapted, str(tmp_path), way, tmp_path, "stages.main.start")
        with torch.no_grad():
            assert torch.allclose(logits(adapted.model.eval()), wanted, atol=2e-5), way
        assert bool(adapted.deltas()) == (way != "fold")


@pytest.mark.parametrize("case", ["dora", "ia3", "vera", "oft", "boft"])
def test_starts_that_are_no_draw_are_pefts(case):
    for make in [tiny.llama] if case.startswith(PLAIN) else TARGETS:
        adapted, model = ours(make, case, moved=0.0), theirs(make, case)
        named = paired(adapted, model)
        same = [n for n in named if "lora_A" not in n]
        assert same and all(torch.allclose(named[n][0], named[n][1], atol=1e-6) for n in same), case
        if case == "vera":
            A, B = next(iter(next(iter(adapted.deltas().values())).values())).matrices()
            shared = model.base_model.vera_A["default"], model.base_model.vera_B["default"]
            assert torch.equal(A, shared[0][:, : A.shape[1]]) and torch.equal(B, shared[1][: len(B)])
    with torch.no_grad():
        assert torch.allclose(logits(ours(tiny.llama, case, moved=0.0).model), logits(tiny.llama()), atol=1e-5)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_starts_from_a_decomposition_are_pefts_and_three_steps_go_alike(name, tmp_path):
    adapted, rng = Adapted(tiny.llama(), base_hash="abc"), random.Random(0)
    method = load_method(name)(rank=4, alpha=6, target_modules=TARGETS[tiny.llama])
    state = method.setup(Setup(adapted, None, "text-generation", rng))
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[tiny.llama], init_lora_weights=name)
    model = peft.get_peft_model(tiny.llama(), config)
    named, pairs = dict(model.named_parameters()), []
    for site in adapted.structure.sites:
        delta = method.attach(site, Needs({}), state, rng)
        if delta is None:
            continue
        attach(site, name, delta)
        for part in ("lora_A", "lora_B"):
            p = named[f"base_model.model.{site.name}.{part}.default.weight"]
            assert torch.allclose(getattr(delta, part), p, atol=1e-6), (site.name, part)
            pairs.append((getattr(delta, part), p))
    assert len(pairs) == sum(p.requires_grad for p in named.values())
    for _ in range(3):
        a, b = logits(adapted.model), logits(model)
        assert torch.allclose(a, b, atol=5e-5)
        for out in (a, b):
            (out.logsumexp(-1).mean() + out[:, 3].mean()).backward()
        with torch.no_grad():
            for p, q in pairs:
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)
                for t in (p, q):
                    t -= 0.1 * t.grad
                    t.grad = None
    save_adapter(adapted, tmp_path, "tiny")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8, "rank 2r, on the base itself"
    with torch.no_grad():
        plain = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path).eval()
        assert torch.allclose(logits(plain), logits(adapted.model.eval()), atol=1e-4)


def test_a_frozen_a_is_saved_as_plain_lora_and_its_projection_is_pefts_formula(tmp_path):
    adapted, rng = Adapted(tiny.llama(), base_hash="abc"), random.Random(0)
    method = load_method("lora-fa")(rank=4, alpha=6, project=True, target_modules=TARGETS[tiny.llama])
    state = method.setup(Setup(adapted, None, "text-generation", rng))
    gradients, expected = {}, {}
    for site in adapted.structure.sites:
        delta = method.attach(site, Needs({}), state, rng)
        if delta is None:
            continue
        attach(site, "lora-fa", delta)
        g = torch.randn(delta.lora_B.shape, generator=torch.Generator().manual_seed(1))
        name = f"{site.name}.delta.lora-fa.lora_B"
        gradients[name] = g
        A = delta.lora_A
        expected[name] = (1 / delta.scale**2) * (g @ torch.linalg.pinv(A @ A.T + 1e-8 * torch.eye(4)))
        delta.lora_B.data = g * 0.1
    turned = method.gradient(gradients, state)
    assert all(torch.allclose(turned[n], expected[n], rtol=1e-4) for n in expected)
    save_adapter(adapted, tmp_path, "tiny")
    with torch.no_grad():
        plain = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path).eval()
        assert torch.allclose(logits(plain), logits(adapted.model.eval()), atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("case", ["dora", "ia3"])
def test_a_classifiers_adapter_carries_its_head(name, case, tmp_path):
    def make():
        return architectures.make(name, "text-classification")

    adapted, rng = Adapted(make()), random.Random(0)
    method = load_method(case)(**({"rank": 2} if case == "dora" else {}))
    state = method.setup(Setup(adapted, None, "text-classification", rng))
    given = {"state": state, "rng": rng, **({"needs": Needs({})} if case == "dora" else {})}
    for site in adapted.structure.sites:
        delta = method.attach(site, **given)
        if delta is not None:
            for p in delta.parameters():
                p.data += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
            attach(site, case, delta)
    save_adapter(adapted, tmp_path, str(tmp_path))
    ids = torch.arange(8, 40)[None]
    with torch.no_grad():
        other = peft.PeftModel.from_pretrained(make(), tmp_path).eval()
        wanted = adapted.model.eval()(input_ids=ids).logits
        assert torch.allclose(other(input_ids=ids).logits, wanted, atol=1e-4)
        again = Adapted(make())
        load_adapter(again, tmp_path)
        assert torch.allclose(again.model.eval()(input_ids=ids).logits, wanted, atol=1e-6) and not again.originals


def spoiled(folder: Path, **changes) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    "case, changes, says",
    [
        ("dora", {"r": 5}, "does not fit: lora_A"),
        ("dora", {"use_dora": False}, "lora_magnitude_vector' is no low-rank part"),
        ("dora", {"use_qalora": True}, "use_qalora"),
        ("ia3", {"bias": "all"}, "more than what IA3 is read as .*bias"),
        ("vera", {"r": 5}, "does not fit: vera_lambda_d"),
        ("vera", {"r": "6"}, "r: .* is no value"),
        ("loha", {"rank_pattern": {"q_proj": 2}}, "does not fit: hada_w1_a"),
        ("loha", {"peft_type": "LOKR"}, "is no part of an adapter of type LOKR"),
        ("lokr", {"r": 3}, "does not fit: lokr_w2_a"),
        ("oft", {"coft": True}, "more than what OFT is read as .*coft"),
        ("oft", {"peft_version": "0.17.1"}, "a PEFT before 0.18"),
        ("oft", {"oft_block_size": 16}, "does not fit: oft_R"),
        ("boft", {"boft_block_size": 4}, "the config says boft_block_size: 4, and the tensors of '.*' are of 8"),
        ("boft", {"boft_n_butterfly_factor": 2}, "says boft_n_butterfly_factor: 2, and the tensors of '.*' are of 1"),
        ("ia3", {"feedforward_modules": []}, "feedforward_modules leaves out '.*', whose factors are of its inputs"),
        ("ia3", {"feedforward_modules": ["v_proj", "down_proj"]}, "names '.*v_proj', whose factors are of its outputs"),
        ("oft", {"target_modules": ["q_proj", "v_proj", "down_proj", "k_proj"]}, "k_proj"),
    ],
)
def test_what_cannot_be_loaded_says_why_and_changes_nothing(case, changes, says, tmp_path):
    save_adapter(ours(tiny.llama, case), tmp_path, "tiny")
    adapted = Adapted(tiny.llama(), base_hash="abc")
    with pytest.raises(ModelError, match=says):
        load_adapter(adapted, spoiled(tmp_path, **changes))
    assert not adapted.deltas()


def test_what_no_type_of_pefts_can_say_is_no_adapter():
    adapted = ours(tiny.llama, "dora")
    name, by_name = next(iter(adapted.deltas().items()))
    by_name["dora"].strength = 0.5
    assert "knows no strength" in obstacle(adapted)
    by_name["dora"].strength = 1.0
    site = adapted.structure.site(name)
    attach(site, "lora", LowRank(torch.zeros(2, site.in_features), torch.zeros(site.out_features, 2), 1.0))
    assert "a dora delta on" in obstacle(adapted)
    turned = ours(tiny.llama, "oft-odd")
    for site in turned.deltas():
        (delta,) = turned.deltas()[site].values()
        delta.block_size = 2 if "q_proj" in site else delta.block_size
    assert "block size" in obstacle(turned)


def test_matrices_that_another_torch_drew_are_kept(tmp_path):
    model = theirs(tiny.llama, "vera")
    with torch.no_grad():
        for shared in (model.base_model.vera_A["default"], model.base_model.vera_B["default"]):
            shared *= 1.5
        for n, p in model.named_parameters():
            if "vera_lambda" in n:
                p += 0.3
        model.save_pretrained(tmp_path / "theirs")
        adapted = Adapted(tiny.llama())
        load_adapter(adapted, tmp_path / "theirs")
        assert torch.allclose(logits(adapted.model.eval()), logits(model.eval()), atol=2e-5)
        save_adapter(adapted, tmp_path / "ours", "tiny")
        again = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "ours").eval()
        assert torch.allclose(logits(again), logits(model), atol=2e-5)
        spoiled(tmp_path / "theirs")
        with pytest.raises(ModelError, match="leaves out the random matrices"):
            model.peft_config["default"].save_projection = False
            model.save_pretrained(tmp_path / "less")
            load_adapter(Adapted(tiny.llama()), tmp_path / "less")
