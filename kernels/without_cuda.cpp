// Stands in for kernels/cuda where there is no CUDA toolkit.
#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/fault.hpp"

namespace baton::cuda {
namespace {

[[noreturn]] void refuse() {
  throw fault(fault_code::bad_input, "this program was built without CUDA: it has CPU devices only", "kind");
}

}  // namespace

bool built_in() { return false; }
int device_count() { return 0; }
std::string describe_device(int) { refuse(); }
std::string pci_bus_id(int) { refuse(); }
std::unique_ptr<backend> make_cuda_backend(const cuda_options&) { refuse(); }

}  // namespace baton::cuda
