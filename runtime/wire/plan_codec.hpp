#pragma once

#include "runtime/plan/job_plan.hpp"
#include "runtime/wire/checks.hpp"
#include "runtime/wire/plan.pb.h"

/// plan.proto for the codecs of the conversations. `write` fills a message; `read` checks one, whose place is `at`. A
/// part that is missing reads as one that is empty, and no part is valid empty.
namespace baton::wire {

void write(const sampling_options& from, SamplingOptions& to);
sampling_options read(const SamplingOptions& in, const place& at);

/// Zeros pass: make_job_plan refuses them in the words of whoever asked.
void write(const job_options& from, JobOptions& to);
job_options read(const JobOptions& in, const place& at);

void write(const job_plan& from, JobPlan& to);
job_plan read(const JobPlan& in, const place& at);

}  // namespace baton::wire
