#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/transport/tcp_messenger.hpp"
#include "runtime/transport/ucx_messenger.hpp"

namespace baton {

/// A way to make messengers of one cluster, for tests that hold for every kind.
struct messenger_kind {
  std::string name;
  std::function<std::unique_ptr<messenger>(std::chrono::milliseconds delay)> make;
};

/// The control plane of all messengers in tests, in whatever process.
inline const data_plane_authority& cluster_of_tests() {
  static const data_plane_authority authority(secret_key{std::byte{1}, std::byte{2}, std::byte{3}});
  return authority;
}

inline std::vector<messenger_kind> messenger_kinds() {
  const auto tcp = [](bool sealed) {
    return [sealed](std::chrono::milliseconds delay) {
      return make_tcp_messenger(
          {.identity = cluster_of_tests().new_identity(), .seal_always = sealed, .delay = delay, .warn = {}});
    };
  };
  return {{"ucx", [](std::chrono::milliseconds delay) { return make_ucx_messenger({.delay = delay}); }},
          {"tcp", tcp(false)},
          {"sealed_tcp", tcp(true)}};
}

inline messenger_kind messenger_kind_of(const std::string& name) {
  for (const auto& kind : messenger_kinds()) {
    if (kind.name == name) return kind;
  }
  throw std::invalid_argument("no messengers are called " + name);
}

}  // namespace baton
