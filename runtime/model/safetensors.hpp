#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// The element types of the safetensors format. Any of them may stand in a file; one that Baton does not compute with
/// is refused only where such a tensor is used.
enum class tensor_type : std::uint8_t {
  f32,
  f16,
  bf16,
  i32,
  i64,
  boolean,
  u8,
  i8,
  i16,
  u16,
  u32,
  u64,
  f64,
  c64,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f6_e2m3,
  f6_e3m2,
  f4,
};

/// The name that a safetensors header uses, such as "BF16".
std::string_view name_of(tensor_type type);

/// Bits of one element; less than 8 for the packed types.
int bits_of(tensor_type type);

/// One named array. Borrowed: name and bytes belong to a safetensors_file, or to whoever asks for a file to be written.
struct tensor_view {
  std::string_view name;
  tensor_type type = tensor_type::f32;
  std::vector<std::int64_t> shape;   ///< outermost dimension first; empty for a scalar
  std::span<const std::byte> bytes;  ///< little-endian, row-major, without gaps; a file may place them unaligned
};

/// "(3072, 256)", for messages.
std::string describe_shape(std::span<const std::int64_t> shape);

/// `tensor "model.norm.weight", BF16 (256)`, for messages: of a name, only ASCII and the first part are shown.
std::string describe(const tensor_view& tensor);

/// A safetensors file, mapped into memory and read-only. Opening reads the header alone and checks all of it:
/// afterwards every view lies inside the mapping, its shape fits its bytes, and the tensors cover the data without gap
/// or overlap.
///
/// Owns the mapping; views stay valid when the object is moved and until it is destroyed. Any thread may read. A file
/// that somebody truncates while it is mapped raises SIGBUS on access, as with every mapping.
class safetensors_file {
 public:
  /// Throws fault(bad_input) with the file and what is wrong with it.
  static safetensors_file open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

  /// All tensors by ascending name.
  [[nodiscard]] std::span<const tensor_view> tensors() const noexcept { return tensors_; }

  /// nullptr if there is none of that name.
  [[nodiscard]] const tensor_view* find(std::string_view name) const noexcept;

  /// Throws fault(bad_input) that names file and tensor if there is none of that name.
  [[nodiscard]] const tensor_view& at(std::string_view name) const;

  /// Whether a tensor's bytes, or some of them, are this file's.
  [[nodiscard]] bool holds(std::span<const std::byte> bytes) const noexcept;
  /// Gives the pages of bytes that this file holds back to the system; they are read from the file again when they are
  /// looked at.
  void let_go(std::span<const std::byte> bytes) const noexcept;

 private:
  struct unmap {
    std::size_t bytes;
    void operator()(const std::byte* first) const noexcept;
  };

  safetensors_file() = default;

  std::filesystem::path path_;
  std::unique_ptr<const std::byte, unmap> mapping_;
  std::vector<std::string> names_;
  std::vector<tensor_view> tensors_;
};

/// Writes `tensors` to `path`, which then holds either all of them or what it held before: the bytes go to a temporary
/// file beside it, which takes its place when it is complete. Throws fault(out_of_memory) where the disk is full,
/// fault(bad_input) where `path` cannot be written, and fault(internal) for two tensors of one name or bytes that do
/// not fit a shape.
void write_safetensors(const std::filesystem::path& path, std::span<const tensor_view> tensors);

/// A tensor's name for messages: in quotes, shortened, and only ASCII is left as it is.
std::string in_quotes(std::string_view name);

/// The elements of an F32, F16 or BF16 tensor as fp32 (exact). Throws fault(bad_input) for other types.
std::vector<float> to_f32(const tensor_view& tensor);

}  // namespace baton
