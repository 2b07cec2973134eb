"""A captured step is never replayed in a world that is not the one it was captured in."""

import collections
import dataclasses
import random
import threading
import types
import typing

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn, ops, optim
from minidl.jit import CaptureError, MismatchError, register_pytree
from minidl.optim.lr_scheduler import StepLR

BACKENDS = ["numpy", "numba", "jax"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    with minidl.use_backend(request.param):
        yield request.param


def t(*values, **kwargs):
    return minidl.tensor(np.array(values, np.float32), **kwargs)


def values(x):
    return np.asarray(x.detach()).tolist()


# Arguments


def test_one_array_given_twice(backend):
    f = minidl.jit(lambda a, b: a - 2 * b)
    x, y = t(1, 2), t(10, 20)
    assert values(f(x, x)) == [-1, -2]
    assert values(f(x, y)) == [-19, -38]
    assert values(f(y, y)) == [-10, -20]
    assert values(f(x, x.detach())) == [-1, -2]


def test_an_argument_that_is_a_closure_variable_too(backend):
    x = t(1, 2)
    f = minidl.jit(lambda a: a + x)
    assert values(f(x)) == [2, 4]
    assert values(f(t(10, 20))) == [11, 22]


def test_one_tensor_twice_gets_one_gradient(backend):
    def g(a, b):
        (a * b).sum().backward()

    x, y = t(1, 2, requires_grad=True), t(3, 4, requires_grad=True)
    f = minidl.jit(g)
    for _ in range(2):
        x.grad = y.grad = None
        f(x, x)
        assert values(x.grad) == [2, 4]
        f(x, y)
        assert values(x.grad) == [5, 8] and values(y.grad) == [1, 2]


@pytest.mark.parametrize(
    ("a", "b"), [(2, 2.0), (True, 1), (1, True), (0.0, -0.0), (1, 1 + 0j), ("a", b"a"), (2, np.float32(2))]
)
def test_numbers_are_told_apart_by_type_and_bits(backend, a, b):
    seen = []
    f = minidl.jit(lambda x, n: seen.append(n) or x)
    for n in (a, b, a, b):
        f(t(1), n)
    assert [type(n) for n in seen] == [type(a), type(b)] and len(f.programs) == 2


def test_minus_zero(backend):
    f = minidl.jit(lambda x, n: ops.copysign(x, n))
    assert [values(f(t(1), n)) for n in (0.0, -0.0, 0.0)] == [[1], [-1], [1]]


class Pair(typing.NamedTuple):
    first: typing.Any
    second: typing.Any


@dataclasses.dataclass(frozen=True)
class Batch:
    x: typing.Any
    name: str = "none"


class Box:
    def __init__(self, content):
        self.content = content


def test_structures_keep_their_types(backend):
    f = minidl.jit(lambda p: Pair(p.first + 1, [p.second, Batch(p.first * 2, "b"), None, collections.OrderedDict(k=3)]))
    for _ in range(2):
        out = f(Pair(t(1), (t(2), 5)))
        assert type(out) is Pair and values(out.first) == [2]
        second, batch, none, ordered = out.second
        assert type(second) is tuple and second[1] == 5 and type(batch) is Batch and batch.name == "b" and none is None
        assert type(ordered) is collections.OrderedDict and values(batch.x) == [2]


def test_packed_sequences(backend):
    x = [t(1, 2, 3), t(4, 5)]
    f = minidl.jit(lambda p: p._replace(data=p.data * 2))
    for _ in range(2):
        out = f(nn.pack_sequence(x))
        assert type(out) is nn.PackedSequence
        padded, lengths = nn.pad_packed_sequence(out)
        assert values(padded) == [[2, 8], [4, 10], [6, 0]] and list(lengths) == [3, 2]
    assert values(f(nn.pack_sequence([t(1, 2), t(3, 4)])).data) == [2, 6, 4, 8]


def test_a_type_that_nobody_registered(backend):
    with pytest.raises(TypeError, match=r"argument of .*Box.*register_pytree"):
        minidl.jit(lambda b: b.content)(Box(t(1)))
    with pytest.raises(TypeError, match=r"result of .*Box.*register_pytree"):
        minidl.jit(lambda x: Box(x))(t(1))


def test_a_registered_type(backend):
    class Own(Box):
        pass

    register_pytree(Own, lambda b: ((b.content,), None), lambda rest, children: Own(*children))
    f = minidl.jit(lambda b: Own(b.content + 1))
    for n in (1, 2):
        out = f(Own(t(n)))
        assert type(out) is Own and values(out.content) == [n + 1]


# Random numbers


@pytest.mark.parametrize(
    "draw",
    [
        lambda: minidl.randn(3),
        lambda: minidl.rand(3, dtype="float64"),
        lambda: minidl.randint(0, 1000, (3,)),
        lambda: minidl.randperm(50),
        lambda: ops.dropout(minidl.ones(64)),
    ],
)
def test_random_numbers_stay_live(backend, draw):
    f = minidl.jit(lambda x: x + draw())
    x = t(0)
    minidl.manual_seed(3)
    eager = [values(x + draw()) for _ in range(3)]
    minidl.manual_seed(3)
    found = [values(f(x)) for _ in range(3)]
    assert found == eager and found[0] != found[1]
    minidl.manual_seed(3)
    assert values(f(x)) == eager[0]


def test_another_generator(backend):
    f = minidl.jit(lambda x: x + minidl.randn(2))
    f(t(0))
    with minidl.random.use_generator(minidl.Generator(7)):
        found = values(f(t(0)))
    assert found == values(minidl.randn(2, generator=minidl.Generator(7)))


def test_random_numbers_from_elsewhere_are_refused(backend):
    rng = np.random.default_rng(0)
    for draw in (lambda: np.random.rand(), lambda: random.random(), lambda: rng.normal()):
        with pytest.raises(CaptureError, match=r"random|changes 'rng'"):
            minidl.jit(lambda x, draw=draw: x + draw())(t(1))
    for draw in (
        lambda: minidl.manual_seed(1),
        lambda: minidl.Generator(1),
        lambda: nn.init.normal_(nn.Parameter([1.0])),
    ):
        with pytest.raises(CaptureError, match=r"jit: .*generator"):
            minidl.jit(lambda x, draw=draw: x + 1 if draw() else x)(t(1))


# The world


def step_of(model, optimizer):
    def step(x):
        optimizer.zero_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step


def twice(make, change, calls=3):
    """What a step returns, and the weights after it, eager and captured, with a change in the middle."""
    found = []
    for jitted in (False, True):
        minidl.manual_seed(0)
        model, step, world = make()
        step = minidl.jit(step) if jitted else step
        x = as_tensor(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
        out = [values(step(x)) for _ in range(calls)]
        change(world)
        out += [values(step(x)) for _ in range(calls)]
        found.append((out, [values(p) for p in model.parameters()]))
    (eager, weights), (jitted, jitted_weights) = found
    for a, b in zip(eager + weights, jitted + jitted_weights):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def net():
    model = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    return model, step_of(model, optimizer), (model, optimizer)


def set_group(o, **options):
    o.param_groups[0].update(options)


CHANGES = {
    "freeze": lambda m, o: m[0].requires_grad_(False),
    "freeze one": lambda m, o: setattr(m[4].weight, "requires_grad", False),
    "eval": lambda m, o: m.eval(),
    "dropout": lambda m, o: setattr(m[3], "p", 0.0),
    "slope": lambda m, o: setattr(m[1], "negative_slope", -0.5),
    "momentum of batch norm": lambda m, o: setattr(m[2], "momentum", 0.9),
    "replaced layer": lambda m, o: m.__setitem__(4, nn.Linear(4, 3)),
    "replaced parameter": lambda m, o: setattr(m[4], "bias", nn.Parameter(np.ones(2, np.float32))),
    "no bias": lambda m, o: setattr(m[4], "bias", None),
    "data": lambda m, o: setattr(m[4].weight, "data", np.ones((2, 4), np.float32)),
    "in place": lambda m, o: m[4].weight.assign_(0.5),
    "hook": lambda m, o: m[0].register_forward_hook(lambda module, args, out: out * 2),
    "backward hook": lambda m, o: m[4].register_full_backward_hook(lambda module, gi, go: tuple(2 * g for g in gi)),
    "tensor hook": lambda m, o: m[4].weight.register_hook(lambda g: g * 3),
    "lr": lambda m, o: set_group(o, lr=0.01),
    "weight decay": lambda m, o: set_group(o, weight_decay=0.5),
    "members": lambda m, o: o.param_groups[0]["params"].pop(),
    "another group": lambda m, o: o.add_param_group(
        {"params": [o.param_groups[0]["params"].pop()], "lr": 0.1, "momentum": 0.0}
    ),
    "another layer": lambda m, o: m.append(nn.Tanh()),
    "double": lambda m, o: m.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_is_seen(backend, change):
    twice(net, lambda world: CHANGES[change](*world))


def test_hooks_that_are_removed(backend):
    def make():
        model, step, _ = net()
        return model, step, model[0].register_forward_hook(lambda module, args, out: out * 2)

    twice(make, lambda handle: handle.remove())


def test_an_unfrozen_parameter_learns(backend):
    def make():
        model, step, _ = net()
        model[0].requires_grad_(False)
        return model, step, model

    twice(make, lambda model: model[0].requires_grad_(True))


SCALE = 2.0
CONFIG = {"scale": [2.0, 3.0]}
SETTINGS = types.SimpleNamespace(scale=2.0)


def helper(x):
    return x * SCALE + CONFIG["scale"][0] * SETTINGS.scale


class Own(nn.Module):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.flag, self.offset, self.sizes, self.table = True, t(1), [1, 2], {"a": 1.0}

    def forward(self, x):
        return (x + self.offset if self.flag else x) * self.sizes[0] + self.table["a"] * self.factor


def test_globals_and_what_they_hold(backend):
    f = minidl.jit(lambda x: helper(x))
    assert values(f(t(1))) == [6]
    helper.__globals__["SCALE"] = 3.0
    try:
        assert values(f(t(1))) == [7]
    finally:
        helper.__globals__["SCALE"] = 2.0
    CONFIG["scale"][0] = 5.0
    try:
        assert values(f(t(1))) == [12]
    finally:
        CONFIG["scale"][0] = 2.0
    SETTINGS.scale = 4.0
    try:
        assert values(f(t(1))) == [10]
    finally:
        SETTINGS.scale = 2.0
    assert values(f(t(1))) == [6] and len(f.programs) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "flag", False),
        lambda m: setattr(m, "offset", t(5)),
        lambda m: m.offset.assign_(7),
        lambda m: m.sizes.__setitem__(0, 9),
        lambda m: m.table.update(a=2.0),
        lambda m: setattr(m, "factor", 3.0),
    ],
)
def test_a_users_own_flags_and_tensors(backend, change):
    model = Own()
    f = minidl.jit(model)
    x = t(1, 2)
    for _ in range(2):
        assert values(f(x)) == values(model(x))
    change(model)
    for _ in range(2):
        assert values(f(x)) == values(model(x))


