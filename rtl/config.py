"""The hardware configuration: one frozen tree of dataclasses, read from TOML and checked on construction.

Everything that changes the generated hardware is in `ArrayConfig`, `VectorConfig`, `MemoryConfig` and
`BusConfig`; `TypesConfig` only says what the compiler makes of a model, so one Verilated design
serves every datatype its array can decode. `Config.hardware_hash` covers the former and not the latter.
"""

import dataclasses
import hashlib
import json
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.pe.family import family, served


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names file, field, value and what is allowed."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _check(ok: bool, field_name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{field_name} = {value!r} is not allowed: {allowed}")


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """The PE array: `rows` tokens by `cols` output channels by `lanes` products along K.

    Parameters
    ----------
    family : str
        PE family, a name in `wordline.pe.family.FAMILIES`, perhaps with options: ``bit_plane:pairs=4``.
    rows : int
        Tokens (or heads that share a key head) computed at once, 1 to 16.
    cols : int
        Output channels computed at once; a power of two, at least 4.
    lanes : int
        Products along K per step and PE; a power of two, at least 4.
    act_bits : int
        Width of the integer activations the PEs take: 8 or 16. Narrower ones are sign-extended.
    weights : tuple[str, ...]
        Weight datatypes the array decodes. The KV cache's types belong here too.
    acc_bits : int
        Width of the integer accumulators, 24 to 64. The compiler refuses what could overflow.
    group_min : int
        Smallest weight group, in elements of K, that the dequantiser must follow without a stall.
    group_max : int
        Largest weight group, in elements of K (sets the width of a group's dot product).
    drain_lanes : int
        Accumulators converted to float32 per cycle; a power of two, at most `cols`.
    sparse : bool
        Tiles may leave out weight groups: their header says which are there.
    window : int
        Tiles may leave out single weights, N of M = `window` kept (N:M sparsity): of the elements of a lane in so many
        neighbouring words of the activation buffer, which then has an address for each lane. 2, 4, 8 or 16; 0: none.
    """

    family: str = "mac"
    rows: int = 1
    cols: int = 8
    lanes: int = 8
    act_bits: int = 8
    weights: tuple[str, ...] = ("int8", "int4")
    acc_bits: int = 48
    group_min: int = 32
    group_max: int = 1024
    drain_lanes: int = 1
    sparse: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        try:
            pe = family(self.family)
        except ValueError as error:
            raise ConfigError(f"array.family = {self.family!r} is not allowed: {error}") from None
        _check(1 <= self.rows <= 16, "array.rows", self.rows, "1 to 16")
        for name in ("cols", "lanes"):
            value = getattr(self, name)
            _check(_power_of_two(value) and 4 <= value <= 128, f"array.{name}", value,
                   "a power of two from 4 to 128")
        _check(self.act_bits in (8, 16), "array.act_bits", self.act_bits, "8 or 16")
        _check(len(self.weights) > 0, "array.weights", self.weights, "at least one weight type")
        for name in self.weights:
            _check(name in WEIGHT_TYPES, "array.weights", name, f"one of {sorted(WEIGHT_TYPES)}")
            _check(name in served(pe), "array.weights", name,
                   f"array.family = {self.family!r} decodes {', '.join(served(pe))}")
        _check(24 <= self.acc_bits <= 64, "array.acc_bits", self.acc_bits, "24 to 64")
        _check(_power_of_two(self.group_min) and self.group_min >= self.lanes, "array.group_min",
               self.group_min, f"a power of two, at least array.lanes ({self.lanes})")
        _check(self.group_min <= self.group_max <= 65536, "array.group_max", self.group_max,
               f"from array.group_min ({self.group_min}) to 65536")
        _check(_power_of_two(self.drain_lanes) and self.drain_lanes <= self.cols, "array.drain_lanes",
               self.drain_lanes, f"a power of two, at most array.cols ({self.cols})")
        _check(self.window in (0, 2, 4, 8, 16), "array.window", self.window, "2, 4, 8 or 16; 0 for none")


