#include "runtime/device/pass.hpp"

namespace baton {

std::string_view name_of(phase p) {
  constexpr std::array<std::string_view, phase_count> names{"project", "compress", "exchange", "attend",
                                                            "feed_forward"};
  return names[static_cast<std::size_t>(p)];
}

void pass::begin(task&& body) {
  body_.emplace(std::move(body));
  body_->start(place_);
}

double pass::elapsed_s() const { return begun_ ? std::chrono::duration<double>(clock::now() - *begun_).count() : 0; }

pass::state pass::step() {
  const auto entered = clock::now();
  const auto seconds_since = [](clock::time_point then, clock::time_point now) {
    return std::chrono::duration<double>(now - then).count();
  };
  if (!begun_) begun_ = entered;
  if (place_.waiting_for && !place_.waiting_for->done()) {
    progress_.waiting_for.store(place_.waiting_for->missing_rank(), std::memory_order_relaxed);
    return state::waiting;
  }
  if (waiting_since_) {
    timings_.wait_s += seconds_since(*waiting_since_, entered);
    waiting_since_.reset();
    progress_.waiting_for.store(-1, std::memory_order_relaxed);
  }
  place_.resume_at.resume();
  const auto left = clock::now();
  timings_.compute_s += seconds_since(entered, left);
  timings_.total_s = seconds_since(*begun_, left);
  progress_.chunks.fetch_add(1, std::memory_order_relaxed);
  if (body_->done()) {
    body_->rethrow();
    return state::finished;
  }
  if (!place_.waiting_for) return state::can_go_on;
  waiting_since_ = left;
  return state::waiting;
}

}  // namespace baton
