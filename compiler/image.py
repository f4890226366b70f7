"""Where a model lies in DRAM: weights, norms and biases, position tables, KV cache or state, tokens and logits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from wordline.compiler.architecture import ModelConfig, layer_shapes, lower_bounds, rope_frequencies
from wordline.compiler.model import Model
from wordline.compiler.places import Sizes
from wordline.compiler.weights import (
    ALIGNMENT,
    Kept,
    Matrix,
    MemoryMap,
    embedding_row,
    int8_embedding,
    kept_in_tiles,
    make_matrix,
    quantised,
    require,
    shape_matrix,
    weight_type,
)
from wordline.pe.datatypes import WeightType
from wordline.rtl.config import Config
from wordline.rtl.isa import INSTRUCTION_BYTES, CodeOrder
from wordline.rtl.layout import TileLayout, ceil_div


def matrices(c: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Matrices of a layer, and the projections whose rows each takes together."""
    mixer = dict(zip("ifg", ((part,) for part in c.mixer_parts), strict=True)) if c.mixer == "mlgru" else {
        "qkv": c.mixer_parts}
    return mixer | {"o": ("self_attn.o_proj",), "gate_up": c.up_parts, "down": ("mlp.down_proj",)}


def norms(c: ModelConfig) -> tuple[str, ...]:
    """RMSNorms and LayerNorms of a layer by the name of their tensor, without those of heads' queries and keys."""
    found = ["input_layernorm", c.mlp_norm]
    if c.post_norms:
        found += ["post_attention_layernorm", "post_feedforward_layernorm"]
    if c.sub_norms:
        found += ["self_attn.attn_sub_norm", "mlp.ffn_sub_norm"]
    if c.mixer == "mlgru":
        found.append("self_attn.g_norm")
    if c.linear_norms:
        found += [f"{part}.norm" for part in (*c.mixer_parts, "mlp.gate_proj")]
    return tuple(found)


