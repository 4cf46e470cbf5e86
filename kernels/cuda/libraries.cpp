#include "kernels/cuda/libraries.hpp"

#include <cstdlib>
#include <sstream>
#include <vector>

#include <dlfcn.h>

#include "kernels/fault.hpp"

namespace baton::cuda {
namespace {

/// A shared library by any of its names, or null with the reason.
void* open_library(const std::vector<std::string>& names, std::string& why) {
  std::vector<std::string> folders{""};
  if (const char* listed = std::getenv("BATON_CUDA_LIBRARIES")) {
    std::istringstream all(listed);
    for (std::string folder; std::getline(all, folder, ':');) {
      if (!folder.empty()) folders.push_back(folder + "/");
    }
  }
  folders.emplace_back("/usr/local/cuda/lib64/");
  why.clear();
  for (const auto& folder : folders) {
    for (const auto& name : names) {
      // Global: cuDNN's parts look for cuBLASLt among what is loaded.
      if (void* library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
      if (why.empty()) why = dlerror();
    }
  }
  return nullptr;
}

/// Fills function pointers; remembers the first that is not there.
class symbols {
 public:
  explicit symbols(void* library) : library_(library) {}

  template <class Function>
  void find(Function& function, const char* name) {
    void* const found = dlsym(library_, name);
    if (found == nullptr && missing.empty()) missing = name;
    function = reinterpret_cast<Function>(found);
  }

  std::string missing;

 private:
  void* library_;
};

struct loaded_cublas_lt {
  cublas_lt_functions functions{};
  std::string why;

  loaded_cublas_lt() {
    void* const library = open_library({"libcublasLt.so.13", "libcublasLt.so.12"}, why);
    if (library == nullptr) return;
    why.clear();
    symbols all(library);
    all.find(functions.create, "cublasLtCreate");
    all.find(functions.destroy, "cublasLtDestroy");
    all.find(functions.version, "cublasLtGetVersion");
    all.find(functions.status_string, "cublasLtGetStatusString");
    all.find(functions.matmul, "cublasLtMatmul");
    all.find(functions.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    all.find(functions.matmul_create, "cublasLtMatmulDescCreate");
    all.find(functions.matmul_destroy, "cublasLtMatmulDescDestroy");
    all.find(functions.matmul_set, "cublasLtMatmulDescSetAttribute");
    all.find(functions.layout_create, "cublasLtMatrixLayoutCreate");
    all.find(functions.layout_destroy, "cublasLtMatrixLayoutDestroy");
    all.find(functions.preference_create, "cublasLtMatmulPreferenceCreate");
    all.find(functions.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    all.find(functions.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    if (!all.missing.empty()) why = "it has no " + all.missing;
  }
};

struct loaded_cudnn {
  cudnn_functions functions{};
  std::string why;

  loaded_cudnn() {
    if (const char* off = std::getenv("BATON_CUDNN"); off != nullptr && std::string(off) == "0") {
      why = "BATON_CUDNN=0 turns it off";
      return;
    }
    void* const library = open_library({"libcudnn.so.9"}, why);
    if (library == nullptr) return;
    why.clear();
    symbols all(library);
    all.find(functions.create, "cudnnCreate");
    all.find(functions.destroy, "cudnnDestroy");
    all.find(functions.version, "cudnnGetVersion");
    all.find(functions.error_string, "cudnnGetErrorString");
    all.find(functions.last_error_string, "cudnnGetLastErrorString");
    all.find(functions.set_stream, "cudnnSetStream");
    all.find(functions.descriptor_create, "cudnnBackendCreateDescriptor");
    all.find(functions.descriptor_destroy, "cudnnBackendDestroyDescriptor");
    all.find(functions.descriptor_set, "cudnnBackendSetAttribute");
    all.find(functions.descriptor_get, "cudnnBackendGetAttribute");
    all.find(functions.descriptor_finalize, "cudnnBackendFinalize");
    all.find(functions.execute, "cudnnBackendExecute");
    if (!all.missing.empty()) why = "it has no " + all.missing;
  }
};

}  // namespace

const cublas_lt_functions& cublas_lt() {
  static const loaded_cublas_lt loaded;
  if (!loaded.why.empty()) {
    throw fault(fault_code::device,
                "cuBLASLt cannot be loaded (" + loaded.why +
                    "); BATON_CUDA_LIBRARIES may name the folders where CUDA's libraries are",
                "libcublasLt");
  }
  return loaded.functions;
}

const cudnn_functions* find_cudnn(std::string& why) {
  static const loaded_cudnn loaded;
  why = loaded.why;
  return loaded.why.empty() ? &loaded.functions : nullptr;
}

}  // namespace baton::cuda