def test_closure_variables(backend):
    n, held = 1, t(1)

    def f(x):
        return x * n + held

    g = minidl.jit(f)
    assert values(g(t(1))) == [2]
    n = 3
    assert values(g(t(1))) == [4]
    held = t(5)
    assert values(g(t(1))) == [8]
    assert (n, values(held)) == (3, [5])


def test_methods_and_partials(backend):
    import functools

    class Learner:
        def __init__(self):
            self.rate, self.history = 2.0, []

        def scaled(self, x):
            return x * self.rate

        def run(self, x, k):
            return self.scaled(x) + k

    learner = Learner()
    f, g = minidl.jit(learner.run), minidl.jit(functools.partial(learner.run, k=1))
    for rate in (2.0, 3.0, 2.0):
        learner.rate = rate
        learner.history.append(rate)  # nobody reads it in the step
        assert values(f(t(1), 1)) == values(g(t(1))) == [rate + 1]
    assert len(f.programs) == 2


def test_a_variable_that_the_step_itself_changes_is_refused(backend):
    n = 0

    def f(x):
        nonlocal n
        n += 1
        return x * n

    with pytest.raises(CaptureError, match="changes 'n'"):
        minidl.jit(f)(t(1))


def test_too_much_to_watch_is_refused(backend):
    many = [0.0] * 5000
    with pytest.raises(CaptureError, match=r"'many'.*more than 4096"):
        minidl.jit(lambda x: x + many[0])(t(1))
    fixed = tuple(many)
    assert values(minidl.jit(lambda x: x + fixed[0])(t(1))) == [1]


