"""Runs the source model on a text and keeps what quantisers want to know of every matrix's inputs."""

from collections.abc import Callable

import numpy as np

from wordline.compiler import quantizers
from wordline.compiler.calibration import Calibration, Inputs
from wordline.compiler.image import matrices
from wordline.compiler.model import Model, ModelError
from wordline.rtl.config import TypesConfig
from wordline.sim.reference import float_logits
from wordline.sim.texts import Text

TOKENS = 512  # of each text
_WINDOW = 256


def calibration_windows(model: Model, texts: list[Text], tokens: int, window: int) -> list[np.ndarray]:
    """Token ids of the calibration parts of the texts, about `tokens` of each, in windows.

    Raises
    ------
    ModelError
        A text is too short.
    """
    found = []
    for text in texts:
        ids = np.array(model.tokenizer.encode(text.calibration[: 20 * tokens]).ids[:tokens])
        if len(ids) < 2:
            raise ModelError(f"text {text.name!r} is too short to calibrate on")
        found += [ids[i : i + window] for i in range(0, len(ids), window)]
    return found


class Prepare:
    """Applies quantisers, calibrated on the calibration parts of some texts once the first of them is wanted.

    Parameters
    ----------
    tokens : int
        Of each text.
    progress : callable
        Told what is being done.
    """

    def __init__(self, texts: list[Text], tokens: int, progress: Callable[[str], None]):
        self.texts, self.tokens, self.progress = texts, tokens, progress
        self._calibration: Calibration | None = None

    def __call__(self, model: Model, names: tuple[str, ...], types: TypesConfig) -> Model:
        """The model prepared for `types`; itself without quantisers."""
        if not names:
            return model
        if self._calibration is None:
            limit = min(_WINDOW, model.config.sliding_window or model.config.context)
            windows = calibration_windows(model, self.texts, self.tokens, limit)
            self._calibration = calibrate(model, windows, lambda what, done, total: self.progress(
                f"{what}, window {done} of {total}"))
        return quantizers.apply(model, names, types, self._calibration, self.progress)


def calibrate(model: Model, windows: list[np.ndarray],
              progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Calibration:
    """Inputs of every matrix of every layer, in the source model."""
    c = model.config
    names = {f"model.layers.{i}.{parts[0]}": f"layer {i} {kind}"
             for i in range(c.layers) for kind, parts in matrices(c).items()}
    gram: dict[str, np.ndarray] = {}
    size: dict[str, np.ndarray] = {}
    peak: dict[str, np.ndarray] = {}
    total = sum(len(ids) for ids in windows)

    def observe(tensor: str, x: np.ndarray) -> None:
        if tensor not in names:
            return
        name, x = names[tensor], x.astype(np.float32)
        magnitude = np.abs(x)
        gram[name] = gram.get(name, np.float32(0)) + x.T @ x
        size[name] = size.get(name, np.float32(0)) + magnitude.sum(0)
        peak[name] = np.maximum(peak.get(name, np.float32(0)), magnitude.max(0))

    for i, ids in enumerate(windows):
        progress("calibrating", i, len(windows))
        float_logits(model, ids, observe=observe, head=False)
    progress("calibrating", len(windows), len(windows))
    return {name: Inputs(gram[name] / total, size[name] / total, peak[name]) for name in names.values()}
