#pragma once

#include <string>

#include <cuda_runtime_api.h>

#include "kernels/fault.hpp"

namespace baton::cuda {

/// Throws fault(device) with CUDA's reason. `what` names the call.
inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw fault(fault_code::device,
                std::string(what) + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error));
  }
}

/// After each launch: a refused one is told to nobody else.
inline void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

/// Throws fault(internal) where a kernel was given something that it does not take.
inline void require(bool condition, const char* kernel, const char* what) {
  if (!condition) throw fault(fault_code::internal, std::string("the kernel wants ") + what, kernel);
}

}  // namespace baton::cuda
