#include "kernels/fault.hpp"

#include <utility>

namespace baton {

std::string_view name_of(fault_code code) {
  switch (code) {
    case fault_code::bad_input: return "bad input";
    case fault_code::out_of_memory: return "out of memory";
    case fault_code::device: return "device";
    case fault_code::corruption: return "corruption";
    case fault_code::deadline: return "deadline";
    case fault_code::cancelled: return "cancelled";
    case fault_code::lost_peer: return "lost peer";
    case fault_code::internal: return "internal";
  }
  return "unknown";
}

fault::fault(fault_code code, const std::string& what, std::string where)
    : std::runtime_error(where.empty() ? what : where + ": " + what),
      code_(code),
      reason_(what),
      where_(std::move(where)) {}

}  // namespace baton
