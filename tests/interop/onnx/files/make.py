"""Makes the files beside it, with TensorFlow 2.21 and tf2onnx 1.17 (neither is needed for the tests)."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf2onnx

HERE = Path(__file__).parent
layers = tf.keras.layers

MODELS = {
    "tf_conv": [
        layers.Input((9, 9, 3)), layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, padding="same"), layers.BatchNormalization(), layers.MaxPooling2D(2, padding="same"),
        layers.Conv2DTranspose(3, 3, strides=2, padding="same"), layers.UpSampling2D(2, interpolation="bilinear"),
        layers.GlobalAveragePooling2D(), layers.Dense(4, activation="softmax"),
    ],
    "tf_lstm": [
        layers.Input((7, 5)), layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.GRU(3),
        layers.LayerNormalization(), layers.Dense(2, activation="tanh"),
    ],
}  # fmt: skip

for name, rows in MODELS.items():
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(rows)
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="x")]
    function = tf.function(lambda x, model=model: model(x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, signature, opset=17, output_path=str(HERE / f"{name}.onnx"))
    np.savez_compressed(HERE / f"{name}.npz", x=x, y=model(x, training=False).numpy())
