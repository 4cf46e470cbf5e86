#include "actors/client_commands.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <random>

#include <fmt/format.h>
#include <unistd.h>

#include "actors/control_plane.hpp"
#include "actors/followed_job.hpp"
#include "actors/job_client.hpp"
#include "actors/job_output.hpp"
#include "actors/prepared_job.hpp"
#include "actors/process_commands.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/cluster_text.hpp"
#include "runtime/observe/dump.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/observe/terminal.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;
using actors::job_client;
using clock = std::chrono::steady_clock;

/// What somebody who is waiting at a terminal is ready to wait for an answer.
constexpr auto answer_patience = 10s;

/// A client of the coordinator that a configuration names.
class cluster_door {
 public:
  explicit cluster_door(const cluster_config& config)
      : config_(config),
        identity_(actors::identity_of(config, {member_role::client, {}})),
        settings_(actors::actor_config::reach::network, identity_.get()),
        system_(settings_) {
    actors::close_side_doors(system_);
  }

  /// Throws fault(deadline), or fault(cancelled) when interrupted. `waits` is called once where it takes longer.
  [[nodiscard]] std::unique_ptr<job_client> open(std::chrono::milliseconds patience,
                                                 const std::function<void()>& waits = {}) {
    auto announced = clock::now() + 2s;
    const auto joined = actors::join_cluster(system_, coordinator_of(config_, {}), identity_.get(), patience,
                                             [&](std::chrono::milliseconds time) {
                                               if (waits && clock::now() > announced) {
                                                 waits();
                                                 announced = clock::time_point::max();
                                               }
                                               return !interrupted() && actors::sleep_for(time);
                                             });
    return std::make_unique<job_client>(system_, joined.coordinator);
  }

  /// One question and its answer; asked again where a young connection was lost.
  template <class Answer>
  Answer ask(const client_request& question) {
    const auto deadline = clock::now() + answer_patience;
    for (;;) {
      try {
        const auto client = open(std::chrono::ceil<std::chrono::milliseconds>(deadline - clock::now()));
        client->ask(question);
        while (clock::now() < deadline && !interrupted()) {
          const auto update = client->next(100ms);
          if (const auto* answer = update ? std::get_if<Answer>(&*update) : nullptr) return *answer;
        }
        throw fault(fault_code::deadline,
                    fmt::format("it did not answer within {} s", std::chrono::seconds(answer_patience).count()),
                    "coordinator");
      } catch (const fault& why) {
        if (why.code() != fault_code::lost_peer || clock::now() > deadline) throw;
      }
    }
  }

  /// Follows a job to its end, also from one coordinator to its successor. `begin` asks for it, of each of them. Null: only its number
  /// was wanted, which is told.
  bool follow(followed_job& job, run_view& view, bool detach, bool cancels,
              const std::function<void(job_client&)>& begin) {
    auto patience = std::chrono::milliseconds(config_.timeouts.startup_ms);
    std::optional<clock::time_point> lost;
    for (;;) {
      try {
        const auto client = open(patience, [&] {
          view.message(fmt::format("no coordinator answers at {}:{} yet", config_.coordinator.address,
                                   config_.coordinator.port));
        });
        begin(*client);
        bool cancelled = false;
        for (;;) {
          if (interrupted() && !cancelled) {
            if (!cancels || !job.id()) throw fault(fault_code::cancelled, "stopped");
            cancelled = true;
            client->cancel(*job.id());
          }
          const auto update = client->next(50ms);
          if (!update) continue;
          lost.reset();
          if (job.take(*update)) return true;
          if (detach && job.id()) return false;
        }
      } catch (const fault& why) {
        if (why.code() != fault_code::lost_peer || interrupted() || why.where() != "coordinator") throw;
        const auto now = clock::now();
        if (!lost) {
          lost = now;
          view.message(fmt::format("the coordinator is gone ({}); looking for it", why.reason()));
        }
        const auto limit = *lost + std::chrono::milliseconds(config_.timeouts.reconnect_ms);
        if (now >= limit) throw;
        patience = std::chrono::ceil<std::chrono::milliseconds>(limit - now);
        static_cast<void>(actors::sleep_for(100ms));
      }
    }
  }

