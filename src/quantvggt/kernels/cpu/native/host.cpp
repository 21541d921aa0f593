#include "host.h"

#include <atomic>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "args.h"

namespace {

struct Work {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    int64_t tasks;
    void (*body)(void *, int64_t);
    void *arg;
};

void take_tasks(void *pointer) {
    Work &work = *static_cast<Work *>(pointer);
    // Not beyond here: the caller may be another thread, or C.
    try {
        for (int64_t task; !work.failed && (task = work.next.fetch_add(1)) < work.tasks;) work.body(work.arg, task);
    } catch (const std::bad_alloc &) {
        work.failed = true;
    }
}

struct Memory {
    void *memory = nullptr;
    size_t bytes = 0;
    ~Memory() { std::free(memory); }
};

using GompParallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

GompParallel pool = nullptr;

}  // namespace

// A second pool beside torch's would fight for its cores, so the pool is that of the OpenMP runtime that torch has
// loaded: its GOMP_parallel, or null. Without one threads are started for each call.
EXPORT void use_pool(void *parallel) { pool = reinterpret_cast<GompParallel>(parallel); }

void run_tasks(int64_t tasks, int64_t threads, void (*body)(void *, int64_t), void *arg) {
    Work work;
    work.tasks = tasks, work.body = body, work.arg = arg;
    if (threads > tasks) threads = tasks;
    if (threads <= 1) {
        take_tasks(&work);
    } else if (pool) {
        pool(take_tasks, &work, static_cast<unsigned>(threads), 0);
    } else {
        std::vector<std::thread> others;
        try {
            for (int64_t i = 1; i < threads; i++) others.emplace_back(take_tasks, &work);
        } catch (const std::exception &) {
            work.failed = true;
        }
        take_tasks(&work);
        for (auto &other : others) other.join();
    }
    if (work.failed) throw std::bad_alloc();
}

void *scratch(size_t bytes, Scratch whose) {
    static thread_local Memory both[2];
    Memory &mine = both[int(whose)];
    if (mine.bytes < bytes) {
        std::free(mine.memory);
        mine.memory = nullptr, mine.bytes = 0;
        const size_t whole = (bytes + 4095) / 4096 * 4096;
        if (posix_memalign(&mine.memory, 4096, whole)) {
            mine.memory = nullptr;
            throw std::bad_alloc();
        }
        mine.bytes = whole;
    }
    return mine.memory;
}

#if defined(__x86_64__)
namespace {

// Asked directly: what __builtin_cpu_supports knows depends on the compiler and its runtime library.
struct Cpu {
    unsigned seven_b = 0, seven_c = 0, seven_d = 0, seven_one_a = 0;
    bool ymm = false, zmm = false, tiles = false;  // the system saves these registers

    Cpu() {
        unsigned a, b, c, d;
        if (__get_cpuid(1, &a, &b, &c, &d) && c >> 27 & 1) {
            unsigned low, high;
            __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
            ymm = (low & 0x06) == 0x06, zmm = (low & 0xe6) == 0xe6;
            tiles = (low & 0x60000) == 0x60000;
        }
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        seven_b = b, seven_c = c, seven_d = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) seven_one_a = a;
    }
};

const Cpu &cpu() {
    static const Cpu once;
    return once;
}

}  // namespace

EXPORT int avx2_supported() { return cpu().ymm && cpu().seven_b >> 5 & 1; }
EXPORT int avxvnni_supported() { return avx2_supported() && cpu().seven_one_a >> 4 & 1; }
EXPORT int avx512vnni_supported() {
    const bool f = cpu().seven_b >> 16 & 1, dq = cpu().seven_b >> 17 & 1;
    const bool bw = cpu().seven_b >> 30 & 1, vl = cpu().seven_b >> 31 & 1;
    return cpu().zmm && f && dq && bw && vl && cpu().seven_c >> 11 & 1;
}
EXPORT int avx512bf16_supported() { return avx512vnni_supported() && cpu().seven_one_a >> 5 & 1; }

namespace {

// Linux saves AMX's large registers only for processes that have asked: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool request_tiles() {
#if defined(__linux__)
    return cpu().tiles && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}

// 1: usable; 0: this CPU lacks tiles or the products named by a bit of seven_d; -1: it could, but the system does not
// let it.
int tiles_supported(int products) {
    if (!avx512vnni_supported() || !(cpu().seven_d >> 24 & cpu().seven_d >> products & 1)) return 0;
    static const bool granted = request_tiles();
    return granted ? 1 : -1;
}

}  // namespace

#ifdef EMULATE_AMX
EXPORT int amx_supported() { return avx512vnni_supported(); }
EXPORT int amxbf16_supported() { return avx512bf16_supported(); }
#else
EXPORT int amx_supported() { return tiles_supported(25); }
EXPORT int amxbf16_supported() { return avx512bf16_supported() ? tiles_supported(22) : 0; }
#endif
#endif

#if defined(__aarch64__)
namespace {

// Linux tells by a bit of a word that the process starts with, macOS by a name; elsewhere nobody is asked.
bool arm_has(unsigned long word, int bit, const char *name) {
#if defined(__linux__)
    return (void)name, getauxval(word) >> bit & 1;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return (void)word, (void)bit, !sysctlbyname(name, &has, &size, nullptr, 0) && has;
#else
    return (void)word, (void)bit, (void)name, false;
#endif
}

constexpr unsigned long HWCAP = 16, HWCAP2 = 26;  // AT_HWCAP and AT_HWCAP2, which macOS lacks

}  // namespace

EXPORT int dotprod_supported() { return arm_has(HWCAP, 20, "hw.optional.arm.FEAT_DotProd"); }
EXPORT int i8mm_supported() { return arm_has(HWCAP2, 13, "hw.optional.arm.FEAT_I8MM"); }
EXPORT int neonbf16_supported() { return arm_has(HWCAP2, 14, "hw.optional.arm.FEAT_BF16"); }
#endif

// A new path says here whether it can run.
EXPORT int portable_supported() { return 1; }

EXPORT int RotateArgs_size() { return sizeof(RotateArgs); }
EXPORT int LinearArgs_size() { return sizeof(LinearArgs); }
EXPORT int DequantizeArgs_size() { return sizeof(DequantizeArgs); }
EXPORT int AttentionArgs_size() { return sizeof(AttentionArgs); }
