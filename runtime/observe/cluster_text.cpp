#include "runtime/observe/cluster_text.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/observe/format.hpp"

namespace baton {
namespace {

using nlohmann::json;

bool runs(job_state state) {
  return state == job_state::starting || state == job_state::prefilling || state == job_state::answering;
}

json number_or_null(std::int64_t number) { return number > 0 ? json(number) : json(nullptr); }

std::string trimmed(std::string line) {
  line.resize(line.find_last_not_of(' ') + 1);
  return line;
}

std::string device_line(const node_status& node, const device_status& device) {
  const auto place = fmt::format("{}/{}", node.name, device.name);
  const auto pid = device.worker_pid > 0 ? std::to_string(device.worker_pid) : "-";
  const auto job = device.job > 0 ? std::to_string(device.job) : "-";
  const auto layer = device.layer >= 0 ? std::to_string(device.layer + 1) : "-";
  return fmt::format("{:<20} {:<5} {:>9} {:>7} {:>6}", printable(place), name_of(device.state), pid, job, layer);
}

std::string node_line(const node_status& node) {
  const auto pid = node.pid > 0 ? std::to_string(node.pid) : "-";
  const auto log = node.pid > 0 ? fmt::format("  log {}/{}", format_bytes(node.relay_log_bytes),
                                              format_bytes(node.relay_log_bytes_max))
                                : std::string();
  return fmt::format("{:<20} {:<5} {:>9}{}", printable(node.name), name_of(node.state), pid, log);
}

std::string job_line(const job_status& job) {
  const auto ranks = job.ranks.empty() ? std::string("-") : std::to_string(job.ranks.size());
  std::string rest;
  if (job.state == job_state::answering || job.state == job_state::finished)
    rest = fmt::format("{} in the answer", job.answer_tokens);
  if (!job.replays.empty()) rest += fmt::format("{}{} replayed", rest.empty() ? "" : ", ", job.replays.size());
  return fmt::format("{:>6} {:<10} {:<8} {:>5} {:>10} {}", job.id, name_of(job.state), printable(job.strategy), ranks,
                     format_count(job.document_tokens), rest);
}

constexpr std::string_view device_title = "DEVICE               STATE       PID     JOB  LAYER";
constexpr std::string_view job_title = "   JOB STATE      STRATEGY RANKS     TOKENS";

/// Of a running job: a cell for each rank, so that many fit beside each other.
std::string rank_cell(const rank_status& rank, int layers) {
  std::string what;
  switch (rank.state) {
    case rank_state::preparing: what = "prepares"; break;
    case rank_state::computing: what = fmt::format("layer {}/{}", rank.layer + 1, layers); break;
    case rank_state::waiting: what = fmt::format("{}/{} waits {}", rank.layer + 1, layers, rank.waiting_for); break;
    case rank_state::done: what = "done"; break;
    case rank_state::lost: what = "lost"; break;
  }
  if (rank.attempt > 0) what += fmt::format(" (attempt {})", rank.attempt + 1);
  return fmt::format("{:>4} {}/{} {}", rank.rank, printable(rank.node), printable(rank.device), what);
}

std::vector<std::string> rank_lines(const job_status& job, int layers, int columns) {
  std::vector<std::string> cells;
  std::size_t widest = 0;
  for (const auto& rank : job.ranks) {
    cells.push_back(rank_cell(rank, layers));
    widest = std::max(widest, cells.back().size());
  }
  const std::size_t indent = 4;
  const std::size_t gap = 2;
  const auto per_line = std::max<std::size_t>(1, (static_cast<std::size_t>(columns) - indent + gap) / (widest + gap));
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i % per_line == 0) lines.emplace_back(indent, ' ');
    lines.back() += fmt::format("{:<{}}", cells[i], widest + gap);
  }
  return lines;
}

}  // namespace

