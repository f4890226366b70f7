"""How long a model takes: a step at any position, a whole request, and what held it up. No weights needed.

Every figure is counted by the cycle model, which equals the RTL. A step is timed as the difference between two runs,
one of which makes one step more, so that starting up does not count.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wordline.compiler.model import Model
from wordline.compiler.transformer import TransformerCompiler
from wordline.compiler.weights import CompileError
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.rtl.column import ColumnPlan
from wordline.rtl.config import Config
from wordline.rtl.isa import Unit
from wordline.sim import cycles
from wordline.sim.dram import DramCounters
from wordline.sim.dram_devices import device

NO_END = -1


@dataclass(frozen=True)
class Step:
    """One step of the program: `tokens` tokens from `position` on.

    Attributes
    ----------
    cycles : int
        Core clock cycles.
    stream_bytes : int
        Weights with their scales, keys and values that the array consumed.
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
    dram: DramCounters
    causes: dict[str, dict[str, int]]
    gemm_slots: float


@dataclass(frozen=True)
class Request:
    """A prompt of `prefill` tokens that is answered with `decode` tokens, the first of which the prompt's last step
    makes. Cycles by linear interpolation between simulated steps."""

    prefill: int
    decode: int
    prefill_cycles: float
    decode_cycles: float
    simulated: list[Step]


def peak_bytes_per_cycle(config: Config) -> float:
    """What DRAM can bring in a core cycle; without a DRAM, a beat."""
    d = config.dram
    if d.kind == "fixed":
        return float(config.beat_bytes)
    peak = device(d.kind, channels=d.channels or None, mapping=d.mapping or None).peak_bytes_per_second
    return peak / (config.clock_mhz * 1e6)


class Timer:
    """A model compiled for a configuration and a longest context.

    Raises
    ------
    CompileError
        It does not fit.
    """

    def __init__(self, model: Model, config: Config, *, context: int):
        self.model, self.config, self.context = model, config, context
        self.compiler = TransformerCompiler(model, config, context=context, keep_logits=False)
        self.program = self.compiler.compile()

    def _run(self, arguments: tuple[int, ...]) -> cycles.CyclesResult:
        return cycles.run(self.program, self.config, arguments, record=True)

    def decode(self, context: int) -> Step:
        """The step that makes a token with `context` tokens to look at, its own included."""
        if not 1 <= context < self.context:
            raise CompileError(f"context {context}: the program is for 1 to {self.context - 1}")
        p = context - 1
        if p == 0:
            return self._difference(p, 1, None, self._run((1, 1, 0, NO_END)))
        first, both = (self._run((p, p + n, p - 1, NO_END)) for n in (0, 1))
        return self._difference(p, 1, first, both)

    def prefill(self, position: int, tokens: int = 0, *, last: bool = False) -> Step:
        """A step of a prompt: `array.rows` tokens from `position` on; the last step may have fewer, and makes the first
        generated token."""
        rows = self.config.array.rows
        tokens = tokens or rows
        if not 1 <= tokens <= rows or (tokens < rows and not last) or not 0 <= position <= self.context - tokens:
            raise CompileError(f"{tokens} tokens from {position}: array.rows = {rows}, the program is for "
                               f"{self.context} positions")
        end = position + tokens
        prompt = end if last else self.context
        if position < rows:
            return self._difference(position, tokens, None, self._run((prompt, end, position, NO_END)))
        first, both = (self._run((prompt, to, position - rows, NO_END)) for to in (position, end))
        return self._difference(position, tokens, first, both)

    def _difference(self, position: int, tokens: int, first: cycles.CyclesResult | None,
                    both: cycles.CyclesResult) -> Step:
        skip = 0 if first is None else first.ended["MATMUL"]
        causes, d, before = both.causes, both.dram, 0
        if first is not None:
            f, before = first.dram, first.cycles
            causes = {unit: {name: n - first.causes[unit][name] for name, n in of.items()}
                      for unit, of in causes.items()}
            d = DramCounters({k: n - f.commands[k] for k, n in d.commands.items()}, d.hits - f.hits,
                             d.misses - f.misses, d.conflicts - f.conflicts, d.data_clocks - f.data_clocks,
                             d.refresh_clocks - f.refresh_clocks)
        beats = causes["STREAM"]["WORK"]
        return Step(position, tokens, both.cycles - before,
                    beats * self.config.beat_bytes, d, causes, self._gemm_slots(both, skip, tokens))

    def _gemm_slots(self, result: cycles.CyclesResult, skip: int, tokens: int) -> float:
        c, a = self.model.config, self.config.array
        e = result.events[result.events["unit"] == Unit.MATMUL]
        e = np.sort(e, order="index")[skip:]
        self.compiler.looped = a.rows > 1 and tokens > 1
        attention = 2 * len(self.compiler.groups())
        place = np.arange(len(e))[: (4 + attention) * c.layers] % (4 + attention)
        gemm = (place == 0) | (place > attention)
        busy = int((e["end"] - e["start"])[: len(place)][gemm].sum())
        interval = ColumnPlan(self.config).timing(WEIGHT_TYPES[self.config.types.weights].kind).interval
        steps = sum(m.tiles * m.layout.steps for m in self.compiler.image.matrices.values()) * c.layers
        return steps * interval * tokens / a.rows / busy

    def request(self, prefill: int, decode: int, *, samples: int = 4) -> Request:
        """A prompt and its continuation. Steps are simulated at `samples` positions of each and interpolated."""
        if prefill < 1 or prefill + decode > self.context:
            raise CompileError(f"{prefill} + {decode} tokens: a prompt has at least one, and the program is for "
                               f"{self.context}")
        rows = self.config.array.rows
        simulated: list[Step] = []

        def total(positions: np.ndarray, step: Callable[[int], Step]) -> float:
            if not len(positions):
                return 0.0
            at = np.unique(positions[np.linspace(0, len(positions) - 1, samples).astype(int)])
            steps = [step(int(p)) for p in at]
            simulated.extend(steps)
            return float(np.interp(positions, at, [s.cycles for s in steps]).sum())

        starts = np.arange(0, prefill, rows)
        first = total(starts[:-1], self.prefill)
        first += total(starts[-1:], lambda p: self.prefill(p, prefill - p, last=True))
        rest = total(np.arange(prefill + 1, prefill + decode), self.decode)
        return Request(prefill, decode, first, rest, simulated)
