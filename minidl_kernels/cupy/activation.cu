// Activation functions and their gradients, one fused kernel each: every formula is that of minidl/ops/activation.py.
// All are limited by memory: what counts is that each element is read once and written once.
//
// A function is a struct with the formula; a and b are its parameters (a slope, a threshold), if it has any.

#include "common.cuh"

template <typename Function, typename T>
__global__ void unary(const T* __restrict__ x, T* __restrict__ y, int n, Acc<T> a, Acc<T> b) {
    FOR_EACH_OF_FEW(i, n) y[i] = narrow<T>(Function::of(widen(x[i]), a, b));
}

// From the gradient for a function's output and its input x (or, for some, its output) to the gradient for the input.
template <typename Function, typename T>
__global__ void gradient(
    const T* __restrict__ g, const T* __restrict__ x, T* __restrict__ dx, int n, Acc<T> a, Acc<T> b
) {
    FOR_EACH_OF_FEW(i, n) dx[i] = narrow<T>(Function::of(widen(g[i]), widen(x[i]), a, b));
}

#define UNARY(Name, formula) \
    struct Name { template <typename A> __device__ static A of(A x, A a, A b) { formula } };
#define GRADIENT(Name, formula) \
    struct Name { template <typename A> __device__ static A of(A g, A x, A a, A b) { formula } };

template <typename A> __device__ inline A logistic(A x) { return 1 / (1 + exp(-x)); }
template <typename A> __device__ inline A log_one_plus_exp(A x) { return nan_max(x, A(0)) + log1p(exp(-fabs(x))); }
__device__ inline float cdf_normal(float x) { return normcdff(x); }
__device__ inline double cdf_normal(double x) { return normcdf(x); }
template <typename A> __device__ inline A pdf_normal(A x) { return exp(A(-0.5) * x * x) * A(0.3989422804014327); }
// sqrt(2 / pi) (x + 0.044715 x^3), in the tanh approximation of gelu; source.py puts the numbers in
template <typename A> __device__ inline A gelu_inner(A x) {
    return A(GELU_SCALE) * x * (1 + A(GELU_CUBIC) * x * x);
}

UNARY(Sigmoid, return logistic(x);)
GRADIENT(SigmoidGrad, return g * (x * (1 - x));)  // x is the output here
GRADIENT(TanhGrad, return g * (1 - x * x);)       // and here
GRADIENT(ReluGrad, return g * A(x > 0);)          // and here

UNARY(LeakyRelu, return nan_max(x, A(0)) + a * nan_min(x, A(0));)
GRADIENT(LeakyReluGrad, return g * (x > 0 ? A(1) : a);)

UNARY(Elu, return nan_max(x, A(0)) + a * expm1(nan_min(x, A(0)));)
GRADIENT(EluGrad, return g * (x > 0 ? A(1) : a * exp(nan_min(x, A(0))));)

UNARY(Softplus, return x * a > b ? x : log_one_plus_exp(x * a) / a;)  // a: beta, b: threshold
GRADIENT(SoftplusGrad, return x * a > b ? g : g * logistic(x * a);)

UNARY(Gelu, return x * cdf_normal(x);)
GRADIENT(GeluGrad, return g * (cdf_normal(x) + x * pdf_normal(x));)

UNARY(GeluTanh, return A(0.5) * x * (1 + tanh(gelu_inner(x)));)
GRADIENT(GeluTanhGrad,
    const A t = tanh(gelu_inner(x));
    const A slope = A(GELU_SCALE) * (1 + A(3 * GELU_CUBIC) * x * x);
    return g * (A(0.5) * (1 + t) + A(0.5) * x * (1 - t * t) * slope);)

UNARY(Silu, return x / (1 + exp(-x));)
GRADIENT(SiluGrad,
    const A s = logistic(x);
    return g * (s * (1 + x * (1 - s)));)

UNARY(Mish, return x * tanh(log_one_plus_exp(x));)
GRADIENT(MishGrad,
    const A t = tanh(log_one_plus_exp(x));
    return g * (t + x * (1 - t * t) * logistic(x));)

UNARY(Softsign, return x / (1 + fabs(x));)
GRADIENT(SoftsignGrad,
    const A d = 1 + fabs(x);
    return g / (d * d);)

UNARY(Hardswish, return x * (nan_min(nan_max(x + 3, A(0)), A(6)) / 6);)
GRADIENT(HardswishGrad, return x < -3 ? A(0) : x < 3 ? g * (x / 3 + A(0.5)) : g;)

GRADIENT(HardtanhGrad, return g * A(x > a && x < b);)
