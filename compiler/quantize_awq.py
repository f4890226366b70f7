"""Activation-aware weight scaling (AWQ, Lin et al., MLSys 2024, arXiv 2306.00978, section 3.2).

Columns of a matrix that large inputs meet are multiplied by s > 1 before rounding, and the inputs divided by it where
they are made: the error of these columns shrinks by s, since the step of their group hardly changes. ``s = size^alpha``
with the alpha that leaves the smallest error of the outputs, of six from 0 (plain rounding) to 1.
"""

from collections.abc import Callable

import numpy as np

from wordline.compiler.calibration import Work

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_ROWS = 256  # of a matrix, enough to tell the alphas apart


def scales(size: np.ndarray, alpha: float) -> np.ndarray:
    """float32[K], geometrically centred on 1."""
    s = np.maximum(size, size.max() * 1e-4 + 1e-12) ** alpha
    return np.clip(s / np.sqrt(s.max() * s.min()), 1e-4, 1e4).astype(np.float32)


def apply(work: Work, progress: Callable[[str], None]) -> None:
    for m in work.matrices():
        progress(m.name)
        inputs, weights = work.inputs[m.name], work.weights(m)
        some = weights[:: max(1, len(weights) // _ROWS)]
        best, least = None, np.inf
        for alpha in ALPHAS:
            s = work.shared(m, scales(inputs.size, alpha))
            if s is None:
                break
            error = inputs.output_error(work.rounded(some * s, m.kind) / s - some)
            if error < least:
                best, least = s, error
        if best is not None and np.ptp(best):
            work.divide_inputs(m, best)
