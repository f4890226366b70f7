"""Small vocabularies as GGUF files, texts, and the tokens that llama.cpp makes of them (tests/golden/tokens.json).

``python tests/cosim/tiny_vocabularies.py`` makes the golden file anew, with llama-cpp-python, for these and for the
real models (``wordline models get smollm2 gemma3``).
"""

import json
from pathlib import Path
from typing import Any

import gguf
from tokenizers import decoders

from wordline.compiler.catalogue import CATALOGUE
from wordline.compiler.model import find_model

GOLDEN = Path(__file__).parents[1] / "golden" / "tokens.json"
#: English, digits, code, emoji, accents and other scripts, white space, tokens that a text may name.
TEXTS = [
    "It is a truth universally acknowledged, that a single man", "Hello   world\n\n\n  x=1234, don't", "",
    "naïve café 😀 日本語\t\tz", "  around  ", "int main() {\n\treturn 0x1F;\n}\n  \n",
    "It's 3.14159 — “quoted”… we'll\r\nDON'T", "a" * 30 + "    b", "<html><body>hi</body></html>",
    "<|im_start|>user\nhey<|im_end|> <start_of_turn>model\n<end_of_turn><|end|>ok</s>",
    "Привет мир, שלום עולם, 你好世界 ١٢٣ ½ ①", "👩‍👩‍👧‍👦🇫🇷 e\u0301 é \u00a0x",
    "def f(x: int) -> list[str]:\n    return [f'{x:04d}']  # ok",
]
#: Names of the byte-level vocabularies' rules, and whether SentencePiece's puts a space in front.
BYTE_LEVEL = ("gpt-2", "smollm", "starcoder", "llama-bpe", "qwen2")
SENTENCE_PIECE = {"spm": True, "spm-no-prefix": False}
VOCABULARIES = (*BYTE_LEVEL, *SENTENCE_PIECE)


def write_vocabulary(path: Path, name: str) -> int:
    """A GGUF file with nothing but a vocabulary: that of the embedded model, or what SentencePiece would have of it.
    Returns its size."""
    source = json.loads((find_model("austen") / "tokenizer.json").read_text())["model"]
    tokens = list(source["vocab"])
    writer = gguf.GGUFWriter(path, "llama")
    for field, value in {"block_count": 1, "context_length": 512, "embedding_length": 64, "feed_forward_length": 96,
                         "attention.head_count": 4, "attention.head_count_kv": 2}.items():
        writer.add_uint32(f"llama.{field}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    if name in BYTE_LEVEL:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in source["merges"]]
        # Tokens of numbers and of a sign with a letter show where a rule cuts.
        merges += ["1 2", "12 3", "123 4", "( x", "' T"]
        tokens += [merge.replace(" ", "") for merge in merges[-5:]]
        writer.add_token_merges(merges)
        types = [3 if token == "<|end|>" else 1 for token in tokens]
        writer.add_bos_token_id(0)
    else:
        text = decoders.ByteLevel()
        words = [text.decode([token]).replace(" ", "▁") for token in tokens[1:]]
        words = list(dict.fromkeys(word for word in words if "\ufffd" not in word and word.isprintable()))
        special = {"<unk>": 2, "<s>": 3, "</s>": 3} | {f"<0x{i:02X}>": 6 for i in range(256)}
        named = special | dict.fromkeys(words, 1) | {"\n\n": 4, "▁▁": 4, "    ": 4, "<start_of_turn>": 3}
        tokens, types = list(named), list(named.values())
        writer.add_tokenizer_model("llama")
        # As SentencePiece has it: the earlier a piece was merged, the higher its score.
        writer.add_token_scores([-float(i) if kind == 1 else 0.0 for i, kind in enumerate(types)])
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_bool("tokenizer.ggml.add_space_prefix", SENTENCE_PIECE[name])
    writer.add_eos_token_id(2 if name in SENTENCE_PIECE else 0)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(tokens)


def golden() -> dict[str, list[list[int]]]:
    """Tokens of every text by vocabulary."""
    found: dict[str, list[list[int]]] = json.loads(GOLDEN.read_text())
    return found


def _make() -> None:
    import tempfile

    import llama_cpp

    def tokens(path: Path) -> list[list[int]]:
        model: Any = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        return [model.tokenize(text.encode(), add_bos=True, special=True) for text in TEXTS]

    result = {name: tokens(known.path) for name, known in CATALOGUE.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name in VOCABULARIES:
            write_vocabulary(Path(folder) / "a.gguf", name)
            result[name] = tokens(Path(folder) / "a.gguf")
    lines = [f'"{name}": [\n' + ",\n".join(json.dumps(ids) for ids in texts) + "\n]" for name, texts in result.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    _make()
