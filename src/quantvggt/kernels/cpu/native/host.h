// What every path needs from host.cpp, which is compiled for the plainest CPU.
#pragma once
#include <cstddef>
#include <cstdint>

// Calls body(arg, task) once for each task in [0, tasks), on up to `threads` threads of torch's own pool.
void run_tasks(int64_t tasks, int64_t threads, void (*body)(void *, int64_t), void *arg);

// This thread's scratch memory, 64-byte aligned, kept for its next call.
void *scratch(size_t bytes);
