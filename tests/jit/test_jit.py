"""minidl.jit: captured steps give the numbers of eager ones, on every backend that is here."""

import weakref

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn, ops, optim
from minidl.jit import CaptureError
from minidl.optim.lr_scheduler import StepLR

try:
    import numba  # noqa: F401

    BACKENDS = ["numpy", "numba"]
except ImportError:
    BACKENDS = ["numpy", pytest.param("numba", marks=pytest.mark.skip(reason="numba is not installed"))]


@pytest.fixture(params=BACKENDS)
def backend(request):
    with minidl.use_backend(request.param):
        yield request.param


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


def trajectories(make, batches, steps=8):
    """Losses and final parameters of ``steps`` eager and as many jitted steps from the same start."""
    found = []
    for jitted in (False, True):
        minidl.manual_seed(0)
        model, step = make()
        step = minidl.jit(step) if jitted else step
        losses = [step(*batches[i % len(batches)]).item() for i in range(steps)]
        found.append((losses, [np.array(p.detach()) for p in model.parameters()], step))
    return found


def assert_same(found, rtol=2e-5):
    (eager, p_eager, _), (jitted, p_jitted, _) = found
    np.testing.assert_allclose(jitted, eager, rtol=rtol)
    for a, b in zip(p_jitted, p_eager):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def classifier(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, step


def labelled(n, features, classes, batches=3):
    rng = np.random.default_rng(1)
    return [
        (as_tensor(rng.normal(size=(n, *features)).astype(np.float32)), as_tensor(rng.integers(0, classes, n)))
        for _ in range(batches)
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_mlp(backend, optimizer):
    def make():
        model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))
        if optimizer == "sgd":
            return classifier(model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True))
        return classifier(model, optim.AdamW(model.parameters(), lr=0.01))

    assert_same(trajectories(make, labelled(8, (20,), 5)))


def test_convolutional_net_with_batch_norm(backend):
    def make():
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
        )
        return classifier(model, optim.SGD(model.parameters(), lr=0.05))

    found = trajectories(make, labelled(6, (1, 8, 8), 3))
    assert_same(found)


def test_batch_norm_statistics_are_updated(backend):
    minidl.manual_seed(0)
    layer, twin = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    f = minidl.jit(lambda x: layer(x))
    for i in range(4):
        (x,) = arrays((5, 3), seed=i)
        np.testing.assert_allclose(f(x).numpy(), twin(as_tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean.numpy(), twin.running_mean.numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.running_var.numpy(), twin.running_var.numpy(), rtol=1e-5)
    assert layer.num_batches_tracked.item() == twin.num_batches_tracked.item() == 4


def test_lstm_and_attention(backend):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 8)
            self.lstm = nn.LSTM(8, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 11)

        def forward(self, x):
            h, _ = self.lstm(self.embedding(x))
            a, _ = self.attention(h, h, h, need_weights=False, is_causal=True)
            return self.head(self.norm(h + a)).reshape(-1, 11)

    def make():
        model = Model()
        return classifier(model, optim.Adam(model.parameters(), lr=0.01))

    rng = np.random.default_rng(0)
    batches = [(as_tensor(rng.integers(0, 11, (2, 5))), as_tensor(rng.integers(0, 11, 10))) for _ in range(2)]
    assert_same(trajectories(make, batches))


def test_learning_rate_and_dropout_stay_live(backend):
    def make():
        model = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 2))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        scheduler = StepLR(optimizer, 2, gamma=0.1)
        _, train = classifier(model, optimizer)
        compiled = []

        def step(x, y):
            loss = compiled[0](x, y) if compiled else train(x, y)
            scheduler.step()
            return loss

        return model, train, step, compiled

    found = []
    for jitted in (False, True):
        minidl.manual_seed(3)
        model, train, step, compiled = make()
        if jitted:
            compiled.append(minidl.jit(train))
        batches = labelled(16, (6,), 2)
        losses = [step(*batches[i % 3]).item() for i in range(6)]
        found.append((losses, [np.array(p.detach()) for p in model.parameters()], None))
    assert_same(found)


def test_captured_once_per_shape(backend):
    ran = []

    @minidl.jit
    def f(x):
        ran.append(x.shape)
        return (x * 2 + 1).sum()

    for n in (3, 3, 4, 3, 4):
        x = np.arange(n, dtype=np.float32)
        assert f(x).item() == (x * 2 + 1).sum()
    assert ran == [(3,), (4,)]
    assert len(f.programs) == 2
    assert "mul" in str(f.programs[0])


