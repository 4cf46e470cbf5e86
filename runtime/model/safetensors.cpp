#include "runtime/model/safetensors.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors files are read and written without byte swaps");

// The limit of the reference implementation.
constexpr std::uint64_t header_bytes_max = 100'000'000;
constexpr std::size_t length_field_bytes = 8;
constexpr std::string_view metadata_key = "__metadata__";

struct type_entry {
  std::string_view name;
  tensor_type type;
  int bits;
};

constexpr type_entry type_table[] = {
    {"F32", tensor_type::f32, 32},        {"F16", tensor_type::f16, 16},        {"BF16", tensor_type::bf16, 16},
    {"I32", tensor_type::i32, 32},        {"I64", tensor_type::i64, 64},        {"BOOL", tensor_type::boolean, 8},
    {"U8", tensor_type::u8, 8},           {"I8", tensor_type::i8, 8},           {"I16", tensor_type::i16, 16},
    {"U16", tensor_type::u16, 16},        {"U32", tensor_type::u32, 32},        {"U64", tensor_type::u64, 64},
    {"F64", tensor_type::f64, 64},        {"C64", tensor_type::c64, 64},        {"F8_E5M2", tensor_type::f8_e5m2, 8},
    {"F8_E4M3", tensor_type::f8_e4m3, 8}, {"F8_E8M0", tensor_type::f8_e8m0, 8}, {"F6_E2M3", tensor_type::f6_e2m3, 6},
    {"F6_E3M2", tensor_type::f6_e3m2, 6}, {"F4", tensor_type::f4, 4},
};

const type_entry& entry_of(tensor_type type) {
  return *std::find_if(std::begin(type_table), std::end(type_table), [&](const auto& e) { return e.type == type; });
}

// Bytes of a tensor; nothing where they overflow or do not fill whole bytes.
std::optional<std::int64_t> bytes_of(tensor_type type, std::span<const std::int64_t> shape) {
  std::int64_t bits = bits_of(type);
  for (const std::int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bits, extent, &bits)) return std::nullopt;
  }
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

std::string system_reason(int error) { return std::generic_category().message(error); }

class descriptor {
 public:
  explicit descriptor(int fd) : fd_(fd) {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }

  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
  throw fault(fault_code::bad_input, what, path.string());
}

// Parses the header, whose objects must not name anything twice: nlohmann would keep the last one silently.
json parse_header(const std::filesystem::path& path, std::string_view text) {
  constexpr int depth_max = 2;  // {tensor: {"shape": [extent]}}
  std::set<std::string> tensor_names, keys;
  const auto check = [&](int depth, json::parse_event_t event, const json& parsed) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      if (depth > depth_max) refuse(path, "damaged header: nested too deep");
      if (depth == 1) keys.clear();
    } else if (event == json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!(depth == 1 ? tensor_names : keys).insert(name).second) {
        refuse(path, "damaged header: " + in_quotes(name) + " is named twice");
      }
    }
    return true;
  };
  try {
    json header = json::parse(text, check);
    if (!header.is_object()) refuse(path, "damaged header: not a JSON object");
    return header;
  } catch (const json::parse_error& error) {
    refuse(path,
           "damaged header: not JSON at byte " + std::to_string(length_field_bytes + error.byte) + " of the file");
  } catch (const json::exception&) {
    refuse(path, "damaged header: a number is out of range");
  }
}

void check_metadata(const std::filesystem::path& path, const json& metadata) {
  const bool strings = metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                                           [](const json& value) { return value.is_string(); });
  if (!strings) refuse(path, "damaged header: __metadata__ is not a map of strings");
}