class Image:
    """Addresses of everything, and the initial contents of DRAM in `map`.

    A layer is one block: weights, vectors, cache; all layers alike, so that one register leads to each. `offsets`
    are within the block; those of the caches are the first sequence's of a batch.
    """

    def __init__(self, model: Model, config: Config, sizes: Sizes, context: int, *, logits: bool,
                 batch: int = 1, bounded: bool = True):
        self.model, self.config, self.sizes, self.batch, self.bounded = model, config, sizes, batch, bounded
        self.c: ModelConfig = model.config
        self.map = MemoryMap(max(ALIGNMENT, config.beat_bytes))
        self.offsets: dict[str, int] = {}
        c, beat = self.c, config.beat_bytes
        self.program_address = self.map.take("program", config.memory.program * INSTRUCTION_BYTES,
                                             "instruction")
        self.token_address = self.map.take("tokens", 4 * batch * (context + 1), "int32", (context + 1, batch))
        if batch > 1:
            self.prompt_address = self.map.take("prompts", 4 * batch, "int32", (batch,), "lengths of the prompts")
        self.embedding_row = embedding_row(c.width, beat)
        require(self.embedding_row < 1 << 16, f"{c.name}: an embedding row of {self.embedding_row} bytes "
                                              "is longer than 65535")
        self.embedding_address = self._put(
            "embedding", c.vocab * self.embedding_row, lambda: int8_embedding(model, beat), dtype="int8",
            shape=(c.vocab, c.width), layout="float32 scale in the first beat of a row")
        if c.positions == "rope":
            self.rope_address = self._rope("rope", local=False)
            if c.rope_local_theta:
                self.rope_local_address = self._rope("rope_local", local=True)
        elif c.positions == "learned":
            self._positions(context)
        self._layers()
        self.norm_address = self._gain("norm", "model.norm.weight", c.width)
        if c.linear_norms:
            self.head_norm_address = self._gain("head norm", "lm_head.norm.weight", c.width)
        if c.norm == "layer":
            self.norm_bias_address = self._put("norm.bias", 4 * c.width, lambda: model.tensors["model.norm.bias"],
                                               dtype="float32")
        self.head = self._matrix("output head", [model.head_name], (c.vocab, c.width),
                                 weight_type(config, config.types.head_weights), prunes=False)
        self.head_address = self._put_matrix("head", self.head)
        if logits:
            self.logit_address = self.map.take("logits", 4 * c.vocab * batch * context, "float32",
                                               (context, batch, c.vocab))
        need, bits = self.map.top, config.bus.address_bits
        require(need <= config.dram.size,
                f"{c.name} with context {context} needs {need} bytes of DRAM, the configuration has dram.size = "
                f"{config.dram.size}; the smallest that fits: --set dram.size={ceil_div(need, 1 << 20) << 20}")
        require(need < 1 << bits, f"{c.name} with context {context} needs {need} bytes, bus.address_bits = {bits} "
                                  f"reach {1 << bits}; the smallest that fits: --set "
                                  f"bus.address_bits={need.bit_length()}")

    def _rope(self, name: str, *, local: bool) -> int:
        """Cosines and sines of every position: float32[max_context, head_dim]."""
        angle = np.arange(self.sizes.max_context)[:, None] * rope_frequencies(self.c, local=local)
        table = np.concatenate([np.cos(angle), np.sin(angle)], 1).astype("<f4")
        return self.map.put(name, table, dtype="float32", shape=table.shape)

    def _positions(self, context: int) -> None:
        """The learned positions from position 0 on, a row starting at a beat."""
        c, beat = self.c, self.config.beat_bytes
        self.position_row = ceil_div(4 * c.width, beat) * beat
        require(self.position_row < 1 << 16,
                f"{c.name}: a row of positions of {self.position_row} bytes is longer than 65535")

        def rows() -> np.ndarray:
            table = self.model.tensors["model.embed_positions.weight"]
            out = np.zeros((context, self.position_row // 4), "<f4")
            out[:, : c.width] = table[c.position_offset : c.position_offset + context]
            return out

        self.position_address = self._put("positions", context * self.position_row, rows, dtype="float32",
                                          shape=(context, c.width))

    def _layers(self) -> None:
        c, config, model = self.c, self.config, self.model
        unknown = {entry.partition("=")[0] for entry in config.types.mixed} - set(matrices(c))
        require(not unknown, f"types.mixed: {c.name} has no matrix {', '.join(sorted(unknown))}; it has "
                             f"{', '.join(matrices(c))}")
        body = {name: weight_type(config, config.types.of(name)) for name in matrices(c)}
        shapes = layer_shapes(c)
        order = self._caches()
        parts_of = {name: (parts, (sum(shapes[f"{part}.weight"][0] for part in parts), shapes[f"{parts[0]}.weight"][1]))
                    for name, parts in matrices(c).items()}
        kept = {name: kept_in_tiles(config, model, name, [[f"model.layers.{i}.{part}.weight" for part in parts]
                                                          for i in range(c.layers)], body[name], shape)
                for name, (parts, shape) in parts_of.items()}
        for i in range(c.layers):
            start = self.map.top

            def at(name: str, address: int, start: int = start) -> None:
                self.offsets[name] = address - start

            self.matrices: dict[str, Matrix] = {}
            for name, (parts, (n, k)) in parts_of.items():
                tensors = [f"model.layers.{i}.{part}.weight" for part in parts]
                matrix = self.matrices[name] = self._matrix(f"layer {i} {name}", tensors, (n, k), body[name],
                                                            kept=kept[name])
                at(name, self._put_matrix(f"layer{i}.{name}", matrix))
                if f"{parts[0]}.bias" in shapes:
                    at(f"{name}.bias", self._put(
                        f"layer{i}.{name}.bias", 4 * n, dtype="float32",
                        data=partial(lambda i, parts: np.concatenate([model.layer(i, p, "bias") for p in parts]),
                                     i, parts)))
            for name in norms(c):
                at(name, self._gain(f"layer{i}.{name}", f"model.layers.{i}.{name}.weight", shapes[f"{name}.weight"][0]))
                if f"{name}.bias" in shapes:
                    at(f"{name}.bias", self._put(f"layer{i}.{name}.bias", 4 * c.width,
                                                 partial(model.layer, i, name, "bias"), dtype="float32"))
            if c.qk_norm:
                at("qk_norm", self._gain(f"layer{i}.qk_norm", *(f"model.layers.{i}.self_attn.{x}_norm.weight"
                                                                for x in "qk"), 2 * c.head_dim))
            if c.lower_bounds:
                at("open", self._put(f"layer{i}.open", 4 * c.attention, partial(self._open, i), dtype="float32",
                                     layout="1 - lower bound of the forget gate"))
            if c.rope_local_theta:
                table = self.rope_local_address - self.rope_address if i in c.local_layers else 0
                at("rope_table", self.map.put(f"layer{i}.rope_table", np.array([table], "<i4"), dtype="int32",
                                              layout="which RoPE table: bytes behind the first"))
            if self.sizes.window and c.local_layers:
                seen = self.sizes.window if i in c.local_layers else self.sizes.max_context
                at("window", self.map.put(f"layer{i}.window", np.array([seen], "<i4"), dtype="int32",
                                          layout="positions that the layer sees"))
            before = self.map.top
            for sequence in range(self.batch):
                for name, size, dtype in order:
                    which = name if sequence == 0 else f"sequence{sequence}.{name}"
                    at(which, self.map.take(f"layer{i}.{which}", size, dtype))
            self.cache_bytes = (self.map.top - before) // self.batch  # of a sequence in a layer
            if i == 0:
                self.layer_address, self.layer_bytes = start, self.map.top - start

    def _caches(self) -> list[tuple[str, int, str]]:
        """What a layer keeps of a sequence: name, bytes and datatype, in the order in which it lies."""
        c, config, a, sizes = self.c, self.config, self.config.array, self.sizes
        if c.mixer == "mlgru":
            return [("state", 4 * c.attention, "float32")]
        kv = sizes.kv
        self.key = TileLayout(cols=a.cols, lanes=a.lanes, bus_bits=config.bus.data_bits, planes=8,
                              steps=sizes.key_dim // a.lanes, group_scales=False, order=CodeOrder.COLUMNS)
        self.sealed = replace(self.key, planes=kv.bits, channel_scales=False)
        self.value = TileLayout(cols=a.cols, lanes=a.lanes, bus_bits=config.bus.data_bits,
                                planes=kv.bits, steps=sizes.max_context // a.lanes, group_scales=False,
                                channel_scales=False, order=CodeOrder.LANES)
        caches = {"keys": (ceil_div(sizes.recent, a.cols) * self.key.tile_bytes, "int8"),
                  "values": (sizes.value_dim // a.cols * self.value.tile_bytes, kv.name)}
        if sizes.group:
            caches |= {"staged": (4 * sizes.group * c.head_dim, "float32"),
                       "sealed": (sizes.sealed * sizes.group // a.cols * self.sealed.tile_bytes, kv.name),
                       "channels": (4 * (sizes.sealed + 1) * c.head_dim, "float32")}
        # A head's caches lie together, or but for the value scales, which all heads then have in a row.
        scales = {"value_scales": (4 * sizes.max_context, "float32")}
        if sizes.zeros:
            scales["value_zeros"] = scales["value_scales"]
        within, behind = (caches | scales, {}) if sizes.group else (caches, scales)
        return [(f"{name}{h}", *about) for part in (within, behind) for h in range(c.kv_heads)
                for name, about in part.items()]

    def _open(self, i: int) -> np.ndarray:
        """float32[channels]: how far a layer's forget gates can open, 1 minus their lower bound."""
        return np.asarray(1 - lower_bounds(self.model.tensors["model.lower_bounds"])[i], np.float32)

    def stride(self, name: str) -> int:
        """Bytes from a head's part of the cache to the next head's."""
        return self.offsets[f"{name}1"] - self.offsets[f"{name}0"]

    def _gain(self, name: str, *tensors_and_size: Any) -> int:
        """The gain of a norm: of some tensors, one behind the other, plus what the architecture adds to them."""
        *tensors, size = tensors_and_size

        def gain() -> np.ndarray:
            weights = np.concatenate([self.model.tensors[tensor] for tensor in tensors])
            return weights + np.float32(self.c.norm_offset) if self.c.norm_offset else weights

        return self._put(name, 4 * size, gain, dtype="float32")

    def _matrix(self, name: str, tensors: list[str], shape: tuple[int, int], dtype: WeightType, *,
                prunes: bool = True, kept: Kept | None = None) -> Matrix:
        """The rows of some tensors, one below the other, as one matrix [N, K]."""
        if self.model.shape_only:
            return shape_matrix(self.config, name, shape, dtype, bounded=self.bounded, kept=kept)
        q = quantised(self.model, name, tensors, dtype.name, self.config.types, prunes=prunes)
        return make_matrix(self.config, name, q, kept)

    def _put_matrix(self, name: str, matrix: Matrix) -> int:
        return self._put(name, matrix.size, lambda: matrix.raw, dtype=matrix.dtype.name, layout=repr(matrix.layout))

    def _put(self, name: str, size: int, data: Callable[[], Any], **about: Any) -> int:
        """A place in DRAM with its contents, if the model has any."""
        if self.model.shape_only:
            return self.map.take(name, size, **about)
        return self.map.put(name, data(), **about)
