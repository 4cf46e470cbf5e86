#include "runtime/config/cluster_config.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kernels/fault.hpp"
#include "runtime/config/config_reader.hpp"
#include "runtime/config/yaml_tree.hpp"
#include "runtime/strategy/strategy.hpp"
#include "runtime/transport/socket.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;
using config::config_section;
using config::config_value;

constexpr std::int64_t tokens_max = std::numeric_limits<std::int32_t>::max();  // positions are 32-bit numbers
constexpr int ranks_max = 65'535;
constexpr std::int64_t chunk_tokens_max = std::int64_t{1} << 20;
constexpr int threads_max = 1024;
constexpr int core_max = 1023;  // of a cpu_set_t
constexpr std::int64_t mebibyte = std::int64_t{1} << 20;
constexpr std::int64_t tebibyte = std::int64_t{1} << 40;
constexpr int hour_ms = 3'600'000;
constexpr std::size_t name_length_max = 64;
const std::string directory_advice = "the folder of a model, with config.json and model.safetensors";
constexpr std::string_view system_place = "{system}";

fs::path resolved(const fs::path& directory, const fs::path& base) {
  std::error_code ignored;
  if (directory.is_absolute() || fs::exists(directory, ignored)) return directory;
  const fs::path below = base / directory;
  const fs::path absolute = fs::absolute(below, ignored);
  return (ignored ? below : absolute).lexically_normal();
}

/// Names stand in tables, traces and messages.
std::string read_name(const config_value& value) {
  std::string name = value.text();
  if (!is_node_name(name))
    value.expected(fmt::format("a name of 1 to {} letters, digits, '.', '_' or '-'", name_length_max));
  return name;
}

security_config read_security(config_section& in, const fs::path& base) {
  security_config security;
  in.read("certificates", security.certificates, [&](const config_value& value) -> fs::path {
    const std::string text = value.text();
    if (text.find('\0') != std::string::npos) value.expected("the folder that `baton certificates` has filled");
    if (text.empty()) return {};
    return fs::absolute(base / text).lexically_normal();
  });
  return security;
}

/// An address or a host's name; beyond loopback only where strangers are kept out.
std::string read_address(const config_value& value, const security_config& security) {
  std::string address = value.text();
  const bool fits = !address.empty() && address.size() <= 253 && std::ranges::all_of(address, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == ':' ||
           c == '-';
  });
  if (!fits) value.expected("an address such as 10.0.0.1, or a host's name");
  const auto place = socket_place::of(address, 0);
  const bool here = address == "localhost" || (place && place->is_loopback());
  if (!here && security.certificates.empty()) {
    value.refuse(address +
                 " is beyond loopback, where strangers are; name the folder of certificates in security.certificates "
                 "(`baton certificates` makes it), or take 127.0.0.1");
  }
  return address;
}

prompt_format read_prompt(const config_value& value) {
  if (value.node().kind == yaml_node::kind_type::mapping) {
    return config::section([](config_section& in) {
      prompt_format format{
          .name = "custom", .opening = {}, .opening_with_system = {}, .query_prefix = "\n\n", .query_suffix = {}};
      in.read("opening", format.opening, config::text());
      in.read("opening_with_system", format.opening_with_system, config::text());
      in.read("query_prefix", format.query_prefix, config::text());
      in.read("query_suffix", format.query_suffix, config::text());
      if (!format.opening_with_system.empty() && format.opening_with_system.find(system_place) == std::string::npos) {
        in.refuse("opening_with_system", "it must say {system} where the system prompt goes");
      }
      return format;
    })(value);
  }
  const bool is_text = value.node().kind == yaml_node::kind_type::text;
  const prompt_format* preset = is_text ? find_prompt_format(value.node().text) : nullptr;
  if (preset == nullptr) {
    value.expected(
        fmt::format("one of {}, or a mapping of opening, query_prefix and query_suffix", prompt_format_names()));
  }
  return *preset;
}

model_source read_model(config_section& in, const fs::path& base) {
  model_source model;
  const auto directory = [&](const config_value& value) {
    const std::string text = value.text();
    if (text.empty() || text.find('\0') != std::string::npos) value.expected(directory_advice);
    return resolved(text, base);
  };
  in.require("directory", model.directory, directory, directory_advice);
  in.read("precision", model.precision,
          config::one_of<element_type>({{"bf16", element_type::bf16}, {"fp32", element_type::f32}}));
  in.read("prompt", model.prompt, read_prompt);
  in.read("system_prompt", model.system_prompt, config::text());
  if (!model.system_prompt.empty() && model.prompt.opening_with_system.empty()) {
    in.refuse("system_prompt", fmt::format("the prompt format {} has no place for a system prompt", model.prompt.name));
  }
  return model;
}

