"""One program on several executors: the comparisons that tests of models have in common."""

import numpy as np

from wordline.rtl.config import Config, load_config
from wordline.sim import cycles, verify
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generation, Generator, compare
from wordline.sim.rtl import RtlMachine


def error(ours: np.ndarray, exact: np.ndarray) -> float:
    """Root-mean-square error, relative to the exact numbers."""
    return float(np.sqrt(((ours - exact) ** 2).mean() / (exact**2).mean()))


def hardware(rows: int = 1, *more: str) -> Config:
    """`bitmod` with room for every tiny model, INT8 weights and cache, INT16 activations."""
    return load_config("bitmod", [
        f"array.rows={rows}", "types.weights=int8", "types.acts=16", "types.kv=int8", "memory.vector_floats=16384",
        "memory.program=4096", *more])


def functional(generator: Generator, config: Config) -> Generation:
    """Token ids and logits from the functional simulator."""
    return generator.functional(FunctionalMachine(config), lambda tokens: None)


def check_rtl(generator: Generator, config: Config, machine: RtlMachine, *, stalls: float = 0.0,
              seed: int = 0) -> Generation:
    """RTL and functional simulator give the same bits, RTL and cycle model take the same cycles."""
    rtl = generator.rtl(machine, lambda tokens, cycles: None, stalls=stalls, seed=seed)
    difference = compare(rtl, functional(generator, config))
    assert difference.bits == 0, difference.where
    memory = verify.functional_memory(generator.program, config, generator.arguments)
    model = cycles.run(generator.program, config, generator.arguments, memory=memory, stalls=stalls, seed=seed)
    assert rtl.result is not None and model.cycles == rtl.result.cycles
    return rtl