 private:
  const cluster_config& config_;
  const std::unique_ptr<cluster_identity> identity_;
  actors::actor_config settings_;
  caf::actor_system system_;
};

/// No two are alike.
std::string new_request_id() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) id += fmt::format("{:08x}", random());
  return id;
}

cluster_config config_of(const client_options& how) {
  auto config = load_cluster_config(how.config);
  config.processes = process_layout::per_device;
  return config;
}

void write_result(const finished_job& done, const client_options& how, const planning& with,
                  const run_options& options) {
  if (!how.quiet) print_table(done.result);
  std::fflush(stdout);
  if (how.json) {
    auto json = to_json(done.result);
    json["job"] = done.id;
    write_json(*how.json, json);
  }
  if (options.dump) write_dump(*options.dump, done.logits, done.selected);
  if (options.trace) write_trace(*options.trace, done, with.model, with.config.model.precision);
}

followed_job followed_by(run_view& view, planning& with) {
  return {view, with.words ? &*with.words : nullptr, with.model.config().layers, [&with](const job_plan& plan) {
            return costs_on(with, plan, plan.document_tokens + plan.query_tokens + plan.max_new_tokens);
          }};
}

}  // namespace

int submit_command(const run_options& options, const client_options& how) {
  std::optional<prepared_job> job;
  std::optional<job_options> wanted;
  try {
    check_writable("--json", how.json);
    check_writable("--dump", options.dump);
    check_writable("--trace", options.trace);
    if (how.detach && (how.json || options.dump || options.trace))
      throw fault(fault_code::bad_input, "keeps nothing to write a file from; baton wait writes the result",
                  "--detach");
    auto config = configuration_of(options);
    config.processes = process_layout::per_device;
    job.emplace(prepare_job(options, std::move(config)));
    wanted = balanced(*job, options, job_of(job->config, options, job->config.job.strategy));
  } catch (const fault& why) {
    return report(why, 2);
  }
  stop_on_interrupt();
  try {
    auto request = submission_of(*job, how.request_id.value_or(new_request_id()), *wanted);
    request.report_dump = options.dump.has_value();
    request.report_trace = options.trace.has_value();
    request.detached = how.detach;
    run_view view(stderr, stdout, terminal_view(how.quiet || how.detach));
    auto followed = followed_by(view, *job);
    cluster_door door(job->config);
    const bool finished = door.follow(followed, view, how.detach, true, [&](job_client& client) {
      client.submit(request, job->input.document_ids, job->input.query_ids);
    });
    if (finished && !how.detach) {
      write_result(followed.take_result(), how, *job, options);
    } else {
      fmt::print("{}\n", *followed.id());
    }
    return 0;
  } catch (const fault& why) {
    return report_end(why);
  }
}

int wait_command(const client_options& how) {
  std::optional<planning> with;
  try {
    check_writable("--json", how.json);
    with.emplace(prepare_planning(config_of(how), false));
  } catch (const fault& why) {
    return report(why, 2);
  }
  stop_on_interrupt();
  try {
    run_view view(stderr, stdout, terminal_view(how.quiet));
    auto followed = followed_by(view, *with);
    cluster_door door(with->config);
    door.follow(followed, view, false, false, [&](job_client& client) { client.ask(follow_job{how.job}); });
    write_result(followed.take_result(), how, *with, {});
    return 0;
  } catch (const fault& why) {
    return report_end(why);
  }
}

