#include "runtime/bench/kernel_bench.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>

#include <fmt/format.h>

#include "runtime/observe/format.hpp"

namespace baton {
namespace {

/// The kernels of one device, each timed on buffers of its own.
class kernel_stopwatch {
 public:
  kernel_stopwatch(backend& kernels, int runs, std::span<const std::string> only,
                   const std::function<void(const std::string&)>& before)
      : k_(kernels),
        queue_(kernels.make_stream()),
        type_(kernels.activation_type()),
        runs_(runs),
        only_(only),
        before_(before) {}

  /// `added`: to what stands in the output, as a residual is.
  void linear(std::int64_t rows, std::int64_t inputs, std::int64_t outputs, bool added = false) {
    const auto weights = k_.pack_random(outputs, inputs, 1, 0.1F);
    const auto x = random(rows, inputs, type_);
    const auto out = zero(rows, outputs, type_);
    time(added ? "linear, added" : "linear", fmt::format("{} x {} x {}", rows, inputs, outputs),
         2.0 * real(rows) * real(inputs) * real(outputs), 0,
         [&] { k_.linear(*queue_, x.view, *weights, nullptr, out.view, added); });
  }

  /// Of so few rows that reading the weights is the work: by as many layers' weights one after another as no cache holds.
  void few_rows(std::int64_t rows, std::int64_t inputs, std::int64_t outputs, std::int64_t weights_bytes) {
    if (leaves_out("linear")) return;
    std::vector<std::unique_ptr<packed_weights>> layers;
    double bytes = 0;
    do {
      layers.push_back(k_.pack_random(outputs, inputs, layers.size(), 0.1F));
      bytes += real(static_cast<std::int64_t>(layers.back()->bytes()));
    } while (bytes < real(weights_bytes));
    const auto x = random(rows, inputs, type_);
    const auto out = zero(rows, outputs, type_);
    const auto times = layers.size() > 1 ? fmt::format(", {} times", layers.size()) : std::string();
    time("linear", fmt::format("{} x {} x {}{}", rows, inputs, outputs, times), 0, bytes, [&] {
      for (const auto& weights : layers) k_.linear(*queue_, x.view, *weights, nullptr, out.view, false);
    });
  }

  /// Causal: of so many keys, the last ones are the queries' own.
  void block_attention(std::int64_t queries, std::int64_t keys, bool causal) {
    constexpr int heads = 32;
    constexpr int kv_heads = 8;
    constexpr int dim = 128;
    const auto q = random(queries, std::int64_t{heads + 2 * kv_heads} * dim, type_);
    const auto kv = random(keys, std::int64_t{2 * kv_heads} * dim, type_);
    const auto out = zero(queries, std::int64_t{heads} * dim, type_);
    const auto lse = zero(queries, heads, element_type::f32);
    const auto memory = k_.allocate(k_.panel_bytes(keys, kv_heads, dim));
    kv_panel panel{memory->data(), keys, kv_heads, dim, {}, {}};
    k_.pack_panel(*queue_, as_heads(kv.view, 0, kv_heads, dim), as_heads(kv.view, kv_heads * dim, kv_heads, dim), panel,
                  0);
    const attention_mask mask{.causal = causal, .keys = keys, .first_query = causal ? keys - queries : 0};
    const double pairs =
        causal ? real(queries) * (real(keys - queries) + real(queries + 1) / 2) : real(queries) * real(keys);
    time("attend", fmt::format("{} of {} keys, {}", queries, keys, causal ? "causal" : "dense, merged"),
         4 * pairs * dim * heads, 0, [&] {
           k_.attend(*queue_, as_heads(q.view, 0, heads, dim), panel, mask, 1 / std::sqrt(static_cast<float>(dim)),
                     as_heads(out.view, 0, heads, dim), lse.view,
                     causal ? attention_result::replace : attention_result::merge);
         });
  }

  void attention(std::int64_t tokens, int dim, bool causal) {
    // A device that computes on its own wants all heads of a common model at once.
    const int heads = k_.computes_on_host() ? 4 : 32;
    const int kv_heads = k_.computes_on_host() ? 2 : 8;
    const auto fused = random(tokens, std::int64_t{heads + 2 * kv_heads} * dim, type_);
    const auto out = zero(tokens, std::int64_t{heads} * dim, type_);
    const auto lse = zero(tokens, heads, element_type::f32);
    const auto memory = k_.allocate(k_.panel_bytes(tokens, kv_heads, dim));
    kv_panel panel{memory->data(), tokens, kv_heads, dim, {}, {}};
    const attention_mask mask{.causal = causal, .keys = tokens, .first_query = 0};
    const double pairs = causal ? real(tokens) * real(tokens + 1) / 2 : real(tokens) * real(tokens);
    time("attend", fmt::format("{} tokens, D {}, {}", tokens, dim, causal ? "causal" : "dense"),
         4 * pairs * dim * heads, 0, [&] {
           k_.pack_panel(*queue_, as_heads(fused.view, std::int64_t{heads} * dim, kv_heads, dim),
                         as_heads(fused.view, std::int64_t{heads + kv_heads} * dim, kv_heads, dim), panel, 0);
           k_.attend(*queue_, as_heads(fused.view, 0, heads, dim), panel, mask, 1 / std::sqrt(static_cast<float>(dim)),
                     as_heads(out.view, 0, heads, dim), lse.view, attention_result::replace);
         });
  }

