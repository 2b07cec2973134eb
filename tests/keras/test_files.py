"""Files that Keras itself writes: the same architecture, weights and numbers here."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
jax = pytest.importorskip("jax", reason="Keras computes with JAX here")
k = pytest.importorskip("keras", reason="Keras writes the files (pip install keras)")
pytest.importorskip("h5py", reason="Keras' files are HDF5 (pip install h5py)")

import minidl  # noqa: E402
from minidl import keras as ours  # noqa: E402
from minidl.files import CorruptFileError  # noqa: E402

L = k.layers
seq = lambda *rows: lambda: k.Sequential(list(rows))
image = lambda *rows: lambda: k.Sequential([L.Input((9, 8, 3)), *rows])
steps = lambda *rows: lambda: k.Sequential([L.Input((7, 5)), *rows])
volume = lambda *rows: lambda: k.Sequential([L.Input((5, 6, 7, 2)), *rows])
words = lambda *rows: lambda: k.Sequential([L.Input((6,), dtype="int32"), *rows])


def residual():
    x = a = k.Input((8, 8, 3), name="picture")
    x = L.Conv2D(6, 3, padding="same")(x)
    shared = L.Conv2D(6, 1, use_bias=False)
    y = L.Add()([x, shared(x)])
    y = L.Concatenate()([y, shared(y), L.ReLU(max_value=6.0)(y)])
    z = L.GlobalAveragePooling2D()(y)
    return k.Model(a, [L.Dense(3, name="one")(z), L.Activation("softmax", name="two")(L.Dense(2)(z))])


def two_inputs():
    a, b = k.Input((4,)), k.Input((6, 3))
    x = L.Dense(5, activation="gelu")(a)
    y = L.LSTM(5, return_sequences=True)(b)
    out = L.Dot(axes=(1, 2))([x, y])
    return k.Model([a, b], L.Dense(2)(L.Concatenate()([out, L.Multiply()([x, L.GlobalMaxPooling1D()(y)])])))


def transformer():
    x = a = k.Input((7, 8))
    y = L.MultiHeadAttention(2, 3, value_dim=3)(x, x)
    x = L.LayerNormalization(epsilon=1e-6)(L.Add()([x, L.Dropout(0.1)(y)]))
    y = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    x = L.LayerNormalization()(x + y)
    y = L.Dense(8)(L.Dense(16, activation="relu")(x))
    return k.Model(a, L.Add()([x, y]))


def nested():
    inner = k.Sequential([L.Input((9, 8, 3)), L.Conv2D(4, 3), L.Flatten()], name="inner")
    a = k.Input((9, 8, 3))
    return k.Model(a, L.Dense(2)(inner(a)))


def attentions():
    a, b = k.Input((5, 4)), k.Input((6, 4))
    return k.Model([a, b], [L.Attention(use_scale=True)([a, b]), L.AdditiveAttention()([a, b]),
                            L.Attention(score_mode="concat")([a, b])])  # fmt: skip


MODELS = {
    "dense": seq(L.Input((4,)), L.Dense(5, activation="relu"), L.Dense(3, use_bias=False), L.Softmax()),
    "conv": image(L.Conv2D(4, 3, activation="relu"), L.Conv2D(6, (2, 3), strides=2, padding="same", groups=2)),
    "conv dilated": image(L.Conv2D(4, 3, dilation_rate=2, padding="same"), L.Conv2D(4, 3, dilation_rate=(1, 2))),
    "conv strided": image(L.Conv2D(4, 4, strides=3, padding="same"), L.Conv2D(4, 2, strides=(1, 2), padding="valid")),
    "conv1d": steps(L.Conv1D(4, 3, padding="causal", dilation_rate=2), L.Conv1D(3, 4, padding="same", strides=2)),
    "conv3d": volume(L.Conv3D(3, 3, padding="same"), L.Conv3D(2, (1, 2, 3), strides=2)),
    "depthwise": image(L.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), L.DepthwiseConv2D(2, strides=2)),
    "depthwise1d": steps(L.DepthwiseConv1D(3, depth_multiplier=2)),
    "separable": image(L.SeparableConv2D(5, 3, padding="same", depth_multiplier=2)),
    "separable1d": steps(L.SeparableConv1D(5, 3, strides=2, padding="same")),
    "transposed": image(L.Conv2DTranspose(4, 3, strides=2, padding="same"), L.Conv2DTranspose(2, 3, strides=2)),
    "transposed twice": image(L.Conv2DTranspose(4, 5, strides=3), L.Conv2DTranspose(3, 4, strides=2, padding="same")),
    "transposed output": image(L.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1)),
    "transposed1d": steps(L.Conv1DTranspose(4, 5, strides=3, padding="same")),
    "transposed3d": volume(L.Conv3DTranspose(2, 3, strides=2)),
    "max pooling": image(L.MaxPooling2D(3, strides=2, padding="same"), L.MaxPooling2D((2, 1))),
    "average pooling": image(L.AveragePooling2D(3, strides=2, padding="same"), L.AveragePooling2D(2)),
    "pooling1d": steps(L.MaxPooling1D(2), L.AveragePooling1D(2, padding="same")),
    "pooling3d": volume(L.MaxPooling3D(2), L.AveragePooling3D(2, padding="same")),
    "global": image(L.GlobalMaxPooling2D(keepdims=True), L.Flatten()),
    "global1d": steps(L.GlobalAveragePooling1D()),
    "global3d": volume(L.GlobalAveragePooling3D()),
    "norms": image(L.BatchNormalization(), L.LayerNormalization(axis=(1, 2, 3)), L.GroupNormalization(3),
                   L.UnitNormalization()),
    "batch norm": image(L.BatchNormalization(axis=1, scale=False), L.BatchNormalization(center=False, epsilon=1e-5)),
    "rescaling": image(L.Rescaling(1 / 127.5, offset=-1)),
    "normalization": lambda: adapted(),
    "activations": steps(*(L.Activation(n) for n in ("relu", "tanh", "gelu", "silu", "elu", "selu", "softplus",
                                                     "softsign",
                                                     "sigmoid", "hard_sigmoid", "mish", "exponential", "leaky_relu"))),
    "activation layers": steps(L.LeakyReLU(0.1), L.ELU(0.5), L.PReLU(), L.PReLU(shared_axes=[1]),
                               L.ReLU(1.0, 0.1, 0.2)),
    "shapes": image(L.Permute((3, 1, 2)), L.Reshape((4, -1)), L.Flatten(), L.RepeatVector(3)),
    "borders": image(L.ZeroPadding2D(((1, 2), (0, 3))), L.Cropping2D(((0, 1), (2, 1))), L.UpSampling2D((2, 3))),
    "borders1d": steps(L.ZeroPadding1D((1, 2)), L.Cropping1D(1), L.UpSampling1D(2)),
    "borders3d": volume(L.ZeroPadding3D(1), L.Cropping3D(((1, 0), 1, (0, 1))), L.UpSampling3D(2)),
    "bilinear": image(L.UpSampling2D(2, interpolation="bilinear")),
    "embedding": words(L.Embedding(9, 4), L.GlobalAveragePooling1D()),
    "lstm": steps(L.LSTM(4, return_sequences=True), L.LSTM(3, go_backwards=True)),
    "lstm odd": steps(L.LSTM(4, activation="relu", recurrent_activation="hard_sigmoid", use_bias=False)),
    "gru": steps(L.GRU(4, return_sequences=True), L.GRU(3, use_bias=False)),
    "gru before": steps(L.GRU(4, reset_after=False, return_sequences=True),
                        L.GRU(3, reset_after=False, use_bias=False)),
    "rnn": steps(L.SimpleRNN(4, return_sequences=True), L.SimpleRNN(3, activation="sigmoid")),
    "bidirectional": steps(L.Bidirectional(L.LSTM(3, return_sequences=True)),
                           L.Bidirectional(L.GRU(2), merge_mode="ave")),
    "masked": words(L.Embedding(5, 4, mask_zero=True), L.LSTM(4, return_sequences=True), L.GRU(3)),
    "masked mean": words(L.Embedding(5, 4, mask_zero=True), L.GlobalAveragePooling1D()),
    "masking": steps(L.Masking(-1.0), L.SimpleRNN(4)),
    "time distributed": steps(L.TimeDistributed(L.Dense(3)), L.Flatten()),
    "noise": steps(L.Dropout(0.5), L.SpatialDropout1D(0.5), L.GaussianNoise(1.0), L.GaussianDropout(0.5)),
    "residual": residual,
    "two inputs": two_inputs,
    "transformer": transformer,
    "nested": nested,
    "attentions": attentions,
}  # fmt: skip


def adapted():
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(1).normal(2, 3, size=(50, 4)).astype(np.float32))
    return k.Sequential([k.Input((4,)), layer, L.Dense(2)])


def made(name):
    """A model of Keras with all weights away from zeros and ones, and inputs for it."""
    k.utils.set_random_seed(0)
    with jax.enable_x64(False):  # which minidl's backend enables, and Keras does not expect
        model = MODELS[name]()
    rng = np.random.default_rng(0)
    if name != "normalization":
        sign = lambda w: 1 if w.ndim < 2 else rng.choice([-1, 1], size=w.shape)
        model.set_weights([rng.uniform(0.1, 0.9, size=w.shape) * sign(w) for w in model.get_weights()])
    xs = []
    for t in model.inputs:
        shape = (3, *t.shape[1:])
        x = rng.integers(0, 5, size=shape).astype(np.int32) if "int" in str(t.dtype) else rng.normal(size=shape)
        x = np.where(rng.random(shape[:2])[..., None] < 0.3, -1.0, x) if name == "masking" else x
        xs.append(x if x.dtype == np.int32 else x.astype(np.float32))
    return model, xs


def same(got, want):
    got, want = ([v] if not isinstance(v, (list, tuple)) else v for v in (got, want))
    assert len(got) == len(want)
    for g, w in zip(got, want):
        w = np.asarray(w)
        assert tuple(g.shape) == w.shape
        np.testing.assert_allclose(g.detach().numpy(), w, rtol=1e-4, atol=1e-5 * max(1, np.abs(w).max()))


def outputs(model, xs):
    with jax.enable_x64(False):
        return model.predict(xs if len(xs) > 1 else xs[0], verbose=0)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_model(name, suffix, tmp_path):
    theirs, xs = made(name)
    path = tmp_path / f"model{suffix}"
    theirs.save(path)
    model = ours.models.load_model(path)
    same(model(xs if len(xs) > 1 else xs[0]), outputs(theirs, xs))
    assert sum(p.numel() for p in model.parameters()) == sum(int(np.prod(w.shape)) for w in theirs.trainable_weights)


@pytest.mark.parametrize("name", ["conv", "bidirectional", "transformer", "residual", "norms"])
def test_weights_alone(name, tmp_path):
    """A file of weights into a model of the same layers."""
    theirs, xs = made(name)
    theirs.save(tmp_path / "m.keras")
    model = ours.models.load_model(tmp_path / "m.keras")
    for p in model.parameters():
        minidl.nn.init.zeros_(p)
    theirs.save_weights(tmp_path / "m.weights.h5")
    model.load_weights(tmp_path / "m.weights.h5")
    same(model(xs if len(xs) > 1 else xs[0]), outputs(theirs, xs))


@pytest.mark.parametrize("backend", ["numba", "jax"])
@pytest.mark.parametrize("name", ["conv", "gru", "transformer"])
@pytest.mark.filterwarnings("ignore")
def test_backends_and_jit(name, backend, tmp_path):
    pytest.importorskip(backend, reason=f"the backend {backend} needs it")
    theirs, (x,) = made(name)
    theirs.save(tmp_path / "m.keras")
    model = ours.models.load_model(tmp_path / "m.keras")
    with minidl.use_backend(backend), minidl.no_grad():
        step = minidl.jit(model.to(backend))
        for _ in range(2):
            same(step(minidl.tensor(x)), outputs(theirs, [x]))


def test_trains(tmp_path):
    """Gradients and moving averages of a step of training are those that JAX gives for Keras' model."""
    theirs, (x,) = made("norms")
    theirs.save(tmp_path / "m.keras")
    model = ours.models.load_model(tmp_path / "m.keras").train()
    (model(x) ** 2).sum().backward()

    def loss(trainable, rest):
        out, rest = theirs.stateless_call(trainable, rest, x, training=True)
        return (out**2).sum(), rest

    values = [[v.value for v in vs] for vs in (theirs.trainable_variables, theirs.non_trainable_variables)]
    with jax.enable_x64(False):
        (_, rest), grads = jax.value_and_grad(loss, has_aux=True)(*values)
    found = [p for layer in model.layers for p in layer.variables if p.requires_grad]
    assert len(found) == len(grads) > 0
    for p, grad in zip(found, map(np.asarray, grads)):
        np.testing.assert_allclose(p.grad.numpy(), grad, rtol=1e-3, atol=1e-4 * np.abs(grad).max() + 1e-5)
    moving = [b for layer in model.layers for b in layer.variables if not b.requires_grad]
    assert moving
    for b, value in zip(moving, rest):
        np.testing.assert_allclose(b.numpy(), value, rtol=1e-4, atol=1e-6)


