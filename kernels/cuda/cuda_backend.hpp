#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.hpp"

namespace baton::cuda {

struct cuda_options {
  int index = 0;             ///< as CUDA counts devices; CUDA_VISIBLE_DEVICES has its say
  std::vector<int> cores{};  ///< that the compute thread keeps to; empty: where the system puts it
};

/// Whether this program was built with a CUDA toolkit.
[[nodiscard]] bool built_in();

/// How many GPUs this process may use; 0 without a driver, or where the program was built without CUDA. Any thread.
[[nodiscard]] int device_count();

/// A GPU: name, memory, architecture and the libraries found, as a line for people. Throws as make_cuda_backend.
[[nodiscard]] std::string describe_device(int index);

/// Where it is on the machine's PCI buses, such as 0000:17:00.0. Throws as make_cuda_backend.
[[nodiscard]] std::string pci_bus_id(int index);

/// One GPU as a device: bf16 numbers, fp32 sums. Launches return when they are queued. Throws fault(bad_input) where there is no
/// such GPU or the program was built without CUDA, fault(device) where CUDA or cuBLASLt do not come up.
std::unique_ptr<backend> make_cuda_backend(const cuda_options& options);

}  // namespace baton::cuda
