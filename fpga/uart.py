"""A serial port: 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out


class UartReceiver(wiring.Component):
    """Bytes from a line, sampled in the middle of each bit; a byte without a stop bit is dropped.

    Members
    -------
    rx : In, the line
    valid, byte : Out, a byte, for one cycle
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "valid": Out(1), "byte": Out(8)})  # type: ignore[call-arg]

    def elaborate(self, platform):
        m = Module()
        rx, count, bits, shift = Signal(init=1), Signal(range(2 * self.divisor)), Signal(range(10)), Signal(9)
        m.submodules.synchronize = FFSynchronizer(self.rx, rx, init=1)
        m.d.sync += self.valid.eq(0)
        with m.If(bits == 0):
            with m.If(~rx):  # a start bit: first sample in the middle of bit 0
                m.d.sync += [bits.eq(9), count.eq(self.divisor + self.divisor // 2 - 1)]
        with m.Elif(count != 0):
            m.d.sync += count.eq(count - 1)
        with m.Else():
            m.d.sync += [shift.eq(Cat(shift[1:], rx)), bits.eq(bits - 1), count.eq(self.divisor - 1)]
            with m.If(bits == 1):
                m.d.sync += [self.valid.eq(rx), self.byte.eq(shift[1:])]
        return m


class UartTransmitter(wiring.Component):
    """Bytes onto a line.

    Members
    -------
    bytes : In(stream of 8 bits)
    tx : Out, the line
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"bytes": In(stream.Signature(8)), "tx": Out(1, init=1)})  # type: ignore[call-arg]

    def elaborate(self, platform):
        m = Module()
        count, bits, shift = Signal(range(self.divisor)), Signal(range(11)), Signal(10, init=-1)
        m.d.comb += [self.bytes.ready.eq(bits == 0)]
        m.d.sync += self.tx.eq(shift[0] | (bits == 0))
        with m.If(bits == 0):
            with m.If(self.bytes.valid):
                m.d.sync += [shift.eq(Cat(Const(0, 1), self.bytes.payload, Const(1, 1))), bits.eq(10),
                             count.eq(self.divisor - 1)]
        with m.Elif(count != 0):
            m.d.sync += count.eq(count - 1)
        with m.Else():
            m.d.sync += [shift.eq(Cat(shift[1:], Const(1, 1))), bits.eq(bits - 1), count.eq(self.divisor - 1)]
        return m
