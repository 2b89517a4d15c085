# The CUDA kernels: built by nvcc, on the host for the tests, or left out. Adds to the target _core.

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu csrc/cuda/kernels/*.cu csrc/cuda/kernels/*.cpp)

if(SMELT_CUDA STREQUAL "EMULATED")
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  add_library(smelt_cuda OBJECT ${cuda_sources})
  target_include_directories(smelt_cuda PRIVATE csrc tests/emulator)
  # A GPU fuses multiplications and additions where math::fma says so, and nowhere else.
  target_compile_options(smelt_cuda PRIVATE ${kernel_flags} ${warnings} -x c++
    $<$<STREQUAL:${CMAKE_SYSTEM_PROCESSOR},x86_64>:-mfma>)
  set(built_cuda "emulated on the host")
else()
  set(SMELT_CUDA OFF)
endif()

if(TARGET smelt_cuda)
  target_compile_definitions(smelt_cuda PRIVATE SMELT_ISA=device SMELT_BUILT_CUDA="${built_cuda}")
  set_target_properties(smelt_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
  target_link_libraries(_core PRIVATE smelt_cuda)
else()
  target_sources(_core PRIVATE csrc/cuda/absent.cpp)
endif()
message(STATUS "smelt: CUDA ${SMELT_CUDA}")
