"""Memory by address, in compiled code: 64-bit words, and pointers for ``numba.carray``."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


@intrinsic
def pointer(typingctx, address):
    """An address as a pointer, for ``numba.carray``."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), codegen


@intrinsic
def word(typingctx, address, index):
    """The 64-bit word number ``index`` after ``address``."""

    def codegen(context, builder, signature, args):
        where = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.load(builder.gep(where, [args[1]]))

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def number(typingctx, address, index):
    """The same word as a float64."""

    def codegen(context, builder, signature, args):
        where = builder.inttoptr(args[0], ir.DoubleType().as_pointer())
        return builder.load(builder.gep(where, [args[1]]))

    return types.float64(types.intp, types.intp), codegen
