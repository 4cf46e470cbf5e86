#include "runtime/device/pass.hpp"

#include <algorithm>

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
  stage_ = stage;
  stage_step_ = step;
  chunk_ = 0;
  if (trace_ && device_ == nullptr) trace_->enter(stage, step, layer);
}

void pass::time_on(backend& kernels, stream& queue) {
  if (kernels.computes_on_host()) return;
  device_ = &kernels;
  queue_ = &queue;
  kernels.synchronize(queue);
  origin_ = kernels.record(queue);
  origin_on_host_ = clock::now();
}

std::unique_ptr<event> pass::mark() const { return device_ == nullptr ? nullptr : device_->record(*queue_); }

void pass::settle_timings() {
  if (device_ == nullptr) return;
  const auto on_host = [this](const event& at) {
    return origin_on_host_ +
           std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(at.seconds_since(*origin_)));
  };
  for (const auto& span : spans_) {
    const double seconds = span.end->seconds_since(*span.begin);
    if (!span.of) {
      timings_.wait_s += seconds;
      continue;
    }
    timings_.phase_s[static_cast<std::size_t>(*span.of)] += seconds;
    timings_.compute_s += seconds;
    if (!trace_) continue;
    trace_->enter(span.stage, span.step, span.layer);
    trace_->did(static_cast<activity>(*span.of), on_host(*span.begin), on_host(*span.end));
  }
  spans_.clear();
}

void pass::spent(phase p, clock::time_point begin, clock::time_point end, std::unique_ptr<event> begun_on_device) {
  if (stage_ == block_phase::prefill && (p == phase::project || p == phase::attend || p == phase::feed_forward)) {
    const auto layer = static_cast<std::size_t>(progress_.layer.load(std::memory_order_relaxed));
    computed_.resize(std::max(computed_.size(), layer + 1));
    ++computed_[layer];
  }
  if (begun_on_device) {
    spans_.push_back(
        {p, stage_, stage_step_, progress_.layer.load(std::memory_order_relaxed), std::move(begun_on_device), mark()});
    return;
  }
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
    if (trace_ && device_ == nullptr) trace_->waits(missing, clock::now());
    return state::waiting;
  }
  if (waiting_since_) {
    if (device_ == nullptr) timings_.wait_s += seconds_between(*waiting_since_, entered);
    waiting_since_.reset();
    progress_.waiting_for.store(-1, std::memory_order_relaxed);
    if (trace_ && device_ == nullptr) trace_->waited(entered);
    if (waiting_since_on_device_) {
      spans_.push_back({std::nullopt, stage_, stage_step_, progress_.layer.load(std::memory_order_relaxed),
                        std::move(waiting_since_on_device_), mark()});
    }
  }
  ++chunk_;
  place_.resume_at.resume();
  const auto left = clock::now();
  if (device_ == nullptr) timings_.compute_s += seconds_between(entered, left);
  timings_.total_s = seconds_between(*begun_, left);
  progress_.chunks.fetch_add(1, std::memory_order_relaxed);
  if (body_->done()) {
    body_->rethrow();
    return state::finished;
  }
  if (!place_.waiting_for) return state::can_go_on;
  waiting_since_ = left;
  waiting_since_on_device_ = mark();
  if (trace_ && device_ == nullptr) trace_->waits(place_.waiting_for->missing_rank(), left);
  return state::waiting;
}

}  // namespace baton
