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

/// What a rank computed. How its blocks travel is not in it: on the way of a job's later layers nobody takes pinned memory for them.
double computed_s(const pass_timings& timings) {
  return std::accumulate(timings.phase_s.begin(), timings.phase_s.end(), 0.0) -
         timings.phase_s[static_cast<std::size_t>(phase::exchange)];
}

/// Seconds of each rank in a layer.
std::vector<double> rank_seconds(bench_engine& engine, const job_plan& plan, std::int64_t vocabulary, int layers) {
  const auto document = generated_tokens(plan.document_tokens, vocabulary, 1);
  const auto query = generated_tokens(plan.query_tokens, vocabulary, 2);
  std::vector<double> best(plan.shards.size(), std::numeric_limits<double>::infinity());
  for (int run = 0; run < runs; ++run) {
    const auto times = engine.run_in_lockstep(plan, document, query);
    for (std::size_t h = 0; h < best.size(); ++h)
      best[h] = std::min(best[h], computed_s(times.ranks[h].timings) / layers);
  }
  return best;
}

double real(std::int64_t number) { return static_cast<double>(number); }

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
  const auto plan_of = [&](std::int64_t tokens, int ranks) {
    plan_request request;
    request.document_tokens = tokens;
    request.query_tokens = query_tokens;
    request.has_retaining_heads = retaining_width > 0;
    request.options.strategy = ranks == 1 ? "full" : "apb";
    request.options.ranks = ranks;
    request.options.chunk_tokens = chunk_tokens;
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
  // A whole chunk where time allows, for smaller ones are slower per token; then as long as it allows: pairs must weigh enough beside
  // tokens to be told apart from them.
  const double first_s = measure(plan_of(shortest_tokens, 1)).front();
  std::int64_t short_tokens = shortest_tokens;
  while (2 * short_tokens <= chunk_tokens && first_s * real(2 * short_tokens) / shortest_tokens < longest_s / 5)
    short_tokens *= 2;
  const auto short_plan = plan_of(short_tokens, 1);
  const double short_s = measure(short_plan).front();
  std::int64_t tokens = 4 * short_tokens;
  while (tokens < longest_tokens && short_s * real(tokens) / real(short_tokens) * 6 < longest_s) tokens *= 2;
  const auto long_plan = plan_of(tokens, 1);
  const double long_s = measure(long_plan).front();

  const auto few = counts_of(short_plan.shards.front());
  const auto many = counts_of(long_plan.shards.front());
  device_rates rates;
  const double determinant = real(few.tokens) * real(many.causal_pairs) - real(many.tokens) * real(few.causal_pairs);
  rates.token_s = (short_s * real(many.causal_pairs) - long_s * real(few.causal_pairs)) / determinant;
  rates.causal_pair_s = (real(few.tokens) * long_s - real(many.tokens) * short_s) / determinant;
  // Noise must not make anything free.
  rates.token_s = std::clamp(rates.token_s, 0.1 * short_s / real(few.tokens), short_s / real(few.tokens));
  rates.causal_pair_s = std::max(rates.causal_pair_s, 0.02 * long_s / real(many.causal_pairs));

  const auto split_plan = plan_of(tokens, 2);
  const auto seconds = measure(split_plan);
  const auto beyond = [&](std::size_t rank) {
    const auto counts = counts_of(split_plan.shards[rank]);
    return std::max(
        seconds[rank] - real(counts.tokens) * rates.token_s - real(counts.causal_pairs) * rates.causal_pair_s, 0.0);
  };
  rates.scored_token_s = beyond(0) / real(counts_of(split_plan.shards[0]).scored_tokens);
  rates.dense_pair_s = std::clamp(beyond(1) / real(counts_of(split_plan.shards[1]).dense_pairs),
                                  0.5 * rates.causal_pair_s, 2 * rates.causal_pair_s);
  return rates;
}

std::string rates_key(const std::string& kernel_class, const std::string& device, const model_config& model,
                      std::int64_t retaining_width, std::int64_t chunk_tokens) {
  return fmt::format("2 {} {} '{}' hidden {} ffn {} heads {}/{} x {} retaining {} chunk {}", kernel_class, device,
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

std::optional<device_rates> find_rates(const std::filesystem::path& file, const std::string& key) {
  std::ifstream stream(file);
  const auto root = json::parse(stream, nullptr, false);
  if (!root.is_object() || !root.contains(key) || !root[key].is_object()) return {};
  device_rates rates;
  for (const auto& [name, into] : {std::pair{"token_s", &rates.token_s},
                                   {"scored_token_s", &rates.scored_token_s},
                                   {"causal_pair_s", &rates.causal_pair_s},
                                   {"dense_pair_s", &rates.dense_pair_s}}) {
    const auto& value = root[key].value(name, json());
    if (!value.is_number() || value.get<double>() < 0) return {};
    *into = value.get<double>();
  }
  if (rates.token_s == 0 || rates.causal_pair_s == 0) return {};
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
  root[key] = {{"token_s", rates.token_s},
               {"scored_token_s", rates.scored_token_s},
               {"causal_pair_s", rates.causal_pair_s},
               {"dense_pair_s", rates.dense_pair_s}};
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
