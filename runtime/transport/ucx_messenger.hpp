#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "runtime/transport/messenger.hpp"

namespace baton {

struct ucx_options {
  std::string net_devices = "lo";      ///< as UCX_NET_DEVICES has it: names with commas between; empty: UCX chooses
  std::chrono::milliseconds delay{0};  ///< holds every outgoing message back, as a slow link would; for experiments
};

/// A messenger over UCX active messages. Its transport thread sleeps unless there is something to do. Two messengers are connected
/// at the first message, whichever sends it. A connection that fails is made anew at the next message, after a pause.
///
/// - Payloads of at most 64 KiB go at once; larger ones wait for their turn, so that they do not hold up small ones.
/// - A message with a large payload that is sent again while it still waits or is under way goes once.
/// - A message to itself is handed over in memory and not counted, nor is what messengers say to each other about connections.
///
/// Throws fault(bad_input) where a device is not there, fault(device) where UCX is not installed or cannot start.
[[nodiscard]] std::unique_ptr<messenger> make_ucx_messenger(const ucx_options& options);

}  // namespace baton
