#include "runtime/observe/run_result.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "runtime/model/utf8.hpp"
#include "runtime/observe/format.hpp"
#include "runtime/observe/plan_text.hpp"

namespace baton {
namespace {

using nlohmann::json;

constexpr int columns = 80;
/// Of the table of ranks: ten columns are left for a device's name.
constexpr std::string_view row_format = "{:>4} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {}";
/// The same on a narrow terminal: what waiting was hidden, and what was sent, is left out.
constexpr std::string_view narrow_row_format = "{0:>4} {1:>9} {2:>10} {3:>10} {6:>10} {7}";

double prefill_tokens_per_s(const run_result& result) {
  return result.prefill_s > 0 ? static_cast<double>(result.plan.document_tokens) / result.prefill_s : 0;
}

/// "5, 18, 7" over as many lines as it takes.
std::string ids_text(const std::vector<std::int32_t>& ids) {
  std::string text;
  std::size_t line = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string id = fmt::format("{}{}", ids[i], i + 1 < ids.size() ? "," : "");
    if (line > 0 && line + 1 + id.size() > columns) {
      text += '\n';
      line = 0;
    }
    if (line > 0) {
      text += ' ';
      ++line;
    }
    text += id;
    line += id.size();
  }
  return text;
}

std::string answer_for_people(const run_result& result) {
  if (!result.answer.empty()) return printable(result.answer);
  return result.answer_ids.empty() ? "(empty)" : "token ids " + ids_text(result.answer_ids);
}

std::string verdict(const run_result& a, const run_result& b) {
  if (a.answer_ids == b.answer_ids) return "same answer";
  return a.answer == b.answer && !a.answer.empty() ? "same text from different tokens" : "different answers";
}

}  // namespace

run_result make_run_result(const job_plan& plan, const job_finished& finished, std::string answer) {
  utf8_stream characters;
  run_result result;
  result.answer = characters.push(answer);
  result.answer += characters.finish();
  result.answer_ids = finished.answer_ids;
  result.plan = plan;
  result.prefill_s = finished.prefill_s;
  result.first_token_s = finished.first_token_s;
  result.replays = finished.replays;
  if (finished.answer_ids.size() > 1 && finished.decode_s > 0) {
    result.decode_tokens_per_s = static_cast<double>(finished.answer_ids.size() - 1) / finished.decode_s;
  }
  for (const auto& shard : plan.shards) {
    rank_row row{.rank = shard.rank,
                 .node = shard.node,
                 .device = shard.device,
                 .block_tokens = shard.block_tokens,
                 .anchor_tokens = shard.anchor_tokens,
                 .passing_tokens = shard.passing_units};
    const auto of_rank = std::ranges::find(finished.ranks, shard.rank, &rank_result::rank);
    if (of_rank != finished.ranks.end()) {
      row.compute_s = of_rank->prefill.compute_s;
      row.wait_s = of_rank->prefill.wait_s;
      row.exposed_wait_s = of_rank->prefill.exposed_wait_s;
      row.bytes_sent = of_rank->prefill.bytes_sent + of_rank->answer.bytes_sent;
      row.bytes_received = of_rank->prefill.bytes_received + of_rank->answer.bytes_received;
      row.computed = of_rank->prefill.computed;
    }
    result.ranks.push_back(std::move(row));
  }
  return result;
}

