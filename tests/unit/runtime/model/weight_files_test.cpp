#include "runtime/model/weight_files.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <type_traits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"
#include "runtime/model/checkpoint.hpp"
#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

static_assert(std::is_nothrow_move_constructible_v<weight_files>);
static_assert(!std::is_copy_constructible_v<weight_files>);

const std::string index_name = "model.safetensors.index.json";

/// Tensors of two F32 numbers.
void write_shard(const fs::path& path, const std::map<std::string, std::pair<float, float>>& tensors) {
  std::vector<std::array<float, 2>> numbers;
  numbers.reserve(tensors.size());
  std::vector<tensor_view> views;
  for (const auto& [name, values] : tensors) {
    numbers.push_back({values.first, values.second});
    views.push_back({name, tensor_type::f32, {2}, std::as_bytes(std::span(numbers.back()))});
  }
  write_safetensors(path, views);
}

/// Two shards that fit their index.
struct sharded : testing::Test {
  sharded() {
    write_shard(folder.path() / "model-00001-of-00002.safetensors", {{"a", {1, 2}}, {"c", {3, 4}}});
    write_shard(folder.path() / "model-00002-of-00002.safetensors", {{"b", {5, 6}}});
    write_index();
  }

  void write_index() const { folder.write(index_name, index.dump()); }

  [[nodiscard]] std::string refusal() const {
    try {
      weight_files::open(folder.path());
    } catch (const fault& refused) {
      EXPECT_EQ(refused.code(), fault_code::bad_input);
      const std::string message = refused.what();
      EXPECT_TRUE(message.starts_with(folder.path().string() + "/")) << message;
      return message.substr(folder.path().string().size() + 1);
    }
    return "nothing was refused";
  }

  /// What is said of an index whose weight_map is this.
  [[nodiscard]] std::string refusal_of(const json& map) {
    index["weight_map"] = map;
    write_index();
    return refusal();
  }

  temporary_directory folder;
  json index = {{"metadata", {{"total_size", 24}}},
                {"weight_map",
                 {{"a", "model-00001-of-00002.safetensors"},
                  {"b", "model-00002-of-00002.safetensors"},
                  {"c", "model-00001-of-00002.safetensors"}}}};
};

TEST_F(sharded, tensors_are_found_in_the_shard_that_the_index_names) {
  auto first = weight_files::open(folder.path());
  const auto b = first.at("b");
  const weight_files files = std::move(first);
  EXPECT_EQ(files.files().size(), 2U);
  EXPECT_EQ(to_f32(*files.at("a").tensor), (std::vector<float>{1, 2}));
  EXPECT_EQ(files.at("b").tensor, b.tensor);
  EXPECT_EQ(to_f32(*b.tensor), (std::vector<float>{5, 6}));
  EXPECT_EQ(files.at("b").file->filename(), "model-00002-of-00002.safetensors");
  EXPECT_EQ(files.at("c").file->filename(), "model-00001-of-00002.safetensors");
  EXPECT_EQ(files.find("d").tensor, nullptr);
}

TEST_F(sharded, a_single_file_comes_first) {
  write_shard(folder.path() / "model.safetensors", {{"a", {7, 8}}});
  EXPECT_EQ(to_f32(*weight_files::open(folder.path()).at("a").tensor), (std::vector<float>{7, 8}));
}

TEST_F(sharded, shards_may_be_links_as_in_the_cache_of_hugging_face) {
  const temporary_directory blobs;
  fs::rename(folder.path() / "model-00002-of-00002.safetensors", blobs.path() / "0123");
  fs::create_symlink(blobs.path() / "0123", folder.path() / "model-00002-of-00002.safetensors");
  EXPECT_EQ(to_f32(*weight_files::open(folder.path()).at("b").tensor), (std::vector<float>{5, 6}));
}

