// How fast a document of 10 MB becomes token ids and text again. tests/bench/make_tokenizers.py generates the tokenizers and
// the document, into build/tokenizer_bench unless BATON_TOKENIZER_BENCH says another folder. One thread; rates are of CPU
// time, so that other processes disturb little.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <benchmark/benchmark.h>

#include "runtime/model/tokenizer.hpp"

namespace baton {
namespace {

std::filesystem::path folder() {
  const char* chosen = std::getenv("BATON_TOKENIZER_BENCH");
  return chosen != nullptr ? chosen : "build/tokenizer_bench";
}

bool is_ready(benchmark::State& state) {
  if (std::filesystem::exists(folder() / "document.txt")) return true;
  state.SkipWithError(("no document.txt in " + folder().string() + "; make_tokenizers.py writes it").c_str());
  return false;
}

const std::string& document() {
  static const std::string text = [] {
    std::ifstream file(folder() / "document.txt", std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  }();
  return text;
}

void count(benchmark::State& state, std::size_t tokens) {
  const double megabytes = 1e-6 * static_cast<double>(document().size());
  state.counters["MB_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * megabytes, benchmark::Counter::kIsRate);
  state.counters["tokens"] = static_cast<double>(tokens);
}

void encode(benchmark::State& state, const std::string& file) {
  if (!is_ready(state)) return;
  const tokenizer words = tokenizer::load_file(folder() / file);
  std::size_t tokens = 0;
  for (auto _ : state) tokens = words.encode(document(), special_tokens::as_text).size();
  count(state, tokens);
}

void decode(benchmark::State& state, const std::string& file) {
  if (!is_ready(state)) return;
  const tokenizer words = tokenizer::load_file(folder() / file);
  const auto ids = words.encode(document(), special_tokens::as_text);
  std::string text;
  for (auto _ : state) text = words.decode(ids);
  if (text != document()) state.SkipWithError("the text does not come back");
  count(state, ids.size());
}

void load(benchmark::State& state, const std::string& file) {
  if (!is_ready(state)) return;
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer::load_file(folder() / file).vocabulary_size());
}

BENCHMARK_CAPTURE(encode, byte_level_128k, "tokenizer.json")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, sentencepiece_32k, "tokenizer.model")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, byte_level_128k, "tokenizer.json")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, sentencepiece_32k, "tokenizer.model")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(load, byte_level_128k, "tokenizer.json")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(load, sentencepiece_32k, "tokenizer.model")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace baton