std::string table(const run_result& result, int columns_max) {
  const int width = std::min(columns_max, columns);
  const auto line = [&](const auto&... cells) {
    const auto text = width < columns ? fmt::format(narrow_row_format, cells...) : fmt::format(row_format, cells...);
    return shortened(text.substr(0, text.find_last_not_of(' ') + 1), width) + '\n';
  };
  const auto row = [&](std::string_view rank, const rank_row& r, std::int64_t tokens, std::string_view place) {
    return line(rank, format_count(tokens), format_seconds(r.compute_s), format_seconds(r.wait_s),
                format_seconds(r.exposed_wait_s), format_bytes(r.bytes_sent), format_bytes(r.bytes_received), place);
  };
  std::string text = line("rank", "tokens", "compute", "wait", "exposed", "sent", "received", "device");
  rank_row sum;
  std::int64_t tokens_of_all = 0;
  for (const auto& rank : result.ranks) {
    const std::int64_t tokens = rank.anchor_tokens + rank.block_tokens;
    text += row(fmt::format("{}", rank.rank), rank, tokens, printable(fmt::format("{}/{}", rank.node, rank.device)));
    tokens_of_all += tokens;
    sum.compute_s += rank.compute_s;
    sum.wait_s += rank.wait_s;
    sum.exposed_wait_s += rank.exposed_wait_s;
    sum.bytes_sent += rank.bytes_sent;
    sum.bytes_received += rank.bytes_received;
  }
  if (result.ranks.size() > 1) text += row("sum", sum, tokens_of_all, "");
  text += '\n';
  const auto note = [&](std::string_view name, const std::string& number, const std::string& words) {
    text += shortened(fmt::format("{:<12} {:>10}   {}", name, number, words), width) + '\n';
  };
  const std::string rate = format_rate(prefill_tokens_per_s(result)) + " tokens/s";
  note("prefill", format_seconds(result.prefill_s),
       width < columns ? fmt::format("{} tokens at {}", format_count(result.plan.document_tokens), rate)
                       : fmt::format("{} document tokens at {} ({})", format_count(result.plan.document_tokens), rate,
                                     printable(result.plan.strategy)));
  note("first token", format_seconds(result.first_token_s), "from the question's start");
  note("decode", format_rate(result.decode_tokens_per_s),
       fmt::format("tokens/s, {} in the answer", format_count(static_cast<std::int64_t>(result.answer_ids.size()))));
  for (const auto& replay : result.replays) {
    note("replay", format_seconds(replay.seconds),
         fmt::format("rank {}, {} layers again{}: {}", replay.rank, replay.layers,
                     replay.on_other_class ? " on another kernel class" : "", printable(replay.cause)));
  }
  if (result.answer.empty() && !result.answer_ids.empty())
    text += "answer token ids\n" + ids_text(result.answer_ids) + '\n';
  return text;
}

json to_json(const run_result& result) {
  json ranks = json::array();
  for (const auto& rank : result.ranks) {
    ranks.push_back({{"rank", rank.rank},
                     {"node", rank.node},
                     {"device", rank.device},
                     {"block_tokens", rank.block_tokens},
                     {"anchor_tokens", rank.anchor_tokens},
                     {"passing_tokens", rank.passing_tokens},
                     {"compute_s", rank.compute_s},
                     {"wait_s", rank.wait_s},
                     {"exposed_wait_s", rank.exposed_wait_s},
                     {"bytes_sent", rank.bytes_sent},
                     {"bytes_received", rank.bytes_received},
                     {"computed", rank.computed}});
  }
  json replays = json::array();
  for (const auto& replay : result.replays) {
    replays.push_back({{"rank", replay.rank},
                       {"cause", replay.cause},
                       {"layers", replay.layers},
                       {"seconds", replay.seconds},
                       {"detect_ms", replay.detect_ms},
                       {"replayed_on_other_class", replay.on_other_class}});
  }
  return {{"answer", result.answer},
          {"answer_ids", result.answer_ids},
          {"strategy", result.plan.strategy},
          {"plan", to_json(result.plan)},
          {"document_tokens", result.plan.document_tokens},
          {"query_tokens", result.plan.query_tokens},
          {"prefill_s", result.prefill_s},
          {"first_token_s", result.first_token_s},
          {"decode_tokens_per_s", result.decode_tokens_per_s},
          {"ranks", std::move(ranks)},
          {"replays", std::move(replays)}};
}

std::string comparison_text(const run_result& a, const run_result& b) {
  std::string name_a = printable(a.plan.strategy);
  std::string name_b = printable(b.plan.strategy);
  if (name_a == name_b) {
    name_a += " (1)";
    name_b += " (2)";
  }
  std::string text = fmt::format("answer of {}:\n{}\nanswer of {}:\n{}\n{}\n\n", name_a, answer_for_people(a), name_b,
                                 answer_for_people(b), verdict(a, b));
  text +=
      fmt::format("prefill: {} {}, {} {}", name_a, format_seconds(a.prefill_s), name_b, format_seconds(b.prefill_s));
  if (a.prefill_s > 0 && b.prefill_s > 0) {
    const bool faster = a.prefill_s <= b.prefill_s;
    const double ratio = faster ? b.prefill_s / a.prefill_s : a.prefill_s / b.prefill_s;
    text += ratio < 1.005
                ? "; as fast as each other"
                : fmt::format("; {} is {:.2f} x {} than {}", name_a, ratio, faster ? "faster" : "slower", name_b);
  }
  return text + '\n';
}

}  // namespace baton
