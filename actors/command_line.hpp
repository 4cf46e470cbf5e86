#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "actors/bench_options.hpp"
#include "actors/certificates_command.hpp"
#include "actors/process_commands.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/observe/log.hpp"

namespace baton {

/// `baton run` and `baton plan` as typed: what was not given stays empty and comes from the configuration file.
struct run_options {
  std::filesystem::path config;
  std::optional<std::filesystem::path> model;
  std::optional<std::string> document;  ///< a file, or "-" for standard input
  std::optional<std::string> question;
  std::optional<std::filesystem::path> tokens;
  std::optional<std::string> strategy;
  std::optional<int> ranks;
  std::optional<std::int64_t> anchor_tokens;
  std::optional<std::int64_t> passing_tokens;
  std::vector<std::int64_t> block_tokens;
  std::optional<std::string> blocks;  ///< "even" or "balanced"
  bool predict = false;               ///< of `plan`
  std::optional<std::string> compressor;
  std::optional<std::uint64_t> compressor_seed;
  std::optional<std::string> precision;
  std::optional<int> max_new_tokens;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<std::uint64_t> seed;
  std::optional<int> threads;
  std::optional<std::string> compare;
  std::optional<std::filesystem::path> json;
  std::optional<std::filesystem::path> dump;
  std::optional<std::filesystem::path> trace;
  bool quiet = false;
};

/// `baton inspect` as typed.
struct inspect_options {
  std::filesystem::path directory;
  std::optional<std::int64_t> document_tokens;
  int ranks = 8;
  std::optional<std::filesystem::path> json;
};

/// What is asked of a cluster that runs, as typed.
struct client_options {
  std::filesystem::path config;
  std::uint64_t job = 0;                      ///< of `wait` and `cancel`
  bool as_json = false;                       ///< of `status` and `jobs`
  bool detach = false;                        ///< of `submit`
  std::optional<std::string> request_id;      ///< of `submit`
  std::optional<std::filesystem::path> json;  ///< of `submit` and `wait`
  bool quiet = false;                         ///< the same
};

enum class command_kind : std::uint8_t {
  none,
  run,
  plan,
  inspect,
  check_config,
  version,
  coordinator,
  node,
  worker,
  certificates,
  submit,
  wait,
  cancel,
  jobs,
  status,
  top,
  bench
};

struct command_line {
  command_kind command = command_kind::none;
  run_options run;
  inspect_options inspect;
  std::filesystem::path config_to_check;
  process_options process;  ///< of `coordinator`, `node` and `worker`
  client_options client;
  certificates_options certificates;
  bench_options bench;
  log_options log;
  /// Set where parsing has ended the program: --help, or a usage error already told on standard error.
  std::optional<int> exit_code;
};

command_line parse_command_line(int argc, char** argv);

/// The configuration with what was typed laid over it. Throws fault(bad_input) that names the option.
cluster_config configuration_of(const run_options& options);

/// The configuration's job by `strategy`: its own, or the one that it is compared with.
job_options job_of(const cluster_config& config, const run_options& options, const std::string& strategy);

}  // namespace baton