int cancel_command(const client_options& how) {
  stop_on_interrupt();
  try {
    const auto config = config_of(how);
    view_options silent;
    silent.quiet = true;
    run_view view(stderr, stdout, silent);
    followed_job followed(view, nullptr, 0, [](const job_plan&) { return plan_costs{}; });
    cluster_door door(config);
    door.follow(followed, view, false, false, [&](job_client& client) {
      client.ask(follow_job{how.job});
      client.cancel(how.job);
    });
    fmt::print("job {} had finished before\n", how.job);
    return 1;
  } catch (const fault& why) {
    if (why.code() != fault_code::cancelled || interrupted()) return report_end(why);
    fmt::print("job {} is cancelled\n", how.job);
    return 0;
  }
}

int jobs_command(const client_options& how) {
  stop_on_interrupt();
  try {
    const auto config = config_of(how);
    const auto list = cluster_door(config).ask<jobs_list>(ask_jobs{});
    fmt::print("{}", how.as_json ? to_json(list).dump(2) + "\n" : describe(list));
    return 0;
  } catch (const fault& why) {
    return report_end(why);
  }
}

int status_command(const client_options& how) {
  stop_on_interrupt();
  try {
    const auto config = config_of(how);
    const auto status = cluster_door(config).ask<cluster_status>(ask_status{});
    fmt::print("{}", how.as_json ? to_json(status).dump(2) + "\n" : describe(status));
    return 0;
  } catch (const fault& why) {
    return report_end(why);
  }
}

int top_command(const client_options& how) {
  stop_on_interrupt();
  const bool live = isatty(STDOUT_FILENO) != 0;
  const auto show = [&](const std::vector<std::string>& lines) {
    std::string frame = live ? "\x1b[H" : "";
    for (std::size_t i = 0; i < lines.size(); ++i) {
      // To the end of the line, and below the last one to that of the screen.
      frame += lines[i] + (live ? "\x1b[K" : "") + (live && i + 1 == lines.size() ? "" : "\n");
    }
    if (live) frame += "\x1b[J";
    fmt::print("{}", frame);
    std::fflush(stdout);
  };
  const auto size = [&] {
    return (live ? size_of_terminal(STDOUT_FILENO) : std::nullopt).value_or(terminal_size{80, 1000});
  };
  // The other screen, so that what stood here is there again afterwards.
  if (live) fmt::print("\x1b[?1049h\x1b[?25l");
  int code = 0;
  std::string trouble;
  try {
    const auto config = config_of(how);
    cluster_door door(config);
    std::unique_ptr<job_client> client;
    cluster_status last;
    while (!interrupted()) {
      auto lines = std::vector<std::string>();
      try {
        if (!client) client = door.open(answer_patience);
        client->ask(ask_status{});
        const auto deadline = clock::now() + answer_patience;
        bool answered = false;
        while (!answered && !interrupted()) {
          if (clock::now() > deadline) throw fault(fault_code::deadline, "it does not answer", "coordinator");
          const auto update = client->next(100ms);
          if (const auto* status = update ? std::get_if<cluster_status>(&*update) : nullptr) {
            last = *status;
            answered = true;
          }
        }
        const auto [columns, rows] = size();
        lines = cluster_screen(last, columns, rows);
      } catch (const fault& why) {
        // A coordinator that is started again is met again.
        if (!live || interrupted()) throw;
        client.reset();
        const auto [columns, rows] = size();
        lines = {"baton   looking for the coordinator", "", why.what()};
        for (auto& line : lines) line.resize(std::min(line.size(), static_cast<std::size_t>(columns)));
      }
      show(lines);
      if (!live) break;
      for (int i = 0; i < 5 && !interrupted(); ++i) static_cast<void>(actors::sleep_for(100ms));
    }
  } catch (const fault& why) {
    trouble = why.what();
    code = interrupted() ? 0 : 1;
  }
  if (live) fmt::print("\x1b[?25h\x1b[?1049l");
  std::fflush(stdout);
  if (code != 0) log_line(log_level::error, trouble);
  return code;
}

}  // namespace baton
