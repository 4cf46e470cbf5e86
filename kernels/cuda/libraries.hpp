#pragma once

#include <string>

#include <cublasLt.h>
#include <cudnn.h>

namespace baton::cuda {

/// cuBLASLt and cuDNN are loaded, not linked: a program that was built with a toolkit also starts where there is none, and takes
/// what a machine has, be it below a Python installation. They are looked for where the system looks (LD_LIBRARY_PATH), then in the
/// folders that BATON_CUDA_LIBRARIES names, then in /usr/local/cuda.
struct cublas_lt_functions {
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtDestroy) destroy;
  decltype(&::cublasLtGetVersion) version;
  decltype(&::cublasLtGetStatusString) status_string;
  decltype(&::cublasLtMatmul) matmul;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&::cublasLtMatmulDescCreate) matmul_create;
  decltype(&::cublasLtMatmulDescDestroy) matmul_destroy;
  decltype(&::cublasLtMatmulDescSetAttribute) matmul_set;
  decltype(&::cublasLtMatrixLayoutCreate) layout_create;
  decltype(&::cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&::cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&::cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set;
};

struct cudnn_functions {
  decltype(&::cudnnCreate) create;
  decltype(&::cudnnDestroy) destroy;
  decltype(&::cudnnGetVersion) version;
  decltype(&::cudnnGetErrorString) error_string;
  decltype(&::cudnnGetLastErrorString) last_error_string;
  decltype(&::cudnnSetStream) set_stream;
  decltype(&::cudnnBackendCreateDescriptor) descriptor_create;
  decltype(&::cudnnBackendDestroyDescriptor) descriptor_destroy;
  decltype(&::cudnnBackendSetAttribute) descriptor_set;
  decltype(&::cudnnBackendGetAttribute) descriptor_get;
  decltype(&::cudnnBackendFinalize) descriptor_finalize;
  decltype(&::cudnnBackendExecute) execute;
};

/// Throws fault(device) with where it was looked for. Any thread; loaded once.
const cublas_lt_functions& cublas_lt();
/// Null, with the reason in `why`, where there is none.
const cudnn_functions* find_cudnn(std::string& why);

}  // namespace baton::cuda
