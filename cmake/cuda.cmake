# The CUDA kernels: built by nvcc, on the host for the tests, or left out. Adds to the target _core.

set(GRADFUSE_CUDA AUTO CACHE STRING
  "ON, OFF, AUTO (ON where nvcc is found), or EMULATED: the kernels on the host, as the tests run them")
set_property(CACHE GRADFUSE_CUDA PROPERTY STRINGS AUTO ON OFF EMULATED)
set(GRADFUSE_CUDA_ARCHITECTURES "" CACHE STRING
  "As CMAKE_CUDA_ARCHITECTURES; empty: that of this machine's GPU, without one 80, 90, 100 and 120 with PTX")

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu csrc/cuda/kernels/*.cu csrc/cuda/kernels/*.cpp)

# That of the nvidia-* packages in Python's environment, or the system's.
function(find_nvcc)
  if(CMAKE_CUDA_COMPILER OR DEFINED ENV{CUDACXX})
    return()
  endif()
  execute_process(COMMAND "${Python_EXECUTABLE}" "${CMAKE_SOURCE_DIR}/cmake/find_toolkit.py"
    OUTPUT_VARIABLE toolkit OUTPUT_STRIP_TRAILING_WHITESPACE)
  find_program(NVCC nvcc HINTS "${toolkit}/bin" ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda/bin)
  if(NVCC)
    set(CMAKE_CUDA_COMPILER "${NVCC}" CACHE FILEPATH "nvcc")
    if(toolkit)  # the packages have their libraries where nvcc does not look
      set(CMAKE_CUDA_FLAGS_INIT "-L${toolkit}/lib" PARENT_SCOPE)
    endif()
  endif()
endfunction()

if(GRADFUSE_CUDA STREQUAL "EMULATED")
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  add_library(gradfuse_cuda OBJECT ${cuda_sources})
  target_include_directories(gradfuse_cuda PRIVATE tests/emulator)
  # A GPU fuses multiplications and additions where math::fma says so, and nowhere else.
  target_compile_options(gradfuse_cuda PRIVATE ${kernel_flags} ${warnings} -x c++
    -include ${CMAKE_SOURCE_DIR}/tests/emulator/hardware.h $<$<STREQUAL:${CMAKE_SYSTEM_PROCESSOR},x86_64>:-mfma>)
  if(NOT GRADFUSE_SANITIZE)  # a misaligned access is a fault, as on a GPU: see tests/emulator/cluster.h
    target_compile_options(gradfuse_cuda PRIVATE -fsanitize=alignment -fno-sanitize-recover=alignment)
    target_compile_definitions(gradfuse_cuda PRIVATE GRADFUSE_CHECKS_ALIGNMENT)
  endif()
  set(built_cuda "emulated on the host")
elseif(NOT GRADFUSE_CUDA STREQUAL "OFF")
  find_nvcc()
  if(CMAKE_CUDA_COMPILER OR DEFINED ENV{CUDACXX})
    if(GRADFUSE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES ${GRADFUSE_CUDA_ARCHITECTURES})
    else()
      find_program(NVIDIA_SMI nvidia-smi)
      if(NVIDIA_SMI)
        execute_process(COMMAND ${NVIDIA_SMI} -L OUTPUT_VARIABLE gpus ERROR_QUIET)
      endif()
      if(gpus MATCHES "GPU 0" AND CMAKE_VERSION VERSION_GREATER_EQUAL 3.24)
        set(CMAKE_CUDA_ARCHITECTURES native)
      else()
        set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real 120)
      endif()
    endif()
    if(CCACHE)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
    endif()
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    add_library(gradfuse_cuda OBJECT ${cuda_sources})
    # --fmad=false: the results are those of the emulator, bit for bit. Never --use_fast_math.
    target_compile_options(gradfuse_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false --resource-usage>)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)  # a tenth of the size
      target_compile_options(gradfuse_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
    endif()
    if(GRADFUSE_WERROR)
      target_compile_options(gradfuse_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings>)
    endif()
    set(built_cuda "CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
    set_target_properties(_core PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  elseif(GRADFUSE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "GRADFUSE_CUDA=ON needs nvcc, and none was found: install a CUDA toolkit, set CUDACXX to its nvcc, "
      "or `pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl` into the "
      "environment of the build; GRADFUSE_CUDA=OFF builds without CUDA")
  endif()
endif()

if(TARGET gradfuse_cuda)
  string(REPLACE ";" ", " built_cuda "${built_cuda}")
  target_include_directories(gradfuse_cuda PRIVATE csrc)
  target_compile_definitions(gradfuse_cuda PRIVATE GRADFUSE_ISA=device GRADFUSE_BUILT_CUDA="${built_cuda}")
  set_target_properties(gradfuse_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
    CUDA_VISIBILITY_PRESET hidden)
  target_link_libraries(_core PRIVATE gradfuse_cuda)
  message(STATUS "gradfuse: CUDA kernels, ${built_cuda}")
else()
  target_sources(_core PRIVATE csrc/cuda/absent.cpp)
  message(STATUS "gradfuse: no CUDA kernels (GRADFUSE_CUDA=${GRADFUSE_CUDA})")
endif()
