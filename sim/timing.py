"""How long a model takes: a step at any position, a whole request, and what held it up. No weights needed.

Every figure is counted by the cycle model, which equals the RTL. A step is timed from the fetch of the program's first
instruction to its end, so that loading the program does not count.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wordline.compiler.asm import fields, to_words
from wordline.compiler.model import Model
from wordline.compiler.program import Program
from wordline.compiler.transformer import TransformerCompiler
from wordline.compiler.weights import CompileError
from wordline.pe.datatypes import AUX_BITS, WEIGHT_TYPES, AuxKind
from wordline.rtl.column import ColumnPlan
from wordline.rtl.config import LAYER_MATRICES, Config
from wordline.rtl.isa import CodeOrder, Unit
from wordline.rtl.layout import pick_bits
from wordline.rtl.trits import PER_BYTE
from wordline.sim import cycles
from wordline.sim.dram import DramCounters, timing_of
from wordline.sim.events import part_names

NO_END = -1
#: Parts of a program that are projections and MLP.


@dataclass(frozen=True)
class Step:
    """One step of the program: `tokens` tokens from `position` on, or one token each of a batch of as many.

    Attributes
    ----------
    cycles : int
        Core clock cycles.
    stream_bytes : int
        Weights with their scales, keys and values that the array consumed.
    useful_bytes : int
        Of these, what is not padding to whole beats.
    dram : DramCounters
    causes : dict[str, dict[str, int]]
        Cycles of every unit by `cycles.Cause`.
    gemm_slots : float
        Of the PE cycles between start and end of the projections' and the MLP's matmuls, the share in which a PE
        works on a weight and a token of the step.
    """

    position: int
    tokens: int
    cycles: int
    stream_bytes: int
    useful_bytes: int
    dram: DramCounters
    causes: dict[str, dict[str, int]]
    gemm_slots: float


@dataclass(frozen=True)
class Request:
    """A prompt of `prefill` tokens that is answered with `decode` tokens, the first of which the prompt's last step
    makes; of a batch, as many side by side. Cycles by linear interpolation between simulated steps."""

    prefill: int
    decode: int
    prefill_cycles: float
    decode_cycles: float
    simulated: list[Step]


def peak_bytes_per_cycle(config: Config) -> float:
    """What DRAM can bring in a core cycle; without a DRAM, a beat."""
    timing = timing_of(config)
    return timing.peak_bytes_per_second / (config.clock_mhz * 1e6) if timing else float(config.beat_bytes)


def useful_bytes(program: Program, config: Config, activity: np.ndarray) -> int:
    """Bytes of codes, scales, selects, zero points and indices that the array took, without padding, of a run's
    activity."""
    cols, bits = config.array.cols, 0
    for word, n in zip(to_words(program.instructions), activity, strict=False):
        unit, f = fields(word)
        if unit != Unit.MATMUL:
            continue
        group = cols * (8 * f["group_scales"] + AUX_BITS[AuxKind(f["aux"])]) + 16 * f["sparse"]
        code = 8 / PER_BYTE if f["order"] == CodeOrder.TRITS else f["planes"]
        bits += n["tiles"] * (32 * cols * f["channel_scales"] + f["groups"] * group)
        bits += n["steps"] * cols * config.array.lanes * code
        bits += n["steps"] * config.array.lanes * pick_bits(config.array.window) if f["kept"] else 0
    return round(bits / 8)


class Timer:
    """A model compiled for a configuration and a longest context.

    Raises
    ------
    CompileError
        It does not fit.
    """

    def __init__(self, model: Model, config: Config, *, context: int, batch: int = 1):
        self.model, self.config, self.context, self.batch = model, config, context, batch
        self.compiler = TransformerCompiler(model, config, context=context, keep_logits=False, batch=batch)
        self.program = self.compiler.compile()
        self.group = self.compiler.image.sizes.group

    def decode(self, context: int) -> Step:
        """The step that makes a token (of a batch, one each) with `context` tokens to look at, its own included."""
        if not 1 <= context < self.context:
            raise CompileError(f"context {context}: the program is for 1 to {self.context - 1}")
        return self._step((context, context, context - 1, NO_END), self.batch)

    def prefill(self, position: int, tokens: int = 0, *, last: bool = False) -> Step:
        """A step of a prompt: `array.rows` tokens from `position` on, or those that are left of a group of keys to be
        sealed; the last step may have fewer, and makes the first generated token. Of a batch, a step takes one token
        of each prompt."""
        rows = self.tokens(position)
        tokens = tokens or rows
        if not 1 <= tokens <= rows or (tokens < rows and not last) or not 0 <= position <= self.context - tokens:
            raise CompileError(f"{tokens} tokens from {position}: a step takes {rows}, the program is for "
                               f"{self.context} positions")
        end = position + tokens
        return self._step((end if last else self.context, end, position, NO_END), tokens * self.batch)

    @property
    def rows(self) -> int:
        """Tokens of a prompt in a step."""
        return self.config.array.rows if self.batch == 1 else 1

    def tokens(self, position: int) -> int:
        """Tokens of a prompt in the step that begins at a position."""
        return min(self.rows, self.group - position % self.group) if self.group else self.rows

    def seals(self, position: int) -> bool:
        """Whether a step that begins there seals a group of keys first."""
        return self.group > 0 and position > 0 and position % self.group == 0

    def _step(self, arguments: tuple[int, ...], tokens: int) -> Step:
        """One step of the program, from the fetch of its first instruction on."""
        r = cycles.run(self.program, self.config, arguments)
        causes = {unit: {name: n - r.boot.causes[unit][name] for name, n in of.items()}
                  for unit, of in r.causes.items()}
        return Step(arguments[2], tokens, r.cycles - r.boot.cycles, causes["STREAM"]["WORK"] * self.config.beat_bytes,
                    useful_bytes(self.program, self.config, r.activity), r.dram - r.boot.dram, causes,
                    self._gemm_slots(r))

    def _gemm_slots(self, r: cycles.CyclesResult) -> float:
        activity, spans = r.activity[:-1], r.spans[:-1]  # without the boot's load
        gemm = np.isin(part_names(self.program), LAYER_MATRICES) & (activity["steps"] > 0)
        interval = ColumnPlan(self.config).timing(WEIGHT_TYPES[self.config.types.weights].kind).interval
        row_steps, span = activity["row_steps"][gemm].sum(), spans[gemm].sum()
        return float(row_steps * interval / self.config.array.rows / span)

    def request(self, prefill: int, decode: int, *, samples: int = 4) -> Request:
        """A prompt and its continuation. Steps are simulated at `samples` positions of each and interpolated; those
        that seal a group of keys, and those of a prompt with fewer tokens, among themselves."""
        if prefill < 1 or prefill + decode > self.context:
            raise CompileError(f"{prefill} + {decode} tokens: a prompt has at least one, and the program is for "
                               f"{self.context}")
        simulated: list[Step] = []

        def total(begins: list[int], step: Callable[[int], Step], *, prompt: bool = False) -> float:
            alike: dict[tuple[int, bool], list[int]] = {}
            for position in begins:
                key = self.tokens(position) if prompt else 1, self.seals(position)
                alike.setdefault(key, []).append(position)
            return sum(interpolated(np.array(positions), step) for positions in alike.values())

        def interpolated(positions: np.ndarray, step: Callable[[int], Step]) -> float:
            at = np.unique(positions[np.linspace(0, len(positions) - 1, samples).astype(int)])
            steps = [step(int(p)) for p in at]
            simulated.extend(steps)
            return float(np.interp(positions, at, [s.cycles for s in steps]).sum())

        starts = [0]
        while starts[-1] + self.tokens(starts[-1]) < prefill:
            starts.append(starts[-1] + self.tokens(starts[-1]))
        first = total(starts[:-1], self.prefill, prompt=True)
        first += total(starts[-1:], lambda p: self.prefill(p, prefill - p, last=True))
        rest = total(list(range(prefill, prefill + decode - 1)), lambda p: self.decode(p + 1))
        return Request(prefill, decode, first, rest, simulated)
