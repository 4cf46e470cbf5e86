#include "runtime/transport/ucx_worker.hpp"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <sstream>

#include <fmt/format.h>
#include <poll.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using config_handle = std::unique_ptr<ucp_config_t, decltype(ucx_library::ucp_config_release)>;

bool device_exists(const std::string& name) {
  const std::string host = name.substr(0, name.find(':'));  // the rest is a port
  return std::filesystem::exists("/sys/class/net/" + host) || std::filesystem::exists("/sys/class/infiniband/" + host);
}

/// UCX goes on without a device that is not there, and then reaches nobody.
void check_devices(const std::string& net_devices) {
  std::istringstream names(net_devices);
  for (std::string name; std::getline(names, name, ',');) {
    if (name != "all" && !device_exists(name)) {
      throw fault(fault_code::bad_input, fmt::format("there is no network device '{}'", name), "network devices");
    }
  }
}

config_handle read_config(const std::string& net_devices) {
  ucp_config_t* read = nullptr;
  check_ucx(ucx().ucp_config_read(nullptr, nullptr, &read), "its configuration");
  config_handle config(read, ucx().ucp_config_release);
  if (!net_devices.empty())
    check_ucx(ucx().ucp_config_modify(read, "NET_DEVICES", net_devices.c_str()), "its configuration");
  return config;
}

}  // namespace

ucx_worker::ucx_worker(const std::string& net_devices) {
  check_devices(net_devices);
  const auto config = read_config(net_devices);
  ucp_params_t what{};
  what.field_mask = UCP_PARAM_FIELD_FEATURES;
  what.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  check_ucx(ucx().ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &what, config.get(), &context_), "making a context");

  ucp_worker_params_t how{};
  how.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  how.thread_mode = UCS_THREAD_MODE_SINGLE;
  const auto made = ucx().ucp_worker_create(context_, &how, &worker_);
  const auto found = made == UCS_OK ? ucx().ucp_worker_get_efd(worker_, &event_fd_) : made;
  if (found == UCS_OK) return;
  if (worker_ != nullptr) ucx().ucp_worker_destroy(worker_);
  ucx().ucp_cleanup(context_);
  check_ucx(found, "making a worker");
}

ucx_worker::~ucx_worker() {
  if (!finished_) return;
  ucx().ucp_worker_destroy(worker_);
  ucx().ucp_cleanup(context_);
}

void ucx_worker::finish(std::chrono::steady_clock::time_point deadline) {
  finished_ = false;
  // What comes in during a flush may be answered too: done is a worker that has nothing to flush.
  while (std::chrono::steady_clock::now() < deadline) {
    ucp_request_param_t how{};
    auto* request = ucx().ucp_worker_flush_nbx(worker_, &how);
    if (!UCS_PTR_IS_PTR(request)) {
      finished_ = true;
      return;
    }
    while (ucx().ucp_request_check_status(request) == UCS_INPROGRESS) {
      if (std::chrono::steady_clock::now() >= deadline) return;
      if (!progress()) wait(-1, std::chrono::milliseconds(10));
    }
    ucx().ucp_request_free(request);
  }
}

void ucx_worker::wait(int other_fd, std::optional<std::chrono::nanoseconds> time_max) {
  if (ucx().ucp_worker_arm(worker_) != UCS_OK) return;
  pollfd fds[] = {{event_fd_, POLLIN, 0}, {other_fd, POLLIN, 0}};
  timespec limit{};
  if (time_max) {
    const auto ns = std::max<std::int64_t>(time_max->count(), 0);
    limit = {ns / 1'000'000'000, ns % 1'000'000'000};
  }
  ppoll(fds, 2, time_max ? &limit : nullptr, nullptr);
}

std::string ucx_worker::address() const {
  ucp_address_t* address = nullptr;
  std::size_t bytes = 0;
  check_ucx(ucx().ucp_worker_get_address(worker_, &address, &bytes), "the worker's address");
  std::string copied(reinterpret_cast<const char*>(address), bytes);
  ucx().ucp_worker_release_address(worker_, address);
  return copied;
}

}  // namespace baton
