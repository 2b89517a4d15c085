// The macros every header needs.
//
// GRADFUSE_HD   marks a function of one element: inlined everywhere, host and device.
// GRADFUSE_UNROLL  stands before a loop of a few turns known to the compiler.
// GRADFUSE_ISA  names the inline namespace of this translation unit. The CPU kernels are compiled once per
//            instruction set, each in a namespace of its own: the linker may then never pick an AVX-512
//            copy of an inline function for an older processor.
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
