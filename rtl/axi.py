"""AXI4, AXI4-Lite and AXI4-Stream as signatures, seen from the master."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

INCR = 1


class Axi4(wiring.Signature):
    """AXI4 without the optional signals that carry nothing here (lock, cache, prot, qos, region, user).

    A port has at most 1024 data bits (`BusConfig` sees to that); inside, `rtl.stripe` has a wider one.
    """

    def __init__(self, *, data_bits: int, address_bits: int, id_bits: int = 1):
        if data_bits < 32 or data_bits & (data_bits - 1):
            raise ValueError(f"data_bits must be a power of two, at least 32, not {data_bits}")
        self.data_bits, self.address_bits, self.id_bits = data_bits, address_bits, id_bits
        super().__init__({
            "awid": Out(id_bits), "awaddr": Out(address_bits), "awlen": Out(8), "awsize": Out(3),
            "awburst": Out(2), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1),
            "wvalid": Out(1), "wready": In(1),
            "bid": In(id_bits), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            "arid": Out(id_bits), "araddr": Out(address_bits), "arlen": Out(8), "arsize": Out(3),
            "arburst": Out(2), "arvalid": Out(1), "arready": In(1),
            "rid": In(id_bits), "rdata": In(data_bits), "rresp": In(2), "rlast": In(1),
            "rvalid": In(1), "rready": Out(1),
        })


class AxiLite(wiring.Signature):
    """AXI4-Lite, 32-bit data."""

    def __init__(self, *, address_bits: int = 8):
        super().__init__({
            "awaddr": Out(address_bits), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            "araddr": Out(address_bits), "arvalid": Out(1), "arready": In(1),
            "rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1),
        })


class AxiStream(wiring.Signature):
    """AXI4-Stream without the signals that carry nothing here, seen from the source."""

    def __init__(self, *, data_bits: int):
        super().__init__({"tdata": Out(data_bits), "tlast": Out(1), "tvalid": Out(1), "tready": In(1)})
