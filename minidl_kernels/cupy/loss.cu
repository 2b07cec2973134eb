// Cross-entropy with class indices: logits (rows, classes), one team of threads per row. Formulas and names are those
// of minidl/ops/loss.py. weight (classes,) may be null. Logits, their gradient and the loss are of type T, all else of
// type Acc<T>. A target that is neither a class nor ignore_index gives NaN:
// a kernel cannot raise an error.

#include "softmax.cuh"

// The class of a row, and the weight of that class; an ignored row counts as class 0 with weight 0.
template <typename A> struct Target { int at; A weight; bool ignored, valid; };

template <typename A>
__device__ inline Target<A> read_target(long long target, const A* weight, int classes, long long ignore_index) {
    const bool ignored = target == ignore_index;
    const bool valid = ignored || (target >= 0 && target < classes);
    const int at = ignored || !valid ? 0 : (int)target;
    const A of_class = weight ? weight[at] : A(1);
    return {at, ignored ? 0 * of_class : of_class, ignored, valid};
}

template <typename T>
__global__ void cross_entropy_rows(
    const T* x, const long long* target, const Acc<T>* weight, int rows, int classes, Acc<T> smoothing,
    long long ignore_index, Acc<T>* loss, Acc<T>* weight_of_row, Acc<T>* top, Acc<T>* logsum
) {
    using A = Acc<T>;
    const int row = row_of_team();
    if (row >= rows) return;
    x += (size_t)row * classes;
    const SoftmaxSum<A> total = softmax_sum(x, classes);
    const A log_total = log(total.sum);
    A spread = 0;  // what label smoothing adds: the loss of every class, weighted
    if (smoothing != 0) {
        for (int j = threadIdx.x; j < classes; j += blockDim.x) {
            spread += (log_total - (widen(x[j]) - total.top)) * (weight ? weight[j] : A(1));
        }
        spread = sum_team(spread);
    }
    if (threadIdx.x == 0) {
        const Target<A> t = read_target(target[row], weight, classes, ignore_index);
        A value = t.weight == 0 ? A(0) : (log_total - (widen(x[t.at]) - total.top)) * t.weight;
        if (smoothing != 0) value = (1 - smoothing) * value + smoothing / classes * (t.ignored ? A(0) : spread);
        loss[row] = t.valid ? value : not_a_number<A>();
        weight_of_row[row] = t.weight;
        top[row] = total.top;
        logsum[row] = log_total;
    }
}

// The sum of the rows' weights, and the sum (or mean) of their losses; by one block, in a fixed order.
template <typename T>
__global__ void cross_entropy_total(
    const Acc<T>* loss, const Acc<T>* weight_of_row, int rows, bool mean, T* reduced, Acc<T>* total
) {
    Acc<T> losses = 0, weights = 0;
    for (int i = threadIdx.x; i < rows; i += blockDim.x) {
        losses += loss[i];
        weights += weight_of_row[i];
    }
    losses = sum_team(losses);
    weights = sum_team(weights);
    if (threadIdx.x == 0) {
        *total = weights;
        if (mean) losses = weights == 0 ? not_a_number<Acc<T>>() : losses / weights;
        if (reduced) *reduced = narrow<T>(losses);
    }
}

// dx = (p sum(q) - q) g with p = softmax(x) and q the target distribution times its weight. g has one element per row,
// or only one; it is divided by *total if that is given, and 0 if that is 0.
template <typename T>
__global__ void cross_entropy_grad(
    const Acc<T>* g, bool g_per_row, const Acc<T>* total, const T* x, const long long* target, const Acc<T>* top,
    const Acc<T>* logsum, const Acc<T>* weight, int rows, int classes, Acc<T> smoothing, long long ignore_index, T* dx
) {
    using A = Acc<T>;
    const int row = row_of_team();
    if (row >= rows) return;
    x += (size_t)row * classes;
    dx += (size_t)row * classes;
    const Target<A> t = read_target(target[row], weight, classes, ignore_index);
    const A given = total && *total == 0 ? A(0) : g[g_per_row ? row : 0] / (total ? *total : A(1));
    const A scale = t.valid ? given : not_a_number<A>();
    const A row_top = top[row], row_logsum = logsum[row];
    if (smoothing == 0) {
        for (int j = threadIdx.x; j < classes; j += blockDim.x) {
            const A p = exp(widen(x[j]) - row_top - row_logsum);
            dx[j] = narrow<T>((p - A(j == t.at)) * (scale * t.weight));
        }
        return;
    }
    const A even = t.ignored ? A(0) : smoothing / classes, kept = (1 - smoothing) * t.weight;
    A sum_q = 0;
    for (int j = threadIdx.x; j < classes; j += blockDim.x) {
        sum_q += kept * A(j == t.at) + even * (weight ? weight[j] : A(1));
    }
    sum_q = sum_team(sum_q);
    for (int j = threadIdx.x; j < classes; j += blockDim.x) {
        const A p = exp(widen(x[j]) - row_top - row_logsum);
        const A q = kept * A(j == t.at) + even * (weight ? weight[j] : A(1));
        dx[j] = narrow<T>((p * sum_q - q) * scale);
    }
}
