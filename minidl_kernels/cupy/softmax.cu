// Softmax and log-softmax of the rows of a matrix, with their gradients; one team of threads per row (see common.cuh).

#include "softmax.cuh"

struct Largest {
    template <typename A> __device__ static A combine(A x, A y) { return nan_max(x, y); }
};

// Of a row that a warp has in its registers: it is read once, and takes one exp an element.
template <bool Log, int MOST, typename T> __device__ inline void softmax_of_short_row(const T* x, T* y, int n) {
    using A = Acc<T>;
    A mine[MOST / 32], top = -infinity<A>(), sum = 0;
    #pragma unroll
    for (int k = 0; k < MOST / 32; ++k) {
        const int j = threadIdx.x + 32 * k;
        mine[k] = j < n ? widen(x[j]) : -infinity<A>();
        top = nan_max(top, mine[k]);
    }
    top = reduce_team<Largest>(top);
    #pragma unroll
    for (int k = 0; k < MOST / 32; ++k) {
        if (threadIdx.x + 32 * k >= n) continue;
        const A shifted = mine[k] - top, power = exp(shifted);
        sum += power;
        mine[k] = Log ? shifted : power;
    }
    sum = sum_team(sum);
    const A logsum = log(sum), scale = 1 / sum;
    #pragma unroll
    for (int k = 0; k < MOST / 32; ++k) {
        const int j = threadIdx.x + 32 * k;
        if (j < n) y[j] = narrow<T>(Log ? mine[k] - logsum : mine[k] * scale);
    }
}

template <typename T, bool Log> __global__ void softmax(const T* x, T* y, int rows, int n) {
    const int row = row_of_team();
    if (row >= rows) return;
    x += (size_t)row * n;
    y += (size_t)row * n;
    if (n <= 128) return softmax_of_short_row<Log, 128>(x, y, n);
    if (n <= 1024) return softmax_of_short_row<Log, 1024>(x, y, n);
    const SoftmaxSum<Acc<T>> total = softmax_sum(x, n);
    const Acc<T> logsum = log(total.sum), scale = 1 / total.sum;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        const Acc<T> shifted = widen(x[j]) - total.top;
        y[j] = narrow<T>(Log ? shifted - logsum : exp(shifted) * scale);
    }
}

// softmax: dx = y (g - sum(g y));  log-softmax: dx = g - exp(y) sum(g)
template <typename T, bool Log> __global__ void softmax_grad(const T* g, const T* y, T* dx, int rows, int n) {
    const int row = row_of_team();
    if (row >= rows) return;
    g += (size_t)row * n;
    y += (size_t)row * n;
    dx += (size_t)row * n;
    Acc<T> sum = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) sum += Log ? widen(g[j]) : widen(g[j]) * widen(y[j]);
    sum = sum_team(sum);
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        const Acc<T> gj = widen(g[j]), yj = widen(y[j]);
        dx[j] = narrow<T>(Log ? gj - exp(yj) * sum : yj * (gj - sum));
    }
}
