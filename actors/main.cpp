#include <csignal>
#include <exception>

#include <fmt/format.h>

#include "actors/bench_command.hpp"
#include "actors/certificates_command.hpp"
#include "actors/client_commands.hpp"
#include "actors/command_line.hpp"
#include "actors/inspect_command.hpp"
#include "actors/process_commands.hpp"
#include "actors/run_command.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/version.hpp"

namespace {

int check_config(const std::filesystem::path& file) {
  try {
    fmt::print("{}", baton::describe(baton::load_cluster_config(file)));
    return 0;
  } catch (const baton::fault& why) {
    baton::log_line(baton::log_level::error, why.what());
    return 2;
  }
}

baton::log_process process_of(const baton::command_line& line) {
  switch (line.command) {
    case baton::command_kind::coordinator: return {"coordinator", true};
    case baton::command_kind::node: return {"node " + line.process.node, true};
    case baton::command_kind::worker: return {"worker " + line.process.node + "/" + line.process.device, true};
    case baton::command_kind::submit: return {"submit"};
    case baton::command_kind::wait: return {"wait"};
    case baton::command_kind::run: return {"run"};
    default: return {};
  }
}

int version() {
  fmt::print("baton {}\ncpu: {}, oneDNN {}\n", baton::version_text, baton::cpu::effective_isa().name,
             baton::cpu::onednn_version());
  if (!baton::cuda::built_in()) {
    fmt::print("gpu: built without CUDA\n");
  } else if (const int gpus = baton::cuda::device_count(); gpus == 0) {
    fmt::print("gpu: none that this process may use\n");
  } else {
    for (int i = 0; i < gpus; ++i) {
      fmt::print("gpu {}: {}, {}\n", i, baton::cuda::describe_device(i),
                 baton::cuda::make_cuda_backend({.index = i})->kernel_class());
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  // A file that may not grow any more is an error of whoever writes, as a full disk is, and no reason to die.
  static_cast<void>(std::signal(SIGXFSZ, SIG_IGN));
  try {
    const auto line = baton::parse_command_line(argc, argv);
    if (line.exit_code) return *line.exit_code;
    baton::start_log(line.log, process_of(line));
    switch (line.command) {
      case baton::command_kind::run: return baton::run_command(line.run);
      case baton::command_kind::plan: return baton::plan_command(line.run);
      case baton::command_kind::inspect: return baton::inspect_command(line.inspect);
      case baton::command_kind::check_config: return check_config(line.config_to_check);
      case baton::command_kind::version: return version();
      case baton::command_kind::coordinator: return baton::coordinator_main(line.process);
      case baton::command_kind::submit: return baton::submit_command(line.run, line.client);
      case baton::command_kind::wait: return baton::wait_command(line.client);
      case baton::command_kind::cancel: return baton::cancel_command(line.client);
      case baton::command_kind::jobs: return baton::jobs_command(line.client);
      case baton::command_kind::status: return baton::status_command(line.client);
      case baton::command_kind::top: return baton::top_command(line.client);
      case baton::command_kind::node: return baton::node_agent_main(line.process);
      case baton::command_kind::worker: return baton::rank_worker_main(line.process);
      case baton::command_kind::certificates: return baton::certificates_command(line.certificates);
      case baton::command_kind::bench: return baton::bench_command(line.bench);
      case baton::command_kind::none: return 2;
    }
    return 2;
  } catch (const std::exception& why) {
    baton::log_line(baton::log_level::error, why.what());
    return 1;
  }
}
