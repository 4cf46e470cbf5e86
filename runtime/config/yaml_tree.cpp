#include "runtime/config/yaml_tree.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "kernels/fault.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
constexpr std::size_t depth_max = 16;

std::size_t offset_of(const YAML::Mark& mark) { return static_cast<std::size_t>(std::max(0, mark.pos)); }

// yaml-cpp takes a NUL for UTF-16, 0x04 for the end of the file, and a carriage return alone for a line end that it
// does not count.
void require_printable(const yaml_document& document) {
  const std::string_view text = document.text;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const bool line_end = byte == '\n' || (byte == '\r' && text.substr(at).starts_with("\r\n"));
    if (byte >= 0x20 || byte == '\t' || line_end) continue;
    throw fault(
        fault_code::bad_input,
        fmt::format("the control character 0x{:02X} has no place here; in quoted text write \"\\x{:02X}\"", byte, byte),
        document.place(at));
  }
}

// Builds the tree from yaml-cpp's events: its own nodes do not tell an alias from a copy, nor that another document
// follows.
class tree_builder final : public YAML::EventHandler {
 public:
  explicit tree_builder(yaml_document& document) : document_(document) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (started_) refuse(offset_of(mark), "a second document begins here; a file holds one");
    started_ = true;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_decoration(mark, "", anchor);
    add({.offset = place_of_nothing(offset_of(mark))});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override { refuse_decoration(mark, "", anchor); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_decoration(mark, tag, anchor);
    const bool quoted = tag == "!";
    if (quoted) require_closed(offset_of(mark));
    add({.kind = yaml_node::kind_type::text, .offset = offset_of(mark), .text = value, .quoted = quoted});
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, yaml_node::kind_type::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, yaml_node::kind_type::mapping);
  }
  void OnMapEnd() override { close(); }

  /// To be called when all documents are read.
  void finish() const {
    if (bad_key_) refuse(*bad_key_, "a list, a mapping or nothing cannot be a key; a key is one word");
  }

 private:
  [[noreturn]] void refuse(std::size_t offset, const std::string& why) const {
    throw fault(fault_code::bad_input, why, document_.place(offset));
  }

  void refuse_decoration(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) const {
    const std::size_t offset = offset_of(mark);
    if (anchor != 0) refuse(offset, "anchors (&) and aliases (*) are not accepted; write the value out");
    // A lone "!" looks like the tag that yaml-cpp gives to quoted text.
    const bool lone = document_.text.substr(offset).starts_with('!');
    if (lone || !(tag.empty() || tag == "?" || tag == "!"))
      refuse(offset, "tags (!) are not accepted; write the value alone");
  }

  // yaml-cpp ends a quoted text silently where the file ends.
  void require_closed(std::size_t offset) const {
    const std::string_view text = document_.text;
    const char quote = text[offset];
    if (quote != '"' && quote != '\'') return;
    for (std::size_t at = offset + 1; at < text.size(); ++at) {
      if (quote == '"' && text[at] == '\\') {
        ++at;
      } else if (text[at] == quote) {
        if (quote == '"' || !text.substr(at + 1).starts_with(quote)) return;
        ++at;
      }
    }
    refuse(offset, fmt::format("this text is not closed; add {} at its end", quote));
  }

  // For an empty value yaml-cpp gives the place of whatever follows it.
  [[nodiscard]] std::size_t place_of_nothing(std::size_t offset) const {
    constexpr std::array<std::string_view, 4> words{"~", "null", "Null", "NULL"};
    const std::string_view rest = document_.text.substr(offset);
    if (parents_.empty() || key_is_next()) return offset;
    if (std::ranges::any_of(words, [&](auto word) { return rest.starts_with(word); })) return offset;
    const yaml_node& parent = parents_.back();
    return parent.keys.empty() ? parent.offset : parent.keys.back().offset;
  }

  [[nodiscard]] bool key_is_next() const {
    return !parents_.empty() && parents_.back().kind == yaml_node::kind_type::mapping &&
           parents_.back().keys.size() == parents_.back().entries.size();
  }

  void add(yaml_node node) {
    if (key_is_next()) {
      // Not refused at once: yaml-cpp takes a bracket that is never closed for a key before it finds out.
      if (node.kind != yaml_node::kind_type::text && !bad_key_) bad_key_ = node.offset;
      parents_.back().keys.push_back({std::move(node.text), node.offset});
    } else if (parents_.empty()) {
      document_.root = std::move(node);
    } else {
      parents_.back().entries.push_back(std::move(node));
    }
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, yaml_node::kind_type kind) {
    refuse_decoration(mark, tag, anchor);
    if (parents_.size() == depth_max)
      refuse(offset_of(mark), fmt::format("nested more than {} levels deep", depth_max));
    parents_.push_back({.kind = kind, .offset = offset_of(mark)});
  }

  void close() {
    yaml_node node = std::move(parents_.back());
    parents_.pop_back();
    add(std::move(node));
  }

  yaml_document& document_;
  std::vector<yaml_node> parents_;  // lists and mappings that are not closed yet, the outermost first
  bool started_ = false;
  std::optional<std::size_t> bad_key_;  // where the first stands
};

}  // namespace

std::string yaml_document::place(std::size_t offset) const { return file_name + ":" + line_and_column(text, offset); }

yaml_document parse_yaml(std::string_view text, const std::string& file_name) {
  if (text.size() > yaml_bytes_max) {
    throw fault(fault_code::bad_input, "larger than 1 MiB; this is no configuration file", file_name);
  }
  if (text.starts_with(byte_order_mark)) text.remove_prefix(byte_order_mark.size());
  require_utf8(text, file_name);
  yaml_document document{.file_name = file_name, .text = text, .root = {}};
  require_printable(document);
  std::istringstream stream{std::string(text)};
  tree_builder builder(document);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
    builder.finish();
  } catch (const YAML::Exception& error) {
    throw fault(
        fault_code::bad_input,
        fmt::format("not YAML ({}); look for wrong indentation, a tab, or a quote or bracket that is not closed",
                    error.msg),
        document.place(offset_of(error.mark)));
  }
  return document;
}

std::string read_yaml_file(const std::filesystem::path& file) {
  const auto refuse = [&](const std::string& why) {
    throw fault(fault_code::bad_input, "cannot be read: " + why, file.string());
  };
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored))
    refuse("it is a folder; give a YAML file, such as configs/quickstart.yaml");
  errno = 0;
  std::ifstream stream(file == "-" ? std::filesystem::path("/dev/stdin") : file, std::ios::binary);
  if (!stream) refuse(std::strerror(errno));
  // One byte more than may be parsed, so that a file that is too long is seen without reading all of it.
  std::string text(yaml_bytes_max + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) refuse(std::strerror(errno));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

}  // namespace baton
