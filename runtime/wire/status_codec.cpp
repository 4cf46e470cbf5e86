#include "runtime/wire/status_codec.hpp"

namespace baton::wire {
namespace {

constexpr int list_max = 65536;

job_state read(JobState in, const place& at) { return one_of(in, job_state::cancelled, at); }
peer_state read(PeerState in, const place& at) { return one_of(in, peer_state::busy, at); }

void write(const job_summary& from, JobSummary& to) {
  to.set_id(from.id);
  to.set_state(number_of<JobState>(from.state));
  to.set_strategy(from.strategy);
  to.set_ranks(from.ranks);
  to.set_document_tokens(from.document_tokens);
  to.set_detached(from.detached);
  to.set_why(from.why);
}

job_summary read(const JobSummary& in, const place& at) {
  return {.id = in.id(),
          .state = read(in.state(), at / "state"),
          .strategy = text(in.strategy(), at / "strategy"),
          .ranks = within(in.ranks(), 0, ranks_max, at / "ranks"),
          .document_tokens = tokens(in.document_tokens(), at / "document_tokens"),
          .detached = in.detached(),
          .why = text(in.why(), at / "why")};
}

void write(const device_status& from, DeviceStatus& to) {
  to.set_name(from.name);
  to.set_state(number_of<PeerState>(from.state));
  to.set_worker_pid(from.worker_pid);
  to.set_job(from.job);
  to.set_layer(from.layer);
}

device_status read(const DeviceStatus& in, const place& at) {
  return {.name = text(in.name(), at / "name"),
          .state = read(in.state(), at / "state"),
          .worker_pid = process_number(in.worker_pid(), at / "worker_pid"),
          .job = in.job(),
          .layer = within(in.layer(), -1, layers_max - 1, at / "layer")};
}

void write(const node_status& from, NodeStatus& to) {
  to.set_name(from.name);
  to.set_state(number_of<PeerState>(from.state));
  to.set_pid(from.pid);
  to.set_relay_log_bytes(from.relay_log_bytes);
  to.set_relay_log_bytes_max(from.relay_log_bytes_max);
  for (const auto& device : from.devices) write(device, *to.add_devices());
}

node_status read(const NodeStatus& in, const place& at) {
  node_status node{.name = text(in.name(), at / "name"),
                   .state = read(in.state(), at / "state"),
                   .pid = process_number(in.pid(), at / "pid"),
                   .relay_log_bytes = byte_count(in.relay_log_bytes(), at / "relay_log_bytes"),
                   .relay_log_bytes_max = byte_count(in.relay_log_bytes_max(), at / "relay_log_bytes_max"),
                   .devices = {}};
  within(in.devices_size(), 0, list_max, at / "devices");
  for (int i = 0; i < in.devices_size(); ++i) node.devices.push_back(read(in.devices(i), at.item("devices", i)));
  return node;
}

void write(const rank_status& from, RankStatus& to) {
  to.set_rank(from.rank);
  to.set_node(from.node);
  to.set_device(from.device);
  to.set_attempt(from.attempt);
  to.set_layer(from.layer);
  to.set_state(number_of<RankState>(from.state));
  to.set_waiting_for(from.waiting_for);
}

rank_status read(const RankStatus& in, const place& at) {
  return {.rank = rank(in.rank(), at / "rank"),
          .node = text(in.node(), at / "node"),
          .device = text(in.device(), at / "device"),
          .attempt = in.attempt(),
          .layer = layer(in.layer(), at / "layer"),
          .state = one_of(in.state(), rank_state::lost, at / "state"),
          .waiting_for = within(in.waiting_for(), -1, ranks_max - 1, at / "waiting_for")};
}

void write(const job_status& from, JobStatus& to) {
  to.set_id(from.id);
  to.set_state(number_of<JobState>(from.state));
  to.set_strategy(from.strategy);
  to.set_document_tokens(from.document_tokens);
  to.set_answer_tokens(from.answer_tokens);
  for (const auto& r : from.ranks) write(r, *to.add_ranks());
  for (const auto& replay : from.replays) write(replay, *to.add_replays());
}

job_status read(const JobStatus& in, const place& at) {
  job_status job{.id = in.id(),
                 .state = read(in.state(), at / "state"),
                 .strategy = text(in.strategy(), at / "strategy"),
                 .document_tokens = tokens(in.document_tokens(), at / "document_tokens"),
                 .answer_tokens = within(in.answer_tokens(), 0, INT_MAX, at / "answer_tokens"),
                 .ranks = {},
                 .replays = {}};
  within(in.ranks_size(), 0, ranks_max, at / "ranks");
  for (int i = 0; i < in.ranks_size(); ++i) job.ranks.push_back(read(in.ranks(i), at.item("ranks", i)));
  for (int i = 0; i < in.replays_size(); ++i) job.replays.push_back(read(in.replays(i), at.item("replays", i)));
  return job;
}

}  // namespace

void write(const replay_result& from, ReplayResult& to) {
  to.set_rank(from.rank);
  to.set_cause(from.cause);
  to.set_layers(from.layers);
  to.set_seconds(from.seconds);
  to.set_detect_ms(from.detect_ms);
  to.set_on_other_class(from.on_other_class);
}

replay_result read(const ReplayResult& in, const place& at) {
  return {.rank = rank(in.rank(), at / "rank"),
          .cause = text(in.cause(), at / "cause"),
          .layers = within(in.layers(), 0, layers_max, at / "layers"),
          .seconds = seconds(in.seconds(), at / "seconds"),
          .detect_ms = seconds(in.detect_ms(), at / "detect_ms"),
          .on_other_class = in.on_other_class()};
}

void write(const jobs_list& from, JobsList& to) {
  for (const auto& job : from.jobs) write(job, *to.add_jobs());
}

jobs_list read(const JobsList& in, const place& at) {
  jobs_list list;
  within(in.jobs_size(), 0, static_cast<int>(jobs_listed_max), at / "jobs");
  for (int i = 0; i < in.jobs_size(); ++i) list.jobs.push_back(read(in.jobs(i), at.item("jobs", i)));
  return list;
}

void write(const cluster_status& from, ClusterStatus& to) {
  to.set_epoch(from.epoch);
  to.set_generation(from.generation);
  to.set_coordinator_pid(from.coordinator_pid);
  to.set_layers(from.layers);
  for (const auto& node : from.nodes) write(node, *to.add_nodes());
  for (const auto& job : from.jobs) write(job, *to.add_jobs());
}

cluster_status read(const ClusterStatus& in, const place& at) {
  cluster_status status{.epoch = in.epoch(),
                        .generation = in.generation(),
                        .coordinator_pid = process_number(in.coordinator_pid(), at / "coordinator_pid"),
                        .layers = within(in.layers(), 0, layers_max, at / "layers"),
                        .nodes = {},
                        .jobs = {}};
  within(in.nodes_size(), 0, list_max, at / "nodes");
  for (int i = 0; i < in.nodes_size(); ++i) status.nodes.push_back(read(in.nodes(i), at.item("nodes", i)));
  within(in.jobs_size(), 0, list_max, at / "jobs");
  for (int i = 0; i < in.jobs_size(); ++i) status.jobs.push_back(read(in.jobs(i), at.item("jobs", i)));
  return status;
}

}  // namespace baton::wire
