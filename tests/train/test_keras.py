"""compile / fit / evaluate / predict."""

import subprocess
import sys

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.train import EarlyStopping
from minidl.train.keras import LOSSES, OPTIMIZERS
from tests.train.helpers import arrays, loader


def model(*last):
    minidl.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3), *last)


def test_compile_fit_evaluate_predict():
    x, y = arrays(120)
    net = model()
    net.compile(optim.Adam(net.parameters(), lr=0.02), "sparse_categorical_crossentropy", ["accuracy"], seed=0)
    history = net.fit(x.astype(np.float64), y, batch_size=16, epochs=5, validation_split=0.25, verbose=0)
    assert history.epoch == [1, 2, 3, 4, 5]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= history.history.keys()
    assert history.history["loss"][-1] < history.history["loss"][0]
    loss, accuracy = net.evaluate(x, y)
    assert accuracy > 0.9
    assert net.evaluate(x, y, return_dict=True) == {"loss": loss, "accuracy": accuracy}
    output = net.predict(x)
    assert output.shape == (120, 3) and output.dtype == np.float32
    assert (output.argmax(1) == y).mean() == accuracy


def test_fit_on_loaders_and_again():
    net = model()
    net.compile("sgd", "cross_entropy")
    first = net.fit(loader(), epochs=2, validation_data=loader(shuffle=False), verbose=0)
    second = net.fit(loader(), epochs=1, validation_data=arrays(), verbose=0)
    assert first.epoch == [1, 2] and second.epoch == [3]
    assert isinstance(net.evaluate(loader()), float)
    np.testing.assert_array_equal(net.predict(loader(shuffle=False)), net.predict(arrays()[0], batch_size=8))


def test_a_second_fit_has_new_orders():
    x, y = arrays()

    def weights(*epochs):
        net = model()
        net.compile("sgd", "cross_entropy")
        for n in epochs:
            net.fit(x, y, epochs=n, verbose=0)
        return np.array(net[0].weight.detach())

    np.testing.assert_array_equal(weights(3), weights(1, 2))


def test_callbacks_and_progress(capsys):
    net = model()
    net.compile("sgd", "cross_entropy")
    stop = EarlyStopping("val_loss", patience=1, min_delta=100.0)
    history = net.fit(*arrays(), epochs=9, validation_data=arrays(), callbacks=[stop])
    assert history.epoch == [1, 2]
    out = capsys.readouterr().out
    assert "epoch 1/9" in out and "val_loss" in out
    assert net._trainer.callbacks == []


def test_binary_logits():
    x, y = arrays(classes=2)
    net = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    net.compile(optim.Adam(net.parameters(), lr=0.1), "binary_crossentropy", ["accuracy"])
    net.fit(x, y.astype(np.float32), epochs=10, verbose=0)
    _, accuracy = net.evaluate(x, y.astype(np.float32))
    assert accuracy == ((net.predict(x) > 0) == y).mean() > 0.9


def test_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    y = x @ np.array([[1.0], [2.0], [3.0]])
    net = nn.Linear(3, 1)
    net.compile(optim.SGD(net.parameters(), lr=0.1), "mse", ["mae"])
    net.fit(x, y, epochs=20, verbose=0)
    assert net.evaluate(x, y)[0] < 1e-3


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers_by_name(name):
    net = model()
    net.compile(name, "cross_entropy")
    before = [np.array(p.detach()) for p in net.parameters()]
    net.fit(*arrays(), epochs=1, verbose=0)
    for old, p in zip(before, net.parameters(), strict=True):
        assert not np.array_equal(old, p.detach())


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_by_name(name):
    x, y = arrays()
    net = model()
    net.compile("sgd", name)
    target = y if "cross" in name and "binary" not in name else np.eye(3, dtype=np.float32)[y]
    assert np.isfinite(net.evaluate(x, target))


def test_mistakes_are_explained():
    net = model()
    with pytest.raises(RuntimeError, match=r"fit: call model\.compile"):
        net.fit(*arrays())
    with pytest.raises(ValueError, match="unknown optimizer 'adm'; known: sgd, adam"):
        net.compile("adm", "mse")
    with pytest.raises(ValueError, match="unknown loss 'crossentropy'; known: cross_entropy"):
        net.compile("adam", "crossentropy")
    with pytest.raises(ValueError, match="give a loss"):
        net.compile("adam")
    with pytest.raises(ValueError, match="CrossEntropyLoss takes logits; leave out the Softmax"):
        model(nn.Softmax(1)).compile("adam", "categorical_crossentropy")
    net.compile("adam", "cross_entropy")
    with pytest.raises(ValueError, match="targets y too"):
        net.fit(arrays()[0], verbose=0)
    with pytest.raises(ValueError, match="validation_split must be in"):
        net.fit(loader(), validation_split=0.1, verbose=0)
    with pytest.raises(ValueError, match="not both"):
        net.fit(*arrays(), validation_split=0.1, validation_data=arrays(), verbose=0)


def test_an_uncompiled_model_predicts():
    net = model(nn.Dropout(0.9))
    x, _ = arrays()
    np.testing.assert_array_equal(net.predict(x), net.predict(x))
    assert net.training


def test_importing_minidl_train_is_enough():
    code = (
        "from minidl import nn; assert not hasattr(nn.Module, 'fit'); "
        "import minidl.train; nn.Linear(2, 1).compile('sgd', 'mse')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