  /// One query over the KV of several layers, one after another.
  void attend_few(std::int64_t keys, int heads, int kv_heads, int dim, std::int64_t layers) {
    const auto q = random(1, std::int64_t{heads} * dim, type_);
    const auto kv = random(2 * keys * layers, std::int64_t{kv_heads} * dim, type_);
    const auto out = zero(1, std::int64_t{heads} * dim, element_type::f32);
    const auto lse = zero(1, heads, element_type::f32);
    const auto workspace = k_.allocate(k_.decode_attention_workspace_bytes(keys, heads, dim));
    const auto part = [&](std::int64_t index) {
      return as_heads(kv.view.slice_rows(index * keys, keys), 0, kv_heads, dim);
    };
    time("attend_few", fmt::format("1 query, {} keys, D {}", keys, dim), 0, bytes_of_matrix(kv.view), [&] {
      for (std::int64_t layer = 0; layer < layers; ++layer) {
        k_.attend_few(*queue_, as_heads(q.view, 0, heads, dim), part(2 * layer), part(2 * layer + 1), {.keys = keys},
                      0.1F, as_heads(out.view, 0, heads, dim), lse.view, workspace->data());
      }
    });
  }

  void merge(std::int64_t tokens, int parts) {
    constexpr int heads = 32;
    constexpr int dim = 128;
    const auto all = random_f32(parts * tokens, std::int64_t{heads} * dim);
    const auto lse = random_f32(parts * tokens, heads);
    const auto out = zero(tokens, std::int64_t{heads} * dim, type_);
    std::vector<head_matrix> outputs;
    std::vector<matrix> sums;
    for (int part = 0; part < parts; ++part) {
      outputs.push_back(as_heads(all.view.slice_rows(part * tokens, tokens), 0, heads, dim));
      sums.push_back(lse.view.slice_rows(part * tokens, tokens));
    }
    time("merge_attention", fmt::format("{} parts of {} tokens", parts, tokens), 0,
         bytes_of_matrix(all.view) + bytes_of_matrix(lse.view) + bytes_of_matrix(out.view),
         [&] { k_.merge_attention(*queue_, outputs, sums, as_heads(out.view, 0, heads, dim)); });
  }

