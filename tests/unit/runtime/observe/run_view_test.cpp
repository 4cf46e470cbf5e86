#include "runtime/observe/run_view.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/observe/format.hpp"
#include "tests/support/small_terminal.hpp"

namespace baton {
namespace {

constexpr int layers = 4;

/// A stream whose bytes can be looked at.
class captured_stream {
 public:
  captured_stream() : file_(open_memstream(&bytes_, &size_)) {}
  captured_stream(const captured_stream&) = delete;
  captured_stream& operator=(const captured_stream&) = delete;
  ~captured_stream() {
    std::fclose(file_);
    std::free(bytes_);
  }
  [[nodiscard]] std::FILE* file() const { return file_; }
  [[nodiscard]] std::string text() const {
    std::fflush(file_);
    return {bytes_, size_};
  }

 private:
  char* bytes_ = nullptr;
  std::size_t size_ = 0;
  std::FILE* file_;
};

std::function<terminal_size()> of(int columns, int rows) {
  return [=] { return terminal_size{columns, rows}; };
}

/// A view with its streams and a clock that stands until it is told to go on.
struct shown_run {
  captured_stream out;
  captured_stream answer;
  double now_s = 100;
  job_plan plan;
  run_view view;

  shown_run(int ranks, const view_options& options)
      : view(out.file(), answer.file(), options, [this] { return now_s; }) {
    const std::vector<device_view> devices{{"local", "cpu0", "avx2"}};
    plan = make_job_plan({.document_tokens = 8192,
                          .query_tokens = 20,
                          .system_tokens = 4,
                          .options = {.strategy = ranks > 1 ? "apb" : "full", .ranks = ranks, .anchor_tokens = 128}},
                         devices);
  }

