#include "runtime/wire/client.pb.h"
#include "runtime/wire/codec.hpp"
#include "runtime/wire/plan_codec.hpp"
#include "runtime/wire/status_codec.hpp"
#include "runtime/wire/worker_codec.hpp"

namespace baton {
namespace wire {
namespace {

// ---- client to coordinator ----

void write(const submit_job& from, SubmitJob& to) {
  to.set_request_id(from.request_id);
  write(from.options, *to.mutable_options());
  to.set_document_tokens(from.document_tokens);
  to.set_query_tokens(from.query_tokens);
  to.set_system_tokens(from.system_tokens);
  append(from.stop_tokens, *to.mutable_stop_tokens());
  to.set_report_dump(from.report_dump);
  to.set_report_trace(from.report_trace);
  to.set_detached(from.detached);
}

submit_job read(const SubmitJob& in, const place& at) {
  return {.request_id = text(in.request_id(), at / "request_id"),
          .options = read(in.options(), at / "options"),
          .document_tokens = tokens(in.document_tokens(), at / "document_tokens"),
          .query_tokens = within(in.query_tokens(), 0, tokens_max - in.document_tokens(), at / "query_tokens"),
          .system_tokens = within(in.system_tokens(), 0, in.document_tokens(), at / "system_tokens"),
          .stop_tokens = ids(in.stop_tokens(), at / "stop_tokens"),
          .report_dump = in.report_dump(),
          .report_trace = in.report_trace(),
          .detached = in.detached()};
}

void write(const submit_ids& from, SubmitIds& to) {
  to.set_request_id(from.request_id);
  to.set_first(from.first);
  append(from.ids, *to.mutable_ids());
}

submit_ids read(const SubmitIds& in, const place& at) {
  return {.request_id = text(in.request_id(), at / "request_id"),
          .first = tokens(in.first(), at / "first"),
          .ids = piece(in.ids(), at / "ids")};
}

void write(const cancel_job& from, CancelJob& to) { to.set_job(from.job); }

cancel_job read(const CancelJob& in, const place&) { return {.job = in.job()}; }

void write(const follow_job& from, FollowJob& to) { to.set_job(from.job); }

follow_job read(const FollowJob& in, const place&) { return {.job = in.job()}; }

void write(const grant_updates& from, GrantUpdates& to) { to.set_count(from.count); }

grant_updates read(const GrantUpdates& in, const place&) { return {.count = in.count()}; }

// ---- coordinator to client ----

void write(const job_accepted& from, JobAccepted& to) {
  to.set_request_id(from.request_id);
  to.set_job(from.job);
  to.set_waiting(from.waiting);
}

job_accepted read(const JobAccepted& in, const place& at) {
  return {.request_id = text(in.request_id(), at / "request_id"), .job = in.job(), .waiting = in.waiting()};
}

void write(const job_started& from, JobStarted& to) {
  to.set_job(from.job);
  write(from.plan, *to.mutable_plan());
}

job_started read(const JobStarted& in, const place& at) {
  return {.job = in.job(), .plan = read(in.plan(), at / "plan")};
}

void write(const job_refused& from, JobRefused& to) {
  to.set_request_id(from.request_id);
  write(from.why, *to.mutable_why());
}

job_refused read(const JobRefused& in, const place& at) {
  return {.request_id = text(in.request_id(), at / "request_id"), .why = read(in.why(), at / "why")};
}

void write(const job_progress& from, JobProgress& to) {
  to.set_job(from.job);
  for (const auto& progress : from.ranks) write(progress, *to.add_ranks());
}

job_progress read(const JobProgress& in, const place& at) {
  job_progress progress{.job = in.job(), .ranks = {}};
  within(in.ranks_size(), 0, ranks_max, at / "ranks");
  for (int i = 0; i < in.ranks_size(); ++i) progress.ranks.push_back(read(in.ranks(i), at.item("ranks", i)));
  return progress;
}

void write(const prefill_finished& from, PrefillFinished& to) {
  to.set_job(from.job);
  to.set_prefill_s(from.prefill_s);
}

prefill_finished read(const PrefillFinished& in, const place& at) {
  return {.job = in.job(), .prefill_s = seconds(in.prefill_s(), at / "prefill_s")};
}

void write(const rank_result& from, RankResult& to) {
  to.set_rank(from.rank);
  write(from.prefill, *to.mutable_prefill());
  write(from.answer, *to.mutable_answer());
}

rank_result read(const RankResult& in, const place& at) {
  return {.rank = rank(in.rank(), at / "rank"),
          .prefill = read(in.prefill(), at / "prefill"),
          .answer = read(in.answer(), at / "answer")};
}

void write(const shard_moved& from, ShardMoved& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  to.set_attempt(from.attempt);
  to.set_node(from.node);
  to.set_device(from.device);
  to.set_cause(from.cause);
}

shard_moved read(const ShardMoved& in, const place& at) {
  return {.job = in.job(),
          .rank = rank(in.rank(), at / "rank"),
          .attempt = in.attempt(),
          .node = text(in.node(), at / "node"),
          .device = text(in.device(), at / "device"),
          .cause = text(in.cause(), at / "cause")};
}

void write(const job_finished& from, JobFinished& to) {
  to.set_job(from.job);
  to.set_prefill_s(from.prefill_s);
  to.set_first_token_s(from.first_token_s);
  to.set_decode_s(from.decode_s);
  append(from.answer_ids, *to.mutable_answer_ids());
  for (const auto& result : from.ranks) write(result, *to.add_ranks());
  for (const auto& replay : from.replays) write(replay, *to.add_replays());
}

job_finished read(const JobFinished& in, const place& at) {
  job_finished finished{.job = in.job(),
                        .prefill_s = seconds(in.prefill_s(), at / "prefill_s"),
                        .first_token_s = seconds(in.first_token_s(), at / "first_token_s"),
                        .decode_s = seconds(in.decode_s(), at / "decode_s"),
                        .answer_ids = ids(in.answer_ids(), at / "answer_ids"),
                        .ranks = {}};
  within(in.ranks_size(), 0, ranks_max, at / "ranks");
  for (int i = 0; i < in.ranks_size(); ++i) finished.ranks.push_back(read(in.ranks(i), at.item("ranks", i)));
  for (int i = 0; i < in.replays_size(); ++i) finished.replays.push_back(read(in.replays(i), at.item("replays", i)));
  return finished;
}

void write(const job_failed& from, JobFailed& to) {
  to.set_job(from.job);
  write(from.why, *to.mutable_why());
}

job_failed read(const JobFailed& in, const place& at) { return {.job = in.job(), .why = read(in.why(), at / "why")}; }

void write(const job_unknown& from, JobUnknown& to) { to.set_job(from.job); }

job_unknown read(const JobUnknown& in, const place&) { return {.job = in.job()}; }

}  // namespace
}  // namespace wire

std::string encode(const client_request& request) {
  using namespace wire;
  ClientRequest to;
  std::visit(overloaded{
                 [&](const submit_job& r) { write(r, *to.mutable_submit_job()); },
                 [&](const submit_ids& r) { write(r, *to.mutable_submit_ids()); },
                 [&](const cancel_job& r) { write(r, *to.mutable_cancel_job()); },
                 [&](const follow_job& r) { write(r, *to.mutable_follow_job()); },
                 [&](const ask_status&) { to.mutable_ask_status(); },
                 [&](const ask_jobs&) { to.mutable_ask_jobs(); },
                 [&](const grant_updates& r) { write(r, *to.mutable_grant_updates()); },
                 [&](const client_alive&) { to.mutable_client_alive(); },
             },
             request);
  return to.SerializeAsString();
}

client_request decode_client_request(std::string_view bytes) {
  using namespace wire;
  const place at("client_request");
  const auto in = parse<ClientRequest>(bytes, at);
  switch (in.kind_case()) {
    case in.kSubmitJob: return read(in.submit_job(), place("submit_job"));
    case in.kSubmitIds: return read(in.submit_ids(), place("submit_ids"));
    case in.kCancelJob: return read(in.cancel_job(), place("cancel_job"));
    case in.kFollowJob: return read(in.follow_job(), place("follow_job"));
    case in.kAskStatus: return ask_status{};
    case in.kAskJobs: return ask_jobs{};
    case in.kGrantUpdates: return read(in.grant_updates(), place("grant_updates"));
    case in.kClientAlive: return client_alive{};
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

std::string encode(const client_update& update) {
  using namespace wire;
  ClientUpdate to;
  std::visit(overloaded{
                 [&](const job_accepted& u) { write(u, *to.mutable_job_accepted()); },
                 [&](const job_refused& u) { write(u, *to.mutable_job_refused()); },
                 [&](const job_progress& u) { write(u, *to.mutable_job_progress()); },
                 [&](const prefill_finished& u) { write(u, *to.mutable_prefill_finished()); },
                 [&](const chosen_units& u) { write(u, *to.mutable_chosen_units()); },
                 [&](const trace_spans& u) { write(u, *to.mutable_trace_spans()); },
                 [&](const answer_token& u) { write(u, *to.mutable_answer_token()); },
                 [&](const first_logits& u) { write(u, *to.mutable_first_logits()); },
                 [&](const shard_moved& u) { write(u, *to.mutable_shard_moved()); },
                 [&](const job_finished& u) { write(u, *to.mutable_job_finished()); },
                 [&](const job_failed& u) { write(u, *to.mutable_job_failed()); },
                 [&](const job_started& u) { write(u, *to.mutable_job_started()); },
                 [&](const job_unknown& u) { write(u, *to.mutable_job_unknown()); },
                 [&](const jobs_list& u) { write(u, *to.mutable_jobs_list()); },
                 [&](const cluster_status& u) { write(u, *to.mutable_cluster_status()); },
             },
             update);
  return to.SerializeAsString();
}

client_update decode_client_update(std::string_view bytes) {
  using namespace wire;
  const place at("client_update");
  const auto in = parse<ClientUpdate>(bytes, at);
  switch (in.kind_case()) {
    case in.kJobAccepted: return read(in.job_accepted(), place("job_accepted"));
    case in.kJobRefused: return read(in.job_refused(), place("job_refused"));
    case in.kJobProgress: return read(in.job_progress(), place("job_progress"));
    case in.kPrefillFinished: return read(in.prefill_finished(), place("prefill_finished"));
    case in.kChosenUnits: return read(in.chosen_units(), place("chosen_units"));
    case in.kTraceSpans: return read(in.trace_spans(), place("trace_spans"));
    case in.kAnswerToken: return read(in.answer_token(), place("answer_token"));
    case in.kFirstLogits: return read(in.first_logits(), place("first_logits"));
    case in.kShardMoved: return read(in.shard_moved(), place("shard_moved"));
    case in.kJobFinished: return read(in.job_finished(), place("job_finished"));
    case in.kJobFailed: return read(in.job_failed(), place("job_failed"));
    case in.kJobStarted: return read(in.job_started(), place("job_started"));
    case in.kJobUnknown: return read(in.job_unknown(), place("job_unknown"));
    case in.kJobsList: return read(in.jobs_list(), place("jobs_list"));
    case in.kClusterStatus: return read(in.cluster_status(), place("cluster_status"));
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

}  // namespace baton