  void token_wise(std::int64_t tokens) {
    constexpr std::int64_t hidden = 4096;
    constexpr int heads = 32;
    constexpr int dim = 128;
    const auto x = random(tokens, 2 * hidden, type_);
    const auto out = zero(tokens, 2 * hidden, type_);
    const matrix from = wide(x.view, hidden);
    const matrix to = wide(out.view, hidden);
    const std::string sizes = fmt::format("{} x {}", 2 * tokens, hidden);
    const double both = bytes_of_matrix(from) + bytes_of_matrix(to);
    const auto weight = random_f32(1, hidden);
    time("copy", sizes, 0, both, [&] { k_.copy(*queue_, from, to); });
    time("rms_norm", sizes, 0, both,
         [&] { k_.rms_norm(*queue_, from, static_cast<const float*>(weight.view.data), 1e-5F, to); });
    time("swiglu", fmt::format("{} x {}", tokens, hidden), 0, bytes_of_matrix(x.view) * 1.5,
         [&] { k_.swiglu(*queue_, x.view, to.slice_rows(0, tokens)); });
    time("silu", sizes, 0, 2 * bytes_of_matrix(to), [&] { k_.silu(*queue_, to); });

    const auto angles = k_.allocate(static_cast<std::size_t>(2 * tokens * dim / 2 * 4));
    const rope_table table{{angles->data(), element_type::f32, tokens, dim / 2, dim / 2},
                           {angles->data() + tokens * dim / 2 * 4, element_type::f32, tokens, dim / 2, dim / 2}};
    std::vector<float> frequencies(dim / 2);
    for (std::size_t i = 0; i < frequencies.size(); ++i)
      frequencies[i] = std::pow(10'000.0F, -2.0F * static_cast<float>(i) / dim);
    k_.fill_rope_table(*queue_, frequencies, 1, table);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
    std::iota(positions.begin(), positions.end(), 0);
    const auto ids = uploaded(positions);
    const auto rotated = as_heads(to.slice_rows(0, tokens), 0, heads, dim);
    time("rotate", fmt::format("{} x {} x {}", tokens, heads, dim), 0,
         2 * bytes_of_matrix(rotated.as_matrix()) + real(tokens * dim * 4),
         [&] { k_.rotate(*queue_, rotated, reinterpret_cast<const std::int32_t*>(ids->data()), table); });
    // Every other row, from the last to the first: nothing that a prefetcher would guess.
    for (std::size_t i = 0; i < positions.size(); ++i)
      positions[i] = static_cast<std::int32_t>(tokens - 1 - static_cast<std::int64_t>(i / 2) * 2);
    const auto mixed = uploaded(positions);
    time("embed", fmt::format("{} x {}", tokens, hidden), 0, both / 2, [&] {
      k_.embed(*queue_, from, reinterpret_cast<const std::int32_t*>(mixed->data()), to.slice_rows(0, tokens));
    });
  }

  void compressor(std::int64_t tokens, std::int64_t units) {
    constexpr int kv_heads = 8;
    constexpr int dim = 128;
    const auto keys = random(tokens, std::int64_t{kv_heads} * dim, type_);
    const auto chosen_keys = zero(units, std::int64_t{kv_heads} * dim, type_);
    const auto mean = random_f32(kv_heads, dim);
    const auto scores = random_f32(tokens, kv_heads);
    const auto pooled = zero(tokens, kv_heads, element_type::f32);
    const auto indices = k_.allocate(static_cast<std::size_t>(kv_heads * units) * sizeof(std::int32_t));
    auto* const chosen = reinterpret_cast<std::int32_t*>(indices->data());
    const auto workspace = k_.allocate(k_.select_workspace_bytes(tokens, kv_heads));
    const auto heads = as_heads(keys.view, 0, kv_heads, dim);
    const std::string sizes = fmt::format("{} tokens, {} KV heads", tokens, kv_heads);
    time("score_keys", sizes, 0, bytes_of_matrix(keys.view) + bytes_of_matrix(scores.view),
         [&] { k_.score_keys(*queue_, heads, mean.view, pooled.view); });
    time("max_pool", sizes, 0, 2 * bytes_of_matrix(scores.view),
         [&] { k_.max_pool(*queue_, scores.view, pooled.view); });
    time("select_top", fmt::format("{} of {} tokens", units, tokens), 0, bytes_of_matrix(scores.view),
         [&] { k_.select_top(*queue_, scores.view, 0, units, chosen, workspace->data()); });
    time("gather", fmt::format("{} of {} tokens", units, tokens), 0, 2 * bytes_of_matrix(chosen_keys.view),
         [&] { k_.gather(*queue_, heads, chosen, as_heads(chosen_keys.view, 0, kv_heads, dim)); });
  }

  std::vector<kernel_time> take() { return std::move(times_); }

 private:
  struct buffer {
    std::unique_ptr<device_memory> memory;
    matrix view;
  };

  static double real(std::int64_t number) { return static_cast<double>(number); }
  static double bytes_of_matrix(const matrix& m) { return real(m.rows * m.columns * bytes_of(m.type)); }
  /// The same memory in rows of so many columns.
  static matrix wide(const matrix& m, std::int64_t columns) {
    return {m.data, m.type, m.rows * m.columns / columns, columns, columns};
  }

  buffer zero(std::int64_t rows, std::int64_t columns, element_type type) {
    buffer made{k_.allocate(static_cast<std::size_t>(rows * columns * bytes_of(type))), {}};
    made.view = {made.memory->data(), type, rows, columns, columns};
    return made;
  }
  buffer random(std::int64_t rows, std::int64_t columns, element_type type) {
    auto made = zero(rows, columns, type);
    k_.fill_random(*queue_, made.view, ++seed_, 1);
    return made;
  }
  /// fp32, whatever activations are: widened from numbers of their type.
  buffer random_f32(std::int64_t rows, std::int64_t columns) {
    auto made = zero(rows, columns, element_type::f32);
    const auto numbers = random(rows, columns, type_);
    k_.copy(*queue_, numbers.view, made.view);
    k_.synchronize(*queue_);
    return made;
  }
  std::unique_ptr<device_memory> uploaded(const std::vector<std::int32_t>& numbers) {
    auto memory = k_.allocate(numbers.size() * sizeof(std::int32_t));
    k_.upload(*queue_, memory->data(), numbers.data(), numbers.size() * sizeof(std::int32_t));
    k_.synchronize(*queue_);
    return memory;
  }

  [[nodiscard]] bool leaves_out(const std::string& name) const {
    return !only_.empty() && std::ranges::find(only_, name) == only_.end();
  }

  void time(const std::string& name, const std::string& sizes, double operations, double bytes,
            const std::function<void()>& body) {
    if (leaves_out(name)) return;
    if (before_) before_(name + " " + sizes);
    const auto seconds = timed_runs(k_, *queue_, runs_, body);
    times_.push_back({name, sizes, operations, bytes, seconds[(seconds.size() - 1) / 2], seconds.front()});
  }

  backend& k_;
  std::unique_ptr<stream> queue_;
  element_type type_;
  int runs_;
  std::span<const std::string> only_;
  const std::function<void(const std::string&)>& before_;
  std::uint64_t seed_ = 0;
  std::vector<kernel_time> times_;
};

}  // namespace

double kernel_time::share(const device_speed& speed) const {
  return operations > 0 ? operations / median_s / speed.matmul_per_s : bytes / median_s / speed.copy_bytes_per_s;
}

std::vector<kernel_time> time_kernels(backend& kernels, int runs, const kernel_sizes& sizes,
                                      std::span<const std::string> only,
                                      const std::function<void(const std::string&)>& before) {
  kernel_stopwatch watch(kernels, runs, only, before);
  for (const auto& [inputs, outputs] : {std::pair{1024, 1536}, {1024, 5632}, {2816, 1024}, {4096, 4096}})
    watch.linear(sizes.rows, inputs, outputs);
  watch.linear(sizes.rows, 4096, 4096, true);
  // A token's, of a large model and of a small one.
  watch.few_rows(1, 4096, 14336, 0);
  watch.few_rows(1, 1024, 5632, sizes.weights_bytes);
  watch.few_rows(1, 2816, 1024, sizes.weights_bytes);
  watch.few_rows(4, 1024, 5632, sizes.weights_bytes);
  for (const int dim : {128, 64}) {
    for (const bool causal : {false, true}) watch.attention(sizes.rows, dim, causal);
  }
  if (!kernels.computes_on_host()) {
    // APB's blocks of 32K, 64K and 128K tokens over eight ranks, and the last piece of a long document on one.
    for (const std::int64_t block : {4096, 8192, 16384}) {
      watch.block_attention(block / 4 * 5, block / 4 * 5, true);
      watch.block_attention(block, block / 8 * 7, false);
    }
    watch.block_attention(8192, 131072, true);
  }
  watch.attend_few(sizes.keys, 32, 8, 128, 1);
  watch.attend_few(sizes.keys / 8, 16, 4, 64, 32);
  watch.token_wise(sizes.tokens);
  if (sizes.chunk_tokens > 0) watch.token_wise(sizes.chunk_tokens);
  watch.merge(sizes.tokens / 8, 4);
  watch.compressor(sizes.scored_tokens, sizes.scored_tokens / 8);
  return watch.take();
}

std::string table(const kernel_report& report) {
  constexpr auto format = "{:<16} {:<27} {:>10} {:>14} {:>7}";
  std::string text = fmt::format(
      "device           {}{}\n", report.kernel_class,
      report.threads > 0 ? fmt::format(", {} thread{}", report.threads, report.threads == 1 ? "" : "s") : "");
  text += fmt::format("fastest matmul   {} GFLOP/s\nfastest copy     {} GB/s, read and written\n\n",
                      format_rate(report.speed.matmul_per_s * 1e-9), format_rate(report.speed.copy_bytes_per_s * 1e-9));
  text += fmt::format(format, "kernel", "sizes", "median", "rate", "share") + '\n';
  for (const auto& k : report.kernels) {
    const auto rate = k.operations > 0 ? format_rate(k.operations / k.median_s * 1e-9) + " GFLOP/s"
                                       : format_rate(k.bytes / k.median_s * 1e-9) + " GB/s";
    text += fmt::format(format, k.name, k.sizes, format_seconds(k.median_s), rate,
                        fmt::format("{:.0f} %", 100 * k.share(report.speed))) +
            '\n';
  }
  return text + "\nshare: of the fastest matmul, or copy, measured in the same run.\n";
}

nlohmann::json to_json(const kernel_report& report) {
  auto kernels = nlohmann::json::array();
  for (const auto& k : report.kernels) {
    kernels.push_back({{"kernel", k.name},
                       {"sizes", k.sizes},
                       {"operations", k.operations},
                       {"bytes", k.bytes},
                       {"median_s", k.median_s},
                       {"lowest_s", k.lowest_s},
                       {"share", k.share(report.speed)}});
  }
  return {{"kernel_class", report.kernel_class},
          {"threads", report.threads},
          {"matmul_operations_per_s", report.speed.matmul_per_s},
          {"copy_bytes_per_s", report.speed.copy_bytes_per_s},
          {"kernels", std::move(kernels)}};
}

}  // namespace baton
