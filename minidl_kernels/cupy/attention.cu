// Scaled dot-product attention without the (L, S) matrix of scores: Dao et al., "FlashAttention", 2022, algorithm 1,
// and its gradient as in Dao, "FlashAttention-2", 2023, section 3.1. Names, and the meaning of lse and of the dropout
// mask, are those of minidl/ops/attention.py.
//
// q (B, H, L, E), k (B, KVH, S, E), v (B, KVH, S, EV), where each head of k and v serves H / KVH heads of q. A block
// of 16 x 16 threads works on a tile of queries by keys at a time. The tiles of q, k, v are in shared memory, from
// which 16 bytes are read at a time. Of the products of the rows of two tiles, thread (tx, ty) has those of rows ty,
// ty + 16, ... of the first with tx, tx + 16, ... of the second, so that an element it has read takes part in several;
// the 16 threads of a row are neighbours in a warp, and take its maximum and sum among themselves.

#include "common.cuh"

// 16 bytes
template <typename A> struct alignas(16) Pack {
    static constexpr int N = 16 / sizeof(A);
    A of[N];
    __device__ static const Pack& at(const A* x) { return *reinterpret_cast<const Pack*>(x); }
};

// The widest E and EV, and the tiles that then fit into shared memory (48 KiB a block).
template <typename T, bool Wide> struct Tiling {
    static constexpr int WIDTH = Wide && sizeof(Acc<T>) == 4 ? 128 : 64;
    static constexpr bool LARGE = WIDTH * sizeof(Acc<T>) <= 256;
    static constexpr int QUERIES = LARGE ? 64 : 32, KEYS = 32;  // forward
    static constexpr int TILE = LARGE ? 32 : 16;                // backward, of both
    static constexpr int C = WIDTH / 16;                        // columns of q, k, v or out that a thread has
};

// Rows are a pack longer than they need be, and so lie in different banks of the shared memory.
#define TILE_OF(name, rows, columns) __shared__ __align__(16) Acc<T> name[rows][columns + Pack<Acc<T>>::N]

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
__device__ inline void load_tile(Acc<T> (*tile)[WIDTH + Pack<Acc<T>>::N], const T* x, int first, int rows, int width) {
    for (int i = threadIdx.y * 16 + threadIdx.x; i < TILE * WIDTH; i += 256) {
        const int r = i / WIDTH, c = i % WIDTH;
        tile[r][c] = first + r < rows && c < width ? widen(x[(size_t)(first + r) * width + c]) : Acc<T>(0);
    }
}

template <int R, int C, typename A> __device__ inline void clear(A (&x)[R][C]) {
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) x[r][c] = 0;
    }
}

// out[r][c] = row ty + 16 r of a times row tx + 16 c of b, of which the first n columns are not all 0.
template <int R, int C, int STRIDE, typename A>
__device__ inline void multiply(const A (*a)[STRIDE], const A (*b)[STRIDE], int n, A (&out)[R][C]) {
    clear(out);
    for (int e = 0; e < n; e += Pack<A>::N) {
        Pack<A> x[R], y[C];
        #pragma unroll
        for (int r = 0; r < R; ++r) x[r] = Pack<A>::at(&a[threadIdx.y + 16 * r][e]);
        #pragma unroll
        for (int c = 0; c < C; ++c) y[c] = Pack<A>::at(&b[threadIdx.x + 16 * c][e]);
        #pragma unroll
        for (int k = 0; k < Pack<A>::N; ++k) {
            #pragma unroll
            for (int r = 0; r < R; ++r) {
                #pragma unroll
                for (int c = 0; c < C; ++c) out[r][c] += x[r].of[k] * y[c].of[k];
            }
        }
    }
}

// Which column of a row of q, k, v or out is a thread's number c: packs of neighbours.
template <typename A> __device__ inline int column_of(int c) {
    constexpr int N = Pack<A>::N;
    return c / N * 16 * N + threadIdx.x * N + c % N;
}

