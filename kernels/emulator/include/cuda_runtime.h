// The host's side of CUDA: memory, streams that have always finished, launches. What it asks for is done by Python,
// kernels/emulator/tool/programs.py.
#pragma once
#include <cstdlib>
#include <ctime>
#include <initializer_list>
#include <tuple>

#include "emulator/device.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorLaunchFailure = 719 };
using cudaError = cudaError_t;
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum { cudaSharedmemCarveoutMaxShared = 100, cudaHostAllocDefault = 0, cudaEventDefault = 0, cudaStreamNonBlocking = 1,
       cudaEventDisableTiming = 2, cudaMemAttachGlobal = 1, cudaEventBlockingSync = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrCooperativeLaunch = 95, cudaDevAttrMaxThreadsPerBlock = 1,
                      cudaDevAttrMaxSharedMemoryPerBlock = 8, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
using cudaStream_t = struct EmulatorStream*;
using cudaEvent_t = struct EmulatorEvent*;
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerMultiprocessor, sharedMemPerBlockOptin, reservedSharedMemPerBlock;
    int major, minor, multiProcessorCount, maxThreadsPerMultiProcessor, maxThreadsPerBlock, warpSize, l2CacheSize;
    int regsPerBlock, clockRate, memoryClockRate, memoryBusWidth, concurrentKernels, cooperativeLaunch;
    int maxGridSize[3], maxThreadsDim[3];
};
struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, maxDynamicSharedSizeBytes;
};

// Filled in by Python before main runs.
#define EMULATOR_HOST __attribute__((visibility("default"), weak))
extern "C" {
EMULATOR_HOST void* (*emulator_host_malloc)(size_t, int) = nullptr;
EMULATOR_HOST void (*emulator_host_free)(void*) = nullptr;
EMULATOR_HOST void (*emulator_host_written)(void*, size_t) = nullptr;
EMULATOR_HOST int (*emulator_host_launch)(const char*, const char*, void*, void**, const void*, int, const unsigned*, const unsigned*, size_t) = nullptr;
}

namespace emulator {
inline cudaError_t& last_error() {
    static cudaError_t error = cudaSuccess;
    return error;
}

// Argument 0 is the kernel itself, as one trampoline serves all kernels of a signature.
template <class... P>
struct Call {
    template <size_t... I>
    static EMULATOR_UNWATCHED void with(void** arguments, std::index_sequence<I...>) {
        (*static_cast<void (**)(P...)>(arguments[0]))(*static_cast<std::remove_cv_t<P>*>(arguments[I + 1])...);
    }
    static EMULATOR_UNWATCHED void call(void** arguments) { with(arguments, std::index_sequence_for<P...>()); }
};

// The same for a call whose template arguments the compiler deduces: argument 0 is a function object.
template <class F, class... A>
struct CallObject {
    template <size_t... I>
    static EMULATOR_UNWATCHED void with(void** arguments, std::index_sequence<I...>) {
        (*static_cast<F*>(arguments[0]))(*static_cast<A*>(arguments[I + 1])...);
    }
    static EMULATOR_UNWATCHED void call(void** arguments) { with(arguments, std::index_sequence_for<A...>()); }
};

// line: of the launch, such as "a.cu:12", or null where it is not known.
inline cudaError_t hand_over(const char* name, const char* line, void (*call)(void**), void** arguments, const Parameter* parameters,
                             int count, dim3 grid, dim3 block, size_t shared) {
    unsigned sizes[] = {grid.x, grid.y, grid.z, block.x, block.y, block.z};
    int error = emulator_host_launch(name, line, (void*)call, arguments, parameters, count, sizes, sizes + 3, shared);
    if (error) last_error() = (cudaError_t)error;
    return (cudaError_t)error;
}

struct Launcher {
    const char* name;
    const char* line;
    dim3 grid, block;
    size_t shared;

    Launcher(const char* name, const char* line, dim3 grid, dim3 block, size_t shared = 0, cudaStream_t = nullptr)
        : name(name), line(line), grid(grid), block(block), shared(shared) {}

    template <class... P, class... A>
    void run(void (*kernel)(P...), A&&... values) {
        std::tuple<std::remove_cv_t<P>...> converted((std::remove_cv_t<P>)(values)...);  // a cast, as NULL is a number
        std::apply(
            [&](auto&... each) {
                void* arguments[] = {(void*)&kernel, (void*)&each..., nullptr};
                Parameter parameters[] = {parameter<P>()..., {}};
                hand_over(name, line, Call<P...>::call, arguments, parameters, sizeof...(P), grid, block, shared);
            },
            converted);
    }

    template <class F, class... A>
    void run_call(F&& call, A&&... values) {
        std::tuple<std::decay_t<A>...> kept(std::forward<A>(values)...);
        std::apply(
            [&](auto&... each) {
                void* arguments[] = {(void*)&call, (void*)&each..., nullptr};
                Parameter parameters[] = {parameter<std::decay_t<A>>()..., {}};
                hand_over(name, line, CallObject<std::remove_reference_t<F>, std::decay_t<A>...>::call, arguments, parameters,
                          sizeof...(A), grid, block, shared);
            },
            kept);
    }
};
}  // namespace emulator

