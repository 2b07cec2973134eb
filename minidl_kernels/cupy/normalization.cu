// Layer, root-mean-square and batch normalization, forward and backward; formulas as in minidl/ops/normalization.py.
// Mean and variance are taken in two passes, which does not cancel as the mean of squares less the square of the mean
// would. weight and bias may be null. Statistics are of type Acc<T>.

#include "common.cuh"

// Layer and root-mean-square normalization: the rows of (rows, n), one team of threads per row. Centre tells the two
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

// Batch normalization of x (batch, channels, pixels). The m = batch * pixels values of a channel (blockIdx.x) lie in
// runs of `pixels`; they are cut into gridDim.y parts, one per block. What the parts of a channel find out is put
// together by every block that needs it, in one order. A channel with one part needs no kernel for that.

struct Part { int first, last; };

__device__ inline Part part_of_block(int m, int k) {
    const int size = (m - 1) / (int)gridDim.y + 1;
    return {k * size, min((k + 1) * size, m)};
}

// visit(where the value is) for the values of the block's part that this thread has
template <typename Visit> __device__ inline void each_of_part(int batch, int channels, int pixels, Visit visit) {
    const Part part = part_of_block(batch * pixels, blockIdx.y);
    const int images = blockDim.x / pixels, rest = blockDim.x % pixels;
    int i = part.first + threadIdx.x, n = i / pixels, pixel = i % pixels;
    for (; i < part.last; i += blockDim.x) {
        visit(((size_t)n * channels + blockIdx.x) * pixels + pixel);
        n += images;
        pixel += rest;
        if (pixel >= pixels) {
            pixel -= pixels;
            ++n;
        }
    }
}

// Mean, and sum of the squares of the differences from it, of the block's part.
template <typename T> __device__ inline Statistics<Acc<T>> statistics_of_part(
    const T* x, int batch, int channels, int pixels
) {
    using A = Acc<T>;
    const Part part = part_of_block(batch * pixels, blockIdx.y);
    A mean = 0, squares = 0;
    each_of_part(batch, channels, pixels, [&](size_t at) { mean += widen(x[at]); });
    mean = sum_team(mean) / (part.last - part.first);
    each_of_part(batch, channels, pixels, [&](size_t at) {
        const A centred = widen(x[at]) - mean;
        squares += centred * centred;
    });
    return {mean, sum_team(squares)};
}

template <typename T>
__global__ void batch_norm_parts(const T* x, int batch, int channels, int pixels, Acc<T>* means, Acc<T>* squares) {
    const Statistics<Acc<T>> s = statistics_of_part(x, batch, channels, pixels);
    if (threadIdx.x == 0) {
        means[blockIdx.x * gridDim.y + blockIdx.y] = s.mean;
        squares[blockIdx.x * gridDim.y + blockIdx.y] = s.var;
    }
}

// means and squares are null where gridDim.y is 1
template <typename T>
__global__ void batch_norm(
    const T* x, const T* weight, const T* bias, const Acc<T>* means, const Acc<T>* squares, int batch, int channels,
    int pixels, Acc<T> eps, T* y, Acc<T>* mean, Acc<T>* var
) {
    using A = Acc<T>;
    const int c = blockIdx.x, m = batch * pixels;
    Statistics<A> s = {0, 0};
    if (means) {
        for (int k = 0; k < gridDim.y; ++k) {
            const Part part = part_of_block(m, k);
            s.mean += means[c * gridDim.y + k] * (part.last - part.first);
        }
        s.mean /= m;
        for (int k = 0; k < gridDim.y; ++k) {
            const Part part = part_of_block(m, k);
            const A off = means[c * gridDim.y + k] - s.mean;
            s.var += squares[c * gridDim.y + k] + off * off * (part.last - part.first);
        }
    } else {
        s = statistics_of_part(x, batch, channels, pixels);
    }
    s.var /= m;
    const A scale = 1 / sqrt(s.var + eps), w = weight ? widen(weight[c]) : A(1), b = bias ? widen(bias[c]) : A(0);
    each_of_part(batch, channels, pixels, [&](size_t at) {
        y[at] = narrow<T>((widen(x[at]) - s.mean) * scale * w + b);
    });
    if (threadIdx.x == 0 && blockIdx.y == 0) {
        mean[c] = s.mean;
        var[c] = s.var;
    }
}

// dweight = sum(g z) and dbias = sum(g)
template <typename A> struct AffineGrad { A weight, bias; };

template <typename T> __device__ inline AffineGrad<Acc<T>> affine_grad_of_part(
    const T* g, const T* x, Acc<T> mean, Acc<T> rstd, int batch, int channels, int pixels
) {
    Acc<T> dw = 0, db = 0;
    each_of_part(batch, channels, pixels, [&](size_t at) {
        const Acc<T> gi = widen(g[at]);
        dw += gi * ((widen(x[at]) - mean) * rstd);
        db += gi;
    });
    return {sum_team(dw), sum_team(db)};
}

template <typename T>
__global__ void batch_norm_grad_parts(
    const T* g, const T* x, const Acc<T>* mean, const Acc<T>* var, int batch, int channels, int pixels, Acc<T> eps,
    Acc<T>* dweights, Acc<T>* dbiases
) {
    const int c = blockIdx.x;
    const AffineGrad<Acc<T>> d =
        affine_grad_of_part(g, x, mean[c], 1 / sqrt(var[c] + eps), batch, channels, pixels);
    if (threadIdx.x == 0) {
        dweights[c * gridDim.y + blockIdx.y] = d.weight;
        dbiases[c * gridDim.y + blockIdx.y] = d.bias;
    }
}

// dx = scale (g - (dbias + z dweight) / m) with scale = weight / std, and what comes through the mean and the
// variance: dmean / m + 2 dvar (x - mean) / m. dweights and dbiases are null where gridDim.y is 1.
template <typename T>
__global__ void batch_norm_grad(
    const T* g, const Acc<T>* dmean, const Acc<T>* dvar, const T* x, const T* weight, const Acc<T>* mean,
    const Acc<T>* var, const Acc<T>* dweights, const Acc<T>* dbiases, int batch, int channels, int pixels, Acc<T> eps,
    T* dx, T* dweight, T* dbias
) {
    using A = Acc<T>;
    const int c = blockIdx.x, m = batch * pixels;
    const A mu = mean[c], rstd = 1 / sqrt(var[c] + eps);
    AffineGrad<A> d = {0, 0};
    if (dweights) {
        for (int k = 0; k < gridDim.y; ++k) {
            d.weight += dweights[c * gridDim.y + k];
            d.bias += dbiases[c * gridDim.y + k];
        }
    } else {
        d = affine_grad_of_part(g, x, mu, rstd, batch, channels, pixels);
    }
    const A scale = weight ? rstd * widen(weight[c]) : rstd, mean_g = d.bias / m;
    const A per_z = (2 * dvar[c] / rstd - scale * d.weight) / m, through_mean = dmean[c] / m;
    each_of_part(batch, channels, pixels, [&](size_t at) {
        const A z = (widen(x[at]) - mu) * rstd;
        dx[at] = narrow<T>(scale * (widen(g[at]) - mean_g) + z * per_z + through_mean);
    });
    if (threadIdx.x == 0 && blockIdx.y == 0) {
        dweight[c] = narrow<T>(d.weight);
        dbias[c] = narrow<T>(d.bias);
    }
}
