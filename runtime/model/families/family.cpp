#include "runtime/model/families/family.hpp"

#include <algorithm>
#include <array>

namespace baton {

std::span<const model_family* const> model_families() {
  static const std::array families{&llama_family(), &qwen2_family()};
  return families;
}

const model_family* find_model_family(std::string_view model_type) {
  const auto families = model_families();
  const auto found = std::ranges::find(families, model_type, &model_family::model_type);
  return found == families.end() ? nullptr : *found;
}

std::string model_family_names() {
  std::string names;
  const auto families = model_families();
  for (std::size_t i = 0; i < families.size(); ++i) {
    if (i > 0) names += i + 1 == families.size() ? " and " : ", ";
    names += '"' + std::string(families[i]->model_type) + '"';
  }
  return names;
}

}  // namespace baton
