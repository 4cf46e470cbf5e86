#pragma once

#include "runtime/cluster/messages.hpp"
#include "runtime/wire/checks.hpp"
#include "runtime/wire/worker.pb.h"

/// The parts of worker.proto that clients hear of too. `write` fills a message; `read` checks one, whose place is `at`.
namespace baton::wire {

void write(const failure& from, Failure& to);
failure read(const Failure& in, const place& at);

void write(const shard_progress& from, ShardProgress& to);
shard_progress read(const ShardProgress& in, const place& at);

void write(const shard_timings& from, ShardTimings& to);
shard_timings read(const ShardTimings& in, const place& at);

void write(const chosen_units& from, ChosenUnits& to);
chosen_units read(const ChosenUnits& in, const place& at);

void write(const trace_spans& from, TraceSpans& to);
trace_spans read(const TraceSpans& in, const place& at);

void write(const answer_token& from, AnswerToken& to);
answer_token read(const AnswerToken& in, const place& at);

void write(const first_logits& from, FirstLogits& to);
first_logits read(const FirstLogits& in, const place& at);

}  // namespace baton::wire
