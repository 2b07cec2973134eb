"""The CUDA sources, and which kernels are in them. Needs neither CuPy nor a GPU."""

from __future__ import annotations

import re
from pathlib import Path

from minidl.ops.activation import GELU_CUBIC, GELU_SCALE

FOLDER = Path(__file__).parent

#: element types by NumPy's name of the dtype, in C++
TYPES = {"float32": "float", "float64": "double", "float16": "__half", "bfloat16": "__nv_bfloat16"}
#: what a source file needs to be told to include the header of a type
_DEFINES = {"float16": ("-DUSE_FP16",), "bfloat16": ("-DUSE_BF16",)}

#: the kernels of each ``.cu`` file, as C++ name expressions in which ``T`` is the element type
KERNELS: dict[str, tuple[str, ...]] = {
    "activation": (
        *(
            f"unary<{f}, T>"
            for f in ("Sigmoid", "LeakyRelu", "Elu", "Softplus", "Gelu", "GeluTanh", "Silu", "Mish", "Softsign",
                      "Hardswish")
        ),
        *(
            f"gradient<{f}Grad, T>"
            for f in ("Sigmoid", "Tanh", "Relu", "LeakyRelu", "Elu", "Softplus", "Gelu", "GeluTanh", "Silu", "Mish",
                      "Softsign", "Hardswish", "Hardtanh")
        ),
    ),
    "attention": (
        "attention<T, false>", "attention_grad_kv<T, false>", "attention_grad_q<T, false>",
        "attention<T, true>", "attention_grad_kv<T, true>", "attention_grad_q<T, true>", "attention_delta<T>",
    ),
    "conv": ("im2col<T>", "col2im<T>", "to_images<T>"),
    "embedding": ("embedding_grad<T>",),
    "loss": ("cross_entropy_rows<T>", "cross_entropy_total<T>", "cross_entropy_grad<T>"),
    "normalization": (
        "norm_rows<T, true>", "norm_rows<T, false>", "norm_rows_grad<T, true>", "norm_rows_grad<T, false>",
        "norm_rows_weight_grad<T>", "batch_norm<T>", "batch_norm_parts<T>", "batch_norm_grad<T>",
        "batch_norm_grad_parts<T>",
    ),
    "optimizer": ("adam<T>", "sgd<T>"),
    "pooling": ("max_pool<T>", "max_pool_grad<T>", "avg_pool<T>", "avg_pool_grad<T>"),
    "random": ("random_bits", "dropout<T>"),
    "recurrent": ("lstm_step<T>", "lstm_step_grad<T>", "gru_step<T>", "gru_step_grad<T>"),
    "softmax": ("softmax<T, false>", "softmax<T, true>", "softmax_grad<T, false>", "softmax_grad<T, true>"),
}  # fmt: skip


def source(family: str) -> str:
    """The text of ``family.cu`` with the headers of this folder put in where they are included (CuPy's cache of
    compiled kernels goes by the text, and would not notice a change in a header), and the numbers of formulas."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (FOLDER / name).read_text()
        return re.sub(r'^#include "(.+)"$', lambda found: expand(found[1]), text, flags=re.MULTILINE)

    return expand(f"{family}.cu").replace("GELU_SCALE", repr(GELU_SCALE)).replace("GELU_CUBIC", repr(GELU_CUBIC))


def specialized(expression: str, dtype: str) -> str:
    """A name expression for elements of ``dtype``: ``"softmax<T, true>"`` -> ``"softmax<float, true>"``."""
    return re.sub(r"\bT\b", TYPES[dtype], expression)


def expressions(family: str, dtype: str) -> tuple[str, ...]:
    """The name expressions of all kernels of ``family``."""
    return tuple(specialized(e, dtype) for e in KERNELS[family])


def options(dtype: str) -> tuple[str, ...]:
    """Options for NVRTC."""
    return ("-std=c++17", *_DEFINES.get(dtype, ()))
