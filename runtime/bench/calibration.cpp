#include "runtime/bench/calibration.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "runtime/bench/bench_engine.hpp"
#include "runtime/bench/device_speed.hpp"
#include "runtime/device/model_weights.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/plan/counted_work.hpp"

namespace baton {
namespace {

using nlohmann::json;

constexpr int runs = 3;
constexpr int gpu_layers = 8;
constexpr std::int64_t shortest_tokens = 256;
constexpr std::int64_t longest_tokens = 16384;
constexpr std::int64_t query_tokens = 16;
/// Lengths of chunks that are measured beside full ones.
constexpr std::array<std::int64_t, 3> short_chunks{32, 128, 512};
/// A document of short chunks has at most so many: keys must weigh enough beside what a chunk takes before any.
constexpr std::int64_t chunks_max = 16;

using phases = std::array<double, phase_count>;

double of(const phases& seconds, phase p) { return seconds[static_cast<std::size_t>(p)]; }

/// What chunks alone take. How blocks travel is in no rate: on the way of a job's later layers nobody takes pinned memory for them.
double tokens_s(const phases& seconds) { return of(seconds, phase::project) + of(seconds, phase::feed_forward); }

/// Each rank's seconds in a layer, the least of several runs.
std::vector<phases> rank_seconds(bench_engine& engine, const job_plan& plan, std::int64_t vocabulary, int layers) {
  const auto document = generated_tokens(plan.document_tokens, vocabulary, 1);
  const auto query = generated_tokens(plan.query_tokens, vocabulary, 2);
  std::vector<phases> best(plan.shards.size());
  for (auto& seconds : best) seconds.fill(std::numeric_limits<double>::infinity());
  for (int run = 0; run < runs; ++run) {
    const auto times = engine.run_in_lockstep(plan, document, query);
    for (std::size_t h = 0; h < best.size(); ++h) {
      for (std::size_t p = 0; p < phase_count; ++p)
        best[h][p] = std::min(best[h][p], times.ranks[h].timings.phase_s[p] / layers);
    }
  }
  return best;
}

double real(std::int64_t number) { return static_cast<double>(number); }

/// Of making keys and values ready for attention, per token.
double packing_s(backend& kernels, const model_config& model, std::int64_t tokens) {
  const auto queue = kernels.make_stream();
  const auto type = kernels.activation_type();
  const std::int64_t columns = std::int64_t{2 * model.kv_heads} * model.head_dim;
  const auto memory = kernels.allocate(static_cast<std::size_t>(tokens * columns * bytes_of(type)));
  const matrix rows{memory->data(), type, tokens, columns, columns};
  kernels.fill_random(*queue, rows, 1, 1);
  const auto packed = kernels.allocate(kernels.panel_bytes(tokens, model.kv_heads, model.head_dim));
  kv_panel panel{packed->data(), tokens, model.kv_heads, model.head_dim, {}, {}};
  const auto seconds = timed_runs(kernels, *queue, runs, [&] {
    kernels.pack_panel(*queue, as_heads(rows, 0, model.kv_heads, model.head_dim),
                       as_heads(rows, columns / 2, model.kv_heads, model.head_dim), panel, 0);
  });
  return seconds.front() / real(tokens);
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  }
  return "?";
}

}  // namespace

