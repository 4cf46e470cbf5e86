#pragma once

#include <chrono>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "runtime/cluster/messages.hpp"

namespace baton {

/// Finds out for the coordinator which relays this one reaches, straight and through others: each way is tried a few times, until somebody
/// has answered on it or the time is over. Bookkeeping only: no clock (`now` comes with the call), nothing is sent from here. Not
/// synchronized.
class path_probe {
 public:
  using time = std::chrono::steady_clock::time_point;

  /// A way that has not been answered on is tried again after this long.
  static constexpr std::chrono::milliseconds again{300};

  struct attempt {
    job_id job = 0;
    std::uint32_t round = 0;
    paths_probed::path way;
  };

  /// In place of what was asked before for the job.
  void begin(const probe_paths& asked, time now);
  void forget_job(job_id job) { asked_.erase(job); }
  void answered(job_id job, std::uint32_t round, const paths_probed::path& way);
  /// What is to be tried now.
  [[nodiscard]] std::vector<attempt> due(time now);
  /// What is known: all ways have been answered on, or the time is over.
  [[nodiscard]] std::vector<paths_probed> take_results(time now);

 private:
  struct question {
    std::uint32_t round = 0;
    time until;
    time next;
    std::set<paths_probed::path> open;
    std::set<paths_probed::path> reached;
  };
  std::map<job_id, question> asked_;
};

}  // namespace baton
