#include "runtime/observe/plan_text.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

namespace baton {
namespace {

using nlohmann::json;

std::string place_of(std::string_view node, std::string_view device) {
  return printable(fmt::format("{}/{}", node, device));
}

std::string runs_text(const std::vector<token_run>& runs) {
  std::string text;
  for (const auto& run : runs) {
    if (!text.empty()) text += ", ";
    text += fmt::format("{}..{}", format_count(run.first), format_count(run.first + run.count - 1));
  }
  return text;
}

std::string count_of(std::int64_t count, std::string_view thing) {
  return fmt::format("{} {}{}", format_count(count), thing, count == 1 ? "" : "s");
}

std::string traffic_text(const traffic& moved) {
  if (moved.messages == 0) return "nothing moves between ranks";
  return fmt::format("{}, {}", count_of(moved.messages, "message"), format_bytes(moved.bytes));
}

/// Words after a label, broken between words so that no line is wider than `columns`.
std::string labelled(std::string_view label, std::string_view words, int columns) {
  constexpr int indent = 15;
  std::string text = fmt::format("{:<{}}", label, indent);
  int used = indent;
  for (std::string_view rest = words; !rest.empty();) {
    const auto end = std::min(rest.find(' '), rest.size());
    const auto word = shortened(rest.substr(0, end), columns - indent);
    const int width = display_columns(word);
    if (used > indent && used + 1 + width > columns) {
      text += '\n' + std::string(indent, ' ');
      used = indent;
    }
    if (used > indent) {
      text += ' ';
      ++used;
    }
    text += word;
    used += width;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return text + '\n';
}

std::string heading(const job_plan& plan, int columns) {
  std::set<std::pair<std::string, std::string>> places;
  for (const auto& shard : plan.shards) places.emplace(shard.node, shard.device);
  const auto device_count = static_cast<std::int64_t>(places.size());
  std::string text = labelled("strategy",
                              fmt::format("{}, {} on {}", printable(plan.strategy), count_of(plan.ranks(), "rank"),
                                          count_of(device_count, "device")),
                              columns);
  text += labelled("document",
                   fmt::format("{} (opening {}), query {}, chunks of {}", count_of(plan.document_tokens, "token"),
                               format_count(plan.system_tokens), count_of(plan.query_tokens, "token"),
                               format_count(plan.chunk_tokens)),
                   columns);
  if (plan.ranks() > 1) {
    std::string anchor = plan.anchor_tokens == 0 ? "none" : count_of(plan.anchor_tokens, "token");
    if (std::ranges::any_of(plan.shards, &shard_plan::anchor_aside))
      anchor += "; rank 0 computes it aside, to score with its query";
    text += labelled("anchor block", anchor, columns);
  }
  if (plan.compressor == compressor_kind::none) {
    text += labelled("compressor", "none: no KV units are passed on", columns);
  } else {
    const std::string why = plan.compressor_reason.empty() ? "as asked for" : printable(plan.compressor_reason);
    text += labelled("compressor", fmt::format("{} ({})", name_of(plan.compressor), why), columns);
    text += labelled("passes", fmt::format("{} per KV head of a rank", count_of(plan.passing_tokens, "unit")), columns);
  }
  if (!plan.kernel_class.empty()) text += labelled("kernel class", printable(plan.kernel_class), columns);
  return text;
}

std::string blocks_table(const job_plan& plan, int columns) {
  std::vector<std::string> blocks;
  std::size_t block_width = 5;
  for (const auto& shard : plan.shards) {
    blocks.push_back(runs_text(shard.block));
    block_width = std::max(block_width, blocks.back().size());
  }
  // Rank, three counts and the gaps take 36 columns; a device's name needs some as well.
  block_width = std::min(block_width, static_cast<std::size_t>(columns - 44));
  const int place_width = columns - 36 - static_cast<int>(block_width);
  const auto row = [&](const auto& rank, std::string_view block, std::string_view anchor, std::string_view passes,
                       std::string_view receives, std::string_view place) {
    const auto line =
        fmt::format("{:>5}  {:>{}}  {:>7}  {:>6}  {:>9} {}", rank, shortened(block, static_cast<int>(block_width)),
                    block_width, anchor, passes, receives, shortened(place, place_width));
    return shortened(line, columns) + '\n';
  };
  std::string text = row("rank", "block", "anchor", "passes", "receives", "device");
  for (std::size_t h = 0; h < plan.shards.size(); ++h) {
    const auto& shard = plan.shards[h];
    text += row(shard.rank, blocks[h], format_count(shard.anchor_tokens), format_count(shard.compressed_units),
                format_count(shard.passing_units), place_of(shard.node, shard.device));
  }
  return text;
}

std::string memory_table(const plan_costs& costs, int columns) {
  const int place_width = columns - 55;
  const auto row = [&](std::string_view weights, std::string_view kv, std::string_view workspace,
                       std::string_view fixed, std::string_view total, std::string_view place) {
    const auto line = fmt::format("{:>10} {:>10} {:>10} {:>10} {:>10} {}", weights, kv, workspace, fixed, total,
                                  shortened(place, place_width));
    return shortened(line, columns) + '\n';
  };
  std::string text = row("weights", "KV", "workspace", "scratch", "total", "device");
  for (const auto& device : costs.devices) {
    text +=
        row(format_bytes(device.weights_bytes), format_bytes(device.kv_bytes), format_bytes(device.workspace_bytes),
            format_bytes(device.fixed_bytes), format_bytes(device.total_bytes()), place_of(device.node, device.device));
  }
  return text;
}

json to_json(const std::vector<token_run>& runs) {
  json list = json::array();
  for (const auto& run : runs) {
    const bool from_document = run.source == token_run::source_kind::document;
    list.push_back({{"source", from_document ? "document" : "query"},
                    {"first", run.first},
                    {"count", run.count},
                    {"position", run.position}});
  }
  return list;
}

json to_json(const shard_plan& shard) {
  return {{"rank", shard.rank},
          {"node", shard.node},
          {"device", shard.device},
          {"anchor", to_json(shard.anchor)},
          {"block", to_json(shard.block)},
          {"anchor_tokens", shard.anchor_tokens},
          {"block_tokens", shard.block_tokens},
          {"anchor_aside", shard.anchor_aside},
          {"anchor_query_first", shard.anchor_query_first},
          {"anchor_query_tokens", shard.anchor_query_tokens},
          {"eligible_from", shard.eligible_from},
          {"compressed_units", shard.compressed_units},
          {"passing_units", shard.passing_units}};
}

json to_json(const traffic& moved) { return {{"messages", moved.messages}, {"bytes", moved.bytes}}; }

}  // namespace

std::string describe(const job_plan& plan, const plan_costs& costs, int columns) {
  columns = std::max(columns, 60);
  std::string text = heading(plan, columns);
  text += '\n' + blocks_table(plan, columns);
  text += '\n' + memory_table(costs, columns);
  text += '\n' + labelled("weights", "are held once per process", columns);
  text += labelled("workspace", "holds hidden states, q, k and v, and passing blocks", columns);
  text += labelled("prefill", traffic_text(costs.prefill), columns);
  text += labelled("each new token", traffic_text(costs.decode_per_token), columns);
  if (costs.relay_log_bytes > 0)
    text += labelled("relay log", fmt::format("at most {}", format_bytes(costs.relay_log_bytes)), columns);
  return text;
}

json to_json(const job_plan& plan) {
  json shards = json::array();
  for (const auto& shard : plan.shards) shards.push_back(to_json(shard));
  return {{"strategy", plan.strategy},
          {"compressor", name_of(plan.compressor)},
          {"compressor_reason", plan.compressor_reason},
          {"compressor_seed", plan.compressor_seed},
          {"document_tokens", plan.document_tokens},
          {"query_tokens", plan.query_tokens},
          {"system_tokens", plan.system_tokens},
          {"anchor_tokens", plan.anchor_tokens},
          {"passing_tokens", plan.passing_tokens},
          {"chunk_tokens", plan.chunk_tokens},
          {"max_new_tokens", plan.max_new_tokens},
          {"sampling",
           {{"temperature", plan.sampling.temperature}, {"top_p", plan.sampling.top_p}, {"seed", plan.sampling.seed}}},
          {"kernel_class", plan.kernel_class},
          {"shards", std::move(shards)}};
}

json to_json(const plan_costs& costs) {
  json devices = json::array();
  for (const auto& device : costs.devices) {
    devices.push_back({{"node", device.node},
                       {"device", device.device},
                       {"weights_bytes", device.weights_bytes},
                       {"fixed_bytes", device.fixed_bytes},
                       {"kv_bytes", device.kv_bytes},
                       {"workspace_bytes", device.workspace_bytes},
                       {"total_bytes", device.total_bytes()}});
  }
  return {{"devices", std::move(devices)},
          {"prefill", to_json(costs.prefill)},
          {"decode_per_token", to_json(costs.decode_per_token)},
          {"relay_log_bytes", costs.relay_log_bytes}};
}

}  // namespace baton