auto strategy_name() {
  std::vector<std::pair<std::string_view, std::string>> choices;
  for (const std::string_view name : strategy_names()) choices.emplace_back(name, name);
  return config::one_of(std::move(choices));
}

auto compressor_name() {
  std::vector<std::pair<std::string_view, std::optional<compressor_kind>>> choices{{"auto", std::nullopt}};
  for (const auto kind : {compressor_kind::retaining_heads, compressor_kind::query_key, compressor_kind::recent,
                          compressor_kind::random}) {
    choices.emplace_back(name_of(kind), kind);
  }
  return config::one_of(std::move(choices));
}

void settle_ranks(const config_section& in, job_options& job) {
  const std::string_view said = in.has("ranks") ? "ranks" : "block_tokens";
  if (!job.block_tokens.empty()) {
    const auto blocks = job.block_tokens.size();
    if (blocks > ranks_max)
      in.refuse("block_tokens", fmt::format("{} lengths are too many; at most {}", blocks, ranks_max));
    const auto sum = std::accumulate(job.block_tokens.begin(), job.block_tokens.end(), std::int64_t{0});
    if (sum > tokens_max) {
      in.refuse("block_tokens",
                fmt::format("the lengths add up to {}; a document has at most {} tokens", sum, tokens_max));
    }
    if (!in.has("ranks")) job.ranks = static_cast<int>(blocks);
    if (job.ranks != static_cast<int>(blocks)) {
      in.refuse("block_tokens", fmt::format("{} lengths for {} ranks; give one for each", blocks, job.ranks));
    }
  }
  if (job.ranks != 1 && !find_strategy(job.strategy).splits()) {
    in.refuse(said, fmt::format("strategy {} runs on one rank, not on {}", job.strategy, job.ranks));
  }
}

job_options read_job(config_section& in) {
  job_options job;
  const auto tokens_or_auto =
      config::auto_or(std::optional<std::int64_t>{}, config::whole(std::int64_t{0}, tokens_max));
  in.read("strategy", job.strategy, strategy_name());
  in.read("ranks", job.ranks, config::whole(1, ranks_max));
  in.read("anchor_tokens", job.anchor_tokens, tokens_or_auto);
  in.read("passing_tokens", job.passing_tokens, tokens_or_auto);
  in.read("block_tokens", job.block_tokens, config::list(0, config::whole(std::int64_t{1}, tokens_max)));
  in.read("compressor", job.compressor, compressor_name());
  in.read("compressor_seed", job.compressor_seed, config::seed());
  in.read("chunk_tokens", job.chunk_tokens, config::whole(std::int64_t{1}, chunk_tokens_max));
  in.read("max_new_tokens", job.max_new_tokens, config::whole(1, std::numeric_limits<int>::max()));
  in.read("temperature", job.sampling.temperature, config::real(0, 100, "between 0 and 100"));
  in.read("top_p", job.sampling.top_p, config::real(std::numeric_limits<float>::min(), 1, "above 0 and at most 1"));
  in.read("seed", job.sampling.seed, config::seed());
  settle_ranks(in, job);
  return job;
}

std::vector<int> read_cores(const config_value& value) {
  std::vector<int> cores;
  std::set<int> seen;
  for (const config_value& entry : value.list(0)) {
    cores.push_back(config::whole(0, core_max)(entry));
    if (!seen.insert(cores.back()).second) entry.refuse(fmt::format("core {} is in this list already", cores.back()));
  }
  return cores;
}

device_config read_device(config_section& in) {
  device_config device{.name = {}, .cores = {}};
  in.read("name", device.name, read_name);
  in.read("kind", device.kind, config::one_of<device_kind>({{"cpu", device_kind::cpu}, {"cuda", device_kind::cuda}}));
  in.read("index", device.index, config::whole(0, 1023));
  in.read("threads", device.threads, config::auto_or(0, config::whole(1, threads_max)));
  in.read("cores", device.cores, read_cores);
  in.read("memory", device.memory_bytes, config::auto_or(std::int64_t{0}, config::bytes(mebibyte, 1024 * tebibyte)));
  if (!device.cores.empty() && device.threads > static_cast<int>(device.cores.size())) {
    in.refuse("threads", fmt::format("{} threads cannot run at once on {} cores; list more cores, or auto",
                                     device.threads, device.cores.size()));
  }
  if (device.kind == device_kind::cuda) {
    if (in.has("threads")) in.refuse("threads", "a GPU has none to choose");
    if (in.has("cores")) in.refuse("cores", "a GPU has none to choose");
    if (device.name.empty()) device.name = fmt::format("cuda{}", device.index);
  } else if (in.has("index")) {
    in.refuse("index", "only a device of kind cuda has one");
  }
  return device;
}

