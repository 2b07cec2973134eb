// What surrounds the matrix product (cuBLAS's) of a convolution: see minidl/ops/conv.py for im2col. All copies, so
// that they are limited by memory; neighbouring threads write neighbouring elements. One-dimensional convolution is
// the case H = KH = 1.

#include "common.cuh"

#define GEOMETRY \
    int N, int C, int H, int W, int OH, int OW, int KH, int KW, int SH, int SW, int PH, int PW, int DH, int DW

// cols (C * KH * KW, N * OH * OW): row (c, kh, kw) holds the pixels of channel c under offset (kh, kw) of the kernel
// at each of its positions, 0 in the padding.
// A thread has a channel at a position, and writes KH * KW elements.
template <typename T> __global__ void im2col(const T* x, T* cols, GEOMETRY) {
    const int columns = N * OH * OW;
    FOR_EACH(i, C * columns) {
        const int ow = i % OW, oh = i / OW % OH, n = i / (OW * OH) % N, c = i / columns;
        const T* image = x + ((size_t)n * C + c) * H * W;
        T* out = cols + (size_t)c * KH * KW * columns + i % columns;
        for (int kh = 0; kh < KH; ++kh) {
            const int h = oh * SH - PH + kh * DH;
            for (int kw = 0; kw < KW; ++kw, out += columns) {
                const int w = ow * SW - PW + kw * DW;
                const bool inside = h >= 0 && h < H && w >= 0 && w < W;
                *out = inside ? image[(size_t)h * W + w] : narrow<T>(0);
            }
        }
    }
}

// x / stride, or -1 where there is a remainder. (A division takes as long as the rest.)
__device__ inline int steps(int x, int stride) { return stride == 1 ? x : x % stride ? -1 : x / stride; }

// The transpose of im2col: pixel (h, w) of the image is the sum of the column entries that were taken from it.
// Gathered, not scattered, so that the order of the sum is fixed.
template <typename T> __global__ void col2im(const T* cols, T* image, GEOMETRY) {
    FOR_EACH(i, N * C * H * W) {
        const int w = i % W, h = i / W % H, c = i / (W * H) % C, n = i / (W * H * C);
        Acc<T> sum = 0;
        for (int kh = 0; kh < KH; ++kh) {
            const int oh = steps(h + PH - kh * DH, SH);
            if (oh < 0 || oh >= OH) continue;
            for (int kw = 0; kw < KW; ++kw) {
                const int ow = steps(w + PW - kw * DW, SW);
                if (ow < 0 || ow >= OW) continue;
                const size_t row = ((size_t)c * KH + kh) * KW + kw;
                sum += widen(cols[((row * N + n) * OH + oh) * OW + ow]);
            }
        }
        image[i] = narrow<T>(sum);
    }
}

// From the product (O, N * P) to the output (N, O, P), with the bias (O,), which may be null.
template <typename T> __global__ void to_images(const T* product, const T* bias, T* out, int N, int O, int P) {
    FOR_EACH(i, N * O * P) {
        const int p = i % P, o = i / P % O, n = i / (P * O);
        const T value = product[((size_t)o * N + n) * P + p];
        out[i] = bias ? narrow<T>(widen(value) + widen(bias[o])) : value;
    }
}
