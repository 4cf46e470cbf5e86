#include "runtime/observe/model_report.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "runtime/decode/decode_pass.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/device/model_weights.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/model/families/family.hpp"
#include "runtime/model/prompt_format.hpp"
#include "runtime/model/tokenizer.hpp"
#include "runtime/observe/format.hpp"
#include "runtime/plan/gpu_sizes.hpp"

namespace baton {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::size_t reasons_max = 100;
constexpr std::int64_t question_tokens = 64;
constexpr std::int64_t document_tokens_default = 32768;

std::int64_t kv_bytes_per_token(const model_config& c, element_type type) {
  return std::int64_t{2} * c.layers * c.kv_heads * c.head_dim * bytes_of(type);
}

void add_weights(model_report& report, const checkpoint& model) {
  report.retaining_width = model.retaining_width();
  if (model.files() == nullptr) return;
  for (const auto& file : model.files()->files()) {
    ++report.files;
    for (const auto& tensor : file.tensors()) {
      report.file_bytes += static_cast<std::int64_t>(tensor.bytes.size());
      report.types[std::string(name_of(tensor.type))] +=
          static_cast<std::int64_t>(tensor.bytes.size()) * 8 / bits_of(tensor.type);
    }
  }
}

/// The text of the model's chat template; empty where it has none.
std::string chat_template_of(const std::filesystem::path& directory) {
  if (std::ifstream file(directory / "chat_template.jinja"); file)
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::ifstream file(directory / "tokenizer_config.json");
  const auto config = nlohmann::json::parse(file, nullptr, false);
  if (!config.is_object() || !config.contains("chat_template")) return {};
  // One text, or a list of named ones.
  const auto& found = config.at("chat_template");
  return found.is_string() ? found.get<std::string>() : found.dump();
}

void add_tokenizer(model_report& report) {
  try {
    const auto words = tokenizer::load(report.directory);
    report.tokenizer_file = words.source().filename().string();
    report.tokenizer_tokens = words.vocabulary_size();
    for (const auto& format : prompt_formats()) {
      try {
        make_prompt(words, format, "text", "text");
        report.prompts.push_back(format.name);
      } catch (const fault&) {
        // It asks for a special token that this tokenizer does not have.
      }
    }
    const auto* asked_for = format_of_chat_template(chat_template_of(report.directory));
    if (asked_for && std::ranges::find(report.prompts, asked_for->name) != report.prompts.end())
      report.prompt = asked_for->name;
  } catch (const fault& why) {
    report.tokenizer_problem = why.what();
  }
}

void add_memory(model_report& report, const report_request& request) {
  const model_config& config = report.config;
  job_options options;
  options.ranks = request.ranks;
  options.strategy = request.ranks == 1 ? "full" : "apb";
  const std::int64_t room = std::int64_t{config.max_positions} - question_tokens - options.max_new_tokens;
  report.document_tokens =
      request.document_tokens.value_or(std::max<std::int64_t>(std::min(document_tokens_default, room), 1));
  report.query_tokens = question_tokens;
  report.max_new_tokens = options.max_new_tokens;
  report.strategy = options.strategy;
  report.ranks = request.ranks;

  std::vector<device_view> views;
  const int devices = std::clamp(request.ranks, 1, 65536);  // what else was asked for is refused with the plan
  for (int rank = 0; rank < devices; ++rank) views.push_back({"", std::to_string(rank), ""});
  const auto plan = make_job_plan({.document_tokens = report.document_tokens,
                                   .query_tokens = report.query_tokens,
                                   .positions_max = config.max_positions,
                                   .has_retaining_heads = report.retaining_width > 0,
                                   .options = options},
                                  views);
  device_options device;
  device.positions_max = report.document_tokens + report.query_tokens + report.max_new_tokens;
  device.chunk_tokens_max = std::max(options.chunk_tokens, decode_pass::piece_tokens);
  const auto add = [&](const std::string& name, const buffer_sizes& sizes, bool is_estimate) {
    const auto weights = model_weights::bytes_needed(sizes, config, report.retaining_width);
    const auto fixed = device_context::fixed_bytes(sizes, config, report.retaining_width, device);
    const auto costs =
        costs_of(plan, {&sizes, &config, static_cast<std::int64_t>(weights), static_cast<std::int64_t>(fixed)});
    report.memory.push_back({name, sizes.activation_type(), is_estimate,
                             *std::ranges::max_element(costs.devices, {}, &device_memory_cost::total_bytes)});
  };
  for (const auto precision : {element_type::bf16, element_type::f32}) {
    add("cpu", *cpu::make_cpu_backend({.threads = 1, .activation = precision}), false);
  }
  add("gpu", gpu_sizes(), true);
}

std::string name_of(element_type type) { return type == element_type::bf16 ? "bf16" : "fp32"; }

std::string_view name_of(rope_scaling::kind kind) {
  constexpr std::array<std::string_view, 4> names{"default", "linear", "llama3", "yarn"};
  return names[static_cast<std::size_t>(kind)];
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string count_text(std::int64_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.2f} billion", value / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.1f} million", value / 1e6);
  return format_count(count);
}

