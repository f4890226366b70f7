"""Quantisers by name: what comes on top of rounding to the nearest."""

from collections.abc import Callable
from functools import partial

from wordline.compiler import quantize_awq, quantize_clip, quantize_gptq, quantize_smooth
from wordline.compiler.calibration import Calibration, Work
from wordline.compiler.model import Model, ModelError
from wordline.rtl.config import TypesConfig

#: In the order in which they are applied: scales first, then ranges, then codes.
QUANTIZERS: dict[str, Callable[[Work, Callable[[str], None]], None]] = {
    "smooth": quantize_smooth.apply, "awq": quantize_awq.apply, "clip": quantize_clip.apply,
    "gptq": quantize_gptq.apply}


def parse(text: str) -> tuple[str, ...]:
    """Names in a comma-separated list, in the order in which they are applied.

    Raises
    ------
    ModelError
        There is no such quantiser.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in QUANTIZERS:
            raise ModelError(f"no quantizer {name!r}; there are {', '.join(QUANTIZERS)}")
    return tuple(name for name in QUANTIZERS if name in names)


def _told(name: str, progress: Callable[[str], None], what: str) -> None:
    progress(f"{name}: {what}")


def apply(model: Model, names: tuple[str, ...], types: TypesConfig, calibration: Calibration,
          progress: Callable[[str], None] = lambda what: None) -> Model:
    """The model with its layers' matrices prepared, and by some quantisers rounded, for their weight types. The output
    head stays as it is."""
    work = Work(model, types, calibration)
    for name in names:
        QUANTIZERS[name](work, partial(_told, name, progress))
    return work.result()
