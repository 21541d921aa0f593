// What every path needs from host.cpp, which is compiled for the plainest CPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

// Calls body(arg, task) once for each task in [0, tasks), on up to `threads` threads of torch's own pool.
// Throws std::bad_alloc if a task did, or if the system has no thread to give.
void run_tasks(int64_t tasks, int64_t threads, void (*body)(void *, int64_t), void *arg);

// This thread's scratch memory, 64-byte aligned, kept for its next call: a task's, or what all tasks of a call share.
// Throws std::bad_alloc.
enum class Scratch { TASK, CALL };
void *scratch(size_t bytes, Scratch whose = Scratch::TASK);

// What an exported function returns: 0, or 1 if there was no memory. No exception may reach Python.
template <class Function>
int status_of(Function function) {
    try {
        function();
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
