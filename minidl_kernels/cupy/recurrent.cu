// One time step of LSTM and GRU, between the matrix products (which are cuBLAS's): everything that happens to the
// gates in one kernel. Equations and layouts as in minidl/ops/recurrent.py; a thread has one of the N * H cells.
//
// lengths (N,) may be null; where t >= lengths[n], sequence n has ended: its state stays and its output is 0 (what
// would have come out times 0, as in the reference: NaN stays NaN).

#include "common.cuh"

// Arrays of all time steps are given whole; those of step t start here.
template <typename T> __device__ inline T* step_of(T* x, int t, int size) { return x + (size_t)t * size; }

template <typename A> __device__ inline A logistic(A x) { return 1 / (1 + exp(-x)); }

__device__ inline bool has_ended(const int* lengths, int n, int t) { return lengths && t >= lengths[n]; }

// gates (T, N, 4H): on entry W_ih x + b for i, f, g, o, on exit their values; recurrent (N, 4H) = W_hh h. The cells
// (T, N, H) before this step are those of step `before`, or c0 if that is -1. y (T, N, H) is the output; state (N, H) is
// the h to go on with; it and h are null if no sequence ends, where y is that.
template <typename T>
__global__ void lstm_step(
    T* gates, const T* recurrent, const T* h, const T* c0, const int* lengths, int t, int before, int N, int H,
    T* cells, T* y, T* state
) {
    using A = Acc<T>;
    const T* c = before < 0 ? c0 : step_of(cells, before, N * H);
    T* new_c = step_of(cells, t, N * H);
    gates = step_of(gates, t, N * 4 * H);
    y = step_of(y, t, N * H);
    FOR_EACH(k, N * H) {
        const int n = k / H;
        const size_t at = (size_t)n * 4 * H + k % H;
        const A i = logistic(widen(gates[at]) + widen(recurrent[at]));
        const A f = logistic(widen(gates[at + H]) + widen(recurrent[at + H]));
        const A g = tanh(widen(gates[at + 2 * H]) + widen(recurrent[at + 2 * H]));
        const A o = logistic(widen(gates[at + 3 * H]) + widen(recurrent[at + 3 * H]));
        gates[at] = narrow<T>(i);
        gates[at + H] = narrow<T>(f);
        gates[at + 2 * H] = narrow<T>(g);
        gates[at + 3 * H] = narrow<T>(o);
        const bool ended = has_ended(lengths, n, t);
        const A cell = f * widen(c[k]) + i * g;
        const A out = o * tanh(cell);
        new_c[k] = ended ? c[k] : narrow<T>(cell);
        y[k] = narrow<T>(out * A(!ended));
        if (state) state[k] = ended ? h[k] : narrow<T>(out);
    }
}

// later: the gradient for the state after this step, from the steps after it; gy: that for the step's output. dc goes
// from the cell after the step to the cell before it. dz (T, N, 4H) is the gradient for the gates before their
// activations.
template <typename T>
__global__ void lstm_step_grad(
    const T* later, const T* gy, const T* gates, const T* cells, const T* c0, const int* lengths, int t, int before,
    int N, int H, T* dc, T* dz
) {
    using A = Acc<T>;
    const T* c = before < 0 ? c0 : step_of(cells, before, N * H);
    const T* cell = step_of(cells, t, N * H);
    gates = step_of(gates, t, N * 4 * H);
    gy = step_of(gy, t, N * H);
    dz = step_of(dz, t, N * 4 * H);
    FOR_EACH(k, N * H) {
        const int n = k / H;
        const size_t at = (size_t)n * 4 * H + k % H;
        const A on = A(!has_ended(lengths, n, t));
        const A i = widen(gates[at]), f = widen(gates[at + H]), g = widen(gates[at + 2 * H]);
        const A o = widen(gates[at + 3 * H]), tanh_c = tanh(widen(cell[k]));
        const A dh = widen(later[k]) + widen(gy[k]);
        const A d = widen(dc[k]) + dh * (o * (1 - tanh_c * tanh_c)) * on;
        dz[at] = narrow<T>(d * (g * (i * (1 - i))) * on);
        dz[at + H] = narrow<T>(d * (widen(c[k]) * (f * (1 - f))) * on);
        dz[at + 2 * H] = narrow<T>(d * (i * (1 - g * g)) * on);
        dz[at + 3 * H] = narrow<T>(dh * (tanh_c * (o * (1 - o))) * on);
        dc[k] = narrow<T>(on == 1 ? d * f : d);
    }
}

