"""What a computer would do for the accelerator, as a circuit: prompts and text over a serial port.

A line of text becomes tokens by the byte pairs of the model's tokenizer, tokens go to memory, the program is started,
and every token that it writes goes back as text. The tokenizer's splitting of text into words before pairs are merged
is left out: no pair crosses a word's end but in rare contractions, where a prompt may become other tokens than on a
computer.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from wordline.compiler.model import ModelError
from wordline.rtl.axi import AxiLite
from wordline.rtl.isa import Csr

RETURN, NEWLINE, BACKSPACE, DELETE = 13, 10, 8, 127
GREETING = b"\r\n> "
RUBOUT = b"\x08 \x08"


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE tokenizer: `byte_id[b]` is the token of byte b, `merges[i]` the pair that makes token
    ``first + i``; a pair that stands earlier is merged earlier."""

    byte_id: list[int]
    merges: list[tuple[int, int]]
    first: int

    @classmethod
    def read(cls, folder: Path) -> "BytePairs":
        """From a tokenizer.json; raises `ModelError` if it is of another kind."""
        path = folder / "tokenizer.json"
        model = json.loads(path.read_text())["model"]
        vocabulary = model["vocab"]
        byte_id = [vocabulary.get(character, -1) for character in _byte_characters()]
        merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        made = [vocabulary[a + b] for a, b in merges]
        first = made[0] if made else 0
        if model.get("type") != "BPE" or -1 in byte_id or made != list(range(first, first + len(made))) \
                or len(merges) > 256 or max(vocabulary.values()) > 511:
            raise ModelError(f"{path}: a board's host takes byte-level BPE of at most 256 pairs and 512 tokens, the "
                             "pairs' tokens in the order of the pairs")
        return cls(byte_id, [(vocabulary[a], vocabulary[b]) for a, b in merges], first)

    def encode(self, text: bytes) -> list[int]:
        """As the circuit does it."""
        tokens = [self.byte_id[byte] for byte in text]
        for i, pair in enumerate(self.merges):
            merged: list[int] = []
            for token in tokens:
                if merged and (merged[-1], token) == pair:
                    merged[-1] = self.first + i
                else:
                    merged.append(token)
            tokens = merged
        return tokens

    def decode(self, token: int) -> bytes:
        if token >= self.first and token < self.first + len(self.merges):
            a, b = self.merges[token - self.first]
            return self.decode(a) + self.decode(b)
        return bytes([self.byte_id.index(token)]) if token in self.byte_id else b""


def _byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself if it is visible in Latin-1, otherwise
    the next of those from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return [chr(b) if b in visible else chr(0x100 + hidden.index(b)) for b in range(256)]


@dataclass(frozen=True)
class ProgramPlace:
    """What the host must know of the program: where it and the tokens are, how long it and a sequence may be."""

    program: int
    instructions: int
    tokens: int
    context: int
    eos: int


