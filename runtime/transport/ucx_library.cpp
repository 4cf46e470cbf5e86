#include "runtime/transport/ucx_library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include "kernels/fault.hpp"
#include "runtime/transport/ucx_settings.hpp"

namespace baton {
namespace {

constexpr const char* file = "libucp.so.0";

template <class Function>
void find(void* library, const char* name, Function*& into) {
  into = reinterpret_cast<Function*>(dlsym(library, name));
  if (into == nullptr) throw fault(fault_code::device, fmt::format("{} has no {}", file, name));
}

ucx_library load() {
  apply_ucx_settings();
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);  // never closed: it leaves threads and handlers behind
  if (library == nullptr) throw fault(fault_code::device, fmt::format("UCX cannot be loaded: {}", dlerror()));
  ucx_library found;
  find(library, "ucp_am_recv_data_nbx", found.ucp_am_recv_data_nbx);
  find(library, "ucp_am_send_nbx", found.ucp_am_send_nbx);
  find(library, "ucp_cleanup", found.ucp_cleanup);
  find(library, "ucp_config_modify", found.ucp_config_modify);
  find(library, "ucp_config_read", found.ucp_config_read);
  find(library, "ucp_config_release", found.ucp_config_release);
  find(library, "ucp_ep_close_nbx", found.ucp_ep_close_nbx);
  find(library, "ucp_ep_create", found.ucp_ep_create);
  find(library, "ucp_init_version", found.ucp_init_version);
  find(library, "ucp_request_check_status", found.ucp_request_check_status);
  find(library, "ucp_request_free", found.ucp_request_free);
  find(library, "ucp_worker_arm", found.ucp_worker_arm);
  find(library, "ucp_worker_create", found.ucp_worker_create);
  find(library, "ucp_worker_destroy", found.ucp_worker_destroy);
  find(library, "ucp_worker_flush_nbx", found.ucp_worker_flush_nbx);
  find(library, "ucp_worker_get_address", found.ucp_worker_get_address);
  find(library, "ucp_worker_get_efd", found.ucp_worker_get_efd);
  find(library, "ucp_worker_progress", found.ucp_worker_progress);
  find(library, "ucp_worker_release_address", found.ucp_worker_release_address);
  find(library, "ucp_worker_set_am_recv_handler", found.ucp_worker_set_am_recv_handler);
  find(library, "ucs_status_string", found.ucs_status_string);
  return found;
}

}  // namespace

const ucx_library& ucx() {
  static const ucx_library loaded = load();
  return loaded;
}

void check_ucx(ucs_status_t status, const char* what) {
  if (status == UCS_OK) return;
  throw fault(fault_code::device, fmt::format("UCX: {}: {}", what, ucx().ucs_status_string(status)));
}

}  // namespace baton
