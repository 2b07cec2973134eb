"""The benchmark scripts run, compare like with like, and say so where they do not."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    gpu_steps,
    history,
    import_time,
    machine,
    memory,
    models,
    operations,
    overhead,
    report,
    training_steps,
    worker,
)

# autograd.numpy, since the folder tests/autograd passes for a package named autograd
LIBRARY = {"torch": "torch", "minidl-numba": "numba", "minidl-jit": "numba", "jax": "jax", "autograd": "autograd.numpy"}


@pytest.fixture(scope="module")
def data():
    return {w: models.arrays(w) for w in ("mlp", "lenet", "gpt")}


@pytest.fixture(scope="module")
def expected(data):
    losses = {}
    for w, arrays in data.items():
        step = models.build("minidl-numpy", w, arrays)
        losses[w] = [step() for _ in range(2)]
    return losses


@pytest.mark.parametrize("workload", ["mlp", "lenet", "gpt"])
@pytest.mark.parametrize("implementation", ["torch", "minidl-numba", "autograd"])
def test_implementations_have_equal_losses(implementation, workload, data, expected):
    pytest.importorskip(LIBRARY[implementation], reason="the library that is compared")
    step = models.build(implementation, workload, data[workload])
    assert training_steps.disagreement([step(), step()], expected[workload]) < 1e-4


@pytest.mark.parametrize("implementation", ["jax", "minidl-jit"])
def test_compiled_mlp_has_equal_losses(implementation, data, expected):
    pytest.importorskip(LIBRARY[implementation], reason="the library that is compared")
    step = models.build(implementation, "mlp", data["mlp"])
    assert training_steps.disagreement([step(), step()], expected["mlp"]) < 1e-4


def test_weights_are_those_of_the_torch_models():
    pytest.importorskip("torch", reason="has the names that are compared")
    from benchmarks import in_minidl, in_torch

    for w in models.WORKLOADS:
        ours = {n: tuple(t.shape) for n, t in in_minidl.model(w).state_dict().items()}
        theirs = {n: tuple(t.shape) for n, t in in_torch.model(w).state_dict().items()}
        assert ours == theirs


def test_building_leaves_the_given_arrays_alone(data):
    x, y, weights = data["mlp"]
    before = {n: a.copy() for n, a in weights.items()}
    models.build("minidl-numpy", "mlp", (x, y, weights))()
    assert all(np.array_equal(weights[n], a) for n, a in before.items())


def test_disagreement():
    assert training_steps.disagreement([2.0, 1.0], [2.0, 1.0]) == 0
    assert training_steps.disagreement([2.02], [2.0]) == pytest.approx(0.01)
    assert training_steps.disagreement([float("nan")], [2.0]) == float("inf")


class FakeWorker:
    """Answers without a process: ``wrong`` gives other losses, ``broken`` cannot start."""

    def __init__(self, implementation, workload, data, threads):
        if implementation == "broken":
            raise worker.Failed("no such library")
        self.name = implementation

    def losses(self, count):
        return [1.5 if self.name == "wrong" else 1.0] * count

    def turn(self, count, clock="wall"):
        assert self.name != "wrong", "a wrong implementation was timed"
        return 0.004 if self.name == "slow" else 0.002

    def close(self):
        pass


def test_compare_times_only_what_is_right(monkeypatch):
    monkeypatch.setattr(training_steps, "Worker", FakeWorker)
    results = training_steps.compare("mlp", ["fast", "slow", "wrong", "broken"], 3, 1, say=lambda text: None)
    assert results["fast"]["ratio"] == [1, 1, 1]
    assert results["slow"]["ratio"] == [2, 2, 2]
    assert results["slow"]["ms"] == pytest.approx([4, 4, 4])
    assert results["wrong"]["problem"].startswith("wrong") and "ms" not in results["wrong"]
    assert results["broken"] == {"problem": "no such library"}


def test_steps_in_processes():
    results = training_steps.compare("mlp", ["minidl-numpy"], 1, 1, say=lambda text: None)
    assert results["minidl-numpy"]["ratio"] == [1, 1, 1]
    table = training_steps.markdown({"workloads": {"mlp": results}})
    assert "| minidl numpy | " in table and " ms, 1.00 (1.00–1.00) |" in table


def test_a_process_that_fails_says_why(data):
    with pytest.raises(worker.Failed, match="not done"):
        worker.Worker("autograd" if _has("autograd.numpy") else "tinygrad", "resnet", data["mlp"], 1)


def _has(name):
    try:
        __import__(name)
    except ImportError:
        pytest.importorskip("tinygrad", reason="or autograd: both leave the ResNet out")
        return False
    return True


def test_environment_is_restored():
    before = dict(os.environ)
    with worker.environment(1):
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert len(worker.available_cores()) == 1
    assert dict(os.environ) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory():
    report = memory.measure(["mlp"], ["minidl-numpy"], threads=1, say=lambda text: None)
    result = report["workloads"]["mlp"]["minidl-numpy"]
    assert "problem" not in result
    # gradients and AdamW's two arrays of 235,146 parameters must be in there
    assert result["process"] > result["increase"] >= 0.9 * 3 * 4 * 235146
    assert "MiB" in memory.markdown(report)


def test_overhead():
    pytest.importorskip("torch", reason="what is compared with")
    report = overhead.measure(rounds=1, calls=5)
    assert {f"{n}, gradients on" for n in overhead.OPERATIONS} < {row["what"] for row in report["rows"]}
    assert all(row["minidl"] > 0 and row["torch"] > 0 for row in report["rows"])
    assert "backward, per node" in overhead.markdown(report)


def test_gpu_steps_without_a_gpu(tmp_path, capsys):
    """Small models, by the same script, on NumPy and PyTorch's CPU."""
    pytest.importorskip("torch", reason="what is compared with")
    there = tmp_path / "steps.json"
    gpu_steps.main(["--backend=numpy", "--device=cpu", "--small", "--rounds=2", f"--json={there}"])
    report = json.loads(there.read_text())
    assert {"torch", "minidl", "numpy"} <= set(report["versions"])
    assert list(report["models"]) == list(gpu_steps.MODELS)
    for result in report["models"].values():
        assert "problem" not in result and result["ratio"][1] > 0
    printed = capsys.readouterr().out
    assert all(f"| small {name} | " in printed for name in gpu_steps.MODELS)


