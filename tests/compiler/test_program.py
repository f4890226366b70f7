"""Program files, assembler and disassembler, and the compiler's refusals."""

import numpy as np
import pytest

from wordline.compiler import asm
from wordline.compiler.model import ModelError, load_model
from wordline.compiler.program import Program, ProgramError
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import ConfigError, load_config
from wordline.rtl.isa import INSTRUCTIONS, Unit


@pytest.fixture(scope="module")
def model():
    return load_model("austen")


@pytest.fixture(scope="module")
def program(model):
    return compile_model(model, load_config("bitmod"))


def test_compiling_twice_gives_the_same_bytes(model, program):
    assert compile_model(model, load_config("bitmod")).to_bytes() == program.to_bytes()


def test_file_and_text_round_trip_byte_for_byte(program, tmp_path):
    program.save(tmp_path / "p.wlp")
    assert Program.load(tmp_path / "p.wlp").to_bytes() == program.to_bytes()
    assert asm.assemble(asm.disassemble(program)).to_bytes() == program.to_bytes()


def test_every_bit_of_every_instruction_survives_the_text():
    rng = np.random.default_rng(0)
    words = []
    while len(words) < 300:
        word = int.from_bytes(rng.bytes(32), "little") & ~7 | int(rng.integers(len(INSTRUCTIONS)))
        try:
            asm.fields(word)
        except ValueError:  # an enumeration value that does not exist
            continue
        words.append(word)
    assert {asm.fields(word)[0] for word in words} == set(Unit)
    for word in words:
        assert asm.parse_instruction(asm.format_instruction(word)) == word


def test_fields_lie_where_the_hardware_reads_them():
    # Constants, not computed: a moved field would make old programs mean something else.
    fields = {"a": (5, 2), "len": 7, "immediate": 0x3F800000, "wait": 1, "signal": 2}
    assert asm.encode(Unit.VECTOR, fields) == (
        3 | 1 << 3 | 2 << 9 | 5 << 60 | 2 << 76 | 7 << 120 | 0x3F800000 << 213)
    word = asm.encode(Unit.MATMUL, {"kind": 5, "planes": 4, "out_stride": 9, "tiles": (3, 1)})
    assert word == (2 | 5 << 140 | 4 << 144 | 9 << 185 | 3 << 80 | 1 << 96)
    word = asm.encode(Unit.STORE, {"address": (1 << 30, 9), "mode": 1, "run_stride": 77})
    assert word == (4 | 1 << 46 | 9 << 56 | 1 << 140 | 77 << 153)
    word = asm.encode(Unit.CONTROL, {"operation": 12, "rd": 1, "ra": 2, "rb": 3, "value": -1})
    assert word == (5 | ((1 << 40) - 1) << 16 | 12 << 140 | 1 << 145 | 2 << 149 | 3 << 153)
    word = asm.encode(Unit.LOAD, {"element": 3, "register": 4, "count": 1})
    assert word == (0 | 1 << 80 | 3 << 140 | 4 << 143)
    word = asm.encode(Unit.STREAM, {"runs": 1, "beats": 2, "stride": 3})
    assert word == (1 | 1 << 60 | 2 << 80 | 3 << 100)


def test_bad_text_is_refused_with_its_line():
    for text, message in [("FLY a=1", "line 1: no unit 'FLY'"),
                          ("\nVECTOR q=1", "line 2: VECTOR has no field 'q'"),
                          ("VECTOR len=70000", "does not fit"), ("VECTOR function=TAN", "not a value")]:
        with pytest.raises(asm.AssemblyError, match=message):
            asm.assemble(text)


def test_damaged_program_files_are_refused(program, tmp_path):
    path = tmp_path / "p.wlp"
    path.write_bytes(program.to_bytes()[:-100])
    with pytest.raises(ProgramError, match="not a readable program file"):
        Program.load(path)
    with pytest.raises(ProgramError, match="not a readable program file"):
        Program.load(tmp_path / "absent.wlp")
    with pytest.raises(ProgramError, match="compiled for hardware"):
        program.check_hardware(load_config("ulx3s").hardware_hash(), "ulx3s")


@pytest.mark.parametrize(("settings", "message"), [
    (["memory.vector_floats=512"], "needs memory.vector_floats = 4096"),
    (["array.acc_bits=24"], "an accumulator could reach"),
    (["types.weights=ternary"], "does not decode 'ternary'"),
    (["dram.size=65536"], "bytes of DRAM"),
    (["memory.program=256"], "instructions, memory.program = 256"),
    (["types.acts=16", "array.act_bits=8"], "does not fit array.act_bits"),
    (["types.group_size=32", "array.group_min=64"], "below array.group_min"),
    (["memory.act_elements=64"], "does not fit memory.act_elements"),
])
def test_what_cannot_fit_is_refused_with_the_numbers(model, settings, message):
    with pytest.raises(CompileError, match=message):
        compile_model(model, load_config("bitmod", settings))


@pytest.mark.parametrize(("setting", "message"), [
    ("array.rows=99", r"array.rows = 99 is not allowed: 1 to 16"),
    ("array.family=abacus", "array.family = 'abacus' is not allowed: no PE family 'abacus': one of"),
    ("array.wheels=3", "array.wheels is not a field"),
    ("types.kv=int5", "types.kv = 'int5' is not allowed"),
    ("types.kv_group=24", "types.kv_group = 24 is not allowed: 8, 16, 32, 64 or 128"),
    ("array.lanes=true", "array.lanes = True is not allowed: a whole number"),
    ("vector.lanes=16", "vector.lanes = 16 is not allowed: at most array.lanes"),
    ("nonsense", "write section.field=value"),
])
def test_configurations_are_checked(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config("bitmod", [setting])


def test_hardware_hash_covers_hardware_and_not_types():
    base = load_config("bitmod")
    assert load_config("bitmod", ["types.weights=int8"]).hardware_hash() == base.hardware_hash()
    assert load_config("bitmod", ["array.acc_bits=40"]).hardware_hash() != base.hardware_hash()


def test_a_model_that_does_not_exist_is_refused():
    with pytest.raises(ModelError, match="no model 'gpt9'"):
        load_model("gpt9")


def test_damaged_weights_are_refused(model, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((model.folder / name).read_bytes())
    raw = (model.folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(raw[:-10])
    with pytest.raises(ModelError, match="model.safetensors: cannot be read"):
        load_model(tmp_path)
    broken = bytearray(raw)
    broken[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    (tmp_path / "model.safetensors").write_bytes(bytes(broken))
    damaged = load_model(tmp_path)
    with pytest.raises(ModelError, match="not finite, the first at"):
        for name in damaged.tensors:
            damaged.tensors[name]