// ---------------------------------------------------------------- memory
template <class T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
    *pointer = static_cast<T*>(emulator_host_malloc(bytes, 0));
    return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}
template <class T>
cudaError_t cudaMallocManaged(T** pointer, size_t bytes, unsigned = 0) {
    *pointer = static_cast<T*>(emulator_host_malloc(bytes, 1));
    return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes, unsigned = 0) {
    *pointer = static_cast<T*>(malloc(bytes));
    return cudaSuccess;
}
template <class T>
cudaError_t cudaHostAlloc(T** pointer, size_t bytes, unsigned flags = 0) { return cudaMallocHost(pointer, bytes, flags); }
inline cudaError_t cudaFree(void* pointer) {
    if (pointer) emulator_host_free(pointer);
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* pointer) {
    free(pointer);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
    memmove(to, from, bytes);
    emulator_host_written(to, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t = nullptr) {
    return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                                cudaMemcpyKind kind) {
    for (size_t row = 0; row < height; row++) cudaMemcpy((char*)to + row * to_pitch, (const char*)from + row * from_pitch, width, kind);
    return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
    memset(to, value, bytes);
    emulator_host_written(to, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t = nullptr) { return cudaMemset(to, value, bytes); }
template <class T>
cudaError_t cudaMemcpyToSymbol(T& symbol, const void* from, size_t bytes, size_t offset = 0, cudaMemcpyKind = cudaMemcpyHostToDevice) {
    memcpy((char*)&symbol + offset, from, bytes);
    return cudaSuccess;
}
template <class T>
cudaError_t cudaMemcpyFromSymbol(void* to, const T& symbol, size_t bytes, size_t offset = 0, cudaMemcpyKind = cudaMemcpyDeviceToHost) {
    memcpy(to, (const char*)&symbol + offset, bytes);
    return cudaSuccess;
}
template <class T>
cudaError_t cudaGetSymbolAddress(void** pointer, T& symbol) {
    *pointer = (void*)&symbol;
    return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
    *left = *total = (size_t)8 << 30;
    return cudaSuccess;
}

// ---------------------------------------------------------------- devices, streams, events, errors
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    *p = {};
    strcpy(p->name, "emulated device");
    p->totalGlobalMem = (size_t)8 << 30, p->sharedMemPerBlock = 48 << 10, p->sharedMemPerMultiprocessor = 100 << 10;
    p->sharedMemPerBlockOptin = 99 << 10, p->reservedSharedMemPerBlock = 1 << 10, p->major = 8, p->minor = 6;
    p->multiProcessorCount = 4, p->maxThreadsPerMultiProcessor = 1536, p->maxThreadsPerBlock = 1024, p->warpSize = 32;
    p->l2CacheSize = 1 << 16, p->regsPerBlock = 65536, p->clockRate = p->memoryClockRate = 1000000, p->memoryBusWidth = 128;
    p->concurrentKernels = p->cooperativeLaunch = 1;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceReset() { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    *value = which == cudaDevAttrMultiProcessorCount ? 4 : which == cudaDevAttrMaxThreadsPerBlock ? 1024 : 1;
    if (which == cudaDevAttrMaxSharedMemoryPerBlock) *value = 48 << 10;
    if (which == cudaDevAttrMaxSharedMemoryPerBlockOptin) *value = 99 << 10;
    return cudaSuccess;
}
inline cudaError_t cudaPeekAtLastError() { return emulator::last_error(); }
inline cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error(), cudaSuccess); }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error ? "a launch with a finding" : "no error"; }
inline const char* cudaGetErrorName(cudaError_t error) { return error ? "cudaErrorLaunchFailure" : "cudaSuccess"; }
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) { return *stream = nullptr, cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = nullptr, cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned = 0) { return cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = nullptr, cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = nullptr, cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t = nullptr) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) { return *milliseconds = 1, cudaSuccess; }

// ---------------------------------------------------------------- kernels
template <class F> cudaError_t cudaFuncSetAttribute(F, cudaFuncAttribute, int) { return cudaSuccess; }
template <class F> cudaError_t cudaFuncSetCacheConfig(F, int) { return cudaSuccess; }
template <class F>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, F) {
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024, attributes->numRegs = 32;
    return cudaSuccess;
}
template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F, int threads, size_t) {
    *blocks = 1536 / threads;
    return cudaSuccess;
}
template <class... P>
cudaError_t cudaLaunchKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** values, size_t shared = 0, cudaStream_t = nullptr) {
    void* arguments[sizeof...(P) + 2] = {(void*)&kernel};
    for (size_t i = 0; i < sizeof...(P); i++) arguments[i + 1] = values[i];
    emulator::Parameter parameters[] = {emulator::parameter<P>()..., {}};
    return emulator::hand_over("a kernel", nullptr, emulator::Call<P...>::call, arguments, parameters, sizeof...(P), grid, block, shared);
}
template <class... P>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** values, size_t shared = 0, cudaStream_t stream = nullptr) {
    return cudaLaunchKernel(kernel, grid, block, values, shared, stream);
}
