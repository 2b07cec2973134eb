// What surrounds the matrix product (cuBLAS's) of a convolution: see minidl/ops/conv.py for im2col. All copies, so
// that they are limited by memory; neighbouring threads write neighbouring elements. One-dimensional convolution is
// the case H = KH = 1.

#include "common.cuh"

#define GEOMETRY \
    int N, int C, int H, int W, int OH, int OW, int KH, int KW, int SH, int SW, int PH, int PW, int DH, int DW

// cols (C * KH * KW, N * OH * OW): row (c, kh, kw) holds the pixels of channel c under offset (kh, kw) of the kernel
// at each of its positions, 0 in the padding.
template <typename T> __global__ void im2col(const T* x, T* cols, GEOMETRY) {
    FOR_EACH(i, C * KH * KW * N * OH * OW) {
        const int ow = i % OW, oh = i / OW % OH, n = i / (OW * OH) % N;
        const int row = i / (OW * OH * N), kw = row % KW, kh = row / KW % KH, c = row / (KW * KH);
        const int h = oh * SH - PH + kh * DH, w = ow * SW - PW + kw * DW;
        const bool inside = h >= 0 && h < H && w >= 0 && w < W;
        cols[i] = inside ? x[(((size_t)n * C + c) * H + h) * W + w] : narrow<T>(0);
    }
}

// The transpose of im2col: pixel (h, w) of the image is the sum of the column entries that were taken from it.
// Gathered, not scattered, so that the order of the sum is fixed.
template <typename T> __global__ void col2im(const T* cols, T* image, GEOMETRY) {
    FOR_EACH(i, N * C * H * W) {
        const int w = i % W, h = i / W % H, c = i / (W * H) % C, n = i / (W * H * C);
        Acc<T> sum = 0;
        for (int kh = 0; kh < KH; ++kh) {
            const int y = h + PH - kh * DH;  // must be oh * SH
            if (y < 0 || y % SH || y / SH >= OH) continue;
            for (int kw = 0; kw < KW; ++kw) {
                const int x = w + PW - kw * DW;
                if (x < 0 || x % SW || x / SW >= OW) continue;
                const size_t row = ((size_t)c * KH + kh) * KW + kw;
                sum += widen(cols[((row * N + n) * OH + y / SH) * OW + x / SW]);
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
