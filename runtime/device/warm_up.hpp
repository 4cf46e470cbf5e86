#pragma once

#include "runtime/device/device_context.hpp"

namespace baton {

/// What libraries and the driver load and set up when something is used for the first time they do now, not in the first job's way.
/// Does nothing on a device that computes on the host. Called by the thread that loads, before the compute thread begins.
void warm_up(device_context& device);

/// By this: a short document is prefilled and answered, and forgotten. False where the device has no room for it.
bool rehearse(device_context& device);

}  // namespace baton
