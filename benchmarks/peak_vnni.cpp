// The most int8 operations that one thread does: 24 independent sums in registers, nothing loaded or stored.
#include <cstdint>

extern "C" void peak(int64_t operations) {
    for (int64_t i = 0; i < operations / (24 * 128); i++)
        __asm__ volatile(
            "vpdpbusd %%zmm30, %%zmm31, %%zmm0\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm1\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm2\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm3\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm4\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm5\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm6\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm7\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm8\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm9\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm10\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm11\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm12\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm13\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm14\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm15\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm16\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm17\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm18\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm19\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm20\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm21\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm22\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm23\n"
            ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
              "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
              "xmm23");
}
