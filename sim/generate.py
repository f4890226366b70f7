"""Generates text with a compiled program on either executor, and compares executors bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wordline.compiler.model import Model
from wordline.compiler.program import Program, Symbol
from wordline.sim.functional import FunctionalMachine
from wordline.sim.result import RunResult
from wordline.sim.rtl import RtlMachine

NO_END = -1


class Machine(Protocol):
    """What both executors have: DRAM."""

    memory: np.ndarray


@dataclass(frozen=True)
class Generation:
    """Token ids (prompt and generated), logits float32[generated, vocab], and what the RTL counted."""

    tokens: np.ndarray
    prompt: int
    logits: np.ndarray
    result: RunResult | None = None


@dataclass(frozen=True)
class Difference:
    """How many bits of tokens and logits differ, and where the first is."""

    bits: int
    where: str = ""


class Generator:
    """One prompt on one machine.

    Parameters
    ----------
    stop : int
        Token that ends generation; `NO_END` for none.
    """

    def __init__(self, model: Model, program: Program, prompt: list[int], tokens: int, *, stop: int = NO_END):
        context = int(str(program.info["context"]))
        if not prompt:
            raise ValueError("the prompt has no tokens")
        if tokens < 1 or len(prompt) + tokens > context:
            raise ValueError(f"{len(prompt)} prompt tokens and {tokens} more do not fit the context of "
                             f"{context}; the prompt may have up to {context - 1} tokens")
        self.model, self.program, self.prompt, self.count = model, program, prompt, tokens
        self.arguments = (len(prompt), len(prompt) + tokens - 1, 0, stop)
        self.symbol = program.symbols["tokens"]
        blank = np.full(self.symbol.size // 4, -1, "<i4")
        blank[: len(prompt)] = prompt
        program.segments[self.symbol.address] = blank.view(np.uint8)

    def _tokens(self, machine: Machine) -> np.ndarray:
        """Token ids so far; -1 marks those not yet generated."""
        raw = machine.memory[self.symbol.address : self.symbol.address + self.symbol.size]
        ids = raw.view("<i4")[: len(self.prompt) + self.count]
        end = np.flatnonzero(ids < 0)
        return ids[: end[0]].copy() if end.size else ids.copy()

    def _finish(self, machine: Machine, result: RunResult | None) -> Generation:
        tokens = self._tokens(machine)
        symbol, vocab = self.program.symbols["logits"], self.model.config.vocab
        n = len(tokens) - len(self.prompt)
        raw = machine.memory[symbol.address : symbol.address + 4 * vocab * n]
        return Generation(tokens, len(self.prompt), raw.view("<f4").reshape(n, vocab).copy(), result)

    def functional(self, machine: FunctionalMachine, progress: Callable[[np.ndarray], None]) -> Generation:
        """Run on the functional simulator; `progress` sees the tokens so far."""
        machine.run(self.program, self.arguments, progress=lambda _: progress(self._tokens(machine)))
        progress(self._tokens(machine))
        return self._finish(machine, None)

    def rtl(self, machine: RtlMachine, progress: Callable[[np.ndarray, int], None], *, stalls: float = 0.0,
            seed: int = 0, wave: tuple[Path, int, int] | None = None) -> Generation:
        """Run on the RTL; `progress` sees the tokens and the cycles so far."""
        result = machine.run(self.program, self.arguments, stalls=stalls, seed=seed, wave=wave,
                             progress=lambda cycles: progress(self._tokens(machine), cycles))
        progress(self._tokens(machine), result.cycles)
        return self._finish(machine, result)


class BatchGenerator:
    """Several prompts side by side on one machine, with a program compiled for a batch of as many.

    Prompts may be of different lengths; `tokens` is how many are generated for each. An end token does not end
    anything: cut off what follows it.
    """

    def __init__(self, model: Model, program: Program, prompts: list[list[int]], tokens: int):
        context, batch = int(str(program.info["context"])), int(str(program.info["batch"]))
        if len(prompts) != batch:
            raise ValueError(f"{len(prompts)} prompts, but the program is for a batch of {batch}")
        lengths = [len(prompt) for prompt in prompts]
        if tokens < 1 or min(lengths) < 1 or max(lengths) + tokens > context:
            raise ValueError(f"prompts of {lengths} tokens and {tokens} more each do not fit the context of {context}")
        self.model, self.program, self.prompts, self.count = model, program, prompts, tokens
        self.arguments = (min(lengths), max(lengths) + tokens - 1, 0, NO_END)
        self.symbol = program.symbols["tokens"]
        blank = np.full(self.symbol.shape, -1, "<i4")
        for i, prompt in enumerate(prompts):
            blank[: len(prompt), i] = prompt
        program.segments[self.symbol.address] = blank.reshape(-1).view(np.uint8)
        program.segments[program.symbols["prompts"].address] = np.array(lengths, "<i4").view(np.uint8)

    def run(self, machine: FunctionalMachine | RtlMachine) -> list[Generation]:
        """What each prompt became."""
        machine.run(self.program, self.arguments)
        logits, steps = self.program.symbols["logits"], self.arguments[1] - self.arguments[0] + 1

        def read(symbol: Symbol, dtype: str, n: int) -> np.ndarray:
            raw = machine.memory[symbol.address : symbol.address + symbol.size].view(dtype)
            return raw.reshape(symbol.shape)[:n].copy()

        ids = read(self.symbol, "<i4", self.arguments[1] + 1)
        values = read(logits, "<f4", steps)
        result = []
        for i, prompt in enumerate(self.prompts):
            first = len(prompt) - self.arguments[0]
            result.append(Generation(ids[: len(prompt) + self.count, i], len(prompt),
                                     values[first : first + self.count, i]))
        return result


def compare(a: Generation, b: Generation) -> Difference:
    """Bits in which tokens and logits of two runs differ."""
    if len(a.tokens) != len(b.tokens):
        return Difference(32 * abs(len(a.tokens) - len(b.tokens)),
                          f"{len(a.tokens)} tokens against {len(b.tokens)}")
    token_bits = np.bitwise_count((a.tokens ^ b.tokens).view(np.uint32))
    logit_bits = np.bitwise_count(a.logits.view(np.uint32) ^ b.logits.view(np.uint32))
    total = int(token_bits.sum() + logit_bits.sum())
    if not total:
        return Difference(0)
    if logit_bits.any():
        i, j = np.argwhere(logit_bits)[0]
        return Difference(total, f"logit {j} of generated token {i}: {a.logits[i, j]!r} against {b.logits[i, j]!r}")
    i = int(np.flatnonzero(token_bits)[0])
    return Difference(total, f"token {i}: {a.tokens[i]} against {b.tokens[i]}")
