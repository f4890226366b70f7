"""From a decoder-only model to a Program: one program for every position and length.

Tokens go through the layers `array.rows` at a time while they come from the prompt, then one by one. What a step needs
to know is in registers: its position, the number of its tokens, and the sizes of the key and value cache that follow.
The heads of a layer are unrolled; layers, tokens of a step and steps are loops.

Here is the order of things; `attention.py` has the attention, `sealing.py` what becomes of a full group of keys,
`mlgru.py` the recurrence that some models have instead,
`blocks.py` norms, biases and residuals, `activations.py` the activation functions, `places.py` the places on the chip,
`image.py` those in DRAM, `architecture.py` what a model may be.
"""

from typing import Any

from wordline.compiler.activations import activate
from wordline.compiler.asm import to_array
from wordline.compiler.attention import Attention
from wordline.compiler.builder import reg
from wordline.compiler.image import Image
from wordline.compiler.mlgru import Recurrence
from wordline.compiler.model import Model
from wordline.compiler.operands import (
    ABSMAX,
    CONTEXT,
    EOS,
    LAST,
    LAYER,
    POSITION,
    PROMPT,
    ROW,
    ROW_M,
    ROW_X,
    S_BEST,
    S_SCALE,
    S_TOKEN,
    SEALED,
    START,
    T1,
    T2,
    TOKENS,
    Vec,
    to_x,
)
from wordline.compiler.places import check, place
from wordline.compiler.program import Program
from wordline.compiler.sealing import Sealing
from wordline.compiler.weights import CompileError, require
from wordline.rtl.config import Config
from wordline.rtl.isa import Destination, Factor, LoadFormat, Operation, Reduction, SourceA, SourceB


