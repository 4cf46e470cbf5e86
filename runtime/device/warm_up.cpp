#include "runtime/device/warm_up.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "kernels/fault.hpp"
#include "runtime/decode/decode_pass.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/prefill/prefill_pass.hpp"

namespace baton {
namespace {

constexpr std::int64_t tokens_max = 2048;
constexpr std::int64_t query_tokens = 8;
constexpr int answer_tokens = 3;  // the second is captured, the third launched again

/// One rank exchanges nothing.
class nobody final : public transport {
 public:
  transfer exchange(std::span<const outgoing_block>, std::span<const incoming_block>) override {
    throw fault(fault_code::internal, "a device that warms up has no peers");
  }
  void rewire(int, const rank_place&) override {}
  void abort() noexcept override {}
  [[nodiscard]] transport_counts counts() const override { return {}; }

 private:
  bool poll(std::uint64_t) override { return true; }
  [[nodiscard]] int missing_rank(std::uint64_t) const override { return -1; }
  void cancel(std::uint64_t) noexcept override {}
};

void run(pass& whole) {
  while (whole.step() != pass::state::finished) {
  }
}

void prefill_and_answer(device_context& device, std::int64_t tokens) {
  const auto& options = device.options();
  plan_request request;
  request.document_tokens = tokens;
  request.query_tokens = query_tokens;
  request.options.strategy = "full";
  request.options.chunk_tokens = options.chunk_tokens_max;
  request.options.max_new_tokens = answer_tokens;
  const std::array here{device_view{options.node, options.name, device.kernels().kernel_class()}};
  const auto plan = make_job_plan(request, here);
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
  nobody network;
  pass_progress progress;
  prefill_pass prefill(device, plan, 0, 0, ids, network, progress);
  run(prefill);
  const kv_shard kept = prefill.take_shard();
  question asked;
  asked.query_ids.assign(query_tokens, 0);
  asked.max_new_tokens = answer_tokens;
  decode_pass answer(device, plan, 0, 0, kept, asked, network, progress, {});
  run(answer);
}

}  // namespace

void warm_up(device_context& device) {
  if (!device.kernels().computes_on_host()) static_cast<void>(rehearse(device));
}

bool rehearse(device_context& device) {
  const auto& options = device.options();
  const std::int64_t room = options.positions_max - query_tokens - answer_tokens;
  const std::int64_t tokens = std::min({tokens_max, options.chunk_tokens_max, room});
  if (tokens < 1) return false;
  try {
    prefill_and_answer(device, tokens);
    return true;
  } catch (const fault& why) {
    if (why.code() != fault_code::out_of_memory) throw;
    return false;  // the arena is made for less: the first job will be the one that warms it
  }
}

}  // namespace baton
