// Runs CUDA kernels on the host: enough of CUDA C++ for the kernels of minidl_kernels/cupy to compile with g++ and to
// be run block after block, each thread a coroutine. A thread runs until it waits at a barrier; then the next one has
// its turn, in ascending or in descending order. A kernel that gives different results in the two orders lacks a
// barrier.
//
// fake_cupy.py generates the rest of the program: the kernels, and the list of those to call.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __shared__ static  // blocks run one after the other
#define __restrict__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

using std::exp;
using std::expm1;
using std::fabs;
using std::isinf;
using std::log;
using std::log1p;
using std::sqrt;
using std::tanh;
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __fmul_rn(float x, float y) { volatile float p = x * y; return p; }  // never fused with a sum
inline double __dmul_rn(double x, double y) { volatile double p = x * y; return p; }
inline double normcdf(double x) { return 0.5 * std::erfc(x * -0.70710678118654752440); }
inline float normcdff(float x) { return (float)normcdf(x); }

struct dim3 { unsigned x = 1, y = 1, z = 1; };

// Half precisions, kept as their bits

struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };

inline float __bfloat162float(__nv_bfloat16 h) {
    const uint32_t u = (uint32_t)h.bits << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}

inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if (f != f) return {0x7fff};
    return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};  // to nearest, ties to even
}

inline float __half2float(__half h) {
    const int exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
    const float sign = h.bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24));
}

inline __half __float2half_rn(float f) {
    const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
    const float a = std::fabs(f);
    if (a != a) return {0x7fff};
    if (a == 0) return {sign};
    if (a >= 65520.0f) return {(uint16_t)(sign | 0x7c00)};  // rounds to infinity
    int exponent;
    std::frexp(a, &exponent);
    // the spacing of half numbers at a; nearbyint rounds to nearest, ties to even
    const int spacing = exponent - 11 < -24 ? -24 : exponent - 11;
    const int steps = (int)std::nearbyint(std::ldexp(a, -spacing));
    if (spacing == -24) return {(uint16_t)(sign | steps)};  // a subnormal (or what it rounds up to)
    // steps is 1024..2048, and 2048 carries into the exponent as it should
    return {(uint16_t)(sign | (((spacing + 25) << 10) + steps - 1024))};
}

// Coroutines

namespace host_cuda {

struct Thread {
    jmp_buf place;
    dim3 index;
    int number = 0;
    bool started = false, finished = false;
    char* stack = nullptr;
};

// A barrier for `needed` threads. Who comes last lets the others go.
struct Barrier { unsigned arrived = 0, generation = 0; };

struct Block {
    std::vector<Thread> threads;
    unsigned alive = 0;
    Barrier barrier;
    std::vector<Barrier> of_warp;
    std::vector<uint64_t> slots;  // what threads show to others of their warp
    unsigned long progress = 0;
    const char* error = nullptr;
};

inline Block block;
inline Thread* current;
inline jmp_buf scheduler;
inline ucontext_t scheduler_context;
inline void (*body)(void*);
inline void* body_argument;
inline dim3 block_index, block_size, grid_size;

constexpr size_t STACK = 1 << 16;

inline void leave() {
    if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

inline void wait(Barrier& barrier, unsigned needed) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == needed) {
        barrier.arrived = 0;
        ++barrier.generation;
        ++block.progress;
        return;
    }
    while (barrier.generation == generation) leave();
}

inline void entry() {
    for (;;) {
        body(body_argument);
        current->finished = true;
        leave();  // and come back for the next block
    }
}

inline void resume(Thread& t) {
    current = &t;
    if (t.stack == nullptr) {  // first time: a context with a stack of its own
        t.stack = (char*)std::malloc(STACK);
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = t.stack;
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
        if (_setjmp(scheduler) == 0) setcontext(&context);
        return;
    }
    if (_setjmp(scheduler) == 0) _longjmp(t.place, 1);
}

inline void forget_threads() {
    for (Thread& t : block.threads) std::free(t.stack);
    block.threads.clear();
}

// Run all threads of one block; false if they wait for each other for ever.
inline bool run_block(bool descending) {
    const unsigned count = block_size.x * block_size.y * block_size.z;
    if (block.threads.size() < count) {
        forget_threads();
        block.threads.resize(count);
    }
    const unsigned warps = (count + 31) / 32;
    block.alive = count;
    block.barrier = Barrier();
    block.of_warp.assign(warps, Barrier());
    block.slots.assign(warps * 32, 0);
    for (unsigned i = 0; i < count; ++i) {
        Thread& t = block.threads[i];
        t.number = i;
        t.index.x = i % block_size.x;
        t.index.y = i / block_size.x % block_size.y;
        t.index.z = i / block_size.x / block_size.y;
        t.finished = false;
    }
    while (block.alive) {
        const unsigned long before = block.progress;
        for (unsigned k = 0; k < count; ++k) {
            Thread& t = block.threads[descending ? count - 1 - k : k];
            if (t.finished) continue;
            resume(t);
            if (block.error) break;
            if (t.finished) {
                --block.alive;
                ++block.progress;
                if (block.barrier.arrived) block.error = "a thread ended while others wait at __syncthreads";
            }
        }
        if (!block.error && block.progress == before) block.error = "threads wait at barriers that others never reach";
        if (block.error) {
            forget_threads();
            return false;
        }
    }
    return true;
}

