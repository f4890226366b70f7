"""The energy roll-up: counts against hand counts, the functional simulator and the model's shape; sums; prices."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.compiler.asm import assemble, fields, to_words
from wordline.compiler.model import load_model
from wordline.compiler.program import Program
from wordline.compiler.shapes import load_shape
from wordline.compiler.transformer import compile_model
from wordline.pe.datatypes import WeightKind
from wordline.rtl.config import load_config
from wordline.rtl.isa import Unit
from wordline.sim import cycles, energy
from wordline.sim.events import Event, Events, ledger, part_names
from wordline.sim.functional import FunctionalMachine

SYMBOL = ('.symbol {"address": 0, "dtype": "instruction", "layout": "linear", "name": "program", '
          '"shape": [64], "size": 2048}\n')
ARGUMENTS = (5, 7, 0, -1)  # four positions of the prompt at once or one by one, then two tokens


def counts_of(program, config, stalls=0.0):
    """(part, event name) -> count of a whole run, and the run."""
    result = cycles.run(program, config, ARGUMENTS, stalls=stalls, seed=3)
    return {(part, event.name): n for (part, event), n in ledger(program, config, result.activity).items()}, result


@pytest.fixture(scope="module")
def austen():
    return energy.decode_step(load_shape("austen"), load_config("bitmod", ["dram.kind=ddr4-2400"]), 100)


def test_a_small_program_counts_as_by_hand():
    config = load_config("ulx3s")  # 8 columns, 8 lanes, 64-bit beats, 4 vector lanes
    program = assemble(SYMBOL + """
CONTROL operation=ADDI rd=11 value=3
again:
LOAD address=4096 count=10 element=F32
STREAM address=8192 runs=1 beats=76 stride=76
MATMUL rows=1 tiles=2 steps=8 groups=2 group_steps=4 planes=4 kind=2 channel_scales=1 group_scales=1
VECTOR a_source=X multiply=B b_source=L len=10 outer=1 destination=S reduction=SUM scalar=2
STORE address=16384 count=9
CONTROL operation=ADDI rd=11 ra=11 value=-1
CONTROL operation=BNE ra=11 target=again
CONTROL operation=END
""")
    program.hardware = config.hardware_hash()
    counts, result = counts_of(program, config)
    once = {
        "write load FIFO": 5, "read load FIFO": 5, "write L": 3,  # 10 floats of 4 bytes: 5 beats, 3 words
        "write weight FIFO": 76,
        # A tile: 4 beats of channel scales, 2 of group scales, 8 steps of 4 planes of a beat each.
        "read weight FIFO": 76, "read ACT": 16, "product mac INT4 x 8": 16 * 64, "group scale": 2 * 2 * 8,
        "write channel scales": 8, "read channel scales": 16, "write group scales": 4, "read group scales": 4,
        "drain, both scales": 16, "read ROW_SCALE": 16, "write M": 16,
        # Two segments of 3 words; partial sums fold in 4 + 2 + 1 words, the last word in 3 additions.
        "read X": 6, "read L": 6, "float multiply": 24, "write S": 6, "float add": 24 + 28 + 3,
        "read S": 3,
    }
    control = {"read program": 2 + 3 * 7, "operands": 2 + 3 * 7, "register add, shift or compare": 1 + 3 * 2}
    assert counts == {("program", name): n for name, n in ({k: 3 * v for k, v in once.items()} | control).items()}
    assert result.activity["beats"].tolist() == [0, 15, 228, 228, 0, 15, 0, 0, 0, 9 * 4]
    slow, stalled = counts_of(program, config, stalls=0.5)
    assert slow == counts and np.array_equal(stalled.activity, result.activity) and stalled.cycles > result.cycles


def test_rows_without_a_token_are_counted_apart():
    # 4 rows, 8 columns, 16 lanes, 2 columns drained at once, zero points.
    config = load_config("bitmod", ["bus.data_bits=128"])
    program = assemble(SYMBOL + """
