"""What is kept of compiled functions for the next process, and when it is made anew."""

import ast
import importlib.util
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

import minidl_kernels.numba
from minidl_kernels.numba.simd import compiled as module

ROOT = Path(minidl_kernels.numba.__file__).parent
_names = itertools.count()

SOURCE = """
from minidl_kernels.numba.simd.compiled import compiled


@compiled
def double(x):
    return x + x
"""


def load(path):
    """The function ``double`` of a file, as a process that imports it would have it."""
    module._file.cache_clear()
    module._stamp.cache_clear()
    spec = importlib.util.spec_from_file_location(f"trial{next(_names)}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found.double


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "kernel.py").write_text(SOURCE)
    return tmp_path / "kernel.py"


def from_disk(path):
    """Is what was compiled found again? It works either way."""
    double = load(path)
    assert double(2.5) == 5.0
    return bool(double.stats.cache_hits)


def index(path):
    (found,) = (path.parent / "cache").glob("*/*.nbi")
    return found


def test_the_next_process_compiles_nothing(path):
    assert not from_disk(path)
    assert from_disk(path)


def test_imports_are_followed():
    source = "from minidl_kernels.numba.simd import (\n    words,\n    vecmath,  # exp\n)\n"
    source += "import minidl_kernels.numba.compiler.tape\n"
    assert module._imports(source) >= {
        ROOT / "simd/words.py",
        ROOT / "simd/vecmath.py",
        ROOT / "compiler/tape.py",
    }
    assert module._imports("from minidl_kernels.numba.simd.common import plain") == {ROOT / "simd/common.py"}
    assert module._imports("import numpy\nfrom minidl.backend import kernel") == set()


def test_every_import_inside_the_package_is_found():
    """The regular expression finds what the parser of Python does."""
    for path in ROOT.rglob("*.py"):
        source, expected = path.read_text(), set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minidl_kernels.numba"):
                names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            else:
                continue
            files = (ROOT.parent.parent / f"{name.replace('.', '/')}.py" for name in names)
            expected |= {f for f in files if f.is_relative_to(ROOT) and f.is_file()}
        assert module._imports(source) >= expected, path


def test_an_edit_of_a_shared_module_makes_compiled_code_anew(path, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "simd", tmp_path / "package/simd")
    monkeypatch.setattr(module, "_ROOT", tmp_path / "package")
    from_disk(path)
    assert from_disk(path)
    with open(tmp_path / "package/simd/vecmath.py", "a") as file:  # which this source does not use
        file.write("\n# edited\n")
    assert from_disk(path)
    with open(tmp_path / "package/simd/compiled.py", "a") as file:
        file.write("\n# edited\n")
    assert not from_disk(path)
    assert from_disk(path)


def test_edited_two_imports_away_and_in_another_process(tmp_path):
    shutil.copytree(ROOT.parent, tmp_path / "minidl_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "minidl_kernels/numba"
    head = "from minidl_kernels.numba.simd.compiled import compiled, inlined\n"
    (package / "simd/low.py").write_text(f"{head}@inlined\ndef low(x):\n    return x + 1\n")
    (package / "simd/middle.py").write_text(
        f"from minidl_kernels.numba.simd.low import low\n{head}@compiled\ndef middle(x):\n    return 10 * low(x)\n"
    )
    (package / "kernels/top.py").write_text(
        f"from minidl_kernels.numba.simd.middle import middle\n{head}@compiled\ndef top(x):\n    return middle(x)\n"
    )
    script = "from minidl_kernels.numba.kernels.top import top\nprint(top(1), sum(top.stats.cache_hits.values()))"

    def run():
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        }
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert run() == ["20", "0"]
    assert run() == ["20", "1"]
    (package / "simd/low.py").write_text(f"{head}@inlined\ndef low(x):\n    return x + 2\n")
    assert run() == ["30", "0"]


@pytest.mark.parametrize(
    "damage", [b"", b"\x80", b"no pickle", pickle.dumps("0.0")], ids=["empty", "cut", "text", "old"]
)
def test_a_damaged_index_is_made_anew(path, damage):
    from_disk(path)
    whole = index(path).read_bytes()
    index(path).write_bytes(damage)
    assert not from_disk(path)
    assert index(path).read_bytes() == whole
    assert from_disk(path)


def test_an_index_cut_short_is_made_anew(path):
    from_disk(path)
    whole = index(path).read_bytes()
    for length in range(0, len(whole), 7):
        index(path).write_bytes(whole[:length])
        assert not from_disk(path)
        assert from_disk(path)


def test_damaged_code_is_made_anew(path):
    from_disk(path)
    (data,) = index(path).parent.glob("*.nbc")
    data.write_bytes(data.read_bytes()[:100])
    assert not from_disk(path)
    assert from_disk(path)


def test_a_folder_that_cannot_be_written_is_a_warning(path, monkeypatch):
    def refuse(self, path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._open_for_write", refuse)
    with pytest.warns(RuntimeWarning, match=r"not kept for the next process in .*cache.*: Permission denied"):
        assert not from_disk(path)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr("numba.config.CACHE_DIR", str(path.parent / "cache"))
        assert not from_disk(path)


def test_no_folder_at_all_is_a_warning(path, monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    with pytest.warns(RuntimeWarning, match="no folder for them can be written; NUMBA_CACHE_DIR"):
        assert load(path)(1) == 2


def test_an_entry_is_kept_too(path):
    source = (
        "from minidl_kernels.numba.simd.compiled import entry\n\n\ndef run(p):\n    pass\n\n\ndouble = entry(run)\n"
    )
    path.write_text(source)
    assert [load(path).cache_hits for _ in range(2)] == [0, 1]
