#include "runtime/observe/run_view.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "runtime/observe/format.hpp"
#include "runtime/observe/plan_text.hpp"

namespace baton {
namespace {

constexpr double frame_interval_s = 0.1;
constexpr double line_interval_s = 1;
constexpr double silence_max_s = 30;
/// Before so much of the job is done an estimate would only jump about.
constexpr double fraction_for_estimate = 0.02;
constexpr int bars_max = 12;
constexpr int bar_columns_max = 40;

constexpr std::string_view green = "32";
constexpr std::string_view yellow = "33";
constexpr std::string_view bold = "1";

double ratio(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? std::clamp(static_cast<double>(part) / static_cast<double>(whole), 0.0, 1.0) : 1.0;
}

/// 100 only when all is done.
int percent(double fraction) { return static_cast<int>(std::floor(fraction * 100 + 1e-9)); }

/// A time that changes with every frame: tenths of a second, so that its unit does not jump about.
std::string running(double seconds) {
  return seconds >= 0 && seconds < 119.95 ? fmt::format("{:.1f} s", seconds) : format_seconds(seconds);
}

/// How many columns a line takes whose only escape codes are colours.
int shown_columns(std::string_view line) {
  std::string plain;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\x1b')
      i = std::min(line.find('m', i), line.size());
    else
      plain += line[i];
  }
  return display_columns(plain);
}

/// Which parts of a bar's line a terminal has room for.
struct bar_layout {
  int bar = 0;
  bool rate = false;
  bool layer = false;
  int state = 0;  ///< columns for what the rank waits for

  bar_layout(int width, int layer_columns) {
    constexpr int rank_and_percent = 4 + 3 + 6;
    constexpr int bar_min = 6;
    int left = width - rank_and_percent - bar_min;
    const auto take = [&](int columns) {
      if (left < columns) return false;
      left -= columns;
      return true;
    };
    layer = take(layer_columns);
    state = take(20) ? 20 : take(9) ? 9 : 0;
    rate = take(12);
    if (state == 9 && take(11)) state = 20;
    bar = std::clamp(bar_min + left, 0, bar_columns_max);
  }
};

}  // namespace

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

run_view::run_view(std::FILE* progress_out, std::FILE* answer_out, const view_options& options, view_clock clock)
    : progress_out_(progress_out), answer_out_(answer_out), options_(options), clock_(std::move(clock)) {}

void run_view::loading(std::int64_t bytes_done, std::int64_t bytes_total) {
  if (!shows_progress()) return;
  const double now_s = clock_();
  if (load_began_s_ < 0) load_began_s_ = load_shown_s_ = now_s;
  const bool done = bytes_done >= bytes_total;
  const double interval_s = options_.terminal ? frame_interval_s : line_interval_s;
  if (done) {
    const double took_s = now_s - load_began_s_;
    if (options_.terminal) {
      if (!frame_.empty()) write(progress_out_, to_top_of_frame() + "\x1b[J");
      frame_.clear();
    } else if (load_shown_s_ > load_began_s_) {
      say(fmt::format("loading weights 100 % in {}", format_seconds(took_s)), {{"load_s", took_s}});
    }
    load_began_s_ = -1;
    return;
  }
  if (now_s - load_shown_s_ < interval_s) return;
  const auto text =
      fmt::format("loading weights {:>3} % of {}", percent(ratio(bytes_done, bytes_total)), format_bytes(bytes_total));
  if (options_.terminal) {
    ask_size();
    const auto line = shortened(text, std::max(size_.columns - 1, 1));
    write(progress_out_, to_top_of_frame() + line + "\x1b[K\n");
    frame_.assign(1, display_columns(line));
  } else {
    say(text, {});
  }
  load_shown_s_ = now_s;
}

void run_view::plan(const job_plan& plan, const plan_costs& costs, int layers) {
  ranks_.clear();
  for (const auto& shard : plan.shards) ranks_.push_back({.tokens_total = layers * shard.tokens()});
  layers_ = layers;
  document_tokens_ = plan.document_tokens;
  prefilling_ = true;
  began_s_ = clock_();
  shown_s_ = began_s_;
  shown_tenths_ = 0;
  prefill_s_ = -1;
  frame_.clear();
  answering_ = false;
  if (!shows_progress()) return;
  if (options_.as_log) {
    return say(fmt::format("prefill of {} document tokens by {} on {} ranks begins", plan.document_tokens,
                           plan.strategy, plan.ranks()),
               {{"strategy", plan.strategy}, {"ranks", plan.ranks()}, {"document_tokens", plan.document_tokens}});
  }
  ask_size();
  write(progress_out_, describe(plan, costs, std::min(size_.columns, 100)) + "\n");
  if (options_.terminal) show(began_s_);
}

