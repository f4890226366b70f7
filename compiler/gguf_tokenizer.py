"""The tokenizer of a GGUF file, built from its metadata with the `tokenizers` library.

Two kinds: byte-level byte-pair encoding ("gpt2"), where a pre-tokenizer's name stands for rules on where a text may be
cut, and SentencePiece's byte-pair encoding ("llama"), where the next merge is the one whose result has the highest
score. Both become the library's BPE; whatever is not known is refused by name, since a wrong rule gives other tokens
and no error.
"""

from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE

from wordline.compiler.architecture import ModelError
from wordline.compiler.gguf_file import GgufFile

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_SPACE = "▁"

# Where words may be cut. Contractions in any case, words with the one sign before them, numbers, signs, line ends.
_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _words(digits: str) -> Any:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_WORDS.format(digits=digits)), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


#: `tokenizer.ggml.pre` of byte-level models.
PRE_TOKENIZERS = {
    "gpt-2": _gpt2, "smollm": _single_digits, "starcoder": _single_digits,
    "llama-bpe": lambda: _words("{1,3}"), "llama3": lambda: _words("{1,3}"), "qwen2": lambda: _words("")}


class _Vocabulary:
    """What both kinds have: tokens, their types, and which one begins a text."""

    def __init__(self, file: GgufFile, size: int):
        self.file = file
        self.tokens = self.get("tokens", list)
        if len(self.tokens) != size:
            raise self.error("tokens", f"are {len(self.tokens)}, the embedding has {size} rows: the tokenizer does not "
                                       "match the model")
        self.types = self.get("token_type", list, [_NORMAL] * size)
        if len(self.types) != size or not all(isinstance(t, int) for t in self.types):
            raise self.error("token_type", f"must be {size} whole numbers")
        if not all(isinstance(token, str) for token in self.tokens):
            raise self.error("tokens", "must be strings")
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) != size:
            raise self.error("tokens", f"has {size - len(self.ids)} tokens twice")

    def error(self, name: str, message: str) -> ModelError:
        return ModelError(f"{self.file.path}: metadata 'tokenizer.ggml.{name}' {message}")

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        value = self.file.metadata.get(f"tokenizer.ggml.{name}", default)
        if value is None:
            raise self.error(name, "is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(name, f"is a {type(value).__name__}, not a {kind.__name__}")
        return value

    def token(self, name: str) -> str:
        """The token that a field gives the number of."""
        number = self.get(name, int)
        if not 0 <= number < len(self.tokens):
            raise self.error(name, f"= {number} is not one of {len(self.tokens)} tokens")
        return self.tokens[number]

    def finish(self, tokenizer: Tokenizer, *, bos: bool) -> Tokenizer:
        """Adds the tokens that are found in a text before anything else, and the one that begins it."""
        for kind, special in ((_USER_DEFINED, False), (_CONTROL, True)):
            added = [AddedToken(token, normalized=False, special=special)
                     for token, type_ in zip(self.tokens, self.types, strict=True) if type_ == kind and token]
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
        if self.get("add_bos_token", bool, bos):
            first = self.token("bos_token_id")
            # In a template, a colon would part a token's name from its type.
            tokenizer.post_processor = processors.TemplateProcessing(
                single=["bos", "$A"], pair=None, special_tokens=[
                    {"id": "bos", "ids": [self.ids[first]], "tokens": [first]}])
        if self.get("add_eos_token", bool, False):
            raise self.error("add_eos_token", "= True is not supported: a text is to be continued")
        return tokenizer


def _byte_level(v: _Vocabulary) -> Tokenizer:
    pre = v.get("pre", str, "gpt-2")
    if pre not in PRE_TOKENIZERS:
        raise v.error("pre", f"= {pre!r} is not supported, only one of {', '.join(PRE_TOKENIZERS)}")
    merges: list[tuple[str, str]] = []
    for merge in v.get("merges", list):
        pair = str(merge).split(" ")
        if len(pair) != 2:
            raise v.error("merges", f"has {merge!r}: must be pairs of tokens with a space between them")
        merges.append((pair[0], pair[1]))
    tokenizer = Tokenizer(BPE(vocab=v.ids, merges=merges, ignore_merges=pre in ("llama-bpe", "llama3")))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return v.finish(tokenizer, bos=pre in ("llama-bpe", "llama3"))


def _sentence_piece(v: _Vocabulary) -> Tokenizer:
    scores = v.get("scores", list)
    if len(scores) != len(v.tokens):
        raise v.error("scores", f"are {len(scores)}, there are {len(v.tokens)} tokens")
    # A piece of the user's that has a space in it is not found in a text, whose spaces are other signs: it is merged.
    pieces = {token: i for i, token in enumerate(v.tokens)
              if v.types[i] in (_NORMAL, _UNUSED) or (v.types[i] == _USER_DEFINED and _SPACE in token)}
    merges = []
    for piece, i in pieces.items():
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [(-scores[i], pieces[a], pieces[b], (a, b)) for a, b in pairs if a in pieces and b in pieces]
    merges.sort(key=lambda merge: merge[:3])
    unknown = v.token("unknown_token_id")
    tokenizer = Tokenizer(BPE(vocab=v.ids, merges=[merge[3] for merge in merges], unk_token=unknown, fuse_unk=True,
                              byte_fallback=_BYTE in v.types))
    prefix = v.get("add_space_prefix", bool, True)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
         *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return v.finish(tokenizer, bos=True)


def read_tokenizer(file: GgufFile, size: int) -> Tokenizer:
    """The tokenizer of a model with `size` rows in its embedding.

    Raises
    ------
    ModelError
        It is missing, of an unknown kind, inconsistent, or does not go with the model.
    """
    v = _Vocabulary(file, size)
    kind = v.get("model", str)
    kinds = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in kinds:
        raise v.error("model", f"= {kind!r} is not supported, only {' or '.join(map(repr, kinds))}")
    try:
        return kinds[kind](v)
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelError(f"{file.path}: metadata 'tokenizer.ggml' makes no tokenizer: {error}") from None