std::optional<std::int64_t> as_size(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (!std::in_range<std::int64_t>(number)) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

// Where a tensor's bytes lie in the data that follows the header.
struct data_range {
  std::int64_t begin;
  std::int64_t end;
  std::string_view name;
};

// Fills type and shape of `tensor` from its entry in the header.
data_range read_entry(const std::filesystem::path& path, const json& entry, std::int64_t data_bytes,
                      tensor_view& tensor) {
  const auto refuse_entry = [&](const std::string& what) {
    refuse(path, "tensor " + in_quotes(tensor.name) + ": " + what);
  };
  if (!entry.is_object()) refuse_entry("its entry in the header is not an object");

  const auto type = entry.find("dtype");
  if (type == entry.end() || !type->is_string()) refuse_entry("its dtype is missing or not a string");
  const auto& type_name = type->get_ref<const std::string&>();
  const auto* known = std::find_if(std::begin(type_table), std::end(type_table),
                                   [&](const type_entry& candidate) { return candidate.name == type_name; });
  if (known == std::end(type_table)) refuse_entry("unknown dtype " + in_quotes(type_name));
  tensor.type = known->type;

  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array()) refuse_entry("its shape is missing or not a list");
  for (const json& item : *shape) {
    const auto size = as_size(item);
    if (!size) refuse_entry("its shape holds something other than sizes");
    tensor.shape.push_back(*size);
  }

  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    refuse_entry("its data_offsets are missing or not a list of two");
  }
  const auto begin = as_size((*offsets)[0]), end = as_size((*offsets)[1]);
  if (!begin || !end || *begin > *end) refuse_entry("its data_offsets are not an ascending pair of byte positions");
  if (*end > data_bytes) {
    refuse_entry("its data ends at byte " + std::to_string(*end) + " but the file has " + std::to_string(data_bytes) +
                 " bytes of data: truncated?");
  }

  const auto bytes = bytes_of(tensor.type, tensor.shape);
  if (!bytes) refuse_entry("its shape " + describe_shape(tensor.shape) + " overflows or does not fill whole bytes");
  if (*bytes != *end - *begin) {
    refuse_entry(std::string(type_name) + " of shape " + describe_shape(tensor.shape) + " takes " +
                 std::to_string(*bytes) + " bytes, its data_offsets give it " + std::to_string(*end - *begin));
  }
  return {*begin, *end, tensor.name};
}

void check_coverage(const std::filesystem::path& path, std::vector<data_range> ranges, std::int64_t data_bytes) {
  std::sort(ranges.begin(), ranges.end(), [](const data_range& a, const data_range& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::int64_t covered = 0;
  for (const data_range& range : ranges) {
    if (range.begin < covered) refuse(path, "tensor " + in_quotes(range.name) + ": its data overlaps another tensor's");
    if (range.begin > covered) {
      refuse(path, "tensor " + in_quotes(range.name) + ": " + std::to_string(range.begin - covered) +
                       " bytes before its data belong to no tensor");
    }
    covered = range.end;
  }
  if (covered != data_bytes) {
    refuse(path, std::to_string(data_bytes - covered) + " bytes after the last tensor belong to no tensor");
  }
}

float from_f16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16U;
  const std::uint32_t exponent = (half >> 10U) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  const std::uint32_t wide_exponent = exponent == 0x1fU ? 0xffU : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide_exponent << 23U | fraction << 13U);
}

float from_bf16(std::uint16_t half) { return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16U); }

template <class Element, class Convert>
std::vector<float> convert_all(std::span<const std::byte> bytes, Convert convert) {
  std::vector<float> result(bytes.size() / sizeof(Element));
  for (std::size_t i = 0; i < result.size(); ++i) {
    Element element;
    std::memcpy(&element, bytes.data() + i * sizeof(Element), sizeof(Element));
    result[i] = convert(element);
  }
  return result;
}

// A new file beside `target`, removed again unless `commit` gave it the target's name.
class temporary_file {
 public:
  temporary_file(std::filesystem::path target, std::uint64_t bytes_needed)
      : target_(std::move(target)), bytes_needed_(bytes_needed) {
    static std::atomic<unsigned> counter{0};
    do {  // a process that died may have left one of the same name
      path_ = target_.string() + ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (fd_ < 0 && errno == EEXIST);
    if (fd_ < 0) fail(errno);
  }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  ~temporary_file() {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_) ::unlink(path_.c_str());
  }

