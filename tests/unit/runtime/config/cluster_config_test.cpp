#include "runtime/config/cluster_config.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;

const fs::path configs = fs::path(BATON_SOURCE_DIR) / "configs";
const std::string model = "model: {directory: /m}\n";

cluster_config parse(const std::string& yaml) { return parse_cluster_config(yaml, "f.yaml", "/base"); }

template <typename Call>
std::string fault_of(Call call) {
  try {
    call();
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    return f.what();
  }
  return "no fault";
}

std::string refusal_of(const std::string& yaml) {
  return fault_of([&] { parse(yaml); });
}

std::vector<fs::path> config_files() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(configs)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

std::vector<std::string> lines_of(std::istream&& text) {
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

/// The key that a line gives, without what stands before it; empty where it gives none.
std::string key_on(const std::string& line) {
  const std::size_t first = line.find_first_not_of(" -");
  if (first == std::string::npos || line[first] == '#') return {};
  const std::size_t colon = line.find(':', first);
  return colon == std::string::npos ? std::string() : line.substr(first, colon - first);
}

TEST(cluster_config, fills_in_every_default) {
  const cluster_config config = parse(model);
  cluster_config expected;
  expected.model.directory = "/m";
  expected.source_file = "f.yaml";
  EXPECT_EQ(config, expected);

  EXPECT_EQ(config.model.precision, element_type::bf16);
  EXPECT_EQ(config.model.prompt.name, "llama3");
  EXPECT_EQ(config.job, job_options{});
  ASSERT_EQ(config.nodes.size(), 1u);
  EXPECT_EQ(config.nodes[0].name, "local");
  EXPECT_EQ(config.nodes[0].relay, (relay_config{std::int64_t{1} << 30, 0, "/var/tmp"}));
  ASSERT_EQ(config.nodes[0].devices.size(), 1u);
  EXPECT_EQ(config.nodes[0].devices[0], (device_config{.name = "cpu0", .threads = 0, .cores = {}, .memory_bytes = 0}));
  EXPECT_EQ(config.processes, process_layout::one);
  EXPECT_EQ(config.links.delay_ms, 0);
  EXPECT_EQ(config.links.transport, transport_kind::tcp);
  EXPECT_TRUE(config.security.certificates.empty());
  EXPECT_EQ(config.positions_max, 0);
  EXPECT_EQ(config.timeouts, (timeouts_config{100, 1'200, 30'000, 600'000, 60'000, 5'000}));
}

TEST(cluster_config, reads_gpus) {
  const auto devices =
      parse(model + "nodes: [{devices: [{kind: cuda, memory: 2GiB}, {kind: cuda, index: 1, name: g}]}]\n")
          .nodes[0]
          .devices;
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(
      devices[0],
      (device_config{
          .name = "cuda0", .cores = {}, .memory_bytes = std::int64_t{2} << 30, .kind = device_kind::cuda, .index = 0}));
  EXPECT_EQ(devices[1], (device_config{.name = "g", .cores = {}, .kind = device_kind::cuda, .index = 1}));
}

TEST(cluster_config, refuses_fp32_on_a_gpu) {
  EXPECT_THROW(parse("model: {directory: /m, precision: fp32}\nnodes: [{devices: [{kind: cuda}]}]\n"), fault);
  EXPECT_THROW(parse("model: {directory: /m, precision: fp32}\nnodes: [{devices: [{}, {kind: cuda}]}]\n"), fault);
}

TEST(cluster_config, takes_devices_of_both_kinds_on_one_node_or_several) {
  const auto nodes =
      parse(model + "nodes: [{devices: [{kind: cuda}, {}]}, {name: b, affinity: \"off\", devices: [{}]}]\n").nodes;
  EXPECT_EQ(nodes[0].devices[0].kind, device_kind::cuda);
  EXPECT_EQ(nodes[0].devices[1].kind, device_kind::cpu);
  EXPECT_TRUE(nodes[0].affinity);
  EXPECT_FALSE(nodes[1].affinity);
}

TEST(cluster_config, reads_every_key) {
  const cluster_config config = parse(R"(
model: {directory: /m, precision: fp32, prompt: chatml, system_prompt: "Be brief.\n"}
job:
  strategy: star
  ranks: 3
  anchor_tokens: 1024
  passing_tokens: 0
  block_tokens: [5, 6, 7]
  compressor: query_key
  compressor_seed: 18446744073709551615
  chunk_tokens: 512
  max_new_tokens: 7
  temperature: 0.7
  top_p: 0.95
  seed: 42
nodes:
  - name: a
    address: 10.0.0.7
    relay: {log_memory: 2GiB, log_disk: 3TiB, log_directory: /data/log}
    devices:
      - {name: x, kind: cpu, threads: 2, cores: [4, 5], memory: 512MiB}
      - {threads: auto, memory: auto}
  - devices: [{}]
processes: per_device
links: {transport: ucx, delay: 20ms}
security: {certificates: keys}
limits: {positions_max: 65536}
timeouts: {progress: 50ms, silence: 2s, exchange: 9s, chunk: 3min, startup: 1min, shutdown: 300ms, client: 7s, reconnect: 0ms}
recovery: {replays: 1, reserve: 2, replacement: 3s, take_up: 4s, keep: 5s}
coordinator: {address: head.example, port: 99, journal: kept, queue: 3, jobs: 2, results: 5}
)");
  EXPECT_EQ(config.model.precision, element_type::f32);
  EXPECT_EQ(config.model.prompt.name, "chatml");
  EXPECT_EQ(config.model.system_prompt, "Be brief.\n");
  const job_options job{.strategy = "star",
                        .ranks = 3,
                        .anchor_tokens = 1024,
                        .passing_tokens = 0,
                        .block_tokens = {5, 6, 7},
                        .compressor = compressor_kind::query_key,
                        .compressor_seed = 18446744073709551615u,
                        .chunk_tokens = 512,
                        .max_new_tokens = 7,
                        .sampling = {.temperature = 0.7F, .top_p = 0.95F, .seed = 42}};
  EXPECT_EQ(config.job, job);
  const std::vector<node_config> nodes{
      {.name = "a",
       .address = "10.0.0.7",
       .relay = {.log_memory_bytes = std::int64_t{2} << 30,
                 .log_disk_bytes = std::int64_t{3} << 40,
                 .log_directory = "/data/log"},
       .devices = {{.name = "x", .threads = 2, .cores = {4, 5}, .memory_bytes = 512 << 20},
                   {.name = "cpu1", .cores = {}}}},
      {.name = "node1", .relay = {}, .devices = {{.name = "cpu0", .cores = {}}}}};
  EXPECT_EQ(config.nodes, nodes);
  EXPECT_EQ(config.positions_max, 65536);
  EXPECT_EQ(config.processes, process_layout::per_device);
  EXPECT_EQ(config.links.delay_ms, 20);
  EXPECT_EQ(config.timeouts, (timeouts_config{50, 2'000, 9'000, 180'000, 60'000, 300, 7'000, 0}));
  EXPECT_EQ(config.recovery, (recovery_config{1, 2, 3'000, 4'000, 5'000}));
  // A relative folder is below that of the file.
  EXPECT_EQ(config.coordinator, (coordinator_config{"head.example", 99, "/base/kept", 3, 2, 5}));
  EXPECT_EQ(config.links.transport, transport_kind::ucx);
  EXPECT_EQ(config.security.certificates.filename(), "keys");
  EXPECT_TRUE(config.security.certificates.is_absolute());
}

TEST(cluster_config, addresses_beyond_loopback_go_with_certificates) {
  const auto config = parse(model +
                            "nodes: [{address: 10.0.0.2}, {address: node.example}]\ncoordinator: {address: 10.0.0.1}\n"
                            "security: {certificates: /etc/baton}\n");
  EXPECT_EQ(config.nodes[1].address, "node.example");
  EXPECT_EQ(config.coordinator.address, "10.0.0.1");
  for (const auto* here : {"127.0.0.1", "127.8.9.10", "\"::1\"", "localhost"})
    EXPECT_NO_THROW(static_cast<void>(parse(model + "coordinator: {address: " + here + "}\n"))) << here;
}

TEST(cluster_config, reads_a_prompt_that_is_spelt_out) {
  const auto read = parse(
                        "model:\n  directory: /m\n  system_prompt: Be brief.\n  prompt:\n    opening: \"<s>\"\n"
                        "    opening_with_system: \"<s>{system}\\n\"\n    query_suffix: \"\\nA: \"\n")
                        .model.prompt;
  EXPECT_EQ(read.name, "custom");
  EXPECT_EQ(read.opening, "<s>");
  EXPECT_EQ(read.opening_with_system, "<s>{system}\n");
  EXPECT_EQ(read.query_prefix, "\n\n");
  EXPECT_EQ(read.query_suffix, "\nA: ");
}

TEST(cluster_config, takes_one_rank_for_each_block_where_ranks_are_not_given) {
  EXPECT_EQ(parse(model + "job: {block_tokens: [10, 20, 30]}").job.ranks, 3);
}

TEST(cluster_config, takes_empty_sections_as_none) {
  EXPECT_EQ(parse(model + "job:\nlimits:\ntimeouts: {}\n"), parse(model));
}

TEST(cluster_config, reads_files_of_other_systems) {
  EXPECT_EQ(parse("\xEF\xBB\xBFmodel:\r\n  directory: /m\r\n"), parse(model));
  EXPECT_EQ(refusal_of("\xEF\xBB\xBFmodel:\r\n  directory: /m\r\n  x: 1\r\n"),
            "f.yaml:3:3: model.x: unknown key; known here are directory, precision, prompt, system_prompt");
}

TEST(cluster_config, takes_the_model_from_the_working_directory_else_from_the_folder_of_the_file) {
  const temporary_directory base;
  const auto directory_of = [&](const std::string& directory) {
    return parse_cluster_config("model: {directory: \"" + directory + "\"}", "f.yaml", base.path()).model.directory;
  };
  const std::string here = fs::relative(BATON_SOURCE_DIR).string();
  EXPECT_EQ(directory_of(here), here);
  EXPECT_EQ(directory_of("no/such/folder"), base.path() / "no/such/folder");
  EXPECT_EQ(directory_of("../no-such-model"), base.path().parent_path() / "no-such-model");
  EXPECT_EQ(directory_of("/no/such/folder"), "/no/such/folder");

  fs::create_directory(base.path() / "model-of-this-test");
  const fs::path file = base.write("c.yaml", "model: {directory: model-of-this-test}");
  EXPECT_EQ(load_cluster_config(file).model.directory, base.path() / "model-of-this-test");
  EXPECT_EQ(load_cluster_config(file).source_file, file);
}

struct bad_file {
  std::string yaml;
  std::string message;
};

TEST(cluster_config, says_what_is_wrong_and_where) {
  const std::string names = "a name of 1 to 64 letters, digits, '.', '_' or '-'";
  const std::string advice = "the folder of a model, with config.json and model.safetensors";
  const std::string yaml_advice = "); look for wrong indentation, a tab, or a quote or bracket that is not closed";
  const std::string bad_key = "a list, a mapping or nothing cannot be a key; a key is one word";
  const std::vector<bad_file> files{
      // The file as a whole.
      {"", "f.yaml:1:1: nothing is in this file; give at least model.directory, " + advice},
      {"# only a comment\n", "f.yaml:1:1: nothing is in this file; give at least model.directory, " + advice},
      {"---\n", "f.yaml:2:1: nothing is in this file; give at least model.directory, " + advice},
      {"- model\n", "f.yaml:1:1: expected a mapping of keys, got a list"},
      {"model\n", "f.yaml:1:1: expected a mapping of keys, got 'model'"},
      {model + "---\n" + model, "f.yaml:2:1: a second document begins here; a file holds one"},
      {"model: \xFF\n",
       "f.yaml:1:8: not UTF-8: the byte 0xFF at byte offset 7 starts no complete character; text must be "
       "given in UTF-8"},
      {"model: a\x01", "f.yaml:1:9: the control character 0x01 has no place here; in quoted text write \"\\x01\""},
      {"model: a\rjob:\n", "f.yaml:1:9: the control character 0x0D has no place here; in quoted text write \"\\x0D\""},
      {std::string("m\0o\0", 4),
       "f.yaml:1:2: the control character 0x00 has no place here; in quoted text write \"\\x00\""},

      // What is not YAML, or more of it than is accepted.
      {"model: a: b\n", "f.yaml:1:9: not YAML (illegal map value" + yaml_advice},
      {"model:\n  directory: /m\n precision: fp32\n", "f.yaml:3:2: not YAML (end of map not found" + yaml_advice},
      {"job: {ranks: 8\n", "f.yaml:2:1: not YAML (end of map flow not found" + yaml_advice},
      {"model:\n  directory: \"a\\q\"\n", "f.yaml:2:18: not YAML (unknown escape character: q" + yaml_advice},
      {"größe: a: b\n", "f.yaml:1:9: not YAML (illegal map value" + yaml_advice},
      {"job: {block_tokens: [1, 2}\n", "f.yaml:1:26: not YAML (illegal flow end" + yaml_advice},
      {"job: {block_tokens: [[[1\n", "f.yaml:2:1: not YAML (end of sequence flow not found" + yaml_advice},
      {"model:\n  directory: \"/m\n", "f.yaml:2:14: this text is not closed; add \" at its end"},
      {"model:\n  directory: 'it''s \"\n", "f.yaml:2:14: this text is not closed; add ' at its end"},
      {"model: &m {directory: /m}\n", "f.yaml:1:8: anchors (&) and aliases (*) are not accepted; write the value out"},
      {"job: *j\n", "f.yaml:1:6: not YAML (the referenced anchor is not defined" + yaml_advice},
      {"model: {directory: !!str /m}\n", "f.yaml:1:20: tags (!) are not accepted; write the value alone"},
      {"model: ! /m\n", "f.yaml:1:8: tags (!) are not accepted; write the value alone"},
      {"? [model]\n: 1\n", "f.yaml:1:3: " + bad_key},
      {model + "~: 1\n", "f.yaml:2:1: " + bad_key},
      {"a: " + std::string(17, '[') + std::string(17, ']'), "f.yaml:1:19: nested more than 16 levels deep"},

      // Keys.
      {"job: {ranks: 8}\n", "f.yaml:1:1: model: this key is missing; give at least model.directory, " + advice},
      {"model:\n  precision: fp32\n", "f.yaml:2:3: model.directory: this key is missing; give " + advice},
      {"model:\njob: {ranks: 8}\n", "f.yaml:1:1: model.directory: this key is missing; give " + advice},
      {"model:\n  directroy: /m\n", "f.yaml:2:3: model.directroy: unknown key; did you mean directory?"},
      {model + "job:\n  anchor-tokens: 8\n", "f.yaml:3:3: job.anchor-tokens: unknown key; did you mean anchor_tokens?"},
      {model + "ranks: 8\n",
       "f.yaml:2:1: ranks: unknown key; known here are model, job, processes, security, nodes, coordinator, links, "
       "limits, "
       "timeouts, "
       "recovery"},
      {model + "nodes:\n  - name: a\n    devices:\n      - core: [1]\n",
       "f.yaml:5:9: nodes[0].devices[0].core: unknown key; did you mean cores?"},
      {model + "<<: {job: {ranks: 8}}\n",
       "f.yaml:2:1: <<: unknown key; known here are model, job, processes, security, nodes, coordinator, links, "
       "limits, "
       "timeouts, "
       "recovery"},
      {model + "\"a\\nb\": 1\n",
       "f.yaml:2:1: a\\nb: unknown key; known here are model, job, processes, security, nodes, coordinator, links, "
       "limits, "
       "timeouts, "
       "recovery"},
      {model + std::string(59, 'x') + "ßß: 1\n", "f.yaml:2:1: " + std::string(59, 'x') +
                                                     "…: unknown key; known here are model, job, processes, security, "
                                                     "nodes, coordinator, links, limits, timeouts, "
                                                     "recovery"},
      {model + model, "f.yaml:2:1: model: this key is there already; keep one of the two"},
      {model + "job:\n  ranks: 8\n  seed: 1\n  ranks: 8\n",
       "f.yaml:5:3: job.ranks: this key is there already; keep one of the two"},

      // Strangers.
      {model + "nodes:\n  - address: 10.0.0.1\n",
       "f.yaml:3:14: nodes[0].address: 10.0.0.1 is beyond loopback, where strangers are; name the folder of "
       "certificates "
       "in security.certificates (`baton certificates` makes it), or take 127.0.0.1"},
      {model + "coordinator: {address: head.example}\nsecurity: {}\n",
       "f.yaml:2:24: coordinator.address: head.example is beyond loopback, where strangers are; name the folder of "
       "certificates in security.certificates (`baton certificates` makes it), or take 127.0.0.1"},

      // Types.
      {"model: /m\n", "f.yaml:1:8: model: expected a mapping of keys, got '/m'"},
      {"model: {directory: [a]}\n", "f.yaml:1:20: model.directory: expected text, got a list"},
      {"model:\n  directory:\n", "f.yaml:2:3: model.directory: expected text, got nothing"},
      {"model: {directory: ~}\n", "f.yaml:1:20: model.directory: expected text, got nothing"},
      {"model: {directory: \"\"}\n", "f.yaml:1:20: model.directory: expected " + advice + ", got the quoted text ''"},
      {"model: {directory: \"a\\0b\"}\n",
       "f.yaml:1:20: model.directory: expected " + advice + ", got the quoted text 'a\\x00b'"},
      {model + "job: {ranks: eight}\n",
       "f.yaml:2:14: job.ranks: expected a whole number between 1 and 65535, got 'eight'"},
      {model + "job: {ranks: \"8\"}\n",
       "f.yaml:2:14: job.ranks: expected a whole number between 1 and 65535, got the quoted text '8'"},
      {model + "job: {ranks: 8.0}\n", "f.yaml:2:14: job.ranks: expected a whole number between 1 and 65535, got '8.0'"},
      {model + "job: {ranks: {}}\n",
       "f.yaml:2:14: job.ranks: expected a whole number between 1 and 65535, got a mapping"},
      {model + "job: {block_tokens: 8}\n", "f.yaml:2:21: job.block_tokens: expected a list, got '8'"},
      {model + "job: {block_tokens: [8, a]}\n",
       "f.yaml:2:25: job.block_tokens[1]: expected a whole number between 1 and 2147483647, got 'a'"},
      {model + "job:\n  block_tokens:\n    - 8\n    -\n",
       "f.yaml:4:5: job.block_tokens[1]: expected a whole number between 1 and 2147483647, got nothing"},
      {model + "nodes: {name: a}\n", "f.yaml:2:8: nodes: expected a list, got a mapping"},
      {model + "nodes:\n", "f.yaml:2:1: nodes: expected a list, got nothing"},
      {model + "nodes: [a]\n", "f.yaml:2:9: nodes[0]: expected a mapping of keys, got 'a'"},
      {model + "limits: 5\n", "f.yaml:2:9: limits: expected a mapping of keys, got '5'"},

      // Values.
      {"model: {directory: /m, precision: fp16}\n",
       "f.yaml:1:35: model.precision: expected one of bf16, fp32, got 'fp16'"},
      {"model: {directory: /m, prompt: alpaca}\n",
       "f.yaml:1:32: model.prompt: expected one of chatml, llama2, llama3, needle, yi, or a mapping of opening, "
       "query_prefix and "
       "query_suffix, got 'alpaca'"},
      {"model:\n  directory: /m\n  prompt: {openning: x}\n",
       "f.yaml:3:12: model.prompt.openning: unknown key; did you mean opening?"},
      {"model:\n  directory: /m\n  prompt: {opening_with_system: x}\n",
       "f.yaml:3:33: model.prompt.opening_with_system: it must say {system} where the system prompt goes"},
      {"model: {directory: /m, prompt: needle, system_prompt: x}\n",
       "f.yaml:1:55: model.system_prompt: the prompt format needle has no place for a system prompt"},
      {model + "job: {strategy: abp}\n", "f.yaml:2:17: job.strategy: expected one of full, star, apb, got 'abp'"},
      {model + "job: {ranks: 0}\n", "f.yaml:2:14: job.ranks: expected a whole number between 1 and 65535, got '0'"},
      {model + "job: {ranks: -8}\n", "f.yaml:2:14: job.ranks: expected a whole number between 1 and 65535, got '-8'"},
      {model + "job: {ranks: 99999999999999999999}\n",
       "f.yaml:2:14: job.ranks: expected a whole number between 1 and 65535, got '99999999999999999999'"},
      {model + "job: {strategy: full, ranks: 8}\n", "f.yaml:2:30: job.ranks: strategy full runs on one rank, not on 8"},
      {model + "job: {strategy: full, block_tokens: [1, 2]}\n",
       "f.yaml:2:37: job.block_tokens: strategy full runs on one rank, not on 2"},
      {model + "job: {anchor_tokens: -1}\n",
       "f.yaml:2:22: job.anchor_tokens: expected a whole number between 0 and 2147483647, or auto, got '-1'"},
      {model + "job: {passing_tokens: Auto}\n",
       "f.yaml:2:23: job.passing_tokens: expected a whole number between 0 and 2147483647, or auto, got 'Auto'"},
      {model + "job: {ranks: 3, block_tokens: [5, 6]}\n",
       "f.yaml:2:31: job.block_tokens: 2 lengths for 3 ranks; give one for each"},
      {model + "job: {block_tokens: [2147483647, 1]}\n",
       "f.yaml:2:21: job.block_tokens: the lengths add up to 2147483648; a document has at most 2147483647 tokens"},
      {model + "job: {compressor: none}\n",
       "f.yaml:2:19: job.compressor: expected one of auto, retaining_heads, query_key, recent, random, got 'none'"},
      {model + "job: {compressor_seed: 18446744073709551616}\n",
       "f.yaml:2:24: job.compressor_seed: expected a whole number between 0 and 18446744073709551615, got "
       "'18446744073709551616'"},
      {model + "job: {seed: -1}\n",
       "f.yaml:2:13: job.seed: expected a whole number between 0 and 18446744073709551615, got '-1'"},
      {model + "job: {chunk_tokens: 0}\n",
       "f.yaml:2:21: job.chunk_tokens: expected a whole number between 1 and 1048576, got '0'"},
      {model + "job: {max_new_tokens: 0}\n",
       "f.yaml:2:23: job.max_new_tokens: expected a whole number between 1 and 2147483647, got '0'"},
      {model + "job: {temperature: -0.1}\n",
       "f.yaml:2:20: job.temperature: expected a number between 0 and 100, got '-0.1'"},
      {model + "job: {temperature: nan}\n",
       "f.yaml:2:20: job.temperature: expected a number between 0 and 100, got 'nan'"},
      {model + "job: {temperature: 1e99}\n",
       "f.yaml:2:20: job.temperature: expected a number between 0 and 100, got '1e99'"},
      {model + "job: {top_p: 0}\n", "f.yaml:2:14: job.top_p: expected a number above 0 and at most 1, got '0'"},
      {model + "job: {top_p: 1.1}\n", "f.yaml:2:14: job.top_p: expected a number above 0 and at most 1, got '1.1'"},
      {model + "nodes: []\n", "f.yaml:2:8: nodes: the list is too short; at least 1"},
      {model + "nodes: [{devices: []}]\n", "f.yaml:2:19: nodes[0].devices: the list is too short; at least 1"},
      {model + "nodes: [{name: a b}]\n", "f.yaml:2:16: nodes[0].name: expected " + names + ", got 'a b'"},
      {model + "nodes: [{name: \"\"}]\n", "f.yaml:2:16: nodes[0].name: expected " + names + ", got the quoted text ''"},
      {model + "nodes:\n  - name: a\n  - name: b\n  - name: a\n",
       "f.yaml:5:11: nodes[2].name: 'a' is the name of another one in this list"},
      {model + "nodes: [{name: node1}, {}]\n",
       "f.yaml:2:24: nodes[1].name: 'node1' is the name of another one in this list"},
      {model + "nodes: [{devices: [{name: x}, {name: x}]}]\n",
       "f.yaml:2:38: nodes[0].devices[1].name: 'x' is the name of another one in this list"},
      {model + "nodes: [{devices: [{kind: tpu}]}]\n",
       "f.yaml:2:27: nodes[0].devices[0].kind: expected one of cpu, cuda, got 'tpu'"},
      {model + "nodes: [{devices: [{kind: cuda, threads: 2}]}]\n",
       "f.yaml:2:42: nodes[0].devices[0].threads: a GPU has none to choose"},
      {model + "nodes: [{devices: [{kind: cuda, cores: [2]}]}]\n",
       "f.yaml:2:40: nodes[0].devices[0].cores: a GPU has none to choose"},
      {model + "nodes: [{devices: [{index: 1}]}]\n",
       "f.yaml:2:28: nodes[0].devices[0].index: only a device of kind cuda has one"},
      {model + "nodes: [{affinity: near}]\n", "f.yaml:2:20: nodes[0].affinity: expected one of auto, off, got 'near'"},
      {model + "nodes: [{devices: [{threads: 0}]}]\n",
       "f.yaml:2:30: nodes[0].devices[0].threads: expected a whole number between 1 and 1024, or auto, got '0'"},
      {model + "nodes: [{devices: [{threads: 3, cores: [0, 1]}]}]\n",
       "f.yaml:2:30: nodes[0].devices[0].threads: 3 threads cannot run at once on 2 cores; list more cores, or auto"},
      {model + "nodes: [{devices: [{cores: [0, 1024]}]}]\n",
       "f.yaml:2:32: nodes[0].devices[0].cores[1]: expected a whole number between 0 and 1023, got '1024'"},
      {model + "nodes: [{devices: [{cores: [3, 3]}]}]\n",
       "f.yaml:2:32: nodes[0].devices[0].cores[1]: core 3 is in this list already"},
      {model + "nodes: [{devices: [{memory: 4GB}]}]\n",
       "f.yaml:2:29: nodes[0].devices[0].memory: expected a size such as 512MiB or 2GiB, between 1MiB and 1024TiB, or "
       "auto, "
       "got '4GB'"},
      {model + "nodes: [{data_ports: 4720}]\n",
       "f.yaml:2:22: nodes[0].data_ports: expected any, or the first and the last port such as 4720-4739, got '4720'"},
      {model + "nodes: [{data_ports: 4739-4720}]\n",
       "f.yaml:2:22: nodes[0].data_ports: expected any, or the first and the last port such as 4720-4739, got "
       "'4739-4720'"},
      {model + "nodes: [{data_ports: 65535-65536}]\n",
       "f.yaml:2:22: nodes[0].data_ports: expected any, or the first and the last port such as 4720-4739, got "
       "'65535-65536'"},
      {model + "nodes: [{data_ports: 4720-4721, devices: [{threads: 1}, {threads: 1}]}]\n",
       "f.yaml:2:22: nodes[0].data_ports: 2 ports are too few: the agent takes one, and so does each of 2 devices"},
      {model + "nodes: [{data_ports: 4720-4739}]\nlinks: {transport: ucx}\n",
       "f.yaml:3:8: links: ucx takes ports of its own choice; leave data_ports of the nodes away, or take transport "
       "tcp"},
      {model + "nodes: [{relay: {log_memory: 0}}]\n",
       "f.yaml:2:30: nodes[0].relay.log_memory: expected a size such as 512MiB or 2GiB, between 1 and 1024TiB, got "
       "'0'"},
      {model + "nodes: [{relay: {log_disk: some}}]\n",
       "f.yaml:2:28: nodes[0].relay.log_disk: expected a size such as 512MiB or 2GiB, between 0 and 1024TiB, got "
       "'some'"},
      {model + "nodes: [{relay: {log_directory: var/tmp}}]\n",
       "f.yaml:2:33: nodes[0].relay.log_directory: expected a folder's absolute path such as /var/tmp, got 'var/tmp'"},
      {model + "limits: {positions_max: 0}\n",
       "f.yaml:2:25: limits.positions_max: expected a whole number between 1 and 2147483647, or auto, got '0'"},
      {model + "timeouts: {progress: 100}\n",
       "f.yaml:2:22: timeouts.progress: expected a duration such as 100ms or 2s, between 10ms and 500ms, got '100'"},
      {model + "timeouts: {startup: 2h}\n",
       "f.yaml:2:21: timeouts.startup: expected a duration such as 100ms or 2s, between 100ms and 60min, got '2h'"},
      {model + "coordinator: {port: 0}\n",
       "f.yaml:2:21: coordinator.port: expected a whole number between 1 and 65535, got '0'"},
      {model + "coordinator: {address: a b}\n",
       "f.yaml:2:24: coordinator.address: expected an address such as 10.0.0.1, or a host's name, got 'a b'"},
      {model + "coordinator: {queue: 0}\n",
       "f.yaml:2:22: coordinator.queue: expected a whole number between 1 and 1000000, got '0'"},
      {model + "timeouts: {chunk: 25h}\n",
       "f.yaml:2:19: timeouts.chunk: expected a duration such as 100ms or 2s, between 100ms and 1440min, got '25h'"},
      {model + "timeouts: {client: 1s}\n",
       "f.yaml:2:20: timeouts.client: expected a duration such as 100ms or 2s, between 2s and 60min, got '1s'"},
      {model + "timeouts: {progress: 200ms, silence: 399ms}\n",
       "f.yaml:2:38: timeouts.silence: 399 ms is too short for workers that report every 200 ms; at least twice as "
       "long"},
  };
  for (const bad_file& file : files) EXPECT_EQ(refusal_of(file.yaml), file.message) << file.yaml;
}

TEST(cluster_config, refuses_more_ranks_than_can_be) {
  std::string blocks = "1";
  for (int i = 0; i < 65'535; ++i) blocks += ",1";
  EXPECT_EQ(refusal_of(model + "job: {block_tokens: [" + blocks + "]}"),
            "f.yaml:2:21: job.block_tokens: 65536 lengths are too many; at most 65535");
}

TEST(cluster_config, says_why_a_file_cannot_be_read) {
  const temporary_directory folder;
  const auto refusal = [](const fs::path& file) { return fault_of([&] { load_cluster_config(file); }); };
  const fs::path missing = folder.path() / "missing.yaml";
  EXPECT_EQ(refusal(missing), missing.string() + ": cannot be read: No such file or directory");
  EXPECT_EQ(
      refusal(folder.path()),
      folder.path().string() + ": cannot be read: it is a folder; give a YAML file, such as configs/quickstart.yaml");
  const fs::path large = folder.write("large.yaml", model + "#" + std::string(1 << 20, ' '));
  EXPECT_EQ(refusal(large), large.string() + ": larger than 1 MiB; this is no configuration file");
  EXPECT_EQ(refusal("/dev/zero"), "/dev/zero: larger than 1 MiB; this is no configuration file");
}

TEST(cluster_config, reads_a_file_of_just_one_mebibyte) {
  const temporary_directory folder;
  const fs::path file = folder.write("large.yaml", model + "#" + std::string((1 << 20) - model.size() - 1, ' '));
  EXPECT_EQ(load_cluster_config(file).model.directory, "/m");
}

TEST(cluster_config, says_why_a_file_may_not_be_read) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const temporary_directory folder;
  const fs::path file = folder.write("secret.yaml", model);
  ASSERT_EQ(::chmod(file.c_str(), 0), 0);
  EXPECT_EQ(fault_of([&] { load_cluster_config(file); }), file.string() + ": cannot be read: Permission denied");
}

// Truncated and mangled files either parse or are refused; nothing else may happen.
TEST(cluster_config, refuses_or_reads_whatever_is_in_a_file) {
  std::ifstream stream(configs / "reference.yaml", std::ios::binary);
  const std::string reference{std::istreambuf_iterator<char>(stream), {}};
  ASSERT_FALSE(reference.empty());
  const auto survives = [](const std::string& text) {
    try {
      parse(text);
    } catch (const fault& f) {
      EXPECT_EQ(f.code(), fault_code::bad_input);
      EXPECT_TRUE(f.where().starts_with("f.yaml")) << f.what();
    }
  };
  for (std::size_t length = 0; length < reference.size(); length += 101) survives(reference.substr(0, length));
  const std::string letters = "\n\t :-[]{}\"'!&*%@|>?#,~a0\\\x80";
  for (std::size_t i = 0; i < 150; ++i) {
    std::string mangled = reference;
    mangled[i * 7919 % mangled.size()] = letters[i % letters.size()];
    survives(mangled);
  }
  for (const std::string piece : {"[", "{", "- ", "? ", "a: ", "{a: ", "[a,", "a\n", "\"", "|\n", "- - \n"}) {
    std::string repeated;
    while (repeated.size() < 20'000) repeated += piece;
    survives(repeated);
  }
}

TEST(configs_folder, has_only_files_that_load) {
  const std::vector<fs::path> files = config_files();
  ASSERT_GE(files.size(), 4u);
  for (const fs::path& file : files) {
    EXPECT_EQ(file.extension(), ".yaml");
    EXPECT_EQ(fault_of([&] { load_cluster_config(file); }), "no fault");
  }
}

TEST(configs_folder, names_a_model_that_is_there) {
  for (const fs::path& file : config_files()) {
    EXPECT_TRUE(fs::exists(load_cluster_config(file).model.directory / "config.json")) << file;
  }
}

TEST(configs_folder, comments_every_key) {
  for (const fs::path& file : config_files()) {
    const auto lines = lines_of(std::ifstream(file));
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (key_on(lines[i]).empty()) continue;
      const bool commented = i > 0 && lines[i - 1].find_first_not_of(' ') == lines[i - 1].find('#');
      EXPECT_TRUE(commented && !lines[i - 1].empty()) << file << ":" << i + 1 << ": " << lines[i];
    }
  }
}

TEST(configs_folder, has_every_key_and_its_default_in_the_reference) {
  const cluster_config reference = load_cluster_config(configs / "reference.yaml");
  cluster_config defaults;
  defaults.model.directory = reference.model.directory;
  defaults.model.prompt = *find_prompt_format("needle");
  defaults.source_file = reference.source_file;
  EXPECT_EQ(reference, defaults);

  const auto keys = [](std::istream&& text) {
    std::multiset<std::string> found;
    for (const std::string& line : lines_of(std::move(text))) {
      if (!key_on(line).empty()) found.insert(key_on(line));
    }
    return found;
  };
  EXPECT_EQ(keys(std::ifstream(configs / "reference.yaml")), keys(std::istringstream(describe(defaults))));
}

TEST(configs_folder, has_what_the_files_are_named_after) {
  const auto quickstart = load_cluster_config(configs / "quickstart.yaml");
  EXPECT_EQ(quickstart.job.strategy, "apb");
  EXPECT_EQ(quickstart.job.ranks, 8);
  EXPECT_EQ(quickstart.model.prompt.name, "needle");
  EXPECT_EQ(quickstart.nodes, std::vector<node_config>{node_config{}});

  const auto two = load_cluster_config(configs / "two-devices.yaml");
  EXPECT_EQ(two.job.ranks, 8);
  ASSERT_EQ(two.nodes.size(), 1u);
  ASSERT_EQ(two.nodes[0].devices.size(), 2u);
  for (const auto& device : two.nodes[0].devices) EXPECT_EQ(device.threads, 1);

  EXPECT_EQ(load_cluster_config(configs / "fp32.yaml").model.precision, element_type::f32);
}

}  // namespace
}  // namespace baton
