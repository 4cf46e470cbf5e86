#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "actors/actor_config.hpp"
#include "actors/cluster.hpp"
#include "actors/control_plane.hpp"
#include "runtime/process/child_process.hpp"

namespace baton::actors {

/// The coordinator in this process, listening on loopback, and a node agent for each node as a process of its own, which starts
/// its workers. Whatever happens, none of them outlives this object: those that do not end by themselves are killed.
class process_cluster final : public cluster {
 public:
  /// `check` is called while they start, and throws to give up. `program` is what the processes run: this program, unless told
  /// otherwise.
  process_cluster(const cluster_config& config, const checkpoint& model, const cluster_devices& devices,
                  std::span<const std::int64_t> arena_bytes, std::int64_t positions, const std::function<void()>& check,
                  const std::filesystem::path& program = this_program());
  ~process_cluster() override;

  [[nodiscard]] caf::actor_system& system() override { return *system_; }
  [[nodiscard]] const coordinator_actor& coordinator() const override { return coordinator_; }

 private:
  struct node_agent {
    std::string node;
    child_process process;
  };

  void start(const cluster_config& config, const checkpoint& model, std::size_t workers,
             const std::function<void()>& check, const std::filesystem::path& program, const std::string& description);
  void shut_down();

  const std::chrono::milliseconds patience_;  ///< with processes that are to end
  coordinator_port port_{nullptr};
  actor_config actor_config_;
  std::unique_ptr<caf::actor_system> system_;
  coordinator_actor coordinator_;
  std::vector<node_agent> agents_;
};

}  // namespace baton::actors