void run_view::progress(const job_progress& now) {
  if (!prefilling_) return;
  const double now_s = clock_();
  for (const auto& report : now.ranks) {
    if (report.rank < 0 || static_cast<std::size_t>(report.rank) >= ranks_.size()) continue;
    auto& rank = ranks_[static_cast<std::size_t>(report.rank)];
    if (report.tokens_done != rank.tokens_done) rank.moved_s = now_s - began_s_;
    rank.tokens_done = report.tokens_done;
    rank.layer = report.layer;
    rank.waiting_for = report.waiting_for;
  }
  if (!shows_progress()) return;
  if (options_.terminal) {
    if (now_s - shown_s_ >= frame_interval_s) show(now_s);
  } else {
    show_plain(now_s);
  }
}

void run_view::prefill_done(double prefill_s) {
  if (!prefilling_) return;
  const double now_s = clock_();
  for (auto& rank : ranks_) {
    if (!rank.done()) rank.moved_s = now_s - began_s_;
    rank.tokens_done = rank.tokens_total;
    rank.layer = layers_;
    rank.waiting_for = -1;
  }
  prefill_s_ = prefill_s;
  prefilling_ = false;
  if (!shows_progress()) return;
  if (options_.terminal) {
    show(now_s);
    frame_.clear();  // this frame stays
  } else {
    const double rate = prefill_s > 0 ? static_cast<double>(document_tokens_) / prefill_s : 0;
    say(fmt::format("prefill 100 % in {}, {} document tokens/s", format_seconds(prefill_s), format_rate(rate)),
        {{"prefill_s", prefill_s}, {"document_tokens_per_s", rate}});
  }
}

void run_view::answer_text(std::string_view utf8_piece) {
  if (!answering_) {
    prefilling_ = false;
    frame_.clear();
    answering_ = true;
    at_line_start_ = true;
    if (!options_.quiet) write(answer_out_, "answer:\n");
  }
  if (utf8_piece.empty()) return;
  const auto text = printable(utf8_piece);
  write(answer_out_, text);
  at_line_start_ = text.back() == '\n';
}

void run_view::answer_done() {
  if (answering_ && !at_line_start_) write(answer_out_, "\n");
  prefilling_ = false;
  frame_.clear();
  answering_ = false;
}

void run_view::message(std::string_view text, const log_fields& about) {
  if (!shows_progress()) return;
  if (options_.as_log) return say(text, about);
  std::string line = printable(text);
  line += '\n';
  if (prefilling_ && options_.terminal) {
    show(clock_(), line);
  } else {
    if (answering_ && !at_line_start_ && options_.terminal) line.insert(0, 1, '\n');
    write(progress_out_, line);
  }
}

run_view::overall run_view::sum(double now_s) const {
  std::int64_t done = 0;
  std::int64_t total = 0;
  double moved_s = 0;
  for (const auto& rank : ranks_) {
    done += std::min(rank.tokens_done, rank.tokens_total);
    total += rank.tokens_total;
    moved_s = std::max(moved_s, rank.moved_s);
  }
  overall all{ratio(done, total), now_s - began_s_, -1};
  if (all.fraction >= fraction_for_estimate) {
    // Counted from the last step forward, so that it does not grow while a long layer is under way.
    const double left_then_s = moved_s * (1 - all.fraction) / all.fraction;
    all.left_s = std::max(0.0, left_then_s - (all.elapsed_s - moved_s));
  }
  return all;
}

/// Tokens through all layers, on average so far; up to the last step forward, for the same reason.
double run_view::tokens_per_s(const rank_state& rank) const {
  return rank.moved_s > 0 && layers_ > 0 ? static_cast<double>(rank.tokens_done) / layers_ / rank.moved_s : 0;
}

int run_view::percent_of(const rank_state& rank) const { return percent(ratio(rank.tokens_done, rank.tokens_total)); }

