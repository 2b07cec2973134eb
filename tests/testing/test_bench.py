"""The benchmark harness: what it times and what it refuses to time. No absolute times."""

import json
import subprocess
import sys
import weakref

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="benchmark inputs are described with the suite's strategies")

from minidl.backend import Backend, Kernel
from minidl.core import registry
from minidl.ops import primitives
from minidl.testing import bench, roofline
from minidl.testing.roofline import Roofline

ROOF = Roofline("test", gflops=100.0, gbs=10.0)
HEAVY = (
    "relu", "softmax", "cross_entropy", "layer_norm", "batch_norm", "conv2d", "conv2d_input_grad", "conv2d_weight_grad",
    "max_pool2d", "lstm", "lstm_backward", "scaled_dot_product_attention", "attention_backward", "embedding_grad",
    "adam_update", "matmul",
)  # fmt: skip


@pytest.fixture
def backends():
    """Two backends that share NumPy's arrays, for kernels of the test."""
    made = {}
    for name in ("one", "two"):
        backend = Backend()
        backend.name = name
        made[name] = registry.register(backend)
    yield made
    for name in made:
        del registry.backends[name]


def run(name, backends, **options):
    return bench.run(name, backends, cases=bench.CASES[name][:1], seconds=0, roof=ROOF, flush_bytes=1 << 12, **options)


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_primitives_have_cases(name):
    cases = bench.CASES[name]
    assert len(cases) >= 3 and len({c.label for c in cases}) == len(cases)
    assert cases[0].flops(list(cases[0].args), cases[0].params) > 0
    case = bench.inputs(name, cases[0])
    assert all(a.dtype != np.float64 for a in case.arrays)


def test_operations_are_counted_as_the_textbook_does():
    def flops(name, i):
        case = bench.CASES[name][i]
        return case.flops(list(case.args), case.params)

    assert flops("matmul", 1) == 2 * 512**3
    assert flops("conv2d", 2) == 2 * 32 * 64 * 32 * 32 * 64 * 9
    assert flops("conv2d", 1) == 2 * 64 * 16 * 10 * 10 * 6 * 25
    assert flops("conv2d", 5) == 2 * 32 * 128 * 16 * 16 * 64 * 9
    assert flops("linear", 1) == 2 * 64 * 784 * 256
    assert flops("embedding_grad", 0) == 1000 * 64


