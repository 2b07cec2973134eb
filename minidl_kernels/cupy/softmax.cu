// Softmax and log-softmax of the rows of a matrix, with their gradients; one team of threads a row (see common.cuh).

#include "softmax.cuh"

template <typename T, bool Log> __global__ void softmax(const T* x, T* y, int rows, int n) {
    const int row = row_of_team();
    if (row >= rows) return;
    x += (size_t)row * n;
    y += (size_t)row * n;
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
