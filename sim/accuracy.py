"""What datatypes cost in accuracy: many settings of one model on several texts, resumable.

Every figure is of exactly what the accelerator computes (`HardwareModel`, which tests hold equal to the functional
simulator bit for bit). Of each setting and window, what was measured of every token is written to a file as soon as it
is known, one JSON object a line; a run finds there what an earlier one of the same model, texts and code version
of the numbers has done.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from wordline.compiler.architecture import expected_shapes, layer_shapes
from wordline.compiler.image import matrices
from wordline.compiler.model import Model, ModelConfig, ModelError
from wordline.pe.datatypes import AUX_BITS, WEIGHT_TYPES, WeightType
from wordline.rtl.config import TypesConfig
from wordline.sim.evaluate import Summary, Tokens
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.reference import float_logits
from wordline.sim.texts import Text


def version(setting: "Setting") -> int:
    """Changes whenever the numbers of a setting could change; what another version measured is not continued. 3:
    below 8 bits, keys have signed scales per channel, and values zero points."""
    return 3 if setting.kv < 8 else 1


@dataclass(frozen=True)
class Setting:
    """Datatypes and quantisers of one measurement.

    Attributes
    ----------
    head : str
        Weight type of the output head.
    kv : int
        Bits of keys and values. The hardware has 8, 4 and 2; below 8, keys have a scale per channel of a group of
        `TypesConfig.kv_group` tokens instead of one per token.
    mixed : tuple[str, ...]
        As `TypesConfig.mixed`.
    scale_bits : int
        Of the group scales; the hardware has 8.
    quantizers : tuple[str, ...]
        What comes on top of rounding, in this order (`wordline.compiler.quantizers`).
    """

    weights: str
    acts: int = 8
    kv: int = 8
    group_size: int = 64
    head: str = "int8"
    quantizers: tuple[str, ...] = ()
    mixed: tuple[str, ...] = field(default=(), repr=False)
    scale_bits: int = field(default=8, repr=False)

    @property
    def name(self) -> str:
        how = "+".join(self.quantizers)
        what = " ".join((self.weights, *self.mixed))
        scales = "" if self.scale_bits == 8 else f" scales{self.scale_bits}"
        return f"{what} A{self.acts} KV{self.kv}{scales}" + (f" {how}" if how else "")

    @property
    def types(self) -> TypesConfig:
        """As the compiler takes them, but for the cache's width."""
        return TypesConfig(weights=self.weights, mixed=self.mixed, head=self.head, group_size=self.group_size,
                           acts=self.acts)