def test_structures_in_and_out(backend):
    @minidl.jit
    def f(pair, *, scale):
        return {"sum": pair[0] + pair[1], "parts": [pair[0] * scale, 7]}

    a, b = arrays((3,), (3,))
    for _ in range(2):
        out = f((a, b), scale=2.0)
        np.testing.assert_allclose(out["sum"].numpy(), a + b, rtol=1e-6)
        np.testing.assert_allclose(out["parts"][0].numpy(), a * 2, rtol=1e-6)
        assert out["parts"][1] == 7


def test_results_of_earlier_calls_do_not_change(backend):
    f = minidl.jit(lambda x: x * 2)
    first = f(np.ones(4, np.float32))
    second = f(np.full(4, 2, np.float32))
    third = f(np.full(4, 3, np.float32))
    assert [t.numpy()[0] for t in (first, second, third)] == [2, 4, 6]


def test_weights_loaded_later_are_used(backend):
    layer = nn.Linear(3, 2)
    f = minidl.jit(lambda x: layer(x))
    (x,) = arrays((4, 3))
    f(x)
    layer.weight.array = np.ones((2, 3), np.float32)
    layer.bias.array = np.zeros(2, np.float32)
    np.testing.assert_allclose(f(x).numpy(), np.repeat(x.sum(1, keepdims=True), 2, 1), rtol=1e-5)


def test_optimizer_state_loaded_later_is_used(backend):
    def fresh():
        minidl.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = optim.Adam(model.parameters(), lr=0.1)
        return model, optimizer, classifier(model, optimizer)[1]

    batches = labelled(5, (4,), 3)
    model, optimizer, step = fresh()
    step = minidl.jit(step)
    for b in batches:
        step(*b)
    weights, state = {k: np.array(v) for k, v in model.state_dict().items()}, optimizer.state_dict()
    expected = [step(*b).item() for b in batches]
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    again = [step(*b).item() for b in batches]
    assert again == expected


def test_broadcast_reduce_and_views(backend):
    a, b = arrays((4, 1, 5), (3, 1))

    def f(a, b):
        x = ops.exp(a * b) + ops.where(a > 0, b, -b)
        y = ops.permute(x, axes=(2, 0, 1)).reshape(5, 12)
        return y.sum(axis=0), (y[1:, ::2] * 2).mean(), ops.concat([y, y], axis=1)

    eager = f(as_tensor(a), as_tensor(b))
    jitted = minidl.jit(f)
    for _ in range(3):
        for got, want in zip(jitted(a, b), eager):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)


def test_zero_size(backend):
    f = minidl.jit(lambda x: ((x + 1) * 2).sum(axis=0))
    for _ in range(2):
        np.testing.assert_array_equal(f(np.ones((0, 3), np.float32)).numpy(), np.zeros(3))


def test_gradients_can_be_returned(backend):
    w = as_tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)

    @minidl.jit
    def f(x):
        (g,) = minidl.gradients((w * x).sum() ** 2, w)
        return g

    for k in (1.0, 2.0):
        x = np.array([k, k], np.float32)
        np.testing.assert_allclose(f(x).numpy(), 2 * (3 * k) * x, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("item", lambda t: t.item()),
        ("branch", lambda t: 1 if t > 0 else 2),
        ("numpy", lambda t: t.numpy()),
        ("asarray", lambda t: np.asarray(t)),
        ("list", lambda t: t.tolist()),
        ("print", lambda t: repr(t)),
        ("float", lambda t: float(t)),
    ],
)
def test_looking_at_a_value_inside_is_refused(backend, name, look):
    def f(x):
        look(x.sum())
        return x

    with pytest.raises(CaptureError, match=r"value while the step is being captured.*ops\.where"):
        minidl.jit(f)(np.ones(3, np.float32))
    # and the failed capture leaves nothing behind
    assert as_tensor([1.0]).item() == 1.0


def test_a_view_taken_behind_the_back_is_refused(backend):
    def f(x):
        y = x * 2
        return as_tensor(y.array[1:]) + 1

    with pytest.raises(CaptureError, match="outside minidl's operations"):
        minidl.jit(f)(np.ones(3, np.float32))


