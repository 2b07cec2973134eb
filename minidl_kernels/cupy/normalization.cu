// Layer, root-mean-square and batch normalization, forward and backward; formulas as in minidl/ops/normalization.py.
// Mean and variance are taken in two passes, which does not cancel as the mean of squares less the square of the mean
// would. weight and bias may be null. Statistics and the gradients of weight and bias are of type Acc<T>.

#include "common.cuh"

// Layer and root-mean-square normalization: the rows of (rows, n), one team of threads a row. Centre tells the two
// apart: with it the mean is subtracted.

template <typename A> struct Statistics { A mean, var; };

template <bool Centre, typename T> __device__ inline Statistics<Acc<T>> statistics_of_row(const T* x, int n) {
    using A = Acc<T>;
    A mean = 0;
    if (Centre) {
        for (int j = threadIdx.x; j < n; j += blockDim.x) mean += widen(x[j]);
        mean = sum_team(mean) / n;
    }
    A var = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        const A centred = widen(x[j]) - mean;
        var += centred * centred;
    }
    return {mean, sum_team(var) / n};
}

template <typename T, bool Centre>
__global__ void norm_rows(const T* x, const T* weight, const T* bias, int rows, int n, Acc<T> eps, T* y) {
    using A = Acc<T>;
    const int row = row_of_team();
    if (row >= rows) return;
    x += (size_t)row * n;
    y += (size_t)row * n;
    const Statistics<A> s = statistics_of_row<Centre>(x, n);
    const A rstd = 1 / sqrt(s.var + eps);
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        A z = (widen(x[j]) - s.mean) * rstd;
        if (weight) z *= widen(weight[j]);
        if (bias) z += widen(bias[j]);
        y[j] = narrow<T>(z);
    }
}

// dx = (dz - mean(dz) - z mean(dz z)) / std with dz = weight g; without Centre there is no mean(dz). The statistics
// are computed again, and kept for norm_rows_weight_grad.
template <typename T, bool Centre>
__global__ void norm_rows_grad(
    const T* g, const T* x, const T* weight, int rows, int n, Acc<T> eps, T* dx, Acc<T>* mean, Acc<T>* rstd
) {
    using A = Acc<T>;
    const int row = row_of_team();
    if (row >= rows) return;
    g += (size_t)row * n;
    x += (size_t)row * n;
    dx += (size_t)row * n;
    const Statistics<A> s = statistics_of_row<Centre>(x, n);
    const A r = 1 / sqrt(s.var + eps);
    A sum = 0, along = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        const A dz = product(widen(g[j]), weight ? widen(weight[j]) : A(1));
        sum += dz;
        along += dz * ((widen(x[j]) - s.mean) * r);
    }
    sum = Centre ? sum_team(sum) / n : A(0);
    along = sum_team(along) / n;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        const A dz = product(widen(g[j]), weight ? widen(weight[j]) : A(1));
        const A z = (widen(x[j]) - s.mean) * r;
        dx[j] = narrow<T>((dz - sum - z * along) * r);
    }
    if (threadIdx.x == 0) {
        mean[row] = s.mean;
        rstd[row] = r;
    }
}