  /// Every rank has done `fraction` of its share; odd ranks wait for the one below.
  void progress(double fraction) {
    job_progress now;
    for (const auto& shard : plan.shards) {
      const double done = fraction * static_cast<double>(layers * shard.tokens());
      const bool waits = shard.rank % 2 == 1;
      now.ranks.push_back({.rank = shard.rank,
                           .layer = static_cast<int>(fraction * layers),
                           .tokens_done = static_cast<std::int64_t>(done),
                           .waiting_for = waits ? shard.rank - 1 : -1});
    }
    view.progress(now);
  }
};

/// What is on the terminal after the plan, from the first line of the frame to the cursor's.
std::vector<std::string> frame_on(const small_terminal& terminal, std::size_t plan_lines) {
  return {terminal.lines().begin() + static_cast<std::ptrdiff_t>(plan_lines), terminal.lines().end()};
}

std::size_t lines_of_plan(int ranks, int columns) {
  shown_run run(ranks, {.size = of(columns, 24)});
  run.view.plan(run.plan, {}, layers);
  const auto text = run.out.text();
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t from = 0; from < text.size();) {
    const auto end = std::min(text.find('\n', from), text.size());
    lines.push_back(text.substr(from, end - from));
    from = end + 1;
  }
  return lines;
}

TEST(run_view, never_wraps_nor_leaves_the_screen_nor_leaves_anything_behind) {
  for (const int columns : {20, 40, 60, 80, 120, 250}) {
    for (const int rows : {2, 3, 10, 24}) {
      for (const int ranks : {1, 8, 12, 13, 64, 500}) {
        SCOPED_TRACE(::testing::Message() << columns << " columns, " << rows << " rows, " << ranks << " ranks");
        shown_run run(ranks, {.terminal = true, .size = of(columns, rows), .color = true});
        run.view.plan(run.plan, {}, layers);
        const std::string plan_and_first = run.out.text();
        small_terminal terminal(columns, rows);
        // The plan may wrap where it is wider than the terminal; it is printed once, so only the frames count.
        terminal.show(plan_and_first);
        const std::size_t height = terminal.lines().size();
        terminal.wrapped = false;
        std::size_t seen = plan_and_first.size();
        for (int step = 1; step <= 8; ++step) {
          run.now_s += 0.7;
          run.progress(step / 8.0);
          const auto text = run.out.text();
          terminal.show(std::string_view(text).substr(seen));
          seen = text.size();
          ASSERT_EQ(terminal.lines().size(), height);
        }
        EXPECT_FALSE(terminal.wrapped);
        EXPECT_FALSE(terminal.left_screen);
        EXPECT_EQ(terminal.lines().back(), "");
        EXPECT_NE(terminal.lines()[height - 2].find(" all"), std::string::npos) << terminal.lines()[height - 2];
      }
    }
  }
}

TEST(run_view, a_terminal_that_becomes_narrower_wraps_a_frame_which_is_written_over_all_the_same) {
  terminal_size size{100, 24};
  shown_run run(3, {.terminal = true, .size = [&] { return size; }, .color = true});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 1;
  run.progress(0.25);
  const auto wide = run.out.text();
  size.columns = 40;  // the heading, three bars and the sum: some of them take two or three rows now
  run.now_s += 1;
  run.progress(0.5);
  const auto next = run.out.text().substr(wide.size());
  const auto last_frame = lines_of(wide.substr(wide.rfind("\x1b[5A")));
  ASSERT_EQ(last_frame.size(), 6U);  // with the end of what is below
  int rows = 0;
  for (std::size_t i = 0; i < 5; ++i) {
    std::string line = last_frame[i];
    for (std::size_t code = line.find('\x1b'); code != std::string::npos; code = line.find('\x1b'))
      line.erase(code, line.find_first_of("mKA", code) - code + 1);
    std::erase(line, '\r');
    rows += std::max(1, (display_columns(line) + 39) / 40);
  }
  EXPECT_GT(rows, 6);
  EXPECT_EQ(next.substr(0, 5), "\r\x1b[" + std::to_string(rows)) << rows;
  small_terminal terminal(40, 24);
  terminal.show(next.substr(next.find('A') + 1));
  EXPECT_FALSE(terminal.wrapped);
}

TEST(run_view, shows_a_bar_with_layer_rate_and_whom_it_waits_for) {
  shown_run run(8, {.terminal = true, .size = of(80, 24)});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 2;
  run.progress(0.5);
  small_terminal terminal(80, 24);
  terminal.show(run.out.text());
  const auto frame = frame_on(terminal, lines_of_plan(8, 80));
  ASSERT_EQ(frame.size(), 11U);
  EXPECT_EQ(frame[1], "   0 [============>              ]  50 %    3/4         288");
  EXPECT_EQ(frame[4], "   3 [============>              ]  50 %    3/4         288  waits for rank 2");
  EXPECT_EQ(frame[9], " all [============>              ]  50 %  2.0 s, ETA 2.0 s");
}

TEST(run_view, shortens_a_line_at_60_columns_but_keeps_all_of_its_parts) {
  shown_run run(2, {.terminal = true, .size = of(60, 24)});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 2;
  run.progress(0.5);
  small_terminal terminal(60, 24);
  terminal.show(run.out.text());
  const auto frame = frame_on(terminal, lines_of_plan(2, 60));
  EXPECT_EQ(frame[2], "   1 [==>    ]  50 %    3/4       1,056  waits for rank 0");
}

TEST(run_view, writes_a_frame_at_once_and_at_most_ten_a_second) {
  shown_run run(4, {.terminal = true});
  run.view.plan(run.plan, {}, layers);
  const auto before = run.out.text().size();
  for (int i = 0; i < 9; ++i) {
    run.now_s += 0.01;
    run.progress(0.1 * i);
  }
  EXPECT_EQ(run.out.text().size(), before);
  run.now_s += 0.02;
  run.progress(0.9);
  const auto frame = run.out.text().substr(before);
  EXPECT_EQ(frame.rfind("\r\x1b[6A", 0), 0U) << "moves up over heading, 4 ranks and the job";
  EXPECT_EQ(std::count(frame.begin(), frame.end(), '\n'), 6);
}

TEST(run_view, stays_without_colour_unless_it_is_asked_for) {
  for (const bool color : {false, true}) {
    shown_run run(4, {.terminal = true, .color = color});
    run.view.plan(run.plan, {}, layers);
    run.now_s += 1;
    run.progress(1);
    EXPECT_EQ(run.out.text().find("\x1b[32m") != std::string::npos, color);
    EXPECT_EQ(run.out.text().find("\x1b[0m") != std::string::npos, color);
  }
}

TEST(run_view, counts_ranks_in_the_grid_and_finishes_at_a_hundred_percent) {
  shown_run run(16, {.terminal = true, .size = of(80, 24)});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 1;
  run.progress(0.25);
  small_terminal terminal(80, 24);
  terminal.show(run.out.text());
  auto frame = frame_on(terminal, lines_of_plan(16, 80));
  EXPECT_EQ(frame[0], "16 ranks: 0 done, 8 wait*; slowest: 0 at layer 2/4");
  EXPECT_EQ(frame[1].substr(0, 22), "   0  25 %    1  25 %*");
  const auto seen = run.out.text().size();
  run.view.prefill_done(3);
  terminal.show(run.out.text().substr(seen));
  frame = frame_on(terminal, lines_of_plan(16, 80));
  EXPECT_EQ(frame[0], "16 ranks: 16 done, 0 wait*");
  EXPECT_NE(frame[frame.size() - 2].find("100 %  3.00 s, 2,731 tokens/s"), std::string::npos)
      << frame[frame.size() - 2];
}

TEST(run_view, does_not_say_a_hundred_percent_before_the_end) {
  shown_run run(1, {.terminal = true});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 1;
  run.progress(0.9999);
  EXPECT_EQ(run.out.text().find("100 %"), std::string::npos);
}

TEST(run_view, puts_a_message_above_the_bars) {
  shown_run run(2, {.terminal = true});
  run.view.plan(run.plan, {}, layers);
  run.view.message("the device is hot\x1b[2J");
  small_terminal terminal(80, 24);
  terminal.show(run.out.text());
  const auto shown = frame_on(terminal, lines_of_plan(2, 80));
  ASSERT_EQ(shown.size(), 6U);
  EXPECT_EQ(shown[0], "the device is hot\\x1b[2J");
  EXPECT_EQ(shown[1].substr(0, 4), "rank");
}

TEST(run_view, writes_plain_lines_without_escape_codes_to_a_pipe) {
  shown_run run(8, {.color = true});
  run.view.plan(run.plan, {}, layers);
  const auto plan = run.out.text();
  for (int step = 1; step <= 1000; ++step) {
    run.now_s += 0.0625;
    run.progress(step / 1000.0);
  }
  run.view.prefill_done(50);
  const auto text = run.out.text().substr(plan.size());
  EXPECT_EQ(run.out.text().find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  const auto lines = lines_of(text);
  EXPECT_EQ(lines.size(), 11U) << text;
  EXPECT_EQ(lines[0], "prefill  10 % after 6.3 s, ETA 56.2 s; layer 1/4; 131 tokens/s; 4 ranks wait");
  EXPECT_EQ(lines.back(), "prefill 100 % in 50.0 s, 164 document tokens/s");
}

TEST(run_view, writes_at_most_one_plain_line_a_second_and_one_in_a_while) {
  shown_run run(2, {});
  run.view.plan(run.plan, {}, layers);
  const auto plan = run.out.text().size();
  for (int step = 1; step <= 10; ++step) {
    run.now_s += 0.25;
    run.progress(step / 11.0);
  }
  EXPECT_EQ(lines_of(run.out.text().substr(plan)).size(), 2U) << "after 1 and 2 s";
  for (int minute = 0; minute < 120; ++minute) {
    run.now_s += 0.5;
    run.progress(10 / 11.0);
  }
  EXPECT_EQ(lines_of(run.out.text().substr(plan)).size(), 4U) << "after 3 s for 20 % more, and after 33 s";
}

TEST(run_view, lets_the_estimate_shrink_while_a_long_layer_is_under_way) {
  shown_run run(1, {.terminal = true});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 10;
  run.progress(0.25);
  EXPECT_NE(run.out.text().find("10.0 s, ETA 30.0 s"), std::string::npos);
  run.now_s += 8;
  run.progress(0.25);
  EXPECT_NE(run.out.text().find("18.0 s, ETA 22.0 s"), std::string::npos);
}

TEST(run_view, streams_the_answer_to_its_own_stream_below_a_heading) {
  shown_run run(2, {});
  run.view.plan(run.plan, {}, layers);
  run.view.prefill_done(1);
  run.view.answer_text("The key");
  EXPECT_EQ(run.answer.text(), "answer:\nThe key");
  run.view.answer_text("");
  run.view.answer_text(" is 東京.");
  run.view.answer_done();
  run.view.answer_done();
  EXPECT_EQ(run.answer.text(), "answer:\nThe key is 東京.\n");
  EXPECT_EQ(run.out.text().find("The key"), std::string::npos);
}

TEST(run_view, makes_a_hostile_answer_harmless) {
  shown_run run(2, {.terminal = true});
  run.view.plan(run.plan, {}, layers);
  run.view.answer_text("\x1b]52;c;aGk=\a\x1b");
  run.view.answer_text("[2J\rok\xC2\x9B\xFF\n");
  run.view.answer_done();
  EXPECT_EQ(run.answer.text(), "answer:\n\\x1b]52;c;aGk=\\x07\\x1b[2J\\x0dok\\x9b\xEF\xBF\xBD\n");
}

TEST(run_view, shows_nothing_but_the_answer_when_quiet) {
  shown_run run(2, {.terminal = true, .quiet = true});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 1;
  run.progress(0.5);
  run.view.message("hello");
  run.view.prefill_done(1);
  run.view.answer_text("blue");
  run.view.answer_done();
  EXPECT_EQ(run.out.text(), "");
  EXPECT_EQ(run.answer.text(), "blue\n");
}

TEST(run_view, shows_no_answer_where_the_job_failed_before_one) {
  shown_run run(2, {.terminal = true});
  run.view.plan(run.plan, {}, layers);
  run.view.answer_done();
  const auto before = run.out.text();
  run.now_s += 1;
  run.progress(0.5);
  EXPECT_EQ(run.answer.text(), "");
  EXPECT_EQ(run.out.text(), before);
}

TEST(run_view, draws_the_next_job_below_the_last) {
  shown_run run(2, {.terminal = true});
  for (int job = 0; job < 2; ++job) {
    const auto before = run.out.text().size();
    run.view.plan(run.plan, {}, layers);
    EXPECT_EQ(run.out.text().find("\x1b[5A", before), std::string::npos);
    run.now_s += 1;
    run.progress(0.5);
    run.view.prefill_done(1);
    run.view.answer_text("x");
    run.view.answer_done();
  }
  EXPECT_EQ(run.answer.text(), "answer:\nx\nanswer:\nx\n");
}

TEST(run_view, ignores_ranks_that_the_plan_does_not_have) {
  shown_run run(2, {.terminal = true});
  run.view.progress({0, {{.rank = 0, .tokens_done = 5}}});
  run.view.plan(run.plan, {}, layers);
  run.now_s += 1;
  run.view.progress({0, {{.rank = 2, .tokens_done = 5}, {.rank = -1, .tokens_done = 5}}});
  EXPECT_NE(run.out.text().find(" all ["), std::string::npos);
}

TEST(run_view, loading_is_a_live_line_that_goes_away) {
  shown_run run(2, {.terminal = true, .size = of(60, 24)});
  small_terminal terminal(60, 24);
  std::size_t seen = 0;
  const auto refresh = [&] {
    const auto text = run.out.text();
    terminal.show(std::string_view(text).substr(seen));
    seen = text.size();
  };
  for (int percent = 0; percent < 100; ++percent) {
    run.view.loading(percent << 20, 100 << 20);
    run.now_s += 0.11;
    refresh();
    EXPECT_LE(terminal.lines().size(), 2U);
  }
  EXPECT_EQ(terminal.lines().front(), "loading weights  99 % of 100.0 MiB");
  run.view.loading(100 << 20, 100 << 20);
  refresh();
  EXPECT_EQ(terminal.lines(), std::vector<std::string>{""});
  EXPECT_FALSE(terminal.wrapped);
  EXPECT_FALSE(terminal.left_screen);
}

TEST(run_view, loading_is_plain_lines_elsewhere_a_second_apart_if_it_takes_long) {
  shown_run quick(2, {});
  for (int percent = 0; percent <= 100; ++percent, quick.now_s += 0.005) quick.view.loading(percent, 100);
  EXPECT_EQ(quick.out.text(), "");

  shown_run slow(2, {});
  for (int percent = 0; percent <= 100; percent += 5, slow.now_s += 0.25) slow.view.loading(percent << 20, 100 << 20);
  EXPECT_EQ(slow.out.text(),
            "loading weights  20 % of 100.0 MiB\n"
            "loading weights  40 % of 100.0 MiB\n"
            "loading weights  60 % of 100.0 MiB\n"
            "loading weights  80 % of 100.0 MiB\n"
            "loading weights 100 % in 5.00 s\n");

  shown_run quiet(2, {.quiet = true});
  for (int percent = 0; percent <= 100; percent += 5, quiet.now_s += 1) quiet.view.loading(percent, 100);
  EXPECT_EQ(quiet.out.text(), "");
}

}  // namespace
}  // namespace baton
