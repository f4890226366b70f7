"""Configurations that cannot work are refused."""

import pytest

from wordline.rtl.config import ArrayConfig, Config, ConfigError, MemoryConfig


def test_a_weight_fifo_that_holds_no_whole_burst_is_refused():
    """STREAM would wait for its room for ever."""
    with pytest.raises(ConfigError, match=r"memory.stream_beats = 32 is not allowed: a power of two from 64"):
        MemoryConfig(stream_beats=32)
    assert MemoryConfig(stream_beats=64).stream_beats == 64


def test_a_window_is_a_power_of_two_that_the_activation_buffer_holds():
    with pytest.raises(ConfigError, match=r"array.window = 3 is not allowed: 2, 4, 8 or 16; 0 for none"):
        ArrayConfig(window=3)
    with pytest.raises(ConfigError, match=r"memory.act_elements = 64 is not allowed: at least array.lanes, times"):
        Config(array=ArrayConfig(window=16), memory=MemoryConfig(act_elements=64))
    assert Config(array=ArrayConfig(window=8), memory=MemoryConfig(act_elements=64)).array.window == 8
