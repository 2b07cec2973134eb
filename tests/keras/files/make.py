"""Makes the file beside it with TensorFlow 2.21, which is not needed for the tests."""

from pathlib import Path

import numpy as np
import tensorflow as tf

CASES = [
    (5, 2, 3, "valid"),
    (5, 2, 3, "same"),
    (6, 4, 2, "same"),
    (6, 3, 2, "same"),
    (5, 5, 3, "valid"),
    (5, 1, 2, "same"),
]

out = {}
rng = np.random.default_rng(0)
for size, kernel, stride, padding in CASES:
    x = rng.normal(size=(1, size, size, 2)).astype("f")
    w = rng.normal(size=(kernel, kernel, 3, 2)).astype("f")
    layer = tf.keras.layers.Conv2DTranspose(3, kernel, strides=stride, padding=padding, use_bias=False)
    layer.build(x.shape)
    layer.set_weights([w])
    name = f"{size},{kernel},{stride},{padding},"
    out |= {name + "x": x, name + "w": w, name + "y": layer(x).numpy()}
np.savez(Path(__file__).parent / "transposed.npz", **out)
