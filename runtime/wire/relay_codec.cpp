#include "runtime/wire/checks.hpp"
#include "runtime/wire/codec.hpp"
#include "runtime/wire/relay.pb.h"
#include "runtime/wire/worker_codec.hpp"

namespace baton {
namespace wire {
namespace {

/// Of a list of blocks: one for each attempt of each rank, if few ranks are replayed often.
constexpr int entries_max = 8 * ranks_max;

// ---- coordinator to relay ----

void write(const reserve_log& from, ReserveLog& to) {
  to.set_job(from.job);
  to.set_bytes(from.bytes);
  for (const auto& relay : from.relays) to.add_relays(relay);
}

reserve_log read(const ReserveLog& in, const place& at) {
  reserve_log reserve{.job = in.job(), .bytes = byte_count(in.bytes(), at / "bytes")};
  within(in.relays_size(), 0, ranks_max, at / "relays");
  for (int i = 0; i < in.relays_size(); ++i) reserve.relays.push_back(address(in.relays(i), at.item("relays", i)));
  return reserve;
}

void write(const release_log& from, ReleaseLog& to) { to.set_job(from.job); }

release_log read(const ReleaseLog& in, const place&) { return {.job = in.job()}; }

void write(const rank_layers& from, RankLayers& to) {
  to.set_rank(from.rank);
  append(from.layers, *to.mutable_layers());
  to.set_attempt(from.attempt);
}

rank_layers read(const RankLayers& in, const place& at) {
  return {.rank = rank(in.rank(), at / "rank"), .layers = layers(in.layers(), at / "layers"), .attempt = in.attempt()};
}

template <class List>
std::vector<rank_layers> read_all(const List& list, const place& at, std::string_view field) {
  std::vector<rank_layers> all;
  within(list.size(), 0, entries_max, at / field);
  for (int i = 0; i < list.size(); ++i) all.push_back(read(list[i], at.item(field, i)));
  return all;
}

void write(const fence_job& from, FenceJob& to) {
  to.set_job(from.job);
  to.set_round(from.round);
  append(from.attempts, *to.mutable_attempts());
}

fence_job read(const FenceJob& in, const place& at) {
  within(in.attempts_size(), 0, ranks_max, at / "attempts");
  return {.job = in.job(), .round = in.round(), .attempts = {in.attempts().begin(), in.attempts().end()}};
}

void write(const place_blocks& from, PlaceBlocks& to) {
  to.set_job(from.job);
  to.set_round(from.round);
  for (const auto& relay : from.relays) to.add_relays(relay);
  for (const auto& held : from.holders) write(held, *to.add_holders());
  for (const auto& forwarding : from.forwardings) {
    auto& entry = *to.add_forwardings();
    entry.set_to(forwarding.to);
    write(forwarding.blocks, *entry.mutable_blocks());
  }
}

place_blocks read(const PlaceBlocks& in, const place& at) {
  place_blocks blocks{.job = in.job(), .round = in.round()};
  within(in.relays_size(), 0, ranks_max, at / "relays");
  for (int i = 0; i < in.relays_size(); ++i) blocks.relays.push_back(address(in.relays(i), at.item("relays", i)));
  blocks.holders = read_all(in.holders(), at, "holders");
  for (int i = 0; i < in.forwardings_size(); ++i) {
    const auto& entry = in.forwardings(i);
    const auto here = at.item("forwardings", i);
    blocks.forwardings.push_back({address(entry.to(), here / "to"), read(entry.blocks(), here / "blocks")});
  }
  return blocks;
}

void write(const detour_job& from, DetourJob& to) {
  to.set_job(from.job);
  for (const auto& detour : from.detours) {
    auto& entry = *to.add_detours();
    entry.set_one(detour.one);
    entry.set_other(detour.other);
    entry.set_via(detour.via);
  }
}

detour_job read(const DetourJob& in, const place& at) {
  detour_job all{.job = in.job(), .detours = {}};
  within(in.detours_size(), 0, entries_max, at / "detours");
  for (int i = 0; i < in.detours_size(); ++i) {
    const auto& entry = in.detours(i);
    const auto here = at.item("detours", i);
    all.detours.push_back({address(entry.one(), here / "one"), address(entry.other(), here / "other"),
                           address(entry.via(), here / "via")});
  }
  return all;
}

template <class List>
std::vector<std::string> addresses(const List& list, const place& at, std::string_view field) {
  std::vector<std::string> all;
  within(list.size(), 0, ranks_max, at / field);
  for (int i = 0; i < list.size(); ++i) all.push_back(address(list[i], at.item(field, i)));
  return all;
}

void write(const probe_paths& from, ProbePaths& to) {
  to.set_job(from.job);
  to.set_round(from.round);
  for (const auto& relay : from.to) to.add_to(relay);
  for (const auto& relay : from.via) to.add_via(relay);
  to.set_within_ms(from.within_ms);
}

probe_paths read(const ProbePaths& in, const place& at) {
  return {.job = in.job(),
          .round = in.round(),
          .to = addresses(in.to(), at, "to"),
          .via = addresses(in.via(), at, "via"),
          .within_ms = within(in.within_ms(), 0, INT32_MAX, at / "within_ms")};
}

// ---- relay to coordinator ----

void write(const relay_ready& from, RelayReady& to) {
  to.set_node(from.node);
  to.set_log_bytes_max(from.log_bytes_max);
  to.set_address(from.address);
  to.set_pid(from.pid);
  append(from.jobs, *to.mutable_jobs());
}

relay_ready read(const RelayReady& in, const place& at) {
  within(in.jobs_size(), 0, held_jobs_max, at / "jobs");
  return {.node = text(in.node(), at / "node"),
          .log_bytes_max = byte_count(in.log_bytes_max(), at / "log_bytes_max"),
          .address = address(in.address(), at / "address"),
          .pid = process_number(in.pid(), at / "pid"),
          .jobs = {in.jobs().begin(), in.jobs().end()}};
}

void write(const relay_alive& from, RelayAlive& to) { to.set_log_bytes(from.log_bytes); }

relay_alive read(const RelayAlive& in, const place& at) {
  return {.log_bytes = byte_count(in.log_bytes(), at / "log_bytes")};
}

void write(const log_reserved& from, LogReserved& to) { to.set_job(from.job); }

log_reserved read(const LogReserved& in, const place&) { return {.job = in.job()}; }

void write(const log_refused& from, LogRefused& to) {
  to.set_job(from.job);
  to.set_bytes_asked(from.bytes_asked);
  to.set_bytes_free(from.bytes_free);
}

log_refused read(const LogRefused& in, const place& at) {
  return {.job = in.job(),
          .bytes_asked = byte_count(in.bytes_asked(), at / "bytes_asked"),
          .bytes_free = byte_count(in.bytes_free(), at / "bytes_free")};
}

void write(const log_failed& from, LogFailed& to) {
  to.set_job(from.job);
  write(from.why, *to.mutable_why());
}

log_failed read(const LogFailed& in, const place& at) { return {.job = in.job(), .why = read(in.why(), at / "why")}; }

void write(const job_fenced& from, JobFenced& to) {
  to.set_job(from.job);
  to.set_round(from.round);
  for (const auto& held : from.held) write(held, *to.add_held());
}

job_fenced read(const JobFenced& in, const place& at) {
  return {.job = in.job(), .round = in.round(), .held = read_all(in.held(), at, "held")};
}

void write(const block_damaged& from, BlockDamaged& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  to.set_layer(from.layer);
}

block_damaged read(const BlockDamaged& in, const place& at) {
  return {.job = in.job(), .rank = rank(in.rank(), at / "rank"), .layer = layer(in.layer(), at / "layer")};
}

void write(const paths_probed& from, PathsProbed& to) {
  to.set_job(from.job);
  to.set_round(from.round);
  for (const auto& path : from.reached) {
    auto& entry = *to.add_reached();
    entry.set_to(path.to);
    entry.set_via(path.via);
  }
}

paths_probed read(const PathsProbed& in, const place& at) {
  paths_probed probed{.job = in.job(), .round = in.round(), .reached = {}};
  within(in.reached_size(), 0, entries_max, at / "reached");
  for (int i = 0; i < in.reached_size(); ++i) {
    const auto here = at.item("reached", i);
    probed.reached.push_back({address(in.reached(i).to(), here / "to"), address(in.reached(i).via(), here / "via")});
  }
  return probed;
}

void write(const worker_ended& from, WorkerEnded& to) {
  to.set_device(from.device);
  to.set_how(from.how);
  to.set_pid(from.pid);
}

worker_ended read(const WorkerEnded& in, const place& at) {
  return {.device = text(in.device(), at / "device"),
          .how = text(in.how(), at / "how"),
          .pid = process_number(in.pid(), at / "pid")};
}

}  // namespace
}  // namespace wire

std::string encode(const relay_command& command, std::uint64_t generation) {
  using namespace wire;
  RelayCommand to;
  to.set_generation(generation);
  std::visit(overloaded{
                 [&](const reserve_log& c) { write(c, *to.mutable_reserve_log()); },
                 [&](const release_log& c) { write(c, *to.mutable_release_log()); },
                 [&](const fence_job& c) { write(c, *to.mutable_fence_job()); },
                 [&](const place_blocks& c) { write(c, *to.mutable_place_blocks()); },
                 [&](const detour_job& c) { write(c, *to.mutable_detour_job()); },
                 [&](const probe_paths& c) { write(c, *to.mutable_probe_paths()); },
             },
             command);
  return to.SerializeAsString();
}

relay_command decode_relay_command(std::string_view bytes, std::uint64_t* generation) {
  using namespace wire;
  const place at("relay_command");
  const auto in = parse<RelayCommand>(bytes, at);
  if (generation) *generation = in.generation();
  switch (in.kind_case()) {
    case in.kReserveLog: return read(in.reserve_log(), place("reserve_log"));
    case in.kReleaseLog: return read(in.release_log(), place("release_log"));
    case in.kFenceJob: return read(in.fence_job(), place("fence_job"));
    case in.kPlaceBlocks: return read(in.place_blocks(), place("place_blocks"));
    case in.kDetourJob: return read(in.detour_job(), place("detour_job"));
    case in.kProbePaths: return read(in.probe_paths(), place("probe_paths"));
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

std::string encode(const relay_report& report) {
  using namespace wire;
  RelayReport to;
  std::visit(overloaded{
                 [&](const relay_ready& r) { write(r, *to.mutable_relay_ready()); },
                 [&](const relay_alive& r) { write(r, *to.mutable_relay_alive()); },
                 [&](const log_reserved& r) { write(r, *to.mutable_log_reserved()); },
                 [&](const log_refused& r) { write(r, *to.mutable_log_refused()); },
                 [&](const log_failed& r) { write(r, *to.mutable_log_failed()); },
                 [&](const job_fenced& r) { write(r, *to.mutable_job_fenced()); },
                 [&](const worker_ended& r) { write(r, *to.mutable_worker_ended()); },
                 [&](const block_damaged& r) { write(r, *to.mutable_block_damaged()); },
                 [&](const paths_probed& r) { write(r, *to.mutable_paths_probed()); },
             },
             report);
  return to.SerializeAsString();
}

relay_report decode_relay_report(std::string_view bytes) {
  using namespace wire;
  const place at("relay_report");
  const auto in = parse<RelayReport>(bytes, at);
  switch (in.kind_case()) {
    case in.kRelayReady: return read(in.relay_ready(), place("relay_ready"));
    case in.kLogReserved: return read(in.log_reserved(), place("log_reserved"));
    case in.kLogRefused: return read(in.log_refused(), place("log_refused"));
    case in.kRelayAlive: return read(in.relay_alive(), place("relay_alive"));
    case in.kLogFailed: return read(in.log_failed(), place("log_failed"));
    case in.kJobFenced: return read(in.job_fenced(), place("job_fenced"));
    case in.kWorkerEnded: return read(in.worker_ended(), place("worker_ended"));
    case in.kBlockDamaged: return read(in.block_damaged(), place("block_damaged"));
    case in.kPathsProbed: return read(in.paths_probed(), place("paths_probed"));
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

}  // namespace baton
