#include "runtime/model/weight_files.hpp"

#include <algorithm>
#include <set>

#include "kernels/fault.hpp"
#include "runtime/model/config_section.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;

// The largest published models have some 200 shards, and indices of 10 MB.
constexpr std::size_t shards_max = 4096;
constexpr std::uintmax_t index_bytes_max = std::uintmax_t{64} << 20;

[[noreturn]] void refuse(const fs::path& path, const std::string& what) {
  throw fault(fault_code::bad_input, what, path.string());
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// A plain name, so that it can only mean a file beside the index. (That file may be a link, as in Hugging Face's cache.)
bool is_plain_name(const std::string& name) {
  constexpr std::size_t length_max = 255;
  return name.ends_with(".safetensors") && !name.starts_with('.') && name.size() <= length_max &&
         name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

/// The shard of each tensor as the index has it.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const auto root = parse_config_file(path, {.bytes_max = index_bytes_max, .unique_keys = true});
  const auto map = root.find("weight_map");
  if (map == root.end() || !map->is_object()) refuse(path, "weight_map: missing or not an object");
  if (map->empty()) refuse(path, "weight_map: it names no tensor");
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) refuse(path, "weight_map: tensor " + in_quotes(tensor) + ": a file's name is expected");
    const auto& name = file.get_ref<const std::string&>();
    if (!is_plain_name(name)) {
      refuse(path, "weight_map: tensor " + in_quotes(tensor) + ": " + in_quotes(name) +
                       " is no *.safetensors beside the index");
    }
    shards.emplace(tensor, name);
  }
  return shards;
}

}  // namespace

weight_files weight_files::open_file(const fs::path& file) {
  weight_files weights;
  weights.files_.push_back(safetensors_file::open(file));
  weights.named_by_ = file;
  return weights;
}

weight_files weight_files::open(const fs::path& directory) {
  const fs::path whole = directory / "model.safetensors", index = directory / "model.safetensors.index.json";
  if (is_there(whole) || !is_there(index)) return open_file(whole);

  const auto shard_of = read_index(index);
  std::set<std::string> names;
  for (const auto& [tensor, shard] : shard_of) names.insert(shard);
  if (names.size() > shards_max) {
    refuse(index,
           "weight_map: " + std::to_string(names.size()) + " files, " + std::to_string(shards_max) + " are allowed");
  }
  weight_files weights;
  weights.named_by_ = index;
  std::map<std::string_view, const safetensors_file*> seen;
  weights.files_.reserve(names.size());
  for (const auto& name : names) {
    if (!is_there(directory / name))
      refuse(directory / name, "no such file, but " + index.filename().string() + " names it");
    const auto& file = weights.files_.emplace_back(safetensors_file::open(directory / name));
    for (const tensor_view& tensor : file.tensors()) {
      const auto [first, is_new] = seen.emplace(tensor.name, &file);
      if (!is_new) {
        refuse(file.path(), describe(tensor) + ": it also stands in " + first->second->path().filename().string());
      }
    }
  }
  for (const auto& [tensor, shard] : shard_of) {
    const auto place = static_cast<std::size_t>(std::distance(names.begin(), names.find(shard)));
    const safetensors_file& file = weights.files_[place];
    if (file.find(tensor) == nullptr) {
      refuse(file.path(), "tensor " + in_quotes(tensor) + " is missing, but " + index.filename().string() +
                              " says that it stands here");
    }
    weights.places_.emplace(tensor, place);
  }
  return weights;
}

placed_tensor weight_files::find(std::string_view name) const noexcept {
  std::size_t place = 0;
  if (files_.size() != 1 || !places_.empty()) {
    const auto found = places_.find(name);
    if (found == places_.end()) return {};
    place = found->second;
  }
  const tensor_view* tensor = files_[place].find(name);
  return tensor != nullptr ? placed_tensor{tensor, &files_[place].path()} : placed_tensor{};
}

placed_tensor weight_files::at(std::string_view name) const {
  const auto found = find(name);
  if (found.tensor == nullptr) refuse(named_by_, "tensor " + in_quotes(name) + " is missing");
  return found;
}

void weight_files::let_go(std::span<const std::byte> bytes) const noexcept {
  for (const auto& file : files_) file.let_go(bytes);
}

}  // namespace baton
