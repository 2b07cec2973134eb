// The gradient of an embedding: out[v] = sum of the rows of g whose index is v.

#include "common.cuh"

// First place in the ascending list at which a number is at least v.
__device__ inline int lower_bound(const long long* sorted, int count, long long v) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (sorted[middle] < v) low = middle + 1;
        else high = middle;
    }
    return low;
}

// order: the rows of g (count, dim) sorted by index, equal ones in their original order; sorted: their indices. A
// block has one row v of out (rows, dim) and adds in that order, so the result is always the same. Row padding_idx
// stays 0.
template <typename T>
__global__ void embedding_grad(
    const T* g, const long long* sorted, const long long* order, int count, int dim, int padding_idx, T* out
) {
    const int v = blockIdx.x;
    const int first = lower_bound(sorted, count, v);
    const int last = v == padding_idx ? first : lower_bound(sorted, count, (long long)v + 1);
    for (int j = threadIdx.x; j < dim; j += blockDim.x) {
        Acc<T> sum = 0;
        for (int i = first; i < last; ++i) sum += widen(g[(size_t)order[i] * dim + j]);
        out[(size_t)v * dim + j] = narrow<T>(sum);
    }
}