device_rates calibrate(backend& kernels, const model_config& model, std::int64_t retaining_width,
                       std::int64_t chunk_tokens, double longest_s) {
  model_shape shape{model, retaining_width, 1};
  // A GPU under steady load is slower than in the first milliseconds.
  const int layers = kernels.computes_on_host() ? 1 : gpu_layers;
  shape.config.layers = layers;
  shape.config.vocabulary = std::min(shape.config.vocabulary, 1024);
  shape.config.max_positions = std::numeric_limits<int>::max();
  const model_weights weights(kernels, checkpoint::of_shape(shape));
  const std::array views{device_view{"local", "calibrated", kernels.kernel_class(), kernels.block_multiple()}};
  const bench_device device{views[0].node, views[0].device, &kernels, &weights};
  const auto plan_of = [&](std::int64_t tokens, int ranks, std::int64_t chunk) {
    plan_request request;
    request.document_tokens = tokens;
    request.query_tokens = query_tokens;
    request.has_retaining_heads = retaining_width > 0;
    request.options.strategy = ranks == 1 ? "full" : "apb";
    request.options.ranks = ranks;
    request.options.chunk_tokens = chunk;
    request.options.max_new_tokens = 1;
    if (ranks > 1) {
      request.options.anchor_tokens = 2 * query_tokens;
      request.options.passing_tokens = tokens / (2 * ranks);
    }
    return make_job_plan(request, views);
  };
  const auto measure = [&](const job_plan& plan) {
    bench_engine engine(std::span(&device, 1), std::span(&plan, 1));
    return rank_seconds(engine, plan, shape.config.vocabulary, layers);
  };
  // A document of one chunk, and a longer one of several: what a chunk takes before any key, and what a key takes.
  const auto chunk_of = [&](std::int64_t rows, std::int64_t tokens) {
    const auto one = measure(plan_of(rows, 1, rows)).front();
    const auto all = measure(plan_of(tokens, 1, rows)).front();
    const double chunks = real(tokens / rows);
    const double keys_of_one = real(rows + 1) / 2;
    const double keys_of_all = chunks * (keys_of_one + real(tokens - rows) / 2);
    chunk_rates rates{rows, tokens_s(all) / chunks, 0, 0};
    rates.key_s = (of(all, phase::attend) - chunks * of(one, phase::attend)) / (keys_of_all - chunks * keys_of_one);
    // Noise must make nothing free, nor give time back.
    rates.key_s =
        std::clamp(rates.key_s, 0.1 * of(all, phase::attend) / keys_of_all, of(all, phase::attend) / keys_of_all);
    rates.attend_s = (of(all, phase::attend) - keys_of_all * rates.key_s) / chunks;
    return rates;
  };

  // A whole chunk where time allows, for smaller ones are slower per token; then as long as it allows: pairs must weigh enough beside
  // tokens to be told apart from them.
  const auto first = measure(plan_of(shortest_tokens, 1, chunk_tokens)).front();
  const double first_s = tokens_s(first) + of(first, phase::attend);
  std::int64_t full = std::min(shortest_tokens, chunk_tokens);
  while (2 * full <= chunk_tokens && first_s * real(2 * full) / shortest_tokens < longest_s / 5) full *= 2;
  std::int64_t tokens = 4 * full;
  while (2 * tokens <= longest_tokens && first_s * real(tokens) / shortest_tokens * 6 < longest_s) tokens *= 2;

  device_rates rates;
  rates.chunk_tokens = chunk_tokens;
  std::size_t measured = 0;
  for (const std::int64_t rows : short_chunks) {
    if (2 * rows > full) break;
    std::int64_t some = 4 * rows;
    while (some < chunks_max * rows && first_s * real(some) / shortest_tokens * 2 < longest_s / 4) some *= 2;
    rates.chunks[measured++] = chunk_of(rows, some);
  }
  const auto& whole = rates.chunks[measured] = chunk_of(full, tokens);
  rates.token_s = whole.tokens_s / real(full);
  rates.causal_pair_s = whole.key_s / real(full);

  const auto split_of = [&](std::int64_t split_tokens) {
    auto plan = plan_of(split_tokens, 2, chunk_tokens);
    auto seconds = measure(plan);
    return std::pair(std::move(plan), std::move(seconds));
  };
  const auto [far, far_s] = split_of(tokens);
  const auto [near, near_s] = split_of(tokens / 4);
  const auto scored = [](const job_plan& plan) { return real(counts_of(plan.shards[0]).scored_tokens); };
  const double far_compressed = of(far_s[0], phase::compress);
  rates.scored_token_s = std::clamp((far_compressed - of(near_s[0], phase::compress)) / (scored(far) - scored(near)),
                                    0.0, far_compressed / scored(far));
  rates.compressor_s = far_compressed - scored(far) * rates.scored_token_s;

  if (kernels.computes_on_host()) rates.passed_unit_s = packing_s(kernels, model, far.shards[1].passing_units);
  // Of what the last rank's attention takes, that which its passing blocks' keys do.
  const auto& last = far.shards[1];
  const double without_keys_s = attention_s(last, rates);  // dense pairs cost nothing yet
  rates.dense_pair_s = rates.causal_pair_s;
  const double keys_s = attention_s(last, rates) - without_keys_s;
  rates.dense_pair_s *= std::clamp((of(far_s[1], phase::attend) - without_keys_s) / keys_s, 0.5, 2.0);
  return rates;
}

