#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/cluster/messages.hpp"
#include "runtime/model/detokenizer.hpp"
#include "runtime/observe/dump.hpp"
#include "runtime/observe/run_result.hpp"
#include "runtime/observe/run_view.hpp"

namespace baton {

struct finished_job {
  job_id id = 0;
  run_result result;
  std::vector<float> logits;
  std::vector<selected_units> selected;
  std::vector<rank_trace> trace;  ///< of each rank
};

/// What a client hears of one job, shown as it comes and put together. A job may begin anew, and a client may hear the same things
/// again from a coordinator's successor: the answer's tokens are shown once. One thread; borrows view and tokenizer.
class followed_job {
 public:
  /// `words` may be null: the answer then has ids and no text. `costs` is asked for the plan that is shown.
  followed_job(run_view& view, const tokenizer* words, int layers, std::function<plan_costs(const job_plan&)> costs);

  /// True once it has finished. Throws the fault that it was refused with or has failed with: bad_input only where it was refused.
  bool take(const client_update& update);
  /// Once it was accepted.
  [[nodiscard]] std::optional<job_id> id() const { return id_; }
  [[nodiscard]] finished_job take_result() { return std::move(done_); }

 private:
  /// The token at that place of the answer, shown unless it has been.
  void token(std::size_t index, std::int32_t id);
  /// A job that began anew, under another plan, may come to another answer: it is shown from its beginning.
  void show_again(std::vector<std::int32_t>&& from_here);
  void say(const std::string& piece);

  run_view& view_;
  const int layers_;
  const std::function<plan_costs(const job_plan&)> costs_;
  std::optional<detokenizer> text_;
  std::optional<job_id> id_;
  bool started_ = false;
  job_plan plan_;
  std::string answer_;
  const tokenizer* words_;
  std::vector<std::int32_t> shown_;  ///< of the answer, so far
  finished_job done_;
};

}  // namespace baton
