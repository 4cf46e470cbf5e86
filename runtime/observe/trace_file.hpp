#pragma once

#include <cstdint>
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
/// there was no room for. With `unit_bytes`, what K and V of one token and one KV head take, a counter ("C") says how many bytes of
/// compressed blocks have been sent and not yet been taken, each target's for itself. Another for each device says how many bytes of its
/// memory for jobs were lent. `ranks` in rank order.
void write_trace(std::ostream& out, const job_plan& plan, std::span<const rank_trace> ranks,
                 std::int64_t unit_bytes = 0);

/// The same into a file. Throws fault(bad_input) where it cannot be written.
void write_trace(const std::filesystem::path& path, const job_plan& plan, std::span<const rank_trace> ranks,
                 std::int64_t unit_bytes = 0);

}  // namespace baton
