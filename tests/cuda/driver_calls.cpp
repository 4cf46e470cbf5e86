#include "tests/cuda/driver_calls.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include <dlfcn.h>

namespace baton {
namespace {

enum class counted : std::uint8_t { device_wait, stream_wait, event_wait, device_memory, host_memory };

/// Names as the driver's header has them, without the suffixes of their versions.
constexpr std::array<std::pair<std::string_view, counted>, 34> watched{{
    {"cuCtxSynchronize", counted::device_wait},    {"cuDevicePrimaryCtxReset", counted::device_wait},
    {"cuStreamSynchronize", counted::stream_wait}, {"cuMemcpy", counted::stream_wait},
    {"cuMemcpyHtoD", counted::stream_wait},        {"cuMemcpyDtoH", counted::stream_wait},
    {"cuMemcpyDtoD", counted::stream_wait},        {"cuMemcpyPeer", counted::stream_wait},
    {"cuMemcpy2D", counted::stream_wait},          {"cuMemcpy2DUnaligned", counted::stream_wait},
    {"cuMemcpy3D", counted::stream_wait},          {"cuMemsetD8", counted::stream_wait},
    {"cuMemsetD16", counted::stream_wait},         {"cuMemsetD32", counted::stream_wait},
    {"cuEventSynchronize", counted::event_wait},   {"cuMemAlloc", counted::device_memory},
    {"cuMemAllocPitch", counted::device_memory},   {"cuMemAllocManaged", counted::device_memory},
    {"cuMemAllocAsync", counted::device_memory},   {"cuMemAllocFromPoolAsync", counted::device_memory},
    {"cuMemFree", counted::device_memory},         {"cuMemFreeAsync", counted::device_memory},
    {"cuMemCreate", counted::device_memory},       {"cuMemRelease", counted::device_memory},
    {"cuMemMap", counted::device_memory},          {"cuMemUnmap", counted::device_memory},
    {"cuMemPoolCreate", counted::device_memory},   {"cuMemPoolDestroy", counted::device_memory},
    {"cuMemPoolTrimTo", counted::device_memory},   {"cuMemHostAlloc", counted::host_memory},
    {"cuMemAllocHost", counted::host_memory},      {"cuMemFreeHost", counted::host_memory},
    {"cuMemHostRegister", counted::host_memory},   {"cuMemHostUnregister", counted::host_memory},
}};

/// cuMemAlloc_v2, cuStreamSynchronize_ptsz: a function's versions and its kinds of default streams count as one.
std::string_view without_version(std::string_view name) {
  for (const std::string_view kind : {"_ptsz", "_ptds"}) {
    if (name.ends_with(kind)) name.remove_suffix(kind.size());
  }
  if (name.size() > 3 && name.substr(name.size() - 3, 2) == "_v") name.remove_suffix(3);
  return name;
}

std::optional<counted> kind_of(std::string_view name) {
  name = without_version(name);
  for (const auto& [known, kind] : watched) {
    if (name == known) return kind;
  }
  return std::nullopt;
}

std::array<std::atomic<std::int64_t>, 5> counts;

using word = std::uint64_t;
/// Every function that is watched takes at most six numbers or pointers and returns a status: by the machine's calling convention it
/// may be passed on as if it took six.
using driver_function = int (*)(word, word, word, word, word, word);

struct slot {
  driver_function real = nullptr;
  counted kind = counted::device_wait;
};
constexpr std::size_t slots_max = 256;
std::array<slot, slots_max> slots;
std::size_t slots_used = 0;
std::mutex slots_mutex;

template <std::size_t index>
int passed_on(word a, word b, word c, word d, word e, word f) {
  counts[static_cast<std::size_t>(slots[index].kind)].fetch_add(1, std::memory_order_relaxed);
  return slots[index].real(a, b, c, d, e, f);
}

template <std::size_t... index>
constexpr std::array<driver_function, sizeof...(index)> stand_ins(std::index_sequence<index...>) {
  return {passed_on<index>...};
}
constexpr auto all_stand_ins = stand_ins(std::make_index_sequence<slots_max>());

driver_function real_lookup = nullptr;      // cuGetProcAddress, until CUDA 12
driver_function real_lookup_now = nullptr;  // cuGetProcAddress_v2

void* stand_in_for(std::string_view name, void* real, bool newest_lookup);

int lookup(word name, word found, word version, word flags, word e, word f) {
  const int status = real_lookup(name, found, version, flags, e, f);
  auto** const function = reinterpret_cast<void**>(found);
  if (status == 0 && function != nullptr && *function != nullptr)
    *function = stand_in_for(reinterpret_cast<const char*>(name), *function, static_cast<int>(version) >= 12000);
  return status;
}

int lookup_now(word name, word found, word version, word flags, word how, word f) {
  const int status = real_lookup_now(name, found, version, flags, how, f);
  auto** const function = reinterpret_cast<void**>(found);
  if (status == 0 && function != nullptr && *function != nullptr)
    *function = stand_in_for(reinterpret_cast<const char*>(name), *function, static_cast<int>(version) >= 12000);
  return status;
}

/// What is handed out in place of a driver's function: itself, unless it is watched or finds others.
void* stand_in_for(std::string_view name, void* real, bool newest_lookup) {
  const std::lock_guard lock(slots_mutex);
  const auto as_function = reinterpret_cast<driver_function>(real);
  if (without_version(name) == "cuGetProcAddress") {
    const bool now = newest_lookup || name != "cuGetProcAddress";
    const driver_function own = now ? lookup_now : lookup;
    if (as_function != lookup && as_function != lookup_now) (now ? real_lookup_now : real_lookup) = as_function;
    return reinterpret_cast<void*>(own);
  }
  const auto kind = kind_of(name);
  if (!kind) return real;
  for (std::size_t i = 0; i < slots_used; ++i) {
    if (slots[i].real == as_function || all_stand_ins[i] == as_function)
      return reinterpret_cast<void*>(all_stand_ins[i]);
  }
  if (slots_used == slots_max) return real;
  slots[slots_used] = {as_function, *kind};
  return reinterpret_cast<void*>(all_stand_ins[slots_used++]);
}

using dlsym_function = void* (*)(void*, const char*);

dlsym_function system_dlsym() {
  for (const char* version : {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"}) {
    if (void* const found = dlvsym(RTLD_NEXT, "dlsym", version)) return reinterpret_cast<dlsym_function>(found);
  }
  return nullptr;
}

}  // namespace

driver_calls operator-(const driver_calls& later, const driver_calls& earlier) {
  return {later.device_waits - earlier.device_waits, later.stream_waits - earlier.stream_waits,
          later.event_waits - earlier.event_waits, later.device_memory - earlier.device_memory,
          later.host_memory - earlier.host_memory};
}

driver_calls& operator+=(driver_calls& sum, const driver_calls& more) {
  sum.device_waits += more.device_waits;
  sum.stream_waits += more.stream_waits;
  sum.event_waits += more.event_waits;
  sum.device_memory += more.device_memory;
  sum.host_memory += more.host_memory;
  return sum;
}

driver_calls driver_calls_so_far() {
  const auto count = [](counted kind) {
    return counts[static_cast<std::size_t>(kind)].load(std::memory_order_relaxed);
  };
  return {count(counted::device_wait), count(counted::stream_wait), count(counted::event_wait),
          count(counted::device_memory), count(counted::host_memory)};
}

}  // namespace baton

/// In place of the system's, for the program and all that it loads.
extern "C" __attribute__((visibility("default"))) void* dlsym(void* library, const char* name) noexcept {
  static const auto real = baton::system_dlsym();
  void* const found = real(library, name);
  const std::string_view wanted(name);
  if (found == nullptr || !wanted.starts_with("cu")) return found;
  return baton::stand_in_for(wanted, found, false);
}
