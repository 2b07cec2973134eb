// Scaled dot-product attention without the (L, S) matrix of scores: Dao et al., "FlashAttention", 2022, algorithm 1,
// and its gradient as in Dao, "FlashAttention-2", 2023, section 3.1. Names, and the meaning of lse and of the dropout
// mask, are those of minidl/ops/attention.py.
//
// q (B, H, L, E), k (B, KVH, S, E), v (B, KVH, S, EV), where each head of k and v serves H / KVH heads of q. A block
// of 16 x 16 threads works on a tile of TILE queries by TILE keys at a time. The tiles of q, k, v are in shared
// memory, so that an element fetched once takes part in TILE products. In a tile, thread (tx, ty) has rows ty, ty +
// 16, ... and columns tx, tx + 16, ...; the 16 threads of a row are neighbours in a warp, and take its maximum and
// sum among themselves.

#include "common.cuh"

// The widest E and EV, and the tile that then fits into shared memory (48 KiB a block).
template <typename T, bool Wide> struct Tiling {
    static constexpr int WIDTH = Wide && sizeof(Acc<T>) == 4 ? 128 : 64;
    static constexpr int TILE = WIDTH * sizeof(Acc<T>) <= 256 ? 32 : 16;
    static constexpr int R = TILE / 16;   // rows (and columns) of a tile that a thread has
    static constexpr int C = WIDTH / 16;  // columns of q, k, v or out that a thread has
};

// + 1: the rows of a column lie in different banks of the shared memory
#define TILE_OF(name, columns) __shared__ Acc<T> name[Tiling<T, Wide>::TILE][Tiling<T, Wide>::columns + 1]

#define ATTENTION_PARAMETERS \
    int H, int KVH, int L, int S, int E, int EV, bool causal, Acc<T> scale, const bool* allowed, const T* bias, \
    int mask_b, int mask_h, int mask_l, int mask_s, unsigned threshold, Acc<T> keep_scale, u64 key, u64 offset
#define ATTENTION_ARGUMENTS \
    H, KVH, L, S, E, EV, causal, scale, allowed, bias, mask_b, mask_h, mask_l, mask_s, threshold, keep_scale, key, \
    offset

// What one head's scores depend on. The mask, boolean (allowed) or added (bias) or neither, has a stride for each
// axis of (B, H, L, S), 0 where it broadcasts.
template <typename T> struct Scores {
    int L, S;
    bool causal;
    Acc<T> scale;
    const bool* allowed;
    const T* bias;
    int mask_l, mask_s;
    unsigned threshold;
    Acc<T> keep_scale;
    u64 key, first_word;

    __device__ Scores(int batch_and_head, ATTENTION_PARAMETERS)
        : L(L), S(S), causal(causal), scale(scale), allowed(allowed), bias(bias), mask_l(mask_l), mask_s(mask_s),
          threshold(threshold), keep_scale(keep_scale), key(key), first_word(offset + (u64)batch_and_head * L * S) {
        const size_t of_head = (size_t)(batch_and_head / H) * mask_b + (size_t)(batch_and_head % H) * mask_h;
        if (allowed) this->allowed += of_head;
        if (bias) this->bias += of_head;
    }

    // the score of query l and key s, given q . k
    __device__ Acc<T> operator()(Acc<T> product, int l, int s) const {
        if (l >= L || s >= S || (causal && s > l)) return -infinity<Acc<T>>();
        const size_t at = (size_t)l * mask_l + (size_t)s * mask_s;
        if (allowed) return allowed[at] ? product * scale : -infinity<Acc<T>>();
        return bias ? product * scale + widen(bias[at]) : product * scale;
    }

    // the element of the dropout mask: 0, or 1 / (1 - p)
    __device__ Acc<T> kept(int l, int s) const {
        if (threshold == 0) return keep_scale;
        const u64 word = first_word + (u64)l * S + s;
        return is_kept(philox(word / 4, key).word[word % 4], threshold) ? keep_scale : Acc<T>(0);
    }
};

// Rows first, first + 1, ... of x (rows, width) into a tile, zeros where there are none. All 256 threads.
template <int TILE, int WIDTH, typename T>
__device__ inline void load_tile(Acc<T> (*tile)[WIDTH + 1], const T* x, int first, int rows, int width) {
    for (int i = threadIdx.y * 16 + threadIdx.x; i < TILE * WIDTH; i += 256) {
        const int r = i / WIDTH, c = i % WIDTH;
        tile[r][c] = first + r < rows && c < width ? widen(x[(size_t)(first + r) * width + c]) : Acc<T>(0);
    }
}

