// Damaged tokenizer files, texts and ids, the same ones in every run: each is used or refused with a message, and nothing
// else may happen. AddressSanitizer and UndefinedBehaviorSanitizer see the rest.

#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/model/detokenizer.hpp"
#include "runtime/model/tokenizer.hpp"
#include "runtime/model/utf8.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tokenizer_fixtures.hpp"

namespace baton {
namespace {

class fuzzer {
 public:
  explicit fuzzer(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }

  // A few bytes changed, dropped, put in or copied to another place, or the end cut off.
  std::string damage(std::string bytes) {
    for (std::size_t changes = below(2) == 0 ? 1 : 1 + below(4); changes > 0 && !bytes.empty(); --changes) {
      const std::size_t at = below(bytes.size());
      switch (below(6)) {
        case 0: bytes[at] = static_cast<char>(below(256)); break;
        case 1: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8))); break;
        case 2: bytes.erase(at, 1 + below(16)); break;
        case 3: bytes.insert(at, 1 + below(8), static_cast<char>(below(256))); break;
        case 4: bytes.insert(below(bytes.size()), bytes.substr(at, 1 + below(64))); break;
        default:
          if (below(8) == 0) bytes.resize(at);
      }
    }
    return bytes;
  }

  std::vector<std::int32_t> any_ids(std::int32_t vocabulary) {
    std::vector<std::int32_t> ids(below(40));
    for (auto& id : ids) id = static_cast<std::int32_t>(below(static_cast<std::size_t>(vocabulary)));
    if (below(20) == 0) ids.push_back(below(2) == 0 ? vocabulary : -1);
    return ids;
  }

 private:
  std::mt19937_64 random_;
};

const std::vector<std::string>& sample_texts() {
  static const std::vector<std::string> texts = [] {
    std::vector<std::string> all;
    for (const auto& record : fixture_lines("lines.jsonl")) all.push_back(record.at("text").get<std::string>());
    return all;
  }();
  return texts;
}

// Calls it; a fault must be one of bad input that says something.
template <typename Call>
void used_or_refused(const Call& call) {
  try {
    call();
  } catch (const fault& f) {
    ASSERT_EQ(f.code(), fault_code::bad_input) << f.what();
    ASSERT_FALSE(f.reason().empty());
  }
}

void use(const tokenizer& t, fuzzer& fuzz) {
  const std::string text = fuzz.damage(sample_texts()[fuzz.below(sample_texts().size())]);
  for (const auto treatment : {special_tokens::as_text, special_tokens::parsed}) {
    used_or_refused([&] { static_cast<void>(t.decode(t.encode(text, treatment))); });
  }
  const auto ids = fuzz.any_ids(t.vocabulary_size());
  used_or_refused([&] {
    detokenizer stream(t);
    std::string pieces;
    for (const std::int32_t id : ids) {
      const std::string piece = stream.push(id);
      require_utf8(piece, "piece");
      pieces += piece;
    }
    pieces += stream.finish();
    ASSERT_EQ(pieces, t.decode(ids));
  });
}

void use_damaged_files(int rounds) {
  for (const std::string name : {"qwen2.json", "llama2.json", "llama2.model", "nfkc.model"}) {
    std::ifstream file(tokenizer_path(name), std::ios::binary);
    const std::string original{std::istreambuf_iterator<char>(file), {}};
    fuzzer fuzz(4711);
    const temporary_directory directory;
    int loaded = 0;
    for (int round = 0; round < rounds; ++round) {
      SCOPED_TRACE(name + ", round " + std::to_string(round));
      const auto path = directory.write(name, fuzz.damage(original));
      used_or_refused([&] {
        const tokenizer t = tokenizer::load_file(path);
        ++loaded;
        use(t, fuzz);
      });
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_GT(loaded, rounds / 50) << name;
    EXPECT_LT(loaded, rounds) << name;
  }
}

void use_damaged_texts_and_ids(int rounds) {
  fuzzer fuzz(4712);
  for (int round = 0; round < rounds; ++round) {
    for (const std::string& name : fixture_tokenizer_names()) {
      SCOPED_TRACE(name + ", round " + std::to_string(round));
      use(fixture_tokenizer(name), fuzz);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(tokenizer_fuzz, uses_or_refuses_damaged_files) { use_damaged_files(300); }
TEST(tokenizer_fuzz, uses_or_refuses_damaged_texts_and_ids) { use_damaged_texts_and_ids(500); }
TEST(tokenizer_fuzz, full_uses_or_refuses_many_damaged_files) { use_damaged_files(20'000); }
TEST(tokenizer_fuzz, full_uses_or_refuses_many_damaged_texts_and_ids) { use_damaged_texts_and_ids(50'000); }

}  // namespace
}  // namespace baton