std::string run_view::bar(double fraction, int columns) const {
  const auto filled = static_cast<std::size_t>(std::floor(fraction * columns + 1e-9));
  const auto all = static_cast<std::size_t>(columns);
  std::string text(filled, '=');
  if (filled > 0 && filled < all) text.back() = '>';
  text.resize(all, ' ');
  return "[" + text + "]";
}

std::string run_view::colored(std::string_view code, std::string text) const {
  return options_.color ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text;
}

std::vector<std::string> run_view::bars(int width) const {
  const auto layers = fmt::format("{}", layers_);
  const int layer_columns = std::max<int>(7, 2 * static_cast<int>(layers.size()) + 3);
  const bar_layout layout(width, layer_columns);
  std::string heading = fmt::format("rank{:{}}", "", layout.bar + 9);
  if (layout.layer) heading += fmt::format("{:>{}}", "layer", layer_columns);
  if (layout.rate) heading += fmt::format("{:>12}", "tokens/s");
  std::vector<std::string> lines{shortened(heading, width)};
  for (std::size_t h = 0; h < ranks_.size(); ++h) {
    const auto& rank = ranks_[h];
    std::string line = fmt::format("{:>4} {}{:>4} %", h, bar(ratio(rank.tokens_done, rank.tokens_total), layout.bar),
                                   percent_of(rank));
    if (layout.layer)
      line += fmt::format("{:>{}}", fmt::format("{}/{}", std::min(rank.layer + 1, layers_), layers), layer_columns);
    if (layout.rate) line += fmt::format("{:>12}", format_rate(tokens_per_s(rank)));
    const bool waits = !rank.done() && rank.waiting_for >= 0;
    if (waits && layout.state > 0)
      line += fmt::format("  {} {}", layout.state > 9 ? "waits for rank" : "for", rank.waiting_for);
    line = shortened(line, width);
    lines.push_back(rank.done() ? colored(green, line) : waits ? colored(yellow, line) : line);
  }
  return lines;
}

std::vector<std::string> run_view::grid(int width) const {
  const auto rank_columns = fmt::format("{}", ranks_.size() - 1).size();
  const std::size_t cell_columns = rank_columns + 9;  // "  12  45 %*"
  const std::size_t cells = std::max<std::size_t>(1, static_cast<std::size_t>(width) / cell_columns);
  std::vector<std::string> lines;
  for (std::size_t h = 0; h < ranks_.size(); ++h) {
    if (h % cells == 0) lines.emplace_back();
    const auto& rank = ranks_[h];
    const bool waits = !rank.done() && rank.waiting_for >= 0;
    std::string cell =
        shortened(fmt::format("  {:>{}} {:>3} %{}", h, rank_columns, percent_of(rank), waits ? '*' : ' '), width);
    lines.back() += rank.done() ? colored(green, cell) : waits ? colored(yellow, cell) : cell;
  }
  return lines;
}

std::string run_view::counts_line() const {
  std::size_t done = 0;
  std::size_t waiting = 0;
  std::size_t slowest = 0;
  for (std::size_t h = 0; h < ranks_.size(); ++h) {
    const auto& rank = ranks_[h];
    if (rank.done()) {
      ++done;
    } else if (rank.waiting_for >= 0) {
      ++waiting;
    }
    if (ratio(rank.tokens_done, rank.tokens_total) < ratio(ranks_[slowest].tokens_done, ranks_[slowest].tokens_total))
      slowest = h;
  }
  std::string line = fmt::format("{} ranks: {} done, {} wait*", ranks_.size(), done, waiting);
  if (done < ranks_.size()) {
    line += fmt::format("; slowest: {} at layer {}/{}", slowest, std::min(ranks_[slowest].layer + 1, layers_), layers_);
  }
  return line;
}

std::string run_view::overall_line(const overall& all, int width) const {
  const auto layers = fmt::format("{}", layers_);
  const bar_layout layout(width, std::max<int>(7, 2 * static_cast<int>(layers.size()) + 3));
  std::string line = fmt::format(" all {}{:>4} %  ", bar(all.fraction, layout.bar), percent(all.fraction));
  if (prefill_s_ >= 0) {
    const double rate = prefill_s_ > 0 ? static_cast<double>(document_tokens_) / prefill_s_ : 0;
    line += fmt::format("{}, {} tokens/s", format_seconds(prefill_s_), format_rate(rate));
  } else {
    line += fmt::format("{}, ETA {}", running(all.elapsed_s), running(all.left_s));
  }
  return colored(bold, shortened(line, width));
}