@dataclass(frozen=True, kw_only=True)
class VectorConfig:
    """The vector unit: `lanes` float32 lanes, a power of two from 2 to 64."""

    lanes: int = 4

    def __post_init__(self) -> None:
        _check(_power_of_two(self.lanes) and 2 <= self.lanes <= 64, "vector.lanes", self.lanes,
               "a power of two from 2 to 64")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """On-chip memories. Each has one writer and its own readers, so that no access ever waits.

    Parameters
    ----------
    vector_floats, matmul_floats, load_floats, store_floats : int
        Float32 elements in the banks X (written by the vector unit), M (by the array), L (by the
        load unit) and S (read by the store unit).
    act_elements : int
        Activations per array row in the activation buffer; the longest K, context included.
    stream_beats : int
        Beats in the weight-stream FIFO; at least 64.
    meta_beats : int
        Beats held of one tile's group scales (and as many of special-value selects or zero points).
    program : int
        Instructions held on chip.
    """

    vector_floats: int = 4096
    matmul_floats: int = 4096
    load_floats: int = 1024
    store_floats: int = 1024
    act_elements: int = 2048
    stream_beats: int = 512
    meta_beats: int = 256
    program: int = 512

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            # STREAM asks for a burst when its FIFO has room for all of it: the longest has 64 beats (rtl.read_port).
            least = 64 if f.name == "stream_beats" else 16
            _check(_power_of_two(value) and least <= value <= 1 << 22, f"memory.{f.name}", value,
                   f"a power of two from {least} to 4194304")


@dataclass(frozen=True, kw_only=True)
class BusConfig:
    """The AXI4 masters: `data_bits` per beat, over all `ports`, each of 32 to 1024 bits; addresses of `address_bits`
    (at most 40). Several ports work in lockstep as one wide one (`rtl.stripe`)."""

    data_bits: int = 64
    address_bits: int = 32
    ports: int = 1

    def __post_init__(self) -> None:
        _check(_power_of_two(self.ports) and self.ports <= 64, "bus.ports", self.ports, "a power of two from 1 to 64")
        _check(_power_of_two(self.data_bits) and 32 <= self.port_bits <= 1024, "bus.data_bits",
               self.data_bits, f"a power of two from {32 * self.ports} to {1024 * self.ports}, "
               f"32 to 1024 for each of bus.ports ({self.ports})")
        _check(16 <= self.address_bits <= 40, "bus.address_bits", self.address_bits, "16 to 40")

    @property
    def port_bits(self) -> int:
        """Of a port's beat."""
        return self.data_bits // self.ports

    @property
    def page_bytes(self) -> int:
        """A burst must not cross addresses that this divides: AXI's 4 KB in every port."""
        return 4096 * self.ports


@dataclass(frozen=True, kw_only=True)
class DramConfig:
    """The memory behind the bus in simulation.

    Parameters
    ----------
    kind : str
        "fixed": one beat per cycle after `latency` cycles. Otherwise a device of `wordline.sim.dram_devices`.
    size : int
        Bytes that a run uses.
    latency : int
        Core cycles from a read's address to its first beat; of a DRAM device, those that controller and PHY add.
    channels : int
        Channels of the device; 0 for as many as its preset has.
    mapping : str
        Address mapping, such as "row:bank:column:group:channel"; empty for the preset's.
    """

    kind: str = "fixed"
    size: int = 1 << 26
    latency: int = 20
    channels: int = 0
    mapping: str = ""

    def __post_init__(self) -> None:
        _check(self.channels == 0 or _power_of_two(self.channels), "dram.channels", self.channels,
               "0 or a power of two")
        _check(4096 <= self.size <= 1 << 40, "dram.size", self.size, "4096 bytes to 1 TiB")
        _check(1 <= self.latency <= 1000, "dram.latency", self.latency, "1 to 1000 cycles")


#: The matrices of a layer: queries, keys and values; output of attention; gate and up; down. With a recurrence instead
#: of attention its input, forget gate and output gate come in the place of the first.
LAYER_MATRICES = ("qkv", "o", "gate_up", "down", "i", "f", "g")