def test_inputs_are_the_same_in_every_process():
    code = (
        "from minidl.testing import bench; import zlib\n"
        "for n in ('softmax', 'lstm_backward'):\n"
        "    print([zlib.crc32(a.tobytes()) for a in bench.inputs(n, bench.CASES[n][0]).arrays])"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1 and outputs.pop().count("[") == 2


def test_wrong_kernel_is_not_timed(backends):
    backends["one"].kernels["relu"] = [Kernel("relu", "one", lambda x: np.abs(x))]
    backends["two"].kernels["relu"] = [Kernel("relu", "two", lambda x: np.maximum(x, 0))]
    wrong, right = run("relu", ["one", "two"])
    assert wrong.status.startswith("wrong: values") and wrong.seconds is None
    assert right.status == "ok" and right.seconds > 0 and right.rounds >= 5
    text = bench.table([wrong, right])
    assert "wrong: values" in text and len(text.splitlines()) == 3


def test_kernel_that_writes_to_its_input_is_not_timed(backends):
    backends["one"].kernels["relu"] = [Kernel("relu", "one", lambda x: np.maximum(x, 0, out=x).copy())]
    (result,) = run("relu", ["one"])
    assert result.status.startswith("wrong: inputs")


@pytest.mark.parametrize("warm", [False, True])
def test_donated_inputs_are_new_for_every_call(backends, warm):
    seen, reference = [], primitives["adam_update"].reference

    def kernel(p, g, m, v, lr, step, max_v=None, **params):
        seen.append(float(p.sum(dtype=np.float64)))
        out = reference(p, g, m, v, lr, step, max_v, **params)
        for old, new in zip((p, m, v), out):
            old[...] = new
        return p, m, v

    backends["one"].kernels["adam_update"] = [Kernel("adam_update", "one", kernel)]
    (result,) = run("adam_update", ["one"], warm=warm)
    assert result.status == "ok" and len(seen) > 5
    # the first call is the check, whose inputs are not used again
    assert len(set(seen)) == 1


def test_implementations_take_turns(backends):
    order = []
    for name in backends:
        kernel = Kernel("relu", name, lambda x, name=name: (order.append(name), np.maximum(x, 0))[1])
        backends[name].kernels["relu"] = [kernel]
    run("relu", ["one", "two"])
    timed = order[2:]  # after the two checks
    assert timed[:8] == ["one", "two", "two", "one", "one", "two", "two", "one"]


class Lazy(np.ndarray):
    """An array that a backend may wait for: it can be weakly referenced."""


def test_results_are_held_until_the_backend_has_waited_for_them(backends, monkeypatch):
    backend, held, last = backends["one"], [], [None]

    def work(x):
        out = np.maximum(x, 0).view(Lazy)
        last[0] = weakref.ref(out)
        return out

    def calls_in_flight():
        if last[0] is not None:
            held.append(last[0]() is not None)
            last[0] = None

    monkeypatch.setattr(backend, "synchronize", calls_in_flight)
    backend.kernels["relu"] = [Kernel("relu", "one", work)]
    run("relu", ["one"])
    roofline._best(lambda: work(np.ones(3)), backend.synchronize)
    assert len(held) > 10 and all(held)


def test_same_reference_is_timed_once(backends):
    first, second = run("relu", ["numpy", "one"])
    assert first.implementation == "reference" and first.seconds > 0
    assert second.status == "no kernel" and second.seconds is None


def test_caches_are_flushed_unless_warm(backends, monkeypatch):
    flushed = []
    monkeypatch.setattr(bench.Flusher, "__call__", lambda self: flushed.append(1))
    (cold,) = run("relu", ["numpy"])
    assert len(flushed) == cold.rounds
    run("relu", ["numpy"], warm=True)
    assert len(flushed) == cold.rounds


def test_figures():
    r = bench.Result("relu", "8", "numpy", "reference", "ok", 2.0, 5, flops=4e9, bytes=16e9, roof_seconds=1.0)
    assert (r.gflops, r.gbs, r.share) == (2.0, 8.0, 0.5)


def test_roofline_bounds():
    assert ROOF.seconds(1e9, 1.0) == pytest.approx(0.01)
    assert ROOF.seconds(1.0, 1e9) == pytest.approx(0.1)
    np.testing.assert_allclose(ROOF.attainable(np.array([1.0, 10.0, 100.0])), [10.0, 100.0, 100.0])


def test_roofline_is_measured_once_and_kept(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(roofline, "measure", lambda backend: measured.append(1) or {"gflops": 5.0, "gbs": 6.0})
    path = tmp_path / "deep" / "roofline.json"
    first = roofline.roofline(cache=path)
    assert (first.gflops, first.gbs) == (5.0, 6.0) and "threads" in first.device
    assert roofline.roofline(cache=path) == first and len(measured) == 1
    roofline.roofline(cache=path, measure_again=True)
    assert len(measured) == 2
    path.write_text("{damaged")
    assert roofline.roofline(cache=path) == first and len(measured) == 3


def test_measuring(monkeypatch):
    monkeypatch.setattr(roofline, "larger_than_cache", lambda: 1 << 20)
    found = roofline.measure(Backend())
    assert found["gflops"] > 0 and found["gbs"] > 0
    assert roofline.last_level_cache() >= 1 << 20


def test_results_and_plots_are_saved(tmp_path):
    pytest.importorskip("matplotlib", reason="plots are drawn with matplotlib")
    results = run("softmax", ["numpy"])
    json_path, plot = bench.save(results, tmp_path, [ROOF], warm=False)
    found = json.loads(json_path.read_text())
    assert found["caches"] == "cold" and found["results"][0]["seconds"] == results[0].seconds
    assert plot.name == "softmax.png" and plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_primitive_without_cases_is_named():
    with pytest.raises(LookupError, match="no benchmark cases for 'svd'"):
        bench.run("svd", ["numpy"])
