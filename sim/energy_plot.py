"""A picture of an energy report: one bar a part of the model, its units on top of each other."""

from pathlib import Path

from wordline.sim.energy import Report

_SCALES = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))


def scaled(pj: float) -> tuple[float, str]:
    """Picojoules a readable unit has, and its name."""
    return next((s for s in _SCALES if abs(pj) >= s[0]), _SCALES[-1])


def plot(report: Report, path: Path) -> None:
    """Write the picture; the file's ending says the format."""
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    parts, both = list(report.by("part")), report.by("unit", "part")
    size, unit_name = scaled(max(report.by("part").values()))
    left = [0.0] * len(parts)
    for unit in report.by("unit"):
        values = [both.get((unit, part), 0.0) / size for part in parts]
        axes.barh(parts, values, left=left, label=unit)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit_name} per token")
    axes.set_title(f"{report.model} on {report.config}, context {report.context}: "
                   f"{100 * report.by('tag').get('assumed', 0.0) / report.pj:.0f} % assumed", fontsize=10)
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