STREAM address=8192 runs=1 beats=18 stride=18
MATMUL rows=3 tiles=1 steps=4 groups=2 group_steps=2 planes=4 kind=2 group_scales=1 aux=ZERO
CONTROL operation=END
""")
    program.hardware = config.hardware_hash()
    counts, _ = counts_of(program, config)
    assert {name: n for (_, name), n in counts.items()} == {
        "read program": 3, "operands": 3,
        # A beat of scales, a beat of zero points, 4 steps of 4 planes of a beat.
        "write weight FIFO": 18, "read weight FIFO": 18, "write group scales": 2, "read group scales": 2 + 2,
        "read ACT": 4, "product bit_serial INT4 x 16": 3 * 4 * 8 * 16,
        "product bit_serial INT4 x 16, row without a token": 4 * 8 * 16, "sum of a step's activations": 4 * 4,
        "group scale and zero": 2 * 8 * 4, "drain, row scale": 3 * 8, "read ROW_SCALE": 3 * 4, "write M": 3 * 4}


@pytest.mark.parametrize("name", ["ulx3s", "bitmod"])
def test_products_equal_those_of_the_functional_simulator(name, monkeypatch):
    config = load_config(name)
    program = compile_model(load_model("austen"), config)
    seen = {}
    matmul = FunctionalMachine._matmul

    def counted(self, f):
        name = f"product {config.array.family} {WeightKind(f['kind']).name} x {config.array.act_bits}"
        products = (f["rows"] & 31) * f["tiles"] * f["steps"] * config.array.cols * config.array.lanes
        seen[name] = seen.get(name, 0) + products
        matmul(self, f)

    monkeypatch.setattr(FunctionalMachine, "_matmul", counted)
    FunctionalMachine(config).run(program, ARGUMENTS)
    counts, _ = counts_of(program, config)
    ours = {}
    for (_, event), n in counts.items():
        if event.startswith("product") and "without" not in event:
            ours[event] = ours.get(event, 0) + n
    assert ours == seen and len(seen) == 2  # weights, and the cache


@pytest.mark.parametrize(("name", "context"), [("ulx3s", 100), ("bitmod", 37), ("ulx3s", 2)])
def test_products_of_a_decode_step_follow_from_the_shape(name, context):
    config, model = load_config(name), load_shape("austen")
    step = energy.decode_step(model, config, context)
    found = {}
    for (part, event), n in ledger(step.program, config, step.activity).items():
        if event.name.startswith("product") and "without" not in event.name:
            found[part] = found.get(part, 0) + n
    c, a = model.config, config.array
    up = lambda n, m: -(-n // m) * m  # noqa: E731
    attention = c.layers * c.heads * c.head_dim
    assert found == {
        "qkv": c.layers * c.qkv * c.width, "o": c.layers * c.width * c.heads * c.head_dim,
        "gate_up": c.layers * 2 * c.ffn * c.width, "down": c.layers * c.width * c.ffn,
        "scores": attention * up(context, a.cols), "values": attention * up(context, a.lanes),
        "head": up(c.vocab, a.cols) * c.width}


def test_a_shape_is_as_good_as_the_weights():
    config = load_config("ulx3s")
    programs = [compile_model(m, config, keep_logits=False) for m in (load_model("austen"), load_shape("austen"))]
    assert np.array_equal(programs[0].instructions, programs[1].instructions)
    assert programs[0].info == programs[1].info


def test_every_dram_command_belongs_to_an_instruction(austen):
    result = cycles.run(austen.program, austen.config, ARGUMENTS)
    activity = result.activity
    boot = activity[-1]
    assert boot["beats"] == len(austen.program.instructions) * 32 // austen.config.beat_bytes
    for counter, command in (("activates", "ACT"), ("reads", "RD"), ("writes", "WR")):
        assert activity[counter].sum() == result.dram.commands[command] > 0
        assert austen.activity[counter].sum() == austen.commands[command] > 0
    executed = {unit: 0 for unit in Unit}
    for word, n in zip(to_words(austen.program.instructions), activity["executions"], strict=False):
        executed[fields(word)[0]] += n
    assert {u.name: n for u, n in executed.items()} == result.ended | {"LOAD": result.ended["LOAD"] - 1}


def test_streams_are_labelled_by_what_they_bring(austen):
    """A matmul's part reads from the FIFO what the streams of the same part wrote."""
    found = ledger(austen.program, austen.config, austen.activity)
    counts = {(part, event.name): n for (part, event), n in found.items()}
    written = {part: n for (part, name), n in counts.items() if name == "write weight FIFO"}
    assert written == {part: n for (part, name), n in counts.items() if name == "read weight FIFO"}
    assert set(written) == {"qkv", "scores", "values", "o", "gate_up", "down", "head"}
    # Norms belong to the matmul behind them: its part loads the gains.
    c, lanes = load_shape("austen").config, austen.config.vector.lanes
    loads = {part: n for (part, name), n in counts.items() if name == "write L"}
    # A layer's end brings the next one's, the last layer's too.
    assert (loads["qkv"], loads["gate_up"], loads["head"]) == (
        (c.layers + 1) * c.width // lanes, c.layers * c.width // lanes, c.width // lanes)
    assert set(loads) == {"qkv", "gate_up", "head", "scores", "embedding"}
    # A norm takes a root and a reciprocal, SiLU two functions an element, quantising a reciprocal.
    special = {part: n // c.layers for (part, name), n in counts.items() if name == "exp2, recip or rsqrt"}
    assert special["gate_up"] == special["qkv"] == 2 * lanes and special["o"] == lanes
    assert special["down"] == 2 * c.ffn + lanes


def test_labels_survive_the_program_file(austen, tmp_path):
    austen.program.save(tmp_path / "a.wlp")
    assert part_names(Program.load(tmp_path / "a.wlp")) == part_names(austen.program)


def test_sums_are_sums(austen):
    report = energy.report(austen)
    for key in ("unit", "part", "tag", "event"):
        assert sum(report.by(key).values()) == pytest.approx(report.pj, rel=1e-12)
    assert sum(report.by("unit", "part").values()) == pytest.approx(report.pj, rel=1e-12)
    once = sum(report.by("part")[part] for part in energy.ONCE)
    assert report.layer_pj * report.layers + once == pytest.approx(report.pj, rel=1e-12)
    assert report.watts == pytest.approx(report.pj * 1e-12 / (austen.cycles / (austen.config.clock_mhz * 1e6)))
    for row in report.rows:
        assert row.tag in energy.TAGS and row.sources and row.count > 0, row
        assert row.pj_each > 0, row


def test_dram_energy_of_given_commands_equals_a_hand_computation():
    config = load_config("ulx3s", ["dram.kind=ddr4-2400"])  # eight chips of 8 bits, bursts of 64 bytes
    n = {"activates": 10, "reads": 100, "writes": 5}
    events = [*Events(config).dram(n), *Events(config).time(1000.0, 9360 * 0.833, 1)]
    rows = energy.rows_of({("x", event): count for event, count in events}, energy.load_table())
    expected = {"ACT+PRE": 10 * 8 * 432.8268, "RD": 100 * 8 * 367.8528, "WR": 5 * 8 * 319.872,
                "RD I/O": 100 * 512 * 4.573170731707317, "WR I/O": 5 * 512 * 4.573170731707317,
                "standby": 1000 * 8 * 51.6, "REF": 1000 / 7796.88 * 8 * 86905.224}
    assert {row.event: row.pj for row in rows} == pytest.approx(expected)
    assert {row.event: row.tag for row in rows} == {
        "ACT+PRE": "table", "RD": "table", "WR": "table", "REF": "table", "RD I/O": "assumed", "WR I/O": "assumed",
        "standby": "assumed"}


def test_streaming_from_dram_costs_what_the_reference_says():
    """A row read in order at full speed: pJ a bit of the reference's table, read by read and second by second."""
    table = energy.load_table()
    for device, row_bytes, gbps, refi_ns, expected in (
            ("ddr4-2400", 8192, 8 * 19.2077, 9360 * 0.833, 13.640), ("lpddr4-3200", 2048, 51.2, 6246 * 0.625, 9.3837)):
        read, io, act, ref, standby = (table.price(Event("DRAM", name, ((1, "dram", device, name),))).pj
                                       for name in ("RD", "RD I/O", "ACT+PRE", "REF", "standby"))
        burst = 512 if device == "ddr4-2400" else 256
        per_bit = (read + io) / burst + act / (8 * row_bytes) + (standby + ref / refi_ns) / gbps
        assert per_bit == pytest.approx(expected, rel=1e-3), device


def test_the_table_at_between_and_beyond_its_points():
    table = energy.load_table()

    def price(*op):
        return table.price(Event("X", "x", ((1, *op),)))

    assert (price("add", 8).pj, price("add", 32).pj, price("multiply", 8, 8).pj) == (0.03, 0.1, 0.2)
    assert price("add", 20).pj == pytest.approx(0.065) and price("add", 20).tag == "table"
    assert price("add", 48).pj == pytest.approx(0.15) and price("add", 48).tag == "assumed"
    for bits, width, read, write in table.tree["sram"]["points"]:
        assert price("read", bits, width).pj == pytest.approx(read, rel=0.05)
        assert price("write", bits, width).pj == pytest.approx(write, rel=0.12)
        assert price("read", bits, width).tag == "table"
    for size in (2**14, 2**18, 2**21):
        assert price("read", size, 64).pj < price("read", 2 * size, 64).pj
        assert price("read", size, 64).pj < price("read", size, 128).pj
    assert price("read", 2**10, 32).tag == "assumed"


@pytest.mark.parametrize(("device", "assumed"), [
    ("hbm2", {"ACT+PRE", "RD", "WR", "REF", "standby", "WR I/O"}), ("gddr6-16", {"REF", "WR I/O"}),
    ("lpddr4-3200", {"WR I/O"})])
def test_what_is_not_published_of_a_dram_is_called_assumed(device, assumed):
    table = energy.load_table()
    prices = {name: table.dram(device, name) for name in ("ACT+PRE", "RD", "WR", "REF", "standby", "RD I/O", "WR I/O")}
    assert {name for name, price in prices.items() if price.tag == "assumed"} == assumed
    assert {name for name, price in prices.items() if price.pj == 0} == ({"REF"} if device == "gddr6-16" else set())


def test_a_characterised_event_replaces_its_recipe(austen, tmp_path):
    name, path = "product bit_serial FP4 x 16", tmp_path / "gates.toml"
    path.write_text(f'name = "gates"\n[event."{name}"]\npj = 0.5\nsource = "netlist 1234"\ntag = "gates"\n')
    before, after = energy.report(austen), energy.report(austen, energy.load_table(path))
    assert after.table == "gates"
    changed = [(a, b) for a, b in zip(sorted(before.rows, key=str), sorted(after.rows, key=str), strict=True) if a != b]
    rows = {row.part: row for row in after.rows if row.event == name}
    assert {b.event for _, b in changed} == {name}
    assert all(row.tag == "gates" and row.pj_each == 0.5 and row.sources == ("netlist 1234",) for row in rows.values())
    old = sum(row.pj for row in before.rows if row.event == name)
    assert after.pj - before.pj == pytest.approx(sum(0.5 * row.count for row in rows.values()) - old)


@pytest.mark.parametrize("text", ["x = ", "[unknown]\n", '[event.a]\npj = -1\nsource = ""\ntag = "table"\n',
                                  '[event.a]\npj = 1\nsource = ""\ntag = "guess"\n', "[event.a]\npj = 1\n"])
def test_a_wrong_table_is_refused(tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(energy.EnergyError, match=r"bad\.toml"):
        energy.load_table(tmp_path / "bad.toml")


def test_dram_without_energies_is_refused_and_no_dram_is_said():
    step = energy.decode_step(load_shape("austen"), load_config("ulx3s"), 8)
    report = energy.report(step)
    assert "DRAM" not in report.by("unit") and any("left out" in note for note in report.notes)
    step = energy.decode_step(load_shape("austen"), load_config("ulx3s", ["dram.kind=sdr-133"]), 8)
    with pytest.raises(energy.EnergyError, match="sdr-133"):
        energy.report(step)


def test_the_command_writes_what_it_prints(tmp_path):
    result = CliRunner().invoke(app, ["energy", "ulx3s", "austen", "--context", "16", "--json", "-o", str(tmp_path),
                                      "--set", "dram.kind=lpddr4-3200"])
    assert result.exit_code == 0, result.output
    tree = json.loads((tmp_path / "energy.json").read_text())
    assert json.loads(result.stdout) == tree
    assert sum(row["pj"] for row in tree["rows"]) == pytest.approx(tree["pj_per_token"])
    assert "<svg" in (tmp_path / "energy.svg").read_text()
    assert set(asdict(energy.Row("", "", "", 0, 0, "", ()))) < set(tree["rows"][0])
    result = CliRunner().invoke(app, ["energy", "ulx3s", "austen", "--context", "16"])
    assert result.exit_code == 0 and "gate_up" in result.stdout and "Horowitz" in result.stdout