std::string rates_key(const std::string& kernel_class, const std::string& device, const model_config& model,
                      std::int64_t retaining_width, std::int64_t chunk_tokens) {
  return fmt::format("3 {} {} '{}' hidden {} ffn {} heads {}/{} x {} retaining {} chunk {}", kernel_class, device,
                     processor(), model.hidden, model.ffn, model.heads, model.kv_heads, model.head_dim, retaining_width,
                     chunk_tokens);
}

std::filesystem::path rates_file() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/')
    return std::filesystem::path(cache) / "baton" / "rates.json";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/')
    return std::filesystem::path(home) / ".cache" / "baton" / "rates.json";
  return {};
}

namespace {

/// The names of what rates and chunk_rates have, as a file has them.
template <class Rates, class Field>
void for_fields(Rates& rates, Field&& field) {
  if constexpr (requires { rates.rows; }) {
    field("rows", rates.rows);
    field("tokens_s", rates.tokens_s);
    field("attend_s", rates.attend_s);
    field("key_s", rates.key_s);
  } else {
    field("token_s", rates.token_s);
    field("scored_token_s", rates.scored_token_s);
    field("causal_pair_s", rates.causal_pair_s);
    field("dense_pair_s", rates.dense_pair_s);
    field("passed_unit_s", rates.passed_unit_s);
    field("compressor_s", rates.compressor_s);
    field("chunk_tokens", rates.chunk_tokens);
  }
}

template <class Rates>
json written(const Rates& rates) {
  json object;
  for_fields(rates, [&](const char* name, const auto& value) { object[name] = value; });
  return object;
}

/// Whether the object had every field, none of them negative.
template <class Rates>
bool read(const json& object, Rates& rates) {
  bool whole = object.is_object();
  if (!whole) return false;
  for_fields(rates, [&](const char* name, auto& value) {
    const auto found = object.find(name);
    whole = whole && found != object.end() && found->is_number() && found->template get<double>() >= 0;
    if (whole) found->get_to(value);
  });
  return whole;
}

}  // namespace

std::optional<device_rates> find_rates(const std::filesystem::path& file, const std::string& key) {
  std::ifstream stream(file);
  const auto root = json::parse(stream, nullptr, false);
  if (!root.is_object() || !root.contains(key)) return {};
  const auto& object = root[key];
  device_rates rates;
  if (!read(object, rates) || rates.token_s == 0 || rates.causal_pair_s == 0) return {};
  const auto chunks = object.value("chunks", json());
  if (!chunks.is_array() || chunks.size() > rates.chunks.size()) return {};
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (!read(chunks[i], rates.chunks[i]) || rates.chunks[i].rows <= rows) return {};
    rows = rates.chunks[i].rows;
  }
  return rates;
}

void keep_rates(const std::filesystem::path& file, const std::string& key, const device_rates& rates) {
  if (file.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(file.parent_path(), ignored);
  json root;
  {
    std::ifstream stream(file);
    root = json::parse(stream, nullptr, false);
  }
  if (!root.is_object()) root = json::object();
  root[key] = written(rates);
  auto& chunks = root[key]["chunks"] = json::array();
  for (const auto& chunk : rates.chunks) {
    if (chunk.rows > 0) chunks.push_back(written(chunk));
  }
  // Two that write at once: one of them wins, and the file is whole.
  const auto beside = file.string() + fmt::format(".{}", getpid());
  {
    std::ofstream stream(beside);
    stream << root.dump(2) << '\n';
    if (!stream.flush()) return;
  }
  std::filesystem::rename(beside, file, ignored);
  if (ignored) std::filesystem::remove(beside, ignored);
}

}  // namespace baton
