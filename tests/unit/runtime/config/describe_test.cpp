#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "runtime/config/cluster_config.hpp"

namespace baton {
namespace {

cluster_config parsed(const std::string& yaml) { return parse_cluster_config(yaml, "f.yaml", "/base"); }

/// Text of characters that YAML could stumble over.
rc::Gen<std::string> any_text() {
  const std::vector<std::string> pieces{"a",
                                        "ß",
                                        "漢",
                                        "😀",
                                        " ",
                                        "\n",
                                        "\t",
                                        "\r",
                                        "\"",
                                        "'",
                                        "\\",
                                        "#",
                                        ":",
                                        ": ",
                                        "- ",
                                        "{",
                                        "]",
                                        "&",
                                        "*",
                                        "!",
                                        "%",
                                        "|",
                                        ">",
                                        "~",
                                        "null",
                                        "auto",
                                        "\x01",
                                        "\x7F",
                                        std::string(1, '\0'),
                                        "\xC2\x85",
                                        "\xE2\x80\xA8",
                                        "\xEF\xBB\xBF",
                                        "\\n",
                                        "---\n"};
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(pieces)),
                      [](const std::vector<std::string>& chosen) {
                        std::string text;
                        for (const auto& piece : chosen) text += piece;
                        return text;
                      });
}

std::int64_t drawn(std::int64_t min, std::int64_t max) { return *rc::gen::inRange(min, max + 1); }

std::optional<std::int64_t> drawn_or_auto(std::int64_t max) {
  if (*rc::gen::arbitrary<bool>()) return {};
  return drawn(0, max);
}