relay_config read_relay(config_section& in) {
  relay_config relay;
  in.read("log_memory", relay.log_memory_bytes, config::bytes(1, 1024 * tebibyte));
  in.read("log_disk", relay.log_disk_bytes, config::bytes(0, 1024 * tebibyte));
  in.read("log_directory", relay.log_directory, [](const config_value& value) {
    fs::path directory = value.text();
    if (!directory.is_absolute()) value.expected("a folder's absolute path such as /var/tmp");
    return directory;
  });
  return relay;
}

port_range read_ports(const config_value& value) {
  const std::string text = value.text();
  if (text == "any") return {};
  const auto number = [&](std::string_view digits) {
    int port = 0;
    const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    return error == std::errc() && rest == digits.data() + digits.size() && port <= 65'535 ? port : 0;
  };
  const std::string_view all(text);
  const auto dash = all.find('-');
  const int first = number(all.substr(0, dash));
  const int last = dash == std::string_view::npos ? 0 : number(all.substr(dash + 1));
  if (first == 0 || last < first) value.expected("any, or the first and the last port such as 4720-4739");
  return {static_cast<std::uint16_t>(first), static_cast<std::uint16_t>(last)};
}

node_config read_node(config_section& in, const security_config& security) {
  node_config node{.name = {}, .relay = {}};
  in.read("name", node.name, read_name);
  in.read("address", node.address, [&](const config_value& value) { return read_address(value, security); });
  in.read("data_ports", node.data_ports, read_ports);
  in.read("affinity", node.affinity, config::one_of<bool>({{"auto", true}, {"off", false}}));
  in.read("relay", node.relay, config::section(read_relay));
  in.read("devices", node.devices, config::named_sections("cpu", read_device));
  const auto wanted = 1 + node.devices.size();
  const auto ports = static_cast<std::size_t>(node.data_ports.last - node.data_ports.first) + 1;
  if (node.data_ports.first != 0 && ports < wanted) {
    in.refuse("data_ports", fmt::format("{} ports are too few: the agent takes one, and so does each of {} devices",
                                        ports, node.devices.size()));
  }
  return node;
}

