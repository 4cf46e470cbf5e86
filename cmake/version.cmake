# Writes HEADER for VERSION and the commit of SOURCE_DIR; leaves the file alone when nothing has changed.
execute_process(
  COMMAND git -c "safe.directory=${SOURCE_DIR}" describe --always --dirty --exclude=*
  WORKING_DIRECTORY "${SOURCE_DIR}"
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit "unknown")
endif()
file(CONFIGURE OUTPUT "${HEADER}" @ONLY CONTENT [=[
#pragma once

#include <string_view>

namespace baton {

inline constexpr std::string_view version_number = "@VERSION@";
/// The commit this was built from, `-dirty` behind it where files were changed; `unknown` outside a checkout.
inline constexpr std::string_view version_commit = "@commit@";
inline constexpr std::string_view version_text = "@VERSION@ (@commit@)";

}  // namespace baton
]=])