template <typename A> __device__ inline A dot(const A* x, const A* y, int n) {
    A sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i] * y[i];
    return sum;
}

struct Maximum {
    template <typename A> __device__ static A combine(A x, A y) { return nan_max(x, y); }
};

// Over the 16 threads that share a row of the tile.
template <typename Op, typename A> __device__ inline A reduce_row(A x) {
    for (int step = 8; step > 0; step /= 2) x = Op::combine(x, from_lane_xor(x, step));
    return x;
}

// -inf is the maximum of a row of which nothing is visible; 0 in its place keeps exp(s - maximum) from being NaN.
template <typename A> __device__ inline A shift_for(A top) { return top == -infinity<A>() ? A(0) : top; }

// out = softmax(scores) v and lse, the log of the sum of the exponentials of each row; exact_lse is that before it is
// rounded to T. A block has TILE queries, and goes through the keys with a running maximum and sum. Null: not wanted.
template <typename T, bool Wide>
__global__ void attention(const T* q, const T* k, const T* v, T* out, T* lse, Acc<T>* exact_lse, ATTENTION_PARAMETERS) {
    using A = Acc<T>;
    using Size = Tiling<T, Wide>;
    constexpr int TILE = Size::TILE, WIDTH = Size::WIDTH;
    TILE_OF(q_tile, WIDTH);
    TILE_OF(kv_tile, WIDTH);
    TILE_OF(p_tile, TILE);
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int tiles = (L + TILE - 1) / TILE, head = blockIdx.x / tiles, first_l = blockIdx.x % tiles * TILE;
    const int kv_head = head / H * KVH + head % H / (H / KVH);
    const Scores<T> scores(head, ATTENTION_ARGUMENTS);
    k += (size_t)kv_head * S * E;
    v += (size_t)kv_head * S * EV;
    load_tile<TILE, WIDTH>(q_tile, q + (size_t)head * L * E, first_l, L, E);

    A top[Size::R], total[Size::R], acc[Size::R][Size::C];
    for (int r = 0; r < Size::R; ++r) {
        top[r] = -infinity<A>();
        total[r] = 0;
        for (int c = 0; c < Size::C; ++c) acc[r][c] = 0;
    }
    // with a causal mask, tiles of keys that are all later than these queries count for nothing
    for (int first_s = 0; first_s < S && !(causal && first_s >= first_l + TILE); first_s += TILE) {
        __syncthreads();  // everybody is done with the tiles of the round before
        load_tile<TILE, WIDTH>(kv_tile, k, first_s, S, E);
        __syncthreads();
        for (int r = 0; r < Size::R; ++r) {
            const int i = ty + 16 * r;
            A s[Size::R], largest = -infinity<A>();
            for (int c = 0; c < Size::R; ++c) {
                const int j = tx + 16 * c;
                s[c] = scores(dot(q_tile[i], kv_tile[j], E), first_l + i, first_s + j);
                largest = nan_max(largest, s[c]);
            }
            const A new_top = nan_max(top[r], reduce_row<Maximum>(largest)), shift = shift_for(new_top);
            const A correction = exp(top[r] - shift);  // of what was added up relative to the old maximum
            A sum = 0;
            for (int c = 0; c < Size::R; ++c) {
                const int j = tx + 16 * c;
                const A p = exp(s[c] - shift);
                sum += p;
                p_tile[i][j] = p * scores.kept(first_l + i, first_s + j);
            }
            total[r] = total[r] * correction + reduce_row<Sum>(sum);
            for (int c = 0; c < Size::C; ++c) acc[r][c] *= correction;
            top[r] = new_top;
        }
        if (!out) continue;
        __syncthreads();  // everybody is done with the keys; the values take their place
        load_tile<TILE, WIDTH>(kv_tile, v, first_s, S, EV);
        __syncthreads();
        for (int j = 0; j < TILE; ++j) {
            for (int r = 0; r < Size::R; ++r) {
                const A p = p_tile[ty + 16 * r][j];
                for (int c = 0; c < Size::C; ++c) acc[r][c] += p * kv_tile[j][tx + 16 * c];
            }
        }
    }
    for (int r = 0; r < Size::R; ++r) {
        const int l = first_l + ty + 16 * r;
        if (l >= L) continue;
        const size_t row = (size_t)head * L + l;
        const bool empty = total[r] == 0;
        for (int c = 0; c < Size::C; ++c) {
            const int e = tx + 16 * c;
            if (out && e < EV) out[row * EV + e] = narrow<T>(acc[r][c] / (empty ? A(1) : total[r]));
        }
        if (tx == 0) {
            const A value = empty ? -infinity<A>() : log(total[r]) + shift_for(top[r]);
            if (lse) lse[row] = narrow<T>(value);
            if (exact_lse) exact_lse[row] = value;
        }
    }
}

