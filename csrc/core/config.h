// The macros every header needs.
//
// SMELT_HD   marks a function of one element: inlined everywhere, host and device.
// SMELT_UNROLL  stands before a loop of a few turns known to the compiler.
// SMELT_ISA  names the inline namespace of this translation unit. The CPU kernels are compiled once per
//            instruction set, each in a namespace of its own: the linker may then never pick an AVX-512
//            copy of an inline function for an older processor.
#pragma once

#ifndef SMELT_ISA
#define SMELT_ISA host
#endif

#if defined(__CUDACC__)
#define SMELT_HD __host__ __device__ __forceinline__
#define SMELT_UNROLL _Pragma("unroll")
#else
#define SMELT_HD inline __attribute__((always_inline))
#define SMELT_UNROLL _Pragma("GCC unroll 16")
#endif
