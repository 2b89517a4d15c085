// Macros that every header needs.
//
// GRADFUSE_HD   marks a function of one element. It is always inlined, on host and device.
// GRADFUSE_UNROLL  unrolls a short loop whose length the compiler knows.
// GRADFUSE_ISA  is the inline namespace of this translation unit. The CPU kernels are compiled once per
//            instruction set, each in a separate namespace, so that the linker never uses an AVX-512
//            copy of an inline function on an older processor.
#pragma once

#ifndef GRADFUSE_ISA
#define GRADFUSE_ISA host
#endif

#if defined(__CUDACC__)
#define GRADFUSE_HD __host__ __device__ __forceinline__
#define GRADFUSE_UNROLL _Pragma("unroll")
#else
#define GRADFUSE_HD inline __attribute__((always_inline))
#define GRADFUSE_UNROLL _Pragma("GCC unroll 16")
#endif