inline int lane() { return current->number % 32; }
inline int warp() { return current->number / 32; }

inline void sync_warp(unsigned mask) {
    if (!(mask >> lane() & 1)) block.error = "a warp function's mask lacks the thread that calls it";
    wait(block.of_warp[warp()], __builtin_popcount(mask));
}

// Show x to the lanes of the mask, and look at what lane `from` shows.
template <typename T> T exchange(unsigned mask, T x, int from) {
    static_assert(sizeof(T) <= 8);
    uint64_t* slots = &block.slots[warp() * 32];
    std::memcpy(&slots[lane()], &x, sizeof(T));
    sync_warp(mask);
    if (!(mask >> from & 1)) block.error = "a shuffle reads a lane that is not in its mask";
    T y;
    std::memcpy(&y, &slots[from], sizeof(T));
    sync_warp(mask);
    return y;
}

}  // namespace host_cuda

#define threadIdx (host_cuda::current->index)
#define blockIdx (host_cuda::block_index)
#define blockDim (host_cuda::block_size)
#define gridDim (host_cuda::grid_size)

inline void __syncthreads() { host_cuda::wait(host_cuda::block.barrier, (unsigned)host_cuda::block.alive); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { host_cuda::sync_warp(mask); }
template <typename T> T __shfl_xor_sync(unsigned mask, T x, int offset, int width = 32) {
    (void)width;
    return host_cuda::exchange(mask, x, host_cuda::lane() ^ offset);
}
template <typename T> T __shfl_sync(unsigned mask, T x, int from) { return host_cuda::exchange(mask, x, from); }

inline unsigned __ballot_sync(unsigned mask, bool yes) {
    unsigned votes = 0;
    for (int from = 0; from < 32; ++from) {
        if (mask >> from & 1) votes |= (unsigned)host_cuda::exchange(mask, (int)yes, from) << from;
    }
    return votes;
}
inline bool __any_sync(unsigned mask, bool yes) { return __ballot_sync(mask, yes) != 0; }
inline bool __all_sync(unsigned mask, bool yes) { return __ballot_sync(mask, yes) == mask; }
template <typename T> unsigned __match_any_sync(unsigned mask, T x) {
    unsigned same = 0;
    for (int from = 0; from < 32; ++from) {
        if (mask >> from & 1) same |= (unsigned)(host_cuda::exchange(mask, x, from) == x) << from;
    }
    return same;
}

// Kernels as data: what arguments they take, and how to call them

namespace host_cuda {

template <typename T> std::string type_code() {
    if constexpr (std::is_pointer_v<T>) {
        using E = std::remove_pointer_t<T>;
        return (std::is_const_v<E> ? "c" : "p") + type_code<std::remove_const_t<E>>();
    } else if constexpr (std::is_same_v<T, float>) return "float32";
    else if constexpr (std::is_same_v<T, double>) return "float64";
    else if constexpr (std::is_same_v<T, __half>) return "float16";
    else if constexpr (std::is_same_v<T, __nv_bfloat16>) return "bfloat16";
    else if constexpr (std::is_same_v<T, bool>) return "bool";
    else {
        static_assert(std::is_integral_v<T>);
        return (std::is_signed_v<T> ? "int" : "uint") + std::to_string(8 * sizeof(T));
    }
}

struct Kernel {
    const char* name;
    std::string signature;
    void (*call)(void**);
};

template <auto Function> struct Call;
template <typename... A, void (*Function)(A...)> struct Call<Function> {
    template <size_t... I> static void unpack(void** args, std::index_sequence<I...>) {
        Function(*static_cast<std::remove_const_t<A>*>(args[I])...);
    }
    static void run(void** args) { unpack(args, std::index_sequence_for<A...>()); }
    static Kernel kernel(const char* name) {
        std::string signature;
        ((signature += type_code<std::remove_const_t<A>>() + " "), ...);
        return {name, signature, run};
    }
};

std::vector<Kernel>& kernels();  // the generated part of the program defines it

}  // namespace host_cuda

extern "C" {
inline __attribute__((used)) int host_cuda_count() { return (int)host_cuda::kernels().size(); }
inline __attribute__((used)) const char* host_cuda_name(int i) { return host_cuda::kernels()[i].name; }
inline __attribute__((used)) const char* host_cuda_signature(int i) {
    return host_cuda::kernels()[i].signature.c_str();
}

// null, or what went wrong
inline __attribute__((used)) const char* host_cuda_launch(
    int i, const unsigned* grid, const unsigned* size, void** args, int descending
) {
    using namespace host_cuda;
    struct Job { void (*call)(void**); void** args; } job = {kernels()[i].call, args};
    body = [](void* p) { ((Job*)p)->call(((Job*)p)->args); };
    body_argument = &job;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {size[0], size[1], size[2]};
    block.error = nullptr;
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned k = 0; k < blocks; ++k) {
        const unsigned b = descending ? blocks - 1 - k : k;
        block_index = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (!run_block(descending)) return block.error;
    }
    return nullptr;
}
}
