#include "runtime/device/pass.hpp"

#include "runtime/observe/trace.hpp"

namespace baton {
namespace {

static_assert(static_cast<std::size_t>(activity::wait) == phase_count, "a trace knows the phases and waiting");

double seconds_between(std::chrono::steady_clock::time_point begin, std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

std::string_view name_of(phase p) {
  constexpr std::array<std::string_view, phase_count> names{"project", "compress", "exchange", "attend",
                                                            "feed_forward"};
  return names[static_cast<std::size_t>(p)];
}

void pass::begin(task&& body) {
  body_.emplace(std::move(body));
  body_->start(place_);
}

double pass::elapsed_s() const { return begun_ ? seconds_between(*begun_, clock::now()) : 0; }

void pass::enter(block_phase stage, std::uint32_t step, int layer) {
  progress_.layer.store(layer, std::memory_order_relaxed);
  if (trace_) trace_->enter(stage, step, layer);
}

void pass::spent(phase p, clock::time_point begin, clock::time_point end) {
  timings_.phase_s[static_cast<std::size_t>(p)] += seconds_between(begin, end);
  if (trace_) trace_->did(static_cast<activity>(p), begin, end);
}

void pass::device_idled(std::chrono::steady_clock::duration slept) {
  if (waiting_since_) timings_.exposed_wait_s += std::chrono::duration<double>(slept).count();
}

pass::state pass::step() {
  const auto entered = clock::now();
  if (!begun_) begun_ = entered;
  if (place_.waiting_for && !place_.waiting_for->done()) {
    const int missing = place_.waiting_for->missing_rank();
    progress_.waiting_for.store(missing, std::memory_order_relaxed);
    if (trace_) trace_->waits(missing, clock::now());
    return state::waiting;
  }
  if (waiting_since_) {
    timings_.wait_s += seconds_between(*waiting_since_, entered);
    waiting_since_.reset();
    progress_.waiting_for.store(-1, std::memory_order_relaxed);
    if (trace_) trace_->waited(entered);
  }
  place_.resume_at.resume();
  const auto left = clock::now();
  timings_.compute_s += seconds_between(entered, left);
  timings_.total_s = seconds_between(*begun_, left);
  progress_.chunks.fetch_add(1, std::memory_order_relaxed);
  if (body_->done()) {
    body_->rethrow();
    return state::finished;
  }
  if (!place_.waiting_for) return state::can_go_on;
  waiting_since_ = left;
  if (trace_) trace_->waits(place_.waiting_for->missing_rank(), left);
  return state::waiting;
}

}  // namespace baton
