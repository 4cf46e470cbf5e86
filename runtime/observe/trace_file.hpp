#pragma once

#include <filesystem>
#include <iosfwd>
#include <span>

#include "runtime/observe/trace.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// Writes a job's trace as Chrome trace event JSON, which https://ui.perfetto.dev and chrome://tracing open: one process, in it a
/// thread per rank, named "rank 3 (node/device)" and in the order of ranks. A span is a complete event ("X") whose category is the
/// stage (prefill, query, decode) and whose arguments are layer, step and, where it waits, the rank that is waited for. A block that
/// both ends recorded is a flow ("s", "f") from the slice in which its source sent it to the slice in which its target took it, once
/// for each target. Microseconds count from the first event; otherData.begin_unix_us says when that was, otherData.dropped what
/// there was no room for. `ranks` in rank order.
void write_trace(std::ostream& out, const job_plan& plan, std::span<const rank_trace> ranks);

/// The same into a file. Throws fault(bad_input) where it cannot be written.
void write_trace(const std::filesystem::path& path, const job_plan& plan, std::span<const rank_trace> ranks);

}  // namespace baton
