"""Every type of adapter that PEFT 0.21 has: read here, written here, or refused and why.

docs/methods.md has the table that `tests/parity/test_peft_types.py` holds to what the loader does.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.errors import ModelError
from tunewright.models.peft_kinds import KINDS

READ = ("LORA", *KINDS)
"""Types that are read as deltas. LORA: plain, rank-stabilised, with ranks and alphas by layer, and with use_dora."""
WRITTEN = {
    "LORA": "every low-rank method, `dora` too",
    "IA3": "`ia3`",
    "VERA": "`vera`",
    "LOHA": "`loha`",
    "LOKR": "`lokr`",
    "OFT": "`oft`",
    "BOFT": "`boft`",
    "LN_TUNING": "`ln-tuning`",
    "PROMPT_TUNING": "`prompt-tuning`",
    "PREFIX_TUNING": "`prefix-tuning`",
    "P_TUNING": "`p-tuning`",
}
"""What writes a type of adapter."""
PROMPT = "it trains vectors in front of a prompt, and no layer"
BEFORE_ROWS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""Types that are read as what stands before rows (`peft_prompts`), and as no layer's change."""
REFUSED = {
    "PROMPT_TUNING": PROMPT,
    "MULTITASK_PROMPT_TUNING": PROMPT,
    "P_TUNING": PROMPT,
    "CPT": PROMPT,
    "PREFIX_TUNING": "it trains keys and values in front of each attention's, and no layer",
    "CARTRIDGE": "it trains keys and values in front of each attention's, and no layer",
    "ADAPTION_PROMPT": "it adds attention to trained prompts inside of a layer",
    "XLORA": "it mixes several adapters by a network of its own",
    "POLY": "it mixes several adapters by a table of tasks",
    "TRAINABLE_TOKENS": "it trains some rows of embeddings, and no layer",
    "BEFT": "it trains biases of attention, which have no form here",
    "SHADOW": "it runs a second network beside the model",
    "OSF": "it trains a part of the weight's own decomposition",
    "SUPERTUNING": "it trains entries of the weight that are found by their size",
    "SHIRA": "it trains scattered entries of the weight",
    "HRA": "it turns weights by a chain of reflections",
    "ROAD": "it turns pairs of outputs",
    "PSOFT": "it turns a part of the weight that it takes from its decomposition",
    "MISS": "it adds one small matrix to every shard of a weight",
    "C3A": "it adds a product with circulant blocks",
    "FOURIERFT": "its change is a sum of few waves, made by a Fourier transform",
    "WAVEFT": "its change is a sum of few wavelets",
    "VBLORA": "its factors are mixed from a bank of vectors",
    "UNILORA": "its factors are read from one vector by random places",
    "TINYLORA": "its change is a few numbers times random matrices of the weight's decomposition",
    "RANDLORA": "its change is a sum of scaled random matrices",
    "PVERA": "its vectors are drawn from a trained distribution",
    "FROD": "its change is made in a basis that all layers share",
    "LILY": "its factors are mixed from those that layers share",
    "GLORA": "it scales and shifts weights and biases in five ways",
    "HIRA": "its low-rank part is multiplied with the weight itself",
    "DELORA": "its low-rank part is normed, and its length trained",
    "GRALORA": "its low-rank parts are those of a grid of blocks",
    "ADAMSS": "its change lies in clusters of the weight's own subspaces",
    "PEANUT": "its change is a network's, which reads the weight",
    "DEFT": "it takes a part of the weight away and puts another in its place",
}
"""Why each other type is not read."""
TYPES = (*READ, *(t for t in REFUSED if t not in READ))
INSTEAD = "merge it with PEFT and load the merged model"
BESIDE = frozenset(
    "PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING CPT PREFIX_TUNING CARTRIDGE ADAPTION_PROMPT XLORA POLY".split()
)
"""Types that PEFT merges into no weights."""
WITH_PEFT = "use it with PEFT beside its base: it merges into no weights"


@dataclass(frozen=True)
class Row:
    """A type in the table: what it is read as ("layers", "rows": before them; "": it is not), what writes it, and why
    it is refused where a change of layers is asked for.
    """

    name: str
    read: str
    written: str
    why: str


def table() -> list[Row]:
    """All types: those that are read first, the others by name."""
    others = sorted(REFUSED, key=lambda n: (n not in WRITTEN, n))
    kinds = dict.fromkeys(READ, "layers") | dict.fromkeys(BEFORE_ROWS, "rows")
    return [Row(n, kinds.get(n, ""), WRITTEN.get(n, ""), REFUSED.get(n, "")) for n in (*READ, *others)]


def refuse_type(name: object, where: str) -> None:
    """ModelError for a type of adapter that is not read, with the reason."""
    if name in READ:
        return
    why = REFUSED.get(str(name))
    said = f"an adapter of type {name} is not read: {why}" if why else f"the adapter's type is {name}, which is unknown"
    raise ModelError(said, where=where, remedy=instead(name))


def instead(name: object) -> str:
    """What to do with an adapter of a type that is not read."""
    return WITH_PEFT if name in BESIDE else INSTEAD