std::string line(std::string_view label, const std::string& text) { return fmt::format("{:<17}{}\n", label, text); }

std::string rope_text(const model_config& c) {
  std::string text = fmt::format("RoPE base {}", c.rope_theta);
  const auto& s = c.scaling;
  if (s.type == rope_scaling::kind::none) return text + ", no scaling";
  text += fmt::format(", {} scaling by {}", name_of(s.type), s.factor);
  if (s.type != rope_scaling::kind::linear) {
    text += fmt::format(" from {} positions", format_count(s.original_max_positions));
  }
  return text;
}

std::string weights_text(const model_report& r) {
  std::vector<std::string> types;
  for (const auto& [name, count] : r.types) {
    types.push_back(r.types.size() == 1 ? name : fmt::format("{} {}", count_text(count), name));
  }
  return fmt::format("{}; {} file{}, {}", joined(types), r.files, r.files == 1 ? "" : "s", format_bytes(r.file_bytes));
}

std::string shape_text(const model_report& r) {
  const auto& c = r.config;
  const auto with = [](int value) { return value > 0 ? format_count(value) : std::string("?"); };
  std::string text;
  text += line("layers", fmt::format("{} of width {}, feed-forward {}", with(c.layers), with(c.hidden), with(c.ffn)));
  text += line("heads", fmt::format("{}, KV heads {}, of dimension {}{}", with(c.heads), with(c.kv_heads),
                                    with(c.head_dim), c.qkv_bias ? "; q, k and v have a bias" : ""));
  text +=
      line("vocabulary", fmt::format("{}, embeddings {}", with(c.vocabulary), c.tied_embeddings ? "tied" : "untied"));
  text += line("context", fmt::format("{} positions; {}", with(c.max_positions), rope_text(c)));
  if (c.layers > 0 && c.kv_heads > 0 && c.head_dim > 0) {
    text += line("KV of a token",
                 fmt::format("{} in bf16, {} in fp32", format_bytes(kv_bytes_per_token(c, element_type::bf16)),
                             format_bytes(kv_bytes_per_token(c, element_type::f32))));
  }
  return text;
}

std::string words_text(const model_report& r) {
  if (r.tokenizer_tokens == 0) return line("tokenizer", "none: " + printable(r.tokenizer_problem));
  return line("tokenizer", fmt::format("{}, {} tokens", r.tokenizer_file, format_count(r.tokenizer_tokens))) +
         line("prompt preset", r.prompt.empty() ? "not told by a chat template" : r.prompt + ", by its chat template") +
         line("presets that fit", r.prompts.empty() ? "none" : joined(r.prompts));
}

std::string memory_text(const model_report& r) {
  if (r.memory.empty()) return {};
  std::string text = fmt::format(
      "\nmemory of the largest of {} rank{} ({}), each on a device of its own:\n"
      "{} document, {} query and {} new tokens\n\n",
      r.ranks, r.ranks == 1 ? "" : "s", r.strategy, format_count(r.document_tokens), r.query_tokens, r.max_new_tokens);
  const auto row = [&](std::string_view weights, std::string_view kv, std::string_view workspace,
                       std::string_view scratch, std::string_view total, std::string_view device) {
    text += fmt::format("{:>10} {:>10} {:>10} {:>10} {:>10}  {}\n", weights, kv, workspace, scratch, total, device);
  };
  row("weights", "KV", "workspace", "scratch", "total", "device");
  for (const auto& m : r.memory) {
    row(format_bytes(m.cost.weights_bytes), format_bytes(m.cost.kv_bytes), format_bytes(m.cost.workspace_bytes),
        format_bytes(m.cost.fixed_bytes), format_bytes(m.cost.total_bytes()),
        fmt::format("{}, {}{}", m.device, name_of(m.precision), m.is_estimate ? " (estimate)" : ""));
  }
  return text;
}

json to_json(const rank_memory& m) {
  return {{"device", m.device},
          {"precision", name_of(m.precision)},
          {"is_estimate", m.is_estimate},
          {"weights_bytes", m.cost.weights_bytes},
          {"kv_bytes", m.cost.kv_bytes},
          {"workspace_bytes", m.cost.workspace_bytes},
          {"fixed_bytes", m.cost.fixed_bytes},
          {"total_bytes", m.cost.total_bytes()}};
}

}  // namespace

