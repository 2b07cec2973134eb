// What all kernels share: element types, sums over a row, random bits.
//
// Kernels are templates over the type T in which elements are stored: float, double, __half or __nv_bfloat16. They
// compute in Acc<T>: float for the half precisions, T itself for the others. Indices are ints: the Python side gives
// no more than 2^30 elements to a kernel.

#ifdef USE_FP16
#include <cuda_fp16.h>
#endif
#ifdef USE_BF16
#include <cuda_bf16.h>
#endif

template <typename T> struct AccOf { using type = float; };
template <> struct AccOf<double> { using type = double; };
template <typename T> using Acc = typename AccOf<T>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }

template <typename T> struct Narrow {
    __device__ static T from(Acc<T> x) { return x; }
};
#ifdef USE_FP16
__device__ inline float widen(__half x) { return __half2float(x); }
template <> struct Narrow<__half> {
    __device__ static __half from(float x) { return __float2half_rn(x); }
};
#endif
#ifdef USE_BF16
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
template <> struct Narrow<__nv_bfloat16> {
    __device__ static __nv_bfloat16 from(float x) { return __float2bfloat16_rn(x); }
};
#endif
// x rounded to the type in which it is stored
template <typename T> __device__ inline T narrow(Acc<T> x) { return Narrow<T>::from(x); }

// x y, rounded: the compiler does not fuse it with a sum, so equal products cancel.
__device__ inline float product(float x, float y) { return __fmul_rn(x, y); }
__device__ inline double product(double x, double y) { return __dmul_rn(x, y); }

// Each thread of the grid takes elements i, i + (threads in the grid), ... so that any number of blocks covers any n.
#define FOR_EACH(i, n) \
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += gridDim.x * blockDim.x)

// The same for short bodies that write only to what they do not read (__restrict__): the elements of some rounds are
// read at once.
#define FOR_EACH_OF_FEW(i, n) _Pragma("unroll 4") FOR_EACH(i, n)

// Four neighbours, read or written at once where they are aligned.
template <typename T> struct alignas(4 * sizeof(T)) Four { T of[4]; };
template <typename T> __device__ inline bool in_fours(const T* x) { return (size_t)x % sizeof(Four<T>) == 0; }

// NumPy's maximum and minimum: NaN wins (CUDA's fmax drops it).
template <typename A> __device__ inline A nan_max(A x, A y) { return x > y || x != x ? x : y; }
template <typename A> __device__ inline A nan_min(A x, A y) { return x < y || x != x ? x : y; }

template <typename A> __device__ inline A infinity() { return -log(A(0)); }  // (NVRTC has no <limits>)
template <typename A> __device__ inline A not_a_number() { return infinity<A>() - infinity<A>(); }

// Rows.
//
// Kernels over the rows of a matrix give each row blockDim.x threads, a "team": either one warp (blockDim.x = 32, and
// blockDim.y rows per block), which can talk through registers, or a whole block (blockDim.y = 1), whose warps talk
// through shared memory. A team leaves the kernel together, so nobody waits for a thread that is gone.

__device__ inline int row_of_team() { return blockIdx.x * blockDim.y + threadIdx.y; }

struct Sum {
    template <typename A> __device__ static A combine(A x, A y) { return x + y; }
};

template <typename A> __device__ inline A from_lane_xor(A x, int offset) {
    return __shfl_xor_sync(0xffffffffu, x, offset);
}

// The combination (by Op) of the values of all threads of a team, given to each of them. The order is always the
// same, so the result is, too.
template <typename Op, typename A> __device__ inline A reduce_team(A x) {
    for (int offset = 16; offset > 0; offset /= 2) x = Op::combine(x, from_lane_xor(x, offset));
    if (blockDim.x > 32) {
        __shared__ A of_warp[32];
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
        __syncthreads();
        x = of_warp[0];
        for (int w = 1; w < blockDim.x / 32; ++w) x = Op::combine(x, of_warp[w]);
        __syncthreads();  // of_warp is used again by the next reduction
    }
    return x;
}

template <typename A> __device__ inline A sum_team(A x) { return reduce_team<Sum>(x); }

// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): ten rounds turn a counter
// and a key into four random words. Word i of the stream of a key is word i % 4 of the block with counter i / 4.

typedef unsigned long long u64;
struct PhiloxBlock { unsigned word[4]; };

__device__ inline PhiloxBlock philox(u64 counter, u64 key) {
    unsigned c0 = (unsigned)counter, c1 = (unsigned)(counter >> 32), c2 = 0, c3 = 0;
    unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Is the element kept whose random word this is? threshold = round(p * 2^24) for the probability p of being dropped.
__device__ inline bool is_kept(unsigned word, unsigned threshold) { return (word >> 8) >= threshold; }