class Host(wiring.Component):
    """Reads a line, runs the program on it until the context is full or the end token comes, prints what it writes.

    Members
    -------
    received, received_valid : In, bytes of the serial port
    text : Out(stream of 8 bits) to it
    write : Out, tokens of the prompt to memory: ``valid``, ``ready``, ``address``, ``word``
    wrote, wrote_address, wrote_word : In, what the accelerator writes
    control : Out(AxiLite), finished : In, of the accelerator
    """

    def __init__(self, pairs: BytePairs, place: ProgramPlace, *, address_bits: int):
        self.pairs, self.place, self.address_bits = pairs, place, address_bits
        super().__init__({
            "received": In(8), "received_valid": In(1), "text": Out(stream.Signature(8)),
            "write": Out(wiring.Signature({"valid": Out(1), "ready": In(1), "address": Out(address_bits),
                                           "word": Out(32)})),
            "wrote": In(1), "wrote_address": In(address_bits), "wrote_word": In(32),
            "control": Out(AxiLite()), "finished": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        pairs, place, control = self.pairs, self.place, self.control
        # One table: token of a byte, byte of a token, the two tokens of a pair.
        entry = data.StructLayout({"id": 9, "byte": 8, "left": 9, "right": 9})
        one_byte = min(pairs.byte_id)
        merges = pairs.merges + [(511, 511)] * (256 - len(pairs.merges))
        of_id = {token: byte for byte, token in enumerate(pairs.byte_id)}
        m.submodules.table = table = Memory(shape=entry, depth=256, init=[
            {"id": pairs.byte_id[i], "byte": of_id.get(one_byte + i, 0), "left": left, "right": right}
            for i, (left, right) in enumerate(merges)])
        look = table.read_port()

        depth = 1 << place.context.bit_length()
        m.submodules.line = line = Memory(shape=9, depth=depth, init=[])
        line_read, line_write = line.read_port(domain="comb"), line.write_port()
        count, at, to = Signal(range(depth)), Signal(range(depth)), Signal(range(depth))
        m.d.comb += line_read.addr.eq(at)
        rank, pending, held = Signal(range(257)), Signal(9), Signal()

        # Tokens that the program writes, waiting to be printed.
        m.submodules.tokens = tokens = SyncFIFO(width=9, depth=16)
        first, last = place.tokens, place.tokens + 4 * place.context
        m.d.comb += [
            tokens.w_data.eq(self.wrote_word),
            tokens.w_en.eq(self.wrote & (self.wrote_address >= first) & (self.wrote_address < last)),
        ]

        # Text: a token is taken apart until bytes are left.
        m.submodules.stack = stack = Memory(shape=9, depth=16, init=[])
        top, push = stack.read_port(domain="comb"), stack.write_port()
        height, taken = Signal(range(16)), Signal(9)
        m.d.comb += top.addr.eq(height - 1)
        expanding = Signal()
        said = Signal(stream.Signature(8).members["payload"].shape)
        quote, quoted, remaining = Signal(32), Signal(), Signal(range(5))

        def say(words: bytes) -> list:
            """Print up to four bytes."""
            return [quote.eq(int.from_bytes(words, "little")), remaining.eq(len(words))]

        m.d.comb += quoted.eq(remaining != 0)
        m.d.comb += [self.text.payload.eq(Mux(quoted, quote[:8], said)), self.text.valid.eq(quoted)]
        with m.If(quoted & self.text.ready):
            m.d.sync += [quote.eq(quote >> 8), remaining.eq(remaining - 1)]

        registers = [
            (Csr.PROGRAM_LOW, Const(place.program, 32)), (Csr.PROGRAM_HIGH, Const(0, 32)),
            (Csr.PROGRAM_LENGTH, Const(place.instructions, 32)), (Csr.ARGUMENT1, count),
            (Csr.ARGUMENT2, Const(place.context - 1, 32)), (Csr.ARGUMENT3, Const(0, 32)),
            (Csr.ARGUMENT4, Const(place.eos, 32)), (Csr.CONTROL, Const(1, 32)),
        ]
        which, settle = Signal(range(len(registers) + 1)), Signal(4)
        m.d.comb += [control.wstrb.eq(0xF), control.bready.eq(1)]
        with m.Switch(which):
            for i, (register, value) in enumerate(registers):
                with m.Case(i):
                    m.d.comb += [control.awaddr.eq(register), control.wdata.eq(value)]
        m.d.comb += [control.araddr.eq(Csr.STATUS),
                     self.write.address.eq(place.tokens + (at << 2)), self.write.word.eq(line_read.data)]

        with m.FSM():
            with m.State("GREET"):
                m.d.sync += say(GREETING)
                m.d.sync += [count.eq(0), height.eq(0)]
                m.next = "READ"
            with m.State("READ"):
                m.d.comb += look.addr.eq(self.received)
                with m.If(self.received_valid):
                    m.d.sync += said.eq(self.received)
                    with m.If((self.received == RETURN) | (self.received == NEWLINE)):
                        with m.If(count != 0):
                            m.d.sync += rank.eq(0)
                            m.next = "PAIR"
                    with m.Elif((self.received == BACKSPACE) | (self.received == DELETE)):
                        with m.If(count != 0):
                            m.d.sync += count.eq(count - 1)
                            m.d.sync += say(RUBOUT)
                    with m.Elif(count != place.context - 1):
                        m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += [line_write.addr.eq(count), line_write.data.eq(look.data.id), line_write.en.eq(1)]
                m.d.sync += count.eq(count + 1)
                m.next = "ECHO"
            with m.State("ECHO"):
                m.d.comb += self.text.valid.eq(1)
                with m.If(self.text.ready & ~quoted):
                    m.next = "READ"

            # The pairs in their order, each over the whole line.
            with m.State("PAIR"):
                m.d.comb += look.addr.eq(rank)
                m.d.sync += [at.eq(0), to.eq(0), held.eq(0)]
                m.next = "MERGE"
                with m.If(rank == len(pairs.merges)):
                    m.next = "TOKENS"
            with m.State("MERGE"):
                m.d.comb += look.addr.eq(rank)
                m.d.comb += [line_write.addr.eq(to), line_write.data.eq(pending)]
                token = line_read.data
                with m.If(at == count):
                    m.d.comb += line_write.en.eq(held)
                    m.d.sync += [count.eq(to + held), rank.eq(rank + 1)]
                    m.next = "PAIR"
                with m.Else():
                    m.d.sync += [at.eq(at + 1), pending.eq(token), held.eq(1)]
                    with m.If(held & (pending == look.data.left) & (token == look.data.right)):
                        m.d.sync += pending.eq(pairs.first + rank)
                    with m.Elif(held):
                        m.d.comb += line_write.en.eq(1)
                        m.d.sync += to.eq(to + 1)

            with m.State("TOKENS"):
                m.d.comb += self.write.valid.eq(1)
                with m.If(self.write.ready):
                    m.d.sync += at.eq(at + 1)
                    with m.If(at == count - 1):
                        m.d.sync += which.eq(0)
                        m.next = "REGISTER"
            with m.State("REGISTER"):
                m.d.comb += [control.awvalid.eq(1), control.wvalid.eq(1)]
                with m.If(control.awready & control.wready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.sync += settle.eq(0)
                with m.If(control.bvalid):
                    m.d.sync += which.eq(which + 1)
                    m.next = "REGISTER"
                    with m.If(which == len(registers) - 1):
                        m.next = "STARTED"
            with m.State("STARTED"):  # until the start has taken back the end of the last program
                m.d.sync += settle.eq(settle + 1)
                with m.If(settle == 15):
                    m.next = "RUN"

            with m.State("RUN"):
                with m.If(tokens.r_rdy):
                    m.d.comb += [tokens.r_en.eq(1), push.addr.eq(0), push.data.eq(tokens.r_data), push.en.eq(1)]
                    m.d.sync += height.eq(1)
                    m.next = "POP"
                with m.Elif(self.finished):
                    m.next = "STATUS"
            with m.State("POP"):
                is_pair = top.data >= pairs.first
                m.d.comb += look.addr.eq(Mux(is_pair, top.data - pairs.first, top.data - one_byte))
                m.d.sync += [taken.eq(top.data), height.eq(height - 1), expanding.eq(is_pair)]
                m.next = "LOOK"
                with m.If(height == 0):
                    m.next = "RUN"
            with m.State("LOOK"):
                m.d.comb += [push.addr.eq(height), push.data.eq(look.data.right), push.en.eq(expanding)]
                m.d.comb += look.addr.eq(taken - pairs.first)
                m.d.sync += said.eq(look.data.byte)
                m.next = "SAY"
                with m.If(expanding):
                    m.d.sync += height.eq(height + 1)
                    m.next = "LEFT"
                with m.Elif((taken < one_byte) | (taken >= one_byte + 256)):
                    m.next = "POP"
            with m.State("LEFT"):
                m.d.comb += [push.addr.eq(height), push.data.eq(look.data.left), push.en.eq(1)]
                m.d.sync += height.eq(height + 1)
                m.next = "POP"
            with m.State("SAY"):
                m.d.comb += self.text.valid.eq(1)
                with m.If(self.text.ready & ~quoted):
                    m.next = "POP"

            with m.State("STATUS"):
                m.d.comb += control.arvalid.eq(1)
                with m.If(control.arready):
                    m.next = "ERROR"
            with m.State("ERROR"):
                m.d.comb += control.rready.eq(1)
                error = control.rdata[4:8]
                with m.If(control.rvalid):
                    m.next = "GREET"
                    with m.If(error != 0):
                        m.d.sync += [quote.eq(Cat(Const(ord("!"), 8), error + ord("0"))), remaining.eq(2)]
                        m.next = "SAID"
            with m.State("SAID"):
                with m.If(~quoted):
                    m.next = "GREET"
        return m
