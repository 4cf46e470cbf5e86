#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/config/cluster_config.hpp"
#include "runtime/config/units.hpp"

namespace baton {
namespace {

/// In double quotes, where YAML takes every character either as it is or escaped.
std::string in_quotes(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '\n') {
      result += "\\n";
    } else if (c == '"' || c == '\\') {
      result += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      result += fmt::format("\\x{:02X}", static_cast<unsigned char>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

/// `auto` in the place of what stands for it.
std::string or_auto(const std::optional<std::int64_t>& number) { return number ? std::to_string(*number) : "auto"; }
std::string or_auto(std::int64_t number) { return number != 0 ? std::to_string(number) : "auto"; }

std::string describe(const prompt_format& prompt) {
  if (find_prompt_format(prompt.name) != nullptr) return fmt::format("  prompt: {}\n", prompt.name);
  return fmt::format(
      "  prompt:\n"
      "    opening: {}\n"
      "    opening_with_system: {}\n"
      "    query_prefix: {}\n"
      "    query_suffix: {}\n",
      in_quotes(prompt.opening), in_quotes(prompt.opening_with_system), in_quotes(prompt.query_prefix),
      in_quotes(prompt.query_suffix));
}

std::string describe(const model_source& model) {
  return fmt::format("model:\n  directory: {}\n  precision: {}\n{}  system_prompt: {}\n",
                     in_quotes(model.directory.string()), model.precision == element_type::bf16 ? "bf16" : "fp32",
                     describe(model.prompt), in_quotes(model.system_prompt));
}

std::string describe(const job_options& job) {
  return fmt::format(
      "job:\n"
      "  strategy: {}\n"
      "  ranks: {}\n"
      "  anchor_tokens: {}\n"
      "  passing_tokens: {}\n"
      "  block_tokens: [{}]\n"
      "  compressor: {}\n"
      "  compressor_seed: {}\n"
      "  chunk_tokens: {}\n"
      "  max_new_tokens: {}\n"
      "  temperature: {}\n"
      "  top_p: {}\n"
      "  seed: {}\n",
      job.strategy, job.ranks, or_auto(job.anchor_tokens), or_auto(job.passing_tokens),
      fmt::join(job.block_tokens, ", "), job.compressor ? name_of(*job.compressor) : "auto", job.compressor_seed,
      job.chunk_tokens, job.max_new_tokens, job.sampling.temperature, job.sampling.top_p, job.sampling.seed);
}

std::string text_of(const port_range& ports) {
  return ports.first == 0 ? "any" : fmt::format("{}-{}", ports.first, ports.last);
}

std::string describe(const node_config& node) {
  std::string text = fmt::format(
      "  - name: {}\n"
      "    address: {}\n"
      "    data_ports: {}\n"
      "    affinity: {}\n"
      "    relay:\n"
      "      log_memory: {}\n"
      "      log_disk: {}\n"
      "      log_directory: {}\n"
      "    devices:\n",
      in_quotes(node.name), in_quotes(node.address), text_of(node.data_ports), node.affinity ? "auto" : "off",
      config::format_size(node.relay.log_memory_bytes), config::format_size(node.relay.log_disk_bytes),
      in_quotes(node.relay.log_directory.string()));
  for (const auto& device : node.devices) {
    if (device.kind == device_kind::cuda) {
      text += fmt::format(
          "      - name: {}\n"
          "        kind: cuda\n"
          "        index: {}\n"
          "        memory: {}\n",
          in_quotes(device.name), device.index,
          device.memory_bytes != 0 ? config::format_size(device.memory_bytes) : "auto");
      continue;
    }
    text += fmt::format(
        "      - name: {}\n"
        "        kind: cpu\n"
        "        threads: {}\n"
        "        cores: [{}]\n"
        "        memory: {}\n",
        in_quotes(device.name), or_auto(device.threads), fmt::join(device.cores, ", "),
        device.memory_bytes != 0 ? config::format_size(device.memory_bytes) : "auto");
  }
  return text;
}

std::string describe(const timeouts_config& timeouts) {
  return fmt::format(
      "timeouts:\n  progress: {}\n  silence: {}\n  exchange: {}\n  chunk: {}\n  startup: {}\n  shutdown: {}\n  client: "
      "{}\n"
      "  reconnect: {}\n",
      config::format_duration_ms(timeouts.progress_ms), config::format_duration_ms(timeouts.silence_ms),
      config::format_duration_ms(timeouts.exchange_ms), config::format_duration_ms(timeouts.chunk_ms),
      config::format_duration_ms(timeouts.startup_ms), config::format_duration_ms(timeouts.shutdown_ms),
      config::format_duration_ms(timeouts.client_ms), config::format_duration_ms(timeouts.reconnect_ms));
}

std::string describe(const coordinator_config& coordinator) {
  return fmt::format("coordinator:\n  address: {}\n  port: {}\n  journal: {}\n  queue: {}\n  jobs: {}\n  results: {}\n",
                     in_quotes(coordinator.address), coordinator.port, in_quotes(coordinator.journal.string()),
                     coordinator.queue, coordinator.jobs, coordinator.results);
}

}  // namespace

std::string describe(const cluster_config& cluster) {
  std::string text = describe(cluster.model) + describe(cluster.job);
  text += fmt::format("processes: {}\nnodes:\n", cluster.processes == process_layout::one ? "one" : "per_device");
  for (const auto& node : cluster.nodes) text += describe(node);
  text += describe(cluster.coordinator);
  text += fmt::format("links:\n  transport: {}\n  delay: {}\n",
                      cluster.links.transport == transport_kind::tcp ? "tcp" : "ucx",
                      config::format_duration_ms(cluster.links.delay_ms));
  text += fmt::format("security:\n  certificates: {}\n", in_quotes(cluster.security.certificates.string()));
  text += fmt::format("limits:\n  positions_max: {}\n", or_auto(cluster.positions_max));
  text += describe(cluster.timeouts);
  return text + fmt::format("recovery:\n  replays: {}\n  reserve: {}\n  replacement: {}\n  take_up: {}\n  keep: {}\n",
                            cluster.recovery.replays, cluster.recovery.reserve,
                            config::format_duration_ms(cluster.recovery.replacement_ms),
                            config::format_duration_ms(cluster.recovery.take_up_ms),
                            config::format_duration_ms(cluster.recovery.keep_ms));
}

}  // namespace baton
