#include "actors/command_line.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "actors/completions.hpp"
#include "kernels/fault.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

constexpr auto run_examples = R"(
Examples:
  baton run --config configs/quickstart.yaml --document report.txt --question "Who signed it?"
  cat report.txt | baton run --config configs/quickstart.yaml --document - --question "Who signed it?" --compare full
  baton run --config configs/processes.yaml --document report.txt --question "Who signed it?" --log-json)";

constexpr auto plan_examples = R"(
Examples:
  baton plan --config configs/quickstart.yaml --document report.txt --question "Who signed it?" --ranks 4
  baton plan --config configs/quickstart.yaml --document report.txt --question "Who signed it?" --blocks balanced --predict)";

constexpr auto submit_examples = R"(
Examples:
  baton submit --config configs/service.yaml --document report.txt --question "Who signed it?"
  JOB=$(baton submit --config configs/service.yaml --document report.txt --question "Who signed it?" --detach)
  baton wait --config configs/service.yaml $JOB)";

/// What a job is asked to be.
void add_job_options(CLI::App& app, run_options& o) {
  auto* document =
      app.add_option("--document", o.document, "UTF-8 text to prefill; - reads standard input")->type_name("FILE|-");
  auto* question = app.add_option("--question", o.question, "what to ask about it")->type_name("TEXT");
  auto* tokens =
      app.add_option("--tokens", o.tokens,
                     R"(token ids in place of text: {"document_ids": [], "query_ids": [], "system_tokens": s})")
          ->type_name("FILE.json");
  tokens->excludes(document)->excludes(question);
  app.add_option("--strategy", o.strategy, "full, star or apb")->type_name("S");
  app.add_option("--ranks", o.ranks, "shares of the document, H")->type_name("H");
  app.add_option("--anchor-tokens", o.anchor_tokens, "length of the anchor block, l_a; 0: none")->type_name("N");
  app.add_option("--passing-tokens", o.passing_tokens, "units per KV head that a rank passes on, l_p; 0: none")
      ->type_name("N");
  app.add_option("--block-tokens", o.block_tokens,
                 "lengths of the local blocks, one a rank; they add up to the document")
      ->delimiter(',')
      ->type_name("A,B,…");
  app.add_option("--blocks", o.blocks, "even, or balanced: lengths whose ranks should finish together on this machine")
      ->type_name("B");
  app.add_option("--compressor", o.compressor, "auto, retaining_heads, query_key, recent or random")->type_name("C");
  app.add_option("--compressor-seed", o.compressor_seed, "of the random compressor")->type_name("N");
  app.add_option("--max-new-tokens", o.max_new_tokens, "the longest answer")->type_name("N");
  app.add_option("--temperature", o.temperature, "0 is greedy")->type_name("T");
  app.add_option("--top-p", o.top_p, "nucleus of the sampling")->type_name("P");
  app.add_option("--seed", o.seed, "of the sampling")->type_name("N");
}

/// The same, and what computes it.
void add_run_options(CLI::App& app, run_options& o) {
  app.add_option("--config", o.config, "YAML file: model, job defaults, nodes and devices")
      ->required()
      ->type_name("FILE");
  app.add_option("--model", o.model, "checkpoint directory in place of the file's")->type_name("DIR");
  add_job_options(app, o);
  app.add_option("--precision", o.precision, "bf16, or fp32 to verify")->type_name("P");
  app.add_option("--threads", o.threads, "of each CPU device, in place of the file's")->type_name("N");
  app.add_option("--json", o.json, "writes the result there")->type_name("FILE");
}

void add_log_options(CLI::App& app, log_options& o) {
  app.add_option_function<std::string>(
         "--log-level",
         [&o](const std::string& name) {
           try {
             o.level = log_level_from(name);
           } catch (const fault& why) {
             throw CLI::ValidationError("--log-level", why.reason());
           }
         },
         "what to tell on standard error: " + log_level_names + "; from info on unless given")
      ->type_name("LEVEL");
  app.add_flag("--log-json", o.json, "tells it as one JSON object a line, progress too, for programs");
}

constexpr auto cluster_group = "A cluster that stays (docs/jobs.md)";

