// Maximum and mean of windows of images x (planes, H, W), where a plane is one channel of one sample; out is (planes,
// OH, OW). A thread makes one output. One-dimensional pooling is the case H = KH = 1.

#include "common.cuh"

// Sizes of an image, of what comes out of it, and of the window: its extent, step, padding and dilation along both
// axes.
#define WINDOW_PARAMETERS int planes, int H, int W, int OH, int OW, int KH, int KW, int SH, int SW, int PH, int PW

// indices: where in its plane (H * W) each maximum is. The first of equal values is taken; NaN counts as the largest.
// The host has made sure that every window meets a pixel.
template <typename T>
__global__ void max_pool(const T* x, T* out, long long* indices, WINDOW_PARAMETERS, int DH, int DW) {
    FOR_EACH(i, planes * OH * OW) {
        const int ow = i % OW, oh = i / OW % OH;
        const T* plane = x + (size_t)(i / (OW * OH)) * H * W;
        Acc<T> best = 0;
        int where = -1;
        for (int kh = 0; kh < KH; ++kh) {
            const int h = oh * SH - PH + kh * DH;
            if (h < 0 || h >= H) continue;
            for (int kw = 0; kw < KW; ++kw) {
                const int w = ow * SW - PW + kw * DW;
                if (w < 0 || w >= W) continue;
                const Acc<T> value = widen(plane[h * W + w]);
                if (where < 0 || value > best || value != value) {
                    best = value;
                    where = h * W + w;
                }
            }
        }
        out[i] = narrow<T>(best);
        indices[i] = where;
    }
}

// Adds each output's gradient to the pixel that it came from. image (planes, pixels) of type Acc<T> starts as zeros.
// One warp has a plane to itself and goes through its outputs 32 at a time, in order. Lanes that go to the same pixel
// take turns: no atomics, so that the sum is always taken in the same order.
template <typename T>
__global__ void max_pool_grad(
    const T* g, const long long* indices, int planes, int outputs, int pixels, Acc<T>* image
) {
    const int plane = row_of_team();
    if (plane >= planes) return;
    g += (size_t)plane * outputs;
    indices += (size_t)plane * outputs;
    image += (size_t)plane * pixels;
    for (int start = 0; start < outputs; start += 32) {
        const int i = start + threadIdx.x;
        const bool used = i < outputs;
        const int at = used ? (int)indices[i] : -1 - (int)threadIdx.x;  // idle lanes share with nobody
        const Acc<T> value = used ? widen(g[i]) : Acc<T>(0);
        const unsigned sharers = __match_any_sync(0xffffffffu, at);
        const int turn = __popc(sharers & ((1u << threadIdx.x) - 1));  // how many lanes come before this one
        for (int t = 0; __any_sync(0xffffffffu, t <= turn); ++t) {
            if (used && t == turn) image[at] += value;
            __syncwarp();
        }
    }
}

// How many pixels a window counts along one axis: those in the image and, if include_padding, in the padding around
// it.
__device__ inline int counted(int o, int size, int kernel, int stride, int padding, bool include_padding) {
    const int begin = o * stride - padding, end = min(begin + kernel, size + padding);
    return include_padding ? end - begin : min(end, size) - max(begin, 0);
}

template <typename T> __global__ void avg_pool(const T* x, T* out, WINDOW_PARAMETERS, bool include_padding) {
    FOR_EACH(i, planes * OH * OW) {
        const int ow = i % OW, oh = i / OW % OH;
        const T* plane = x + (size_t)(i / (OW * OH)) * H * W;
        Acc<T> sum = 0;
        for (int h = max(oh * SH - PH, 0); h < min(oh * SH - PH + KH, H); ++h) {
            for (int w = max(ow * SW - PW, 0); w < min(ow * SW - PW + KW, W); ++w) sum += widen(plane[h * W + w]);
        }
        const int count = counted(oh, H, KH, SH, PH, include_padding) * counted(ow, W, KW, SW, PW, include_padding);
        out[i] = narrow<T>(sum / count);
    }
}

// A thread makes the gradient of one pixel, from the windows o that it is in: o * stride <= pixel + padding < o *
// stride + kernel.
template <typename T> __global__ void avg_pool_grad(const T* g, T* dx, WINDOW_PARAMETERS, bool include_padding) {
    FOR_EACH(i, planes * H * W) {
        const int w = i % W, h = i / W % H;
        const T* plane = g + (size_t)(i / (W * H)) * OH * OW;
        const int first_h = max(0, (h + PH - KH + SH) / SH), first_w = max(0, (w + PW - KW + SW) / SW);
        Acc<T> sum = 0;
        for (int oh = first_h; oh <= min((h + PH) / SH, OH - 1); ++oh) {
            for (int ow = first_w; ow <= min((w + PW) / SW, OW - 1); ++ow) {
                const int count =
                    counted(oh, H, KH, SH, PH, include_padding) * counted(ow, W, KW, SW, PW, include_padding);
                sum += widen(plane[oh * OW + ow]) / count;
            }
        }
        dx[i] = narrow<T>(sum);
    }
}
