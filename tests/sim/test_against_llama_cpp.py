"""The two real models against llama.cpp: the same tokens, and the same logits of the same weights.

Needs llama-cpp-python, which the extra `reference` brings and which is built from source (about 13 CPU-minutes), and
the models: ``wordline models get smollm2 gemma3``. llama.cpp rounds activations to 8 bits before it multiplies blocks,
so the weights are written as float32 first (by the gguf package, not by us), and its cache is float32 too.
"""

import gguf
import numpy as np
import pytest

from wordline.compiler.catalogue import CATALOGUE
from wordline.compiler.model import load_model
from wordline.sim.evaluate import kl_divergence
from wordline.sim.reference import float_logits

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