json to_json(const cluster_status& status) {
  json nodes = json::array();
  for (const auto& node : status.nodes) {
    json devices = json::array();
    for (const auto& device : node.devices) {
      devices.push_back({{"name", device.name},
                         {"state", name_of(device.state)},
                         {"worker_pid", number_or_null(device.worker_pid)},
                         {"job", device.job > 0 ? json(device.job) : json(nullptr)},
                         {"layer", device.layer >= 0 ? json(device.layer) : json(nullptr)}});
    }
    nodes.push_back({{"name", node.name},
                     {"state", name_of(node.state)},
                     {"pid", number_or_null(node.pid)},
                     {"relay_log_bytes", node.relay_log_bytes},
                     {"devices", devices}});
  }
  json jobs = json::array();
  for (const auto& job : status.jobs) {
    json ranks = json::array();
    for (const auto& rank : job.ranks) {
      ranks.push_back({{"rank", rank.rank},
                       {"node", rank.node},
                       {"device", rank.device},
                       {"attempt", rank.attempt},
                       {"layer", rank.layer},
                       {"state", name_of(rank.state)}});
    }
    json replays = json::array();
    for (const auto& replay : job.replays) {
      replays.push_back({{"rank", replay.rank},
                         {"cause", replay.cause},
                         {"layers", replay.layers},
                         {"seconds", replay.seconds},
                         {"detect_ms", replay.detect_ms},
                         {"replayed_on_other_class", replay.on_other_class}});
    }
    jobs.push_back({{"id", job.id},
                    {"state", name_of(job.state)},
                    {"strategy", job.strategy},
                    {"ranks", ranks},
                    {"replays", replays}});
  }
  return {{"epoch", status.epoch},
          {"generation", status.generation},
          {"coordinator", {{"pid", status.coordinator_pid}}},
          {"nodes", nodes},
          {"jobs", jobs}};
}

json to_json(const jobs_list& list) {
  json jobs = json::array();
  for (const auto& job : list.jobs) {
    jobs.push_back({{"id", job.id},
                    {"state", name_of(job.state)},
                    {"strategy", job.strategy},
                    {"ranks", job.ranks},
                    {"document_tokens", job.document_tokens},
                    {"detached", job.detached},
                    {"why", job.why.empty() ? json(nullptr) : json(job.why)}});
  }
  return jobs;
}

std::string describe(const cluster_status& status) {
  std::string text = fmt::format("coordinator {}   generation {}   epoch {}\n\n{}\n", status.coordinator_pid,
                                 status.generation, status.epoch, device_title);
  for (const auto& node : status.nodes) {
    text += trimmed(node_line(node)) + '\n';
    for (const auto& device : node.devices) text += trimmed(device_line(node, device)) + '\n';
  }
  if (!status.jobs.empty()) text += fmt::format("\n{}\n", job_title);
  for (const auto& job : status.jobs) text += trimmed(job_line(job)) + '\n';
  return text;
}

std::string describe(const jobs_list& list) {
  std::string text = fmt::format("{}\n", job_title);
  for (const auto& job : list.jobs) {
    text += trimmed(fmt::format("{:>6} {:<10} {:<8} {:>5} {:>10} {}{}", job.id, name_of(job.state),
                                printable(job.strategy), job.ranks, format_count(job.document_tokens),
                                job.detached ? "detached " : "", printable(job.why))) +
            '\n';
  }
  return text;
}

std::vector<std::string> cluster_screen(const cluster_status& status, int columns, int rows) {
  const auto count = [&](auto&& of) { return std::ranges::count_if(status.jobs, of); };
  const auto running = count([](const job_status& job) { return runs(job.state); });
  const auto waiting = count([](const job_status& job) { return job.state == job_state::queued; });
  std::vector<std::string> lines{fmt::format("baton   generation {}   epoch {}   {} running, {} waiting",
                                             status.generation, status.epoch, running, waiting),
                                 "", std::string(device_title)};
  for (const auto& node : status.nodes) {
    lines.push_back(node_line(node));
    for (const auto& device : node.devices) lines.push_back(device_line(node, device));
  }
  lines.emplace_back();
  lines.emplace_back(job_title);
  for (const auto& job : status.jobs) {
    lines.push_back(job_line(job));
    if (!runs(job.state)) continue;
    for (auto& line : rank_lines(job, status.layers, columns)) lines.push_back(std::move(line));
  }
  const auto fits = static_cast<std::size_t>(std::max(rows, 2));
  if (lines.size() > fits) {
    const auto left = lines.size() - fits + 1;
    lines.resize(fits - 1);
    lines.push_back(fmt::format("… {} more lines", left));
  }
  for (auto& line : lines) line = shortened(trimmed(line), columns);
  return lines;
}

}  // namespace baton
