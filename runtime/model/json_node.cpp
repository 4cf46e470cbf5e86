#include "runtime/model/json_node.hpp"

#include <fstream>
#include <system_error>

#include "kernels/fault.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

using nlohmann::json;

constexpr std::int32_t ids_max = 1 << 21;  // far above any vocabulary; a wrong id must not cost gigabytes

}  // namespace

std::string brief(const json& value) { return value.is_primitive() ? value.dump() : value.type_name(); }

void json_node::refuse(const std::string& what) const { throw fault(fault_code::bad_input, what, where()); }

std::optional<json_node> json_node::find(const char* name) const {
  if (!value_->is_object()) refuse(std::string("expected an object, found ") + value_->type_name());
  const auto found = value_->find(name);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return json_node(*found, key_.empty() ? name : key_ + "." + name, *file_);
}

json_node json_node::at(const char* name) const {
  auto found = find(name);
  if (!found) refuse(std::string("the key '") + name + "' is missing or null");
  return *std::move(found);
}

std::size_t json_node::array_size() const {
  if (!value_->is_array()) refuse(std::string("expected an array, found ") + value_->type_name());
  return value_->size();
}

const std::string& json_node::string() const {
  if (!value_->is_string()) refuse(std::string("expected a string, found ") + value_->type_name());
  return value_->get_ref<const std::string&>();
}

bool json_node::boolean() const {
  if (!value_->is_boolean()) refuse(std::string("expected true or false, found ") + value_->type_name());
  return value_->get<bool>();
}

std::int32_t json_node::token_id() const {
  if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() >= static_cast<std::uint64_t>(ids_max)) {
    refuse("expected a token id from 0 to " + std::to_string(ids_max - 1) + ", found " + brief(*value_));
  }
  return value_->get<std::int32_t>();
}

bool json_node::flag(const char* name, bool otherwise) const {
  const auto found = find(name);
  return found ? found->boolean() : otherwise;
}

void json_node::require_string(const std::string& expected) const {
  if (string() != expected) refuse("unsupported; expected " + json(expected).dump() + ", found " + value_->dump());
}

json read_json(const std::filesystem::path& path, const std::string& expected) {
  const std::string file = path.string();
  std::ifstream stream(path, std::ios::binary);
  std::error_code no_file;
  const std::uintmax_t size = std::filesystem::file_size(path, no_file);
  std::string text(no_file ? 0 : size, '\0');
  if (no_file || !stream.read(text.data(), static_cast<std::streamsize>(size))) {
    throw fault(fault_code::bad_input, "cannot be read as a file; expected " + expected, file);
  }
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    const std::string message = error.what();
    const std::size_t column = message.find("column");
    const std::size_t detail = column == std::string::npos ? column : message.find(": ", column);
    throw fault(fault_code::bad_input,
                "not JSON: " + (detail == std::string::npos ? message : message.substr(detail + 2)),
                file + ":" + line_and_column(text, error.byte == 0 ? 0 : error.byte - 1));
  } catch (const json::exception& error) {  // a number that no double can hold
    throw fault(fault_code::bad_input, std::string("not JSON: ") + error.what(), file);
  }
}

}  // namespace baton
