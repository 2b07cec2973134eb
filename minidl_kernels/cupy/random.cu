// Random bits and dropout: the bits of minidl/ops/random.py, word for word.

#include "common.cuh"

// Words offset, offset + 1, ... of the stream. A thread makes one Philox block: four words, of which those at either
// end may be outside.
__global__ void random_bits(unsigned* out, int n, u64 key, u64 offset) {
    const int blocks = (int)((offset % 4 + n + 3) / 4);
    FOR_EACH(i, blocks) {
        const PhiloxBlock block = philox(offset / 4 + i, key);
        for (int j = 0; j < 4; ++j) {
            const int at = 4 * i + j - (int)(offset % 4);
            if (at >= 0 && at < n) out[at] = block.word[j];
        }
    }
}

// Element i is kept, and multiplied by scale, where word offset + i says so. The mask is never stored: the backward
// pass is this kernel again, on the gradient.
template <typename T>
__global__ void dropout(const T* x, T* y, int n, u64 key, u64 offset, unsigned threshold, Acc<T> scale) {
    const int blocks = (int)((offset % 4 + n + 3) / 4);
    const bool fours = offset % 4 == 0 && in_fours(x) && in_fours(y);
    // multiplied by 0 and not set to 0, so that NaN stays NaN, as in the reference
    const auto dropped = [&](T x, unsigned word) {
        return narrow<T>(widen(x) * Acc<T>(is_kept(word, threshold)) * scale);
    };
    FOR_EACH(i, blocks) {
        const PhiloxBlock block = philox(offset / 4 + i, key);
        if (fours && 4 * i + 4 <= n) {
            Four<T> some = ((const Four<T>*)x)[i];
            for (int j = 0; j < 4; ++j) some.of[j] = dropped(some.of[j], block.word[j]);
            ((Four<T>*)y)[i] = some;
            continue;
        }
        for (int j = 0; j < 4; ++j) {
            const int at = 4 * i + j - (int)(offset % 4);
            if (at >= 0 && at < n) y[at] = dropped(x[at], block.word[j]);
        }
    }
}