TEST_F(sharded, pages_that_were_let_go_are_read_again) {
  const auto files = weight_files::open(folder.path());
  const std::vector<float> elsewhere = {9, 9};
  files.let_go(std::as_bytes(std::span(elsewhere)));
  for (const char* name : {"a", "b", "c"}) files.let_go(files.at(name).tensor->bytes);
  EXPECT_EQ(elsewhere, (std::vector<float>{9, 9}));
  EXPECT_EQ(to_f32(*files.at("c").tensor), (std::vector<float>{3, 4}));
  EXPECT_EQ(to_f32(*files.at("b").tensor), (std::vector<float>{5, 6}));
}

TEST_F(sharded, a_tensor_that_is_asked_for_and_not_there_is_the_indexs_fault) {
  const auto files = weight_files::open(folder.path());
  try {
    (void)files.at("d");
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.where(), (folder.path() / index_name).string());
    EXPECT_EQ(why.reason(), "tensor \"d\" is missing");
  }
}

TEST_F(sharded, an_index_that_names_files_outside_of_its_directory_is_refused) {
  for (const std::string name : {"../model-00002-of-00002.safetensors", "/etc/passwd", "sub/x.safetensors", "..",
                                 "..safetensors", "", "model.bin", ".safetensors"}) {
    EXPECT_EQ(refusal_of({{"b", name}}),
              index_name + ": weight_map: tensor \"b\": \"" + name + "\" is no *.safetensors beside the index");
  }
  EXPECT_EQ(refusal_of({{"b", std::string("x\0.safetensors", 14)}}),
            index_name + ": weight_map: tensor \"b\": \"x\\u0000.safetensors\" is no *.safetensors beside the index");
  EXPECT_LT(refusal_of({{"b", std::string(5000, 'x') + ".safetensors"}}).size(), 400U);
}

TEST_F(sharded, damaged_indices_are_refused) {
  const auto text = [&](const std::string& content) {
    folder.write(index_name, content);
    return refusal();
  };
  EXPECT_EQ(text("{"), index_name + ":1:2: not JSON: a syntax error");
  EXPECT_EQ(text("[]"), index_name + ": not a JSON object");
  EXPECT_EQ(text("{}"), index_name + ": weight_map: missing or not an object");
  EXPECT_EQ(text(R"({"weight_map":[]})"), index_name + ": weight_map: missing or not an object");
  EXPECT_EQ(text(R"({"weight_map":{}})"), index_name + ": weight_map: it names no tensor");
  EXPECT_EQ(text(R"({"weight_map":{"a":1}})"), index_name + ": weight_map: tensor \"a\": a file's name is expected");
  EXPECT_EQ(text(R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})"),
            index_name + ": \"a\" is named twice in one object");
  json many = json::object();
  for (int i = 0; i < 5000; ++i) many[std::to_string(i)] = std::to_string(i) + ".safetensors";
  EXPECT_EQ(refusal_of(many), index_name + ": weight_map: 5000 files, 4096 are allowed");
}

TEST_F(sharded, missing_shards_are_refused) {
  fs::remove(folder.path() / "model-00002-of-00002.safetensors");
  EXPECT_EQ(refusal(), "model-00002-of-00002.safetensors: no such file, but " + index_name + " names it");
}

TEST_F(sharded, truncated_shards_are_refused) {
  const auto path = folder.path() / "model-00002-of-00002.safetensors";
  fs::resize_file(path, fs::file_size(path) - 1);
  const auto refused = refusal();
  EXPECT_TRUE(refused.starts_with("model-00002-of-00002.safetensors: tensor \"b\": its data ends at byte 8"))
      << refused;
  EXPECT_TRUE(refused.ends_with("truncated?")) << refused;
}

TEST_F(sharded, a_shard_without_what_the_index_promises_is_refused) {
  index["weight_map"]["b"] = "model-00001-of-00002.safetensors";
  EXPECT_EQ(refusal_of(index["weight_map"]), "model-00001-of-00002.safetensors: tensor \"b\" is missing, but " +
                                                 index_name + " says that it stands here");
}