  void append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail(errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  void commit() {
    // Some file systems notice only now that the disk is full.
    if (::fsync(fd_) != 0 || ::close(std::exchange(fd_, -1)) != 0) fail(errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail(errno);
    committed_ = true;
  }

 private:
  [[noreturn]] void fail(int error) const {
    const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    throw fault(full ? fault_code::out_of_memory : fault_code::bad_input,
                "cannot write " + std::to_string(bytes_needed_) + " bytes: " + system_reason(error), target_.string());
  }

  std::filesystem::path target_;
  std::filesystem::path path_;
  std::uint64_t bytes_needed_;
  int fd_ = -1;
  bool committed_ = false;
};

}  // namespace

std::string_view name_of(tensor_type type) { return entry_of(type).name; }

int bits_of(tensor_type type) { return entry_of(type).bits; }

std::string in_quotes(std::string_view name) {
  constexpr std::size_t length_max = 120;
  const std::string text = json(std::string(name)).dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= length_max ? text : text.substr(0, length_max) + "…\"";
}

std::string describe_shape(std::span<const std::int64_t> shape) {
  constexpr std::size_t extents_max = 16;
  std::string text = "(";
  for (std::size_t i = 0; i < std::min(shape.size(), extents_max); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + (shape.size() > extents_max ? ", …)" : ")");
}

std::string describe(const tensor_view& tensor) {
  return "tensor " + in_quotes(tensor.name) + ", " + std::string(name_of(tensor.type)) + " " +
         describe_shape(tensor.shape);
}

void safetensors_file::unmap::operator()(const std::byte* first) const noexcept {
  ::munmap(const_cast<std::byte*>(first), bytes);
}

safetensors_file safetensors_file::open(const std::filesystem::path& path) {
  // Without O_NONBLOCK opening a named pipe would wait for a writer.
  const descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) refuse(path, "cannot be opened: " + system_reason(errno));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) refuse(path, "cannot be examined: " + system_reason(errno));
  if (!S_ISREG(status.st_mode)) refuse(path, "not a file");
  const auto file_bytes = static_cast<std::size_t>(status.st_size);
  if (file_bytes < length_field_bytes) {
    refuse(path, "not a safetensors file: " + std::to_string(file_bytes) + " bytes have no room for a header");
  }

  void* const address = ::mmap(nullptr, file_bytes, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) refuse(path, "cannot be mapped into memory: " + system_reason(errno));
  safetensors_file result;
  result.path_ = path;
  result.mapping_ = {static_cast<const std::byte*>(address), unmap{file_bytes}};
  const std::span<const std::byte> mapped(result.mapping_.get(), file_bytes);

  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapped.data(), sizeof(header_bytes));
  if (header_bytes > header_bytes_max) {
    refuse(path, "not a safetensors file: a header of " + std::to_string(header_bytes) + " bytes, " +
                     std::to_string(header_bytes_max) + " are allowed");
  }
  if (header_bytes > file_bytes - length_field_bytes) {
    refuse(path, "its header has " + std::to_string(header_bytes) + " bytes but the file only " +
                     std::to_string(file_bytes) + ": truncated?");
  }
  const auto data = mapped.subspan(length_field_bytes + header_bytes);
  const json header = parse_header(path, {reinterpret_cast<const char*>(mapped.data()) + length_field_bytes,
                                          static_cast<std::size_t>(header_bytes)});

  // Views point at the names, so all of these must be in place before the first view.
  for (const auto& [name, entry] : header.items()) {
    if (name != metadata_key) result.names_.push_back(name);
  }
  std::vector<data_range> ranges;
  result.tensors_.reserve(result.names_.size());
  const auto data_bytes = static_cast<std::int64_t>(data.size());
  for (const auto& [name, entry] : header.items()) {
    if (name == metadata_key) {
      check_metadata(path, entry);
      continue;
    }
    tensor_view tensor{result.names_[result.tensors_.size()], {}, {}, {}};
    const data_range place = read_entry(path, entry, data_bytes, tensor);
    tensor.bytes =
        data.subspan(static_cast<std::size_t>(place.begin), static_cast<std::size_t>(place.end - place.begin));
    ranges.push_back(place);
    result.tensors_.push_back(std::move(tensor));
  }
  check_coverage(path, std::move(ranges), data_bytes);
  return result;
}

