"""Registers and memory over AXI4-Stream."""

from pathlib import Path

from amaranth.back import verilog
from runner import run_cocotb

from wordline.fpga.stream_bridge import StreamBridge


def test_frames_over_streams(tmp_path: Path):
    text = verilog.convert(StreamBridge(address_bits=20), name="stream_bridge", emit_src=False)
    run_cocotb(text, "stream_bridge", "tb_stream_bridge", tmp_path, env={"COCOTB_LOG_LEVEL": "WARNING"}, short=True)
