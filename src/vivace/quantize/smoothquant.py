"""SmoothQuant: outliers of activations move into the weights, where an int8 scale a row takes them easily.

Xiao, Lin, Seznec, Wu, Demouth and Han, 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models" (arXiv:2211.10438), equation 4.
Shape letters: K inputs.
"""

from __future__ import annotations

import numpy as np

from vivace.quantize.decoder_layer import Floats

SMALLEST = 1e-5


def smoothing_scale(input_absmax_K: Floats, weight_absmax_K: Floats, alpha: float) -> Floats:
    """s = max|x| ** alpha / max|w| ** (1 - alpha): inputs are divided by it, columns of the weights multiplied.

    `alpha` is the share of the difficulty that goes to the weights. Inputs or columns that are all zero keep 1.
    """
    inputs, weights = np.maximum(input_absmax_K, SMALLEST), np.maximum(weight_absmax_K, SMALLEST)
    scale_K = inputs ** np.float32(alpha) / weights ** np.float32(1 - alpha)
    return np.where((input_absmax_K > 0) & (weight_absmax_K > 0), scale_K, np.float32(1)).astype(np.float32)
