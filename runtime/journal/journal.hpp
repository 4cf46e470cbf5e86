#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/cluster/job_store.hpp"

struct sqlite3;

namespace baton {

/// What the coordinator must not forget, in a folder: `journal.sqlite` (write-ahead log, every commit synced) with submissions and
/// results, and `documents/HASH.ids`, the token ids of each job that has not ended. Exactly one process at a time has it open: a
/// lock sees to it, and should that be lost (a file system without locks, a lock file that somebody removed), what is committed
/// names the generation that commits, and throws `superseded` once there is a higher one. One thread.
///
/// Whatever is killed when: a job is in the table only if its document is whole on the disk; a document that no job needs is
/// removed at the next opening.
class journal final : public job_store {
 public:
  struct options {
    std::size_t ended_max = 1000;  ///< ended jobs that are remembered, the newest
    /// For tests: called after each step with its name.
    std::function<void(std::string_view)> after_step;
  };

  /// Makes the folder where there is none, and raises the generation. Throws fault(bad_input): it cannot be written, another
  /// process has it, or it is of another version; fault(device): SQLite's reason.
  explicit journal(const std::filesystem::path& folder) : journal(folder, options{}) {}
  journal(const std::filesystem::path& folder, options how);
  ~journal() override;
  journal(const journal&) = delete;
  journal& operator=(const journal&) = delete;

  [[nodiscard]] std::uint64_t generation() const override { return generation_; }
  job_id keep(const submit_job& asked, std::span<const std::int32_t> ids) override;
  [[nodiscard]] std::optional<stored_job> find(job_id id) override;
  [[nodiscard]] std::optional<stored_job> find(const std::string& request_id) override;
  [[nodiscard]] std::vector<std::int32_t> ids_of(job_id id) override;
  void ended(job_id id, const std::optional<job_started>& started, const client_update& end) override;
  [[nodiscard]] std::vector<stored_job> unfinished() override;
  [[nodiscard]] std::vector<job_summary> newest(std::size_t count_max) override;

 private:
  class statement;
  class folder_lock;
  struct close_database {
    void operator()(sqlite3* database) const;
  };

  void prepare_tables();
  void raise_generation();
  void remove_unneeded_documents();
  void forget_the_oldest();
  void expect_to_be_the_newest() const;
  void execute(const char* sql);
  [[nodiscard]] std::filesystem::path document_file(const std::string& hash) const;
  void write_document(const std::string& hash, std::span<const std::int32_t> ids) const;
  void done(std::string_view step) const;
  [[nodiscard]] std::vector<stored_job> all_of(statement& found) const;

  const std::filesystem::path folder_;
  const options options_;
  std::unique_ptr<folder_lock> lock_;
  std::unique_ptr<sqlite3, close_database> database_;
  std::uint64_t generation_ = 0;
};

}  // namespace baton
