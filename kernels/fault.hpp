#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace baton {

/// Why a job, a load or a command could not go on.
enum class fault_code {
  bad_input,      ///< what the caller gave is wrong: a file, a key, an option, a token id
  out_of_memory,  ///< it does not fit; the message carries the sizes
  device,         ///< a kernel or a device library failed
  corruption,     ///< a block's checksum did not match
  deadline,       ///< nothing moved for longer than the configuration allows
  cancelled,      ///< somebody asked for it
  lost_peer,      ///< a worker, relay or coordinator is gone
  internal,       ///< a broken invariant of ours
};

std::string_view name_of(fault_code code);

/// The one exception type below actors/. `where` names the place in the user's terms: a file with line and column, a tensor,
/// a rank and layer. Expected outcomes (cancelled, queue full) are values wherever a caller can act on them.
class fault : public std::runtime_error {
 public:
  fault(fault_code code, const std::string& what, std::string where = {});

  [[nodiscard]] fault_code code() const noexcept { return code_; }
  [[nodiscard]] const std::string& where() const noexcept { return where_; }
  /// The message without the place.
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }

 private:
  fault_code code_;
  std::string reason_;
  std::string where_;
};

}  // namespace baton
