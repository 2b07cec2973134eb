// The normalizer of a softmax in one pass.

#include "common.cuh"

// The largest of some numbers, and the sum of exp(number - largest). Two such pairs combine into one, so that a row
// is read once for both (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, algorithm 3).
template <typename A> struct SoftmaxSum { A top, sum; };

template <typename A> __device__ inline SoftmaxSum<A> from_lane_xor(SoftmaxSum<A> x, int offset) {
    return {from_lane_xor(x.top, offset), from_lane_xor(x.sum, offset)};
}

struct OnlineSoftmax {
    template <typename A> __device__ static SoftmaxSum<A> combine(SoftmaxSum<A> x, SoftmaxSum<A> y) {
        const A top = nan_max(x.top, y.top);
        // exp(-inf - -inf) would be NaN where nothing but -inf has been seen yet
        const A from_x = x.top == top ? x.sum : x.sum * exp(x.top - top);
        const A from_y = y.top == top ? y.sum : y.sum * exp(y.top - top);
        return {top, from_x + from_y};
    }
};

// Over a row of n > 0 numbers, by the team. A row whose largest number is infinite has no softmax: its sum is NaN.
template <typename T> __device__ inline SoftmaxSum<Acc<T>> softmax_sum(const T* x, int n) {
    using A = Acc<T>;
    SoftmaxSum<A> mine = {-infinity<A>(), 0};
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        const A next = widen(x[j]);
        if (next <= mine.top || mine.top != mine.top) {
            mine.sum += next == mine.top ? A(1) : exp(next - mine.top);
        } else {
            mine = {next, mine.sum * exp(mine.top - next) + 1};
        }
    }
    mine = reduce_team<OnlineSoftmax>(mine);
    if (isinf(mine.top)) mine.sum = not_a_number<A>();
    return mine;
}