def test_the_context(backend):
    x = t(1, 2, requires_grad=True)
    f = minidl.jit(lambda x: (x * 2).requires_grad)
    assert f(x) is True
    with minidl.no_grad():
        assert f(x) is False
    g = minidl.jit(lambda: minidl.zeros(2))
    assert g().dtype == np.float32
    minidl.set_default_dtype("float64")
    try:
        assert g().dtype == np.float64
    finally:
        minidl.set_default_dtype("float32")


# Effects


def same_effects(f, *make, calls=3):
    """Call ``f`` some times, eager and captured, on fresh arguments; the results and the arguments are the same."""
    found = []
    for jitted in (False, True):
        args = [m() for m in make]
        g = minidl.jit(f) if jitted else f
        found.append([[values(g(*args)) for _ in range(calls)], [values(a) for a in args]])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: minidl.zeros(3),
        lambda: minidl.ones(3),
        lambda: minidl.full((3,), 2.0),
        lambda: minidl.tensor([1.0, 2.0, 3.0]),
        lambda: minidl.arange(3).float(),
        lambda: minidl.zeros_like(t(1, 2, 3)),
        lambda: minidl.ones_like(t(1, 2, 3)),
    ],
)
@pytest.mark.parametrize("change", ["+=", "add_", "mul_", "index", "mask"])
def test_a_tensor_made_inside_is_new_at_each_call(backend, make, change):
    def f(x):
        h = make()
        if change == "+=":
            h += x
        elif change == "add_":
            h.add_(x)
        elif change == "mul_":
            h.mul_(x + 1)
        elif change == "index":
            h[1:] = x[:2]
        else:
            h[h > 1] = 5.0
        return h * 2

    same_effects(f, lambda: t(1, 2, 3))


