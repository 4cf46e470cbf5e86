#include "actors/inspect_command.hpp"

#include <fstream>

#include <fmt/format.h>

#include "actors/job_output.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/model_report.hpp"

namespace baton {

int inspect_command(const inspect_options& options) {
  try {
    const auto report = inspect_model({options.directory, options.document_tokens, options.ranks});
    fmt::print("{}", describe(report));
    if (options.json) {
      std::ofstream file(*options.json);
      file << to_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
      if (!file.flush()) {
        throw fault(fault_code::bad_input, "cannot be written; is its folder there?",
                    "--json " + options.json->string());
      }
    }
    return report.can_run() ? 0 : 2;
  } catch (const fault& why) {
    return report(why, 2);
  }
}

}  // namespace baton