std::vector<std::string> run_view::frame(double now_s) const {
  // One column less: after the last one some terminals have wrapped already, others not yet.
  const int width = std::max(size_.columns - 1, 1);
  // The cursor's own line below the frame must be on the screen as well.
  const std::size_t room = size_.rows > 2 ? static_cast<std::size_t>(size_.rows - 1) : 1;
  std::vector<std::string> lines;
  if (ranks_.size() <= bars_max && ranks_.size() + 2 <= room) {
    lines = bars(width);
  } else if (room >= 2) {
    lines.push_back(shortened(counts_line(), width));
    auto cells = grid(width);
    if (cells.size() + 2 <= room) std::ranges::move(cells, std::back_inserter(lines));
  }
  lines.push_back(overall_line(sum(now_s), width));
  return lines;
}

std::string run_view::plain_line(double now_s) const {
  const auto all = sum(now_s);
  auto line = fmt::format("prefill {:>3} % after {}, ETA {}", percent(all.fraction), running(all.elapsed_s),
                          running(all.left_s));
  const auto [least, most] = std::ranges::minmax_element(ranks_, {}, &rank_state::layer);
  if (least != ranks_.end()) {
    const int first = std::min(least->layer + 1, layers_);
    const int last = std::min(most->layer + 1, layers_);
    line += first == last ? fmt::format("; layer {}/{}", first, layers_)
                          : fmt::format("; layers {} to {} of {}", first, last, layers_);
  }
  std::vector<std::size_t> waiting;
  for (std::size_t h = 0; h < ranks_.size(); ++h) {
    if (!ranks_[h].done() && ranks_[h].waiting_for >= 0) waiting.push_back(h);
  }
  if (all.elapsed_s > 0) {
    line +=
        fmt::format("; {} tokens/s", format_rate(all.fraction * static_cast<double>(document_tokens_) / all.elapsed_s));
  }
  if (waiting.size() == 1)
    line += fmt::format("; rank {} waits for rank {}", waiting[0], ranks_[waiting[0]].waiting_for);
  if (waiting.size() > 1) line += fmt::format("; {} ranks wait", waiting.size());
  return line;
}

void run_view::ask_size() {
  if (options_.size) size_ = options_.size();
}

std::string run_view::to_top_of_frame() const {
  int rows = 0;
  for (const int columns : frame_) rows += std::max(1, (columns + size_.columns - 1) / size_.columns);
  return rows > 0 ? fmt::format("\r\x1b[{}A", std::min(rows, std::max(size_.rows - 1, 1))) : "";
}

void run_view::show(double now_s, std::string_view above) {
  ask_size();
  std::string text = to_top_of_frame();
  if (!above.empty()) {
    if (!frame_.empty()) text += "\x1b[J";
    text += above;
  }
  const auto lines = frame(now_s);
  for (const auto& line : lines) text += line + "\x1b[K\n";
  text += "\x1b[J";
  write(progress_out_, text);
  frame_.clear();
  for (const auto& line : lines) frame_.push_back(shown_columns(line));
  shown_s_ = now_s;
}

void run_view::show_plain(double now_s) {
  const int tenths = percent(sum(now_s).fraction) / 10;
  const double since_s = now_s - shown_s_;
  if (since_s < line_interval_s || (tenths <= shown_tenths_ && since_s < silence_max_s)) return;
  const auto all = sum(now_s);
  say(plain_line(now_s), {{"percent", percent(all.fraction)}, {"elapsed_s", all.elapsed_s}});
  shown_s_ = now_s;
  shown_tenths_ = tenths;
}

void run_view::say(std::string_view line, log_fields about) const {
  if (!options_.as_log) return write(progress_out_, fmt::format("{}\n", line));
  if (job_ > 0) about.insert(about.begin(), {"job", job_});
  log_line(log_level::info, line, about);
}

void run_view::write(std::FILE* to, std::string_view text) const {
  std::fwrite(text.data(), 1, text.size(), to);
  std::fflush(to);
}

}  // namespace baton