@dataclass(frozen=True, kw_only=True)
class TypesConfig:
    """What the compiler makes of a model: datatypes of weights, activations and KV cache.

    `group_size` is 16, 32, 64, 128 or 0 for the whole row. `head` is the weight type of the output head; `mixed` names
    those of some of the layers' matrices, as "down=int6" (of qkv, o, gate_up, down; i, f, g). With a KV
    cache of 4 or 2 bits (`kv`), keys are quantised per channel over groups of `kv_group` tokens, with signed scales,
    values per token, with zero points.
    Of the groups of the layers' matrices the share `keep` is kept, the rest pruned (`wordline.pe.prune`);
    `keep_channels` neighbouring channels keep the same, and of every `keep_window` groups the same number (0: of a
    row).

    `nm`, as "2:4", prunes single weights instead: of every M elements of K that lie `nm_stride` apart N are kept, the
    same ones by `keep_channels` neighbouring channels. An array with `array.window` leaves them out; it leaves out
    most if `nm_stride` is its lanes, M its window, and `keep_channels` a multiple of its columns.
    """

    weights: str = "int4"
    group_size: int = 64
    head: str = ""
    acts: int = 8
    kv: str = "int8"
    kv_group: int = 32
    keep: float = 1.0
    keep_channels: int = 8
    keep_window: int = 0
    nm: str = ""
    nm_stride: int = 16
    mixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.mixed:
            matrix, _, name = entry.partition("=")
            _check(matrix in LAYER_MATRICES and name in WEIGHT_TYPES, "types.mixed", entry,
                   f"MATRIX=TYPE with one of {', '.join(LAYER_MATRICES)} and one of {sorted(WEIGHT_TYPES)}")
        _check(0 < self.keep <= 1, "types.keep", self.keep, "above 0, at most 1")
        _check(self.keep_channels >= 1, "types.keep_channels", self.keep_channels, "at least 1")
        _check(self.keep_window >= 0, "types.keep_window", self.keep_window, "at least 0")
        n, m = self.n_of_m
        _check(self.nm == "" or (0 < n < m and m in (2, 4, 8, 16)), "types.nm", self.nm,
               '"N:M" with M 2, 4, 8 or 16 and N below it, such as "2:4"; or empty')
        _check(not (self.nm and self.keep < 1), "types.nm", self.nm,
               f"types.keep = {self.keep:g} prunes groups already; leave out one of them")
        _check(_power_of_two(self.nm_stride), "types.nm_stride", self.nm_stride, "a power of two")
        for name in ("weights", "head"):
            value = getattr(self, name)
            _check(value in WEIGHT_TYPES or (name == "head" and value == ""), f"types.{name}", value,
                   f"one of {sorted(WEIGHT_TYPES)}")
        _check(self.group_size in (0, 16, 32, 64, 128), "types.group_size", self.group_size,
               "16, 32, 64, 128, or 0 for the whole row")
        _check(self.acts in (4, 8, 16), "types.acts", self.acts, "4, 8 or 16")
        _check(self.kv in ("int8", "int4", "int2"), "types.kv", self.kv, '"int8", "int4" or "int2"')
        _check(self.kv_group in (8, 16, 32, 64, 128), "types.kv_group", self.kv_group, "8, 16, 32, 64 or 128")

    @property
    def head_weights(self) -> str:
        return self.head or self.weights

    @property
    def n_of_m(self) -> tuple[int, int]:
        """N and M of `nm`; (0, 0) if it is empty, or is not two numbers."""
        n, _, m = self.nm.partition(":")
        return (int(n), int(m)) if n.isdecimal() and m.isdecimal() else (0, 0)

    @property
    def prunes(self) -> bool:
        return self.keep < 1 or bool(self.nm)

    def of(self, matrix: str) -> str:
        """The weight type of one of `LAYER_MATRICES`."""
        return dict(entry.split("=") for entry in self.mixed).get(matrix, self.weights)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration. `clock_mhz` is the intended clock of the core."""

    name: str = "unnamed"
    clock_mhz: float = 100.0
    array: ArrayConfig = field(default_factory=ArrayConfig)
    vector: VectorConfig = field(default_factory=VectorConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    bus: BusConfig = field(default_factory=BusConfig)
    dram: DramConfig = field(default_factory=DramConfig)
    types: TypesConfig = field(default_factory=TypesConfig)

    def __post_init__(self) -> None:
        a, v, bus = self.array, self.vector.lanes, self.bus.data_bits
        _check(self.clock_mhz > 0, "clock_mhz", self.clock_mhz, "a positive number of MHz")
        _check(v <= min(a.lanes, a.cols), "vector.lanes", v,
               f"at most array.lanes ({a.lanes}) and array.cols ({a.cols})")
        _check(a.drain_lanes <= v, "array.drain_lanes", a.drain_lanes, f"at most vector.lanes ({v})")
        _check(bus <= 16 * a.cols * a.lanes, "bus.data_bits", bus,
               f"at most 16 bit planes of cols x lanes ({a.cols * a.lanes} bits)")
        _check(a.lanes <= bus, "array.lanes", a.lanes, f"at most bus.data_bits ({bus})")
        _check(a.cols <= bus, "array.cols", a.cols, f"at most bus.data_bits ({bus})")
        m = self.memory
        _check(m.act_elements >= a.lanes * max(a.window, 1), "memory.act_elements", m.act_elements,
               "at least array.lanes, times array.window if there is one")
        _check(m.act_elements // v <= 4096, "memory.act_elements", m.act_elements,
               f"at most 4096 x vector.lanes ({4096 * v})")
        for name in ("vector_floats", "matmul_floats", "load_floats", "store_floats"):
            _check(getattr(m, name) // v <= 65536, f"memory.{name}", getattr(m, name),
                   f"at most 65536 x vector.lanes ({65536 * v})")

    @property
    def beat_bytes(self) -> int:
        return self.bus.data_bits // 8

    @property
    def scale_beats(self) -> int:
        """Beats of a tile's group scales, and as many of selects or zero points, that the array holds."""
        return max(self.memory.meta_beats, self.array.cols * 8 // self.bus.data_bits)

    @property
    def index_beats(self) -> int:
        """Beats of a tile's group index that a sparse array holds: as many groups as it has scales for."""
        return max(1, 2 * self.scale_beats // self.array.cols)

    def hardware(self) -> dict[str, Any]:
        """The part of the tree that decides the generated hardware, as plain data."""
        tree = dataclasses.asdict(self)
        return {key: tree[key] for key in ("array", "vector", "memory", "bus")}

    def hardware_hash(self) -> str:
        """16 hexadecimal digits that change when the generated hardware may change."""
        return hashlib.sha256(json.dumps(self.hardware(), sort_keys=True).encode()).hexdigest()[:16]


def config_from_dict(tree: dict[str, Any], *, source: str = "configuration") -> Config:
    """Build a `Config` from nested plain data.

    Raises
    ------
    ConfigError
        An unknown field, a value of the wrong type, or a value that is not allowed.
    """
    try:
        return _build(Config, tree, "")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _build(cls: type, tree: dict[str, Any], path: str) -> Any:
    hints = get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        where = f"{path}{key}"
        if key not in names:
            raise ConfigError(f"{where} is not a field; allowed here: {sorted(names)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            _check(isinstance(value, dict), where, value, "a table")
            values[key] = _build(hint, value, f"{where}.")
        elif hint is float:
            _check(isinstance(value, int | float) and not isinstance(value, bool), where, value,
                   "a number")
            values[key] = float(value)
        elif hint is bool:
            _check(isinstance(value, bool), where, value, "true or false")
            values[key] = value
        elif hint in (int, str):
            _check(isinstance(value, hint) and not isinstance(value, bool), where, value,
                   "a whole number" if hint is int else "a string")
            values[key] = value
        else:
            _check(isinstance(value, list | tuple) and all(isinstance(v, str) for v in value), where,
                   value, "a list of strings")
            values[key] = tuple(value)
    return cls(**values)


def find_config(name: str | Path) -> Path:
    """The file that `name` means: a path, or the name of a configuration that ships with Wordline."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = Path(str(resources.files("wordline.configs")))
    candidate = shipped / f"{path.stem}.toml"
    if candidate.is_file():
        return candidate
    names = sorted(p.stem for p in shipped.glob("*.toml"))
    raise ConfigError(f"no configuration {str(name)!r}: not a file, and not one of {names}")


def load_config(name: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Read a TOML configuration and apply overrides of the form ``section.field=value``.

    The value is read as TOML (``array.rows=4``, ``types.kv="int4"``); a bare word is a string.

    Raises
    ------
    ConfigError
        The file is missing or not TOML, an override is malformed, or a value is not allowed.
    """
    path = find_config(name)
    try:
        tree = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    tree.setdefault("name", path.stem)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override!r}: write section.field=value")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        *sections, leaf = key.strip().split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {override!r}: {section} is not a table")
        node[leaf] = value
    return config_from_dict(tree, source=str(path))