def test_custom_layers(tmp_path):
    @k.saving.register_keras_serializable("mine")
    class Twice(L.Layer):
        def call(self, x):
            return 2 * x

    class OurTwice(ours.Layer):
        def call(self, x):
            return 2 * x

    theirs = k.Sequential([k.Input((4,)), L.Dense(3), Twice()])
    theirs.save(tmp_path / "m.keras")
    with pytest.raises(NotImplementedError, match=r"m\.keras: the layer Twice; give its class"):
        ours.models.load_model(tmp_path / "m.keras")
    x = np.ones((2, 4), np.float32)
    model = ours.models.load_model(tmp_path / "m.keras", custom_objects={"Twice": OurTwice})
    same(model(x), theirs.predict(x, verbose=0))


def test_code_is_refused(tmp_path):
    theirs = k.Sequential([k.Input((4,)), L.Lambda(lambda x: x * 2)])
    theirs.save(tmp_path / "m.keras")
    with pytest.raises(NotImplementedError, match="Lambda layer holds Python code"):
        ours.models.load_model(tmp_path / "m.keras")


TRANSPOSED = dict(np.load(Path(__file__).parent / "files" / "transposed.npz"))


@pytest.mark.parametrize("case", [name[:-1] for name in TRANSPOSED if name.endswith("x")])
def test_transposed_convolution_as_tensorflow(case):
    """Kernels smaller than the stride, too, where Keras' own backends disagree."""
    _, kernel, stride, padding, _ = case.split(",")
    x = TRANSPOSED[case + "x"]
    layer = ours.layers.Conv2DTranspose(3, int(kernel), strides=int(stride), padding=padding, use_bias=False)
    layer.ensure_built(x.shape)
    layer.set_weights([TRANSPOSED[case + "w"]])
    np.testing.assert_allclose(layer(x).detach().numpy(), TRANSPOSED[case + "y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files(suffix, tmp_path):
    """Cut off or changed anywhere, a file loads, or is refused in one error that names it."""
    theirs, _ = made("conv")
    path = tmp_path / f"m{suffix}"
    theirs.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    changed = [whole[: len(whole) * i // 10] for i in range(10)]
    for _ in range(60):
        content = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            content[at] = rng.integers(0, 256)
        changed.append(bytes(content))
    refused = 0
    for content in changed:
        path.write_bytes(content)
        try:
            ours.models.load_model(path)
        except (CorruptFileError, NotImplementedError) as error:
            refused += 1
            assert path.name in str(error)
    assert refused >= 10


def test_links_out_of_the_file_are_refused(tmp_path):
    import h5py

    theirs, _ = made("dense")
    theirs.save_weights(tmp_path / "m.weights.h5")
    theirs.save(tmp_path / "m.keras")
    model = ours.models.load_model(tmp_path / "m.keras")
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["values"] = np.zeros((4, 5), np.float32)
    with h5py.File(tmp_path / "m.weights.h5", "a") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "values")
    with pytest.raises(CorruptFileError, match=r"layers/dense/vars/0 is kept elsewhere \(ExternalLink\)"):
        model.load_weights(tmp_path / "m.weights.h5")


def test_sizes_beyond_the_file_are_refused(tmp_path):
    import json
    import zipfile

    theirs, _ = made("dense")
    theirs.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1]["config"]["units"] = 10**10
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(CorruptFileError, match="more than the file holds"):
        ours.models.load_model(tmp_path / "m.keras")
