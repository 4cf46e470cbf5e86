#include "runtime/model/detokenizer.hpp"

#include <string_view>

namespace baton {

std::string detokenizer::push(std::int32_t id) {
  const std::string_view bytes = source_->token_bytes(id);
  return source_->is_special(id) ? std::string() : characters_.push(bytes);
}

}  // namespace baton