std::string examples(std::initializer_list<std::string> lines) {
  std::string text = "\nExamples:";
  for (const auto& line : lines) text += "\n  " + line;
  return text;
}

void add_process_options(CLI::App& app, process_options& o) {
  app.group(cluster_group);
  app.add_option("--config", o.config, "YAML file, the same for all; - reads standard input")
      ->required()
      ->type_name("FILE|-");
}

void add_coordinator_option(CLI::App& app, process_options& o) {
  app.add_option("--coordinator", o.coordinator, "where it listens, in place of the file's coordinator")
      ->type_name("HOST:PORT");
}

CLI::App* add_client_command(CLI::App& app, const std::string& name, const std::string& description,
                             client_options& o) {
  auto* command = app.add_subcommand(name, description);
  command->group(cluster_group);
  command->add_option("--config", o.config, "the cluster's YAML file")->required()->type_name("FILE");
  return command;
}

void add_result_options(CLI::App& app, client_options& o) {
  app.add_option("--json", o.json, "writes the result there")->type_name("FILE");
  app.add_flag("--quiet", o.quiet, "prints the answer and nothing else");
}

}  // namespace

command_line parse_command_line(int argc, char** argv) {
  command_line line;
  CLI::App app{
      "Baton spreads the prefill of one long document over many devices with APB and answers questions about it."};
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "help of all commands");
  auto* run = app.add_subcommand("run", "prefill a document, answer a question, print what each rank did");
  add_run_options(*run, line.run);
  run->add_option("--compare", line.run.compare, "runs this strategy too, and prints both answers and the ratio")
      ->type_name("STRATEGY");
  run->add_option("--dump", line.run.dump, "writes the first answer token's logits and the chosen units there")
      ->type_name("FILE.safetensors");
  run->add_option("--trace", line.run.trace, "writes what each rank did when, for https://ui.perfetto.dev")
      ->type_name("FILE.json");
  run->add_flag("--quiet", line.run.quiet, "prints the answer and nothing else");
  add_log_options(*run, line.log);
  run->footer(run_examples);
  auto* plan = app.add_subcommand("plan", "print blocks, devices, memory, messages and bytes of a job; run nothing");
  add_run_options(*plan, line.run);
  plan->footer(plan_examples);
  plan->add_flag("--predict", line.run.predict, "also say how long the prefill would take; measures the device once");
  auto* inspect = app.add_subcommand(
      "inspect", "print what a checkpoint directory holds, what it takes, and whether it can be run");
  inspect->add_option("DIR", line.inspect.directory, "a Hugging Face checkpoint directory")->required();
  inspect
      ->add_option("--document-tokens", line.inspect.document_tokens,
                   "of the job whose memory is told; 32768, or what fits the model's context")
      ->type_name("N");
  inspect->add_option("--ranks", line.inspect.ranks, "of that job; 8")->type_name("H");
  inspect->add_option("--json", line.inspect.json, "writes the same there")->type_name("FILE");
  add_bench_command(app, line.bench);
  auto* check = app.add_subcommand("check-config", "read a configuration file and print what it means");
  check->add_option("FILE", line.config_to_check, "the file")->required();
  check->footer(examples({"baton check-config configs/quickstart.yaml"}));
  inspect->footer(examples({"baton inspect models/needle",
                            "baton inspect configs/shapes/yi-34b-200k.yaml --ranks 8 --document-tokens 131072"}));
  auto* completions = app.add_subcommand("completions", "print a script that teaches a shell commands and options");
  std::string shell;
  completions->add_option("SHELL", shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completions->footer(
      examples({"source <(baton completions bash)", "baton completions fish > ~/.config/fish/completions/baton.fish"}));
  auto* version = app.add_subcommand("version", "print the version and what this machine offers");
  version->footer(examples({"baton version"}));
  auto* coordinator =
      app.add_subcommand("coordinator", "be the coordinator: take jobs, keep them in the journal, have them computed");
  add_process_options(*coordinator, line.process);
  add_log_options(*coordinator, line.log);
  coordinator->footer(examples({"baton coordinator --config configs/service.yaml",
                                "baton coordinator --config /etc/baton/cluster.yaml --log-json --log-level debug"}));
  auto* node = app.add_subcommand("node", "be a node agent: hold the node's KV relay, start a worker for each device");
  add_process_options(*node, line.process);
  add_coordinator_option(*node, line.process);
  add_log_options(*node, line.log);
  node->add_option("--name", line.process.node, "the node's name in the file")->required()->type_name("NAME");
  node->footer(examples({"baton node --config configs/service.yaml --name west",
                         "baton node --config configs/service.yaml --name west --coordinator 127.0.0.1:4711"}));
  auto* worker = app.add_subcommand("worker", "be the rank worker of one device; the node agent starts it");
  add_process_options(*worker, line.process);
  add_coordinator_option(*worker, line.process);
  add_log_options(*worker, line.log);
  worker->add_option("--node", line.process.node, "its node's name in the file")->required()->type_name("NAME");
  worker->add_option("--device", line.process.device, "its name in the file")->required()->type_name("NAME");
  worker->add_option("--agent", line.process.agent, "the process that it ends with; default: its parent")
      ->type_name("PID");
  worker->footer(examples({"baton worker --config configs/service.yaml --node west --device cpu0"}));
  auto* submit = add_client_command(app, "submit", "ask a cluster for a job and follow it", line.client);
  add_job_options(*submit, line.run);
  submit->add_option("--dump", line.run.dump, "writes the first answer token's logits and the chosen units there")
      ->type_name("FILE.safetensors");
  submit->add_option("--trace", line.run.trace, "writes what each rank did when, for https://ui.perfetto.dev")
      ->type_name("FILE.json");
  submit->add_flag("--detach", line.client.detach, "prints the job's number and leaves it; baton wait gets the result");
  submit
      ->add_option("--request-id", line.client.request_id,
                   "a name of your own: asked twice with it, it is the same job")
      ->type_name("NAME");
  add_result_options(*submit, line.client);
  add_log_options(*submit, line.log);
  submit->footer(submit_examples);
  auto* wait =
      add_client_command(app, "wait", "follow a job to its end, or get the result of one that has ended", line.client);
  wait->add_option("JOB", line.client.job, "its number")->required();
  add_result_options(*wait, line.client);
  add_log_options(*wait, line.log);
  wait->footer(examples({"baton wait --config configs/service.yaml 7",
                         "baton wait --config configs/service.yaml 7 --json result.json --quiet"}));
  auto* cancel = add_client_command(app, "cancel", "stop a job", line.client);
  cancel->add_option("JOB", line.client.job, "its number")->required();
  cancel->footer(examples({"baton cancel --config configs/service.yaml 7"}));
  auto* jobs = add_client_command(app, "jobs", "list jobs, the newest first", line.client);
  jobs->add_flag("--json", line.client.as_json, "prints JSON");
  jobs->footer(
      examples({"baton jobs --config configs/service.yaml", "baton jobs --config configs/service.yaml --json"}));
  auto* status = add_client_command(app, "status", "print who is there and what everybody does", line.client);
  status->add_flag("--json", line.client.as_json, "prints JSON");
  status->footer(
      examples({"baton status --config configs/service.yaml", "baton status --config configs/service.yaml --json"}));
  auto* top = add_client_command(app, "top", "watch nodes, devices and jobs", line.client);
  top->footer(examples({"baton top --config configs/service.yaml"}));
  auto* certificates =
      app.add_subcommand("certificates", "make a cluster's authority and what its members need to let each other in");
  certificates->add_option("DIR", line.certificates.directory, "folder; what is there already stays")->required();
  certificates->add_option("--config", line.certificates.config, "the cluster's file: its nodes get certificates")
      ->type_name("FILE");
  certificates->add_option("--node", line.certificates.nodes, "a node that gets one; several times")->type_name("NAME");
  certificates->footer(examples(
      {"baton certificates secrets --config cluster.yaml", "baton certificates secrets --node west --node east"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    line.exit_code = code == 0 ? 0 : 2;
    return line;
  }
  if (*completions) {
    fmt::print("{}", completion_script(app, shell));
    line.exit_code = 0;
    return line;
  }
  if (*run) line.command = command_kind::run;
  if (*plan) line.command = command_kind::plan;
  if (*inspect) line.command = command_kind::inspect;
  if (*check) line.command = command_kind::check_config;
  if (*version) line.command = command_kind::version;
  if (line.bench.what != bench_options::kind::none) line.command = command_kind::bench;
  if (*coordinator) line.command = command_kind::coordinator;
  if (*submit) line.command = command_kind::submit;
  if (*wait) line.command = command_kind::wait;
  if (*cancel) line.command = command_kind::cancel;
  if (*jobs) line.command = command_kind::jobs;
  if (*status) line.command = command_kind::status;
  if (*top) line.command = command_kind::top;
  if (*submit) line.run.config = line.client.config;
  if (*certificates) line.command = command_kind::certificates;
  if (*node) line.command = command_kind::node;
  if (*worker) line.command = command_kind::worker;
  return line;
}

cluster_config configuration_of(const run_options& o) {
  auto config = load_cluster_config(o.config);
  auto& job = config.job;
  if (o.model) config.model.directory = *o.model;
  if (o.precision) {
    if (*o.precision != "bf16" && *o.precision != "fp32") {
      throw fault(fault_code::bad_input, "'" + *o.precision + "' is unknown; bf16 or fp32", "--precision");
    }
    config.model.precision = *o.precision == "bf16" ? element_type::bf16 : element_type::f32;
  }
  if (o.strategy) job.strategy = std::string(find_strategy(*o.strategy).name());
  if (o.ranks) job.ranks = *o.ranks;
  if (!o.block_tokens.empty()) {
    job.block_tokens = o.block_tokens;
    if (!o.ranks) job.ranks = static_cast<int>(o.block_tokens.size());
  } else if (o.ranks) {
    job.block_tokens.clear();
  }
  if (o.blocks && *o.blocks != "even" && *o.blocks != "balanced")
    throw fault(fault_code::bad_input, "'" + *o.blocks + "' is unknown; even or balanced", "--blocks");
  if (o.blocks && !o.block_tokens.empty())
    throw fault(fault_code::bad_input, "gives lengths, --blocks asks for others; keep one of the two",
                "--block-tokens");
  if (o.blocks) job.block_tokens.clear();
  const bool compresses =
      find_strategy(job.strategy).compresses() || (o.compare && find_strategy(*o.compare).compresses());
  const auto needs_blocks = [&](bool given, const char* option) {
    if (given && !compresses) throw fault(fault_code::bad_input, "means nothing to strategy " + job.strategy, option);
  };
  needs_blocks(o.anchor_tokens.has_value(), "--anchor-tokens");
  needs_blocks(o.passing_tokens.has_value(), "--passing-tokens");
  needs_blocks(o.compressor.has_value(), "--compressor");
  if (o.anchor_tokens) job.anchor_tokens = *o.anchor_tokens;
  if (o.passing_tokens) job.passing_tokens = *o.passing_tokens;
  if (o.compressor) {
    job.compressor.reset();
    if (*o.compressor != "auto") job.compressor = compressor_from(*o.compressor);
  }
  if (o.compressor_seed) job.compressor_seed = *o.compressor_seed;
  if (o.max_new_tokens) job.max_new_tokens = *o.max_new_tokens;
  if (o.temperature) job.sampling.temperature = *o.temperature;
  if (o.top_p) job.sampling.top_p = *o.top_p;
  if (o.seed) job.sampling.seed = *o.seed;
  if (o.threads) {
    if (*o.threads < 1 || *o.threads > 1024)
      throw fault(fault_code::bad_input, std::to_string(*o.threads) + "; between 1 and 1024", "--threads");
    for (auto& node : config.nodes) {
      for (auto& device : node.devices) {
        device.threads = *o.threads;
        device.cores.clear();
      }
    }
  }
  return config;
}

job_options job_of(const cluster_config& config, const run_options& o, const std::string& strategy) {
  auto job = config.job;
  const auto& how = find_strategy(strategy);
  job.strategy = std::string(how.name());
  // Ranks that an option asks for and no compared strategy could have meant are refused by the plan.
  const bool meant = !o.compare && (o.ranks || !o.block_tokens.empty());
  if ((o.strategy || o.compare) && !how.splits() && !meant) {
    job.ranks = 1;
    job.block_tokens.clear();
  }
  return job;
}

}  // namespace baton
