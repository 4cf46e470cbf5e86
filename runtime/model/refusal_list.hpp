#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/fault.hpp"

namespace baton {

/// Why something cannot be loaded: what is read goes on after the first reason, so that a person hears of all at once. Holds
/// at most `reasons_max`, because a hostile file can have millions.
class refusal_list {
 public:
  explicit refusal_list(std::size_t reasons_max) : reasons_max_(reasons_max) {}

  /// Runs `read`; a fault(bad_input) that it throws is kept, unless there is no room left. Returns whether it came through.
  template <class Read>
  bool attempt(Read&& read) {
    try {
      read();
      return true;
    } catch (const fault& why) {
      if (why.code() != fault_code::bad_input) throw;
      if (!full()) reasons_.push_back(why);
      return false;
    }
  }

  [[nodiscard]] bool empty() const { return reasons_.empty(); }
  [[nodiscard]] bool full() const { return reasons_.size() >= reasons_max_; }
  [[nodiscard]] const std::vector<fault>& reasons() const { return reasons_; }

  /// Throws the first reason, if there is one.
  void throw_first() const {
    if (!reasons_.empty()) throw fault(reasons_.front());
  }

 private:
  std::size_t reasons_max_;
  std::vector<fault> reasons_;
};

}  // namespace baton
