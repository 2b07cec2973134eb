"""Every CUDA kernel compiles, for every element type and three generations of GPUs. Needs a compiler, but no GPU."""

import ast
import ctypes
import importlib.util
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minidl_kernels.cupy import source as sources

# Volta (the oldest with independent threads in a warp), Ampere (the first with bfloat16), Hopper
ARCHITECTURES = (70, 80, 90)
# What a block may have without asking for more at launch
SHARED_MEMORY = 48 << 10


def _wheel_file(package, pattern):
    """A file of one of NVIDIA's wheels, which share the namespace package ``nvidia``."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        found = sorted(Path(folder, package).glob(pattern))
        if found:
            return found[0]
    return None


class Nvrtc:
    """What CuPy compiles with, through its C interface."""

    def __init__(self, library, include):
        self.lib, self.include = ctypes.CDLL(str(library)), include

    def _check(self, code, program=None):
        if code:
            log = b""
            if program is not None:
                size = ctypes.c_size_t()
                self.lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
                log = ctypes.create_string_buffer(size.value)
                self.lib.nvrtcGetProgramLog(program, log)
                log = log.value
            raise AssertionError(f"NVRTC error {code}:\n{log.decode()}")

    def architectures(self):
        count = ctypes.c_int()
        self._check(self.lib.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        values = (ctypes.c_int * count.value)()
        self._check(self.lib.nvrtcGetSupportedArchs(values))
        return set(values)

    def compile(self, text, expressions, options, architecture):
        """The machine code (a cubin)."""
        program = ctypes.c_void_p()
        self._check(self.lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None))
        for e in expressions:
            self._check(self.lib.nvrtcAddNameExpression(program, e.encode()))
        flags = [*options, f"-arch=sm_{architecture}", f"-I{self.include}", "--device-as-default-execution-space"]
        values = (ctypes.c_char_p * len(flags))(*(f.encode() for f in flags))
        self._check(self.lib.nvrtcCompileProgram(program, len(flags), values), program)
        for e in expressions:
            name = ctypes.c_char_p()
            self._check(self.lib.nvrtcGetLoweredName(program, e.encode(), ctypes.byref(name)))
        size = ctypes.c_size_t()
        self._check(self.lib.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        self._check(self.lib.nvrtcGetCUBIN(program, code))
        self._check(self.lib.nvrtcDestroyProgram(ctypes.byref(program)))
        return code.raw


class Nvcc:
    """The CUDA toolkit's compiler, where NVRTC is not installed."""

    def __init__(self, path):
        self.path = path

    def architectures(self):
        text = subprocess.run([self.path, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        return {int(n) for n in re.findall(r"compute_(\d+)$", text, re.MULTILINE)}

    def compile(self, text, expressions, options, architecture):
        used = ", ".join(f"(const void*)&{e}" for e in expressions)  # taking its address instantiates a template
        text += f"\nextern const void* const kernels[]; const void* const kernels[] = {{{used}}};\n"
        command = [self.path, *options, f"-arch=sm_{architecture}", "-cubin", "-x", "cu", "-o", "/dev/stdout", "-"]
        done = subprocess.run(command, input=text.encode(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def _compiler():
    library, header = _wheel_file("cuda_nvrtc", "lib/libnvrtc.so.*"), _wheel_file("cuda_runtime", "include/cuda_fp16.h")
    if library and header:
        return Nvrtc(library, header.parent)
    return Nvcc(shutil.which("nvcc")) if shutil.which("nvcc") else None


COMPILER = _compiler()
needs_compiler = pytest.mark.skipif(
    COMPILER is None,
    reason="no CUDA compiler: neither nvcc nor NVRTC (pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12)",
)


def test_every_source_file_is_listed_and_every_kernel_in_it():
    files = {p.stem for p in sources.FOLDER.glob("*.cu")}
    assert files == set(sources.KERNELS)
    for family, expressions in sources.KERNELS.items():
        text = (sources.FOLDER / f"{family}.cu").read_text()
        defined = set(re.findall(r"__global__ void (\w+)\(", text))
        assert defined == {e.split("<")[0] for e in expressions}, family


def test_sources_are_ascii():
    """CuPy writes them to files in the locale's encoding."""
    for family in sources.KERNELS:
        assert sources.source(family).isascii(), family


def test_headers_are_put_in_once():
    text = sources.source("loss")
    assert '#include "' not in text and text.count("struct AccOf<double>") == 1


def test_expressions_are_specialized():
    assert sources.specialized("unary<Tanh, T>", "float16") == "unary<Tanh, __half>"
    assert "softmax<double, true>" in sources.expressions("softmax", "float64")


@needs_compiler
@pytest.mark.parametrize("family", sorted(sources.KERNELS))
def test_kernels_compile(family):
    architectures = sorted(set(ARCHITECTURES) & COMPILER.architectures())
    assert len(architectures) >= 2, "a compiler for other GPUs than these"
    # all types for one architecture; for the others bfloat16, whose header differs most between generations
    jobs = [(architectures[0], t) for t in sources.TYPES] + [(a, "bfloat16") for a in architectures[1:]]

    def build(job):
        architecture, dtype = job
        return COMPILER.compile(
            sources.source(family), sources.expressions(family, dtype), sources.options(dtype), architecture
        )

    with ThreadPoolExecutor(2) as pool:
        for code in pool.map(build, jobs):
            assert code[:4] == b"\x7fELF"


@needs_compiler
def test_compiler_refuses_a_kernel_that_is_wrong():
    wrong = sources.source("softmax").replace("scale = 1 / total.sum", "scale = 1 / total.product")
    with pytest.raises(AssertionError, match="product"):
        COMPILER.compile(
            wrong, sources.expressions("softmax", "float32"), sources.options("float32"), max(COMPILER.architectures())
        )


def names_of_cupy():
    """Every ``cupy.a.b`` in the package's sources."""
    found = set()
    for path in sources.FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            if isinstance(node, ast.Name) and node.id == "cupy" and parts:
                found.add(".".join(reversed(parts)))
    return sorted(found)


def test_cupy_has_what_is_used():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    names = names_of_cupy()
    assert "RawModule" in names and "cuda.get_current_stream" in names
    for name in names:
        value = cupy
        for part in name.split("."):
            assert hasattr(value, part), f"CuPy {cupy.__version__} has no cupy.{name}"
            value = getattr(value, part)
