#include "actors/cluster.hpp"

#include <thread>

#include <fmt/format.h>

#include "actors/local_cluster.hpp"
#include "actors/process_cluster.hpp"
#include "kernels/fault.hpp"

namespace baton::actors {

std::unique_ptr<cluster> start_cluster(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
                                       std::span<const std::int64_t> arena_bytes, std::int64_t positions,
                                       const start_watch& watch) {
  if (config.processes == process_layout::per_device)
    return std::make_unique<process_cluster>(config, model, devices, arena_bytes, positions, watch.check);
  return std::make_unique<local_cluster>(config, model, devices, arena_bytes, positions,
                                         [&](std::int64_t done, std::int64_t total) {
                                           watch.check();
                                           watch.loading(done, total);
                                         });
}

void wait_until_joined(caf::actor_system& system, const coordinator_actor& coordinator, std::size_t workers,
                       std::size_t relays, std::chrono::milliseconds patience, const std::function<void()>& check) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  const caf::scoped_actor self(system);
  for (;;) {
    std::uint64_t workers_there = 0;
    std::uint64_t relays_there = 0;
    std::string trouble;
    std::string error;
    self->request(coordinator, std::chrono::seconds(1), count_atom::value)
        .receive([&](std::uint64_t w, std::uint64_t r,
                     const std::string& text) { workers_there = w, relays_there = r, trouble = text; },
                 [&](const caf::error& why) { error = system.render(why); });
    if (workers_there == workers && relays_there == relays) return;
    if (!trouble.empty()) throw fault(fault_code::lost_peer, trouble, "startup");
    check();
    if (std::chrono::steady_clock::now() > deadline) {
      throw fault(
          fault_code::deadline,
          fmt::format("{} of {} workers and {} of {} relays joined within {} ms{}; a large model takes longer to "
                      "load: raise timeouts.startup",
                      workers_there, workers, relays_there, relays, patience.count(),
                      error.empty() ? "" : " (" + error + ")"),
          "startup");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace baton::actors
