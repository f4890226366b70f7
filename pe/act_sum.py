"""Sums of activations over a weight group: what a zero point is multiplied by.

A group of weights with zero point z contributes ``sum((q - z) * x) = sum(q * x) - z * sum(x)``. The second sum
does not depend on the output channel, so the array's front end forms it once for all columns, while they
form the first (MixPE, arXiv 2411.16158, dequantises after the group in the same way).
"""

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from wordline.pe.family import act_layout, adder_tree, signed_bits, tree_levels


class ActSum(wiring.Component):
    """``xsum[r] = sum(act[r][k] for k in the group)``, one result a group, a step every cycle.

    A family's latency may differ from kind to kind, so the results wait in a queue: whoever takes a column's
    dot products takes a sum with each. The head of an empty queue appears ``2 + ceil(log4(lanes))`` cycles
    after the acceptance of the group's last step, which no column undercuts.

    Parameters
    ----------
    rows, lanes, act_bits, group_max : int
        As of the columns (`PeColumn`).
    depth : int
        Groups that may be between the acceptance of their last step and their dot products.

    Members
    -------
    steps : ``In(stream)``, always ready: ``valid`` in the cycle in which the columns take a step, with the step's
        activations and whether it ends the group
    xsum : ``Out(stream)`` of ``[rows]`` sums
    """

    steps: stream.Interface
    xsum: stream.Interface

    def __init__(self, *, rows: int, lanes: int, act_bits: int, group_max: int, depth: int = 16):
        self.rows, self.lanes, self.depth = rows, lanes, depth
        self.sum_bits = signed_bits(group_max << (act_bits - 1))
        self.latency = 2 + tree_levels(lanes)
        acts = act_layout(rows, lanes, act_bits)
        super().__init__({
            "steps": In(stream.Signature(data.StructLayout({"acts": acts, "last": 1}), always_ready=True)),
            "xsum": Out(stream.Signature(data.ArrayLayout(signed(self.sum_bits), rows))),
        })

    @staticmethod
    def reference(acts: np.ndarray) -> np.ndarray:
        """int64[rows]: sums of int[rows, K]."""
        return acts.astype(np.int64).sum(1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = SyncFIFO(width=self.rows * self.sum_bits, depth=self.depth)
        step = self.steps.payload

        # valid and last travel with the partial sums through the adder tree.
        levels = tree_levels(self.lanes)
        valid, last = Signal(levels), Signal(levels)
        m.d.sync += [valid.eq(Cat(self.steps.valid, valid)), last.eq(Cat(step.last, last))]
        summed, ends = Cat(self.steps.valid, valid)[levels], Cat(step.last, last)[levels]

        first, finished = Signal(init=1), Signal()
        with m.If(summed):
            m.d.sync += first.eq(ends)
        m.d.sync += finished.eq(summed & ends)
        accs = []
        for r in range(self.rows):
            total = adder_tree(m, [step.acts[r][i] for i in range(self.lanes)], f"tree_{r}")
            acc = Signal(signed(self.sum_bits), name=f"acc_{r}")
            with m.If(summed):
                m.d.sync += acc.eq(Mux(first, 0, acc) + total)
            accs.append(acc)
        m.d.comb += [
            queue.w_en.eq(finished), queue.w_data.eq(Cat(accs)),
            self.xsum.valid.eq(queue.r_rdy), self.xsum.payload.eq(queue.r_data),
            queue.r_en.eq(self.xsum.ready),
        ]
        return m