coordinator_config read_coordinator(config_section& in, const fs::path& base, const security_config& security) {
  coordinator_config coordinator;
  in.read("address", coordinator.address, [&](const config_value& value) { return read_address(value, security); });
  in.read("port", coordinator.port, config::whole(1, 65'535));
  in.read("journal", coordinator.journal, [&](const config_value& value) -> fs::path {
    const std::string text = value.text();
    if (text.find('\0') != std::string::npos) value.expected("a folder");
    if (text.empty()) return {};
    return fs::absolute(base / text).lexically_normal();
  });
  in.read("queue", coordinator.queue, config::whole(1, 1'000'000));
  in.read("jobs", coordinator.jobs, config::whole(1, 1000));
  in.read("results", coordinator.results, config::whole(1, 1'000'000));
  return coordinator;
}

std::int64_t read_positions_max(config_section& in) {
  std::int64_t positions_max = 0;
  in.read("positions_max", positions_max, config::auto_or(std::int64_t{0}, config::whole(std::int64_t{1}, tokens_max)));
  return positions_max;
}

timeouts_config read_timeouts(config_section& in) {
  timeouts_config timeouts;
  in.read("progress", timeouts.progress_ms, config::duration_ms(10, 500));
  in.read("silence", timeouts.silence_ms, config::duration_ms(100, hour_ms));
  in.read("exchange", timeouts.exchange_ms, config::duration_ms(100, hour_ms));
  in.read("chunk", timeouts.chunk_ms, config::duration_ms(100, 24 * hour_ms));
  in.read("startup", timeouts.startup_ms, config::duration_ms(100, hour_ms));
  in.read("shutdown", timeouts.shutdown_ms, config::duration_ms(100, hour_ms));
  in.read("client", timeouts.client_ms, config::duration_ms(2'000, hour_ms));
  in.read("reconnect", timeouts.reconnect_ms, config::duration_ms(0, 24 * hour_ms));
  if (timeouts.silence_ms < 2 * timeouts.progress_ms) {
    in.refuse("silence", fmt::format("{} ms is too short for workers that report every {} ms; at least twice as long",
                                     timeouts.silence_ms, timeouts.progress_ms));
  }
  return timeouts;
}

recovery_config read_recovery(config_section& in) {
  recovery_config recovery;
  in.read("replays", recovery.replays, config::whole(0, 100));
  in.read("reserve", recovery.reserve, config::whole(0, 100));
  in.read("replacement", recovery.replacement_ms, config::duration_ms(0, hour_ms));
  in.read("take_up", recovery.take_up_ms, config::duration_ms(0, hour_ms));
  in.read("keep", recovery.keep_ms, config::duration_ms(0, 24 * hour_ms));
  return recovery;
}

links_config read_links(config_section& in) {
  links_config links;
  in.read("transport", links.transport,
          config::one_of<transport_kind>({{"tcp", transport_kind::tcp}, {"ucx", transport_kind::ucx}}));
  in.read("delay", links.delay_ms, config::duration_ms(0, 60'000));
  return links;
}

/// What devices and the rest must agree on.
void settle_devices(const config_section& in, const cluster_config& cluster) {
  if (cluster.model.precision != element_type::f32) return;
  for (const auto& node : cluster.nodes) {
    for (const auto& device : node.devices) {
      if (device.kind == device_kind::cuda)
        in.refuse("model", "precision fp32 is there to verify, on CPU devices; GPUs compute in bf16");
    }
  }
}

cluster_config read_cluster(config_section& in, const fs::path& base) {
  cluster_config cluster;
  in.require("model", cluster.model, config::section([&](config_section& model) { return read_model(model, base); }),
             "at least model.directory, " + directory_advice);
  in.read("job", cluster.job, config::section(read_job));
  in.read("processes", cluster.processes,
          config::one_of<process_layout>({{"one", process_layout::one}, {"per_device", process_layout::per_device}}));
  in.read("security", cluster.security,
          config::section([&](config_section& security) { return read_security(security, base); }));
  in.read("nodes", cluster.nodes,
          config::named_sections("node", [&](config_section& node) { return read_node(node, cluster.security); }));
  settle_devices(in, cluster);
  in.read("coordinator", cluster.coordinator, config::section([&](config_section& coordinator) {
            return read_coordinator(coordinator, base, cluster.security);
          }));
  in.read("links", cluster.links, config::section(read_links));
  if (cluster.links.transport == transport_kind::ucx &&
      std::ranges::any_of(cluster.nodes, [](const node_config& node) { return node.data_ports.first != 0; })) {
    in.refuse("links", "ucx takes ports of its own choice; leave data_ports of the nodes away, or take transport tcp");
  }
  in.read("limits", cluster.positions_max, config::section(read_positions_max));
  in.read("timeouts", cluster.timeouts, config::section(read_timeouts));
  in.read("recovery", cluster.recovery, config::section(read_recovery));
  return cluster;
}

}  // namespace

bool model_source::operator==(const model_source& other) const {
  const auto fields = [](const model_source& m) {
    return std::tie(m.directory, m.precision, m.prompt.name, m.prompt.opening, m.prompt.opening_with_system,
                    m.prompt.query_prefix, m.prompt.query_suffix, m.system_prompt);
  };
  return fields(*this) == fields(other);
}

bool is_node_name(std::string_view name) {
  return !name.empty() && name.size() <= name_length_max && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

cluster_config load_cluster_config(const fs::path& file) {
  return parse_cluster_config(read_yaml_file(file), file.string(), file.parent_path());
}

cluster_config parse_cluster_config(std::string_view yaml, const std::string& file_name,
                                    const fs::path& base_directory) {
  const yaml_document document = parse_yaml(yaml, file_name);
  const config_value root(document);
  if (document.root.kind == yaml_node::kind_type::nothing) {
    root.refuse("nothing is in this file; give at least model.directory, " + directory_advice);
  }
  auto cluster = config::section([&](config_section& in) { return read_cluster(in, base_directory); })(root);
  cluster.source_file = file_name;
  return cluster;
}

}  // namespace baton
