"""An SDR SDRAM chip that holds data and refuses every command which comes too early."""

from amaranth.sim import SimulatorContext

from wordline.rtl.sdram import Command
from wordline.sim.dram_devices import DramTiming

NEVER = -(1 << 30)
WORDS = 4  # of a burst, as the mode register is to say


class SdramModel:
    """A chip at `pins`, sampled once a cycle; `timing` is in its clocks.

    A word is there for the controller to sample at the end of the cycle CL - 1 after its RD was at the pins: the chip's
    clock is the controller's inverted. Outside of that the bus carries nonsense.

    Attributes
    ----------
    memory : word address -> 16 bits
    word : what the chip drives; 0xDEAD while nothing is read
    counts : commands so far
    refreshed : cycles of the refreshes
    """

    def __init__(self, pins, timing: DramTiming, *, startup: int, slack: int = 80):
        self.pins, self.t, self.startup, self.slack = pins, timing, startup, slack
        self.banks, words = timing.banks, timing.columns * timing.burst_bytes // 2
        self.column_bits = (words - 1).bit_length()
        self.memory: dict[int, int] = {}
        self.counts = dict.fromkeys(Command, 0)
        self.refreshed: list[int] = []
        self.open: list[int | None] = [None] * self.banks
        self.act, self.pre = [NEVER] * self.banks, [NEVER] * self.banks
        self.read, self.write = [NEVER] * self.banks, [NEVER] * self.banks
        self.any_act = self.any_read = self.any_write = self.refresh = self.mode = NEVER
        self.coming: dict[int, int] = {}  # cycle -> word
        self.going: dict[int, int] = {}  # cycle -> word address
        self.now = self.word = 0

    def address(self, bank: int, column: int) -> int:
        row = self.open[bank]
        assert row is not None
        return (row * self.banks + bank) << self.column_bits | column

    def at_least(self, what: str, since: int, clocks: int) -> None:
        assert self.now - since >= clocks, f"{what}: {self.now - since} clocks, at least {clocks}"

    async def serve(self, ctx: SimulatorContext):
        """In Amaranth's simulator, as a test bench in the background."""
        pins = self.pins
        while True:
            ctx.set(pins.dq_i, self.word)
            *_, cke, command, bank, a, mask, drives, word = await ctx.tick().sample(
                pins.cke, pins.command, pins.ba, pins.a, pins.dqm, pins.dq_oe, pins.dq_o)
            self.clock(cke, command, bank, a, mask, drives, word)

    def clock(self, cke: int, command: int, bank: int, a: int, mask: int, drives: int, word: int) -> None:
        """A cycle in which the pins were so; `word` is then what the chip drives in the next."""
        command = Command(command)
        self.counts[command] += 1
        assert cke or self.now == 0
        if command != Command.NOP:
            self.check(command, bank, a)
        coming, going = self.coming, self.going
        if command == Command.READ:
            start = self.address(bank, a)
            coming |= {self.now + self.t.CL - 1 + i: self.memory.get(start + i, 0) for i in range(WORDS)}
        if command == Command.WRITE:
            start = self.address(bank, a)
            going |= {self.now + i: start + i for i in range(WORDS)}
        assert bool(drives) == (self.now in going), "the controller drives the bus while it writes, and only then"
        if self.now in going:
            at, keep = going.pop(self.now), (0xFF if mask & 1 else 0) | (0xFF00 if mask & 2 else 0)
            self.memory[at] = self.memory.get(at, 0) & keep | word & ~keep
        elif any(cycle in coming for cycle in range(self.now, self.now + 2)):
            assert mask == 0  # a mask would blank words that are read
        if self.refreshed:
            # A refresh may wait for a command under way; the next one comes in time all the same.
            late = self.now - self.refreshed[0] - self.t.tREFI * len(self.refreshed)
            assert late <= self.slack, "a refresh is missing"
        self.now += 1
        self.word = coming.pop(self.now) if self.now in coming else 0xDEAD

    def check(self, command: Command, bank: int, a: int) -> None:
        t, now = self.t, self.now
        assert now >= self.startup, "too early after power-up"
        self.at_least("tRFC", self.refresh, t.tRFC)
        self.at_least("tMRD", self.mode, 2)
        if command == Command.ACTIVATE:
            assert self.mode != NEVER and self.open[bank] is None
            self.at_least("tRP", self.pre[bank], t.tRP)
            self.at_least("tRC", self.act[bank], t.tRC)
            self.at_least("tRRD", self.any_act, t.tRRD_S)
            self.open[bank], self.act[bank], self.any_act = a, now, now
        elif command in (Command.READ, Command.WRITE):
            assert self.open[bank] is not None and not a >> 10 & 1 and a >> self.column_bits == 0 and a % WORDS == 0
            self.at_least("tRCD", self.act[bank], t.tRCD)
            self.at_least("burst", max(self.any_read, self.any_write), WORDS)
            if command == Command.READ:
                self.read[bank] = self.any_read = now
            else:
                self.at_least("tRTW", self.any_read, t.CL + WORDS + 1)
                self.write[bank] = self.any_write = now
        elif command == Command.PRECHARGE:
            for i in range(self.banks) if a >> 10 & 1 else [bank]:
                if self.open[i] is not None:
                    self.at_least("tRAS", self.act[i], t.tRAS)
                    self.at_least("read burst", self.read[i], WORDS)
                    self.at_least("tWR", self.write[i], WORDS + t.tWR)
                    self.open[i] = None
                    self.pre[i] = now
                elif self.mode == NEVER:
                    self.pre[i] = now
        elif command == Command.REFRESH:
            assert all(row is None for row in self.open)
            self.at_least("tRP", max(self.pre), t.tRP)
            self.at_least("tRC", max(self.act), t.tRC)
            self.refresh = now
            if self.mode != NEVER:
                self.refreshed.append(now)
        elif command == Command.MODE:
            assert self.mode == NEVER and all(pre != NEVER for pre in self.pre), "precharge comes first"
            assert self.counts[Command.REFRESH] >= 8
            # Sequential bursts of four, for reads and writes alike.
            assert a == t.CL << 4 | 0b010, f"mode register {a:#x}"
            self.mode = now
        else:
            raise AssertionError(f"burst stop, {command}")
