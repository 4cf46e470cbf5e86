#include "runtime/wire/checks.hpp"
#include "runtime/wire/codec.hpp"
#include "runtime/wire/relay.pb.h"

namespace baton {
namespace wire {
namespace {

// ---- coordinator to relay ----

void write(const reserve_log& from, ReserveLog& to) {
  to.set_job(from.job);
  to.set_bytes(from.bytes);
}

reserve_log read(const ReserveLog& in, const place& at) {
  return {.job = in.job(), .bytes = byte_count(in.bytes(), at / "bytes")};
}

void write(const release_log& from, ReleaseLog& to) { to.set_job(from.job); }

release_log read(const ReleaseLog& in, const place&) { return {.job = in.job()}; }

// ---- relay to coordinator ----

void write(const relay_ready& from, RelayReady& to) {
  to.set_node(from.node);
  to.set_log_bytes_max(from.log_bytes_max);
}

relay_ready read(const RelayReady& in, const place& at) {
  return {.node = text(in.node(), at / "node"), .log_bytes_max = byte_count(in.log_bytes_max(), at / "log_bytes_max")};
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

}  // namespace
}  // namespace wire

std::string encode(const relay_command& command) {
  using namespace wire;
  RelayCommand to;
  std::visit(overloaded{
                 [&](const reserve_log& c) { write(c, *to.mutable_reserve_log()); },
                 [&](const release_log& c) { write(c, *to.mutable_release_log()); },
             },
             command);
  return to.SerializeAsString();
}

relay_command decode_relay_command(std::string_view bytes) {
  using namespace wire;
  const place at("relay_command");
  const auto in = parse<RelayCommand>(bytes, at);
  switch (in.kind_case()) {
    case in.kReserveLog: return read(in.reserve_log(), place("reserve_log"));
    case in.kReleaseLog: return read(in.release_log(), place("release_log"));
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

std::string encode(const relay_report& report) {
  using namespace wire;
  RelayReport to;
  std::visit(overloaded{
                 [&](const relay_ready& r) { write(r, *to.mutable_relay_ready()); },
                 [&](const log_reserved& r) { write(r, *to.mutable_log_reserved()); },
                 [&](const log_refused& r) { write(r, *to.mutable_log_refused()); },
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
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

}  // namespace baton