@pytest.mark.parametrize(
    "compute",
    [
        lambda y: as_tensor(np.exp(y.array)),
        lambda y: as_tensor(y.array + 1),
        lambda y: as_tensor(np.concatenate([y.array, y.array])),
        lambda y: as_tensor(y.array.copy()) * 2,
        lambda y: as_tensor(y.array.sum()),
    ],
)
def test_numpy_behind_the_back_is_refused(backend, compute):
    for make in (lambda x: x * 2, lambda x: x):  # of a result, and of an argument
        with pytest.raises(
            CaptureError, match=r"jit: .*(constant of the captured program|outside minidl's operations)"
        ):
            minidl.jit(lambda x, make=make: compute(make(x)) + 1)(np.ones(3, np.float32))


def test_nothing_traced_outlives_the_capture(backend):
    model = nn.Linear(3, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    _, step = classifier(model, optimizer)
    x, y = labelled(4, (3,), 2)[0]
    loss = minidl.jit(step)(x, y)
    arrays = [
        x.array,
        y.array,
        loss.array,
        *(p.array for p in model.parameters()),
    ]
    assert all(p.grad is None for p in model.parameters())  # the optimizer has used it up
    arrays += [a for s in optimizer.state.values() for k, a in s.items() if k != "step"]
    assert all(type(a) is np.ndarray for a in arrays)


def test_gradient_clipping(backend):
    def make():
        model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 5))
        optimizer = optim.SGD(model.parameters(), lr=1.0)

        def step(x, y):
            optimizer.zero_grad()
            loss = ops.cross_entropy(model(x), y)
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            return loss

        return model, step

    assert_same(trajectories(make, labelled(8, (20,), 5)))


def test_captured_anew_in_another_mode(backend):
    minidl.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    f = minidl.jit(lambda x: model(x))
    (x,) = arrays((64, 3))
    f(x)
    model.eval()
    for _ in range(2):
        np.testing.assert_allclose(f(x).numpy(), model(as_tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)
    model.train()
    before = model[1].num_batches_tracked.item()
    f(x)
    assert model[1].num_batches_tracked.item() == before + 1
    assert len(f.programs) == 2


def test_cycled_momentum_is_followed(backend):
    def make():
        model = nn.Linear(4, 3)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.5, 8)
        _, train = classifier(model, optimizer)
        return model, train, scheduler

    found = []
    for jitted in (False, True):
        minidl.manual_seed(0)
        _, train, scheduler = make()
        step = minidl.jit(train) if jitted else train
        losses = []
        for i in range(6):
            losses.append(step(*labelled(8, (4,), 3)[i % 3]).item())
            scheduler.step()
        found.append(losses)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_unhashable_argument(backend):
    with pytest.raises(TypeError, match="hashable"):
        minidl.jit(lambda x, s: x)(np.ones(2, np.float32), {1, 2})


def test_replay_uses_planned_memory():
    pytest.importorskip("numba", reason="only the numba backend plans buffers")
    with minidl.use_backend("numba"):

        def chain(x):
            for _ in range(20):
                x = ops.matmul(x, x) * 0.01
            return x

        f = minidl.jit(chain)
        x = np.eye(64, dtype=np.float32)
        f(x)
        f(x)
        (entry,) = f.entries
        compiled = entry.run
        assert compiled.pool_bytes <= 4 * x.nbytes
        memory = {a.ctypes.data for tape in compiled.kept for a in tape.kept}
        f(x)
        assert memory == {a.ctypes.data for tape in compiled.kept for a in tape.kept}
        assert len(compiled.calls) == 1  # products and scalings on one tape


def test_chains_are_fused():
    pytest.importorskip("numba", reason="only the numba backend fuses")
    with minidl.use_backend("numba"):
        f = minidl.jit(lambda x, b: ops.tanh(x * 2 + b).square() * 0.5 - x)
        x, b = arrays((70, 1000), (1000,))
        first = f(x, b)
        second = f(x, b)
        np.testing.assert_allclose(second.numpy(), first.numpy(), rtol=1e-5, atol=1e-6)
        (entry,) = f.entries
        compiled = entry.run
        assert len(compiled.calls) == 1


def test_a_capture_keeps_no_value_that_the_step_has_done_with(backend):
    alive = []

    def f(x):
        most = 0
        for _ in range(10):
            x = x * 2
            alive.append(weakref.ref(x.array))
            most = max(most, sum(a() is not None for a in alive))
        assert most <= 2
        return x

    np.testing.assert_array_equal(minidl.jit(f)(np.ones(3, np.float32)).numpy(), 1024)


def test_an_array_taken_from_a_dead_value_is_still_refused(backend):
    def f(x):
        y = x * 2
        view = y.array[1:]
        del y
        return as_tensor(view) + 1

    with pytest.raises(CaptureError, match="taken from a captured"):
        minidl.jit(f)(np.ones(3, np.float32))