const tensor_view* safetensors_file::find(std::string_view name) const noexcept {
  // nlohmann's objects are ordered by key, and so are the tensors.
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const tensor_view& tensor, std::string_view key) { return tensor.name < key; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

const tensor_view& safetensors_file::at(std::string_view name) const {
  if (const tensor_view* tensor = find(name)) return *tensor;
  refuse(path_, "tensor " + in_quotes(name) + " is missing");
}

bool safetensors_file::holds(std::span<const std::byte> bytes) const noexcept {
  const std::byte* const first = mapping_.get();
  const std::less_equal<> not_after;  // of pointers into different arrays only this order is defined
  return first != nullptr && not_after(first, bytes.data()) &&
         not_after(bytes.data() + bytes.size(), first + mapping_.get_deleter().bytes);
}

void safetensors_file::let_go(std::span<const std::byte> bytes) const noexcept {
  if (bytes.empty() || !holds(bytes)) return;
  // The mapping begins with a page, and pages at the edges may go too: nothing has been written to them.
  static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::byte* const start = const_cast<std::byte*>(mapping_.get());
  const auto first = static_cast<std::size_t>(bytes.data() - start) / page * page;
  const auto last = static_cast<std::size_t>(bytes.data() - start) + bytes.size();
  ::madvise(start + first, last - first, MADV_DONTNEED);
}

void write_safetensors(const std::filesystem::path& path, std::span<const tensor_view> tensors) {
  // Wide elements first keeps every tensor aligned to its element.
  std::vector<const tensor_view*> ordered;
  for (const tensor_view& tensor : tensors) ordered.push_back(&tensor);
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const auto* a, const auto* b) { return bits_of(a->type) > bits_of(b->type); });

  json header = {{metadata_key, {{"format", "pt"}}}};
  std::uint64_t offset = 0;
  for (const tensor_view* tensor : ordered) {
    const auto bytes = bytes_of(tensor->type, tensor->shape);
    if (!bytes || !std::cmp_equal(*bytes, tensor->bytes.size())) {
      throw fault(fault_code::internal,
                  "tensor " + in_quotes(tensor->name) + ": " + std::to_string(tensor->bytes.size()) +
                      " bytes do not fit " + std::string(name_of(tensor->type)) + " of shape " +
                      describe_shape(tensor->shape),
                  path.string());
    }
    json& entry = header[std::string(tensor->name)];
    if (!entry.is_null()) {
      throw fault(fault_code::internal, "tensor " + in_quotes(tensor->name) + " twice", path.string());
    }
    entry = {{"dtype", name_of(tensor->type)},
             {"shape", tensor->shape},
             {"data_offsets", {offset, offset + tensor->bytes.size()}}};
    offset += tensor->bytes.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');

  std::error_code ignored;
  const auto existing = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(existing) && !std::filesystem::is_regular_file(existing)) {
    refuse(path, "is no regular file, so it cannot be replaced");
  }
  const std::uint64_t header_bytes = text.size();
  temporary_file file(path, length_field_bytes + header_bytes + offset);
  file.append(std::as_bytes(std::span(&header_bytes, 1)));
  file.append(std::as_bytes(std::span(text)));
  for (const tensor_view* tensor : ordered) file.append(tensor->bytes);
  file.commit();
}

std::vector<float> to_f32(const tensor_view& tensor) {
  switch (tensor.type) {
    case tensor_type::f32: return convert_all<float>(tensor.bytes, [](float value) { return value; });
    case tensor_type::f16: return convert_all<std::uint16_t>(tensor.bytes, from_f16);
    case tensor_type::bf16: return convert_all<std::uint16_t>(tensor.bytes, from_bf16);
    default: throw fault(fault_code::bad_input, describe(tensor) + ": F32, F16 or BF16 is expected");
  }
}

}  // namespace baton