model_report inspect_model(const report_request& request) {
  model_report report;
  report.directory = request.directory;
  std::error_code ignored;
  report.is_shape = fs::is_regular_file(request.directory, ignored);
  const fs::path config_file = report.is_shape ? request.directory : request.directory / "config.json";
  if (!report.is_shape) parse_config_file(config_file);
  refusal_list refusals(reasons_max);
  const auto model = checkpoint::open_or_refuse(request.directory, report.config, refusals);
  report.refusals = refusals.reasons();
  if (const auto* family = find_model_family(report.config.family)) report.models = family->models;
  report.parameters = parameters_of(report.config);
  if (model) add_weights(report, *model);
  if (report.is_shape) {
    report.tokenizer_problem = "a shape has no words; give token ids";
  } else {
    add_tokenizer(report);
  }
  const bool config_is_right = std::ranges::none_of(
      report.refusals, [&](const fault& why) { return why.where().starts_with(config_file.string()); });
  if (config_is_right) add_memory(report, request);
  return report;
}

std::string describe(const model_report& r) {
  std::string text = line("model", printable(r.directory.string()));
  const std::string family = r.config.family.empty() ? "?" : printable(r.config.family);
  text += line("family", family + (r.models.empty() ? "" : ": " + r.models));
  text += line("parameters", r.parameters > 0 ? count_text(r.parameters) : "?");
  if (r.is_shape) {
    text += line("weights", "none: a shape, whose weights are drawn when it is loaded");
  } else if (r.files > 0) {
    text += line("weights", weights_text(r));
  } else if (!r.config.dtype.empty()) {
    text += line("weights", printable(r.config.dtype) + " according to config.json");
  }
  text += shape_text(r);
  if (r.files > 0 || (r.is_shape && r.can_run())) {
    text +=
        line("retaining heads", r.retaining_width > 0 ? fmt::format("yes, of width {}", format_count(r.retaining_width))
                                                      : "none; apb chooses by query_key");
  }
  text += words_text(r);
  text += memory_text(r);
  if (r.can_run()) return text + "\nBaton can run it.\n";
  text += "\nBaton cannot run it:\n";
  for (const auto& why : r.refusals) text += fmt::format("  {}\n", printable(why.what()));
  if (r.refusals.size() == reasons_max) text += "  and perhaps more\n";
  return text;
}

json to_json(const model_report& r) {
  const auto& c = r.config;
  json refusals = json::array();
  for (const auto& why : r.refusals) refusals.push_back({{"where", why.where()}, {"reason", why.reason()}});
  json memory = json::array();
  for (const auto& m : r.memory) memory.push_back(to_json(m));
  return {{"directory", r.directory.string()},
          {"is_shape", r.is_shape},
          {"can_run", r.can_run()},
          {"refusals", std::move(refusals)},
          {"family", c.family},
          {"models", r.models},
          {"parameters", r.parameters},
          {"weights", {{"files", r.files}, {"bytes", r.file_bytes}, {"types", r.types}, {"dtype", c.dtype}}},
          {"layers", c.layers},
          {"hidden", c.hidden},
          {"ffn", c.ffn},
          {"heads", c.heads},
          {"kv_heads", c.kv_heads},
          {"head_dim", c.head_dim},
          {"vocabulary", c.vocabulary},
          {"tied_embeddings", c.tied_embeddings},
          {"qkv_bias", c.qkv_bias},
          {"context", c.max_positions},
          {"rope",
           {{"theta", c.rope_theta},
            {"scaling", name_of(c.scaling.type)},
            {"factor", c.scaling.factor},
            {"original_max_positions", c.scaling.original_max_positions},
            {"amplitude", c.scaling.amplitude}}},
          {"kv_bytes_per_token",
           {{"bf16", kv_bytes_per_token(c, element_type::bf16)}, {"fp32", kv_bytes_per_token(c, element_type::f32)}}},
          {"retaining_width", r.retaining_width},
          {"tokenizer", {{"file", r.tokenizer_file}, {"tokens", r.tokenizer_tokens}, {"problem", r.tokenizer_problem}}},
          {"prompts", r.prompts},
          {"prompt", r.prompt},
          {"job",
           {{"strategy", r.strategy},
            {"ranks", r.ranks},
            {"document_tokens", r.document_tokens},
            {"query_tokens", r.query_tokens},
            {"max_new_tokens", r.max_new_tokens}}},
          {"memory", std::move(memory)}};
}

}  // namespace baton
