"""One counter for every ordered pair of units: what the first has ended and the second may use."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.rtl.isa import SEMAPHORE_BITS, UNITS, Unit


class Semaphores(wiring.Component):
    """``count(p, u) += give[p] & signal[p][u] - take[u] & wait[u][p]`` in every cycle, for all units p, u.

    ``granted[u]`` says in the same cycle whether every counter that unit u waits for is above zero; u
    may raise ``take[u]`` only then. What p gives in cycle t is granted from cycle t+1 on.

    Members
    -------
    clear : In, all counters to zero
    wait, granted, take : per unit: the mask of producers, whether all of them have given, take one of each
    signal, give : per unit: the mask of consumers, add one for each
    overflow : Out, a counter that is full was given one more
    """

    def __init__(self):
        super().__init__({
            "clear": In(1),
            "wait": In(UNITS).array(UNITS), "granted": Out(UNITS), "take": In(UNITS),
            "signal": In(UNITS).array(UNITS), "give": In(UNITS),
            "overflow": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        full = []
        missing = [[] for _ in Unit]
        for p in Unit:
            for u in Unit:
                count = Signal(SEMAPHORE_BITS, name=f"{p.name.lower()}_to_{u.name.lower()}")
                up, down = Signal(name=f"up_{p}_{u}"), Signal(name=f"down_{p}_{u}")
                m.d.comb += [
                    up.eq(self.give[p] & self.signal[p][u]),
                    down.eq(self.take[u] & self.wait[u][p]),
                ]
                with m.If(self.clear):
                    m.d.sync += count.eq(0)
                with m.Elif(up & ~down):
                    m.d.sync += count.eq(count + 1)
                with m.Elif(down & ~up):
                    m.d.sync += count.eq(count - 1)
                full.append(up & ~down & count.all())
                missing[u].append(self.wait[u][p] & (count == 0))
        m.d.comb += [self.granted[u].eq(~Cat(missing[u]).any()) for u in Unit]
        m.d.comb += self.overflow.eq(Cat(full).any())
        return m
