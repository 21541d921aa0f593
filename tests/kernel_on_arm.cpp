// Runs one op on ARM: arm PATH_OP INPUT OUTPUT. INPUT holds int64 numbers: bytes of the struct, bytes of the data, how
// many pointers; then where in the struct the pointers are, int64 each; then the struct, whose pointers are places in
// the data plus 1, or 0 for null; then the data. OUTPUT is the data as the op leaves it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "args.h"

extern "C" int portable_rotate_quantize(const RotateArgs *), portable_int_linear(const LinearArgs *);
extern "C" int dotprod_rotate_quantize(const RotateArgs *), dotprod_int_linear(const LinearArgs *), dotprod_supported();
extern "C" int i8mm_rotate_quantize(const RotateArgs *), i8mm_int_linear(const LinearArgs *), i8mm_supported();
extern "C" int neonbf16_attention(const AttentionArgs *), neonbf16_supported();

int main(int, char **words) {
    const std::string op = words[1];
    std::FILE *file = std::fopen(words[2], "rb");
    int64_t sizes[3];
    if (!file || std::fread(sizes, 8, 3, file) != 3) return 2;
    std::vector<int64_t> pointers(sizes[2]), args(sizes[0] / 8 + 1);
    char *data = static_cast<char *>(std::aligned_alloc(64, sizes[1] / 64 * 64 + 64));
    std::fread(pointers.data(), 8, sizes[2], file);
    std::fread(args.data(), 1, sizes[0], file);
    if (std::fread(data, 1, sizes[1], file) != size_t(sizes[1])) return 2;
    std::fclose(file);
    for (int64_t at : pointers)
        if (args[at / 8]) args[at / 8] += reinterpret_cast<int64_t>(data) - 1;
    auto *rotate = reinterpret_cast<RotateArgs *>(args.data());
    auto *linear = reinterpret_cast<LinearArgs *>(args.data());
    auto *attention = reinterpret_cast<AttentionArgs *>(args.data());
    int status = 3;
    if (op == "portable_rotate_quantize") status = portable_rotate_quantize(rotate);
    if (op == "portable_int_linear") status = portable_int_linear(linear);
    if (op == "dotprod_rotate_quantize" && dotprod_supported()) status = dotprod_rotate_quantize(rotate);
    if (op == "dotprod_int_linear" && dotprod_supported()) status = dotprod_int_linear(linear);
    if (op == "i8mm_rotate_quantize" && i8mm_supported()) status = i8mm_rotate_quantize(rotate);
    if (op == "i8mm_int_linear" && i8mm_supported()) status = i8mm_int_linear(linear);
    if (op == "neonbf16_attention" && neonbf16_supported()) status = neonbf16_attention(attention);
    file = std::fopen(words[3], "wb");
    if (std::fwrite(data, 1, sizes[1], file) != size_t(sizes[1])) return 2;
    std::fclose(file);
    return status;
}
