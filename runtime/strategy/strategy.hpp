#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/device/task.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

class layer;

/// The lengths that a strategy is asked to split. `block_tokens` has one entry per rank and sums to n.
struct split_request {
  std::int64_t document_tokens = 0;
  std::int64_t query_tokens = 0;
  std::int64_t system_tokens = 0;
  std::vector<std::int64_t> block_tokens;
  std::int64_t anchor_tokens = 0;
  std::int64_t passing_tokens = 0;
  compressor_kind compressor = compressor_kind::none;
};

/// One way to spread a prefill: how the document is split, and what happens in a layer between the projections and the
/// output projection. Stateless; adding one is adding a file here and a line to the table in strategy.cpp.
class strategy {
 public:
  virtual ~strategy() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  /// Whether a job of this strategy may have more than one rank.
  [[nodiscard]] virtual bool splits() const { return true; }
  /// Whether ranks pass compressed blocks, so that l_p and a compressor mean something.
  [[nodiscard]] virtual bool compresses() const { return false; }
  /// l_a and l_p that the strategy takes when asked for `asked` (empty: auto). Throws fault(bad_input).
  [[nodiscard]] virtual published_budget budget(const job_options& asked, std::span<const std::int64_t> block_tokens,
                                                std::int64_t document_tokens) const = 0;
  /// Shards in rank order, not yet placed. Pure. Throws fault(bad_input).
  [[nodiscard]] virtual std::vector<shard_plan> split(const split_request& request) const = 0;
  /// Compression, exchange and attention of one layer on one rank. Suspends where it would wait.
  virtual task attend(layer& l) const = 0;
};

/// Throws fault(bad_input) that lists the known names.
const strategy& find_strategy(std::string_view name);
std::vector<std::string_view> strategy_names();

const strategy& full_strategy();
const strategy& star_strategy();
const strategy& apb_strategy();

}  // namespace baton
