#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/cluster/messages.hpp"

namespace baton {

/// A run of a job whose ranks have been told to compute: what the next coordinator needs to take it up from those who hold it.
struct begun_run {
  job_id run = 0;
  job_plan plan;                        ///< as it was begun; where the ranks are now is told by who holds them
  std::vector<std::uint32_t> attempts;  ///< of each rank, the newest

  bool operator==(const begun_run&) const = default;
};

/// A job as it is kept.
struct stored_job {
  job_id id = 0;
  submit_job asked;
  job_state state = job_state::queued;  ///< queued, also while it runs; finished, failed or cancelled
  std::optional<job_started> started;   ///< the plan that it ended with
  std::optional<client_update> end;     ///< job_finished or job_failed, once it has ended
  std::optional<begun_run> begun{};     ///< its newest run, once its ranks were to begin, until it has ended
};
job_summary summary_of(const stored_job& job);

/// Another coordinator has taken the store over: nothing that this one decides counts any more, and it must end.
class superseded final : public fault {
 public:
  superseded(const std::string& store, std::uint64_t by_generation);
};

/// Which jobs there are, and how those that have ended did. What is told to it is kept when the call returns, as safely as the store
/// keeps anything: the journal outlives the coordinator, `memory_store` does not. One thread.
class job_store {
 public:
  virtual ~job_store() = default;

  /// Counts the coordinator's starts; 0 where nothing outlives it.
  [[nodiscard]] virtual std::uint64_t generation() const = 0;
  /// Throws superseded; for what is decided without anything to be kept.
  virtual void expect_to_be_the_newest() const = 0;
  /// Keeps a new job, whose request id is not known yet, with document ++ query. Throws fault(out_of_memory | device): it is not kept; superseded.
  virtual job_id keep(const submit_job& asked, std::span<const std::int32_t> ids) = 0;
  [[nodiscard]] virtual std::optional<stored_job> find(job_id id) = 0;
  [[nodiscard]] virtual std::optional<stored_job> find(const std::string& request_id) = 0;
  /// Of a job that has not ended. Throws fault(corruption).
  [[nodiscard]] virtual std::vector<std::int32_t> ids_of(job_id id) = 0;
  /// Keeps that a run begins, or that attempts of its ranks were raised, before anybody acts on it. Throws as `ended`.
  virtual void began(job_id id, const begun_run& run) = 0;
  /// `end` is job_finished or job_failed. Throws fault(out_of_memory | device): it is not kept; superseded.
  virtual void ended(job_id id, const std::optional<job_started>& started, const client_update& end) = 0;
  /// Those that have not ended, oldest first.
  [[nodiscard]] virtual std::vector<stored_job> unfinished() = 0;
  /// Newest first.
  [[nodiscard]] virtual std::vector<job_summary> newest(std::size_t count_max) = 0;
};

/// Of a coordinator that takes its jobs with it: `baton run`, and tests.
class memory_store final : public job_store {
 public:
  /// Ended jobs that are remembered.
  static constexpr std::size_t ended_max = 64;

  [[nodiscard]] std::uint64_t generation() const override { return 0; }
  void expect_to_be_the_newest() const override {}
  job_id keep(const submit_job& asked, std::span<const std::int32_t> ids) override;
  [[nodiscard]] std::optional<stored_job> find(job_id id) override;
  [[nodiscard]] std::optional<stored_job> find(const std::string& request_id) override;
  [[nodiscard]] std::vector<std::int32_t> ids_of(job_id id) override;
  void began(job_id id, const begun_run& run) override { jobs_.at(id).job.begun = run; }
  void ended(job_id id, const std::optional<job_started>& started, const client_update& end) override;
  [[nodiscard]] std::vector<stored_job> unfinished() override;
  [[nodiscard]] std::vector<job_summary> newest(std::size_t count_max) override;

 private:
  struct kept {
    stored_job job;
    std::vector<std::int32_t> ids;
  };
  std::map<job_id, kept> jobs_;
  job_id last_ = 0;
};

/// How a job has ended: `end` is job_finished or job_failed.
job_state state_of(const client_update& end);

}  // namespace baton
