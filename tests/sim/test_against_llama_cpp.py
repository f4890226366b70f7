"""Against llama.cpp: the two real models, the same tokens and the same logits of the same weights; and a tiny random
model of every architecture that GGUF has.

Needs llama-cpp-python, which the extra `reference` brings and which is built from source (about 13 CPU-minutes), and
the models: ``wordline models get smollm2 gemma3``. llama.cpp rounds activations to 8 bits before it multiplies blocks,
so the weights are written as float32 first (by the gguf package, not by us), and its cache is float32 too.
"""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import tiny_gguf
from gguf.constants import GGMLQuantizationType as Format

from wordline.compiler.catalogue import CATALOGUE
from wordline.compiler.model import load_model
from wordline.sim.evaluate import kl_divergence
from wordline.sim.reference import activation, float_logits

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.slow

TEXTS = [
    "The capital of France is", "Hello   world\n\n\n  x=1234, don't", "naïve café 😀 日本語\t\tz", "  around  ",
    "int main() {\n\treturn 0x1F;\n}\n  \n", "It's 3.14159 — “quoted”… we'll\r\nDON'T", "a" * 50 + "    b",
    "<html><body>hi</body></html> <|im_start|>user\nhey<|im_end|> <start_of_turn>",
    "Привет мир, שלום עולם, 你好世界 ١٢٣ ½ ①", " ".join(chr(c) for c in range(32, 600, 7)),
]


@pytest.fixture(params=CATALOGUE)
def known(request):
    if not CATALOGUE[request.param].fetched:
        pytest.skip(f"wordline models get {request.param}")
    return CATALOGUE[request.param]


def test_tokens_are_those_of_llama_cpp(known):
    theirs = llama_cpp.Llama(str(known.path), vocab_only=True, verbose=False)
    tokenizer = load_model(known.name).tokenizer
    held_out = (load_model("austen").folder / "heldout.txt").read_text()
    for text in [*TEXTS, held_out[:20000]]:
        assert tokenizer.encode(text).ids == theirs.tokenize(text.encode(), add_bos=True, special=True), text[:80]


def as_float32(source, target) -> None:
    """A copy of a GGUF file with all tensors as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, f in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        sub = f.types[1] if len(f.types) > 1 else None
        writer.add_key_value(name, f.contents(), f.types[0], sub_type=sub)
    for t in reader.tensors:
        writer.add_tensor(t.name, gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_logits_are_those_of_llama_cpp(known, tmp_path):
    as_float32(known.path, tmp_path / "float32.gguf")
    theirs = llama_cpp.Llama(str(tmp_path / "float32.gguf"), n_ctx=512, logits_all=True, verbose=False, n_threads=1,
                             type_k=0, type_v=0)
    model = load_model(known.name)
    ids = np.array(model.tokenizer.encode((load_model("austen").folder / "heldout.txt").read_text()).ids[:160])
    theirs.eval(ids.tolist())
    kl = kl_divergence(float_logits(model, ids), theirs.scores[: len(ids)])
    print(f"{known.name}: KL divergence from llama.cpp {kl.mean():.2e}, at most {kl.max():.2e}, {len(ids)} tokens")
    assert kl.mean() < 1e-5 and kl.max() < 1e-3


def tiny_logits(path, ids: np.ndarray) -> np.ndarray:
    theirs = llama_cpp.Llama(str(path), n_ctx=32, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0)
    theirs.eval(ids.tolist())
    return np.array(theirs.scores[: len(ids)], np.float64)


def small(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices that keep a vector's size."""
    return {name: x / np.float32(x.shape[1] ** 0.5) if x.ndim == 2 else x for name, x in tensors.items()}


def with_llama_cpps_gelu(name: str, x: np.ndarray) -> np.ndarray:
    """llama.cpp looks GELU up in a table of float16 for float16, unless |x| is 10 or more."""
    if name != "gelu_tanh":
        return activation(name, x)
    table = activation(name, x.astype(np.float16).astype(np.float64)).astype(np.float16).astype(np.float64)
    return np.where(x <= -10, 0, np.where(x >= 10, x, table))


@pytest.mark.parametrize("kind", tiny_gguf.MODELS)
def test_logits_of_tiny_models_of_every_architecture(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("wordline.sim.reference.activation", with_llama_cpps_gelu)
    c = tiny_gguf.MODELS[kind]
    path = tiny_gguf.write(tmp_path / "tiny.gguf", kind, c, small(tiny_gguf.tensors(c)))
    ids = np.random.default_rng(1).integers(0, c.vocab, 14)
    exact = tiny_logits(path, ids)
    ours = float_logits(load_model(path), ids)
    error = np.abs(ours - exact).max(1) / np.sqrt((exact**2).mean())
    print(f"{kind}: first token {error[0]:.1e}, any {error.max():.1e}")
    # llama.cpp computes in float32; what it looks GELU up for is now and then the next float16.
    assert error[0] < 1e-5 and error.max() < (5e-3 if c.activation == "gelu_tanh" else 1e-5)


@pytest.mark.parametrize("format_", ["TQ1_0", "TQ2_0"])
def test_packed_ternary_weights_of_bitnet(format_, tmp_path):
    """llama.cpp rounds activations to 8 bits in blocks before it multiplies by packed ternary weights."""
    c = replace(tiny_gguf.LLAMA, width=256, head_dim=64, ffn=512, sub_norms=True, tied=True)
    tensors = {name: np.sign(x) * (np.abs(x) > 0.5) / np.float32(16) if name.endswith("_proj.weight") else x
               for name, x in tiny_gguf.tensors(c).items()}
    path = tiny_gguf.write(tmp_path / "tiny.gguf", "bitnet", c, tensors, None, Format[format_])
    ids = np.random.default_rng(1).integers(0, c.vocab, 14)
    exact = tiny_logits(path, ids)
    ours = float_logits(load_model(path), ids)
    assert np.sqrt(((ours - exact) ** 2).mean() / (exact**2).mean()) < 0.03
