#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cluster/messages.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/observe/terminal.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/plan/plan_costs.hpp"

namespace baton {

/// How a run is shown. The caller honours NO_COLOR.
struct view_options {
  bool terminal = false;  ///< progress_out is one: frames are redrawn in place; else plain lines without escape codes
  std::function<terminal_size()> size{};  ///< of it, asked before each frame; null: 80 columns, 24 rows
  bool color = false;                     ///< only looked at on a terminal
  bool quiet = false;                     ///< nothing but the answer's text
  bool progress = true;                   ///< else progress_out gets nothing
  bool as_log = false;                    ///< what would go to progress_out goes to log_line, never in place
};

/// Seconds on a clock that never runs backwards.
using view_clock = std::function<double()>;
double steady_seconds();

/// What a person sees of a run while it goes on. Plan, progress and messages go to `progress_out` (stderr), the answer to
/// `answer_out` (stdout), where the caller prints the table of run_result.hpp after it, so that `baton run … | cat` gives
/// answer and table.
///
/// On a terminal: one bar per rank and one for the whole job, at most ten frames a second, each a single write that moves
/// the cursor up over the previous frame; no line is as wide as the terminal, and no frame as high. With many ranks or few
/// rows the bars become a grid, and then a summary. Between frames the cursor stands on the line below, so that a program
/// that ends leaves a proper terminal.
/// Elsewhere: a line for every 10 % and at least every 30 s, at most one a second.
///
/// Jobs follow one another: plan() begins the next. Borrows both streams. One thread.
class run_view {
 public:
  run_view(std::FILE* progress_out, std::FILE* answer_out, const view_options& options,
           view_clock clock = steady_seconds);

  /// Weights are being read; called often, and a last time with as many bytes done as there are. A live line on a terminal,
  /// which goes away; elsewhere plain lines, if it takes longer than a second.
  void loading(std::int64_t bytes_done, std::int64_t bytes_total);
  /// A job was accepted; `layers` of the model.
  void plan(const job_plan& plan, const plan_costs& costs, int layers);
  /// Ranks that are not named keep what was last known of them.
  void progress(const job_progress& now);
  void prefill_done(double prefill_s);
  /// Pieces of the answer, each valid UTF-8, shown at once; controls that a terminal would obey are made visible.
  void answer_text(std::string_view utf8_piece);
  /// Ends the answer's line, if there is an answer.
  void answer_done();
  /// A line for the person who waits, above the bars. `about`: for the log.
  void message(std::string_view text, const log_fields& about = {});
  /// The job's number, for the log.
  void job(std::int64_t id) { job_ = id; }

 private:
  struct rank_state {
    std::int64_t tokens_total = 0;  ///< token-layers
    std::int64_t tokens_done = 0;
    double moved_s = 0;  ///< when tokens_done last changed
    int layer = 0;
    int waiting_for = -1;

    [[nodiscard]] bool done() const { return tokens_done >= tokens_total; }
  };
  /// What the whole job has done, in token-layers, and for how long it will go on.
  struct overall {
    double fraction = 0;
    double elapsed_s = 0;
    double left_s = -1;  ///< -1: not known yet
  };

  [[nodiscard]] overall sum(double now_s) const;
  [[nodiscard]] double tokens_per_s(const rank_state& rank) const;
  [[nodiscard]] int percent_of(const rank_state& rank) const;
  [[nodiscard]] std::string bar(double fraction, int columns) const;
  [[nodiscard]] std::string colored(std::string_view code, std::string text) const;
  [[nodiscard]] std::vector<std::string> bars(int width) const;
  [[nodiscard]] std::vector<std::string> grid(int width) const;
  [[nodiscard]] std::string counts_line() const;
  [[nodiscard]] std::string overall_line(const overall& all, int width) const;
  [[nodiscard]] std::vector<std::string> frame(double now_s) const;
  [[nodiscard]] std::string plain_line(double now_s) const;
  /// The escape codes that take the cursor to the first line of the frame on the screen, which a terminal that became narrower has wrapped.
  [[nodiscard]] std::string to_top_of_frame() const;
  void ask_size();
  void show(double now_s, std::string_view above = {});
  void show_plain(double now_s);
  void write(std::FILE* to, std::string_view text) const;
  /// A plain line of progress.
  void say(std::string_view line, log_fields about) const;
  [[nodiscard]] bool shows_progress() const { return options_.progress && !options_.quiet; }

  std::FILE* progress_out_;
  std::FILE* answer_out_;
  view_options options_;
  terminal_size size_;
  view_clock clock_;
  std::int64_t job_ = 0;  ///< 0: not known

  double load_began_s_ = -1;  ///< -1: has not
  double load_shown_s_ = 0;
  std::vector<rank_state> ranks_;
  int layers_ = 0;
  std::int64_t document_tokens_ = 0;
  bool prefilling_ = false;
  double began_s_ = 0;
  double shown_s_ = 0;      ///< when the last frame or line was written
  int shown_tenths_ = 0;    ///< of the job, in the last plain line
  double prefill_s_ = -1;   ///< -1: not done
  std::vector<int> frame_;  ///< how wide the lines are that stand on the screen above the cursor
  bool answering_ = false;
  bool at_line_start_ = true;  ///< of the answer
};

}  // namespace baton
