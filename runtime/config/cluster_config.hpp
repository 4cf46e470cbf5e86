#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.hpp"
#include "runtime/model/prompt_format.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/transport/socket.hpp"

namespace baton {

enum class device_kind : std::uint8_t { cpu, cuda };

/// What ranks may be placed on: a fixed set of CPU cores and threads, or a GPU.
struct device_config {
  std::string name = "cpu0";
  int threads = 0;                ///< 0: one per core, of `cores` or of the whole machine
  std::vector<int> cores;         ///< that the threads are pinned to; empty: wherever the system puts them
  std::int64_t memory_bytes = 0;  ///< for KV and workspace; 0: what the job needs
  device_kind kind = device_kind::cpu;
  int index = 0;  ///< of a GPU, as CUDA counts them

  bool operator==(const device_config&) const = default;
};

/// The compressed blocks that one node keeps.
struct relay_config {
  std::int64_t log_memory_bytes = std::int64_t{1} << 30;
  std::int64_t log_disk_bytes = 0;                   ///< on top of the memory; 0: no disk
  std::filesystem::path log_directory = "/var/tmp";  ///< absolute; of the disk part

  bool operator==(const relay_config&) const = default;
};

struct node_config {
  std::string name = "local";
  std::string address = "127.0.0.1";  ///< of the machine, as the other nodes reach it
  port_range data_ports{};            ///< that its agent and its workers take blocks at
  bool affinity = true;               ///< processes keep near their GPU, and to network interfaces near their devices
  relay_config relay;
  std::vector<device_config> devices = {device_config{}};  ///< at least one, of different names

  bool operator==(const node_config&) const = default;
};

struct model_source {
  std::filesystem::path directory;  ///< as load_cluster_config resolved it; it need not exist
  element_type precision = element_type::bf16;
  prompt_format prompt = *find_prompt_format("llama3");  ///< of name "custom" where the file spells it out
  std::string system_prompt;                             ///< empty: none

  bool operator==(const model_source& other) const;
};

/// Which processes hold a cluster.
enum class process_layout : std::uint8_t {
  one,         ///< `baton run` holds everything
  per_device,  ///< a node agent for each node, a worker process for each device; blocks travel over TCP or UCX
};

/// What carries blocks between processes.
enum class transport_kind : std::uint8_t {
  tcp,  ///< closed to strangers, encrypted beyond loopback
  ucx,  ///< RDMA, shared memory; for networks where nobody else is
};

/// `baton coordinator`: where it is reached, and what it takes on.
struct coordinator_config {
  std::string address = "127.0.0.1";  ///< that it listens on, and that all others connect to
  int port = 4711;
  std::filesystem::path journal{};  ///< its folder, absolute; empty: not said, which `baton coordinator` refuses
  int queue = 100;                  ///< jobs that wait; further ones are refused
  int jobs = 8;                     ///< at once
  int results = 1000;               ///< ended jobs that are remembered

  bool operator==(const coordinator_config&) const = default;
};

/// What lies between processes.
struct links_config {
  transport_kind transport = transport_kind::tcp;
  int delay_ms = 0;  ///< how long a block is held back before it is sent: an emulated slow link

  bool operator==(const links_config&) const = default;
};

/// Who is let in.
struct security_config {
  std::filesystem::path certificates;  ///< the folder of this host's, absolute; empty: none, which only loopback may do

  bool operator==(const security_config&) const = default;
};

struct timeouts_config {
  int progress_ms = 100;   ///< how often a worker reports
  int silence_ms = 1'200;  ///< a worker or node that says nothing for so long is given up
  int exchange_ms =
      30'000;  ///< a rank waits so long for a block of one that has made it; a job whose ranks all wait fails then
  int chunk_ms = 600'000;      ///< a device that computes and ends no chunk for so long hangs
  int startup_ms = 60'000;     ///< until all workers have joined
  int shutdown_ms = 5'000;     ///< until all have ended
  int client_ms = 5'000;       ///< a client that says nothing for so long is gone, and with it its job
  int reconnect_ms = 600'000;  ///< how long agents and clients look for a coordinator that is gone; 0: they end with it

  bool operator==(const timeouts_config&) const = default;
};

/// What happens when a worker or a node dies.
struct recovery_config {
  int replays = 3;              ///< of one shard; then its job fails. 0: at once
  int reserve = 1;              ///< shards that each device has room for on top of its own, where its memory is auto
  int replacement_ms = 30'000;  ///< a job fails whose lost shard no device could take for so long
  int take_up_ms =
      10'000;             ///< what nobody tells a coordinator within so long that it holds is lost with the one before
  int keep_ms = 120'000;  ///< so long workers and relays keep what they hold while there is no coordinator

  bool operator==(const recovery_config&) const = default;
};

/// What one configuration file says, with its defaults filled in and every value checked. A plain value.
struct cluster_config {
  model_source model;
  job_options job;
  process_layout processes = process_layout::one;
  std::vector<node_config> nodes = {node_config{}};  ///< at least one, of different names
  coordinator_config coordinator;
  links_config links;
  security_config security;
  std::int64_t positions_max = 0;  ///< 0: the model's
  timeouts_config timeouts;
  recovery_config recovery;
  std::filesystem::path source_file;  ///< for messages

  bool operator==(const cluster_config&) const = default;
};

/// Reads a configuration file (configs/reference.yaml explains every key). A relative model.directory is taken from the
/// working directory where it exists there, else from the file's folder; a file called "-" is standard input. Throws fault(bad_input) for whatever is wrong
/// with the file: `where` is "FILE:LINE:COLUMN: key path", as far as there is a line and a key, and the reason says
/// what would be right. Any thread may call it.
cluster_config load_cluster_config(const std::filesystem::path& file);

/// The same for text that is already there: `file_name` is what messages call it, and `base_directory` stands for the
/// file's folder.
cluster_config parse_cluster_config(std::string_view yaml, const std::string& file_name,
                                    const std::filesystem::path& base_directory);

/// What a node may be called.
bool is_node_name(std::string_view name);

/// The configuration with every default spelt out, as YAML that parses back to the same configuration (source_file
/// apart).
std::string describe(const cluster_config& cluster);

}  // namespace baton
