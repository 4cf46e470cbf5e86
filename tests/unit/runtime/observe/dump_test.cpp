#include "runtime/observe/dump.hpp"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/model/safetensors.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

std::vector<std::int32_t> integers(const tensor_view& tensor) {
  std::vector<std::int32_t> values(tensor.bytes.size() / sizeof(std::int32_t));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

TEST(dump, gives_back_logits_and_chosen_units) {
  const temporary_directory directory;
  const auto path = directory.path() / "dump.safetensors";
  const std::vector<float> logits{0.5F, -1.25F, 3e-7F};
  const std::vector<selected_units> selected{{0, 0, 2, {1, 5, 9, 0, 5, 8}}, {11, 3, 1, {40}}};
  write_dump(path, logits, selected);

  const auto file = safetensors_file::open(path);
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(to_f32(file.at("first_logits")), logits);
  const auto& first = file.at("selected.layer0.rank0");
  EXPECT_EQ(first.type, tensor_type::i32);
  EXPECT_EQ(first.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(integers(first), selected[0].indices);
  EXPECT_EQ(file.at("selected.layer11.rank3").shape, (std::vector<std::int64_t>{1, 1}));
}

TEST(dump, leaves_out_ranks_that_chose_nothing) {
  const temporary_directory directory;
  const auto path = directory.path() / "dump.safetensors";
  write_dump(path, std::vector<float>{1}, std::vector<selected_units>{{0, 7, 2, {}}});
  EXPECT_EQ(safetensors_file::open(path).tensors().size(), 1U);
}

TEST(dump, has_the_checksums_of_all_ranks_keys_and_values) {
  const temporary_directory directory;
  const auto path = directory.path() / "dump.safetensors";
  write_dump(path, std::vector<float>{1}, std::vector<selected_units>{{0, 0, 1, {4}, 77}, {0, 1, 1, {}, 78}});
  const auto file = safetensors_file::open(path);
  ASSERT_EQ(file.tensors().size(), 4U);
  EXPECT_EQ(file.at("kv_checksum.layer0.rank1").type, tensor_type::i64);
  EXPECT_NE(integers(file.at("kv_checksum.layer0.rank0")), integers(file.at("kv_checksum.layer0.rank1")));
}

TEST(dump, refuses_units_that_do_not_ascend_within_a_head) {
  const temporary_directory directory;
  const auto path = directory.path() / "dump.safetensors";
  EXPECT_THROW(write_dump(path, {}, std::vector<selected_units>{{0, 0, 1, {3, 2}}}), fault);
  EXPECT_THROW(write_dump(path, {}, std::vector<selected_units>{{0, 0, 1, {3, 3}}}), fault);
  EXPECT_THROW(write_dump(path, {}, std::vector<selected_units>{{0, 0, 2, {1, 2, 3}}}), fault);
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace baton
