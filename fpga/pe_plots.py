"""Plots of `wordline pe area`: area against bits per weight, throughput per area, and the papers' comparisons."""

from pathlib import Path

from wordline.fpga.pe_studies import LADDER_PAPER, Study

_MARKS = "osv^D<>pX*h"
_WIDEST = 8
#: Points that are there for a study of their own.
_STUDIES = ("lut_k", "lut_ladder", "lut_wide", "mac_wide")


def plot(tree: dict, studies: list[Study], folder: Path) -> list[Path]:
    """Writes the plots (SVG) that the points allow."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [_curves(tree, folder / "pe-area.svg", density=False),
               _curves(tree, folder / "pe-throughput.svg", density=True)]
    chosen = [s for s in studies if "LUT against MAC" in s.title or "Activations a table" in s.title
              or "Steps to" in s.title]
    if chosen:
        written.append(_papers(tree, chosen, folder / "pe-papers.svg"))
    return written


def _series(points: list[dict], acts: str) -> dict[str, list[dict]]:
    """Points by family, those with integer weights (or FP16) of each before the others."""
    found: dict[str, list[dict]] = {}
    for p in sorted(points, key=_other):
        if p["acts"] == acts and p["family"] not in _STUDIES and "subnormals" not in p["unit"]:
            label = p["family"]
            if label == "bit_serial_fp16":
                label += f" ({p['unit'].split(', ')[1]})"
            found.setdefault(label, []).append(p)
    return found


def _other(point: dict) -> bool:
    return not (point["weights"].startswith("int") or point["weights"] == "fp16")


def _curves(tree: dict, path: Path, *, density: bool) -> Path:
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    clock = tree["clock_ns"]
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, acts in zip(panels, ("int8", "fp16"), strict=True):
        for i, (label, points) in enumerate(_series(tree["points"], acts).items()):
            for key, style in (("alone_per_mac", "-"), ("whole_per_mac", ":")):
                alone = key == "alone_per_mac"
                # um2 for one product a cycle; products per ns and mm2
                sizes = [(1e6 / clock if clock else 1e3) / p[key] if density else p[key] for p in points]
                widths = [p["weight_bits"] for p in points]
                look = {"color": f"C{i}", "markersize": 5, "fillstyle": "full" if alone else "none"}
                if widths[0] > _WIDEST:  # what has weights of FP16 is a level for the others
                    if alone:
                        axes.axhline(sizes[0], color=f"C{i}", linestyle="--", label=label)
                    continue
                n = sum(not _other(p) for p in points)
                axes.plot(widths[:n], sizes[:n], style, marker=_MARKS[i], label=label if alone else None, **look)
                # Floats, trits and powers of two: marks without a line.
                axes.plot(widths[n:], sizes[n:], linestyle="none", marker="*", **look)
        axes.set_yscale("log")
        axes.set_xlabel("bits per weight")
        axes.set_title(f"{acts.upper()} activations", fontsize=10)
        axes.grid(True, which="both", alpha=0.25)
        if axes.lines:
            axes.legend(fontsize=7)
    unit = "um2" if clock else tree["points"][0]["size"]
    panels[0].set_ylabel(("products per ns and mm2" if clock else f"products a cycle per 1000 {unit}") if density
                         else f"{unit} for one product a cycle")
    figure.suptitle(f"{tree['target']}, {tree['tool']}; solid: PE alone, dotted: everything charged, "
                    "stars: floats, trits, powers of two", fontsize=10)
    return _save(figure, path)


def _papers(tree: dict, studies: list[Study], path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(studies), 3.8), layout="constrained")
    panels = figure.subplots(1, len(studies), squeeze=False)[0]
    for axes, study in zip(panels, studies, strict=True):
        names = [str(row[0]).replace("step ", "").split(":")[0] for row in study.rows]
        if "LUT against MAC" in study.title:
            axes.plot(names, [row[3] for row in study.rows], "o-", label="alone")
            axes.plot(names, [row[4] for row in study.rows], "s:", label="whole")
            axes.axhline(1, color="black", linewidth=0.7)
            axes.set_ylabel("area of mac / area of lut")
        elif "Activations a table" in study.title:
            for i, (label, style) in enumerate((("alone", "o-"), ("with tables", "^--"), ("whole", "s:")), 1):
                axes.plot(names, [row[i] for row in study.rows], style, label=label)
            axes.set_ylabel("area for one product a cycle")
        else:
            axes.plot(names, [row[2] for row in study.rows], "o-", label="alone")
            axes.plot(names, [row[3] for row in study.rows], "s:", label="precompute charged")
            axes.plot(names, [row[4] for row in study.rows], "v-.", label="accumulators not counted")
            axes.plot(names, [LADDER_PAPER[0] / size for size in LADDER_PAPER], "k^--", label="paper")
            axes.set_ylabel("gain over step 1")
            axes.set_xlabel("step")
        lanes = ", 16 lanes" if "16 lanes" in study.title else ""
        axes.set_title(f"{study.title.split(' (')[0].split(',')[0]}{lanes}\npaper: {study.paper}", fontsize=8)
        axes.grid(True, alpha=0.25)
        axes.legend(fontsize=7)
    figure.suptitle(f"{tree['target']}, {tree['tool']}", fontsize=9)
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    import matplotlib

    # The same bytes for the same figures: no date, and identifiers from a fixed salt.
    with matplotlib.rc_context({"svg.hashsalt": "wordline"}):
        figure.savefig(path, metadata={"Date": None})
    return path
