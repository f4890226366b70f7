"""`wordline pe area`: the flow on circuits whose gates can be counted by hand, and the sums made of parts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.fpga import gates, pe_area
from wordline.fpga.pe_plots import plot
from wordline.fpga.pe_points import Part, Point, TermEncoder, WeightDecoder, all_points
from wordline.fpga.pe_studies import lut_and_mac, studies
from wordline.pe.datatypes import WeightKind
from wordline.sim import toolchain

TINY = Path(__file__).parent / "tiny.lib"


def yosys(args: list[str], cwd: Path) -> str:
    return toolchain.yosys().run(args, cwd=cwd)


def rtlil(verilog: str, folder: Path) -> str:
    """Yosys' own form of a Verilog module."""
    (folder / "given.v").write_text(verilog)
    yosys(["-q", "-p", "read_verilog given.v; proc; write_rtlil given.il"], folder)
    return (folder / "given.il").read_text()


def held_nands(n: int) -> str:
    """A chain of n inverted ands, then a register: n NANDs, one flip-flop, a path of n NANDs."""
    chain = "".join(f"assign w[{i + 1}] = ~(w[{i}] & a[{i}]);" for i in range(n))
    return (f"module top(input clk, input [{n - 1}:0] a, input b, output reg o); wire [{n}:0] w; assign w[0] = b;"
            f"{chain} always @(posedge clk) o <= w[{n}]; endmodule")


def test_gates_are_those_of_the_circuit(tmp_path: Path):
    library = gates.load_library(TINY)
    assert (library.name, library.nand2_um2) == ("tiny", 4.0)
    chain = gates.map_gates(rtlil(held_nands(3), tmp_path), library, 1.0, yosys, tmp_path)
    assert (chain.area_um2, chain.flops_um2, chain.cells) == (3 * 4 + 16, 16, 4)
    assert chain.path_ns == pytest.approx(0.6) and chain.recipe == "area"
    wire = rtlil("module top(input clk, input a, output reg o); always @(posedge clk) o <= a; endmodule", tmp_path)
    alone = gates.map_gates(wire, library, 1.0, yosys, tmp_path)
    assert (alone.area_um2, alone.path_ns) == (16, 0)


def mapped(area: float, path: float, recipe: str = "area") -> gates.Gates:
    return gates.Gates(area, 0, path, 1, recipe)


def test_the_smallest_that_meets_the_clock_counts():
    small, fast, faster = mapped(10, 5), mapped(12, 4), mapped(13, 3)
    assert gates.best([small, fast, faster], 5) == small
    assert gates.best([small, fast, faster], 4) == fast
    assert gates.best([small, fast, faster], 1) == faster


class Counting:
    """A target whose sizes are the lengths of the design, and which counts what it is asked."""

    name, size, asked = "counting", "area_um2", 0

    def key(self) -> str:
        return self.name

    def measure(self, text: str, folder: Path) -> dict[str, float | str]:
        self.asked += 1
        return {"area_um2": float(len(text)), "path_ns": 6.0}


def test_parts_are_summed_by_role_and_measured_once(tmp_path: Path):
    def encoder():
        return TermEncoder(WeightKind.INT2)

    def decoder():
        return WeightDecoder(WeightKind.FP3)

    point = Point("test", "int1", 1, "int1", 2.0, (
        Part("pe", 3, encoder), Part("inside", 1, encoder, "inside"), Part("shared", 0.5, decoder, "outside")), "unit")
    target = Counting()
    (row,) = pe_area.measure([point], target, tmp_path, lambda _: None)
    pe, _, shared = (float(part.figures["area_um2"]) for part in row.parts)
    assert row.alone == 2 * pe and row.whole == 3 * pe + 0.5 * shared
    # A path of 6 ns at a clock of 4 ns computes two thirds as much.
    assert row.per_mac(4.0) == (row.alone * 1.5 / 2, row.whole * 1.5 / 2)
    assert row.per_mac(8.0) == row.per_mac() == (row.alone / 2, row.whole / 2)
    assert target.asked == 2
    assert pe_area.measure([point], target, tmp_path, lambda _: None) == [row] and target.asked == 2
    other = Counting()
    other.name = "another"
    pe_area.measure([point], other, tmp_path, lambda _: None)
    assert other.asked == 2
    record = pe_area.records([row], row, None)[0]
    assert record["alone_ratio"] == record["whole_ratio"] == 1 and record["provenance"] == "gates"


class Breaking(Counting):
    """Fails on the first design that it is given."""

    def measure(self, text: str, folder: Path) -> dict[str, float | str]:
        if not self.asked:
            self.asked = 1
            raise RuntimeError("no message")
        return super().measure(text, folder)


