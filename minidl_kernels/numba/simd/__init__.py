"""The vector layer that the kernels share: widths, functions of vectors, register tiles, scratch memory."""
