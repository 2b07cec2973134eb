// Optimizer updates in place, all of a rule in one kernel: each array is read once and written once. Rules as in
// minidl/ops/optimizer.py. What depends on the step number alone is computed on the host and given as a number. The
// states of half-precision parameters are float32: small updates would be lost in averages of half precision.

#include "common.cuh"

// The gradient after the sign of the objective and L2 regularization; decoupled weight decay shrinks p instead.
template <typename A> __device__ inline A decayed(A& p, A g, A shrink, A weight_decay, bool maximize) {
    if (maximize) g = -g;
    if (weight_decay != 0) g += weight_decay * p;  // 0 * infinity would be NaN
    if (shrink != 1) p *= shrink;
    return g;
}

// shrink = 1 - lr * weight_decay if that is decoupled (weight_decay is then 0 here), else 1. max_v may be null.
template <typename T>
__global__ void adam(
    T* p, const T* g, Acc<T>* m, Acc<T>* v, Acc<T>* max_v, int n, Acc<T> beta1, Acc<T> one_minus_beta1, Acc<T> beta2,
    Acc<T> one_minus_beta2, Acc<T> eps, Acc<T> step_size, Acc<T> sqrt_correction2, Acc<T> shrink, Acc<T> weight_decay,
    bool maximize
) {
    using A = Acc<T>;
    FOR_EACH(i, n) {
        A pi = widen(p[i]);
        const A gi = decayed(pi, widen(g[i]), shrink, weight_decay, maximize);
        const A mi = beta1 * m[i] + one_minus_beta1 * gi;
        const A vi = beta2 * v[i] + one_minus_beta2 * (gi * gi);
        A largest = vi;
        if (max_v) {
            largest = nan_max(max_v[i], vi);
            max_v[i] = largest;
        }
        const A denominator = sqrt(largest) / sqrt_correction2 + eps;
        m[i] = mi;
        v[i] = vi;
        p[i] = narrow<T>(pi - step_size * (mi / denominator));
    }
}

// buf may be null: then there is no momentum.
template <typename T>
__global__ void sgd(
    T* p, const T* g, Acc<T>* buf, int n, Acc<T> lr, Acc<T> momentum, Acc<T> one_minus_dampening, bool nesterov,
    Acc<T> weight_decay, bool maximize
) {
    using A = Acc<T>;
    FOR_EACH(i, n) {
        A pi = widen(p[i]);
        A gi = decayed(pi, widen(g[i]), A(1), weight_decay, maximize);
        if (buf) {
            const A b = momentum * buf[i] + one_minus_dampening * gi;
            buf[i] = b;
            gi = nesterov ? gi + momentum * b : b;
        }
        p[i] = narrow<T>(pi - lr * gi);
    }
}