// What the gradient of the scores needs of each row: delta = sum(g out) - g_lse. One warp a row.
template <typename T>
__global__ void attention_delta(const T* g, const T* out, const T* g_lse, int rows, int EV, Acc<T>* delta) {
    const int row = row_of_team();
    if (row >= rows) return;
    Acc<T> sum = 0;
    for (int e = threadIdx.x; e < EV; e += 32) sum += widen(g[(size_t)row * EV + e]) * widen(out[(size_t)row * EV + e]);
    sum = sum_team(sum);
    if (threadIdx.x == 0) delta[row] = sum - widen(g_lse[row]);
}

// Probability of key s for query l, made again from lse; what dropout leaves of it; and the gradient of the score.
template <typename T> struct Entry {
    Acc<T> kept, dscore;
    __device__ Entry(const Scores<T>& scores, Acc<T> qk, Acc<T> gv, Acc<T> lse, Acc<T> delta, int l, int s) {
        const Acc<T> p = exp(scores(qk, l, s) - shift_for(lse)), z = scores.kept(l, s);
        kept = p * z;
        dscore = p * (gv * z - delta);
    }
};

// dk = scale transpose(dscores) q and dv = transpose(kept) g. A block has TILE keys and goes through the queries of
// all heads that they serve.
template <typename T, bool Wide>
__global__ void attention_grad_kv(
    const T* g, const T* q, const T* k, const T* v, const Acc<T>* lse, const Acc<T>* delta, T* dk, T* dv,
    ATTENTION_PARAMETERS
) {
    using A = Acc<T>;
    using Size = Tiling<T, Wide>;
    constexpr int TILE = Size::TILE, WIDTH = Size::WIDTH;
    TILE_OF(k_tile, WIDTH);
    TILE_OF(v_tile, WIDTH);
    TILE_OF(q_tile, WIDTH);
    TILE_OF(g_tile, WIDTH);
    TILE_OF(p_tile, TILE);
    TILE_OF(d_tile, TILE);
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int tiles = (S + TILE - 1) / TILE, kv_head = blockIdx.x / tiles, first_s = blockIdx.x % tiles * TILE;
    load_tile<TILE, WIDTH>(k_tile, k + (size_t)kv_head * S * E, first_s, S, E);
    load_tile<TILE, WIDTH>(v_tile, v + (size_t)kv_head * S * EV, first_s, S, EV);
    A dk_acc[Size::R][Size::C], dv_acc[Size::R][Size::C];
    for (int r = 0; r < Size::R; ++r) {
        for (int c = 0; c < Size::C; ++c) dk_acc[r][c] = dv_acc[r][c] = 0;
    }
    for (int served = 0; served < H / KVH; ++served) {
        const int head = kv_head / KVH * H + kv_head % KVH * (H / KVH) + served;
        const Scores<T> scores(head, ATTENTION_ARGUMENTS);
        for (int first_l = causal ? first_s : 0; first_l < L; first_l += TILE) {
            __syncthreads();
            load_tile<TILE, WIDTH>(q_tile, q + (size_t)head * L * E, first_l, L, E);
            load_tile<TILE, WIDTH>(g_tile, g + (size_t)head * L * EV, first_l, L, EV);
            __syncthreads();
            for (int r = 0; r < Size::R; ++r) {
                const int i = ty + 16 * r, l = first_l + i;
                const size_t row = (size_t)head * L + min(l, L - 1);  // scores() hides the rows from L on
                for (int c = 0; c < Size::R; ++c) {
                    const int j = tx + 16 * c;
                    const A qk = dot(q_tile[i], k_tile[j], E), gv = dot(g_tile[i], v_tile[j], EV);
                    const Entry<T> entry(scores, qk, gv, lse[row], delta[row], l, first_s + j);
                    p_tile[i][j] = entry.kept;
                    d_tile[i][j] = entry.dscore;
                }
            }
            __syncthreads();
            for (int i = 0; i < TILE; ++i) {
                for (int r = 0; r < Size::R; ++r) {
                    const A p = p_tile[i][ty + 16 * r], d = d_tile[i][ty + 16 * r];
                    for (int c = 0; c < Size::C; ++c) {
                        dv_acc[r][c] += p * g_tile[i][tx + 16 * c];
                        dk_acc[r][c] += d * q_tile[i][tx + 16 * c];
                    }
                }
            }
        }
    }
    for (int r = 0; r < Size::R; ++r) {
        const int s = first_s + ty + 16 * r;
        if (s >= S) continue;
        const size_t row = (size_t)kv_head * S + s;
        for (int c = 0; c < Size::C; ++c) {
            const int e = tx + 16 * c;
            if (e < E) dk[row * E + e] = narrow<T>(dk_acc[r][c] * scale);
            if (e < EV) dv[row * EV + e] = narrow<T>(dv_acc[r][c]);
        }
    }
}

