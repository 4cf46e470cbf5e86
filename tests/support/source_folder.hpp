#pragma once

#include <cstdlib>
#include <filesystem>

#include "tests/support/places.hpp"

namespace baton {

/// Where tests/fixtures and models lie: the checkout that was built, unless BATON_SOURCE names another folder, as a bundle does.
inline std::filesystem::path source_folder() {
  const char* elsewhere = std::getenv("BATON_SOURCE");
  return elsewhere != nullptr && *elsewhere != '\0' ? elsewhere : BATON_SOURCE_DIR;
}

}  // namespace baton
