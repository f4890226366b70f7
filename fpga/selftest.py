"""A program whose result is known: one matmul, which a host runs on new hardware and compares."""

from dataclasses import replace

import numpy as np

from wordline.compiler.asm import to_array
from wordline.compiler.builder import Builder
from wordline.compiler.program import Program
from wordline.compiler.weights import MemoryMap, make_matrix, weight_type
from wordline.pe.quantize import quantize
from wordline.rtl.config import Config
from wordline.rtl.isa import (
    INSTRUCTION_BYTES,
    Destination,
    Factor,
    Function,
    IntBits,
    LoadFormat,
    Operation,
    SourceA,
    SourceB,
)
from wordline.rtl.matmul_ref import effective_weights, matmul

SEED = 20
RESULT = "result"


def selftest(config: Config) -> tuple[Program, np.ndarray]:
    """A program that multiplies a vector by a matrix of the array's first weight type, and its result, float32[N].

    LOAD brings the vector, VECTOR makes integers of it, STREAM and MATMUL multiply, STORE writes: no unit is left out.
    """
    a = config.array
    dtype, group = a.weights[0], max(32, a.group_min) if a.group_min <= 128 else 0
    config = replace(config, types=replace(config.types, weights=dtype, group_size=group))
    rng = np.random.default_rng(SEED)
    k, n = 2 * (group or a.lanes), 2 * a.cols
    q = quantize(rng.standard_normal((n, k)).astype(np.float32), weight_type(config, dtype), group)
    matrix = make_matrix(config, "selftest", q)
    x = rng.integers(-127, 128, k).astype(np.int8)
    memory = MemoryMap()
    memory.take("program", config.memory.program * INSTRUCTION_BYTES, "instruction")
    at_x = memory.put("x", x, "int8", x.shape)
    assert matrix.raw is not None
    at_w = memory.put("weights", matrix.raw, dtype)
    at_y = memory.take(RESULT, 4 * n, "float32", (n,))
    b = Builder()
    b.load(at_x, 0, k, LoadFormat.INT8)
    b.vector(len=k, a_source=SourceA.IMMEDIATE, immediate=1.0, multiply=Factor.B, b_source=SourceB.L, b=0,
             function=Function.INT, bits=IntBits.B8, destination=Destination.ACT, dst=0)
    b.vector(len=1, a_source=SourceA.IMMEDIATE, immediate=1.0, destination=Destination.ROW_SCALE, dst=0)
    b.stream(at_w, *matrix.run())
    b.matmul(rows=1, act=0, tiles=matrix.tiles, out=0, slot=0, **matrix.matmul_fields())
    b.vector(len=n, a_source=SourceA.M, a=0, destination=Destination.S, dst=0)
    b.store(at_y, 0, n, RESULT)
    b.barrier()
    b.control(Operation.END)
    program = Program(config.hardware_hash(), to_array(b.words()), memory.segments, memory.symbols,
                      {"model": "selftest"})
    weights, channel = effective_weights(matrix.raw, matrix.layout, matrix.dtype.kind)
    return program, matmul(x[None].astype(np.int64), weights, np.ones(1, np.float32), channel)[0]
