"""Ternary weights as checkpoints have them: packed four to a byte, or as floats to be rounded by the model's own rule.

BitNet b1.58 (Ma et al., arXiv 2402.17764) and MatMul-free LM (arXiv 2406.02528) round a matrix W to -s, 0 or s, with s
the mean of |W|. Hugging Face's BitNet says in config.json's ``quantization_config`` what its file holds. What comes out
of here is what the model multiplies by, as float32: to round it to `ternary` changes nothing but s in its last bits.
"""

from typing import Any

import numpy as np

from wordline.compiler.architecture import ModelError
from wordline.compiler.checkpoint import Checkpoint

_SMALLEST = 1e-5  # of the mean magnitude, as those who trained the models have it
_VALUES = 4  # in a byte


def absmean(weights: np.ndarray) -> np.ndarray:
    """float32[N, K]: -s, 0 or s, whichever is nearest; s is the mean magnitude of the matrix."""
    mean = np.float32(max(float(np.abs(weights).mean(dtype=np.float64)), _SMALLEST))
    scaled = weights * (np.float32(1) / mean)
    return np.asarray(np.clip(np.rint(scaled), -1, 1) * mean, np.float32)


def unpack(packed: np.ndarray) -> np.ndarray:
    """float32[4 N, K]: -1, 0, 1 of uint8[N, K]; bits 2 j of row i hold one more than row i + N j."""
    parts = [(packed >> np.uint8(2 * j)) & np.uint8(3) for j in range(_VALUES)]
    return np.concatenate(parts).astype(np.float32) - 1


class TernaryCheckpoint:
    """The tensors of a checkpoint, matrices of linear layers as the model multiplies by them.

    Parameters
    ----------
    kind : str
        ``model_type`` of config.json.
    raw : dict
        config.json.

    Raises
    ------
    ModelError
        What ``quantization_config`` says is not understood.
    """

    def __init__(self, file: Checkpoint, kind: str, raw: dict[str, Any]):
        self.file, self.path = file, file.path
        self.head = kind == "hgrn_bit"  # of which the output head is ternary too
        self.rounds, self.divides = self.head, False
        if kind == "bitnet":
            self._read_scheme(raw)

    def _read_scheme(self, raw: dict[str, Any]) -> None:
        where = self.path.parent / "config.json"
        given = raw.get("quantization_config")
        if given is None:
            return  # weights as they stand
        if not isinstance(given, dict):
            raise ModelError(f"{where}: quantization_config = {given!r} is not an object")
        fields = {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline",
                  "use_rms_norm": False, "modules_to_not_convert": None} | given
        allowed = {"quant_method": ("bitnet",), "linear_class": ("bitlinear", "autobitlinear"),
                   "quantization_mode": ("offline", "online"), "use_rms_norm": (False,),
                   "modules_to_not_convert": (None, ["lm_head"])}
        for name, value in fields.items():
            if name in allowed and value not in allowed[name]:
                raise ModelError(f"{where}: quantization_config: {name} = {value!r} is not supported, only "
                                 f"{' or '.join(map(repr, allowed[name]))}")
            if name not in allowed and name != "rms_norm_eps":  # which nothing uses without `use_rms_norm`
                raise ModelError(f"{where}: quantization_config: field {name!r} is not understood, so the result could "
                                 "be wrong")
        self.divides = fields["linear_class"] == "bitlinear"
        self.rounds = not self.divides and fields["quantization_mode"] == "online"

    def _linear(self, name: str) -> bool:
        return name.endswith("_proj.weight") or (self.head and name == "lm_head.weight")

    def blank(self, name: str) -> np.ndarray:
        """Of the shape that a tensor has when it is read."""
        there = self.file.blank(name)
        if self._linear(name) and self.file.packed(name):
            return np.broadcast_to(np.float32(0), (_VALUES * there.shape[0], *there.shape[1:]))
        return there

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32; KeyError if there is none of that name."""
        if not self._linear(name):
            return self.file.read(name)
        if self.rounds:
            return absmean(self.file.read(name))
        weights = unpack(self.file.read_packed(name)) if self.file.packed(name) else self.file.read(name)
        scale_name = f"{name}_scale"
        if scale_name not in self.file:
            if self.file.packed(name):
                raise ModelError(f"{self.path}: tensor {scale_name} is missing")
            return weights
        scale = self.file.read(scale_name).reshape(-1)
        if scale.shape != (1,) or not scale[0] > 0:
            raise ModelError(f"{self.path}: {scale_name} must be one positive number")
        return np.asarray(weights / scale if self.divides else weights * scale, np.float32)