def weight_bits(dtype: WeightType, shape: tuple[int, int], group_size: int, scale_bits: int = 8) -> float:
    """Bits of a matrix [N, K]: codes, group scales, zero points or selects, and a float32 per row."""
    n, k = shape
    groups = -(-k // (dtype.group(group_size) or k))
    code = 8 / 5 if dtype.trits else dtype.bits
    return n * (k * code + groups * (scale_bits + AUX_BITS[dtype.aux]) + 32)


@dataclass(frozen=True)
class Cost:
    """What a decode step reads: bits per weight of the layers' matrices and of all matrices, and bytes of all of them
    and of the KV cache at a context."""

    body_bits: float
    bits: float
    bytes_per_token: float


def matrix_shapes(c: ModelConfig) -> dict[str, tuple[int, int]]:
    """[N, K] of the matrices of a layer."""
    shapes = layer_shapes(c)
    found = {name: [shapes[f"{part}.weight"] for part in parts] for name, parts in matrices(c).items()}
    return {name: (sum(n for n, _ in parts), parts[0][1]) for name, parts in found.items()}


def cost(model: Model, setting: Setting, context: int) -> Cost:
    c = model.config
    shapes = matrix_shapes(c)
    count = c.layers * sum(n * k for n, k in shapes.values())
    bits = c.layers * sum(weight_bits(WEIGHT_TYPES[setting.types.of(kind)], shape, setting.group_size,
                                      setting.scale_bits)
                          for kind, shape in shapes.items())
    head = weight_bits(WEIGHT_TYPES[setting.head], (c.vocab, c.width), setting.group_size, setting.scale_bits)
    key_scales = 32 if setting.kv >= 8 else 32 * c.head_dim / TypesConfig().kv_group
    seen = sum(min(c.window(i) or context, context) for i in range(c.layers))
    value_scales = 32 if setting.kv >= 8 else 64
    cache = c.kv_heads * seen * (2 * c.head_dim * setting.kv + key_scales + value_scales)
    if c.mixer == "mlgru":
        cache = c.layers * c.attention * 32  # the state, read; it is written as well, as keys and values are
    return Cost(bits / count, (bits + head) / (count + c.vocab * c.width), (bits + head + cache) / 8)


@dataclass(frozen=True)
class Window:
    """Token ids of a part of a text."""

    text: str
    number: int
    ids: np.ndarray


def windows(model: Model, texts: list[Text], tokens: int, window: int) -> list[Window]:
    """Of every text's evaluation part, as many whole windows as hold `tokens` tokens.

    Raises
    ------
    ModelError
        A text is too short, or the window longer than the model sees.
    """
    limit = model.config.context
    if not 2 <= window <= limit:
        raise ModelError(f"a window of {window} tokens: {model.config.name} sees 2 to {limit}")
    count = -(-tokens // window)
    found = []
    for text in texts:
        # A token may be as short as a character, and few are longer than 20.
        ids = np.array(model.tokenizer.encode(text.evaluation[: 20 * count * window]).ids)
        if len(ids) < window:
            raise ModelError(f"text {text.name!r} has {len(ids)} tokens for evaluation, a window takes {window}")
        starts = range(0, min(count * window, len(ids) - window + 1), window)
        found += [Window(text.name, i, ids[start : start + window]) for i, start in enumerate(starts)]
    return found


def fingerprint(model: Model) -> str:
    """Tells models apart: of their configuration, norms and biases. Fields that have their defaults do not count, so
    that a new one changes no other model's."""
    said = [(f.name, getattr(model.config, f.name)) for f in fields(model.config) if f.name != "name"
            and getattr(model.config, f.name) != f.default]
    digest = hashlib.sha256(repr(said).encode())
    for name, shape in expected_shapes(model.config).items():
        if len(shape) == 1:
            digest.update(name.encode() + model.tensors[name].tobytes())
    return digest.hexdigest()[:16]


class Store:
    """Finished measurements in a file of JSON lines; without a path, in memory alone."""

    def __init__(self, path: Path | None):
        self.path, self._done = path, {}  # type: ignore[var-annotated]
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    tokens = Tokens(*(np.array(entry[name]) for name in ("source_nats", "nats", "kl", "agree")))
                    self._done[entry["key"]] = tokens
                except (ValueError, KeyError, TypeError):
                    continue  # the line that an interrupted run did not finish

    def get(self, key: str) -> Tokens | None:
        return self._done.get(key)

    def put(self, key: str, about: dict[str, object], tokens: Tokens) -> None:
        self._done[key] = tokens
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        values = {name: [float(f"{x:.7g}") for x in array] for name, array in asdict(tokens).items()}
        # A line that an interrupted run left unfinished must not swallow this one.
        torn = self.path.is_file() and self.path.stat().st_size and self.path.read_bytes()[-1:] != b"\n"
        with self.path.open("a") as file:
            file.write("\n" * bool(torn) + json.dumps({"key": key} | about | values) + "\n")


@dataclass(frozen=True)
class Result:
    """A setting, what it costs, and its figures by text; "all" is all texts together."""

    setting: Setting
    cost: Cost
    tokens: dict[str, Tokens]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        return {name: Summary.of(tokens) for name, tokens in self.tokens.items()}


class Evaluation:
    """One model on some texts.

    Parameters
    ----------
    prepare : callable
        Applies quantisers, as `sim.calibrate.Prepare`.
    """

    def __init__(self, model: Model, texts: list[Text], *, tokens: int, window: int, store: Store,
                 prepare: Callable[[Model, tuple[str, ...], TypesConfig], Model] | None = None):
        self.model, self.store, self.prepare = model, store, prepare
        self.windows = windows(model, texts, tokens, window)
        self.context = window
        self._source: dict[int, np.ndarray] = {}
        self._print = fingerprint(model)
        self._hardware: HardwareModel | None = None

    def _key(self, setting: Setting, w: Window) -> str:
        what = repr((version(setting), self._print, setting, w.ids.tolist(), *setting.mixed,
                     *([] if setting.scale_bits == 8 else [setting.scale_bits])))
        return hashlib.sha256(what.encode()).hexdigest()[:20]

    def _source_logits(self, i: int) -> np.ndarray:
        """float32[T, vocab] of the source model on a window, computed once."""
        if i not in self._source:
            self._source[i] = float_logits(self.model, self.windows[i].ids).astype(np.float32)
        return self._source[i]

    def finished(self, setting: Setting) -> bool:
        """Whether nothing of a setting is left to measure."""
        return all(self.store.get(self._key(setting, w)) is not None for w in self.windows)

    def run(self, settings: list[Setting], progress: Callable[[str, int, int], None]) -> Iterator[Result]:
        """Results in the order of the settings, each as soon as it is whole. `progress` is told what is being done,
        windows done and windows in all.

        Raises
        ------
        ModelError
            The accelerator has no such cache for this model and these windows; nothing has been measured then.
        """
        c = self.model.config
        for setting in settings:
            if setting.kv < 8 and 0 < c.sliding_window < self.context:
                raise ModelError(f"{setting.name}: {c.name} has layers with a sliding window of {c.sliding_window}; "
                                 f"behind it, in a window of {self.context} tokens, keys and values have 8 bits: use "
                                 f"--window {c.sliding_window} or --kv 8")
        total, done = len(settings) * len(self.windows), 0
        for setting in settings:
            hardware = None
            parts: dict[str, list[Tokens]] = {}
            for i, w in enumerate(self.windows):
                key = self._key(setting, w)
                tokens = self.store.get(key)
                if tokens is None:
                    if hardware is None:
                        progress(f"{setting.name}: rounding the weights", done, total)
                        hardware = self._rounded(setting)
                    progress(f"{setting.name}: {w.text}", done, total)
                    tokens = Tokens.compare(self._source_logits(i), hardware.logits(w.ids), w.ids)
                    self.store.put(key, {"model": self.model.config.name, "setting": setting.name, "text": w.text,
                                         "window": w.number}, tokens)
                parts.setdefault(w.text, []).append(tokens)
                done += 1
                progress(f"{setting.name}: {w.text}", done, total)
            joined = {name: Tokens.join(part) for name, part in parts.items()}
            joined["all"] = Tokens.join([tokens for part in parts.values() for tokens in part])
            yield Result(setting, cost(self.model, setting, self.context), joined)

    def _rounded(self, setting: Setting) -> HardwareModel:
        types, model = setting.types, self.model
        if setting.quantizers and self.prepare is not None:
            model = self.prepare(model, setting.quantizers, types)
        self._hardware = HardwareModel(model, types, kv_bits=setting.kv, scale_bits=setting.scale_bits,
                                       like=self._hardware)
        return self._hardware