class TransformerCompiler(Attention, Recurrence, Sealing):
    """Compiles one model for one configuration."""

    def __init__(self, model: Model, config: Config, *, context: int = 0, keep_logits: bool = True, batch: int = 1,
                 bounded: bool = True):
        self.context = context or model.config.context
        self.keep_logits = keep_logits
        rows = config.array.rows
        require(1 <= batch <= rows, f"batch = {batch}: every sequence takes a row of the array, array.rows = {rows}")
        sizes = check(model.config, config, self.context)
        places = place(model.config, config, sizes, self.context, batch=batch)
        image = Image(model, config, sizes, self.context, logits=keep_logits, batch=batch, bounded=bounded)
        super().__init__(config, image, places)

    def compile(self) -> Program:
        b, c, image = self.b, self.c, self.image
        self.constants()
        b.set(POSITION, 0, START)
        if c.mixer == "mlgru":
            self.clear_state("step")
        b.label("step")
        if image.sizes.group:
            self.seal()
        b.part = "step"
        self._step_sizes()
        b.part = "embedding"
        self._embed()
        b.set(LAYER, 0)
        self.stream_first()
        if self.batch > 1:
            self._layers("layers")
            b.label("logits")
        elif self.config.array.rows > 1:
            b.set(T1, 1)
            b.branch(Operation.BGE, T1, TOKENS, "one")
            self._layers("layers")
            b.control(Operation.BEQ, target="logits")
            b.label("one")
            for register in (ROW, ROW_M, ROW_X):
                b.set(register, 0)
        if self.batch == 1:
            self._layers("one token's layers")
            b.label("logits")
        if image.sizes.window:
            self.whole_context()
        b.branch(Operation.BLT, CONTEXT, PROMPT, "advance")
        b.part = "head"
        if self.batch > 1:
            self._next_tokens()
        else:
            self._next_token()
        b.part = "step"
        b.label("advance")
        b.control(Operation.ADD, rd=POSITION, ra=CONTEXT, rb=0)
        b.branch(Operation.BGE, POSITION, LAST, "end")
        if self.batch > 1:  # the host cuts off what comes behind a sequence's end token
            b.control(Operation.BEQ, target="step")
        b.branch(Operation.BLT, POSITION, PROMPT, "step")
        # A generated token is read back like one of the prompt; the end token ends the program.
        b.control(Operation.SHL, rd=T1, ra=POSITION, value=2)
        b.load_register(T2, reg(T1, image.token_address), "tokens")
        b.branch(Operation.BNE, T2, EOS, "step")
        b.label("end")
        b.control(Operation.END)
        words = b.words()
        limit = self.config.memory.program
        require(len(words) <= limit, f"{c.name} takes {len(words)} instructions, memory.program = {limit}; "
                f"the smallest that fits: --set memory.program={1 << (len(words) - 1).bit_length()}")
        info = {"model": c.name, "architecture": "decoder", "context": self.context, "vocab": c.vocab,
                "weights": self.config.types.weights, "mixed": list(self.config.types.mixed),
                "head": self.config.types.head_weights,
                "group_size": self.config.types.group_size, "acts": self.config.types.acts,
                "kv": self.config.types.kv, "kv_group": image.sizes.group, "config": self.config.name,
                "layers": c.layers, "batch": self.batch, "parts": b.sections()}
        return Program(self.config.hardware_hash(), to_array(words), image.map.segments, image.map.symbols, info)

    def _layers(self, label: str) -> None:
        """All layers, in a loop. Code for a single token has no loop over tokens, so that nothing in a layer
        waits for all that came before it: row registers are 0 there."""
        b, c, image = self.b, self.c, self.image
        self.looped = label == "layers"
        b.part = self.first
        self.load_norm("input_layernorm")
        b.label(label)
        if c.mixer == "mlgru":
            self.recurrence()
        else:
            self.attention()
        self._mlp()
        b.part = "step"
        b.set(LAYER, image.layer_bytes, LAYER)
        b.set(T1, -c.layers * image.layer_bytes, LAYER)
        b.branch(Operation.BLT, T1, 0, label)

    def _step_sizes(self) -> None:
        """TOKENS, CONTEXT, KEY_TILES, VALUE_STEPS, VALUE_BEATS or SEALED of this step. A step ends with a group of keys
        at the latest. Of tokens of one step, none may take the place of a key that another one sees: behind a sliding
        window, steps have one token."""
        b, a, sizes = self.b, self.config.array, self.image.sizes
        group = sizes.group
        if self.batch > 1:
            b.set(TOKENS, self.batch)
        else:
            b.control(Operation.SUB, rd=TOKENS, ra=PROMPT, rb=POSITION)
            b.set(T1, 1)
            b.control(Operation.BGE, ra=TOKENS, rb=T1, target="prompt")
            b.set(TOKENS, 1)
            b.label("prompt")
            b.set(T1, a.rows)
            b.control(Operation.MIN, rd=TOKENS, ra=TOKENS, rb=T1)
            if group:
                b.control(Operation.ANDI, rd=T1, ra=POSITION, value=group - 1)
                b.control(Operation.SUB, rd=T1, ra=0, rb=T1)
                b.set(T1, group, T1)
                b.control(Operation.MIN, rd=TOKENS, ra=TOKENS, rb=T1)
            if sizes.window and a.rows > 1:
                b.set(T1, sizes.window)
                b.control(Operation.SUB, rd=T1, ra=T1, rb=POSITION)
                b.control(Operation.MIN, rd=TOKENS, ra=TOKENS, rb=T1)
                b.set(T1, 1)
                b.branch(Operation.BGE, TOKENS, T1, "within the window")
                b.set(TOKENS, 1)
                b.label("within the window")
        self.whole_context()
        if self.c.mixer != "attention":
            return
        if group:
            b.control(Operation.SHR, rd=SEALED, ra=POSITION, value=group.bit_length() - 1)
            b.control(Operation.MULI, rd=SEALED, ra=SEALED, value=group // a.cols)
        self.context_sizes()

    def _embed(self) -> None:
        """The step's tokens as vectors, and what says where they stand."""
        b, c, p, image = self.b, self.c, self.places, self.image
        with self.rows("embed"):
            self.position(T1)
            self._token_address(T2, T1)
            b.load_register(T2, reg(T2, image.token_address), "tokens")
            b.control(Operation.MULI, rd=T2, ra=T2, value=image.embedding_row)
            b.load(reg(T2, image.embedding_address), p.gamma, 1)
            b.vector(len=1, a_source=SourceA.IMMEDIATE, immediate=1.0, multiply=Factor.B, b=p.gamma,
                     b_source=SourceB.L, destination=Destination.SCALAR, dst=S_SCALE)
            b.load(reg(T2, image.embedding_address + self.config.beat_bytes), 0, c.width, LoadFormat.INT8)
            b.vector(len=c.width, a_source=SourceA.SCALAR, a=S_SCALE, multiply=Factor.B, b=0,
                     b_source=SourceB.L, destination=Destination.X, dst=reg(ROW_X, p.x))
            if c.positions == "learned":
                b.control(Operation.MULI, rd=T1, ra=T1, value=image.position_row)
                b.load(reg(T1, image.position_address), p.gamma, c.width)
                b.vector(len=c.width, a=reg(ROW_X, p.x), addend=Factor.B, b=p.gamma, b_source=SourceB.L,
                         destination=Destination.X, dst=reg(ROW_X, p.x))
            elif c.positions == "rope" and not c.rope_local_theta:  # else every layer loads its own
                b.control(Operation.MULI, rd=T1, ra=T1, value=4 * c.head_dim)
                self.rope_words(T2)
                b.load(reg(T1, image.rope_address), reg(T2, p.rope), c.head_dim)

    def _mlp(self) -> None:
        b, c, p, t, matrices = self.b, self.c, self.places, self.config.types, self.image.matrices
        b.part = "gate_up"
        self.load_norm(c.mlp_norm)
        self.load_bias(c.o_bias, "o", c.width)
        self.load_post_norm("post_attention_layernorm")
        if c.linear_norms:
            self.load_gain("mlp.gate_proj.norm", 0, c.width)
        if not p.together:
            self.stream("gate_up")
        work = Vec(SourceA.X, reg(ROW_X, p.work))
        with self.rows("norm2", act=True):
            self.residual(bias=c.o_bias)
            self.norm(Vec(SourceA.X, reg(ROW_X, p.x)), work.at)
            self.linear_norm(work, 0)
            self.quantise(work, slot=0, length=c.width, bits=t.acts)
        hidden = c.ffn * len(c.up_parts)
        self.load_bias(c.mlp_bias, "gate_up", hidden)
        self.load_sub_norm("mlp.ffn_sub_norm", c.ffn)
        self.matmul(matrices["gate_up"], slot=0, rows=reg(TOKENS))
        self.stream("down")
        with self.rows("activation", act=True):
            gate, up = Vec(SourceA.M, reg(ROW_M, 0)), Vec(SourceA.M, reg(ROW_M, c.ffn // self.lanes))
            if c.mlp_bias:
                gate = self.add_bias(gate, reg(ROW_X, p.biased), hidden)
                up = Vec(SourceA.X, reg(ROW_X, p.biased + c.ffn // self.lanes))
            last = {} if c.sub_norms else ABSMAX
            if c.mlp == "gated":
                activate(b, c.activation, gate, p.work, c.ffn, c.ffn // self.lanes, {})
                b.vector(len=c.ffn, **work.a, multiply=Factor.B, **up.b, destination=Destination.X, dst=work.at, **last)
            else:
                activate(b, c.activation, gate, p.work, c.ffn, c.ffn // self.lanes, last)
            if c.sub_norms:
                self.rms_norm(work, work.at, c.ffn, p.sub_gain, {"L": "sub"})
            self.quantise(work, slot=0, length=c.ffn, bits=t.acts)
        self.load_bias(c.mlp_bias, "down", c.width)
        self.load_post_norm("post_feedforward_layernorm")
        self.matmul(matrices["down"], slot=0, rows=reg(TOKENS))
        b.part = self.first
        # The next layer's first weights come while this layer ends; behind the last layer, none.
        b.set(T1, -(c.layers - 1) * self.image.layer_bytes, LAYER)
        b.control(Operation.SHR, rd=T1, ra=T1, value=31)
        b.control(Operation.SHR, rd=T2, ra=T1, value=31)
        b.control(Operation.ANDI, rd=T1, ra=T2, value=self.image.layer_bytes)
        b.control(Operation.ADD, rd=ROW, ra=T1, rb=LAYER)
        self.load_norm("input_layernorm", ROW)
        self.stream_first(ROW, T2)
        b.set(ROW, 0)
        b.part = "down"
        with self.rows("residual2"):
            self.residual(bias=c.mlp_bias)

    def _load_last_norm(self) -> None:
        """The norm before the output head, and the head's own if it has one."""
        b, c, p, image = self.b, self.c, self.places, self.image
        b.load(image.norm_address, p.gamma, c.width)
        if c.norm == "layer":
            b.load(image.norm_bias_address, p.shift, c.width, parts={"L": "shift"})
        if c.linear_norms:
            b.load(image.head_norm_address, p.gains[0], c.width, parts={"L": "gain0"})

    def _next_token(self) -> None:
        """Logits of the step's last token, and their argmax as the next token."""
        b, c, p, t, image = self.b, self.c, self.places, self.config.types, self.image
        cols, v, head = self.config.array.cols, self.lanes, image.head
        self._load_last_norm()
        b.set(ROW, -1, TOKENS)
        b.control(Operation.MULI, rd=ROW_X, ra=ROW, value=p.x_row)
        work = Vec(SourceA.X, reg(ROW_X, p.work))
        self.norm(Vec(SourceA.X, reg(ROW_X, p.x)), work.at)
        self.linear_norm(work, 0)
        self.quantise(work, slot=0, length=c.width, bits=t.acts, row=False)
        if self.keep_logits:
            self._logit_row()
        beats = head.layout.tile_beats
        for first in range(0, head.tiles, p.chunk):
            tiles = min(p.chunk, head.tiles - first)
            b.stream(image.head_address + first * head.layout.tile_bytes, tiles, beats, beats)
            self.matmul(head, slot=0, rows=1, tiles=tiles)
            n = min(tiles * cols, c.vocab - first * cols)
            b.vector(len=n, a_source=SourceA.M, a=0, b=first * cols // v, destination=Destination.S, dst=0,
                     reduction=Reduction.ARGMAX, scalar=S_BEST, keep=int(first > 0))
            if self.keep_logits:
                b.store(reg(T1, image.logit_address + 4 * first * cols), 0, n, "logits")
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_TOKEN, destination=Destination.S, dst=0)
        b.control(Operation.SHL, rd=T1, ra=CONTEXT, value=2)
        b.store(reg(T1, image.token_address), 0, 1, "tokens")

    def _next_tokens(self) -> None:
        """As `_next_token`, for every sequence of a batch: the output head's weights come once. PROMPT is the shortest
        prompt; a longer one keeps its tokens."""
        b, c, p, t, image = self.b, self.c, self.places, self.config.types, self.image
        cols, v, head = self.config.array.cols, self.lanes, image.head
        self._load_last_norm()
        work, best, token = (Vec(SourceA.X, reg(ROW_X, p.work + i)) for i in range(3))
        with self.rows("head", act=True):
            self.norm(Vec(SourceA.X, reg(ROW_X, p.x)), work.at)
            self.linear_norm(work, 0)
            self.quantise(work, slot=0, length=c.width, bits=t.acts)
        beats = head.layout.tile_beats

        def move(**fields: Any) -> None:
            b.vector(len=1, **fields)

        for first in range(0, head.tiles, p.chunk):
            tiles = min(p.chunk, head.tiles - first)
            b.stream(image.head_address + first * head.layout.tile_bytes, tiles, beats, beats)
            self.matmul(head, slot=0, rows=reg(TOKENS), tiles=tiles)
            n = min(tiles * cols, c.vocab - first * cols)
            with self.rows(f"logits{first}"):
                if first > 0:  # the largest so far
                    move(**best.a, destination=Destination.SCALAR, dst=S_BEST)
                    move(**token.a, destination=Destination.SCALAR, dst=S_TOKEN)
                b.vector(len=n, a_source=SourceA.M, a=reg(ROW_M), b=first * cols // v, destination=Destination.S, dst=0,
                         reduction=Reduction.ARGMAX, scalar=S_BEST, keep=int(first > 0))
                move(a_source=SourceA.SCALAR, a=S_BEST, **to_x(best.at))
                move(a_source=SourceA.SCALAR, a=S_TOKEN, **to_x(token.at))
                if self.keep_logits:
                    self._logit_row()
                    b.store(reg(T1, image.logit_address + 4 * first * cols), 0, n, "logits")
        with self.rows("token"):
            move(**token.a, destination=Destination.S, dst=0)
            b.control(Operation.SHL, rd=T1, ra=ROW, value=2)
            b.load_register(T2, reg(T1, image.prompt_address))
            b.branch(Operation.BLT, CONTEXT, T2, "kept")
            self._token_address(T1, CONTEXT)
            b.store(reg(T1, image.token_address), 0, 1, "tokens")
            b.label("kept")

    def _token_address(self, rd: int, position: int) -> None:
        """rd = bytes from the first token to the row's at a position; of a batch, a position's tokens lie together."""
        b = self.b
        if self.batch > 1:
            b.control(Operation.MULI, rd=rd, ra=position, value=self.batch)
            b.control(Operation.ADD, rd=rd, ra=rd, rb=ROW)
            position = rd
        b.control(Operation.SHL, rd=rd, ra=position, value=2)

    def _logit_row(self) -> None:
        """T1 = bytes from the first row of logits to this token's."""
        b, vocab = self.b, self.c.vocab
        b.control(Operation.SUB, rd=T1, ra=CONTEXT, rb=PROMPT)
        if self.batch > 1:
            b.control(Operation.MULI, rd=T1, ra=T1, value=self.batch)
            b.control(Operation.ADD, rd=T1, ra=T1, rb=ROW)
        if vocab >> 16:  # MULI takes 16 bits
            b.control(Operation.MULI, rd=T2, ra=T1, value=vocab >> 12)
            b.control(Operation.SHL, rd=T2, ra=T2, value=12)
        b.control(Operation.MULI, rd=T1, ra=T1, value=vocab & 0xFFF if vocab >> 16 else vocab)
        if vocab >> 16:
            b.control(Operation.ADD, rd=T1, ra=T1, rb=T2)
        b.control(Operation.SHL, rd=T1, ra=T1, value=2)


def compile_model(model: Model, config: Config, *, context: int = 0, keep_logits: bool = True,
                  batch: int = 1) -> Program:
    """Compile a decoder-only model.

    Parameters
    ----------
    context : int
        Longest sequence; 0 for what the model was trained for.
    keep_logits : bool
        Write the logits of every generated token to DRAM, for comparison.
    batch : int
        Sequences that go through the layers side by side, a row of the array each, all at the same position.
        `sim.generate.BatchGenerator` places their prompts.

    Raises
    ------
    CompileError
        The model does not fit the configuration; the message has the numbers.
    """
    if not model.shape_only:  # what does not fit is refused before weights are quantised, which may take minutes
        shape = Model(model.config, {}, None, model.folder)
        TransformerCompiler(shape, config, context=context, keep_logits=keep_logits, batch=batch,
                            bounded=False).compile()
    return TransformerCompiler(model, config, context=context, keep_logits=keep_logits, batch=batch).compile()


__all__ = ["CompileError", "compile_model"]
