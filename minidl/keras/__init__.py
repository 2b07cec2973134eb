"""Keras' face of minidl: layers, Sequential and functional models by Keras' names, channels last, and Keras' files.

    from minidl import keras

    model = keras.models.load_model("model.keras")   # also .h5
    y = model(x)

A layer is a :class:`minidl.nn.Module`: it is differentiated, captured by ``minidl.jit`` and runs on every backend.
Weights have Keras' names and shapes (a ``kernel`` of a convolution is (height, width, in, out)).
"""

from minidl.keras import layers, models
from minidl.keras.engine import Input, KerasTensor, Layer
from minidl.keras.models import Model, Sequential

__all__ = ["Input", "KerasTensor", "Layer", "Model", "Sequential", "layers", "models"]
