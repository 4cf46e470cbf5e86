#include "actors/followed_job.hpp"

#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {

followed_job::followed_job(run_view& view, const tokenizer* words, int layers,
                           std::function<plan_costs(const job_plan&)> costs)
    : view_(view), layers_(layers), costs_(std::move(costs)), words_(words) {
  if (words) text_.emplace(*words);
}

void followed_job::say(const std::string& piece) {
  answer_ += piece;
  view_.answer_text(piece);
}

void followed_job::token(std::size_t index, std::int32_t id) {
  if (index > shown_.size()) return;
  if (index < shown_.size()) {
    if (shown_[index] == id) return;
    shown_.resize(index);
    show_again(std::exchange(shown_, {}));
  }
  shown_.push_back(id);
  if (text_) say(text_->push(id));
}

void followed_job::show_again(std::vector<std::int32_t>&& from_here) {
  view_.answer_done();
  view_.message("it has begun anew under another plan, and the answer is another one");
  answer_.clear();
  if (words_) text_.emplace(*words_);
  for (std::size_t i = 0; i < from_here.size(); ++i) token(i, from_here[i]);
}

bool followed_job::take(const client_update& update) {
  if (const auto* accepted = std::get_if<job_accepted>(&update)) {
    if (accepted->waiting > 0)
      view_.message(fmt::format("job {} waits behind {} other{}", accepted->job, accepted->waiting,
                                accepted->waiting == 1 ? "" : "s"));
    id_ = accepted->job;
    view_.job(static_cast<std::int64_t>(accepted->job));
  } else if (const auto* refused = std::get_if<job_refused>(&update)) {
    throw fault(refused->why.code, refused->why.what, refused->why.where);
  } else if (const auto* unknown = std::get_if<job_unknown>(&update)) {
    throw fault(fault_code::bad_input, "the coordinator knows no such job; baton jobs lists them",
                fmt::format("job {}", unknown->job));
  } else if (const auto* started = std::get_if<job_started>(&update)) {
    if (std::exchange(started_, true))
      view_.message(fmt::format("job {} is told from its beginning again", started->job));
    plan_ = started->plan;
    done_ = {};
    done_.trace.resize(plan_.shards.size());
    view_.plan(plan_, costs_(plan_), layers_);
  } else if (const auto* progress = std::get_if<job_progress>(&update)) {
    view_.progress(*progress);
  } else if (const auto* prefilled = std::get_if<prefill_finished>(&update)) {
    view_.prefill_done(prefilled->prefill_s);
  } else if (const auto* next = std::get_if<answer_token>(&update)) {
    if (next->index >= 0) token(static_cast<std::size_t>(next->index), next->token);
  } else if (const auto* logits = std::get_if<first_logits>(&update)) {
    done_.logits.insert(done_.logits.end(), logits->values.begin(), logits->values.end());
  } else if (const auto* moved = std::get_if<shard_moved>(&update)) {
    view_.message(
        fmt::format("rank {} is computed again on {}/{}: {}", moved->rank, moved->node, moved->device, moved->cause),
        {{"rank", moved->rank}, {"node", moved->node}, {"device", moved->device}});
    auto& shard = plan_.shards.at(static_cast<std::size_t>(moved->rank));
    shard.node = moved->node;
    shard.device = moved->device;
  } else if (const auto* units = std::get_if<chosen_units>(&update)) {
    std::erase_if(done_.selected,
                  [&](const selected_units& told) { return told.layer == units->layer && told.rank == units->rank; });
    done_.selected.push_back({units->layer, units->rank, units->kv_heads, units->indices, units->kv_checksum});
  } else if (const auto* recorded = std::get_if<trace_spans>(&update)) {
    done_.trace.at(static_cast<std::size_t>(recorded->rank)).append(recorded->recorded);
  } else if (const auto* failed = std::get_if<job_failed>(&update)) {
    view_.answer_done();
    throw fault(failed->why.code == fault_code::bad_input ? fault_code::internal : failed->why.code, failed->why.what,
                failed->why.where);
  } else if (const auto* finished = std::get_if<job_finished>(&update)) {
    // Of a job that had ended before only its end is told.
    const auto& ids = finished->answer_ids;
    if (ids.size() < shown_.size()) {
      shown_.clear();
      show_again({ids.begin(), ids.end()});
    }
    for (std::size_t i = 0; i < ids.size(); ++i) token(i, ids[i]);
    if (text_) say(text_->finish());
    view_.answer_done();
    done_.id = finished->job;
    done_.result = make_run_result(plan_, *finished, answer_);
    return true;
  }
  return false;
}

}  // namespace baton