// dq = scale dscores k. A block has TILE queries and goes through the keys.
template <typename T, bool Wide>
__global__ void attention_grad_q(
    const T* g, const T* q, const T* k, const T* v, const Acc<T>* lse, const Acc<T>* delta, T* dq, ATTENTION_PARAMETERS
) {
    using A = Acc<T>;
    using Size = Tiling<T, Wide>;
    constexpr int TILE = Size::TILE, WIDTH = Size::WIDTH;
    TILE_OF(k_tile, WIDTH);
    TILE_OF(v_tile, WIDTH);
    TILE_OF(q_tile, WIDTH);
    TILE_OF(g_tile, WIDTH);
    TILE_OF(d_tile, TILE);
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int tiles = (L + TILE - 1) / TILE, head = blockIdx.x / tiles, first_l = blockIdx.x % tiles * TILE;
    const int kv_head = head / H * KVH + head % H / (H / KVH);
    const Scores<T> scores(head, ATTENTION_ARGUMENTS);
    load_tile<TILE, WIDTH>(q_tile, q + (size_t)head * L * E, first_l, L, E);
    load_tile<TILE, WIDTH>(g_tile, g + (size_t)head * L * EV, first_l, L, EV);
    A acc[Size::R][Size::C];
    for (int r = 0; r < Size::R; ++r) {
        for (int c = 0; c < Size::C; ++c) acc[r][c] = 0;
    }
    for (int first_s = 0; first_s < S && !(causal && first_s >= first_l + TILE); first_s += TILE) {
        __syncthreads();
        load_tile<TILE, WIDTH>(k_tile, k + (size_t)kv_head * S * E, first_s, S, E);
        load_tile<TILE, WIDTH>(v_tile, v + (size_t)kv_head * S * EV, first_s, S, EV);
        __syncthreads();
        for (int r = 0; r < Size::R; ++r) {
            const int i = ty + 16 * r, l = first_l + i;
            const size_t row = (size_t)head * L + min(l, L - 1);
            for (int c = 0; c < Size::R; ++c) {
                const int j = tx + 16 * c;
                const A qk = dot(q_tile[i], k_tile[j], E), gv = dot(g_tile[i], v_tile[j], EV);
                d_tile[i][j] = Entry<T>(scores, qk, gv, lse[row], delta[row], l, first_s + j).dscore;
            }
        }
        __syncthreads();
        for (int j = 0; j < TILE; ++j) {
            for (int r = 0; r < Size::R; ++r) {
                const A d = d_tile[ty + 16 * r][j];
                for (int c = 0; c < Size::C; ++c) acc[r][c] += d * k_tile[j][tx + 16 * c];
            }
        }
    }
    for (int r = 0; r < Size::R; ++r) {
        const int l = first_l + ty + 16 * r;
        if (l >= L) continue;
        for (int c = 0; c < Size::C; ++c) {
            const int e = tx + 16 * c;
            if (e < E) dq[((size_t)head * L + l) * E + e] = narrow<T>(acc[r][c] * scale);
        }
    }
}
