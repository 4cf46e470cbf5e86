#include "runtime/cluster/client_outbox.hpp"

#include <algorithm>
#include <utility>

namespace baton {
namespace {

/// About what an update takes; small ones are all alike.
std::size_t weight(const client_update& update) {
  std::size_t elements = 0;
  if (const auto* units = std::get_if<chosen_units>(&update)) elements = units->indices.size();
  if (const auto* logits = std::get_if<first_logits>(&update)) elements = logits->values.size();
  if (const auto* trace = std::get_if<trace_spans>(&update))
    elements = 12 * (trace->recorded.spans.size() + trace->recorded.blocks.size());
  if (const auto* progress = std::get_if<job_progress>(&update)) elements = 12 * progress->ranks.size();
  if (const auto* finished = std::get_if<job_finished>(&update))
    elements = finished->answer_ids.size() + 60 * finished->ranks.size();
  if (const auto* started = std::get_if<job_started>(&update)) elements = 60 * started->plan.shards.size();
  return 200 + 4 * elements;
}

}  // namespace

void client_outbox::put(client_update update, double now_s) {
  if (const auto* progress = std::get_if<job_progress>(&update)) {
    const auto older = std::ranges::find_if(waiting_, [&](const client_update& waits) {
      const auto* other = std::get_if<job_progress>(&waits);
      return other && other->job == progress->job;
    });
    if (older != waiting_.end()) {
      *older = std::move(update);
      return;
    }
  }
  if (waiting_.empty()) moved_s_ = now_s;
  bytes_ += weight(update);
  waiting_.push_back(std::move(update));
}

void client_outbox::granted(std::uint32_t count, double now_s) {
  credit_ = std::min<std::uint64_t>(credit_ + count, UINT32_MAX);
  if (count > 0) moved_s_ = now_s;
}

std::vector<client_update> client_outbox::take() {
  std::vector<client_update> now;
  while (!waiting_.empty() && (limits_.credit == 0 || credit_ > 0)) {
    if (limits_.credit > 0) --credit_;
    bytes_ -= std::min(bytes_, weight(waiting_.front()));
    now.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return now;
}

}  // namespace baton
