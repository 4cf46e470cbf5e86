#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/safetensors.hpp"

namespace baton {

/// A tensor and the file that it stands in, for messages.
struct placed_tensor {
  const tensor_view* tensor = nullptr;
  const std::filesystem::path* file = nullptr;
};

/// The weights of a checkpoint directory: one model.safetensors or, where there is none, the shards that
/// model.safetensors.index.json names. An index may name files of its own directory only, every one must be there, hold what the
/// index says that it holds, and no tensor may stand in two.
///
/// Owns the mapped files: views stay valid when the object is moved and until it is destroyed. Any thread may read.
class weight_files {
 public:
  /// Throws fault(bad_input) with the file and what is wrong with it.
  static weight_files open(const std::filesystem::path& directory);
  /// A single file.
  static weight_files open_file(const std::filesystem::path& file);

  weight_files(weight_files&&) = default;
  weight_files& operator=(weight_files&&) = default;

  /// Both null if there is none of that name.
  [[nodiscard]] placed_tensor find(std::string_view name) const noexcept;
  /// Throws fault(bad_input) that names the file (the index, where there is one) and the tensor if there is none of that name.
  [[nodiscard]] placed_tensor at(std::string_view name) const;

  /// By ascending name of the file.
  [[nodiscard]] const std::vector<safetensors_file>& files() const noexcept { return files_; }

  /// Gives the pages of these bytes back to the system, where one of the files holds them.
  void let_go(std::span<const std::byte> bytes) const noexcept;

 private:
  weight_files() = default;

  std::vector<safetensors_file> files_;
  std::filesystem::path named_by_;  ///< the single file, or the index
  /// Of an index: the file of each tensor, by its place in files_.
  std::map<std::string, std::size_t, std::less<>> places_;
};

}  // namespace baton
