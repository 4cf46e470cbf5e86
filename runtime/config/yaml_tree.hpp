#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// One value of a YAML file and where it stands.
struct yaml_node {
  struct key {
    std::string text;
    std::size_t offset = 0;
  };
  enum class kind_type : unsigned char { nothing, text, list, mapping };

  kind_type kind = kind_type::nothing;
  std::size_t offset = 0;          ///< in bytes; where nothing is written, of the key or list that it belongs to
  std::string text;                ///< of a text
  bool quoted = false;             ///< in quotes or a block, so that it means text and not a number
  std::vector<key> keys;           ///< of a mapping, in file order; the same key may be there twice
  std::vector<yaml_node> entries;  ///< of a list; of a mapping, one per key
};

/// A YAML file as it was written. Borrows the text.
struct yaml_document {
  std::string file_name;
  std::string_view text;
  yaml_node root;

  /// "FILE:LINE:COLUMN"
  [[nodiscard]] std::string place(std::size_t offset) const;
};

/// Reads the one document of `text`, which must outlive the result. What configuration has no use for is refused:
/// anchors and aliases, tags, keys that are no text, a second document, more than 1 MiB. Throws fault(bad_input) with
/// "FILE:LINE:COLUMN" for these, for control characters, for text that is not UTF-8 and for what is not YAML.
yaml_document parse_yaml(std::string_view text, const std::string& file_name);

constexpr std::size_t yaml_bytes_max = std::size_t{1} << 20;

/// The text of a file, for parse_yaml; "-" is standard input. Throws fault(bad_input) with the file and why it cannot be read.
std::string read_yaml_file(const std::filesystem::path& file);

}  // namespace baton
