"""DRAM devices by name: geometry, timing, and where every number comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIELDS = ("channel", "group", "bank", "row", "column")  # of an address, in the order of DramField
COUNTS = ("channels", "bank_groups", "banks", "rows", "columns", "burst_bytes")
TIMES = ("burst", "tRCD", "tRP", "tRAS", "tRC", "tCCD_S", "tCCD_L", "tRRD_S", "tRRD_L", "tFAW", "tWR", "tWTR_S",
         "tWTR_L", "tRTP", "tRTW", "CL", "CWL", "tREFI", "tRFC")


class DramError(ValueError):
    """A DRAM that cannot be: an unknown name, a count that is no power of two, an impossible timing."""


@dataclass(frozen=True, kw_only=True)
class DramTiming:
    """A DRAM: its geometry, its timing and where addresses lie in it.

    Parameters
    ----------
    tck_ps : int
        Period of the command clock, picoseconds.
    channels, bank_groups, banks, rows, columns : int
        Channels; bank groups of a channel, banks of a group, rows of a bank, bursts of a row. Powers of two.
    burst_bytes : int
        Bytes of a burst over a channel's whole data bus.
    burst : int
        Command clocks that a burst occupies the data bus.
    tRCD, tRP, tRAS, tRC, tRRD_S, tRRD_L, tFAW : int
        Command clocks, as everything below. ACT to RD or WR; PRE to ACT; ACT to PRE; ACT to ACT of one bank, of two
        groups, of one group; any five ACTs of a channel take at least tFAW. _S is "other group", _L "same group".
    tCCD_S, tCCD_L, tRTW, tRTP : int
        RD or WR to RD or WR; RD to WR; RD to PRE.
    tWR, tWTR_S, tWTR_L : int
        From the end of write data to PRE, and to RD.
    CL, CWL : int
        RD to its data, WR to its data.
    tREFI, tRFC : int
        Refreshes are due every tREFI (0: never) and take tRFC.
    mapping : str
        Fields of an address above its burst offset, most significant first, each of `FIELDS` once.
    source : str
        Where the numbers come from.

    Raises
    ------
    DramError
    """

    tck_ps: int
    channels: int
    bank_groups: int
    banks: int
    rows: int
    columns: int
    burst_bytes: int
    burst: int
    tRCD: int
    tRP: int
    tRAS: int
    tRC: int
    tCCD_S: int
    tCCD_L: int
    tRRD_S: int
    tRRD_L: int
    tFAW: int
    tWR: int
    tWTR_S: int
    tWTR_L: int
    tRTP: int
    tRTW: int
    CL: int
    CWL: int
    tREFI: int
    tRFC: int
    # Neighbouring bursts lie in other channels, then in other groups, so that tCCD_S counts.
    mapping: str = "row:bank:column:group:channel"
    source: str = ""

    def __post_init__(self) -> None:
        for name in COUNTS:
            n = getattr(self, name)
            if n < 1 or n & (n - 1):
                raise DramError(f"{name} = {n}: must be a power of two")
        for name in ("tck_ps", "burst", "tRCD", "tRP"):
            if getattr(self, name) < 1:
                raise DramError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in TIMES:
            if not 0 <= getattr(self, name) < 1 << 24:
                raise DramError(f"{name} = {getattr(self, name)}: must be 0 to {(1 << 24) - 1}")
        # A burst must fit between two refreshes whatever came before it.
        least = sum(getattr(self, name) for name in TIMES if name != "tREFI")
        if self.tREFI and self.tREFI <= least:
            raise DramError(f"tREFI = {self.tREFI}: must be 0 or above {least}, the sum of all other times")
        if sorted(self.mapping.split(":")) != sorted(FIELDS):
            raise DramError(f'mapping "{self.mapping}": must name each of {", ".join(FIELDS)} once')

    @property
    def size(self) -> int:
        """Bytes."""
        return self.channels * self.bank_groups * self.banks * self.rows * self.columns * self.burst_bytes

    @property
    def peak_bytes_per_second(self) -> float:
        """All data buses busy all the time."""
        return self.channels * self.burst_bytes / (self.burst * self.tck_ps) * 1e12


_DDR4 = DramTiming(
    tck_ps=833, channels=1, bank_groups=4, banks=4, rows=65536, columns=128, burst_bytes=64, burst=4,
    tRCD=17, tRP=17, tRAS=39, tRC=56, tCCD_S=4, tCCD_L=6, tRRD_S=4, tRRD_L=6, tFAW=26, tWR=18, tWTR_S=3, tWTR_L=9,
    tRTP=9, tRTW=11, CL=17, CWL=12, tREFI=9360, tRFC=420,
    source="JESD79-4 (DDR4-2400, 17-17-17, 8 Gb x8, eight on 64 bits) as in Ramulator2 src/dram/impl/DDR4.cpp; "
           "tREFI and tRFC from DRAMsim3 2981759 configs/DDR4_8Gb_x8_2400.ini; tRTW = CL + burst + 2 - CWL, as there",
)

# Pseudo-channels of 64 bits, sixteen in a stack. tRCD is that of reads (6 for writes).
_HBM2 = DramTiming(
    tck_ps=1000, channels=16, bank_groups=4, banks=4, rows=32768, columns=32, burst_bytes=32, burst=2,
    tRCD=12, tRP=14, tRAS=28, tRC=42, tCCD_S=2, tCCD_L=3, tRRD_S=4, tRRD_L=6, tFAW=16, tWR=14, tWTR_S=4, tWTR_L=9,
    tRTP=5, tRTW=18, CL=17, CWL=7, tREFI=3900, tRFC=220,
    source="DRAMSys configs/memspec/HBM2.json (pseudo-channels of JESD235; after ComputerBase's "
           "article on AMD Memory Tweak)",
)

# Presets. "tRTW = ..." is JEDEC's rule for read to write on one data bus, worked out from the line's other numbers.
DEVICES: dict[str, DramTiming] = {
    "ddr4-2400": _DDR4,
    "ddr4-3200": replace(
        _DDR4, tck_ps=625, tRCD=22, tRP=22, tRAS=52, tRC=74, tCCD_L=8, tRRD_L=8, tFAW=34, tWR=24, tWTR_S=4, tWTR_L=12,
        tRTP=12, tRTW=12, CL=22, CWL=16, tREFI=12480, tRFC=560,
        source="JESD79-4 (DDR4-3200AA, 8 Gb x8, eight on 64 bits); Ramulator2 src/dram/impl/DDR4.cpp and DRAMsim3 "
               "configs/DDR4_8Gb_x8_3200.ini agree; tRTW = CL + burst + 2 - CWL",
    ),
    # tRP is tRPab, that of precharging all banks, also for one bank (29 there). CL contains tDQSCK, CWL tDQSS.
    "lpddr4-3200": DramTiming(
        tck_ps=625, channels=2, bank_groups=1, banks=8, rows=65536, columns=64, burst_bytes=32, burst=8,
        tRCD=29, tRP=34, tRAS=68, tRC=102, tCCD_S=8, tCCD_L=8, tRRD_S=16, tRRD_L=16, tFAW=64, tWR=29, tWTR_S=16,
        tWTR_L=16, tRTP=12, tRTW=30, CL=34, CWL=15, tREFI=6246, tRFC=448,
        source="JESD209-4 (8 Gb a channel of 16 bits) as in DRAMSys configs/memspec/JEDEC_8Gb_LPDDR4-3200_16bit.json; "
               "tRTW = RL + tDQSCK + burst + tWPRE - WL",
    ),
    # Bank group mode, bursts of 16. tRP is again tRPab.
    "lpddr5-6400": DramTiming(
        tck_ps=1250, channels=2, bank_groups=4, banks=4, rows=32768, columns=64, burst_bytes=32, burst=2,
        tRCD=15, tRP=17, tRAS=34, tRC=51, tCCD_S=2, tCCD_L=4, tRRD_S=4, tRRD_L=4, tFAW=16, tWR=28, tWTR_S=5, tWTR_L=10,
        tRTP=4, tRTW=12, CL=20, CWL=11, tREFI=3120, tRFC=168,
        source="JESD209-5 (8 Gb a channel of 16 bits): gem5 LPDDR5_6400_1x16_BG_BL16 (burst, tCCD, tRRD, tFAW, tRFC, "
               "tREFI) and Ramulator2 src/dram/impl/LPDDR5.cpp (the others; tRC = tRAS + tRP, where it has 30); "
               "tRTW = CL + burst + tWCKDQO - CWL",
    ),
    "hbm2": _HBM2,
    # The same device at the U280's data rate, 1.8 Gb/s a pin: 32 pseudo-channels in two stacks, 460.8 GB/s.
    "hbm2-1800": replace(
        _HBM2, tck_ps=1111, channels=32, rows=16384, tRCD=11, tRP=13, tRAS=26, tRC=39, tFAW=15, tWR=13,
        tREFI=3510, tRFC=199,
        source="hbm2's nanoseconds rounded up to clocks of 1.111 ns (tREFI down), all other times its clocks; 8 GB in "
               "32 pseudo-channels, 460 GB/s: AMD UG1393, HBM Configuration and Use",
    ),
    # Two channels of 16 bits in a device. tRCD is that of reads (28 for writes).
    "gddr6-16": DramTiming(
        tck_ps=500, channels=2, bank_groups=4, banks=4, rows=16384, columns=64, burst_bytes=32, burst=2,
        tRCD=36, tRP=32, tRAS=54, tRC=89, tCCD_S=2, tCCD_L=2, tRRD_S=11, tRRD_L=11, tFAW=42, tWR=33, tWTR_S=9,
        tWTR_L=11, tRTP=12, tRTW=50, CL=50, CWL=6, tREFI=3333, tRFC=210,
        source="CENT's GDDR6_AiM_timing (github.com/arkhadem/aim_simulator src/dram/impl/GDDR6.cpp), fitted by its "
               "authors to SK hynix's SDK and ISSCC paper; tFAW unused there; "
               "tRTW = CL + burst + 4 - CWL as in Ramulator2's GDDR6.cpp",
    ),
    # Bursts of 8. tWR is 15 ns from the edge that takes the last word, one clock before the burst's end;
    # RD to PRE is the burst, since a PRE cuts off data from CL - 1 clocks later on. There is no tFAW and no tWTR.
    "sdr-133": DramTiming(
        tck_ps=7500, channels=1, bank_groups=1, banks=4, rows=8192, columns=64, burst_bytes=16, burst=8,
        tRCD=3, tRP=3, tRAS=6, tRC=9, tCCD_S=8, tCCD_L=8, tRRD_S=2, tRRD_L=2, tFAW=0, tWR=1, tWTR_S=0, tWTR_L=0,
        tRTP=8, tRTW=12, CL=3, CWL=0, tREFI=1041, tRFC=9,
        source="Micron MT48LC16M16 (32 MB, ULX3S's default in LiteX) as in LiteDRAM litedram/modules.py, nanoseconds "
               "rounded up to clocks of 7.5 ns; tRC = tRAS + tRP; tRTW = CL + burst + one clock to turn the bus",
    ),
}


def device(name: str, *, channels: int | None = None, mapping: str | None = None) -> DramTiming:
    """A preset of `DEVICES`, with its number of channels and its address mapping replaced if given.

    Raises
    ------
    DramError
        There is no such device, or the replacement is not valid.
    """
    if name not in DEVICES:
        raise DramError(f'no DRAM "{name}": there are {", ".join(sorted(DEVICES))}')
    timing = DEVICES[name]
    return replace(timing, channels=timing.channels if channels is None else channels,
                   mapping=timing.mapping if mapping is None else mapping)