def test_a_design_that_the_tool_fails_on_does_not_stop_the_others(tmp_path: Path):
    def point(name: str, kind: WeightKind) -> Point:
        return Point(name, "int1", 1, "int1", 1.0, (Part("pe", 1, lambda: TermEncoder(kind)),), "unit")

    points = [point("bad", WeightKind.INT2), point("good", WeightKind.INT3)]
    failed: dict[str, str] = {}
    rows = pe_area.measure(points, Breaking(), tmp_path, lambda _: None, failed)
    assert [row.point for row in rows] == points[1:] and failed == {points[0].name: "no message"}
    with pytest.raises(RuntimeError, match="no message"):
        pe_area.measure(points, Breaking(), tmp_path / "other", lambda _: None)


def record(family: str, bits: int, alone: float, whole: float) -> dict:
    return {"family": family, "weights": f"int{bits}", "weight_bits": bits, "alone_per_mac": alone,
            "whole_per_mac": whole}


def test_a_table_wins_up_to_the_width_at_which_it_is_larger():
    records = [record("mac", bits, 100, 110) for bits in (1, 2, 3, 4)]
    records += [record("lut", bits, 30 * bits, 50 * bits) for bits in (1, 2, 3, 4)]
    study = lut_and_mac(records)
    assert study is not None and study.here == "up to 3 bits alone, up to 2 bits whole"
    assert study.rows[1][3:] == (100 / 60, 110 / 100)
    assert lut_and_mac(records[:4]) is None


def test_comparisons_and_plots_of_what_was_measured(tmp_path: Path):
    chosen = [p for p in all_points() if p.family in ("fp16_mac", "lut_ladder", "bit_serial_fp16")]
    rows = pe_area.measure(chosen, Counting(), tmp_path, lambda _: None)
    records = pe_area.records(rows, rows[0], 12.0)
    bitmod, ladder = studies(records)
    encoders = next(p for p in records[2]["parts"] if p["name"] == "encoders")
    assert bitmod.rows[0][3] == encoders["count"] * encoders["area_um2"] / records[2]["alone"]
    assert encoders["count"] == 4 / 8  # four lanes, shared by eight rows
    assert [row[2] for row in ladder.rows] == [rows[-4].alone / row.alone for row in rows[-4:]]
    tree = {"target": "counting", "tool": "none", "clock_ns": 12.0, "nand2_um2": 4.0, "points": records,
            "studies": [study.to_dict() for study in (bitmod, ladder)]}
    written = plot(tree, [bitmod, ladder], tmp_path / "plots")
    assert [path.name for path in written] == ["pe-area.svg", "pe-throughput.svg", "pe-papers.svg"]
    assert all(path.read_text().startswith("<?xml") for path in written)
    text = pe_area.markdown(tree)
    assert len([line for line in text.splitlines() if line.startswith("| lut_ladder")]) == 4


def test_an_fpga_counts_luts(tmp_path: Path):
    point = Point("test", "fp3", 3, "int8", 1.0, (Part("decoder", 1, lambda: WeightDecoder(WeightKind.FP3)),), "unit")
    (row,) = pe_area.measure([point], pe_area.FpgaTarget("ecp5", yosys, "test"), tmp_path, lambda _: None)
    figures = row.parts[0].figures
    # Three bits of code, two of select and four of kind in; eight out, of which the upper ones are the sign.
    assert set(row.resources) == {"FF", "DSP", "EBR"}
    assert 4 <= figures["LUT4"] <= 40 and figures["FF"] == figures["DSP"] == figures["EBR"] == 0


@pytest.mark.parametrize("arguments, message", [
    ([], "name a family or --all; there are fp16_mac, "),
    (["nothing"], "no family nothing; there are fp16_mac, "),
    (["mac", "--liberty", "{tmp}/no.lib"], "No such file"),
    (["mac", "--liberty", "{tmp}/empty.lib"], "not a Liberty library"),
    (["mac", "--liberty", "{tmp}/bare.lib"], "no cell whose name has `nand2`"),
])
def test_errors_are_one_line(arguments, message, tmp_path: Path):
    (tmp_path / "empty.lib").write_text("")
    (tmp_path / "bare.lib").write_text("library (bare) {\n  cell (INV) { area : 1; }\n}\n")
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    result = CliRunner().invoke(app, ["pe", "area", *arguments, "-o", str(tmp_path / "out")], env={"COLUMNS": "500"})
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_what_it_prints(tmp_path: Path):
    arguments = ["pe", "area", "lut_ladder", "--liberty", str(TINY), "--clock-ns", "100", "--json",
                 "-o", str(tmp_path), "--plot", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    tree = json.loads((tmp_path / "area.json").read_text())
    assert tree["nand2_um2"] == 4.0 and tree["command"][0] == "wordline"
    sizes = [p["alone"] for p in tree["points"] if p["family"] == "lut_ladder"]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.1 * sizes[3]
    yardstick = tree["points"][0]
    assert yardstick["family"] == "fp16_mac" and yardstick["alone_ratio"] == 1
    assert [study["paper"] for study in tree["studies"]] == ["1.44 times"]
    assert len((tmp_path / "area.csv").read_text().splitlines()) == 1 + len(tree["points"])
    assert (tmp_path / "area.md").read_text().startswith("| PE | unit |")
    assert (tmp_path / "pe-papers.svg").exists()