def test_an_argument_changed_in_place(backend):
    def f(x, y):
        x += y
        y.mul_(2)
        return x * 1

    same_effects(f, lambda: t(1, 2), lambda: t(3, 4))


def test_a_tensor_from_outside_changed_in_place(backend):
    found = []
    for jitted in (False, True):
        total = t(0, 0)

        def f(x, total=total):
            total.add_(x)
            return total * 1

        g = minidl.jit(f) if jitted else f
        found.append([values(g(t(1, 2))) for _ in range(3)] + [values(total)])
    assert found[0] == found[1]


def test_gradients_add_up_over_calls(backend):
    found = []
    for jitted in (False, True):
        w = nn.Parameter(np.array([1.0, 2.0], np.float32))

        def f(x, w=w):
            (w * x).sum().backward()

        g = minidl.jit(f) if jitted else f
        seen = []
        for _ in range(3):
            g(t(1, 2))
            seen.append(values(w.grad))
        w.grad = None
        g(t(3, 4))
        found.append([*seen, values(w.grad)])
    assert found[0] == found[1] == [[1, 2], [2, 4], [3, 6], [3, 4]]


def test_backward_inside_and_the_optimizer_outside(backend):
    found = []
    for jitted in (False, True):
        minidl.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = optim.Adam(model.parameters(), lr=0.1)

        def f(x, model=model):
            loss = (model(x) ** 2).mean()
            loss.backward()
            return loss

        g = minidl.jit(f) if jitted else f
        out = []
        for i in range(4):
            out.append(values(g(t(1, 2, 3).reshape(1, 3))))
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()
        found.append(out)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_forgetting_zero_grad(backend):
    def make():
        model = nn.Linear(3, 2)
        optimizer = optim.SGD(model.parameters(), lr=0.01)

        def step(x):
            loss = (model(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        return model, step, None

    twice(make, lambda world: None)


def test_zero_grad_at_the_end(backend):
    def make():
        model = nn.Linear(3, 2)
        optimizer = optim.SGD(model.parameters(), lr=0.01)

        def step(x):
            loss = (model(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return model, step, None

    twice(make, lambda world: None)


def test_an_average_of_weights(backend):
    def make():
        model = nn.Linear(3, 2)
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        ema = optim.ExponentialMovingAverage(model, decay=0.5, warmup=True)

        def step(x):
            optimizer.zero_grad()
            (model(x) ** 2).sum().backward()
            optimizer.step()
            ema.update()
            return ema.num_updates and model.weight.sum()

        return model, step, ema

    found = []
    for jitted in (False, True):
        minidl.manual_seed(0)
        _, step, ema = make()

        def run(x, step=step):
            step(x)

        g = minidl.jit(run) if jitted else run
        for _ in range(4):
            g(t(1, 2, 3).reshape(1, 3))
        found.append((ema.num_updates, [np.asarray(a).tolist() for a in ema.shadow.values()]))
    assert found[0][0] == found[1][0] == 4
    for a, b in zip(found[0][1], found[1][1]):
        np.testing.assert_allclose(b, a, rtol=1e-5)


@pytest.mark.parametrize("what", ["view", "row", "flat", "whole", "detach"])
def test_views_show_what_is_changed(backend, what):
    if backend == "jax":
        pytest.skip("arrays of JAX have no views")

    def f(x):
        y = x * 1
        if what == "view":
            v = y[1:]
            v *= 10
        elif what == "row":
            v = y[0]
            v.add_(100)
        elif what == "flat":
            v = y.reshape(-1)
            v[::2] = 7
        elif what == "whole":
            v = y[:, 1]
            y.mul_(3)
            return v * 1
        else:
            y.detach()[0] = 7
        return y * 1

    same_effects(f, lambda: t(1, 2, 3, 4).reshape(2, 2))


def test_shapes_that_depend_on_values_are_refused(backend):
    x = t(1, 2, 3)
    message = []
    for f in (lambda x: x[x > 1].sum(), lambda x: ops.nonzero(x)):
        with pytest.raises(CaptureError, match=r"jit: the shape of what .* depends on values.*ops\.where") as error:
            minidl.jit(f)(x)
        message.append(str(error.value))
    assert len(message) == 2


def test_assigning_an_attribute_is_refused(backend):
    model = Own()

    def f(x):
        model.offset = x
        return x

    with pytest.raises(CaptureError, match=r"assigning Own\.offset"):
        minidl.jit(f)(t(1))


def test_a_scheduler_inside_is_refused(backend):
    _, step, (_, optimizer) = net()
    scheduler = StepLR(optimizer, 1)
    with pytest.raises(CaptureError, match=r"scheduler's step\(\)"):
        minidl.jit(lambda x: (step(x), scheduler.step()))(as_tensor(np.eye(3, dtype=np.float32)))


def test_the_device_of_an_argument(backend):
    f = minidl.jit(lambda x: minidl.ones(2).to(x.device) + x.to(x.device))
    for _ in range(2):
        assert values(f(t(1, 2))) == [2, 3]


# Programs and threads


def test_a_step_inside_a_step(backend):
    inner = minidl.jit(lambda x: x * 2)
    outer = minidl.jit(lambda x: inner(x) + 1)
    for n in (1, 2):
        assert values(outer(t(n))) == [2 * n + 1]


def test_programs_are_bounded(backend):
    from minidl.jit import api

    f = minidl.jit(lambda x: x + 1)
    for n in range(api.SHAPES + 5):
        f(minidl.zeros(n))
    assert len(f.programs) == api.SHAPES


def test_one_step_in_many_threads(backend):
    f = minidl.jit(lambda x: (x * 2 + 1).sum())
    wrong = []

    def work(k):
        for n in range(20):
            x = np.full(50 + n % 3, k * 100 + n, np.float32)
            if f(x).item() != (x * 2 + 1).sum():
                wrong.append((k, n))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_capture_does_not_disturb_other_threads(backend):
    x, errors, go, done = t(1, 2), [], threading.Event(), threading.Event()

    def f(a):
        go.set()
        done.wait(10)
        return a * 2

    def work():
        try:
            go.wait(10)
            for _ in range(50):
                assert values((x + 1) * 2) == [4, 6]
                assert x.numpy().tolist() == [1, 2]
                assert values(minidl.jit(lambda y: y - 1)(x)) == [0, 1]
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    def enter():
        with minidl.use_backend(backend):
            work()

    thread = threading.Thread(target=enter)
    thread.start()
    assert values(minidl.jit(f)(x)) == [2, 4]
    thread.join()
    assert not errors


# check=True


def test_checking(backend):
    minidl.manual_seed(0)
    _, step, _ = net()
    f = minidl.jit(step, check=True)
    for _ in range(4):
        f(as_tensor(np.linspace(-1, 2, 12, dtype=np.float32).reshape(4, 3) ** 2))
    assert len(f.programs) == 1


def test_checking_leaves_the_world_as_one_call_does(backend):
    found = []
    for options in ({}, {"check": True}):
        minidl.manual_seed(0)
        model, step, _ = net()
        f = minidl.jit(step, **options)
        losses = [f(as_tensor(np.linspace(-1, 2, 12, dtype=np.float32).reshape(4, 3) ** 2)).item() for _ in range(4)]
        found.append((losses, minidl.random.default_generator().offset, model[2].num_batches_tracked.item()))
    assert found[0][1:] == found[1][1:]
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)


def test_a_difference_is_reported():
    f = minidl.jit(lambda x: (x * 2, x + 1), check=True)
    f(t(1, 2))
    (entry,) = f.entries
    right = entry.run
    entry.run = lambda inputs: [a + np.float32([0, 1]) * (i == 1) for i, a in enumerate(right(inputs))]
    with pytest.raises(MismatchError, match=r"result 1 differs at \[1\]: 4.0 in the replay, 3.0 in the step \(1 of 2"):
        f(t(1, 2))
