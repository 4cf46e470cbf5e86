#include "runtime/strategy/strategy.hpp"

#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using strategy_source = const strategy& (*)();
constexpr std::array<strategy_source, 3> strategies{full_strategy, star_strategy, apb_strategy};

}  // namespace

const strategy& find_strategy(std::string_view name) {
  for (const auto source : strategies) {
    if (source().name() == name) return source();
  }
  throw fault(fault_code::bad_input, fmt::format("'{}' is unknown; one of {}", name, fmt::join(strategy_names(), ", ")),
              "strategy");
}

std::vector<std::string_view> strategy_names() {
  std::vector<std::string_view> names;
  for (const auto source : strategies) names.push_back(source().name());
  return names;
}

}  // namespace baton