def test_gpu_steps_say_what_is_wrong(monkeypatch, tmp_path, capsys):
    """Losses that differ, and a library that fails."""
    pytest.importorskip("torch", reason="what is compared with")
    losses = gpu_steps.InMinidl.losses
    monkeypatch.setattr(gpu_steps.InMinidl, "losses", lambda self, n: [x + 0.1 for x in losses(self, n)])
    options = ["--backend=numpy", "--device=cpu", "--small", "--rounds=1", f"--json={tmp_path / 'steps.json'}"]
    report = gpu_steps.main(["--models=mlp", *options])
    assert report["models"]["mlp"]["problem"].startswith("wrong: losses")
    monkeypatch.setattr(gpu_steps.InTorch, "losses", lambda self, n: 1 / 0)
    report = gpu_steps.main(["--models=mlp", *options])
    assert report["models"]["mlp"]["problem"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_import_time():
    report = import_time.measure(1, modules=("minidl", "numpy", "no_such_module"))
    assert set(report["seconds"]) == {"minidl", "numpy"}
    assert report["ratios"]["numpy"][1] > 1
    assert "| numpy |" in import_time.markdown(report)


def test_machine():
    facts = machine.facts(2)
    text = machine.sentence(facts)
    assert "2 threads" in text and f"numpy {np.__version__}" in text and facts["date"][:10] in text
    assert facts["commit"] is None or len(facts["commit"].rstrip("+")) == 40


@pytest.fixture
def repository(tmp_path):
    """A README with the marks and a finished run; the options that make the report stay in there."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"backend": "numba"}))
    result = {
        "recipe": "gpt-shakespeare", "figure": "val_loss", "value": 1.7, "target": 1.88, "target_source": "nanoGPT",
        "note": "", "epochs": 8, "training_seconds": 99.6,
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    marks = [f"<!-- {name}:{side} -->" for name in ("recipes", "benchmarks") for side in ("begin", "end")]
    (tmp_path / "README.md").write_text("# a\n" + "\nold\n".join(marks) + "\n")
    options = ["--readme", "README.md", "--results", "RESULTS.md", "--history", "history", "--runs", "run"]
    return [str(tmp_path / o) if o[0] != "-" else o for o in options]


def fake_steps(ratio):
    result = {"ms": [1.0, 2.0, 3.0], "turns": [0.002], "losses": [1.0], "ratio": [0.1, ratio, 9.0]}
    return lambda arguments, say: {
        "machine": machine.facts(arguments.threads),
        "rounds": 3,
        "workloads": {w: {"torch": {**result, "ratio": [1, 1, 1]}, "minidl-jit": result} for w in arguments.models},
    }


def test_report(repository, tmp_path, monkeypatch):
    seconds = {"minidl": [0.1] * 3, "numpy": [0.05] * 3}
    imports = {"machine": machine.facts(), "seconds": seconds, "ratios": {"numpy": [2.0] * 3}}
    monkeypatch.setattr(import_time, "measure", lambda rounds: imports)
    options = [*repository, "--threads", "1", "2"]
    for ratio, parts, models_ in [(0.75, ["steps", "import"], ["mlp", "gpt"]), (0.5, ["steps"], ["mlp"])]:
        monkeypatch.setattr(training_steps, "run", fake_steps(ratio))
        report.main([*options, "--parts", *parts, "--models", *models_])

    readme, results = (tmp_path / "README.md").read_text(), (tmp_path / "RESULTS.md").read_text()
    assert "| `gpt-shakespeare` | val loss 1.700 | ≤ 1.880 (nanoGPT) | numba | 100 s | 8 epochs. |" in readme
    assert "| minidl numba, jit | 0.50, 0.50 | 0.75, 0.75 |" in readme and readme.count("old") == 1
    # the newest figures of each model, whenever they were measured; what was measured once has no changes to show
    assert results.count("| minidl numba, jit | 2 ms, 0.50 (0.10–9.00) | 2 ms, 0.75 (0.10–9.00) |") == 2
    assert "| numpy | 0.050 | 2.00" in results
    changes = results[results.index("changed") :]
    assert changes.count("| MLP") == 4 and "GPT" not in changes and "| – | – | 0.75 |" in changes
    assert {len(history.read(p, tmp_path / "history")) for p in ("steps", "import")} == {6, 1}

    report.main([*options, "--parts"])
    assert ((tmp_path / "README.md").read_text(), (tmp_path / "RESULTS.md").read_text()) == (readme, results)


def test_a_line_of_the_history_says_what_was_measured(tmp_path):
    arguments = training_steps.parser().parse_args(["--models", "mlp", "--threads", "2"])
    history.append("steps", report.entries("steps", fake_steps(0.123456)(arguments, None)), tmp_path)
    (line,) = history.read("steps", tmp_path)
    assert line["what"] == "mlp" and line["threads"] == 2 and line["versions"]["numpy"] == np.__version__
    assert {"commit", "date", "processor", "cores", "python", "rounds"} < set(line)
    assert line["results"]["minidl-jit"]["ratio"] == [0.1, 0.1235, 9] and "turns" not in line["results"]["minidl-jit"]


def test_the_tables_are_those_of_the_history():
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hint = "write the tables anew: python -m benchmarks.report --parts"
    assert page == report.results_page(history.FOLDER), hint
    assert readme == report.replace_section(readme, "benchmarks", report.summary(history.FOLDER)), hint


def test_marks_must_be_there():
    with pytest.raises(ValueError, match="recipes:begin"):
        report.replace_section("# a", "recipes", "")
    readme = (ROOT / "README.md").read_text()
    for name in ("recipes", "benchmarks"):
        assert report.replace_section(readme, name, "x") != readme


def test_operations():
    pytest.importorskip("torch", reason="what is compared with")
    pytest.importorskip("pytest_benchmark", reason="runs them")
    measured = operations.measure(1, only="relu and (torch or numpy) and forward")
    (seconds,) = measured["operations"].values()
    assert set(seconds) == {"torch", "numpy"} and min(seconds.values()) > 0
    table = operations.markdown(measured)
    assert f"{1e3 * seconds['numpy']:.3g} ms, {seconds['numpy'] / seconds['torch']:.2f} | – | – |" in table


def test_primitive_cases_agree_with_torch():
    pytest.importorskip("torch", reason="what is compared with")
    pytest.importorskip("pytest_benchmark", reason="runs them")
    from benchmarks import test_primitives as cases

    for name, make in cases.CASES.items():
        if "conv2d 3x3" in name or "4x8x512" in name:
            continue  # seconds
        ours, theirs = (make(lib, np.random.default_rng(0))[0]() for lib in (cases.InMinidl, cases.InTorch))
        cases._close(cases.InMinidl.numpy(ours), cases.InTorch.numpy(theirs))
