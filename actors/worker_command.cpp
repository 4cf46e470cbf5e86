#include <algorithm>

#include <fmt/format.h>

#include "actors/actor_config.hpp"
#include "actors/cluster_devices.hpp"
#include "actors/process_commands.hpp"
#include "actors/process_end.hpp"
#include "kernels/fault.hpp"
#include "runtime/transport/process_network.hpp"
#include "runtime/transport/ucx_messenger.hpp"

namespace baton {
namespace {

int run_worker(const process_options& options) {
  const actors::process_end end;
  const auto config = load_cluster_config(options.config);
  const auto where = actors::parse_coordinator_address(options.coordinator);
  const auto node = std::ranges::find(config.nodes, options.node, &node_config::name);
  if (node == config.nodes.end())
    throw fault(fault_code::bad_input, "no such node in " + config.source_file.string(), "--node " + options.node);
  const auto device = std::ranges::find(node->devices, options.device, &device_config::name);
  if (device == node->devices.end())
    throw fault(fault_code::bad_input, "no such device on node " + node->name, "--device " + options.device);
  if (device->memory_bytes == 0 || config.positions_max == 0) {
    throw fault(fault_code::bad_input, "a worker process must be told its memory and limits.positions_max, not auto",
                config.source_file.string());
  }

  const auto kernels = actors::make_backend(config.model, *device);
  const model_weights weights(*kernels, checkpoint::open(config.model.directory));
  ucx_options links;
  links.delay = std::chrono::milliseconds(config.links.delay_ms);
  const auto blocks = make_ucx_messenger(links);
  process_network network(*blocks);

  auto worker = actors::worker_options_of(config, *node, *device, device->memory_bytes, config.positions_max);
  worker.kernels = kernels.get();
  worker.weights = &weights;
  worker.address = blocks->address();
  actors::actor_config settings(actors::actor_config::reach::network);
  caf::actor_system system(settings);
  actors::close_side_doors(system);
  const auto in_front = actors::spawn_worker(
      system, actors::connect(system, where, std::chrono::milliseconds(config.timeouts.startup_ms)), worker,
      network.make_endpoint());
  end.watch(in_front);
  static_cast<void>(end.wait_for({}));
  caf::anon_send_exit(in_front, caf::exit_reason::user_shutdown);
  return 0;
}

}  // namespace

int rank_worker_main(const process_options& options) {
  try {
    return run_worker(options);
  } catch (const fault& why) {
    fmt::print(stderr, "baton: device {}/{}: {}\n", options.node, options.device, why.what());
    return why.code() == fault_code::bad_input ? 2 : 1;
  }
}

}  // namespace baton