// dweight = sum(g z) and dbias = sum(g) over the rows. The rows are cut into chunks, one a blockIdx.y; the parts are
// (chunks, n) and are added up afterwards. A block of 32 x 8 threads has 32 columns: neighbouring threads read
// neighbouring columns, and 8 rows are under way at a time.
template <typename T>
__global__ void norm_rows_weight_grad(
    const T* g, const T* x, const Acc<T>* mean, const Acc<T>* rstd, int rows, int n, int rows_per_chunk,
    Acc<T>* dweight_parts, Acc<T>* dbias_parts
) {
    using A = Acc<T>;
    __shared__ A dweight[8][32], dbias[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    const int first = blockIdx.y * rows_per_chunk, last = min(first + rows_per_chunk, rows);
    A w = 0, b = 0;
    if (column < n) {
        for (int row = first + threadIdx.y; row < last; row += 8) {
            const size_t at = (size_t)row * n + column;
            w += widen(g[at]) * ((widen(x[at]) - mean[row]) * rstd[row]);
            b += widen(g[at]);
        }
    }
    dweight[threadIdx.y][threadIdx.x] = w;
    dbias[threadIdx.y][threadIdx.x] = b;
    __syncthreads();
    if (threadIdx.y == 0 && column < n) {
        for (int k = 1; k < 8; ++k) {
            w += dweight[k][threadIdx.x];
            b += dbias[k][threadIdx.x];
        }
        const size_t at = (size_t)blockIdx.y * n + column;
        dweight_parts[at] = w;
        dbias_parts[at] = b;
    }
}

// Batch normalization of x (batch, channels, pixels): one block a channel. The m = batch * pixels values of a channel
// lie in runs of `pixels`.

struct Channel {
    int channels, pixels, of;
    __device__ size_t operator()(int i) const { return ((size_t)(i / pixels) * channels + of) * pixels + i % pixels; }
};

template <typename T>
__global__ void batch_norm(
    const T* x, const T* weight, const T* bias, int batch, int channels, int pixels, Acc<T> eps, T* y, Acc<T>* mean,
    Acc<T>* var
) {
    using A = Acc<T>;
    const int c = blockIdx.x, m = batch * pixels;
    const Channel at = {channels, pixels, c};
    A mu = 0, v = 0;
    for (int i = threadIdx.x; i < m; i += blockDim.x) mu += widen(x[at(i)]);
    mu = sum_team(mu) / m;
    for (int i = threadIdx.x; i < m; i += blockDim.x) {
        const A centred = widen(x[at(i)]) - mu;
        v += centred * centred;
    }
    v = sum_team(v) / m;
    const A scale = 1 / sqrt(v + eps), w = weight ? widen(weight[c]) : A(1), b = bias ? widen(bias[c]) : A(0);
    for (int i = threadIdx.x; i < m; i += blockDim.x) y[at(i)] = narrow<T>((widen(x[at(i)]) - mu) * scale * w + b);
    if (threadIdx.x == 0) {
        mean[c] = mu;
        var[c] = v;
    }
}

// dx = scale (g - (dbias + z dweight) / m) with scale = weight / std, and what comes through the mean and the
// variance: dmean / m + 2 dvar (x - mean) / m.
template <typename T>
__global__ void batch_norm_grad(
    const T* g, const Acc<T>* dmean, const Acc<T>* dvar, const T* x, const T* weight, const Acc<T>* mean,
    const Acc<T>* var, int batch, int channels, int pixels, Acc<T> eps, T* dx, Acc<T>* dweight, Acc<T>* dbias
) {
    using A = Acc<T>;
    const int c = blockIdx.x, m = batch * pixels;
    const Channel at = {channels, pixels, c};
    const A mu = mean[c], rstd = 1 / sqrt(var[c] + eps);
    A dw = 0, db = 0;
    for (int i = threadIdx.x; i < m; i += blockDim.x) {
        const A gi = widen(g[at(i)]);
        dw += gi * ((widen(x[at(i)]) - mu) * rstd);
        db += gi;
    }
    dw = sum_team(dw);
    db = sum_team(db);
    const A scale = weight ? rstd * widen(weight[c]) : rstd;
    const A per_z = (2 * dvar[c] / rstd - scale * dw) / m, constant = (dmean[c] - scale * db) / m;
    for (int i = threadIdx.x; i < m; i += blockDim.x) {
        const A z = (widen(x[at(i)]) - mu) * rstd;
        dx[at(i)] = narrow<T>(scale * widen(g[at(i)]) + z * per_z + constant);
    }
    if (threadIdx.x == 0) {
        dweight[c] = dw;
        dbias[c] = db;
    }
}
