#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>

#include "runtime/transport/local.hpp"

namespace baton {

/// A local network whose blocks are late: a reader sees one only when `delay` has passed since it was put, and when its source has
/// put that of the next layer too (but for the last layer). So whoever may go on to a layer finds its blocks on their way, however
/// the threads are scheduled. For prefill blocks; any thread; borrows `inner`.
class delayed_network {
 public:
  delayed_network(local_network& inner, std::chrono::milliseconds delay, int layers)
      : inner_(inner), delay_(delay), layers_(layers) {}

  [[nodiscard]] std::unique_ptr<endpoint> make_endpoint();

 private:
  friend class delayed_transport;

  void put(const block_key& key);
  [[nodiscard]] bool shows(const block_key& key);

  local_network& inner_;
  const std::chrono::milliseconds delay_;
  const int layers_;
  std::mutex mutex_;
  std::map<block_key, std::chrono::steady_clock::time_point> put_;
};

}  // namespace baton