// sum[r][c] += row ty + 16 r of weights (rows of N) times the columns of b that this thread has.
template <int N, int R, int C, int WIDTH, int STRIDE, typename A>
__device__ inline void add_weighted(const A (*weights)[WIDTH], const A (*b)[STRIDE], A (&sum)[R][C]) {
    for (int j = 0; j < N; j += Pack<A>::N) {
        Pack<A> w[R];
        #pragma unroll
        for (int r = 0; r < R; ++r) w[r] = Pack<A>::at(&weights[threadIdx.y + 16 * r][j]);
        #pragma unroll
        for (int k = 0; k < Pack<A>::N; ++k) {
            #pragma unroll
            for (int c = 0; c < C; c += Pack<A>::N) {
                const Pack<A> x = Pack<A>::at(&b[j + k][column_of<A>(c)]);
                #pragma unroll
                for (int r = 0; r < R; ++r) {
                    #pragma unroll
                    for (int i = 0; i < Pack<A>::N; ++i) sum[r][c + i] += w[r].of[k] * x.of[i];
                }
            }
        }
    }
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

// out = softmax(scores) v and lse, the log of the sum of the exponentials of each row. A block has QUERIES, and goes
// through the keys with a running maximum and sum.
template <typename T, bool Wide>
__global__ void attention(const T* q, const T* k, const T* v, T* out, Acc<T>* lse, ATTENTION_PARAMETERS) {
    using A = Acc<T>;
    using Size = Tiling<T, Wide>;
    constexpr int QUERIES = Size::QUERIES, KEYS = Size::KEYS, WIDTH = Size::WIDTH, R = QUERIES / 16, C = Size::C;
    TILE_OF(q_tile, QUERIES, WIDTH);
    TILE_OF(kv_tile, KEYS, WIDTH);
    TILE_OF(p_tile, QUERIES, KEYS);
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int tiles = (L + QUERIES - 1) / QUERIES, head = blockIdx.x / tiles, first_l = blockIdx.x % tiles * QUERIES;
    const int kv_head = head / H * KVH + head % H / (H / KVH);
    const Scores<T> scores(head, ATTENTION_ARGUMENTS);
    k += (size_t)kv_head * S * E;
    v += (size_t)kv_head * S * EV;
    load_tile<QUERIES, WIDTH>(q_tile, q + (size_t)head * L * E, first_l, L, E);

    A top[R], total[R], acc[R][C], s[R][KEYS / 16];
    clear(acc);
    for (int r = 0; r < R; ++r) {
        top[r] = -infinity<A>();
        total[r] = 0;
    }
    // with a causal mask, tiles of keys that are all later than these queries count for nothing
    for (int first_s = 0; first_s < S && !(causal && first_s >= first_l + QUERIES); first_s += KEYS) {
        __syncthreads();  // everybody is done with the tiles of the round before
        load_tile<KEYS, WIDTH>(kv_tile, k, first_s, S, E);
        __syncthreads();
        multiply(q_tile, kv_tile, E, s);
        for (int r = 0; r < R; ++r) {
            const int l = first_l + ty + 16 * r;
            A largest = -infinity<A>();
            for (int c = 0; c < KEYS / 16; ++c) {
                s[r][c] = scores(s[r][c], l, first_s + tx + 16 * c);
                largest = nan_max(largest, s[r][c]);
            }
            const A new_top = nan_max(top[r], reduce_row<Maximum>(largest)), shift = shift_for(new_top);
            const A correction = exp(top[r] - shift);  // of what was added up relative to the old maximum
            A sum = 0;
            for (int c = 0; c < KEYS / 16; ++c) {
                const A p = exp(s[r][c] - shift);
                sum += p;
                p_tile[ty + 16 * r][tx + 16 * c] = p * scores.kept(l, first_s + tx + 16 * c);
            }
            total[r] = total[r] * correction + reduce_row<Sum>(sum);
            for (int c = 0; c < C; ++c) acc[r][c] *= correction;
            top[r] = new_top;
        }
        __syncthreads();  // everybody is done with the keys; the values take their place
        load_tile<KEYS, WIDTH>(kv_tile, v, first_s, S, EV);
        __syncthreads();
        add_weighted<KEYS>(p_tile, kv_tile, acc);
    }
    for (int r = 0; r < R; ++r) {
        const int l = first_l + ty + 16 * r;
        if (l >= L) continue;
        const size_t row = (size_t)head * L + l;
        const bool empty = total[r] == 0;
        for (int c = 0; c < C; ++c) {
            const int e = column_of<A>(c);
            if (e < EV) out[row * EV + e] = narrow<T>(acc[r][c] / (empty ? A(1) : total[r]));
        }
        if (tx == 0) lse[row] = empty ? -infinity<A>() : log(total[r]) + shift_for(top[r]);
    }
}

// What the gradient of the scores needs of each row: delta = sum(g out) - g_lse. One warp per row.
template <typename T>
__global__ void attention_delta(const T* g, const T* out, const Acc<T>* g_lse, int rows, int EV, Acc<T>* delta) {
    const int row = row_of_team();
    if (row >= rows) return;
    Acc<T> sum = 0;
    for (int e = threadIdx.x; e < EV; e += 32) sum += widen(g[(size_t)row * EV + e]) * widen(out[(size_t)row * EV + e]);
    sum = sum_team(sum);
    if (threadIdx.x == 0) delta[row] = sum - g_lse[row];
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
    constexpr int TILE = Size::TILE, WIDTH = Size::WIDTH, R = TILE / 16, C = Size::C;
    TILE_OF(k_tile, TILE, WIDTH);
    TILE_OF(v_tile, TILE, WIDTH);
    TILE_OF(q_tile, TILE, WIDTH);
    TILE_OF(g_tile, TILE, WIDTH);
    TILE_OF(p_tile, TILE, TILE);  // [key][query]
    TILE_OF(d_tile, TILE, TILE);
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int tiles = (S + TILE - 1) / TILE, kv_head = blockIdx.x / tiles, first_s = blockIdx.x % tiles * TILE;
    load_tile<TILE, WIDTH>(k_tile, k + (size_t)kv_head * S * E, first_s, S, E);
    load_tile<TILE, WIDTH>(v_tile, v + (size_t)kv_head * S * EV, first_s, S, EV);
    A dk_sum[R][C], dv_sum[R][C], kq[R][R], vg[R][R];
    clear(dk_sum);
    clear(dv_sum);
    for (int served = 0; served < H / KVH; ++served) {
        const int head = kv_head / KVH * H + kv_head % KVH * (H / KVH) + served;
        const Scores<T> scores(head, ATTENTION_ARGUMENTS);
        for (int first_l = causal ? first_s : 0; first_l < L; first_l += TILE) {
            __syncthreads();
            load_tile<TILE, WIDTH>(q_tile, q + (size_t)head * L * E, first_l, L, E);
            load_tile<TILE, WIDTH>(g_tile, g + (size_t)head * L * EV, first_l, L, EV);
            __syncthreads();
            multiply(k_tile, q_tile, E, kq);
            multiply(v_tile, g_tile, EV, vg);
            for (int c = 0; c < R; ++c) {
                const int j = tx + 16 * c, l = first_l + j;
                const size_t row = (size_t)head * L + min(l, L - 1);  // scores() hides the rows from L on
                for (int r = 0; r < R; ++r) {
                    const int i = ty + 16 * r;
                    const Entry<T> entry(scores, kq[r][c], vg[r][c], lse[row], delta[row], l, first_s + i);
                    p_tile[i][j] = entry.kept;
                    d_tile[i][j] = entry.dscore;
                }
            }
            __syncthreads();
            add_weighted<TILE>(p_tile, g_tile, dv_sum);
            add_weighted<TILE>(d_tile, q_tile, dk_sum);
        }
    }
    for (int r = 0; r < R; ++r) {
        const int s = first_s + ty + 16 * r;
        if (s >= S) continue;
        const size_t row = (size_t)kv_head * S + s;
        for (int c = 0; c < C; ++c) {
            const int e = column_of<A>(c);
            if (e < E) dk[row * E + e] = narrow<T>(dk_sum[r][c] * scale);
            if (e < EV) dv[row * EV + e] = narrow<T>(dv_sum[r][c]);
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
    constexpr int TILE = Size::TILE, WIDTH = Size::WIDTH, R = TILE / 16, C = Size::C;
    TILE_OF(k_tile, TILE, WIDTH);
    TILE_OF(v_tile, TILE, WIDTH);
    TILE_OF(q_tile, TILE, WIDTH);
    TILE_OF(g_tile, TILE, WIDTH);
    TILE_OF(d_tile, TILE, TILE);  // [query][key]
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int tiles = (L + TILE - 1) / TILE, head = blockIdx.x / tiles, first_l = blockIdx.x % tiles * TILE;
    const int kv_head = head / H * KVH + head % H / (H / KVH);
    const Scores<T> scores(head, ATTENTION_ARGUMENTS);
    load_tile<TILE, WIDTH>(q_tile, q + (size_t)head * L * E, first_l, L, E);
    load_tile<TILE, WIDTH>(g_tile, g + (size_t)head * L * EV, first_l, L, EV);
    A sum[R][C], qk[R][R], gv[R][R];
    clear(sum);
    for (int first_s = 0; first_s < S && !(causal && first_s >= first_l + TILE); first_s += TILE) {
        __syncthreads();
        load_tile<TILE, WIDTH>(k_tile, k + (size_t)kv_head * S * E, first_s, S, E);
        load_tile<TILE, WIDTH>(v_tile, v + (size_t)kv_head * S * EV, first_s, S, EV);
        __syncthreads();
        multiply(q_tile, k_tile, E, qk);
        multiply(g_tile, v_tile, EV, gv);
        for (int r = 0; r < R; ++r) {
            const int i = ty + 16 * r, l = first_l + i;
            const size_t row = (size_t)head * L + min(l, L - 1);
            for (int c = 0; c < R; ++c) {
                const int j = tx + 16 * c;
                d_tile[i][j] = Entry<T>(scores, qk[r][c], gv[r][c], lse[row], delta[row], l, first_s + j).dscore;
            }
        }
        __syncthreads();
        add_weighted<TILE>(d_tile, k_tile, sum);
    }
    for (int r = 0; r < R; ++r) {
        const int l = first_l + ty + 16 * r;
        if (l >= L) continue;
        for (int c = 0; c < C; ++c) {
            const int e = column_of<A>(c);
            if (e < E) dq[((size_t)head * L + l) * E + e] = narrow<T>(sum[r][c] * scale);
        }
    }
}
