"""Smoothing of activations for low bits (SmoothQuant, Xiao et al., ICML 2023, arXiv 2211.10438, equation 4).

Channels of the inputs are divided by ``s = peak(x)^0.5 / peak(w)^0.5``, so that outliers, which decide the step of all
activations of a token, are shared between activations and weights.
"""

from collections.abc import Callable

import numpy as np

from wordline.compiler.calibration import Work

ALPHA = 0.5


def apply(work: Work, progress: Callable[[str], None]) -> None:
    for m in work.matrices():
        progress(m.name)
        peak, columns = work.inputs[m.name].peak, np.abs(work.weights(m)).max(0)
        s = np.maximum(peak, peak.max() * 1e-4 + 1e-12) ** ALPHA / np.maximum(columns, 1e-6) ** (1 - ALPHA)
        s = np.clip(s / np.exp(np.log(s).mean()), 1e-3, 1e3).astype(np.float32)
        shared = work.shared(m, s)
        if shared is not None:
            work.divide_inputs(m, shared)
