"""What quantisers know of a model's inputs, and how they change a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from wordline.compiler.architecture import ModelConfig
from wordline.compiler.image import matrices
from wordline.compiler.model import Model
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.pe.quantize import QuantTensor, dequantize, quantize
from wordline.rtl.config import TypesConfig


@dataclass(frozen=True)
class Inputs:
    """The inputs X[T, K] of a matrix on the calibration text.

    Attributes
    ----------
    gram : float32[K, K]
        ``X.T @ X / T``: with it, the error of an output is known for any error of the weights.
    size, peak : float32[K]
        Mean and largest magnitude of every channel.
    """

    gram: np.ndarray
    size: np.ndarray
    peak: np.ndarray

    def divided(self, s: np.ndarray) -> "Inputs":
        """As the inputs are once channel j is divided by s[j]."""
        return Inputs(self.gram / np.outer(s, s), self.size / s, self.peak / s)

    def output_error(self, error: np.ndarray) -> float:
        """Mean square error of the outputs, summed over them, for an error [N, K] of the weights."""
        return float(((error @ self.gram) * error).sum())


#: By the compiler's name of a matrix, "layer 3 qkv".
Calibration = Mapping[str, Inputs]


class Changed(Mapping[str, np.ndarray]):
    """Tensors of which some are others than in the model's file."""

    def __init__(self, base: Mapping[str, np.ndarray]):
        self.base, self.changed = base, dict[str, np.ndarray]()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.changed[name] if name in self.changed else self.base[name]

    def __setitem__(self, name: str, x: np.ndarray) -> None:
        self.changed[name] = np.ascontiguousarray(x, np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


@dataclass(frozen=True)
class Matrix:
    """A matrix of a layer as the array takes it: rows of several projections."""

    layer: int
    kind: str
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"layer {self.layer} {self.kind}"

    def at(self, part: str, what: str = "weight") -> str:
        return f"model.layers.{self.layer}.{part}.{what}"


class Work:
    """A model while quantisers work on it, one after the other."""

    def __init__(self, model: Model, types: TypesConfig, calibration: Calibration):
        self.model, self.c, self.types = model, model.config, types
        self.tensors = Changed(model.tensors)
        self.inputs = dict(calibration)
        self.quantised: dict[str, QuantTensor] = {}

    def matrices(self) -> Iterator[Matrix]:
        for i in range(self.c.layers):
            for kind, parts in matrices(self.c).items():
                yield Matrix(i, kind, parts)

    def weights(self, m: Matrix) -> np.ndarray:
        """float32[N, K]"""
        return np.concatenate([self.tensors[m.at(part)] for part in m.parts])

    def put(self, m: Matrix, weights: np.ndarray) -> None:
        row = 0
        for part in m.parts:
            n = len(self.tensors[m.at(part)])
            self.tensors[m.at(part)] = weights[row : row + n]
            row += n

    def group_size(self, kind: str) -> int:
        return WEIGHT_TYPES[self.types.of(kind)].group(self.types.group_size)

    def plain(self, weights: np.ndarray, kind: str) -> QuantTensor:
        """Weights [N, K] of a kind of matrix ("qkv") rounded to the nearest."""
        return quantize(weights, WEIGHT_TYPES[self.types.of(kind)], self.group_size(kind))

    def rounded(self, weights: np.ndarray, kind: str) -> np.ndarray:
        """float32[N, K]: rounded to the nearest and back."""
        return dequantize(self.plain(weights, kind))

    def result(self) -> Model:
        return replace(self.model, tensors=self.tensors, quantised=self.quantised)

    # --- Dividing the inputs of a matrix by numbers that its producer and its weights take up.

    def shared(self, m: Matrix, s: np.ndarray) -> np.ndarray | None:
        """`s` as the producer can take it up: heads that share values share their numbers. None: it cannot."""
        c = self.c
        if m.kind == "o" and not c.sub_norms:
            heads = s.reshape(c.kv_heads, c.heads // c.kv_heads, c.head_dim)
            mean = np.exp(np.log(heads).mean(1, keepdims=True))
            return np.broadcast_to(mean, heads.shape).reshape(-1)
        if m.kind == "down" and not c.sub_norms and c.mlp != "gated" and c.activation != "relu":
            return None
        return s

    def divide_inputs(self, m: Matrix, s: np.ndarray) -> None:
        """Channel j of a matrix's inputs is divided by s[j] where it is made, and column j of the matrix multiplied by
        it: the model computes the same. `s` has been `shared`."""
        c = self.c
        self.put(m, self.weights(m) * s)
        self.inputs[m.name] = self.inputs[m.name].divided(s)
        norm = {"qkv": "input_layernorm", "gate_up": c.mlp_norm}.get(m.kind)
        if c.linear_norms and m.kind in ("i", "f", "g", "gate_up"):
            norm = f"{m.parts[0]}.norm"
        if c.sub_norms and norm is None:
            norm = {"o": "self_attn.attn_sub_norm", "down": "mlp.ffn_sub_norm"}[m.kind]
        if norm is not None:
            gain, offset = m.at(norm), np.float32(c.norm_offset)
            self.tensors[gain] = (self.tensors[gain] + offset) / s - offset
            if (bias := m.at(norm, "bias")) in self.tensors:
                self.tensors[bias] = self.tensors[bias] / s
            return
        part = "self_attn.v_proj" if m.kind == "o" else "mlp.up_proj"
        rows = s if m.kind == "down" else s.reshape(c.kv_heads, -1, c.head_dim)[:, 0].reshape(-1)
        weight, bias = m.at(part), m.at(part, "bias")
        self.tensors[weight] = self.tensors[weight] / rows[:, None]
        if bias in self.tensors:
            self.tensors[bias] = self.tensors[bias] / rows


def expected_names(c: ModelConfig) -> list[str]:
    """The matrices that a calibration describes."""
    return [f"layer {i} {kind}" for i in range(c.layers) for kind in matrices(c)]