// gates (T, N, 3H): on entry W_ih x + b_ih for r, z, n, on exit their values; recurrent (N, 3H) = W_hh h, to which b_hh
// (may be null) is still to be added; hn (T, N, H) gets W_hn h + b_hn, which the gradient needs. y and state as for the
// LSTM; h is null where it is y of step `before`.
template <typename T>
__global__ void gru_step(
    T* gates, const T* recurrent, const T* b_hh, const T* h, const int* lengths, int t, int before, int N, int H,
    T* hn, T* y, T* state
) {
    using A = Acc<T>;
    if (!h) h = step_of(y, before, N * H);
    gates = step_of(gates, t, N * 3 * H);
    hn = step_of(hn, t, N * H);
    y = step_of(y, t, N * H);
    FOR_EACH(k, N * H) {
        const int n = k / H, j = k % H;
        const size_t at = (size_t)n * 3 * H + j;
        const A u_r = widen(recurrent[at]) + (b_hh ? widen(b_hh[j]) : A(0));
        const A u_z = widen(recurrent[at + H]) + (b_hh ? widen(b_hh[j + H]) : A(0));
        const A u_n = widen(recurrent[at + 2 * H]) + (b_hh ? widen(b_hh[j + 2 * H]) : A(0));
        const A r = logistic(widen(gates[at]) + u_r), z = logistic(widen(gates[at + H]) + u_z);
        const A candidate = tanh(widen(gates[at + 2 * H]) + r * u_n);
        gates[at] = narrow<T>(r);
        gates[at + H] = narrow<T>(z);
        gates[at + 2 * H] = narrow<T>(candidate);
        hn[k] = narrow<T>(u_n);
        const bool ended = has_ended(lengths, n, t);
        const A out = candidate + z * (widen(h[k]) - candidate);
        y[k] = narrow<T>(out * A(!ended));
        if (state) state[k] = ended ? h[k] : narrow<T>(out);
    }
}

// later, gy as for the LSTM; dx (T, N, 3H) is the gradient for W_ih x + b_ih, dh (T, N, 3H) that for W_hh h + b_hh (they
// differ in the candidate, whose recurrent part r multiplies), and direct (N, H) the part of the gradient for the
// state before the step that does not come through W_hh.
template <typename T>
__global__ void gru_step_grad(
    const T* later, const T* gy, const T* gates, const T* hn, const T* h, const int* lengths, int t, int N, int H,
    T* dx, T* dh, T* direct
) {
    using A = Acc<T>;
    gates = step_of(gates, t, N * 3 * H);
    dx = step_of(dx, t, N * 3 * H);
    dh = step_of(dh, t, N * 3 * H);
    gy = step_of(gy, t, N * H);
    hn = step_of(hn, t, N * H);
    h = step_of(h, t, N * H);
    FOR_EACH(k, N * H) {
        const int n = k / H;
        const size_t at = (size_t)n * 3 * H + k % H;
        const A on = A(!has_ended(lengths, n, t));
        const A r = widen(gates[at]), z = widen(gates[at + H]), candidate = widen(gates[at + 2 * H]);
        const A total = widen(later[k]) + widen(gy[k]) * on;
        const A d_candidate = total * (1 - z) * (1 - candidate * candidate) * on;
        const A d_r = d_candidate * widen(hn[k]) * (r * (1 - r));
        const A d_z = total * (widen(h[k]) - candidate) * (z * (1 - z)) * on;
        dx[at] = dh[at] = narrow<T>(d_r);
        dx[at + H] = dh[at + H] = narrow<T>(d_z);
        dx[at + 2 * H] = narrow<T>(d_candidate);
        dh[at + 2 * H] = narrow<T>(d_candidate * r);
        direct[k] = narrow<T>(on == 1 ? total * z : total);
    }
}