TEST_F(sharded, a_tensor_in_two_shards_is_refused) {
  write_shard(folder.path() / "model-00002-of-00002.safetensors", {{"b", {5, 6}}, {"c", {0, 0}}});
  EXPECT_EQ(refusal(),
            "model-00002-of-00002.safetensors: tensor \"c\", F32 (2): it also stands in "
            "model-00001-of-00002.safetensors");
}

std::string content_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// One random thing that happens to a file; most hit the header, where it matters.
void damage(std::string& bytes, std::mt19937& random) {
  const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
  std::size_t at = below(random() % 4 == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 3000));
  static const std::vector<std::string> words = {"-1",
                                                 "0",
                                                 "1",
                                                 "9223372036854775807",
                                                 "18446744073709551615",
                                                 "99999999999999999999",
                                                 "1e308",
                                                 "null",
                                                 "true",
                                                 "\"\"",
                                                 "[]",
                                                 "{}",
                                                 "../",
                                                 "\"F64\"",
                                                 "\"I4\"",
                                                 "\xff",
                                                 "[[[[",
                                                 "]"};
  switch (random() % 6) {
    case 0: bytes[at] = static_cast<char>(random()); break;
    case 1: bytes.erase(at, 1 + below(8)); break;
    case 2: bytes.insert(at, words[below(words.size())]); break;
    case 3: bytes.resize(at); break;
    case 4: bytes[at % std::min<std::size_t>(bytes.size(), 8)] = static_cast<char>(random()); break;
    default: {  // another number in the place of one
      at = bytes.find_first_of("0123456789", at);
      if (at == std::string::npos) return;
      const auto end = std::min(bytes.find_first_not_of("0123456789", at), bytes.size());
      bytes.replace(at, end - at, words[below(7)]);
    }
  }
}

/// Reads every byte of what is used.
double sum_of(const checkpoint& model) {
  double sum = 0;
  const auto add = [&](const tensor_view* tensor) {
    if (tensor == nullptr) return;
    for (const float value : to_f32(*tensor)) sum += static_cast<double>(value);
  };
  add(&model.embedding());
  add(&model.output_head());
  add(&model.final_norm());
  for (int i = 0; i < model.config().layers; ++i) {
    const auto& l = model.layer(i);
    for (const auto* tensor : {l.input_norm, l.q, l.k, l.v, l.o, l.post_attention_norm, l.gate, l.up, l.down, l.q_bias,
                               l.k_bias, l.v_bias, l.o_bias}) {
      add(tensor);
    }
  }
  return sum;
}

// Whatever happens to a checkpoint's files, it is opened or refused; the sanitizers see every byte that is read then.
TEST(checkpoint_fuzz, damaged_directories_are_opened_or_refused_and_nothing_else_happens) {
  std::mt19937 random(20250101);
  int opened = 0, refused = 0;
  for (const std::string name : {"qwen2_untied_yarn", "llama_bias"}) {
    const auto source = fs::path(BATON_SOURCE_DIR) / "tests/fixtures/models" / name;
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(source)) {
      const std::string file = entry.path().filename();
      if (file != "golden.safetensors") files[file] = content_of(entry.path());
    }
    const temporary_directory folder;
    for (const auto& [file, bytes] : files) folder.write(file, bytes);
    for (int round = 0; round < 400; ++round) {
      const auto chosen = std::next(files.begin(), static_cast<std::ptrdiff_t>(random() % files.size()));
      std::string bytes = chosen->second;
      for (auto hits = 1 + random() % 3; hits > 0 && !bytes.empty(); --hits) damage(bytes, random);
      folder.write(chosen->first, bytes);
      try {
        sum_of(checkpoint::open(folder.path()));
        ++opened;
      } catch (const fault& why) {
        ASSERT_EQ(why.code(), fault_code::bad_input) << why.what();
        ASSERT_TRUE(why.where().starts_with(folder.path().string())) << why.what();
        ++refused;
      }
      folder.write(chosen->first, chosen->second);
    }
  }
  EXPECT_GT(opened, 50);
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace baton
