#include "runtime/cluster/job_store.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {

superseded::superseded(const std::string& store, std::uint64_t by_generation)
    : fault(fault_code::lost_peer,
            fmt::format("a coordinator of generation {} has taken its jobs over; this one has nothing to say any more",
                        by_generation),
            store) {}

job_state state_of(const client_update& end) {
  const auto* failed = std::get_if<job_failed>(&end);
  if (!failed) return job_state::finished;
  return failed->why.code == fault_code::cancelled ? job_state::cancelled : job_state::failed;
}

job_summary summary_of(const stored_job& job) {
  job_summary summary{job.id,
                      job.state,
                      job.asked.options.strategy,
                      job.asked.options.ranks,
                      job.asked.document_tokens,
                      job.asked.detached,
                      {}};
  if (const auto* failed = job.end ? std::get_if<job_failed>(&*job.end) : nullptr)
    summary.why = (failed->why.where.empty() ? "" : failed->why.where + ": ") + failed->why.what;
  constexpr std::size_t why_max = 400;  // a list of jobs goes in one message
  if (summary.why.size() > why_max) summary.why.resize(why_max);
  return summary;
}

job_id memory_store::keep(const submit_job& asked, std::span<const std::int32_t> ids) {
  const job_id id = ++last_;
  jobs_[id] = {{id, asked, job_state::queued, {}, {}}, {ids.begin(), ids.end()}};
  return id;
}

std::optional<stored_job> memory_store::find(job_id id) {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? std::nullopt : std::optional(found->second.job);
}

std::optional<stored_job> memory_store::find(const std::string& request_id) {
  const auto found =
      std::ranges::find_if(jobs_, [&](const auto& e) { return e.second.job.asked.request_id == request_id; });
  return found == jobs_.end() ? std::nullopt : std::optional(found->second.job);
}

std::vector<std::int32_t> memory_store::ids_of(job_id id) { return jobs_.at(id).ids; }

void memory_store::ended(job_id id, const std::optional<job_started>& started, const client_update& end) {
  auto& entry = jobs_.at(id);
  entry.job.state = state_of(end);
  entry.job.started = started;
  entry.job.end = end;
  entry.job.begun.reset();
  entry.ids = {};
  const auto has_ended = [](const auto& e) { return e.second.job.end.has_value(); };
  if (static_cast<std::size_t>(std::ranges::count_if(jobs_, has_ended)) > ended_max)
    jobs_.erase(std::ranges::find_if(jobs_, has_ended));
}

std::vector<stored_job> memory_store::unfinished() {
  std::vector<stored_job> all;
  for (const auto& [id, entry] : jobs_) {
    if (!entry.job.end) all.push_back(entry.job);
  }
  return all;
}

std::vector<job_summary> memory_store::newest(std::size_t count_max) {
  std::vector<job_summary> all;
  for (auto entry = jobs_.rbegin(); entry != jobs_.rend() && all.size() < count_max; ++entry)
    all.push_back(summary_of(entry->second.job));
  return all;
}

}  // namespace baton
