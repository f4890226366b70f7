"""What the papers say about their PEs, beside what the same comparison gives here.

Works on `pe_area.records`; a comparison whose points were not measured is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from wordline.fpga.pe_points import BITMOD_TILE_ROWS, FP16_TILE_ROWS, TILE_COLUMNS, YARDSTICK

Record = dict


@dataclass(frozen=True)
class Study:
    """A comparison: a table, what the paper says, what it is here."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str | float, ...]]
    paper: str
    here: str

    def to_dict(self) -> dict:
        return {"title": self.title, "paper": self.paper, "here": self.here,
                "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows]}


def studies(records: list[Record]) -> list[Study]:
    """Those comparisons for which there are points."""
    made: list[Callable[[list[Record]], Study | None]] = [
        bitmod, lut_and_mac, partial(lut_and_mac, suffix="_wide", lanes=16), lut_and_fp16, table_size, ladder]
    return [study for study in (make(records) for make in made) if study is not None]


def _of(records: list[Record], family: str, **fields) -> list[Record]:
    return [r for r in records if r["family"] == family and all(r[k] == v for k, v in fields.items())]


def _name(record: Record) -> str:
    return f"{record['family']} {record['weights']} x {record['acts']}, {record['unit']}"


def _part(record: Record, name: str) -> float:
    """Size of a part in one unit."""
    return sum(p["count"] * p[record["size"]] for p in record["parts"] if p["name"] == name)


def bitmod(records: list[Record]) -> Study | None:
    fp16 = next((r for r in records if _name(r) == YARDSTICK), None)
    ours = _of(records, "bit_serial_fp16")
    if fp16 is None or not ours:
        return None
    rows: list[tuple[str | float, ...]] = []
    for r in ours:
        tile = BITMOD_TILE_ROWS * TILE_COLUMNS * (r["alone"] + _part(r, "encoders"))
        of_fp16 = FP16_TILE_ROWS * TILE_COLUMNS * fp16["alone"]
        rows.append((r["weights"], r["unit"], r["alone"] / fp16["alone"], _part(r, "encoders") / r["alone"],
                     tile / of_fp16, r["alone_ratio"], r["whole_ratio"]))
    sizes = ", ".join(f"{x[2]:.2f} ({x[1]})" for x in rows if x[0] == "fp4")
    return Study(
        "BitMoD's PE against FP16 (HPCA 2025, Table X)",
        ("weights", "unit", "PE / FP16 PE", "encoders / PEs", "8x8 tile / 6x8 tile", "a product alone", "whole"), rows,
        "PE 0.76 of FP16's, encoders 0.025 of the PEs, tile 1.04; a product at FP4 0.38",
        f"PE {sizes}; encoders {rows[0][3]:.3f}")


def _crossing(widths: list[float], ratios: list[float]) -> str:
    """Up to which width, from the narrowest on, the ratio is above 1."""
    wins = 0.0
    for width, ratio in sorted(zip(widths, ratios, strict=True)):
        if ratio <= 1:
            break
        wins = width
    return f"up to {wins:g} bits" if wins else "never"


def lut_and_mac(records: list[Record], suffix: str = "", lanes: int = 4) -> Study | None:
    mac = {r["weights"]: r for r in _of(records, "mac" + suffix) if r["weights"].startswith("int")}
    pairs = [(mac[r["weights"]], r) for r in _of(records, "lut" + suffix) if r["weights"] in mac]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[0]["weight_bits"])
    rows: list[tuple[str | float, ...]] = [
        (m["weights"], m["alone_per_mac"], t["alone_per_mac"], m["alone_per_mac"] / t["alone_per_mac"],
         m["whole_per_mac"] / t["whole_per_mac"]) for m, t in pairs]
    bits = [m["weight_bits"] for m, _ in pairs]
    alone, whole = ([float(row[i]) for row in rows] for i in (3, 4))
    return Study(
        f"LUT against MAC, INT8 activations, {lanes} lanes, area for one product a cycle (ISCA 2025, Fig. 11)",
        ("weights", "mac", "lut", "mac / lut alone", "mac / lut whole"), rows,
        "LUT is smaller up to 6 bits", f"{_crossing(bits, alone)} alone, {_crossing(bits, whole)} whole")


def lut_and_fp16(records: list[Record]) -> Study | None:
    fp16 = next((r for r in records if _name(r) == YARDSTICK), None)
    tables = _of(records, "lut_fp16")
    if fp16 is None or not tables:
        return None
    rows: list[tuple[str | float, ...]] = [
        (r["weights"], r["alone_per_mac"], 1 / r["alone_ratio"], 1 / r["whole_ratio"]) for r in tables]
    bits = [r["weight_bits"] for r in tables]
    alone, whole = ([float(row[i]) for row in rows] for i in (2, 3))
    return Study(
        "LUT with FP16 entries against fp16_mac, area for one product a cycle",
        ("weights", "lut_fp16", "fp16_mac / lut alone", "fp16_mac / lut whole"), rows,
        "W1A16 18 times denser (61.55 against 3.39 TFLOP/s/mm2); LUT is smaller up to 6 bits",
        f"W1A16 {alone[0]:.1f} times alone, {whole[0]:.1f} whole; {_crossing(bits, alone)} alone, "
        f"{_crossing(bits, whole)} whole")


def table_size(records: list[Record]) -> Study | None:
    points = _of(records, "lut_k")
    if not points:
        return None
    rows: list[tuple[str | float, ...]] = [
        (r["unit"].split(":")[-1].upper(), r["alone_per_mac"],
         r["alone_per_mac"] + _part(r, "front") / r["macs_per_cycle"], r["whole_per_mac"]) for r in points]
    best = [min(rows, key=lambda row: float(row[i]))[0] for i in (1, 2, 3)]
    return Study(
        "Activations a table, W2A8, tables shared by 64 columns, area for one product a cycle (ISCA 2025, Fig. 13)",
        ("table", "alone", "with tables", "whole"), rows, "K=4 is best",
        f"{best[0]} alone, {best[1]} with tables, {best[2]} whole")


#: LUT Tensor Core, Table 2: um2 of the four steps at 28 nm.
LADDER_PAPER = (17271.71, 13116.60, 12780.05, 11991.29)


def ladder(records: list[Record]) -> Study | None:
    steps = _of(records, "lut_ladder")
    if len(steps) != len(LADDER_PAPER):
        return None
    # The accumulators, which are the same in all steps: flip-flops are dear in some libraries.
    held = [sum(p["count"] * p.get("flops_um2", 0.0) for p in r["parts"] if p["name"] == "column") for r in steps]
    rows: list[tuple[str | float, ...]] = [
        (r["unit"], r["alone"], steps[0]["alone"] / r["alone"], steps[0]["whole"] / r["whole"],
         (steps[0]["alone"] - held[0]) / (r["alone"] - acc), LADDER_PAPER[0] / paper)
        for r, acc, paper in zip(steps, held, LADDER_PAPER, strict=True)]
    return Study(
        "Steps to LUT Tensor Core's tile, W2A8, M2N64K4 (ISCA 2025, Table 2)",
        ("step", "size alone", "gain alone", "precompute charged", "accumulators not counted", "gain in the paper"),
        rows, f"{rows[-1][5]:.2f} times",
        f"{rows[-1][2]:.2f} times; {rows[-1][3]:.2f} with the precompute charged, "
        f"{rows[-1][4]:.2f} without accumulators")