cluster_config drawn_config() {
  cluster_config config;
  config.source_file = "f.yaml";
  std::string directory = *any_text();
  std::erase(directory, '\0');
  config.model.directory = "/" + directory;
  config.model.precision = *rc::gen::element(element_type::bf16, element_type::f32);
  config.model.prompt = *rc::gen::element(*find_prompt_format("llama3"), *find_prompt_format("chatml"),
                                          prompt_format{.name = "custom",
                                                        .opening = *any_text(),
                                                        .opening_with_system = *any_text() + "{system}" + *any_text(),
                                                        .query_prefix = *any_text(),
                                                        .query_suffix = *any_text()});
  config.model.system_prompt = *any_text();
  config.job.strategy = *rc::gen::element<std::string>("apb", "star");
  config.job.ranks = static_cast<int>(drawn(1, 65'535));
  if (*rc::gen::arbitrary<bool>()) {
    config.job.ranks = static_cast<int>(drawn(1, 20));
    for (int h = 0; h < config.job.ranks; ++h) config.job.block_tokens.push_back(drawn(1, 100'000'000));
  }
  config.job.anchor_tokens = drawn_or_auto(2'147'483'647);
  config.job.passing_tokens = drawn_or_auto(2'147'483'647);
  config.job.compressor = *rc::gen::element<std::optional<compressor_kind>>(
      std::nullopt, compressor_kind::retaining_heads, compressor_kind::query_key, compressor_kind::recent,
      compressor_kind::random);
  config.job.compressor_seed = *rc::gen::arbitrary<std::uint64_t>();
  config.job.chunk_tokens = drawn(1, 1 << 20);
  config.job.max_new_tokens = static_cast<int>(drawn(1, 2'147'483'647));
  config.job.sampling.temperature = static_cast<float>(drawn(0, 1'000'000)) / 10'007.0F;
  config.job.sampling.top_p = static_cast<float>(drawn(1, 100'000)) / 100'000.0F;
  config.job.sampling.seed = *rc::gen::arbitrary<std::uint64_t>();
  config.nodes.clear();
  const bool may_have_gpus = config.model.precision == element_type::bf16;
  for (std::int64_t n = drawn(1, 3); n > 0; --n) {
    std::string log_directory = *any_text();
    std::erase(log_directory, '\0');
    node_config node{.name = "node-" + std::to_string(n),
                     .affinity = *rc::gen::arbitrary<bool>(),
                     .relay = {drawn(1, std::int64_t{1} << 50), drawn(0, std::int64_t{1} << 50), "/" + log_directory},
                     .devices = {}};
    for (std::int64_t d = drawn(1, 3); d > 0; --d) {
      device_config device{.name = std::to_string(d) + ".x_Y", .cores = {}};
      if (may_have_gpus && *rc::gen::arbitrary<bool>()) {
        device.kind = device_kind::cuda;
        device.index = static_cast<int>(drawn(0, 1023));
        if (*rc::gen::arbitrary<bool>()) device.memory_bytes = drawn(1 << 20, std::int64_t{1} << 50);
        node.devices.push_back(device);
        continue;
      }
      for (std::int64_t core = drawn(0, 4); core > 0; --core) device.cores.push_back(static_cast<int>(100 * core));
      device.threads =
          static_cast<int>(drawn(0, device.cores.empty() ? 1024 : static_cast<std::int64_t>(device.cores.size())));
      if (*rc::gen::arbitrary<bool>()) device.memory_bytes = drawn(1 << 20, std::int64_t{1} << 50);
      node.devices.push_back(device);
    }
    config.nodes.push_back(node);
  }
  config.positions_max = drawn(0, 2'147'483'647);
  config.timeouts = {static_cast<int>(drawn(10, 500)),          static_cast<int>(drawn(1'000, 3'600'000)),
                     static_cast<int>(drawn(100, 3'600'000)),   static_cast<int>(drawn(100, 86'400'000)),
                     static_cast<int>(drawn(100, 3'600'000)),   static_cast<int>(drawn(100, 3'600'000)),
                     static_cast<int>(drawn(2'000, 3'600'000)), static_cast<int>(drawn(0, 86'400'000))};
  config.coordinator = {.address = *rc::gen::element<std::string>("127.0.0.1", "::1", "head-node.example"),
                        .port = static_cast<int>(drawn(1, 65'535)),
                        .journal = *rc::gen::element<std::string>("", "/var/lib/baton", "/a folder/\"x\""),
                        .queue = static_cast<int>(drawn(1, 1'000'000)),
                        .jobs = static_cast<int>(drawn(1, 1000)),
                        .results = static_cast<int>(drawn(1, 1'000'000))};
  if (config.coordinator.address == "head-node.example") config.security.certificates = "/keys";
  config.processes = *rc::gen::element(process_layout::one, process_layout::per_device);
  config.links.transport = *rc::gen::element(transport_kind::tcp, transport_kind::ucx);
  if (config.links.transport == transport_kind::tcp) {
    for (auto& node : config.nodes) {
      const auto first = static_cast<std::uint16_t>(drawn(1, 60'000));
      if (*rc::gen::arbitrary<bool>())
        node.data_ports = {first, static_cast<std::uint16_t>(first + node.devices.size() + drawn(0, 1000))};
    }
  }
  if (*rc::gen::arbitrary<bool>()) config.security.certificates = "/keys";
  config.links.delay_ms = static_cast<int>(drawn(0, 60'000));
  return config;
}

TEST(describe, spells_out_every_default) {
  EXPECT_EQ(describe(parsed("model: {directory: /m}")), R"(model:
  directory: "/m"
  precision: bf16
  prompt: llama3
  system_prompt: ""
job:
  strategy: apb
  ranks: 1
  anchor_tokens: auto
  passing_tokens: auto
  block_tokens: []
  compressor: auto
  compressor_seed: 0
  chunk_tokens: 2048
  max_new_tokens: 64
  temperature: 0
  top_p: 1
  seed: 0
processes: one
nodes:
  - name: "local"
    address: "127.0.0.1"
    data_ports: any
    affinity: auto
    relay:
      log_memory: 1GiB
      log_disk: 0
      log_directory: "/var/tmp"
    devices:
      - name: "cpu0"
        kind: cpu
        threads: auto
        cores: []
        memory: auto
coordinator:
  address: "127.0.0.1"
  port: 4711
  journal: ""
  queue: 100
  jobs: 8
  results: 1000
links:
  transport: tcp
  delay: 0ms
security:
  certificates: ""
limits:
  positions_max: auto
timeouts:
  progress: 100ms
  silence: 1200ms
  exchange: 30s
  chunk: 10min
  startup: 1min
  shutdown: 5s
  client: 5s
  reconnect: 10min
recovery:
  replays: 3
  reserve: 1
  replacement: 30s
  take_up: 10s
  keep: 2min
)");
}

TEST(describe, keeps_where_a_relative_model_was_found) {
  const cluster_config config = parsed("model: {directory: no/such/folder}");
  EXPECT_EQ(parsed(describe(config)), config);
}

RC_GTEST_PROP(describe, parses_back_to_the_same_configuration, ()) {
  const cluster_config config = drawn_config();
  RC_ASSERT(parsed(describe(config)) == config);
}

}  // namespace
}  // namespace baton
