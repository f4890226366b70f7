"""Configurations that cannot work are refused."""

import pytest

from wordline.rtl.config import ConfigError, MemoryConfig


def test_a_weight_fifo_that_holds_no_whole_burst_is_refused():
    """STREAM would wait for its room for ever."""
    with pytest.raises(ConfigError, match=r"memory.stream_beats = 32 is not allowed: a power of two from 64"):
        MemoryConfig(stream_beats=32)
    assert MemoryConfig(stream_beats=64).stream_beats == 64
