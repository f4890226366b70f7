"""`wordline gen --target`: what does not fit a device is refused, or shrunk with `--fit`.

Counts are made up, but in the slow test.
"""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.fpga.resources import Estimator

#: Arrays of 1 x 8 x 8 to 2 x 16 x 8 with little around them.
SETTINGS = {"array.rows": 2, "array.cols": 16, "array.lanes": 8, "array.weights": '["int8"]', "array.drain_lanes": 1,
            "bus.data_bits": 64, "memory.vector_floats": 1024, "memory.program": 64}


class Yosys:
    """Counts that grow with the array: a column as many LUTs as is said, for each lane and row; and `elsewhere`."""

    def __init__(self, lane: int, elsewhere: int = 0):
        self.lane, self.elsewhere, self.counted = lane, elsewhere, []

    def run(self, args: list[str], cwd: Path) -> str:
        part = re.search(r"^module part ?\(.*?^endmodule", (cwd / "part.v").read_text(), re.S | re.M)
        assert part
        cells = self.elsewhere
        if acts := re.search(r"^  input \[(\d+):0\] acts;", part[0], re.M):
            cells = (int(acts[1]) + 1) // 8 * self.lane  # 8 bits a lane
            self.counted.append(cells)
        (cwd / "stat.json").write_text(json.dumps({"design": {"num_cells_by_type": {"LUT6": cells}}}))
        return ""


@pytest.fixture()
def gen(monkeypatch, tmp_path: Path):
    """`wordline gen ulx3s --target pynq-z2` with a Yosys; the result, and the folder that it may have written."""
    def run(yosys, *more: str):
        cells = tmp_path / "cells"
        cells.mkdir()
        monkeypatch.setattr("wordline.cli.fpga._estimator", lambda: Estimator(yosys.run, "made up", cells))
        fields = [f"--set={name}={value}" for name, value in SETTINGS.items()]
        result = CliRunner().invoke(app, ["gen", "ulx3s", "--target", "pynq-z2", "-o", str(tmp_path / "ip"), *fields,
                                          *more])
        return result, tmp_path / "ip"
    return run


def test_what_does_not_fit_is_refused_and_nothing_written(gen):
    result, folder = gen(Yosys(lane=300))  # 2 * 16 * 8 * 300 = 76,800 of 53,200
    assert result.exit_code == 1 and not folder.exists()
    message = " ".join(result.stderr.split())
    assert "ulx3s does not fit TUL PYNQ-Z2: 76800 LUT of 53200. --fit takes" in message


def test_what_fits_is_written_as_it_is(gen):
    result, folder = gen(Yosys(lane=200))  # 51,200
    assert result.exit_code == 0, result.stderr
    array = json.loads((folder / "manifest.json").read_text())["array"]
    assert (array["rows"], array["cols"], array["lanes"]) == (2, 16, 8)


def test_fit_takes_the_largest_smaller_array_that_does(gen):
    yosys = Yosys(lane=300)
    result, folder = gen(yosys, "--fit")
    assert result.exit_code == 0, result.stderr
    assert "--set array.rows=1 --set array.cols=16 --set array.lanes=8" in " ".join(result.stderr.split())
    array = json.loads((folder / "manifest.json").read_text())["array"]
    assert (array["rows"], array["cols"], array["lanes"]) == (1, 16, 8)  # 38,400; as 2 x 8 x 8, which has fewer columns
    # The whole, the least, and the one that was taken: of the least the same column.
    assert yosys.counted == [4800, 2400]


def test_where_no_array_helps_only_the_least_is_tried(gen):
    yosys = Yosys(lane=1, elsewhere=50000)
    result, folder = gen(yosys, "--fit")
    assert result.exit_code == 1 and not folder.exists()
    assert "No smaller array fits; --set vector.lanes smaller" in " ".join(result.stderr.split())
    assert yosys.counted == [16, 8]


def test_unchecked_it_is_written_without_yosys(gen):
    result, folder = gen(None, "--no-check")
    assert result.exit_code == 0, result.stderr
    assert (folder / "hdl/wordline_ulx3s.v").exists()


def test_fit_wants_a_target(tmp_path: Path):
    result = CliRunner().invoke(app, ["gen", "ulx3s", "--fit", "-o", str(tmp_path / "ip")])
    assert result.exit_code == 1 and "--fit: only with --target" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_with_yosys_too(tmp_path: Path):
    """256 products a cycle are more than PYNQ-Z2's 220 multipliers, 128 are not."""
    fields = [f"--set={name}={value}" for name, value in (SETTINGS | {"array.rows": 4, "array.cols": 8}).items()]
    command = ["ulx3s", *fields]
    result = CliRunner().invoke(app, ["gen", *command, "--target", "pynq-z2", "-o", str(tmp_path / "ip")])
    assert result.exit_code == 1 and "DSP of 220" in " ".join(result.stderr.split()) and not (tmp_path / "ip").exists()
    result = CliRunner().invoke(app, ["gen", *command, "--target", "pynq-z2", "-o", str(tmp_path / "ip"), "--fit"])
    assert result.exit_code == 0, result.stderr
    array = json.loads((tmp_path / "ip" / "manifest.json").read_text())["array"]
    assert (array["rows"], array["cols"], array["lanes"]) == (2, 8, 8)
    result = CliRunner().invoke(app, ["fpga", "resources", *command, "--device", "pynq-z2", "--fit", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 1 and not report["fits"] and set(report["excess"]) == {"DSP"}
    assert report["fit"]["rows"] == 2 and report["fit"]["total"]["DSP"] <= 220
